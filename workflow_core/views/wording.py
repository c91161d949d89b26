"""How durations, ages, rates and statuses are worded, wherever they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflow_core.clock import to_epoch_ms
from workflow_core.report.scale import duration_text

if TYPE_CHECKING:
    from datetime import datetime

    from workflow_core.database.store import StepRecord
    from workflow_core.limits import Limits
    from workflow_core.views.execution_view import ExecutionView

__all__ = ["ago_text", "limits_text", "rate_text", "remaining", "status_of", "step_status", "took_text"]

_TENTHS_BELOW_MS = 10_000
_SECOND_MS, _MINUTE_MS = 1_000, 60_000
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def ago_text(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment was, to its largest unit; that says enough in a list, in little room."""
    seconds = (now - moment).total_seconds()
    return next((f"{seconds / length:.0f} {unit} ago" for unit, length in _UNITS if seconds >= length), "now")


def remaining(until_ms: int, now: datetime) -> str:
    """Return the time until a moment, to the second; to the tenth in the last ten."""
    left = until_ms - to_epoch_ms(now)
    if left <= 0:
        return "0 s"
    return f"{left / 1_000:.1f} s" if left < _TENTHS_BELOW_MS else duration_text(round(left, -3))


def took_text(milliseconds: float) -> str:
    """Return how long something took: to the millisecond, the tenth of a second, or from a minute on to the second."""
    digits = 0 if milliseconds < _SECOND_MS else -2 if milliseconds < _MINUTE_MS else -3
    return duration_text(round(max(milliseconds, 0.0), digits))


def rate_text(rate: float | None) -> str:
    """Return a rate in per cent; never rounded up to 100, because one failure is worth a look."""
    if rate is None:
        return "-"
    return "100 %" if rate >= 1 else f"{min(rate * 100, 99.9):.1f} %"


def limits_text(limits: Limits) -> str:
    """Return the limits of a workflow."""
    each = f"for each {limits.key or 'key'}"
    period = f"in any {duration_text(limits.period_ms)}"
    parts = (
        (limits.concurrency, "at once"),
        (limits.concurrency_per_key, f"at once {each}"),
        (limits.starts, f"begin {period}"),
        (limits.starts_per_key, f"begin {period} {each}"),
    )
    return ", ".join(f"{number} {what}" for number, what in parts if number is not None)


def status_of(view: ExecutionView) -> str:
    """Return the status, or that nobody runs it, or that it waits for a worker again after one has given it back."""
    if view.interrupted or view.is_lost:
        return "interrupted"
    is_given_back = view.dispatch is not None and view.dispatch.place in {"ready", "limited"}
    return "queued" if is_given_back and view.record.status == "running" else view.record.status


def step_status(step: StepRecord, view: ExecutionView) -> str:
    """Return the status of a step, or that it was cut off and nobody runs it."""
    return "interrupted" if (view.interrupted or view.is_lost) and step.status == "running" else step.status
