"""Sleeping durably, and skipping a step: what an execution does without an attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workflow_core.clock import to_epoch_ms
from workflow_core.database.cancellation import late_cancellations, meet_late_cancellation
from workflow_core.database.store import StepRecord
from workflow_core.errors import StepConflictError
from workflow_core.events import SleepCompleted, SleepStarted, StepSkipped

if TYPE_CHECKING:
    from workflow_core.execution import Execution

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["run_skip", "run_sleep"]


async def run_skip(execution: Execution, step_id: str, result: object) -> Any:  # noqa: ANN401 - the step's result
    """Record that a step is skipped, unless it has been recorded already; return what is recorded.

    Args:
        execution: The execution that has the step.
        step_id: Names the step.
        result: What the step returns instead.
    """
    execution.check_alive()
    record = execution.steps.get(step_id)
    if record is not None and record.kind != "step":
        raise StepConflictError(f'{execution}: "{step_id}" is the id of a sleep already; give the step another id')
    what = f'the result of step "{step_id}" ({execution})'
    if record is not None and record.status in {"completed", "skipped"}:
        return execution.codec.decode(record.result_data, None, what)
    if record is not None and record.attempt > 0:
        raise StepConflictError(f'{execution}: step "{step_id}" has begun already, so it cannot be skipped any more')
    execution.begin_activity(step_id)
    try:
        text, value = execution.codec.encode(result, what)
        record = execution.steps.setdefault(step_id, StepRecord(step_id))
        seq, at = execution.next_seq(), execution.now()
        await execution.store.step_skipped(execution.lease, record, text, seq, at)
        record.status, record.result_data, record.completed_at = "skipped", text, at
        record.completed_seq, record.stored = seq, True
        if execution.watched:
            await execution.emit(StepSkipped(step_id, record.attempt), seq, at)
        if late_cancellations:
            await meet_late_cancellation()
        return value
    finally:
        execution.end_activity(step_id)


async def run_sleep(execution: Execution, step_id: str, duration_ms: int) -> None:
    """Sleep durably: record the wake time once, wait for it, record that it has come.

    Args:
        execution: The execution that sleeps.
        step_id: Names the sleep.
        duration_ms: Milliseconds.
    """
    execution.check_alive()
    if execution.codec.secrets.known:
        execution.codec.refuse_secrets(step_id, "the id of a sleep")
    record = execution.steps.get(step_id)
    if record is not None:
        if record.kind != "sleep":
            raise StepConflictError(f'{execution}: "{step_id}" is the id of a step already; give the sleep another id')
        if record.status == "completed":
            return
    execution.begin_activity(step_id)
    try:
        execution.sleepers += 1
        try:
            if record is None:
                record = await _begin_sleep(execution, step_id, duration_ms)
            if record.wake_time is not None:
                await execution.wait_until(record.wake_time, f'sleep "{step_id}"')
        finally:
            execution.sleepers -= 1
        seq, at = execution.next_seq(), execution.now()
        status = execution.status_change()
        await execution.store.sleep_completed(execution.lease, record, seq, at, status)
        execution.status_changed(status)
        record.status, record.completed_at, record.completed_seq = "completed", at, seq
        if execution.watched:
            await execution.emit(SleepCompleted(step_id), seq, at)
        if late_cancellations:
            await meet_late_cancellation()
    finally:
        execution.end_activity(step_id)


async def _begin_sleep(execution: Execution, step_id: str, duration_ms: int) -> StepRecord:
    record = StepRecord(step_id, kind="sleep", status="sleeping", attempt=1, duration_ms=duration_ms)
    seq, at = execution.next_seq(), execution.now()
    wake_time = to_epoch_ms(at) + duration_ms
    status = execution.status_change()
    await execution.store.sleep_started(execution.lease, record, duration_ms, wake_time, seq, at, status)
    execution.status_changed(status)
    record.wake_time, record.started_at, record.started_seq, record.stored = wake_time, at, seq, True
    execution.steps[step_id] = record
    if execution.watched:
        await execution.emit(SleepStarted(step_id, duration_ms), seq, at)
    return record
