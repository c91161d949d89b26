"""The workers and queues of a database, as they are shown and summed up."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from workflow_core.database.dispatch import Dispatches
from workflow_core.summaries import EXECUTION_STATUSES

if TYPE_CHECKING:
    from workflow_core.database.dispatch import ClusterState, WorkerState
    from workflow_core.engine import WorkflowEngine
    from workflow_core.models import ExecutionStatus

__all__ = ["QUEUE_PARTS", "ClusterView", "host_name", "possible_statuses", "read_cluster"]

QUEUE_PARTS: Final = ("running", "lost", "ready", "parked", "limited", "scheduled")
"""What a queue holds, in the order in which it is shown: attributes of a `QueueState`."""


@dataclass(frozen=True)
class ClusterView:
    """All workers and queues of a database at one moment."""

    state: ClusterState

    @property
    def is_empty(self) -> bool:
        """Whether there is neither a worker nor anything for one to do."""
        return not self.state.queues and not self.state.workers

    @property
    def workers(self) -> list[WorkerState]:
        """The workers, those that are lost first."""
        return sorted(self.state.workers, key=lambda worker: worker.is_alive)

    @property
    def alive(self) -> int:
        """How many workers give signs of life."""
        return sum(worker.is_alive for worker in self.state.workers)

    @property
    def lost(self) -> int:
        """How many workers give none any more, and have not been forgotten yet."""
        return len(self.state.workers) - self.alive

    @property
    def left_behind(self) -> int:
        """How many executions of lost workers no other one has taken over yet."""
        return sum(worker.running for worker in self.state.workers if not worker.is_alive)

    @property
    def slots(self) -> int:
        """How many executions the workers that are alive can run at once."""
        return sum(worker.concurrency for worker in self.state.workers if worker.is_alive)

    @property
    def slots_used(self) -> int:
        """How many they run."""
        return sum(worker.running for worker in self.state.workers if worker.is_alive)

    @property
    def lag_ms(self) -> int:
        """The longest lag of all queues, in milliseconds."""
        return max((queue.lag_ms for queue in self.state.queues), default=0)

    @property
    def unserved(self) -> list[str]:
        """The queues with executions that wait for a worker, and no worker to come."""
        return [queue.queue for queue in self.state.queues if (queue.ready or queue.lost) and not queue.workers]

    def data(self) -> dict[str, object]:
        """Return it as it is printed as JSON."""
        data = asdict(self.state)
        for worker in data["workers"]:
            worker["host"] = host_name(worker["host"])
        return data


def host_name(host: str) -> str:
    """Return the name of a worker's machine, without what tells one boot of it from another."""
    return host.partition("/")[0]


async def read_cluster(engine: WorkflowEngine) -> ClusterView | None:
    """Read the workers and queues of an engine's database; ``None`` if it has none, as SQLite.

    Raises:
        StorageError: The database cannot be read.
    """
    store = engine.bare_store
    return ClusterView(await store.cluster_state()) if isinstance(store, Dispatches) else None


def possible_statuses(engine: WorkflowEngine) -> tuple[ExecutionStatus, ...]:
    """Return the statuses that executions of an engine can have: without workers, none is ever queued."""
    has_workers = isinstance(engine.bare_store, Dispatches)
    return tuple(status for status in EXECUTION_STATUSES if has_workers or status != "queued")
