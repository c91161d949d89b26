"""The durable points of executions.

Beginning and ending are one statement. What takes an execution over, or away from its owner, is a transaction of two,
sent in two parts: the first changes the row, and so waits for everybody who writes in the execution at this moment; the
second sees all that they wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pydantic_core

from workflow_core.database.parts import BEGINS_AGAIN, SKIPPED_UNTRIED, stored_json
from workflow_core.database.postgres.groups import Kind
from workflow_core.database.postgres.owners import OwnerPoints, owner_values
from workflow_core.database.postgres.points import CHANGES, LAST_AT, LAST_SEQ, plain, utc
from workflow_core.database.postgres.reading import EXECUTION_COLUMNS, execution_record
from workflow_core.database.store import ABANDONED, CANCELLED, NOBODY, HistoryEnd, Lease

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from workflow_core.database.postgres.connections import Connection
    from workflow_core.database.store import ExecutionRecord, NewExecution
    from workflow_core.ownership import Owner

__all__ = ["DEFINITION", "IS_RELEASED", "ExecutionPoints", "new_values"]

DEFINITION: Final = (
    "definition AS (INSERT INTO {s}.definitions (revision, document) VALUES (%(revision)s, %(document)s)"
    " ON CONFLICT (revision) DO NOTHING), "
)
_STARTED: Final = (
    "written AS (INSERT INTO {s}.executions (id, workflow_name, status, started_at, input_data, retry_config,"
    " panic_config, deadline_at, owner_id, created_at, updated_at, definition_revision, fencing_token)"
    " VALUES (%(id)s, %(workflow)s, 'running', %(at)s, %(input)s::text, %(retry_config)s, %(panic_config)s,"
    " %(deadline_at)s::bigint, %(owner)s, %(at)s, %(at)s, %(revision)s::text, %(token)s)"
    " ON CONFLICT (id) DO NOTHING RETURNING 1)"
    f" SELECT (SELECT count(*) FROM written), e.revision, {EXECUTION_COLUMNS}"
    " FROM (SELECT 1) AS one LEFT JOIN {s}.executions e ON e.id = %(id)s"
)
_STARTED_TOGETHER: Final = Kind(
    {
        "id": "text",
        "workflow": "text",
        "at": "timestamptz",
        "input": "text",
        "retry_config": "text",
        "panic_config": "text",
        "deadline_at": "bigint",
        "owner": "text",
        "revision": "text",
        "token": "bigint",
    },
    1,
    None,
    "INSERT INTO {s}.executions (id, workflow_name, status, started_at, input_data, retry_config, panic_config,"
    " deadline_at, owner_id, created_at, updated_at, definition_revision, fencing_token) SELECT id, workflow,"
    " 'running', at, input, retry_config, panic_config, deadline_at, owner, at, at, revision, token FROM fence"
    " ON CONFLICT DO NOTHING RETURNING id",
)

_WRITTEN: Final = "SELECT (SELECT count(*) FROM written), (SELECT count(*) FROM written)"
_ABANDONED: Final = (
    "abandoned AS (UPDATE {s}.steps SET status = 'failed', error_message = coalesce(error_message, %(abandoned)s),"
    " next_attempt_at = NULL, revision = revision + 1, updated_at = %(at)s FROM written"
    " WHERE execution_id = %(id)s AND status IN ('pending', 'running', 'retrying', 'sleeping'))"
)
_TOLD: Final = (
    "told AS (INSERT INTO {s}.event_log (execution_id, seq, type, at, data)"
    " SELECT %(id)s, %(seq)s, %(type)s, %(at)s, %(data)s FROM written)"
)


def _changed(assignments: str, condition: str = "TRUE") -> str:
    return (
        f"written AS (UPDATE {{s}}.executions SET {assignments}, revision = revision + 1, updated_at = %(at)s"
        f" WHERE id = %(id)s AND fencing_token = %(token)s AND {condition} RETURNING id)"
    )


_COMPLETED: Final = _changed(
    "status = 'completed', completed_at = %(at)s, output_data = %(output)s::text, error_message = NULL,"
    " error_data = NULL, owner_id = NULL, completed_seq = %(seq)s",
    "completed_seq IS NULL",
)
_COMPLETED_TOGETHER: Final = Kind(
    {"id": "text", "token": "bigint", "output": "text", "seq": "bigint", "at": "timestamptz"},
    1,
    "NO KEY UPDATE",
    # Each row's trigger wants the limits of its workflow; two groups must not want the same ones in another order.
    "WITH held AS (SELECT {s}.lock_limits(ARRAY(SELECT id FROM fence)))"
    " UPDATE {s}.executions e SET status = 'completed', completed_at = fence.at, output_data = fence.output,"
    " error_message = NULL, error_data = NULL, owner_id = NULL, completed_seq = fence.seq, revision = e.revision + 1,"
    " updated_at = fence.at FROM fence, held WHERE e.id = fence.id AND e.fencing_token = fence.token"
    " AND e.completed_seq IS NULL RETURNING e.id",
)
_FAILED: Final = _changed(
    "status = 'failed', completed_at = %(at)s, error_data = %(error_data)s, error_message = %(message)s,"
    " owner_id = NULL, restart_at = NULL"
)
_PANICKED: Final = _changed(
    "status = 'panicked', error_data = %(error_data)s, error_message = %(message)s,"
    " restart_at = %(restart_at)s::bigint,"
    " owner_id = CASE WHEN %(restart_at)s::bigint IS NULL THEN NULL ELSE owner_id END"
)
_IS_COMPLETED: Final = (
    "SELECT 1 FROM {s}.executions WHERE id = %(id)s AND fencing_token = %(token)s AND completed_seq = %(seq)s"
)
_IS_TOLD: Final = (
    "SELECT 1 FROM {s}.event_log l JOIN {s}.executions e ON e.id = l.execution_id"
    " WHERE e.id = %(id)s AND e.fencing_token = %(token)s AND l.seq = %(seq)s AND l.type = %(type)s AND l.at = %(at)s"
)

_BEHIND: Final = f"greatest(%(seq)s, {LAST_SEQ} + 1)"
_NOT_BEFORE: Final = f"greatest(%(at)s, {LAST_AT})"
"""Where in the history, and when, an execution changes hands: ``at`` was asked before its row was locked."""

_RECOVERED: Final = (
    "written AS (UPDATE {s}.executions e SET owner_id = %(owner)s,"
    " status = CASE WHEN e.status IN ('sleeping', 'panicked') THEN e.status ELSE 'running' END,"
    " fencing_token = e.fencing_token + 1, revision = e.revision + 1, updated_at = %(at)s"
    " FROM (SELECT id, owner_id FROM {s}.executions WHERE id = %(id)s AND fencing_token = %(token)s"
    " AND status IN ('running', 'sleeping', 'restarting', 'panicked') FOR NO KEY UPDATE) AS old"
    " WHERE e.id = old.id RETURNING old.owner_id IS NULL) SELECT * FROM written"
)
_RECOVERY_TOLD: Final = (
    "INSERT INTO {s}.event_log (execution_id, seq, type, at, data)"
    f" VALUES (%(id)s, {_BEHIND}, 'ExecutionRecovered', {_NOT_BEFORE}, %(data)s::text) RETURNING seq, at, {CHANGES}"
)
_IS_RECOVERED: Final = (
    f"SELECT l.seq, l.at, {CHANGES}"
    " FROM {s}.executions e JOIN {s}.event_log l ON l.execution_id = e.id WHERE e.id = %(id)s"
    " AND e.fencing_token = %(token)s + 1 AND e.owner_id = %(owner)s AND e.updated_at = %(at)s"
    " AND l.type = 'ExecutionRecovered' AND l.at >= %(at)s ORDER BY l.seq DESC LIMIT 1"
)
_IS_TAKEN: Final = (
    "SELECT 1 FROM {s}.executions WHERE id = %(id)s AND fencing_token = %(token)s + 1 AND owner_id = %(owner)s"
    " AND updated_at = %(at)s"
)

_RESTARTED: Final = (
    _changed(
        "status = 'restarting', completed_at = NULL, error_message = NULL, error_data = NULL, restart_at = NULL,"
        " restart_attempt = %(restart_attempt)s, owner_id = %(owner)s, deadline_at = %(deadline_at)s::bigint,"
        " fencing_token = fencing_token + 1",
        "status IN ('panicked', 'failed')",
    )
    + " SELECT * FROM written"
)
_STEPS_RESTARTED: Final = (
    "WITH kept AS (INSERT INTO {s}.event_log (execution_id, seq, type, step_id, attempt, at)"
    " SELECT execution_id, started_seq, 'StepStarted', step_id, attempt, started_at FROM {s}.steps"
    f" WHERE execution_id = %(id)s AND started_seq IS NOT NULL AND kind = 'step' AND {BEGINS_AGAIN}),"
    " skipped AS (INSERT INTO {s}.event_log (execution_id, seq, type, step_id, attempt, at)"
    " SELECT execution_id, completed_seq, 'StepSkipped', step_id, attempt, completed_at FROM {s}.steps"
    f" WHERE execution_id = %(id)s AND {SKIPPED_UNTRIED}),"
    " again AS (UPDATE {s}.steps SET status = CASE kind WHEN 'sleep' THEN 'sleeping' ELSE 'pending' END, attempt = 0,"
    " next_attempt_at = NULL, started_seq = CASE kind WHEN 'sleep' THEN started_seq END, error_message = NULL,"
    " result_data = NULL, completed_seq = NULL, completed_at = NULL, revision = revision + 1, updated_at = %(at)s"
    f" WHERE execution_id = %(id)s AND {BEGINS_AGAIN})"
    " INSERT INTO {s}.event_log (execution_id, seq, type, at, data)"
    f" VALUES (%(id)s, {_BEHIND}, 'ExecutionRestarted', {_NOT_BEFORE}, %(data)s)"
)

_CANCELLED: Final = (
    _changed(
        "status = 'cancelled', completed_at = %(at)s, owner_id = NULL, restart_at = NULL,"
        " fencing_token = fencing_token + 1",
        "status NOT IN ('completed', 'failed', 'cancelled')",
    )
    + " SELECT * FROM written"
)
_STEPS_CANCELLED: Final = (
    "WITH freed AS (UPDATE {s}.circuit_breaker_state SET probe_execution_id = NULL, probe_expires_at = NULL"
    " WHERE probe_execution_id = %(id)s),"
    " ended AS (UPDATE {s}.steps SET status = 'failed', error_message = %(why)s,"
    " completed_at = %(at)s, next_attempt_at = NULL, revision = revision + 1, updated_at = %(at)s"
    " WHERE execution_id = %(id)s AND status NOT IN ('completed', 'skipped', 'failed'))"
    " INSERT INTO {s}.event_log (execution_id, seq, type, at)"
    f" VALUES (%(id)s, {_BEHIND}, 'ExecutionCancelled', {_NOT_BEFORE})"
)
_IS_CANCELLED: Final = (
    "SELECT 1 FROM {s}.executions WHERE id = %(id)s AND fencing_token = %(token)s + 1 AND status = 'cancelled'"
    " AND completed_at = %(at)s"
)

_RELEASED: Final = _changed("owner_id = %(owner)s::text, fencing_token = fencing_token + 1") + " SELECT * FROM written"
_IN_FLIGHT: Final = "execution_id = %(id)s AND status = 'running' AND kind = 'step' AND error_message IS NULL"
_STEPS_RELEASED: Final = (
    f"WITH last AS (SELECT {LAST_SEQ} AS seq),"
    " kept AS (INSERT INTO {s}.event_log (execution_id, seq, type, step_id, attempt, at)"
    " SELECT execution_id, started_seq, 'StepStarted', step_id, attempt, started_at FROM {s}.steps"
    f" WHERE started_seq IS NOT NULL AND {_IN_FLIGHT}),"
    " told AS (INSERT INTO {s}.event_log (execution_id, seq, type, step_id, attempt, at)"
    " SELECT execution_id, (SELECT seq FROM last) + row_number() OVER (ORDER BY started_seq), 'StepInterrupted',"
    f" step_id, attempt, %(at)s FROM {{s}}.steps WHERE {_IN_FLIGHT})"
    " UPDATE {s}.steps SET status = 'pending', attempt = attempt - 1, started_seq = NULL, revision = revision + 1,"
    f" updated_at = %(at)s WHERE {_IN_FLIGHT}"
)
IS_RELEASED: Final = (
    "SELECT 1 FROM {s}.executions WHERE id = %(id)s AND fencing_token = %(token)s + 1 AND updated_at = %(at)s"
    " AND owner_id IS NOT DISTINCT FROM %(owner)s::text"
)


class ExecutionPoints(OwnerPoints):
    """The durable points of executions; see `workflow_core.database.store.WorkflowStore`."""

    async def execution_started(
        self, execution: NewExecution, owner: Owner, lease_expires_at: int | None, at: datetime
    ) -> ExecutionRecord | None:
        """Record a new execution; return ``None``, or the record of that id which was there already."""
        has_document = execution.definition_document is not None
        part = self._owner_part(owner, lease_expires_at)
        sql = f"WITH {part}{DEFINITION if has_document else ''}{_STARTED}"
        values = {
            **owner_values(owner, lease_expires_at),
            **new_values(execution, at),
        }
        found: ExecutionRecord | None = None

        async def by_itself() -> None:
            nonlocal found
            found = await self._start(sql, values, execution, owner)

        if part or has_document:
            await by_itself()
            self._note_owner(part, owner, lease_expires_at)
        else:
            row = tuple(values[name] for name in _STARTED_TOGETHER.columns)
            await self._groups.write(_STARTED_TOGETHER, row, by_itself)
        return found

    async def _start(
        self, sql: str, values: Mapping[str, object], execution: NewExecution, owner: Owner
    ) -> ExecutionRecord | None:
        """Record a new execution by itself; return the record of its id that was there already, if it is another's."""
        while True:
            ((written, revision, *columns),) = await self.fetch(sql, values)
            if written:
                return None
            if columns[0] is not None:
                break  # else it was committed, or removed, while this statement ran
        found = execution_record(columns)
        ours = (
            revision == 0
            and found.owner_id == owner.owner_id
            and (found.workflow_name, found.input_data) == (execution.workflow_name, execution.input_data)
            and (found.fencing_token, found.started_at) == (execution.fencing_token, values["at"])
        )
        return None if ours else found

    async def execution_recovered(
        self, lease: Lease, owner: Owner, lease_expires_at: int | None, seq: int, at: datetime
    ) -> Lease:
        """Take an execution over; return the new lease."""
        values = {**owner_values(owner, lease_expires_at), "seq": seq, "at": at}
        part = self._owner_part(owner, lease_expires_at)
        first = f"WITH {part}{_RECOVERED}"
        told_seq, told_at, changes = await self._change_hands(
            lease, first, _RECOVERY_TOLD, values, _IS_RECOVERED, _released
        )
        self._note_owner(part, owner, lease_expires_at)
        place = HistoryEnd(told_seq, utc(told_at), changes)
        return Lease(lease.workflow_name, lease.execution_id, lease.fencing_token + 1, place)

    async def execution_completed(
        self, lease: Lease, output_data: str | None, abandoned_steps: bool, seq: int, at: datetime
    ) -> None:
        """Record that the handler returned."""
        steps = f", {_ABANDONED}" if abandoned_steps else ""
        values = {"output": output_data, "seq": seq, "at": at, "abandoned": ABANDONED}
        sql = f"WITH {_COMPLETED}{steps} {_WRITTEN}"

        if abandoned_steps:
            await self._write(lease, sql, values, _IS_COMPLETED, changes_execution=True)
            return

        async def by_itself() -> None:
            await self._write_now(lease, sql, values, _IS_COMPLETED, changes_execution=True)

        row = (lease.execution_id, lease.fencing_token, output_data, seq, at)
        await self._groups.write(_COMPLETED_TOGETHER, row, by_itself)

    async def execution_failed(self, lease: Lease, error_data: str, message: str, seq: int, at: datetime) -> None:
        """Record that the execution failed for good."""
        error = pydantic_core.from_json(error_data)
        values = {
            "error_data": error_data,
            "message": plain(message),
            "abandoned": ABANDONED,
            "type": "ExecutionFailed",
            "data": stored_json(error=error["type"], message=error["message"]),
            "seq": seq,
            "at": at,
        }
        sql = f"WITH {_FAILED}, {_ABANDONED}, {_TOLD} {_WRITTEN}"
        await self._write(lease, sql, values, _IS_TOLD, changes_execution=True)

    async def execution_panicked(
        self,
        lease: Lease,
        error_data: str,
        message: str,
        restart_at: int | None,
        event_data: str,
        seq: int,
        at: datetime,
    ) -> None:
        """Record a panic, and when the automatic restart is due."""
        values = {
            "error_data": error_data,
            "message": plain(message),
            "restart_at": restart_at,
            "type": "ExecutionPanicked",
            "data": event_data,
            "seq": seq,
            "at": at,
        }
        await self._write(lease, f"WITH {_PANICKED}, {_TOLD} {_WRITTEN}", values, _IS_TOLD, changes_execution=True)

    async def execution_restarted(
        self,
        lease: Lease,
        owner: Owner,
        lease_expires_at: int | None,
        restart_attempt: int,
        deadline_at: int | None,
        seq: int,
        at: datetime,
    ) -> Lease:
        """Begin again with completed steps kept and all other steps' attempts given back."""
        values = {
            **owner_values(owner, lease_expires_at),
            "restart_attempt": restart_attempt,
            "deadline_at": deadline_at,
            "data": stored_json(restart_attempt=restart_attempt),
            "seq": seq,
            "at": at,
        }
        part = self._owner_part(owner, lease_expires_at)
        first = f"WITH {part}{_RESTARTED}"
        await self._change_hands(lease, first, _STEPS_RESTARTED, values, _IS_TAKEN)
        self._note_owner(part, owner, lease_expires_at)
        return Lease(lease.workflow_name, lease.execution_id, lease.fencing_token + 1)

    async def execution_cancelled(self, lease: Lease, seq: int, at: datetime) -> None:
        """Record a cancellation and end the lease."""
        values = {"why": CANCELLED, "seq": seq, "at": at}
        await self._change_hands(lease, f"WITH {_CANCELLED}", _STEPS_CANCELLED, values, _IS_CANCELLED)

    async def execution_released(self, lease: Lease, give_back: bool, at: datetime) -> None:
        """Give an unfinished execution back; with ``give_back`` an attempt in flight as well, else it is used up."""
        values = {"owner": None if give_back else NOBODY, "at": at}
        second = _STEPS_RELEASED if give_back else None
        await self._change_hands(lease, f"WITH {_RELEASED}", second, values, IS_RELEASED)

    async def _change_hands(
        self,
        lease: Lease,
        first: str,
        second: str | None,
        values: Mapping[str, object],
        done: str,
        learnt: Callable[[tuple[Any, ...]], Mapping[str, object]] = lambda row: {},  # noqa: ARG005 - nothing is
    ) -> tuple[Any, ...]:
        """Write a durable point by which an execution gets another owner, or none.

        Args:
            lease: The lease that ends.
            first: Changes the execution; returns no row if the lease is not good.
            second: Changes its steps and its history.
            values: The parameters of both; the execution's id and the fencing token are added.
            done: By which a point is recognised that was written already, see `Points._write`.
            learnt: Returns further parameters for the second statement from the row that the first one returned.

        Returns:
            The row that the last statement returned, or by which the point was recognised.
        """
        every = {**values, "id": lease.execution_id, "token": lease.fencing_token}

        async def both(connection: Connection) -> tuple[Any, ...] | None:
            async with connection.pipeline(), connection.transaction():
                last = await connection.execute(self.sql(first), every)
                changed = await last.fetchone()
                if changed is not None and second is not None:
                    last = await connection.execute(self.sql(second), {**every, **learnt(changed)})
            return changed if changed is None or last.description is None else await last.fetchone() or changed

        written = await self.together(both)
        if written is not None:
            return written
        return await self._look_for(lease, every, done, held=False, changes_execution=True)


def _released(row: tuple[Any, ...]) -> dict[str, object]:
    """Return the data of a recovery: whether the execution had been given back, rather than left by a death."""
    return {"data": stored_json(released=True) if row[0] else None}


def new_values(execution: NewExecution, at: datetime) -> dict[str, object]:
    """Return the parameters of the statements that record a new execution."""
    return {
        "id": execution.execution_id,
        "workflow": execution.workflow_name,
        "at": at,
        "input": execution.input_data,
        "retry_config": execution.retry_config,
        "panic_config": execution.panic_config,
        "deadline_at": execution.deadline_at,
        "revision": execution.definition_revision,
        "document": execution.definition_document,
        "token": execution.fencing_token,
    }
