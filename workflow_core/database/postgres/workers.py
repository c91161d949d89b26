"""What a store knows of its workers, and of the queues that they serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from workflow_core.database.dispatch import MISSED_HEARTBEATS, ClusterState, DispatchState, QueueState, WorkerState
from workflow_core.database.postgres.dispatching import DispatchStore
from workflow_core.database.postgres.points import utc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

__all__ = ["Sign", "WorkerStore"]

_JOINED: Final = (
    "INSERT INTO {s}.workers (worker_id, host, pid, queues, concurrency, heartbeat)"
    " VALUES (%(worker)s, %(host)s, %(pid)s, %(queues)s::text[], %(concurrency)s,"
    " %(heartbeat_ms)s * interval '1 millisecond') RETURNING 1"
)
_LIVES: Final = f"p.last_heartbeat > clock_timestamp() - {MISSED_HEARTBEATS} * w.heartbeat"
"""Whether a worker gives signs of life."""
_LEAVES: Final = "UPDATE {s}.workers SET queues = ARRAY[]::text[] WHERE worker_id = %(worker)s RETURNING 1"
_LEFT: Final = "DELETE FROM {s}.workers WHERE worker_id = %(worker)s RETURNING 1"
_GONE: Final = (
    "DELETE FROM {s}.workers w WHERE NOT EXISTS (SELECT 1 FROM {s}.procrastinate_workers p WHERE p.id = w.worker_id)"
    " RETURNING 1"
)
_JOBS: Final = "SELECT id FROM {s}.procrastinate_jobs WHERE worker_id = %(worker)s AND status = 'doing'"
_SIGNS: Final = (
    f"SELECT p.id, p.last_heartbeat, extract(epoch FROM w.heartbeat)::float8, NOT {_LIVES}"
    " FROM {s}.procrastinate_workers p CROSS JOIN LATERAL (SELECT coalesce((SELECT heartbeat FROM {s}.workers"
    " WHERE worker_id = p.id), %(heartbeat_ms)s * interval '1 millisecond') AS heartbeat) w ORDER BY p.id"
)
"""By each worker's own heartbeat: it need not be that of who looks."""
_LEFT_JOBS: Final = (
    "SELECT j.id, j.worker_id FROM {s}.procrastinate_jobs j WHERE j.status = 'doing' AND (j.worker_id IS NULL"
    " OR j.worker_id = ANY(%(dead)s::bigint[])) ORDER BY j.id"
)
_CANCELLED: Final = "SELECT id FROM {s}.executions WHERE id = ANY(%(ids)s::text[]) AND status = 'cancelled'"
_WORKERS: Final = (
    "SELECT w.worker_id, w.host, w.pid, w.queues, w.concurrency, w.started_at, p.last_heartbeat,"
    f" {_LIVES},"
    " (SELECT count(*) FROM {s}.procrastinate_jobs j JOIN {s}.dispatches d ON d.job_id = j.id AND d.state = 'claimed'"
    " WHERE j.worker_id = w.worker_id AND j.status = 'doing')"
    " FROM {s}.workers w JOIN {s}.procrastinate_workers p ON p.id = w.worker_id ORDER BY w.host, w.pid, w.worker_id"
)
_IS_SCHEDULED: Final = "state = 'waiting' AND NOT has_started AND first_start_at IS NOT NULL"
"""What a rate limit keeps waiting, until a moment that is known."""
_RUN_BY: Final = (
    f" LEFT JOIN LATERAL (SELECT p.last_heartbeat, {_LIVES} AS lives"
    " FROM {s}.procrastinate_jobs j JOIN {s}.workers w ON w.worker_id = j.worker_id"
    " JOIN {s}.procrastinate_workers p ON p.id = w.worker_id"
    " WHERE d.state = 'claimed' AND j.id = d.job_id) by_worker ON true"
)
"""Whether the worker that runs an execution gives signs of life."""
_QUEUES: Final = (
    "SELECT queue, count(*) FILTER (WHERE state = 'queued'),"
    f" count(*) FILTER (WHERE {_IS_SCHEDULED}),"
    f" count(*) FILTER (WHERE state = 'waiting' AND NOT ({_IS_SCHEDULED})),"
    " count(*) FILTER (WHERE state = 'claimed' AND lives),"
    " count(*) FILTER (WHERE state = 'claimed' AND lives IS NOT TRUE),"
    " count(*) FILTER (WHERE state = 'parked'),"
    " min(CASE WHEN state = 'queued' THEN queued_at WHEN state = 'claimed' AND NOT lives THEN last_heartbeat END)"
    f" FROM {{s}}.dispatches d{_RUN_BY} WHERE state <> 'ended' GROUP BY queue"
)
_DISPATCHED: Final = (
    f"SELECT d.queue, d.priority, d.limit_key, CASE WHEN {_IS_SCHEDULED} THEN 'scheduled'"
    " WHEN d.state = 'waiting' THEN 'limited' WHEN d.state = 'claimed' AND lives THEN 'running'"
    " WHEN d.state = 'claimed' THEN 'lost' WHEN d.state = 'queued' THEN 'ready' ELSE d.state END,"
    " d.queued_at, d.due_at, d.first_start_at,"
    " (SELECT count(*) FROM {s}.workers w JOIN {s}.procrastinate_workers p ON p.id = w.worker_id"
    f" WHERE d.queue = ANY (w.queues) AND {_LIVES})"
    f" FROM {{s}}.dispatches d{_RUN_BY} WHERE d.execution_id = %(id)s"
)
_NOW: Final = "SELECT clock_timestamp(), to_regclass(%(table)s) IS NOT NULL"
_NOTHING: Final = (0, 0, 0, 0, 0, 0, None)


class Sign(NamedTuple):
    """The last sign of life of a worker.

    Attributes:
        worker_id: Its number.
        given_at: When it was given.
        heartbeat_seconds: How often it gives one.
        is_silent: Whether it should have given three since.
    """

    worker_id: int
    given_at: datetime
    heartbeat_seconds: float
    is_silent: bool


class WorkerStore(DispatchStore):
    """A store that knows its workers."""

    async def worker_joined(
        self, worker_id: int, host: str, pid: int, queues: Sequence[str], concurrency: int, heartbeat_ms: int
    ) -> None:
        """Note a worker, and forget those that have ended without a word."""
        values = {
            "worker": worker_id,
            "host": host,
            "pid": pid,
            "queues": list(queues),
            "concurrency": concurrency,
            "heartbeat_ms": heartbeat_ms,
        }
        await self.fetch(_GONE)
        await self.fetch(_JOINED, values)

    async def worker_leaves(self, worker_id: int) -> None:
        """Note that a worker begins nothing more, so that it serves no queue while what it runs comes to its end."""
        await self.fetch(_LEAVES, {"worker": worker_id})

    async def worker_left(self, worker_id: int) -> None:
        """Forget a worker."""
        await self.fetch(_LEFT, {"worker": worker_id})

    async def jobs_of_worker(self, worker_id: int) -> set[int]:
        """Return the numbers of the jobs that a worker was given."""
        return {job_id for (job_id,) in await self.fetch(_JOBS, {"worker": worker_id})}

    async def signs_of_life(self, heartbeat_ms: int) -> list[Sign]:
        """Return the last sign of life of each worker.

        Args:
            heartbeat_ms: How often a worker gives one, in milliseconds, that has not told yet.
        """
        return [
            Sign(row[0], utc(row[1]), row[2], row[3])
            for row in await self.fetch(_SIGNS, {"heartbeat_ms": heartbeat_ms})
        ]

    async def left_jobs(self, dead: Sequence[int]) -> list[tuple[int, int | None]]:
        """Return the jobs of workers that are dead, or forgotten, each with its number and that of its worker."""
        return [(job_id, worker_id) for job_id, worker_id in await self.fetch(_LEFT_JOBS, {"dead": list(dead)})]

    async def cancelled_among(self, execution_ids: Sequence[str]) -> set[str]:
        """Return which of some executions are cancelled."""
        rows = await self.fetch(_CANCELLED, {"ids": list(execution_ids)})
        return {execution_id for (execution_id,) in rows}

    async def cluster_state(self) -> ClusterState:
        """Read what workers and queues there are, and what they do; where no queue was ever made, there are none."""
        table = f"{self.schema}.procrastinate_workers"
        ((now, has_queue),) = await self.fetch(_NOW, {"table": table})
        if not has_queue:
            return ClusterState(utc(now), (), ())
        workers = [
            WorkerState(row[0], row[1], row[2], tuple(row[3]), row[4], utc(row[5]), utc(row[6]), row[7], row[8])
            for row in await self.fetch(_WORKERS)
        ]
        found = {row[0]: row[1:] for row in await self.fetch(_QUEUES)}
        served = {queue for worker in workers for queue in worker.queues}
        queues = []
        for name in sorted(found.keys() | served):
            ready, scheduled, limited, running, lost, parked, oldest = found.get(name, _NOTHING)
            lag_ms = 0 if oldest is None else max(0, round((now - oldest).total_seconds() * 1_000))
            alive = sum(worker.is_alive and name in worker.queues for worker in workers)
            queues.append(QueueState(name, ready, scheduled, limited, running, lost, parked, lag_ms, alive))
        return ClusterState(utc(now), workers, queues)

    async def dispatch_state(self, execution_id: str) -> DispatchState | None:
        """Read where an execution stands."""
        for queue, priority, limit_key, place, queued_at, due_at, first_start_at, workers in await self.fetch(
            _DISPATCHED, {"id": execution_id}
        ):
            since = utc(queued_at) if place == "ready" else None
            until = {"scheduled": first_start_at, "parked": due_at}.get(place)
            return DispatchState(
                queue, priority, limit_key, place, since, None if until is None else utc(until), workers
            )
        return None
