"""Circuits: read, decided about in Python, and written if they are still as they were read, together with the step.

A circuit is shared by all executions of a workflow, so it is not locked while somebody thinks: a statement that finds
it changed writes nothing, and the decision is made again (optimistic concurrency control, after H. T. Kung and
J. T. Robinson, ACM TODS 6(2), 1981). An attempt that does not change the circuit, as nearly all successes, writes the
step alone.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Final

from psycopg import errors

from workflow_core.circuit_breaker import CircuitState
from workflow_core.database.parts import CIRCUIT_EVENTS, stored_json
from workflow_core.database.postgres.points import FENCE, fence
from workflow_core.database.postgres.reading import ReadableStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from workflow_core.database.store import CircuitChange, Lease
    from workflow_core.models import CircuitStatus

__all__ = ["CircuitPoints", "with_circuit"]

_COLUMNS: Final = tuple(field.name for field in fields(CircuitState))
_TYPES: Final = ("text", "bigint", "bigint", "bigint", "text", "bigint")

_AFTER: Final = ", ".join(f"%(after_{name})s::{kind}" for name, kind in zip(_COLUMNS, _TYPES, strict=True))
_BEFORE: Final = ", ".join(f"%(before_{name})s::{kind}" for name, kind in zip(_COLUMNS, _TYPES, strict=True))

_CIRCUIT: Final = (
    f"circuit AS (INSERT INTO {{s}}.circuit_breaker_state AS c (workflow_name, step_id, {', '.join(_COLUMNS)})"
    f" SELECT %(workflow)s, %(step)s, {_AFTER} FROM {{gate}} ON CONFLICT (workflow_name, step_id) DO UPDATE SET"
    f" {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS)}"
    f" WHERE ROW({', '.join(f'c.{name}' for name in _COLUMNS)}) IS NOT DISTINCT FROM ROW({_BEFORE}) RETURNING 1)"
)
_CIRCUIT_WITH_EVENT: Final = (
    _CIRCUIT + ", circuit_told AS (INSERT INTO {s}.event_log (execution_id, seq, type, step_id, at, data)"
    " SELECT %(id)s, %(circuit_seq)s, %(circuit_event)s::text, %(step)s, %(at)s, %(circuit_data)s::text FROM circuit"
    " WHERE %(circuit_event)s::text IS NOT NULL)"
)
_ADMITTED: Final = (
    f"WITH {FENCE}, {_CIRCUIT_WITH_EVENT.replace('{gate}', 'fence')}"
    " SELECT (SELECT count(*) FROM fence), (SELECT count(*) FROM circuit)"
)
_FORCED: Final = f"WITH gate AS (SELECT 1), {_CIRCUIT.replace('{gate}', 'gate')} SELECT count(*) FROM circuit"
_EVENT: Final = (
    "SELECT type FROM {s}.event_log WHERE execution_id = %(id)s"
    " AND seq = %(circuit_seq)s AND step_id = %(step)s AND type IN ('CircuitOpened', 'CircuitHalfOpened',"
    " 'CircuitClosed')"
)
_UNFINISHED: Final = (
    "SELECT 1 FROM {s}.steps WHERE execution_id = %(id)s AND step_id = %(step)s AND status <> 'completed'"
)
_STATUS_BY_EVENT: Final = {event: status for status, event in CIRCUIT_EVENTS.items()}

_BEFORE_IT: Final[Mapping[CircuitStatus, CircuitStatus]] = {
    "open": "closed",
    "half_open": "open",
    "closed": "half_open",
}
"""From which status an attempt, or the end of one, leads to another; a failed probe leads from ``half_open`` to
``open``, which nobody needs to tell apart."""


def with_circuit(gate: str) -> str:
    """Return common table expressions that change the circuit of a step, with the event of that.

    Args:
        gate: The one that has a row if the circuit is to be changed; ``circuit`` then has a row if it was.
    """
    return _CIRCUIT_WITH_EVENT.replace("{gate}", gate)


class CircuitPoints(ReadableStore):
    """The durable points of circuits, and those of steps that have one."""

    async def circuit_admitted(
        self,
        lease: Lease,
        step_id: str,
        admit: Callable[[CircuitState], tuple[bool, CircuitState]],
        seq: int,
        at: datetime,
    ) -> tuple[bool, CircuitState, CircuitState]:
        """Ask the circuit whether an attempt may run, and store what the question changed."""
        return await self._groups.in_order(lease.execution_id, lambda: self._admitted(lease, step_id, admit, seq, at))

    async def _admitted(
        self,
        lease: Lease,
        step_id: str,
        admit: Callable[[CircuitState], tuple[bool, CircuitState]],
        seq: int,
        at: datetime,
    ) -> tuple[bool, CircuitState, CircuitState]:
        """Ask the circuit when the turn has come; see `circuit_admitted`."""
        values = {"id": lease.execution_id, "token": lease.fencing_token, "step": step_id, "circuit_seq": seq, "at": at}
        while True:
            before = await self._circuit(lease.workflow_name, step_id)
            allowed, after = admit(before)
            if after is before:
                if before.probe_execution_id == lease.execution_id:  # perhaps since an earlier try, in doubt
                    before, after = await self._circuit_as_told(before, values)
                return allowed, before, after
            try:
                ((held, stored),) = await self.fetch(
                    _ADMITTED, {**values, **_circuit_values(lease.workflow_name, before, after)}
                )
            except errors.UniqueViolation:
                return (allowed, *await self._circuit_as_told(after, values))
            if not held:
                raise lease.lost()
            if stored:
                return allowed, before, after

    async def circuit_forced(
        self, workflow_name: str, step_id: str, transition: Callable[[CircuitState], CircuitState]
    ) -> CircuitState:
        """Set a circuit by hand; return its new state."""
        while True:
            before = await self._circuit(workflow_name, step_id)
            after = transition(before)
            values = {**_circuit_values(workflow_name, before, after), "step": step_id}
            if await self.fetch(_FORCED, values) == [(1,)]:
                return after

    async def _circuit(self, workflow_name: str, step_id: str) -> CircuitState:
        rows = await self.fetch(
            f"SELECT {', '.join(_COLUMNS)} FROM {{s}}.circuit_breaker_state"
            " WHERE workflow_name = %(workflow)s AND step_id = %(step)s",
            {"workflow": workflow_name, "step": step_id},
        )
        return CircuitState(*rows[0]) if rows else CircuitState()

    async def _write_with_circuit(
        self,
        lease: Lease,
        statements: tuple[str, str],
        values: Mapping[str, object],
        done: str,
        change: CircuitChange,
    ) -> tuple[CircuitState, CircuitState]:
        """Write a durable point of a step that has a circuit.

        Args:
            lease: The right to do so.
            statements: For `fence`: without the circuit, and with it.
            values: The parameters, with the ``status`` of the execution if that changes.
            done: By which a point is recognised that was written already, see `Points._write`.
            change: How the circuit changes.

        Returns:
            The circuit before and after.
        """
        return await self._groups.in_order(
            lease.execution_id, lambda: self._write_with_circuit_now(lease, statements, values, done, change)
        )

    async def _write_with_circuit_now(
        self,
        lease: Lease,
        statements: tuple[str, str],
        values: Mapping[str, object],
        done: str,
        change: CircuitChange,
    ) -> tuple[CircuitState, CircuitState]:
        """Write a durable point whose turn has come; see `_write_with_circuit`."""
        status = values.get("status")
        every = {
            **values,
            "id": lease.execution_id,
            "token": lease.fencing_token,
            "circuit_seq": change.seq,
        }
        while True:
            before = await self._circuit(lease.workflow_name, str(values["step"]))
            after = change.transition(before)
            changes = after != before
            if changes:
                every.update(_circuit_values(lease.workflow_name, before, after))
            held = 1
            try:
                ((held, written),) = await self.fetch(fence(statements[changes], status), every)
                if written:
                    return before, after
            except errors.UniqueViolation:
                pass
            else:
                if held and changes and not await self.fetch(done, every) and await self.fetch(_UNFINISHED, every):
                    continue  # somebody else has changed the circuit since it was read
            await self._look_for(lease, every, done, held=bool(held))
            return await self._circuit_as_told(before, every)

    async def _circuit_as_told(
        self, now: CircuitState, values: Mapping[str, object]
    ) -> tuple[CircuitState, CircuitState]:
        """Return what a circuit was and became by a point that was written already, as far as its event tells."""
        rows = await self.fetch(_EVENT, values)
        if not rows:
            return now, now
        status = _STATUS_BY_EVENT[rows[0][0]]
        return replace(now, status=_BEFORE_IT[status]), replace(now, status=status)


def _circuit_values(workflow_name: str, before: CircuitState, after: CircuitState) -> dict[str, object]:
    event = CIRCUIT_EVENTS[after.status] if after.status != before.status else None
    return {
        "workflow": workflow_name,
        **{f"before_{name}": getattr(before, name) for name in _COLUMNS},
        **{f"after_{name}": getattr(after, name) for name in _COLUMNS},
        "circuit_event": event,
        "circuit_data": stored_json(failures=after.failures) if event == "CircuitOpened" else None,
    }
