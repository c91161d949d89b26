"""What the rows of a database mean, whichever kind of database it is.

The kinds differ in how they hold a moment, so each function is given what reads one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import pydantic_core

from workflow_core.events import event_from_row
from workflow_core.ownership import Owner
from workflow_core.summaries import ExecutionSummary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from workflow_core.events import Event
    from workflow_core.models import ExecutionStatus
    from workflow_core.summaries import Position

__all__ = ["ReadsMoment", "UnfinishedExecution", "events", "search", "summary", "unfinished"]

ReadsMoment: TypeAlias = "Callable[[Any], datetime]"
"""Reads a moment as a database holds it."""


@dataclass(frozen=True, slots=True)
class UnfinishedExecution:
    """An execution that is not at rest, as far as its recovery needs it.

    Attributes:
        owner: Who runs it, if the owner is known.
        lease_expires_at: Until when it does, in milliseconds since 1970; ``None`` for always.
        due_at: When a sleeping execution goes on, in milliseconds since 1970; ``None`` for at once.
        is_declarative: Whether it keeps the document of its workflow, so that nobody need define that.
    """

    execution_id: str
    workflow_name: str
    status: ExecutionStatus
    started_at: datetime
    fencing_token: int
    owner: Owner | None
    lease_expires_at: int | None
    due_at: int | None
    is_declarative: bool = False

    @property
    def position(self) -> Position:
        """Its place in the list of unfinished executions."""
        return self.started_at, self.execution_id


def search(
    rows: Iterable[tuple[Any, ...]], text: str, limit: int, looked_at: int, moment: ReadsMoment
) -> tuple[list[ExecutionSummary], Position | None]:
    """Return the executions whose id or error message holds a text, whatever its case.

    They are compared here, because databases know the cases of letters each in their own way.

    Args:
        rows: Executions in short, the latest started first.
        text: The text.
        limit: How many are returned at most.
        looked_at: How many are looked at, at most.
        moment: Reads a moment as the database stores it.

    Returns:
        What was found, and the place behind which to go on; ``None`` at the end of the rows.
    """
    wanted, found = text.casefold(), []
    for number, row in enumerate(rows, start=1):
        if wanted in row[0].casefold() or (row[6] is not None and wanted in row[6].casefold()):
            found.append(summary(row, moment))
        if len(found) == limit or number == looked_at:
            return found, (moment(row[3]), row[0])
    return found, None


def summary(row: tuple[Any, ...], moment: ReadsMoment) -> ExecutionSummary:
    """Return an execution in short.

    Args:
        row: Its id, workflow, status, two moments, restart attempt, error message and queue.
        moment: Reads a moment as the database stores it.
    """
    return ExecutionSummary(
        execution_id=row[0],
        workflow_name=row[1],
        status=row[2],
        started_at=moment(row[3]),
        completed_at=None if row[4] is None else moment(row[4]),
        restart_attempt=row[5],
        error=row[6],
        queue=row[7],
    )


def unfinished(row: tuple[Any, ...], moment: ReadsMoment) -> UnfinishedExecution:
    """Return an execution that is not at rest.

    Args:
        row: Its id, workflow, status, start and fencing token; host, pid, start and id of its owner, and the end of
            the lease; when its wait and its time are over; whether it is declarative.
        moment: Reads a moment as the database stores it.
    """
    wakes = [due for due in row[10:12] if due is not None]
    return UnfinishedExecution(
        execution_id=row[0],
        workflow_name=row[1],
        status=row[2],
        started_at=moment(row[3]),
        fencing_token=row[4],
        owner=None if row[8] is None else Owner(*row[5:9]),
        lease_expires_at=row[9],
        due_at=min(wakes) if row[10] is not None else None,
        is_declarative=bool(row[12]),
    )


def events(rows: Iterable[tuple[Any, ...]], workflow_name: str, execution_id: str, moment: ReadsMoment) -> list[Event]:
    """Return the history of an execution.

    Args:
        rows: The position, type, step, attempt, moment and data of each event, as the view ``step_events`` has them.
        workflow_name: The workflow.
        execution_id: The execution.
        moment: Reads a moment as the database holds it.

    Raises:
        StorageError: There are no events of a row's type.
    """
    return [
        event_from_row(
            kind,
            seq=seq,
            at=moment(at),
            execution_id=execution_id,
            workflow_name=workflow_name,
            step_id=step_id,
            attempt=attempt,
            data=pydantic_core.from_json(data) if data else {},
        )
        for seq, kind, step_id, attempt, at, data in rows
    ]
