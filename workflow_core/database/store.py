"""What the engine asks of a database: one method for each durable point, and a few reads.

A durable point is one transaction that either happened or did not. Its method is named after what happened, and that
name is also the name of the place where a process can die. What the methods are given and return is defined in
`workflow_core.database.records`, and handed on here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from workflow_core.database.records import (
    ABANDONED,
    CANCELLED,
    CIRCUIT_IS_OPEN,
    NOBODY,
    UNFINISHED_STEPS,
    CircuitChange,
    ErrorRecord,
    ExecutionRecord,
    HistoryEnd,
    Lease,
    NewExecution,
    StepRecord,
    WholeExecution,
    WorkflowRecord,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence
    from datetime import datetime

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.crash_loops import Recoveries
    from workflow_core.database.removal import Candidate, Expiry, Space
    from workflow_core.database.rows import UnfinishedExecution
    from workflow_core.events import Event
    from workflow_core.models import ExecutionStatus
    from workflow_core.ownership import Owner
    from workflow_core.summaries import ExecutionSummary, Position

__all__ = [
    "ABANDONED",
    "CANCELLED",
    "CIRCUIT_IS_OPEN",
    "NOBODY",
    "DURABLE_POINTS",
    "UNFINISHED_STEPS",
    "HistoryEnd",
    "Lease",
    "NewExecution",
    "ExecutionRecord",
    "StepRecord",
    "WholeExecution",
    "ErrorRecord",
    "CircuitChange",
    "WorkflowRecord",
    "WorkflowStore",
    "Store",
    "KeepsDefinitions",
]

DURABLE_POINTS: tuple[str, ...] = (
    "execution_started",
    "execution_recovered",
    "execution_completed",
    "execution_failed",
    "execution_panicked",
    "execution_restarted",
    "execution_cancelled",
    "execution_released",
    "step_started",
    "step_completed",
    "step_attempt_failed",
    "step_retrying",
    "step_failed",
    "step_refused",
    "step_skipped",
    "sleep_started",
    "sleep_completed",
    "circuit_admitted",
    "circuit_forced",
)
"""The names of all durable points, which are methods of `WorkflowStore`; the first one is a method of `Store`."""


class WorkflowStore(Protocol):
    """A database of executions.

    Every writing method is one transaction, returns after its commit, and raises `LeaseLostError` if the lease is not
    good any more or the execution is not in a status that the method is for, and `StorageError` if the database cannot
    be written; in both cases nothing was written.
    ``status`` is the execution's new status where the point changes it, else ``None``. ``at`` is the engine's time. An
    execution changes hands no earlier than what is in its history already, whatever ``at`` says: it was asked before
    the row was locked, and clocks of machines differ.
    """

    async def execution_recovered(
        self, lease: Lease, owner: Owner, lease_expires_at: int | None, seq: int, at: datetime
    ) -> Lease:
        """Take an execution over that is not at rest; return the new lease. ``lease`` is what the taker saw.

        Of an execution that its process gave back, rather than died with, the history says ``released``. ``seq`` is
        where the taker saw the end of the history. If its last owner lives and has written since, the recovery has a
        later position, or its steps have more changes. One that sleeps, or waits for its restart, does so afterwards;
        every other one runs.
        """

    async def execution_completed(
        self,
        lease: Lease,
        output_data: str | None,
        abandoned_steps: bool,
        seq: int,
        at: datetime,
    ) -> None:
        """Record that the handler returned; with ``abandoned_steps`` the steps it left unfinished count as failed."""

    async def execution_failed(self, lease: Lease, error_data: str, message: str, seq: int, at: datetime) -> None:
        """Record that the execution failed for good."""

    async def execution_panicked(
        self,
        lease: Lease,
        error_data: str,
        message: str,
        restart_at: int | None,
        event_data: str,
        seq: int,
        at: datetime,
    ) -> None:
        """Record a panic, and when the automatic restart is due."""

    async def execution_restarted(
        self,
        lease: Lease,
        owner: Owner,
        lease_expires_at: int | None,
        restart_attempt: int,
        deadline_at: int | None,
        seq: int,
        at: datetime,
    ) -> Lease:
        """Begin a panicked or failed execution again; return the new lease.

        Completed steps are kept, sleeps keep their wake time, and all other steps get their attempts back.
        """

    async def execution_cancelled(self, lease: Lease, seq: int, at: datetime) -> None:
        """Record the cancellation of an execution that has not ended, free the probe it makes, and end the lease."""

    async def execution_released(self, lease: Lease, give_back: bool, at: datetime) -> None:
        """Give an unfinished execution back; with ``give_back`` an attempt in flight as well, else it is used up."""

    async def executions_released(self, leases: Sequence[Lease], at: datetime) -> None:
        """Give executions back of which nothing is under way, passing over those whose lease is not good any more."""

    async def load_execution(self, execution_id: str) -> ExecutionRecord | None:
        """Read an execution."""

    async def step_started(
        self, lease: Lease, step: StepRecord, attempt: int, seq: int, at: datetime, status: ExecutionStatus | None
    ) -> None:
        """Record that an attempt begins."""

    async def step_completed(
        self,
        lease: Lease,
        step: StepRecord,
        result_data: str | None,
        handled_by: str | None,
        seq: int,
        at: datetime,
        status: ExecutionStatus | None,
        circuit: CircuitChange | None,
    ) -> tuple[CircuitState, CircuitState] | None:
        """Record a step's result; return the circuit before and after, if there is one."""

    async def step_attempt_failed(
        self,
        lease: Lease,
        step: StepRecord,
        error: ErrorRecord,
        seq: int,
        at: datetime,
        status: ExecutionStatus | None,
        circuit: CircuitChange | None,
    ) -> tuple[CircuitState, CircuitState] | None:
        """Record that an attempt raised an error, and count it on the circuit."""

    async def step_retrying(
        self, lease: Lease, step: StepRecord, next_attempt_at: int, backoff_ms: int, seq: int, at: datetime
    ) -> None:
        """Record when the next attempt is due."""

    async def step_failed(
        self,
        lease: Lease,
        step: StepRecord,
        error: ErrorRecord,
        is_new: bool,
        at: datetime,
    ) -> None:
        """Record that a step failed for good; ``is_new`` if ``error`` is not that of its last attempt."""

    async def step_refused(
        self, lease: Lease, step: StepRecord, attempt: int, interrupted_seq: int | None, at: datetime
    ) -> None:
        """Record that a step's circuit is open and its ``on_open`` handler begins.

        ``interrupted_seq`` is where the history tells that the attempt before was cut off, if it was.
        """

    async def step_skipped(
        self, lease: Lease, step: StepRecord, result_data: str | None, seq: int, at: datetime
    ) -> None:
        """Record that a step is skipped, with the value that ``on_open`` or the workflow supplied."""

    async def sleep_started(
        self,
        lease: Lease,
        step: StepRecord,
        duration_ms: int,
        wake_time: int,
        seq: int,
        at: datetime,
        status: ExecutionStatus | None,
    ) -> None:
        """Record a durable sleep and when it ends."""

    async def sleep_completed(
        self, lease: Lease, step: StepRecord, seq: int, at: datetime, status: ExecutionStatus | None
    ) -> None:
        """Record that a durable sleep is over."""

    async def circuit_admitted(
        self,
        lease: Lease,
        step_id: str,
        admit: Callable[[CircuitState], tuple[bool, CircuitState]],
        seq: int,
        at: datetime,
    ) -> tuple[bool, CircuitState, CircuitState]:
        """Ask the circuit whether an attempt may run, and store what the question changed."""

    async def circuit_forced(
        self, workflow_name: str, step_id: str, transition: Callable[[CircuitState], CircuitState]
    ) -> CircuitState:
        """Set a circuit by hand; return its new state."""

    async def lease_renewed(
        self, owner: Owner, lease_expires_at: int | None, leases: Sequence[Lease]
    ) -> set[tuple[str, int]]:
        """Prolong an owner's lease; return the ids and fencing tokens of those ``leases`` that it still has."""

    async def load_steps(self, workflow_name: str, execution_id: str) -> tuple[dict[str, StepRecord], HistoryEnd]:
        """Read the steps of an execution, and the end of its history."""

    async def load_errors(
        self, workflow_name: str, execution_id: str, step_id: str | None = None
    ) -> Sequence[tuple[str, ErrorRecord]]:
        """Read the errors of an execution, or of one of its steps, oldest first, each with its step id."""

    async def load_events(self, workflow_name: str, execution_id: str, after: int = 0) -> list[Event]:
        """Read the history of an execution: the events whose position is greater than ``after``."""

    async def load_definition(self, revision: str) -> str | None:
        """Read the document of a declarative workflow, as executions of it were started with."""

    async def load_recoveries(self, workflow_name: str, execution_id: str) -> Recoveries:
        """Read how often an execution was recovered since anything else has happened in it."""

    async def load_whole(self, workflow_name: str, execution_id: str) -> WholeExecution | None:
        """Read all that is needed to go on with an execution, by one round trip where there are such.

        The row is read last. So if it has not changed hands, none of what was read is of who had it afterwards.
        """

    async def load_owner(self, owner_id: str) -> tuple[Owner, int | None] | None:
        """Read an owner, and when its lease expires."""

    def location(self, workflow_name: str | None = None) -> str:
        """Tell where the data lies, for people to read."""


class Store(Protocol):
    """All the databases of an engine: the executions of every workflow.

    Attributes:
        concurrency: How many calls at the same time are faster than one after another: 1 where nothing is waited for.
    """

    concurrency: int

    async def workflow_defined(self, workflow_name: str, definition: Mapping[str, object], at: datetime) -> None:
        """Make room for a workflow; does nothing if there is."""

    def workflow(self, workflow_name: str) -> WorkflowStore:
        """Return the store of one workflow's executions."""

    async def execution_started(
        self, execution: NewExecution, owner: Owner, lease_expires_at: int | None, at: datetime
    ) -> ExecutionRecord | None:
        """Record a new execution; return ``None``, or the record of that id which was there already."""

    async def owner_retired(self, owner: Owner) -> None:
        """Forget an owner that ended in an orderly way."""

    async def load_execution(self, execution_id: str) -> ExecutionRecord | None:
        """Read an execution."""

    async def find_execution_ids(self, prefix: str, limit: int) -> list[str]:
        """Read the ids that begin with a prefix, sorted."""

    async def list_workflows(self) -> list[WorkflowRecord]:
        """Read the workflows, sorted by name."""

    async def load_circuits(self, workflow_name: str | None = None) -> dict[tuple[str, str], CircuitState]:
        """Read the circuits by workflow name and step id."""

    async def unfinished_executions(
        self, after: Position | None = None, limit: int = 500, hindered: set[str] | None = None
    ) -> list[UnfinishedExecution]:
        """Read executions that are not at rest, the earliest started first, with their owners.

        Args:
            after: Those that stand behind this place in the list, which ``position`` tells of the last one read.
            limit: How many at most; fewer are the last ones.
            hindered: Where a store of several databases leaves those in it out, and adds the location of each that
                cannot be read now and may work again later, instead of raising an error. One that is damaged is left
                out too.
        """

    async def list_executions(
        self,
        workflow_name: str | None = None,
        status: Sequence[ExecutionStatus] | None = None,
        limit: int = 100,
        *,
        started_after: datetime | None = None,
        started_before: datetime | None = None,
        before: Position | None = None,
    ) -> list[ExecutionSummary]:
        """Read executions in short, the latest started first, and those behind the place ``before`` in that order."""

    async def search_executions(
        self,
        text: str,
        workflow_name: str | None = None,
        status: Sequence[ExecutionStatus] | None = None,
        limit: int = 100,
        looked_at: int = 5_000,
        *,
        started_after: datetime | None = None,
        started_before: datetime | None = None,
        before: Position | None = None,
    ) -> tuple[list[ExecutionSummary], Position | None]:
        """Read executions whose id or error message holds a text, whatever its case, the latest started first.

        One call is short, however many executions there are: it walks along the list, looks at about ``looked_at``
        executions, and says how far it came. Whoever wants more calls again with that as ``before``.

        Returns:
            At most ``limit`` that were found, and the place behind which to go on; ``None`` at the end of the list.
        """

    async def count_executions(self, workflow_name: str | None = None) -> dict[str, dict[ExecutionStatus, int]]:
        """Count the executions by workflow and status."""

    async def workflows_with_executions(self, workflow_name: str | None = None) -> list[str]:
        """Return the names of the workflows that have executions, or of those the one that is named."""

    async def executions_to_remove(
        self, workflow_name: str, expiry: Expiry, after: Position | None, limit: int
    ) -> list[Candidate]:
        """Read which executions of a workflow have expired, the earliest started first, behind the place ``after``."""

    async def executions_removed(
        self, workflow_name: str, expiry: Expiry, after: Position | None, limit: int, enough: Callable[[], bool]
    ) -> tuple[list[Candidate], Position | None]:
        """Remove expired executions, with their steps, errors and events; `removal_finished` is due after it.

        They go in one transaction, which ends early when ``enough`` says so. Return those that were removed, and the
        place behind which to go on; ``None`` at the end.
        """

    async def removal_finished(self, workflow_name: str) -> None:
        """Remove what is known of removed executions elsewhere, also of those that a process that died has removed."""

    async def logs_removed(self, workflow_name: str, before: datetime, dry_run: bool) -> int:
        """Remove a workflow's daily logs of the days that were over at ``before``; return how many."""

    async def space(self, workflow_name: str) -> Space:
        """Tell how much room a workflow's database takes."""

    async def shrunk(self, workflow_name: str, pages: int) -> bool:
        """Give free pages of a workflow's database back to the file system; return whether there may be more."""

    async def change_markers(self) -> Mapping[str, Hashable]:
        """Return, for each workflow that has executions, a value that is another one after every commit about it.

        Whoever shows executions live asks for this again and again, and reads only what has another value than before.
        So it is cheap, blocks no writer, and sees what other processes commit. Values are compared for equality with
        earlier ones of the same store; one may change without a reason, for example because workflows share a database.
        """

    def for_reading(self) -> Store | None:
        """Return another store of the same data, for a thread whose reads must not keep this one's writes waiting.

        ``None`` if there is no need, or no way: then reads go through this store. Whoever asks for it closes it.
        """

    def location(self, workflow_name: str | None = None) -> str:
        """Tell where the data lies, for people to read."""

    def wait_for_locks(self, location: str, *, wait: bool) -> None:
        """Tell whether writes to a database wait for another process's lock, or report it at once.

        Args:
            location: The database, as a `StorageError` names it.
            wait: ``False`` while whoever calls tries again by itself, and lets others run in between.
        """

    def close(self) -> None:
        """Let go of the database; later calls raise `StorageError`."""


@runtime_checkable
class KeepsDefinitions(Protocol):
    """A store that keeps the definitions of its workflows beside their executions, as a runtime directory in files."""

    def save_document(self, workflow_name: str, definition: Mapping[str, object]) -> bool:
        """Save the document of a declarative workflow; return whether anything had to be written."""

    def saved_definitions(self) -> Mapping[str, Mapping[str, object]]:
        """Read how the workflows are defined, by name; what has ``steps`` is a document."""
