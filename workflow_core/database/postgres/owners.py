"""The owners of executions, and their leases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workflow_core.database.postgres.steps import StepPoints

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from workflow_core.database.store import Lease
    from workflow_core.ownership import Owner

__all__ = ["OwnerPoints", "owner_values"]

_LEASE_TOLERANCE_MS: Final = 1_000
"""A lease that starting an execution would prolong by less than this is left as it is."""

_OWNER: Final = (
    "owner AS (INSERT INTO {s}.owners (owner_id, host, pid, process_started, lease_expires_at)"
    " VALUES (%(owner)s, %(host)s, %(pid)s, %(process_started)s, %(lease_expires_at)s::bigint)"
    " ON CONFLICT (owner_id) DO UPDATE SET lease_expires_at = excluded.lease_expires_at), "
)
_ALL_RELEASED: Final = (
    "UPDATE {s}.executions e SET owner_id = NULL, revision = e.revision + 1, updated_at = %(at)s"
    " FROM unnest(%(ids)s::text[], %(tokens)s::bigint[]) AS held (id, token)"
    " WHERE e.id = held.id AND e.fencing_token = held.token AND e.owner_id IS NOT NULL RETURNING 1"
)
_RENEWED: Final = (
    "WITH renewed AS (UPDATE {s}.owners SET lease_expires_at = %(lease_expires_at)s::bigint"
    " WHERE owner_id = %(owner)s) SELECT id, fencing_token FROM {s}.executions"
    " WHERE id = ANY(%(ids)s::text[]) AND owner_id = %(owner)s"
)


class OwnerPoints(StepPoints):
    """What a store knows of owners; see `workflow_core.database.store.WorkflowStore`."""

    _known_owners: dict[str, int | None]

    def forked(self) -> None:
        """Begin again in a child process, which has an owner of its own."""
        super().forked()
        self._known_owners = {}

    async def executions_released(self, leases: Sequence[Lease], at: datetime) -> None:
        """Give executions back of which nothing is under way."""
        values = {
            "ids": [lease.execution_id for lease in leases],
            "tokens": [lease.fencing_token for lease in leases],
            "at": at,
        }
        await self.fetch(_ALL_RELEASED, values)

    async def lease_renewed(
        self, owner: Owner, lease_expires_at: int | None, leases: Sequence[Lease]
    ) -> set[tuple[str, int]]:
        """Prolong an owner's lease; return the ids and fencing tokens of those ``leases`` that it still has."""
        values = {
            "owner": owner.owner_id,
            "lease_expires_at": lease_expires_at,
            "ids": [lease.execution_id for lease in leases],
        }
        rows = await self.fetch(_RENEWED, values)
        if owner.owner_id in self._known_owners:
            self._known_owners[owner.owner_id] = lease_expires_at
        return {(execution_id, token) for execution_id, token in rows}

    async def owner_retired(self, owner: Owner) -> None:
        """Forget an owner that ended in an orderly way."""
        if owner.owner_id in self._known_owners:
            await self.fetch("DELETE FROM {s}.owners WHERE owner_id = %(owner)s RETURNING 1", {"owner": owner.owner_id})
            del self._known_owners[owner.owner_id]

    async def owner_recorded(self, owner: Owner, lease_expires_at: int | None) -> None:
        """Record an owner, with a lease that is about as long, once for all who want it at the same time."""

        async def record() -> None:
            part = self._owner_part(owner, lease_expires_at)
            if part:
                await self.fetch(f"WITH {part.rstrip(', ')} SELECT 1", owner_values(owner, lease_expires_at))
                self._note_owner(part, owner, lease_expires_at)

        if self._owner_part(owner, lease_expires_at):
            await self._groups.in_order(owner.owner_id, record)

    def _owner_part(self, owner: Owner, lease_expires_at: int | None) -> str:
        """Return what records an owner, unless it is known to be recorded, with a lease that is about as long."""
        known = self._known_owners.get(owner.owner_id, 0)
        if known is None or (lease_expires_at is not None and lease_expires_at - known < _LEASE_TOLERANCE_MS):
            return ""
        return _OWNER

    def _note_owner(self, part: str, owner: Owner, lease_expires_at: int | None) -> None:
        """Note that an owner is recorded, after the commit of a statement with what `_owner_part` returned."""
        if part:
            self._known_owners[owner.owner_id] = lease_expires_at


def owner_values(owner: Owner, lease_expires_at: int | None) -> dict[str, object]:
    """Return the parameters of the statements that record an owner."""
    return {
        "owner": owner.owner_id,
        "host": owner.host,
        "pid": owner.pid,
        "process_started": owner.process_started,
        "lease_expires_at": lease_expires_at,
    }
