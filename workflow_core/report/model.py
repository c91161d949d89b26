"""What a page shows of an execution, as data: frozen models that travel as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue

from workflow_core.errors import printable
from workflow_core.events import Event, StepEvent, event_from_row
from workflow_core.models import ExecutionStatus, StepStatus
from workflow_core.report.timeline import FaultStrike

__all__ = ["Entry", "ErrorEntry", "EventEntry", "ExecutionEntry", "StepEntry", "Text"]


def _encodable(value: object) -> object:
    """Return text that UTF-8 can hold: surrogates that stand alone, as in names of files, are written as escapes."""
    return printable(value) if isinstance(value, str) else value


Text: TypeAlias = Annotated[str, BeforeValidator(_encodable)]
"""Any text of the user's."""


class Entry(BaseModel):
    """A frozen model without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EventEntry(Entry):
    """One event of a history.

    Attributes:
        type: Name of the event's class.
        details: Its own fields, besides step and attempt.
    """

    type: str
    seq: int
    at: datetime
    step_id: Text | None
    attempt: int | None
    details: dict[str, JsonValue]

    @classmethod
    def of(cls, event: Event) -> EventEntry:
        """Describe an event."""
        details = {name: _json(value) for name, value in event.named_fields().items()}
        step_id = details.pop("step_id", None) if isinstance(event, StepEvent) else None
        attempt = details.pop("attempt", None)
        return cls.model_validate(
            {
                "type": type(event).__name__,
                "seq": event.seq,
                "at": event.at,
                "step_id": step_id,
                "attempt": attempt,
                "details": details,
            }
        )

    def event(self, execution_id: str, workflow_name: str) -> Event:
        """Return the event that this describes."""
        return event_from_row(
            self.type,
            seq=self.seq,
            at=self.at,
            execution_id=execution_id,
            workflow_name=workflow_name,
            step_id=self.step_id,
            attempt=self.attempt,
            data=self.details,
        )


def _json(value: object) -> object:
    return _encodable(value) if isinstance(value, (str, int, float, bool)) else _encodable(str(value))


class ErrorEntry(Entry):
    """One error that a step met.

    Attributes:
        stack: The traceback.
    """

    step_id: Text
    attempt: int
    type: Text
    message: Text
    stack: Text | None


class StepEntry(Entry):
    """What is stored of one step.

    Attributes:
        result: The stored value, as indented JSON.
    """

    step_id: Text
    status: StepStatus
    result: Text | None


class ExecutionEntry(Entry):
    """One execution.

    Attributes:
        input: The stored input, as indented JSON.
        output: The stored output, as indented JSON.
        error: What it failed by, to read.
        left_out: How many of its latest events are not in ``events``.
    """

    execution_id: Text
    workflow_name: Text
    status: ExecutionStatus
    input: Text | None
    output: Text | None
    error: Text | None
    events: tuple[EventEntry, ...]
    left_out: int = 0
    steps: tuple[StepEntry, ...] = ()
    errors: tuple[ErrorEntry, ...] = ()
    faults: tuple[FaultStrike, ...] = ()

    def history(self) -> list[Event]:
        """Return the events."""
        return [entry.event(self.execution_id, self.workflow_name) for entry in self.events]
