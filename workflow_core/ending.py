"""How an execution ends other than by its handler's return: for good, or with a panic and perhaps a restart to come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pydantic_core

from workflow_core.clock import to_epoch_ms
from workflow_core.database.store import ABANDONED, UNFINISHED_STEPS
from workflow_core.errors import PanicError, WorkflowCoreError, error_text
from workflow_core.events import ExecutionFailed, ExecutionPanicked
from workflow_core.failures import error_info, error_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflow_core.database.store import StepRecord
    from workflow_core.execution import Execution

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["abandon_steps", "ended_by", "fail"]


async def ended_by(execution: Execution, error: BaseException) -> BaseException:
    """Record what an error that the handler raised makes of its execution: a failure, or a panic.

    Returns:
        The error that ended the run.
    """
    error = _leading(error)
    if execution.extensions.is_fatal(error):
        await fail(execution, error)
        return error
    indicator = execution.extensions.panic_indicator(error)
    if indicator is None and isinstance(error, WorkflowCoreError):
        await fail(execution, error)
        return error
    if isinstance(error, PanicError):
        panic = error
    else:
        panic = PanicError(
            f"{execution}: it panicked ({indicator or 'unexpected error'}): {error_name(error)}: {error_text(error)}",
            None,
            execution.current_attempt(),
            error,
            indicator or "unexpected error",
        )
        panic.__cause__ = error
    await _panic(execution, panic)
    return panic


def _leading(error: BaseException) -> BaseException:
    """Return the first of a group's errors if all of them are the engine's own, as a task group raises them."""
    while isinstance(error, BaseExceptionGroup):
        others = error.split(WorkflowCoreError)[1]
        if others is not None:
            break
        error = error.exceptions[0]
    return error


async def fail(execution: Execution, error: BaseException) -> None:
    """Record that the execution failed for good."""
    info = error_info(error, execution.codec)
    seq, at = execution.next_seq(), execution.now()
    error_data = info.model_dump_json()
    await execution.store.execution_failed(execution.lease, error_data, str(info), seq, at)
    execution.status, execution.record.completed_at, execution.record.error_data = "failed", at, error_data
    abandon_steps(execution.steps)
    if execution.watched:
        await execution.emit(ExecutionFailed(info.type, info.message), seq, at)


async def _panic(execution: Execution, panic: PanicError) -> None:
    info = error_info(panic, execution.codec)
    config = execution.panic_config
    seq, at = execution.next_seq(), execution.now()
    restarts_left = execution.restart_attempt <= config.max_restart_attempts
    if config.enable_auto_restart and not restarts_left:
        execution.release_seq(seq)
        await fail(execution, panic)
        return
    delay = config.restart_delay_ms if config.enable_auto_restart else None
    restart_at = None if delay is None else to_epoch_ms(at) + delay
    event = ExecutionPanicked(info.indicator, info.type, info.message, info.step_id, delay)
    data = pydantic_core.to_json(event.named_fields()).decode()
    error_data = info.model_dump_json()
    await execution.store.execution_panicked(execution.lease, error_data, str(info), restart_at, data, seq, at)
    execution.status, execution.record.restart_at, execution.record.error_data = "panicked", restart_at, error_data
    if execution.watched:
        await execution.emit(event, seq, at)


def abandon_steps(steps: Mapping[str, StepRecord]) -> bool:
    """Count the steps that were begun and not finished as failed; tell whether there were any."""
    unfinished = [step for step in steps.values() if step.status in UNFINISHED_STEPS]
    for step in unfinished:
        step.status, step.error_message = "failed", step.error_message or ABANDONED
    return bool(unfinished)
