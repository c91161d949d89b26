"""One execution as it is at one moment, with its owner and its circuits."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from workflow_core.clock import to_epoch_ms
from workflow_core.database.dispatch import Dispatches
from workflow_core.interception import patiently
from workflow_core.ownership import SystemProcessProbe
from workflow_core.stored import is_at_rest, load_record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.database.dispatch import DispatchState
    from workflow_core.database.store import ErrorRecord, ExecutionRecord, StepRecord
    from workflow_core.engine import WorkflowEngine
    from workflow_core.ownership import Owner

__all__ = ["ExecutionView", "OwnerState", "read_view"]

OwnerState: TypeAlias = Literal["alive", "ended", "lease expired", "unknown"]


@dataclass(frozen=True)
class ExecutionView:
    """One execution as it was at one moment.

    Attributes:
        read_at: That moment, by the clock of this machine.
        errors: All errors of its steps, oldest first, each with its step id.
        circuits: The circuits of its steps, by step id.
        owner: Who runs it, or ran it.
        owner_state: Whether the owner lives; ``None`` if there is none.
        last_seq: The number of events in its history so far.
        dispatch: Where it stands in its queue, if it was handed to workers.
    """

    record: ExecutionRecord
    read_at: datetime
    steps: Mapping[str, StepRecord]
    errors: Sequence[tuple[str, ErrorRecord]]
    circuits: Mapping[str, CircuitState]
    owner: Owner | None
    owner_state: OwnerState | None
    last_seq: int
    dispatch: DispatchState | None = None

    @property
    def at_rest(self) -> bool:
        """Whether nothing happens to it any more by itself."""
        return is_at_rest(self.record)

    @property
    def interrupted(self) -> bool:
        """Whether it should go on, and nobody runs it."""
        return self.record.queue is None and not self.at_rest and self.owner_state in {None, "ended", "lease expired"}

    @property
    def is_lost(self) -> bool:
        """Whether a worker ran it that gives no sign of life any more; another one goes on with it."""
        return self.dispatch is not None and self.dispatch.place == "lost"

    @property
    def is_unserved(self) -> bool:
        """Whether a worker should begin it, or go on with it, and none serves its queue."""
        dispatch = self.dispatch
        return dispatch is not None and not dispatch.workers and dispatch.place not in {"running", "ended"}


async def read_view(engine: WorkflowEngine, execution_id: str) -> ExecutionView:
    """Read an execution.

    Raises:
        ValidationError: The id is not acceptable.
        ExecutionNotFoundError: There is no such execution, or not any more.
        StorageError: Its database cannot be read.
    """
    record = await load_record(engine, execution_id)
    name, execution_id = record.workflow_name, record.execution_id
    workflow = engine.store.workflow(name)
    steps, end = await workflow.load_steps(name, execution_id)
    errors = await workflow.load_errors(name, execution_id)
    circuits = await engine.store.load_circuits(name)
    found = None if record.owner_id is None else await workflow.load_owner(record.owner_id)
    dispatch = None
    if record.queue is not None and isinstance(engine.bare_store, Dispatches):
        dispatch = await patiently(engine.store, functools.partial(engine.bare_store.dispatch_state, execution_id))
    now = engine.clock.now()
    return ExecutionView(
        record=record,
        read_at=now,
        steps=steps,
        errors=errors,
        circuits={step_id: state for (owner, step_id), state in circuits.items() if owner == name and step_id in steps},
        owner=found[0] if found else None,
        owner_state=_state_of(*found, to_epoch_ms(now)) if found else None,
        last_seq=end.seq,
        dispatch=dispatch,
    )


def _state_of(owner: Owner, lease_expires_at: int | None, now_ms: int) -> OwnerState:
    ended = SystemProcessProbe().has_ended(owner)
    if ended:
        return "ended"
    if lease_expires_at is not None and now_ms >= lease_expires_at:
        return "lease expired"
    return "alive" if ended is False else "unknown"
