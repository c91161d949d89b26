"""How a workflow did of late: how often it succeeds, how long it takes, how many there are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from workflow_core.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.engine import WorkflowEngine
    from workflow_core.summaries import ExecutionSummary

__all__ = ["Interval", "WorkflowStatistics", "read_statistics"]

_SAMPLE: Final = 2_000
"""How many executions are looked at for each workflow; reading these takes some milliseconds."""

_INTERVALS: Final = 24
_ENDED: Final = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class Interval:
    """A part of the window.

    Attributes:
        begins_at: When it begins; it ends where the next one begins.
        completed: How many of the executions that started in it have completed.
        failed: How many have failed.
        cancelled: How many were cancelled.
    """

    begins_at: datetime
    completed: int
    failed: int
    cancelled: int


@dataclass(frozen=True)
class WorkflowStatistics:
    """What became of the executions of a workflow that started within a window and have ended.

    Attributes:
        since: When the window begins.
        until: When it ends, which is now.
        completed: How many have completed.
        failed: How many have failed.
        cancelled: How many were cancelled.
        partial: Whether there are more than were looked at, so that the window begins with the earliest of these.
        success_rate: Completed ones of those that completed or failed, from 0 to 1; ``None`` if there are none.
        p50_ms: What half of the completed ones took at most, in milliseconds, sleeps included.
        p95_ms: What 95 of 100 completed ones took at most, in milliseconds.
        longest_ms: What the longest of them took, in milliseconds.
        per_hour: How many ended ones started in an hour of the window.
        intervals: The window in equal parts, the earliest first.
    """

    workflow_name: str
    since: datetime
    until: datetime
    completed: int
    failed: int
    cancelled: int
    partial: bool
    success_rate: float | None
    p50_ms: float | None
    p95_ms: float | None
    longest_ms: float | None
    per_hour: float
    intervals: Sequence[Interval]

    def data(self) -> dict[str, object]:
        """Return it as it is printed as JSON."""
        return {**vars(self), "intervals": [vars(interval) for interval in self.intervals]}


async def read_statistics(
    engine: WorkflowEngine, workflow: str, window: timedelta = timedelta(hours=24)
) -> WorkflowStatistics:
    """Derive the statistics of one workflow from its latest executions.

    Args:
        engine: Whose store is read.
        workflow: The workflow.
        window: How far back to look; at most 2 000 executions are looked at, the latest ones.

    Raises:
        ValidationError: An argument is not acceptable.
        StorageError: The database cannot be read.
    """
    until = engine.clock.now()
    try:
        since = until - window
    except OverflowError:
        raise ValidationError(f"The window is too long: {window}") from None
    if since >= until:
        raise ValidationError(f"The window must be longer than nothing, not {window}")
    found = await engine.list_executions(workflow, _ENDED, started_after=since, limit=_SAMPLE)
    partial = len(found) == _SAMPLE
    if partial:
        since = found[-1].started_at
    counts = {status: sum(each.status == status for each in found) for status in _ENDED}
    took = sorted(
        (each.completed_at - each.started_at) / timedelta(milliseconds=1)
        for each in found
        if each.status == "completed" and each.completed_at is not None
    )
    judged = counts["completed"] + counts["failed"]
    hours = max((until - since) / timedelta(hours=1), 1e-9)
    return WorkflowStatistics(
        workflow_name=workflow,
        since=since,
        until=until,
        completed=counts["completed"],
        failed=counts["failed"],
        cancelled=counts["cancelled"],
        partial=partial,
        success_rate=counts["completed"] / judged if judged else None,
        p50_ms=_percentile(took, 0.5),
        p95_ms=_percentile(took, 0.95),
        longest_ms=took[-1] if took else None,
        per_hour=len(found) / hours,
        intervals=_intervals(found, since, until),
    )


def _percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest of sorted values that ``share`` of them do not exceed (nearest rank)."""
    return values[max(0, math.ceil(share * len(values)) - 1)] if values else None


def _intervals(found: Sequence[ExecutionSummary], since: datetime, until: datetime) -> list[Interval]:
    length = (until - since) / _INTERVALS
    counts: list[dict[str, int]] = [dict.fromkeys(_ENDED, 0) for _ in range(_INTERVALS)]
    for each in found:
        place = int((each.started_at - since) / length) if length else 0
        counts[min(max(place, 0), _INTERVALS - 1)][each.status] += 1
    return [Interval(since + number * length, **of_status) for number, of_status in enumerate(counts)]
