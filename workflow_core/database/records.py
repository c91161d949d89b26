"""What durable points are given and reads return: the rows of a database, and the right to write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from workflow_core.errors import LeaseLostError
from workflow_core.models import ErrorInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.crash_loops import Recoveries
    from workflow_core.models import ExecutionStatus, StepStatus

__all__ = [
    "ABANDONED",
    "CANCELLED",
    "CIRCUIT_IS_OPEN",
    "NOBODY",
    "UNFINISHED_STEPS",
    "CircuitChange",
    "ErrorRecord",
    "ExecutionRecord",
    "HistoryEnd",
    "Lease",
    "NewExecution",
    "StepRecord",
    "WholeExecution",
    "WorkflowRecord",
]

UNFINISHED_STEPS: frozenset[StepStatus] = frozenset({"pending", "running", "retrying", "sleeping"})
"""What a step cannot stay once its execution has ended."""

CIRCUIT_IS_OPEN = "the circuit is open"
"""Why a step waits for its ``on_open`` handler."""

CANCELLED = "the execution was cancelled"
"""The error of a step that was unfinished when its execution was cancelled."""

NOBODY = ""
"""The owner of an execution that broke out of its process: nobody, and not in an orderly way."""

ABANDONED = "the execution ended without it"
"""The error of a step that was still unfinished when its execution ended."""


class HistoryEnd(NamedTuple):
    """Where the history of an execution ends so far.

    Attributes:
        seq: The highest position in it.
        at: The latest moment in it. What is written next is not before that, whatever the clock of its writer says.
        changes: How often its steps were changed. Some changes take no position in a history, that a circuit refused an
            attempt for example.
    """

    seq: int
    at: datetime
    changes: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write one execution: good for as long as the stored fencing token is the same.

    Fencing tokens after M. Kleppmann, "Designing Data-Intensive Applications" (2017), chapter 8.

    Attributes:
        recovered: The place in the history of the recovery that it came with; ``None`` if it came otherwise.
    """

    workflow_name: str
    execution_id: str
    fencing_token: int
    recovered: HistoryEnd | None = field(default=None, compare=False)

    def lost(self) -> LeaseLostError:
        """Return the error of a lease that is not good any more."""
        return LeaseLostError(
            f'Execution "{self.execution_id}" of workflow "{self.workflow_name}" was taken over, ended or cancelled '
            "elsewhere; this process no longer writes it",
            self.execution_id,
        )


@dataclass(frozen=True, slots=True)
class NewExecution:
    """What is stored when an execution starts; ``deadline_at`` is milliseconds since 1970.

    The fencing token begins with the time, in milliseconds since 1970: the id of a removed execution can be used again,
    and whoever was stopped while it held that one must not be able to write to its successor.

    An execution of a declarative workflow keeps the document that it was started with, by the revision of that: it
    goes on with it after the workflow was changed.
    """

    workflow_name: str
    execution_id: str
    input_data: str | None
    retry_config: str
    panic_config: str
    deadline_at: int | None
    definition_revision: str | None = None
    definition_document: str | None = None
    fencing_token: int = 1


@dataclass(slots=True)
class ExecutionRecord:
    """One row of ``executions``.

    Attributes:
        queue: The queue whose workers run it; ``None`` if it runs in the process that started it.
    """

    execution_id: str
    workflow_name: str
    status: ExecutionStatus
    started_at: datetime
    completed_at: datetime | None
    restart_attempt: int
    error_data: str | None
    input_data: str | None
    output_data: str | None
    retry_config: str
    panic_config: str
    deadline_at: int | None
    restart_at: int | None
    owner_id: str | None
    fencing_token: int
    definition_revision: str | None = None
    queue: str | None = None

    @property
    def lease(self) -> Lease:
        """What a process writes to it with that has just read it."""
        return Lease(self.workflow_name, self.execution_id, self.fencing_token)


@dataclass(slots=True)
class StepRecord:
    """One row of ``steps``."""

    step_id: str
    kind: Literal["step", "sleep"] = "step"
    status: StepStatus = "pending"
    attempt: int = 0
    started_at: datetime | None = None
    completed_at: datetime | None = None
    result_data: str | None = None
    error_message: str | None = None
    handled_by: str | None = None
    next_attempt_at: int | None = None
    wake_time: int | None = None
    duration_ms: int | None = None
    started_seq: int | None = None
    completed_seq: int | None = None
    stored: bool = False

    @property
    def was_cut_off(self) -> bool:
        """Whether an attempt of it began that nothing has ended: the process did, if another attempt begins."""
        return self.status == "running" and self.started_seq is not None


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """One row of ``step_errors``.

    Attributes:
        error_data: JSON from which the error can be built again.
        error_stack: The traceback as text.
    """

    error_type: str
    error_message: str
    error_stack: str | None
    error_data: str | None
    attempt: int
    timestamp: int

    def info(self, step_id: str) -> ErrorInfo:
        """Return it as results show it, as the error of its step."""
        return ErrorInfo(type=self.error_type, message=self.error_message, step_id=step_id, attempt=self.attempt)


@dataclass(frozen=True, slots=True)
class CircuitChange:
    """How a durable point changes the circuit of its step.

    Attributes:
        transition: Pure function from the stored state to the new one; runs inside the transaction.
        seq: Position in the history for the event, if the transition changes the status.
    """

    transition: Callable[[CircuitState], CircuitState]
    seq: int


@dataclass(frozen=True, slots=True)
class WorkflowRecord:
    """One workflow that a store knows.

    Attributes:
        status: ``active`` or ``inactive``.
        execution_count: How many executions were started, those that were removed since included.
    """

    name: str
    status: str
    created_at: datetime
    last_execution_at: datetime | None
    execution_count: int

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> WorkflowRecord:
        """Make one of a row with name, status, two moments as text, and a count."""
        last = None if row[3] is None else datetime.fromisoformat(row[3])
        return cls(row[0], row[1], datetime.fromisoformat(row[2]), last, row[4])


class WholeExecution(NamedTuple):
    """What is needed to go on with an execution, read together.

    Attributes:
        record: Its row.
        steps: Its steps, by id.
        end: Where its history ends.
        errors: The errors of its steps, oldest first, each with its step id.
        recoveries: How often it was recovered since anything else has happened in it.
    """

    record: ExecutionRecord
    steps: dict[str, StepRecord]
    end: HistoryEnd
    errors: Sequence[tuple[str, ErrorRecord]]
    recoveries: Recoveries
