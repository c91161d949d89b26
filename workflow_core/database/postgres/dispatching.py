"""The durable points of executions that workers run; the functions they call are in `dispatch_schema`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workflow_core.clock import from_epoch_ms
from workflow_core.database.dispatch import Claim
from workflow_core.database.postgres.definitions import DefinitionStore
from workflow_core.database.postgres.executions import DEFINITION, IS_RELEASED, new_values
from workflow_core.database.postgres.groups import Kind
from workflow_core.database.postgres.points import utc
from workflow_core.database.postgres.queue_schema import make_queue
from workflow_core.database.postgres.reading import EXECUTION_COLUMNS, execution_record

if TYPE_CHECKING:
    from datetime import datetime

    from workflow_core.database.dispatch import Dispatch
    from workflow_core.database.postgres.connections import Connection
    from workflow_core.database.postgres.groups import Row
    from workflow_core.database.store import ExecutionRecord, Lease, NewExecution
    from workflow_core.limits import Limits
    from workflow_core.ownership import Owner

__all__ = ["DispatchStore"]

_LIMITED: Final = (
    "SELECT {s}.note_limits(%(workflow)s, %(concurrency)s::bigint, %(concurrency_per_key)s::bigint,"
    " %(starts)s::bigint, %(starts_per_key)s::bigint, %(period_ms)s * interval '1 millisecond', %(held)s,"
    " %(age_ms)s * interval '1 millisecond')"
)
_APPLIED: Final = "SELECT {s}.apply_limits(%(workflow)s, %(limit)s)"
_UNAPPLIED: Final = "SELECT workflow_name FROM {s}.limits WHERE applied_up_to IS NOT NULL"
_KEYS_AT_ONCE: Final = 1_000
"""To so many keys limits are applied in one transaction, for which those who enqueue have to wait."""
_ADMITTED: Final = (
    "SELECT behind_workflow, behind_key, admitted FROM {s}.admit_some_missed(%(workflow)s, %(key)s, %(limit)s)"
)
_NEXT_START: Final = (
    "SELECT ceil(extract(epoch FROM min(first_start_at) - clock_timestamp()) * 1000)::bigint FROM {s}.dispatches"
    " WHERE state = 'waiting' AND NOT has_started"
)
_ENQUEUED: Final = (
    "SELECT {s}.enqueue(%(id)s, %(workflow)s, %(at)s, %(input)s::text, %(retry_config)s, %(panic_config)s,"
    " %(deadline_at)s::bigint, %(revision)s::text, %(token)s, %(queue)s, %(priority)s, %(limited)s, %(key)s::text)"
)
_CLAIMED: Final = (
    # A worker that was stopped may come with a job that was given to another one meanwhile.
    "WITH mine AS MATERIALIZED (SELECT %(id)s::text AS id WHERE %(worker)s::bigint IS NULL OR EXISTS ("
    "SELECT 1 FROM {s}.procrastinate_jobs WHERE id = %(job)s AND worker_id = %(worker)s::bigint AND status = 'doing'))"
    # One that this engine has claimed already, by a try whose answer was lost, nobody has left.
    " SELECT CASE WHEN c.kind <> 'abandoned' OR (c.execution).owner_id IS DISTINCT FROM %(owner)s THEN c.kind"
    " WHEN (c.execution).revision > 1 OR EXISTS (SELECT FROM {s}.steps WHERE execution_id = mine.id)"
    " OR EXISTS (SELECT FROM {s}.event_log WHERE execution_id = mine.id) THEN 'woken' ELSE 'begun' END,"
    f" {EXECUTION_COLUMNS.replace('e.', '(c.execution).')}"
    " FROM mine CROSS JOIN LATERAL {s}.claim(mine.id, %(job)s, %(owner)s, %(at)s) c"
)
_CLAIMED_TOGETHER: Final = Kind(
    {"id": "text", "job": "bigint", "owner": "text", "at": "timestamptz", "worker": "bigint"},
    2,
    "NO KEY UPDATE",
    "UPDATE {s}.executions e SET owner_id = held.owner, fencing_token = e.fencing_token + 1,"
    " status = CASE WHEN e.status IN ('sleeping', 'panicked') THEN e.status ELSE 'running' END,"
    " revision = e.revision + 1, updated_at = held.at FROM held WHERE e.id = held.execution_id"
    f" RETURNING e.id, held.job_id, held.kind, {EXECUTION_COLUMNS}",
    # What another worker has left is claimed by itself.
    "held AS (SELECT d.execution_id, d.job_id, CASE WHEN d.has_started THEN 'woken' ELSE 'begun' END AS kind,"
    " fence.owner, fence.at FROM fence JOIN {s}.dispatches d ON d.execution_id = fence.id AND d.job_id = fence.job"
    " WHERE d.state = 'queued' AND (NOT d.has_started OR d.due_at IS NOT NULL)"
    " AND (fence.worker IS NULL OR EXISTS (SELECT 1 FROM {s}.procrastinate_jobs j"
    " WHERE j.id = fence.job AND j.worker_id = fence.worker AND j.status = 'doing'))"
    " FOR UPDATE OF d SKIP LOCKED),"
    " claimed AS (UPDATE {s}.dispatches d SET state = 'claimed', has_started = true, due_at = NULL, first_start_at ="
    " CASE WHEN d.has_started OR NOT d.is_limited THEN d.first_start_at ELSE clock_timestamp() END FROM held"
    " WHERE d.execution_id = held.execution_id), ",
)

_PARKED: Final = (
    "WITH held AS (SELECT id FROM {s}.executions WHERE id = %(id)s AND fencing_token = %(token)s FOR NO KEY UPDATE)"
    " SELECT {s}.park(id, CASE WHEN %(due_at)s <= %(at)s OR clock_timestamp() < %(at)s + interval '1 second'"
    " THEN %(due_at)s ELSE clock_timestamp() + (%(due_at)s - %(at)s) END) FROM held"
)
"""By the server's clock. If the worker's is behind that, as much time has to pass as is left by the worker's: else it
would be woken, and found too early, again and again."""
_LET_GO: Final = (
    "UPDATE {s}.executions SET owner_id = NULL, fencing_token = fencing_token + 1, revision = revision + 1,"
    " updated_at = %(at)s WHERE id = %(id)s"
)


class DispatchStore(DefinitionStore):
    """A store whose executions workers can run; see `workflow_core.database.dispatch.Dispatches`."""

    _has_queue = False

    async def make_queue(self) -> None:
        """Make the tables of the queue, or bring them up to date."""
        if not self._has_queue:

            async def made(connection: Connection) -> None:
                await make_queue(connection, self.schema)

            await self.together(made)
            self._has_queue = True

    async def limits_noted(self, workflow_name: str, limits: Limits | None, age_ms: int = 0) -> None:
        """Note the limits of a workflow, unless those of a newer definition were noted."""
        values = {
            "workflow": workflow_name,
            "concurrency": None,
            "concurrency_per_key": None,
            "starts": None,
            "starts_per_key": None,
            "period_ms": 0,
            "held": True,
            "age_ms": age_ms,
        }
        if limits is not None:
            values |= limits.model_dump(exclude={"key", "held_while_waiting"}) | {"held": limits.held_while_waiting}
        ((has_more,),) = await self.fetch(_LIMITED, values)
        if has_more:
            await self._apply_limits(workflow_name)

    async def _apply_limits(self, workflow_name: str) -> None:
        """Apply new limits of a workflow to those that wait, or go on with it where somebody else is, or was."""
        has_more = True
        while has_more:
            ((has_more,),) = await self.fetch(_APPLIED, {"workflow": workflow_name, "limit": _KEYS_AT_ONCE})

    async def execution_enqueued(
        self, execution: NewExecution, dispatch: Dispatch, at: datetime
    ) -> ExecutionRecord | None:
        """Record a new execution and hand it to the workers."""
        await self.make_queue()
        values = {
            **new_values(execution, at),
            "queue": dispatch.queue,
            "priority": dispatch.priority,
            "limited": dispatch.limits is not None,
            "key": dispatch.limit_key,
        }

        sql = _ENQUEUED if execution.definition_document is None else f"WITH {DEFINITION.rstrip(', ')} {_ENQUEUED}"
        while True:
            ((written,),) = await self.fetch(sql, values)
            if written:
                return None
            found = await self.load_execution(execution.execution_id)
            if found is not None:
                break  # else it was removed while this statement ran
        ours = (
            found.queue == dispatch.queue
            and (found.workflow_name, found.input_data) == (execution.workflow_name, execution.input_data)
            and found.started_at == at
            and found.fencing_token >= execution.fencing_token
        )
        return None if ours else found

    async def execution_claimed(
        self,
        execution_id: str,
        job_id: int,
        owner: Owner,
        lease_expires_at: int | None,
        at: datetime,
        worker_id: int | None = None,
    ) -> Claim | None:
        """Claim an execution for a worker that has fetched its job, unless the job is another worker's by now."""
        await self.owner_recorded(owner, lease_expires_at)
        values = {"id": execution_id, "job": job_id, "owner": owner.owner_id, "at": at, "worker": worker_id}
        claimed: Row | None = None

        async def by_itself() -> None:
            nonlocal claimed
            for row in await self.fetch(_CLAIMED, values):
                claimed = row

        claimed = await self._groups.write(_CLAIMED_TOGETHER, tuple(values.values()), by_itself) or claimed
        return None if claimed is None else Claim(execution_record(claimed[1:]), claimed[0])

    async def execution_parked(self, lease: Lease, due_at: int, at: datetime) -> None:
        """Let go of an execution until a moment."""
        values = {"due_at": from_epoch_ms(due_at), "at": at, "owner": None}
        await self._change_hands(lease, _PARKED, _LET_GO, values, IS_RELEASED)

    async def wake_due(self, at_most: int = 1_000) -> int:
        """Queue parked executions that are due, and those that a rate limit lets begin by now; return how many."""
        ((count,),) = await self.fetch("SELECT {s}.wake_due(%(limit)s)", {"limit": at_most})
        return int(count)

    async def next_start_ms(self) -> int | None:
        """Return in how many milliseconds a rate limit lets an execution begin; ``None`` if none waits for one."""
        ((milliseconds,),) = await self.fetch(_NEXT_START)
        return None if milliseconds is None else max(0, int(milliseconds))

    async def admit_missed(self) -> int:
        """Queue executions that limits let begin, and that nobody has told; return how many."""
        for (workflow_name,) in await self.fetch(_UNAPPLIED):
            await self._apply_limits(workflow_name)
        admitted = 0
        workflow_name, key = "", ""
        while workflow_name is not None:
            values = {"workflow": workflow_name, "key": key, "limit": _KEYS_AT_ONCE}
            ((workflow_name, key, count),) = await self.fetch(_ADMITTED, values)
            admitted += count
        return admitted

    async def mend_future(self, known: datetime | None) -> datetime:
        """Let no moment of the server's future hold anything up: its clock was set back since.

        Args:
            known: A moment that the server's clock has shown; ``None`` if none is known.

        Returns:
            What it shows now.
        """
        ((now,),) = await self.fetch("SELECT {s}.mend_future(%(known)s::timestamptz)", {"known": known})
        return utc(now)

    async def queue_orphans(self, older_than_ms: int) -> int:
        """Queue executions again whose job has disappeared; return how many.

        Args:
            older_than_ms: For how long nothing must have happened to them, in milliseconds.
        """
        ((count,),) = await self.fetch(
            "SELECT {s}.queue_orphans(%(ms)s * interval '1 millisecond')", {"ms": older_than_ms}
        )
        return int(count)
