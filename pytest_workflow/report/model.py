"""What a report shows, as data: frozen models that travel as JSON from the process of a test to that of the run."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue

from pytest_workflow.report.timeline import FaultStrike
from workflow_core.events import Event, StepEvent, event_from_row
from workflow_core.models import ExecutionStatus, StepStatus

__all__ = [
    "OUTCOMES",
    "ErrorEntry",
    "EventEntry",
    "ExecutionEntry",
    "Outcome",
    "Report",
    "StepEntry",
    "TestEntry",
    "Text",
    "WorkflowRecord",
]

Outcome: TypeAlias = Literal["failed", "error", "passed", "skipped", "xfailed", "xpassed"]

OUTCOMES: tuple[Outcome, ...] = ("failed", "error", "passed", "skipped", "xfailed", "xpassed")
"""The outcomes of tests, in the order in which a report names them."""


def _encodable(value: object) -> object:
    """Return text that UTF-8 can hold: surrogates that stand alone, as in names of files, are written as escapes."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value


Text: TypeAlias = Annotated[str, BeforeValidator(_encodable)]
"""Any text of the user's."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EventEntry(_Entry):
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


class ErrorEntry(_Entry):
    """One error that a step met.

    Attributes:
        stack: The traceback.
    """

    step_id: Text
    attempt: int
    type: Text
    message: Text
    stack: Text | None


class StepEntry(_Entry):
    """What is stored of one step.

    Attributes:
        result: The stored value, as indented JSON.
    """

    step_id: Text
    status: StepStatus
    result: Text | None


class ExecutionEntry(_Entry):
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


class WorkflowRecord(_Entry):
    """What the engine of one test did.

    Attributes:
        virtual_ms: Virtual time that passed, in milliseconds.
        executions: The executions, the first started first.
        problem: Why they cannot be read, if so.
        sections: Further texts about the test, each with its title.
    """

    virtual_ms: float
    executions: tuple[ExecutionEntry, ...] = ()
    problem: Text | None = None
    sections: tuple[tuple[Text, Text], ...] = ()


class TestEntry(_Entry):
    """One workflow test.

    Attributes:
        file: Its file, relative to the root directory.
        line: Its line there, counted from 0.
        outcome: How it ended, over set-up, call and tear-down.
        seconds: Real time that it took.
        failure: What pytest says about its failure.
    """

    __test__ = False

    node_id: Text
    file: Text
    line: int
    outcome: Outcome
    seconds: float
    failure: Text | None
    record: WorkflowRecord


class Report(_Entry):
    """A whole report.

    Attributes:
        title: What was tested.
        written_at: When it was made; aware.
        tests: The workflow tests.
        other_tests: How many other tests ran.
        seconds: Real time of the whole run.
        environment: Versions, by name.
    """

    title: Text
    written_at: datetime
    tests: tuple[TestEntry, ...]
    other_tests: int
    seconds: float
    environment: dict[str, Text]
