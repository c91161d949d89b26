"""What the page about an execution says: its steps, what it waits for, and what can be done with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from workflow_core.clock import from_epoch_ms, stored_moment
from workflow_core.events import StepCompleted, StepSkipped
from workflow_core.models import TERMINAL_STATUSES, ErrorInfo
from workflow_core.views.wording import status_of, step_status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from workflow_core.database.store import ErrorRecord
    from workflow_core.events import Event
    from workflow_core.views.execution_view import ExecutionView

__all__ = [
    "MOST_EVENTS",
    "MOST_STEPS",
    "StepRow",
    "Wait",
    "actions_of",
    "error_of",
    "place_of",
    "results_of",
    "rows_of",
    "shown_events",
    "waits_of",
]

MOST_EVENTS: Final = 500
MOST_STEPS: Final = 200
_LONGEST_RESULT: Final = 60

_PLACES: Final = {
    "ready": "it waits for a free worker of its queue",
    "limited": "the limits of its workflow let it wait, and it begins when its turn comes",
    "lost": "its worker gives no sign of life any more, and another one goes on with it",
    "scheduled": "the rate limit of its workflow lets it begin then",
}
_WAITING: Final = frozenset({"sleeping", "retrying"})


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that an execution waits for.

    Attributes:
        text: What it is.
        step_id: The step, if it is one.
        until: When it is over; ``None`` if nobody knows.
    """

    text: str
    step_id: str | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step as a row of a table.

    Attributes:
        took_ms: How long its latest attempt, or its sleep, took; ``None`` if that is not over.
        going_on_since: When it began, if it goes on.
        until: When its wait is over, if it waits.
        error: The last error that it met, if it has no result.
    """

    step_id: str
    kind: str
    status: str
    attempt: int
    started_at: datetime | None
    took_ms: float | None
    going_on_since: datetime | None
    until: datetime | None
    duration_ms: int | None
    handled_by: str | None
    result: str | None
    error: ErrorRecord | None
    error_message: str | None
    circuit: str | None


def rows_of(view: ExecutionView) -> list[StepRow]:
    """Return the steps of an execution, in the order of their beginnings."""
    last_errors = dict(view.errors)
    rows = []
    for step in view.steps.values():
        status = step_status(step, view)
        took = None
        if step.started_at is not None and step.completed_at is not None:
            took = (step.completed_at - step.started_at).total_seconds() * 1_000
        until = {"sleeping": step.wake_time, "retrying": step.next_attempt_at}.get(status)
        circuit = view.circuits.get(step.step_id)
        rows.append(
            StepRow(
                step_id=step.step_id,
                kind=step.kind,
                status=status,
                attempt=step.attempt,
                started_at=step.started_at,
                took_ms=took,
                going_on_since=step.started_at if status == "running" else None,
                until=stored_moment(until),
                duration_ms=step.duration_ms,
                handled_by=step.handled_by,
                result=step.result_data,
                error=None if status in {"completed", "skipped"} else last_errors.get(step.step_id),
                error_message=step.error_message if status == "failed" else None,
                circuit=None if circuit is None or circuit.status == "closed" else circuit.status,
            )
        )
    return rows


def waits_of(view: ExecutionView, rows: Sequence[StepRow]) -> list[Wait]:
    """Return what an execution waits for; nothing if it does not wait."""
    record = view.record
    if view.at_rest:
        return []
    if record.restart_at is not None and record.status == "panicked":
        return [Wait("restarts", None, from_epoch_ms(record.restart_at))]
    return [
        Wait(
            "sleeps" if row.status == "sleeping" else f"tries again (attempt {row.attempt + 1})", row.step_id, row.until
        )
        for row in rows
        if row.status in _WAITING
    ]


def place_of(view: ExecutionView) -> str | None:
    """Return what an execution that waits for a worker waits for; ``None`` if it does not."""
    return None if view.at_rest or view.dispatch is None else _PLACES.get(view.dispatch.place)


def actions_of(view: ExecutionView) -> list[str]:
    """Return what can be done with an execution now."""
    record = view.record
    actions = []
    if record.status in {"failed", "panicked"}:
        actions.append("restart")
    if view.interrupted and record.status in {"running", "sleeping", "restarting"}:
        actions.append("resume")
    if record.status not in TERMINAL_STATUSES:
        actions.append("cancel")
    return actions


def error_of(view: ExecutionView) -> ErrorInfo | None:
    """Return what ended an execution, or the panic that it waits to be restarted after."""
    data = view.record.error_data
    return None if data is None or status_of(view) == "completed" else ErrorInfo.model_validate_json(data)


def shown_events(events: Sequence[Event], *, all_of_them: bool) -> tuple[list[Event], int]:
    """Return the events to be drawn, the first and the latest ones, and how many between them are left out."""
    left_out = len(events) - MOST_EVENTS
    if left_out <= 0 or all_of_them:
        return list(events), 0
    return [events[0], *events[left_out + 1 :]], left_out


def results_of(view: ExecutionView, events: Iterable[Event]) -> dict[int, str]:
    """Return short stored results, by the position of the event that brought them."""
    found = {}
    for event in events:
        if isinstance(event, (StepCompleted, StepSkipped)):
            step = view.steps.get(event.step_id)
            if step is not None and step.result_data is not None and len(step.result_data) <= _LONGEST_RESULT:
                found[event.seq] = step.result_data
    return found
