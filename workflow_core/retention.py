"""Removing old executions: which ones, in what portions, and what was won by it."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from pydantic import Field

from workflow_core.database.removal import Expiry
from workflow_core.errors import StorageError, ValidationError, shown
from workflow_core.models import Model
from workflow_core.summaries import statuses
from workflow_core.timeouts import LONGEST_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from workflow_core.clock import Clock
    from workflow_core.database.store import Store
    from workflow_core.models import ExecutionStatus
    from workflow_core.summaries import Position

__all__ = ["RESTING_STATUSES", "CleanupReport", "cleaned_up", "expiry"]

logger = logging.getLogger("workflow_core")

RESTING_STATUSES: Final[tuple[ExecutionStatus, ...]] = ("completed", "failed", "cancelled", "panicked")
"""The statuses that an execution can rest in; a panicked one rests unless its automatic restart is due some time."""

_TRANSACTION_SECONDS: Final = 0.02
"""How long a transaction goes on taking executions; a write of another process waits about as long."""

_LEAST_PAUSE_MS: Final = 1.0
_PAGES: Final = 500


class CleanupReport(Model):
    """What a cleanup removed, or with ``dry_run`` would remove.

    Attributes:
        before: Executions that came to rest earlier than this were removed.
        removed: How many, by workflow.
        log_files: How many files of daily logs.
        bytes_freed: Bytes that the file system got back from the databases.
        bytes_reusable: Bytes of the databases that are empty and taken by the next executions.
        problems: Why a workflow's database cannot be used, by workflow; the others are cleaned up all the same.
    """

    dry_run: bool
    before: datetime
    removed: dict[str, int] = Field(default_factory=dict)
    log_files: int = 0
    bytes_freed: int = 0
    bytes_reusable: int = 0
    problems: dict[str, str] = Field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many executions, of all workflows."""
        return sum(self.removed.values())


def expiry(
    now: datetime, older_than: timedelta | float, status: ExecutionStatus | Iterable[ExecutionStatus] | None
) -> Expiry:
    """Return which executions are removed.

    Args:
        now: The time.
        older_than: How long ago they came to rest at least; a number is milliseconds.
        status: The statuses that they rest in; ``None`` for all of `RESTING_STATUSES`.

    Raises:
        ValidationError: An argument is not acceptable.
    """
    if isinstance(older_than, timedelta):
        age = older_than
    elif isinstance(older_than, (int, float)) and not isinstance(older_than, bool) and abs(older_than) <= LONGEST_MS:
        age = timedelta(milliseconds=older_than)
    else:
        raise ValidationError(f"older_than must be a timedelta or a number of milliseconds, not {shown(older_than)}")
    if age < timedelta(0):
        raise ValidationError(f"older_than must not be negative: {older_than!r}")
    chosen = statuses(status)
    for name in chosen or ():
        if name not in RESTING_STATUSES:
            raise ValidationError(
                f"An execution that is {name} cannot be removed; cancel it first, or use {', '.join(RESTING_STATUSES)}"
            )
    try:
        before = now - age
    except OverflowError:
        before = datetime.min.replace(tzinfo=now.tzinfo)
    return Expiry(before, RESTING_STATUSES if chosen is None else chosen)


async def cleaned_up(
    store: Store, clock: Clock, expired: Expiry, workflow_name: str | None, batch: int, *, dry_run: bool
) -> CleanupReport:
    """Remove executions, in small transactions with pauses between them as long as they took.

    Args:
        store: Where they are.
        clock: Where the time comes from.
        expired: Which ones.
        workflow_name: Of one workflow alone.
        batch: How many executions a transaction removes at most.
        dry_run: Only count them.

    Raises:
        StorageError: The database of the one workflow cannot be used.
    """
    done = _Done()
    problems: dict[str, str] = {}
    for name in await store.workflows_with_executions(workflow_name):
        try:
            await _clean_up_workflow(store, clock, expired, name, batch, done, dry_run=dry_run)
        except StorageError as error:  # one database that cannot be used keeps no other one full
            if workflow_name is not None:
                raise
            logger.error('Old executions of workflow "%s" cannot be removed (%s)', name, error)  # noqa: TRY400 - it says all
            problems[name] = str(error)
    return CleanupReport(
        dry_run=dry_run,
        before=expired.before,
        removed=dict(done.removed),
        log_files=done.log_files,
        bytes_freed=done.bytes_freed,
        bytes_reusable=done.bytes_reusable,
        problems=problems,
    )


@dataclass
class _Done:
    """What was done so far; see `CleanupReport`."""

    removed: Counter[str] = field(default_factory=Counter)
    log_files: int = 0
    bytes_freed: int = 0
    bytes_reusable: int = 0


async def _clean_up_workflow(
    store: Store, clock: Clock, expired: Expiry, name: str, batch: int, done: _Done, *, dry_run: bool
) -> None:
    size_before = (await store.space(name)).size
    after: Position | None = None
    if not dry_run:
        await store.removal_finished(name)  # what a process that died has begun
    while True:
        began_at = clock.monotonic()
        if dry_run:
            found = await store.executions_to_remove(name, expired, after, batch)
            gone, after = found, found[-1].position if found else None
            done.removed.update(candidate.workflow_name for candidate in gone)
        else:
            enough = _enough(clock, began_at + _TRANSACTION_SECONDS)
            gone, after = await store.executions_removed(name, expired, after, batch, enough)
            done.removed.update(candidate.workflow_name for candidate in gone)
            await store.removal_finished(name)
        if after is None:
            break
        await _pause(clock, began_at)
    if set(expired.statuses) == set(RESTING_STATUSES):
        done.log_files += await store.logs_removed(name, expired.before, dry_run)
    if not dry_run:
        began_at = clock.monotonic()
        while await store.shrunk(name, _PAGES):
            await _pause(clock, began_at)
            began_at = clock.monotonic()
    room = await store.space(name)
    done.bytes_freed += max(0, size_before - room.size)
    done.bytes_reusable += room.free


def _enough(clock: Clock, deadline: float) -> Callable[[], bool]:
    return lambda: clock.monotonic() >= deadline


async def _pause(clock: Clock, began_at: float) -> None:
    """Let executions and other processes write, for as long as this one has."""
    await clock.sleep(max(_LEAST_PAUSE_MS, (clock.monotonic() - began_at) * 1_000))
