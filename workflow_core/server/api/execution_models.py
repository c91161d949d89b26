"""The shapes of what the API answers about executions: what `workflow --format json` prints."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from workflow_core.logs import Level
from workflow_core.models import (
    CircuitStatus,
    ErrorInfo,
    ExecutionStatus,
    StepStatus,
)
from workflow_core.server.api.cluster_models import DispatchDetails
from workflow_core.server.api.examples import AT, LATER, example
from workflow_core.summaries import ExecutionSummary

__all__ = [
    "ErrorList",
    "EventList",
    "ExecutionDetails",
    "ExecutionList",
    "HistoryEvent",
    "LogLines",
    "TimelineData",
]

_SUMMARY: dict[str, JsonValue] = {
    "execution_id": "order-1001",
    "workflow_name": "order",
    "status": "failed",
    "started_at": AT,
    "completed_at": LATER,
    "restart_attempt": 1,
    "error": "NetworkError: 503",
    "queue": None,
}
_EVENT: dict[str, JsonValue] = {
    "seq": 3,
    "at": AT,
    "event": "StepFailed",
    "step_id": "charge",
    "attempt": 1,
    "error": "NetworkError",
}


class ExecutionList(BaseModel):
    """A page of executions, the latest started first.

    Attributes:
        executions: They; a search that takes long may find fewer than were asked for, and yet not be at its end.
        next: What the next page is asked for by, as ``cursor``; ``null`` at the end of the list.
    """

    model_config = example({"executions": [_SUMMARY], "next": "MjAyNi0xMS0yNlQwODozMDowMC4wMDAwMDArMDA6MDB8b3JkZXI"})

    executions: list[ExecutionSummary]
    next: str | None


class Owner(BaseModel):
    """The process that runs an execution."""

    host: str
    pid: int
    state: Literal["alive", "ended", "lease expired", "unknown"] | None


class StepDetails(BaseModel):
    """What is known of one step."""

    step_id: str
    status: StepStatus
    result: Any = None
    error: ErrorInfo | None
    attempt: int
    started_at: datetime | None
    completed_at: datetime | None
    kind: str | None = None
    handled_by: str | None = None
    wake_at: datetime | None = None
    next_attempt_at: datetime | None = None


class StepCircuit(BaseModel):
    """The circuit breaker of a step."""

    status: CircuitStatus
    failures: int
    probe_at: datetime | None


class ExecutionDetails(BaseModel):
    """Everything known of one execution but its history.

    Attributes:
        interrupted: Whether it should go on, and nobody runs it.
        restart_at: When the automatic restart after a panic is due.
        deadline_at: When it times out.
        dispatch: Where it stands in its queue, if it was handed to workers.
    """

    model_config = example(
        {
            "execution_id": "order-1001",
            "workflow_name": "order",
            "status": "sleeping",
            "input": {"item": "book"},
            "output": None,
            "error": None,
            "started_at": AT,
            "completed_at": None,
            "restart_attempt": 1,
            "interrupted": False,
            "restart_at": None,
            "deadline_at": None,
            "owner": {"host": "machine", "pid": 4711, "state": "alive"},
            "dispatch": None,
            "circuit_breakers": {"charge": {"status": "closed", "failures": 0, "probe_at": None}},
            "steps": {
                "charge": {
                    "step_id": "charge",
                    "status": "completed",
                    "result": "tx-1",
                    "error": None,
                    "attempt": 1,
                    "started_at": AT,
                    "completed_at": AT,
                    "kind": "step",
                    "handled_by": None,
                    "wake_at": None,
                    "next_attempt_at": None,
                }
            },
        }
    )

    execution_id: str
    workflow_name: str
    status: ExecutionStatus
    input: Any = None
    output: Any = None
    error: ErrorInfo | None
    started_at: datetime
    completed_at: datetime | None
    restart_attempt: int
    interrupted: bool
    restart_at: datetime | None
    deadline_at: datetime | None
    owner: Owner | None
    dispatch: DispatchDetails | None
    circuit_breakers: dict[str, StepCircuit]
    steps: dict[str, StepDetails]


class HistoryEvent(BaseModel):
    """One event of a history, with the fields of its own kind.

    Attributes:
        seq: Its position in the history, counted from 1.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_EVENT]})

    seq: int
    at: datetime
    event: str
    step_id: str | None = None
    attempt: int | None = None


class EventList(BaseModel):
    """A history, oldest event first."""

    model_config = example({"events": [_EVENT]})

    events: list[HistoryEvent]


class StepError(BaseModel):
    """An error that a step met, with the traceback as it was stored."""

    step_id: str
    attempt: int
    type: str
    message: str
    at: datetime
    traceback: str | None


class ErrorList(BaseModel):
    """The errors of an execution, oldest first."""

    model_config = example(
        {
            "errors": [
                {
                    "step_id": "charge",
                    "attempt": 1,
                    "type": "NetworkError",
                    "message": "503",
                    "at": AT,
                    "traceback": None,
                }
            ]
        }
    )

    errors: list[StepError]


class TimelineBar(BaseModel):
    """Something that lasts: an attempt or a wait; ``left`` and ``right`` are positions on the scale."""

    kind: str
    lane: int
    left: float
    right: float
    text: str
    length_ms: float
    seq: int


class TimelineMark(BaseModel):
    """Something that happened at one position."""

    kind: str
    lane: int
    position: float
    text: str
    seq: int


class TimelineData(BaseModel):
    """A history laid out to be drawn; positions run from 0 to ``width``, and long waits are shortened.

    Attributes:
        lanes: The names of the lanes: the execution's own, then the steps in the order of their first events.
        left_out: How many of the latest events are not in it.
    """

    model_config = example(
        {
            "width": 1000.0,
            "lanes": ["execution", "charge"],
            "bars": [
                {
                    "kind": "completed",
                    "lane": 1,
                    "left": 0.0,
                    "right": 250.0,
                    "text": "attempt 1",
                    "length_ms": 20.0,
                    "seq": 3,
                }
            ],
            "marks": [],
            "left_out": 0,
        }
    )

    width: float
    lanes: list[str]
    bars: list[TimelineBar]
    marks: list[TimelineMark]
    left_out: int


class LogEntry(BaseModel):
    """One line of a log, with the fields that it has."""

    model_config = ConfigDict(extra="allow")

    at: datetime
    level: Level


class LogLines(BaseModel):
    """The latest lines of a log, oldest first."""

    model_config = example({"lines": [{"at": AT, "level": "info", "execution": "order-1001", "message": "paid"}]})

    lines: list[LogEntry]
