"""What the commands read of a store; reading never writes, and never keeps a writer waiting."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from workflow_core.cli.failures import NOT_FOUND, USAGE, Failure, did_you_mean
from workflow_core.clock import to_epoch_ms
from workflow_core.errors import StorageError
from workflow_core.models import TERMINAL_STATUSES
from workflow_core.ownership import SystemProcessProbe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.database.store import ErrorRecord, ExecutionRecord, StepRecord
    from workflow_core.engine import WorkflowEngine
    from workflow_core.ownership import Owner

__all__ = ["ExecutionView", "OwnerState", "find_execution", "known_workflows", "read_view", "require_workflow"]

OwnerState: TypeAlias = Literal["alive", "ended", "lease expired", "unknown"]

_ID = re.compile(r"[A-Za-z0-9._:-]{1,255}")
_UUID_LENGTH = 36
_SHORTEST_PREFIX = 4
_LIKELY = 300


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
    """

    record: ExecutionRecord
    read_at: datetime
    steps: Mapping[str, StepRecord]
    errors: Sequence[tuple[str, ErrorRecord]]
    circuits: Mapping[str, CircuitState]
    owner: Owner | None
    owner_state: OwnerState | None
    last_seq: int

    @property
    def at_rest(self) -> bool:
        """Whether nothing happens to it any more by itself."""
        record = self.record
        return record.status in TERMINAL_STATUSES or (record.status == "panicked" and record.restart_at is None)

    @property
    def interrupted(self) -> bool:
        """Whether it should go on, and nobody runs it."""
        return not self.at_rest and self.owner_state in {None, "ended", "lease expired"}


async def read_view(engine: WorkflowEngine, execution_id: str) -> ExecutionView:
    """Read an execution.

    Raises:
        Failure: There is no such execution any more.
    """
    record = await engine.store.load_execution(execution_id)
    if record is None:
        raise Failure(f'There is no execution "{execution_id}" in {engine.store.location()}', NOT_FOUND)
    name = record.workflow_name
    workflow = engine.store.workflow(name)
    steps, last_seq = await workflow.load_steps(name, execution_id)
    errors = await workflow.load_errors(name, execution_id)
    circuits = await engine.store.load_circuits(name)
    found = None if record.owner_id is None else await workflow.load_owner(record.owner_id)
    now = engine.clock.now()
    return ExecutionView(
        record=record,
        read_at=now,
        steps=steps,
        errors=errors,
        circuits={step_id: state for (owner, step_id), state in circuits.items() if owner == name and step_id in steps},
        owner=found[0] if found else None,
        owner_state=_state_of(*found, to_epoch_ms(now)) if found else None,
        last_seq=last_seq,
    )


def _state_of(owner: Owner, lease_expires_at: int | None, now_ms: int) -> OwnerState:
    ended = SystemProcessProbe().has_ended(owner)
    if ended:
        return "ended"
    if lease_expires_at is not None and now_ms >= lease_expires_at:
        return "lease expired"
    return "alive" if ended is False else "unknown"


async def find_execution(engine: WorkflowEngine, text: str, *, changes_it: bool = False) -> ExecutionRecord:
    """Return the execution of an id, or of the only id that begins with a text.

    A part of a UUID is enough everywhere. A business id may be the beginning of another one (``order-1``,
    ``order-10``), so where something is changed it has to be whole.

    Args:
        engine: Whose store is searched.
        text: The id, or the first 4 or more characters of it.
        changes_it: Whether the execution is going to be changed.

    Raises:
        Failure: There is none, or more than one.
    """
    record = await engine.store.load_execution(text) if _ID.fullmatch(text) else None
    if record is not None:
        return record
    found = []
    if _ID.fullmatch(text) and len(text) >= _SHORTEST_PREFIX:
        found = await engine.store.find_execution_ids(text, 6)
    if changes_it:
        found = [execution_id for execution_id in found if _is_uuid(execution_id)] if _is_hexadecimal(text) else []
    if len(found) > 1:
        more = ", ..." if len(found) > 5 else ""  # noqa: PLR2004 - one more than is shown
        raise Failure(f'"{text}" begins several execution ids: {", ".join(found[:5])}{more}; write more of it', USAGE)
    record = await engine.store.load_execution(found[0]) if found else None
    if record is not None:
        return record
    advice = did_you_mean(text, await _likely_ids(engine, text))
    if not advice:
        advice = '; "workflow status --workflow NAME" lists those of a workflow'
    raise Failure(f'There is no execution "{text}" in {engine.store.location()}{advice}', NOT_FOUND)


async def _likely_ids(engine: WorkflowEngine, text: str) -> list[str]:
    start = re.match(r"[A-Za-z0-9._:-]{0,3}", text)
    alike = await engine.store.find_execution_ids(start[0], _LIKELY) if start and start[0] else []
    latest: list[str] = []
    with contextlib.suppress(StorageError):  # a database that cannot be read is not what was asked for
        latest = [execution.execution_id for execution in await engine.list_executions(limit=_LIKELY)]
    return [*alike, *latest]


def _is_uuid(execution_id: str) -> bool:
    return len(execution_id) == _UUID_LENGTH and execution_id.count("-") == 4 and _is_hexadecimal(execution_id)  # noqa: PLR2004


def _is_hexadecimal(text: str) -> bool:
    return re.fullmatch(r"[0-9a-fA-F-]+", text) is not None


async def known_workflows(engine: WorkflowEngine) -> list[str]:
    """Return the names of all workflows, stored or defined here, sorted."""
    stored = [workflow.name for workflow in await engine.store.list_workflows()]
    return sorted({*stored, *engine.workflow_names()})


async def require_workflow(engine: WorkflowEngine, name: str, advice: str = "") -> None:
    """Say so if there is no such workflow.

    Args:
        engine: Whose workflows are meant.
        name: The workflow.
        advice: What else can be done about it.

    Raises:
        Failure: There is none.
    """
    known = await known_workflows(engine)
    if name not in known:
        raise Failure(
            f'There is no workflow "{name}" in {engine.store.location()}{did_you_mean(name, known)}{_listed(known)}'
            f"{advice}",
            NOT_FOUND,
        )


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    most = 10
    shown = ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")
    return f" (there are: {shown})" if listed else " (there are none)"
