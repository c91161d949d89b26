"""What a store has to do with executions that workers run: they are enqueued, claimed, and let go of while they wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from datetime import datetime

    from workflow_core.database.store import ExecutionRecord, Lease, NewExecution
    from workflow_core.limits import Limits
    from workflow_core.ownership import Owner

__all__ = ["Claim", "ClaimKind", "Dispatch", "Dispatches"]

ClaimKind: TypeAlias = Literal["begun", "woken", "abandoned"]
"""How a worker comes to an execution: it is the first one, or it waited, or another worker has left it."""


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


@runtime_checkable
class Dispatches(Protocol):
    """A store whose executions workers can run."""

    async def execution_enqueued(
        self, execution: NewExecution, dispatch: Dispatch, at: datetime
    ) -> ExecutionRecord | None:
        """Record a new execution and hand it to the workers, together or not at all.

        Returns:
            ``None``, or the record of that id which was there already.
        """

    async def execution_claimed(
        self, execution_id: str, job_id: int, owner: Owner, lease_expires_at: int | None, at: datetime
    ) -> Claim | None:
        """Claim an execution for a worker that has fetched its job; ``None`` if the job is not that of it any more.

        It is ``None`` as well if a limit does not let it run now; then it has, or gets, another job.
        """

    async def execution_parked(self, lease: Lease, due_at: int, at: datetime) -> None:
        """Let go of an execution until a moment, in milliseconds since 1970, at which a worker is to go on with it."""
