"""Executions that workers run: what a store does to enqueue them, claim them, and let go of them while they wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, runtime_checkable

from workflow_core.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from workflow_core.database.store import ExecutionRecord, Lease, NewExecution, Store
    from workflow_core.limits import Limits
    from workflow_core.ownership import Owner

__all__ = [
    "Claim",
    "ClaimKind",
    "ClusterState",
    "Dispatch",
    "DispatchPlace",
    "DispatchState",
    "Dispatches",
    "MISSED_HEARTBEATS",
    "NoWorkersError",
    "QueueState",
    "WorkerState",
    "dispatching",
]

MISSED_HEARTBEATS: Final = 3
"""A worker that has given no sign of life for so many of its heartbeats counts as dead."""

ClaimKind: TypeAlias = Literal["begun", "woken", "abandoned"]
"""How a worker comes to an execution: it is the first one, or it waited, or another worker has left it."""

DispatchPlace: TypeAlias = Literal["ready", "scheduled", "limited", "running", "lost", "parked", "ended"]
"""Where an execution stands: it could be begun now; it is the next that a rate limit lets begin; a limit of its
workflow keeps it waiting; a worker runs it; one ran it that gives no sign of life any more, so another one will; it
sleeps, backs off, or waits for its restart without one; it is at rest."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """How an execution is handed to workers.

    Attributes:
        queue: The queue whose workers run it.
        priority: Those with a greater number are run first.
        limits: The limits of its workflow, if it has any.
        limit_key: Its key, for the limits of those with the same key.
    """

    queue: str = "default"
    priority: int = 0
    limits: Limits | None = None
    limit_key: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """An execution that a worker is to run now.

    Attributes:
        record: Its row. Of one that was left by another worker, it is still the owner's that is gone.
        kind: How the worker comes to it. Unless it was left by another one, this process owns it already.
    """

    record: ExecutionRecord
    kind: ClaimKind


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker.

    Attributes:
        queues: The queues that it serves; none once it is told to stop, while what it runs comes to its end.
        is_alive: Whether it has given a sign of life lately; else its executions are about to be run by others.
        running: How many executions it runs.
        last_heartbeat: Its last sign of life.
    """

    worker_id: int
    host: str
    pid: int
    queues: tuple[str, ...]
    concurrency: int
    started_at: datetime
    last_heartbeat: datetime
    is_alive: bool
    running: int


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue, as far as its executions are not at rest.

    Attributes:
        ready: How many could be begun now.
        scheduled: How many are the next that a rate limit lets begin, at a later moment.
        limited: How many wait for a limit of their workflow.
        running: How many a worker runs.
        lost: How many a worker ran that gives no sign of life any more; others take them over.
        parked: How many sleep, back off, or wait for their restart, without a worker.
        lag_ms: For how long the one that waits longest for a worker has waited, in milliseconds: since it is ready, or
            since the last sign of life of a worker that was lost; 0 if none waits.
        workers: How many workers that are alive serve it.
    """

    queue: str
    ready: int
    scheduled: int
    limited: int
    running: int
    lost: int
    parked: int
    lag_ms: int
    workers: int


@dataclass(frozen=True, slots=True)
class ClusterState:
    """All workers and queues of a database.

    Attributes:
        read_at: The database's time.
    """

    read_at: datetime
    workers: Sequence[WorkerState]
    queues: Sequence[QueueState]


@dataclass(frozen=True, slots=True)
class DispatchState:
    """Where an execution stands that was handed to workers.

    Attributes:
        queue: The queue whose workers run it.
        priority: Those with a greater number are begun first.
        limit_key: Its key, for the limits of those with the same key.
        place: Where it stands.
        since: Since when it is ready; ``None`` if it is not.
        until: When it may begin, or is gone on with, if it is scheduled or parked; ``None`` otherwise.
        workers: How many workers that are alive serve the queue.
    """

    queue: str
    priority: int
    limit_key: str | None
    place: DispatchPlace
    since: datetime | None
    until: datetime | None
    workers: int


@runtime_checkable
class Dispatches(Protocol):
    """A store whose executions workers can run."""

    async def limits_noted(self, workflow_name: str, limits: Limits | None, age_ms: int = 0) -> None:
        """Note the limits of a workflow, for executions that wait already as well.

        Those of the definition hold that was made last, whichever process notes its own later: so a process of an older
        deployment does not bring its limits back.

        Args:
            workflow_name: The workflow.
            limits: Its limits; ``None`` for none.
            age_ms: How long ago the definition was made, in milliseconds.
        """

    async def execution_enqueued(
        self, execution: NewExecution, dispatch: Dispatch, at: datetime
    ) -> ExecutionRecord | None:
        """Record a new execution and hand it to the workers, together or not at all.

        Returns:
            ``None``, or the record of that id which was there already.
        """

    async def execution_claimed(
        self,
        execution_id: str,
        job_id: int,
        owner: Owner,
        lease_expires_at: int | None,
        at: datetime,
        worker_id: int | None = None,
    ) -> Claim | None:
        """Claim an execution for a worker that has fetched its job; ``None`` if the job is not that of it any more.

        It is ``None`` as well if a limit does not let it run now; then it has, or gets, another job. And it is ``None``
        if the worker is named, and the job was given to another one meanwhile, who took this one for dead. What the
        owner has claimed already by that job, or taken over, is not ``abandoned``: nobody has left it.
        """

    async def execution_parked(self, lease: Lease, due_at: int, at: datetime) -> None:
        """Let go of an execution until a moment, in milliseconds since 1970, at which a worker is to go on with it."""

    async def cancelled_among(self, execution_ids: Sequence[str]) -> set[str]:
        """Return which of some executions are cancelled."""

    async def cluster_state(self) -> ClusterState:
        """Read what workers and queues there are, and what they do."""

    async def dispatch_state(self, execution_id: str) -> DispatchState | None:
        """Read where an execution stands; ``None`` if it was not handed to workers."""


class NoWorkersError(ValidationError):
    """A store has no workers."""


def dispatching(store: Store) -> Dispatches:
    """Return a store as one whose executions workers can run.

    Raises:
        NoWorkersError: It has no workers.
    """
    if not isinstance(store, Dispatches):
        raise NoWorkersError(
            f"Workers need PostgreSQL, and the state is in {store.location()}: set WORKFLOW_DATABASE_URL to "
            "postgresql://user:password@host/database"
        )
    return store
