"""The leases of an engine's executions: how they are renewed, and whether those of others are still good."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from workflow_core.clock import to_epoch_ms
from workflow_core.errors import StorageError
from workflow_core.models import TERMINAL_STATUSES
from workflow_core.ownership import OwnerWatch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflow_core.database.store import ExecutionRecord, Lease, WorkflowStore
    from workflow_core.engine import WorkflowEngine
    from workflow_core.ownership import Owner, ProcessProbe
    from workflow_core.running import Active, RunningExecutions
    from workflow_core.sleepers import Sleepers

__all__ = ["Leases"]

logger = logging.getLogger("workflow_core")

_RENEW_AGAIN_MS = 1_000
"""How long after a failure a lease is tried to be renewed again, if it would not be earlier."""


class Leases:
    """The leases of one engine.

    Args:
        engine: The engine.
        probe: Tells which processes live.
        running: The executions that run in the engine.
        sleepers: Those that the engine owns and that wait in the store.

    Attributes:
        renewal: Renews the leases; ``None`` as long as there was none to be renewed.
    """

    renewal: asyncio.Task[None] | None = None

    def __init__(
        self, engine: WorkflowEngine, probe: ProcessProbe, running: RunningExecutions, sleepers: Sleepers
    ) -> None:
        self._engine = engine
        self._running = running
        self._sleepers = sleepers
        self._watch = OwnerWatch(probe, engine.clock, engine.settings.lease_ms)

    def forked(self) -> None:
        """What the parent process renews is not renewed in its child."""
        self.renewal = None

    def expiry(self) -> int | None:
        """Return until when a lease taken now is good, in milliseconds since 1970; ``None`` for always."""
        lease_ms = self._engine.settings.lease_ms
        return None if lease_ms is None else to_epoch_ms(self._engine.clock.now()) + lease_ms

    def lives(self, owner: Owner | None, expires_at: int | None) -> bool:
        """Tell whether another engine holds a lease, and lives."""
        if owner is None or owner.owner_id == self._engine.owner.owner_id:
            return False
        return self._watch.lives(owner, expires_at)

    async def is_alive_elsewhere(self, record: ExecutionRecord) -> bool:
        """Tell whether another engine owns an execution, and lives."""
        if record.owner_id is None:
            return False
        found = await self._engine.store.workflow(record.workflow_name).load_owner(record.owner_id)
        return found is not None and self.lives(*found)

    def keep(self) -> None:
        """See to it that the leases are renewed, in this event loop."""
        lease_ms = self._engine.settings.lease_ms
        if lease_ms is not None and (
            self.renewal is None or self.renewal.done() or self.renewal.get_loop() is not asyncio.get_running_loop()
        ):
            self.renewal = self._engine.create_task(self._renew(lease_ms), "workflow lease renewal", background=True)

    async def _renew(self, lease_ms: int) -> None:
        """Keep this engine's executions its own, and stop those that another process has taken."""
        delay_ms = lease_ms / 3
        while True:
            await self._engine.clock.sleep(delay_ms)  # first, so one task serves all short executions of the time
            if not (self._running or self._sleepers) or self._engine.closed:
                return
            delay_ms = lease_ms / 3
            stores: dict[int, tuple[WorkflowStore, list[Active]]] = {}
            for active in self._running:
                store = self._engine.bare_store.workflow(active.execution.definition.name)
                stores.setdefault(id(store), (store, []))[1].append(active)
            for name in self._sleepers.workflow_names:
                store = self._engine.bare_store.workflow(name)
                stores.setdefault(id(store), (store, []))
            for store, actives in stores.values():
                leases = [active.execution.lease for active in actives]
                try:
                    owned = await store.lease_renewed(self._engine.owner, self._engine.lease_expiry(), leases)
                except StorageError as error:  # the other databases' leases must not run out for that
                    level = logging.DEBUG if error.is_transient else logging.ERROR
                    logger.log(level, "Cannot renew the leases of this process: %s", error)
                    delay_ms = min(delay_ms, _RENEW_AGAIN_MS)
                    continue
                self._stop_lost(zip(actives, leases, strict=True), owned)

    @staticmethod
    def _stop_lost(asked: Iterable[tuple[Active, Lease]], owned: set[tuple[str, int]]) -> None:
        """Stop what another process has taken; what this one restarts meanwhile has another fencing token, too."""
        ids = {execution_id for execution_id, _ in owned}
        for active, lease in asked:
            ours = lease.execution_id in ids or active.execution.lease != lease
            if not ours and active.execution.status not in TERMINAL_STATUSES and active.task is not None:
                active.lost = True
                active.task.cancel()
