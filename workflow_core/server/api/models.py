"""The shapes of what the API answers about everything but executions: what `workflow --format json` prints."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, JsonValue

from workflow_core.limits import Limits
from workflow_core.models import CircuitStatus, ExecutionStatus, PanicConfig, RetryConfig
from workflow_core.server.api.examples import AT, LATER, example

__all__ = [
    "Circuit",
    "CircuitList",
    "Cleaned",
    "Readiness",
    "StatisticsDetails",
    "WorkflowDetails",
    "WorkflowEntry",
    "WorkflowList",
]

_CIRCUIT: dict[str, JsonValue] = {
    "workflow_name": "order",
    "step_id": "charge",
    "status": "open",
    "failures": 5,
    "last_failure_at": AT,
    "probe_at": LATER,
    "probing_execution": None,
}


class WorkflowEntry(BaseModel):
    """One workflow at a glance.

    Attributes:
        execution_count: How many executions were ever started.
        defined: Whether this server can start it.
        problem: Why its database cannot be read.
    """

    model_config = example(
        {
            "name": "order",
            "status": "active",
            "execution_count": 2,
            "executions_by_status": {"completed": 1, "sleeping": 1},
            "last_execution_at": LATER,
            "created_at": AT,
            "description": "Process an order.",
            "defined": True,
            "problem": None,
        }
    )

    name: str
    status: str
    execution_count: int
    executions_by_status: dict[ExecutionStatus, int]
    last_execution_at: datetime | None
    created_at: datetime | None
    description: str
    defined: bool
    problem: str | None


class WorkflowList(BaseModel):
    """All workflows, sorted by name."""

    workflows: list[WorkflowEntry]


class SecretReference(BaseModel):
    """A secret, without its value.

    Attributes:
        source: Where it is read from: ``env:NAME``, or ``memory``.
        is_set: Whether this server finds a value there.
    """

    source: str
    is_set: bool


class Configuration(BaseModel):
    """The configuration of a workflow.

    Attributes:
        problem: Why it cannot be read.
    """

    environment: str | None
    variables: dict[str, str]
    secrets: dict[str, SecretReference]
    problem: str | None


class WorkflowDetails(WorkflowEntry):
    """One workflow with its definition and configuration.

    Attributes:
        version: The workflow's own version.
        retry_config: For executions that are started without one.
        panic_config: For executions that are started without one.
        limits: How many of its executions run, and begin, at the same time on workers.
        document: The document that it is made of, if it is declarative.
        input_schema: JSON schema of its input, if the type of that is declared.
        config: Its configuration; of secrets, only where they are read from.
    """

    version: str | None
    retry_config: RetryConfig | None
    panic_config: PanicConfig | None
    limits: Limits | None
    document: dict[str, Any] | None
    input_schema: dict[str, Any] | None
    config: Configuration


class StatisticsInterval(BaseModel):
    """A part of the window."""

    begins_at: datetime
    completed: int
    failed: int
    cancelled: int


class StatisticsDetails(BaseModel):
    """What became of the executions that started within a window and have ended.

    Attributes:
        partial: Whether there are more than were looked at, so that the window begins with the earliest of these.
        success_rate: Completed ones of those that completed or failed, from 0 to 1.
        p50_ms: What half of the completed ones took at most, in milliseconds, sleeps included.
        p95_ms: What 95 of 100 completed ones took at most, in milliseconds.
        per_hour: How many ended ones started in an hour of the window.
        intervals: The window in equal parts, the earliest first.
    """

    workflow_name: str
    since: datetime
    until: datetime
    completed: int
    failed: int
    cancelled: int
    partial: bool
    success_rate: float | None
    p50_ms: float | None
    p95_ms: float | None
    longest_ms: float | None
    per_hour: float
    intervals: list[StatisticsInterval]


class Circuit(BaseModel):
    """The circuit breaker of one step, as it is stored."""

    model_config = example(_CIRCUIT)

    workflow_name: str
    step_id: str
    status: CircuitStatus
    failures: int
    last_failure_at: datetime | None
    probe_at: datetime | None
    probing_execution: str | None


class CircuitList(BaseModel):
    """Circuit breakers, sorted by workflow and step.

    Attributes:
        problems: Why those of some workflows cannot be read.
    """

    model_config = example({"circuits": [_CIRCUIT], "problems": {}})

    circuits: list[Circuit]
    problems: dict[str, str]


class Cleaned(BaseModel):
    """What a cleanup removed, or would remove.

    Attributes:
        before: Executions that came to rest earlier than this.
        removed: How many, by workflow.
        log_files: How many files of daily logs.
        problems: Why a workflow's database cannot be used, by workflow.
    """

    model_config = example(
        {
            "dry_run": True,
            "before": AT,
            "removed": {"order": 12},
            "log_files": 3,
            "bytes_freed": 0,
            "bytes_reusable": 0,
            "problems": {},
            "total": 12,
        }
    )

    dry_run: bool
    before: datetime
    removed: dict[str, int]
    log_files: int
    bytes_freed: int
    bytes_reusable: int
    problems: dict[str, str]
    total: int


class Readiness(BaseModel):
    """Whether the server can work.

    Attributes:
        status: ``ok``, or ``degraded`` if some databases cannot be read.
        databases: What is wrong, by workflow; ``null`` for a database that can be read.
        running: How many executions run in this process.
    """

    model_config = example({"status": "ok", "databases": {"order": None}, "running": 3})

    status: Literal["ok", "degraded"]
    databases: dict[str, str | None]
    running: int
