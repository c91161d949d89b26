"""The shapes of what the API answers about workers and queues: what `workflow cluster status --format json` prints."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from workflow_core.database.dispatch import DispatchPlace
from workflow_core.server.api.examples import AT, LATER, example

__all__ = ["Cluster", "DispatchDetails"]


class Worker(BaseModel):
    """A worker.

    Attributes:
        queues: The queues that it serves; none once it is told to stop, while what it runs comes to its end.
        concurrency: How many executions it runs at once.
        last_heartbeat: Its last sign of life.
        is_alive: Whether it has given one lately; else its executions are about to be run by others.
        running: How many executions it runs.
    """

    worker_id: int
    host: str
    pid: int
    queues: list[str]
    concurrency: int
    started_at: datetime
    last_heartbeat: datetime
    is_alive: bool
    running: int


class Queue(BaseModel):
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


class Cluster(BaseModel):
    """All workers and queues of a database.

    Attributes:
        read_at: The database's time.
    """

    model_config = example(
        {
            "read_at": LATER,
            "workers": [
                {
                    "worker_id": 3,
                    "host": "machine",
                    "pid": 4711,
                    "queues": ["default", "mail"],
                    "concurrency": 10,
                    "started_at": AT,
                    "last_heartbeat": LATER,
                    "is_alive": True,
                    "running": 4,
                }
            ],
            "queues": [
                {
                    "queue": "default",
                    "ready": 12,
                    "scheduled": 0,
                    "limited": 2,
                    "running": 4,
                    "lost": 0,
                    "parked": 30,
                    "lag_ms": 250,
                    "workers": 1,
                }
            ],
        }
    )

    read_at: datetime
    workers: list[Worker]
    queues: list[Queue]


class DispatchDetails(BaseModel):
    """Where an execution stands that was handed to workers.

    Attributes:
        priority: Those with a greater number are begun first.
        limit_key: Its key, for the limits of those with the same key.
        place: `ready` if a worker could begin it now, `scheduled` if it is the next that a rate limit lets begin,
            `limited` if a limit of its workflow keeps it waiting, `running`, `lost` if a worker ran it that gives no
            sign of life any more, `parked` while it sleeps, backs off or waits for its restart without a worker, or
            `ended`.
        since: Since when it is ready.
        until: When it may begin, or is gone on with, if it is scheduled or parked.
        workers: How many workers that are alive serve the queue.
    """

    queue: str
    priority: int
    limit_key: str | None
    place: DispatchPlace
    since: datetime | None
    until: datetime | None
    workers: int
