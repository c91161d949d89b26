"""The durable points of steps and sleeps: one statement each, and one more for a circuit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workflow_core.database.parts import stored_json
from workflow_core.database.postgres.circuits import CircuitPoints, with_circuit
from workflow_core.database.postgres.groups import Kind
from workflow_core.database.postgres.points import fence, plain
from workflow_core.database.store import CIRCUIT_IS_OPEN

if TYPE_CHECKING:
    from datetime import datetime

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.database.store import CircuitChange, ErrorRecord, Lease, StepRecord
    from workflow_core.models import ExecutionStatus

__all__ = ["StepPoints"]

_THIS: Final = "execution_id = %(id)s AND step_id = %(step)s"
_CHANGED: Final = "revision = revision + 1, updated_at = %(at)s"

_BEGUN: Final = (
    "written AS (INSERT INTO {s}.steps (execution_id, step_id, status, started_at, attempt, started_seq, created_at,"
    " updated_at) SELECT id, %(step)s, 'running', %(at)s, %(attempt)s, %(seq)s, %(at)s, %(at)s FROM fence RETURNING 1)"
)
_BEGUN_TOGETHER: Final = Kind(
    {"id": "text", "step": "text", "token": "bigint", "attempt": "bigint", "seq": "bigint", "at": "timestamptz"},
    2,
    "SHARE",
    "INSERT INTO {s}.steps (execution_id, step_id, status, started_at, attempt, started_seq, created_at, updated_at)"
    " SELECT id, step, 'running', at, attempt, seq, at, at FROM fence ON CONFLICT DO NOTHING"
    " RETURNING execution_id, step_id",
)
_INTERRUPTED: Final = (
    "old AS (SELECT st.attempt, st.started_at, st.started_seq FROM {s}.steps st JOIN fence"
    " ON st.execution_id = fence.id WHERE st.step_id = %(step)s AND st.attempt < %(attempt)s FOR NO KEY UPDATE OF st),"
    " interrupted AS (SELECT * FROM old WHERE %(interrupted_seq)s::bigint IS NOT NULL),"
    " kept AS (INSERT INTO {s}.event_log (execution_id, seq, type, step_id, attempt, at)"
    " SELECT %(id)s, started_seq, 'StepStarted', %(step)s, attempt, started_at FROM interrupted"
    " WHERE started_seq IS NOT NULL),"
    " told AS (INSERT INTO {s}.event_log (execution_id, seq, type, step_id, attempt, at)"
    " SELECT %(id)s, %(interrupted_seq)s::bigint, 'StepInterrupted', %(step)s, attempt, %(at)s FROM interrupted),"
)
"""The step before its next attempt, in ``old``, and what the history tells of one that was cut off.

What changes the step has to read ``old`` as well: a row that the same statement has changed already cannot be locked.
"""

_BEGUN_AGAIN: Final = (
    f"{_INTERRUPTED}"
    " written AS (UPDATE {s}.steps SET status = 'running', attempt = %(attempt)s, started_at = %(at)s,"
    f" started_seq = %(seq)s, next_attempt_at = NULL, error_message = NULL, {_CHANGED}"
    f" FROM old WHERE {_THIS} RETURNING 1)"
)
_IS_BEGUN: Final = (
    f"SELECT 1 FROM {{s}}.steps WHERE {_THIS} AND attempt = %(attempt)s AND started_seq = %(seq)s AND kind = 'step'"
)

_COMPLETED: Final = (
    "UPDATE {s}.steps st SET status = 'completed', completed_at = %(at)s, result_data = %(result)s::text,"
    " handled_by = %(handled_by)s::text, completed_seq = %(seq)s, error_message = NULL,"
    " revision = st.revision + 1, updated_at = %(at)s"
)
_COMPLETED_ALONE: Final = (
    f"written AS ({_COMPLETED} FROM fence WHERE st.execution_id = fence.id AND st.step_id = %(step)s"
    " AND st.status <> 'completed' RETURNING 1)"
)
_COMPLETED_TOGETHER: Final = Kind(
    {
        "id": "text",
        "step": "text",
        "token": "bigint",
        "result": "text",
        "handled_by": "text",
        "seq": "bigint",
        "at": "timestamptz",
    },
    2,
    "SHARE",
    "UPDATE {s}.steps st SET status = 'completed', completed_at = fence.at, result_data = fence.result,"
    " handled_by = fence.handled_by, completed_seq = fence.seq, error_message = NULL, revision = st.revision + 1,"
    " updated_at = fence.at FROM fence WHERE st.execution_id = fence.id AND st.step_id = fence.step"
    " AND st.status <> 'completed' RETURNING st.execution_id, st.step_id",
)
_COMPLETED_WITH_CIRCUIT: Final = (
    "gate AS (SELECT st.execution_id AS id FROM {s}.steps st JOIN fence ON st.execution_id = fence.id"
    " WHERE st.step_id = %(step)s AND st.status <> 'completed' FOR NO KEY UPDATE OF st),"
    f" {with_circuit('gate')},"
    f" written AS ({_COMPLETED} FROM circuit WHERE st.execution_id = %(id)s AND st.step_id = %(step)s RETURNING 1)"
)
_IS_COMPLETED: Final = f"SELECT 1 FROM {{s}}.steps WHERE {_THIS} AND status = 'completed' AND completed_seq = %(seq)s"

_FAILED_ATTEMPT: Final = (
    "told AS (INSERT INTO {s}.event_log (execution_id, seq, type, step_id, attempt, at, data)"
    " SELECT %(id)s, %(seq)s, 'StepFailed', %(step)s, %(attempt)s, %(at)s, %(data)s FROM {gate}),"
    " kept AS (INSERT INTO {s}.event_log (execution_id, seq, type, step_id, attempt, at)"
    " SELECT execution_id, started_seq, 'StepStarted', step_id, attempt, started_at FROM {s}.steps, {gate}"
    f" WHERE {_THIS} AND started_seq IS NOT NULL AND kind = 'step'),"
    " error AS (INSERT INTO {s}.step_errors (execution_id, step_id, error_type, error_message, error_stack, error_data,"
    " attempt, timestamp) SELECT %(id)s, %(step)s, %(error_type)s, %(error_message)s, %(error_stack)s::text,"
    " %(error_data)s::text, %(attempt)s, %(timestamp)s FROM {gate}),"
    " updated AS (UPDATE {s}.steps SET status = 'running', attempt = %(attempt)s, started_seq = NULL,"
    f" error_message = %(error_message)s, {_CHANGED} FROM {{gate}} WHERE {_THIS}),"
    " written AS (SELECT 1 FROM {gate})"
)
_FAILED_ALONE: Final = _FAILED_ATTEMPT.replace("{gate}", "fence")
_FAILED_WITH_CIRCUIT: Final = f"{with_circuit('fence')}, " + _FAILED_ATTEMPT.replace("{gate}", "circuit")
_IS_TOLD: Final = (
    "SELECT 1 FROM {s}.event_log WHERE execution_id = %(id)s AND seq = %(seq)s AND type = %(type)s"
    " AND step_id = %(step)s AND attempt = %(attempt)s"
)

_RETRYING: Final = (
    "told AS (INSERT INTO {s}.event_log (execution_id, seq, type, step_id, attempt, at, data)"
    " SELECT id, %(seq)s, %(type)s, %(step)s, %(attempt)s, %(at)s, %(data)s FROM fence),"
    f" updated AS (UPDATE {{s}}.steps SET status = 'retrying', next_attempt_at = %(next_attempt_at)s, {_CHANGED}"
    f" FROM fence WHERE {_THIS}), written AS (SELECT 1 FROM fence)"
)

_FAILED: Final = (
    "written AS (UPDATE {s}.steps SET status = 'failed', completed_at = %(at)s, error_message = %(error_message)s,"
    f" next_attempt_at = NULL, {_CHANGED} FROM fence WHERE {_THIS} AND status <> 'failed' RETURNING 1),"
    " error AS (INSERT INTO {s}.step_errors (execution_id, step_id, error_type, error_message, error_stack, error_data,"
    " attempt, timestamp) SELECT %(id)s, %(step)s, %(error_type)s, %(error_message)s, %(error_stack)s::text,"
    " %(error_data)s::text, %(attempt)s, %(timestamp)s FROM written WHERE %(is_new)s)"
)
_IS_FAILED: Final = f"SELECT 1 FROM {{s}}.steps WHERE {_THIS} AND status = 'failed' AND completed_at = %(at)s"

_REFUSED: Final = (
    f"{_INTERRUPTED}"
    " written AS (INSERT INTO {s}.steps AS st (execution_id, step_id, status, attempt, error_message, created_at,"
    " updated_at) SELECT id, %(step)s, 'pending', %(attempt)s, %(why)s, %(at)s, %(at)s FROM fence,"
    " (SELECT count(*) FROM old) AS is_read"
    " ON CONFLICT (execution_id, step_id) DO UPDATE SET status = 'pending', attempt = %(attempt)s,"
    " error_message = %(why)s, started_seq = NULL, next_attempt_at = NULL, revision = st.revision + 1,"
    " updated_at = %(at)s"
    " WHERE st.attempt < %(attempt)s RETURNING 1)"
)
_IS_REFUSED: Final = f"SELECT 1 FROM {{s}}.steps WHERE {_THIS} AND attempt = %(attempt)s AND status = 'pending'"

_SKIPPED: Final = (
    "written AS (INSERT INTO {s}.steps AS st (execution_id, step_id, status, attempt, completed_at, result_data,"
    " completed_seq, created_at, updated_at) SELECT id, %(step)s, 'skipped', %(attempt)s, %(at)s, %(result)s::text,"
    " %(seq)s, %(at)s, %(at)s FROM fence ON CONFLICT (execution_id, step_id) DO UPDATE SET status = 'skipped',"
    " completed_at = %(at)s, result_data = %(result)s::text, error_message = NULL, completed_seq = %(seq)s,"
    " revision = st.revision + 1, updated_at = %(at)s WHERE st.status <> 'skipped' RETURNING 1)"
)
_IS_SKIPPED: Final = f"SELECT 1 FROM {{s}}.steps WHERE {_THIS} AND status = 'skipped' AND completed_seq = %(seq)s"

_SLEEPING: Final = (
    "written AS (INSERT INTO {s}.steps (execution_id, step_id, kind, status, started_at, wake_time, duration_ms,"
    " started_seq, created_at, updated_at) SELECT id, %(step)s, 'sleep', 'sleeping', %(at)s, %(wake_time)s,"
    " %(duration_ms)s, %(seq)s, %(at)s, %(at)s FROM fence RETURNING 1)"
)
_IS_SLEEPING: Final = f"SELECT 1 FROM {{s}}.steps WHERE {_THIS} AND kind = 'sleep' AND started_seq = %(seq)s"

_AWAKE: Final = (
    "written AS (UPDATE {s}.steps SET status = 'completed', completed_at = %(at)s, completed_seq = %(seq)s,"
    f" {_CHANGED} FROM fence WHERE {_THIS} AND status <> 'completed' RETURNING 1)"
)


class StepPoints(CircuitPoints):
    """The durable points of steps and sleeps; see `workflow_core.database.store.WorkflowStore`."""

    async def step_started(
        self, lease: Lease, step: StepRecord, attempt: int, seq: int, at: datetime, status: ExecutionStatus | None
    ) -> None:
        """Record that an attempt begins."""
        values = {
            "step": step.step_id,
            "attempt": attempt,
            "seq": seq + step.was_cut_off,
            "at": at,
            "interrupted_seq": seq if step.was_cut_off else None,
            "status": status,
        }
        sql = fence(_BEGUN_AGAIN if step.stored else _BEGUN, status)
        if step.stored or status is not None:
            await self._write(lease, sql, values, _IS_BEGUN)
            return
        row = (lease.execution_id, step.step_id, lease.fencing_token, attempt, seq, at)
        await self._groups.write(_BEGUN_TOGETHER, row, lambda: self._write_now(lease, sql, values, _IS_BEGUN))

    async def step_completed(
        self,
        lease: Lease,
        step: StepRecord,
        result_data: str | None,
        handled_by: str | None,
        seq: int,
        at: datetime,
        status: ExecutionStatus | None,
        circuit: CircuitChange | None,
    ) -> tuple[CircuitState, CircuitState] | None:
        """Record a step's result; return the circuit before and after, if there is one."""
        values = {
            "step": step.step_id,
            "at": at,
            "result": result_data,
            "handled_by": None if handled_by is None else plain(handled_by),
            "seq": seq,
            "status": status,
        }
        if circuit is None:
            sql = fence(_COMPLETED_ALONE, status)
            if status is not None:
                await self._write(lease, sql, values, _IS_COMPLETED)
                return None
            row = (
                lease.execution_id,
                step.step_id,
                lease.fencing_token,
                result_data,
                values["handled_by"],
                seq,
                at,
            )
            await self._groups.write(
                _COMPLETED_TOGETHER, row, lambda: self._write_now(lease, sql, values, _IS_COMPLETED)
            )
            return None
        return await self._write_with_circuit(
            lease, (_COMPLETED_ALONE, _COMPLETED_WITH_CIRCUIT), values, _IS_COMPLETED, circuit
        )

    async def step_attempt_failed(
        self,
        lease: Lease,
        step: StepRecord,
        error: ErrorRecord,
        seq: int,
        at: datetime,
        status: ExecutionStatus | None,
        circuit: CircuitChange | None,
    ) -> tuple[CircuitState, CircuitState] | None:
        """Record that an attempt raised an error, and count it on the circuit."""
        values = {
            **_error_values(error),
            "step": step.step_id,
            "type": "StepFailed",
            "data": stored_json(error=error.error_type, message=error.error_message),
            "seq": seq,
            "at": at,
            "status": status,
        }
        if circuit is None:
            await self._write(lease, fence(_FAILED_ALONE, status), values, _IS_TOLD)
            return None
        return await self._write_with_circuit(lease, (_FAILED_ALONE, _FAILED_WITH_CIRCUIT), values, _IS_TOLD, circuit)

    async def step_retrying(
        self, lease: Lease, step: StepRecord, next_attempt_at: int, backoff_ms: int, seq: int, at: datetime
    ) -> None:
        """Record when the next attempt is due."""
        values = {
            "step": step.step_id,
            "attempt": step.attempt,
            "type": "StepRetrying",
            "data": stored_json(backoff_ms=backoff_ms),
            "next_attempt_at": next_attempt_at,
            "seq": seq,
            "at": at,
        }
        await self._write(lease, fence(_RETRYING), values, _IS_TOLD)

    async def step_failed(self, lease: Lease, step: StepRecord, error: ErrorRecord, is_new: bool, at: datetime) -> None:
        """Record that a step failed for good."""
        values = {**_error_values(error), "step": step.step_id, "is_new": is_new, "at": at}
        await self._write(lease, fence(_FAILED), values, _IS_FAILED)

    async def step_refused(
        self, lease: Lease, step: StepRecord, attempt: int, interrupted_seq: int | None, at: datetime
    ) -> None:
        """Record that a step's circuit is open and its ``on_open`` handler begins."""
        values = {
            "step": step.step_id,
            "attempt": attempt,
            "interrupted_seq": interrupted_seq,
            "why": CIRCUIT_IS_OPEN,
            "at": at,
        }
        await self._write(lease, fence(_REFUSED), values, _IS_REFUSED)

    async def step_skipped(
        self, lease: Lease, step: StepRecord, result_data: str | None, seq: int, at: datetime
    ) -> None:
        """Record that a step is skipped, with the value that ``on_open`` or the workflow supplied."""
        values = {"step": step.step_id, "attempt": step.attempt, "result": result_data, "seq": seq, "at": at}
        await self._write(lease, fence(_SKIPPED), values, _IS_SKIPPED)

    async def sleep_started(
        self,
        lease: Lease,
        step: StepRecord,
        duration_ms: int,
        wake_time: int,
        seq: int,
        at: datetime,
        status: ExecutionStatus | None,
    ) -> None:
        """Record a durable sleep and when it ends."""
        values = {
            "step": step.step_id,
            "duration_ms": duration_ms,
            "wake_time": wake_time,
            "seq": seq,
            "at": at,
            "status": status,
        }
        await self._write(lease, fence(_SLEEPING, status), values, _IS_SLEEPING)

    async def sleep_completed(
        self, lease: Lease, step: StepRecord, seq: int, at: datetime, status: ExecutionStatus | None
    ) -> None:
        """Record that a durable sleep is over."""
        values = {"step": step.step_id, "seq": seq, "at": at, "status": status}
        await self._write(lease, fence(_AWAKE, status), values, _IS_COMPLETED)


def _error_values(error: ErrorRecord) -> dict[str, object]:
    return {
        "error_type": plain(error.error_type),
        "error_message": plain(error.error_message),
        "error_stack": None if error.error_stack is None else plain(error.error_stack),
        "error_data": error.error_data,
        "attempt": error.attempt,
        "timestamp": error.timestamp,
    }
