"""A store on PostgreSQL with what clients and workers do with it, one call after the other."""

from tests.unit.store_calls import NOW
from workflow_core.database.dispatch import Dispatch
from workflow_core.database.store import Lease, NewExecution
from workflow_core.ownership import Owner

OWNER, OTHER = Owner("host", 1, "0", "one"), Owner("host", 2, "0", "two")


class Cluster:
    """A store, and what a worker does with it."""

    def __init__(self, store, limits=None):
        self.store = store
        self.limits = limits

    async def enqueue(self, execution_id, *, noted=True, **dispatch):
        if self.limits is not None and noted:
            await self.store.limits_noted("w", self.limits)
        new = NewExecution("w", execution_id, None, "{}", "{}", None)
        return await self.store.execution_enqueued(new, Dispatch(limits=self.limits, **dispatch), NOW)

    async def job(self, execution_id):
        rows = await self.store.fetch(
            "SELECT job_id FROM {s}.dispatches WHERE execution_id = %(id)s", {"id": execution_id}
        )
        return rows[0][0]

    async def claim(self, execution_id, owner=OWNER):
        job = await self.job(execution_id)
        return None if job is None else await self.store.execution_claimed(execution_id, job, owner, None, NOW)

    async def run(self, execution_id):
        lease = lease_of(await self.claim(execution_id))
        await self.store.execution_completed(lease, None, False, 2, NOW)

    async def states(self):
        rows = await self.store.fetch("SELECT execution_id, state FROM {s}.dispatches ORDER BY position")
        return dict(rows)

    async def jobs(self):
        rows = await self.store.fetch(
            "SELECT args ->> 'execution_id', scheduled_at > now() FROM {s}.procrastinate_jobs ORDER BY id"
        )
        return [execution_id for execution_id, _ in rows], [bool(later) for _, later in rows]

    async def past(self, seconds):
        """Let time pass, as far as rate limits and parked executions see it."""
        await self.store.fetch(
            "UPDATE {s}.dispatches SET first_start_at = first_start_at - %(s)s * interval '1 second',"
            " due_at = due_at - %(s)s * interval '1 second' RETURNING 1",
            {"s": seconds},
        )


async def in_schema(store, *statements):
    """Run statements with the schema in the search path, as Procrastinate does."""

    async def work(connection):
        async with connection.transaction():
            for statement in (f"SET LOCAL search_path = {store.schema}", *statements):
                await connection.execute(statement)

    await store.together(work)


def lease_of(claim):
    return Lease("w", claim.record.execution_id, claim.record.fencing_token)
