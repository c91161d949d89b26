"""The latest executions of a workflow as a strip of bars: up for those that went well, down for those that did not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from workflow_core.report.markup import Markup, join, tag
from workflow_core.server.dashboard.icons import label
from workflow_core.server.dashboard.paths import execution_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.summaries import ExecutionSummary

__all__ = ["draw_strip"]

_BAR: Final = 4
_GAP: Final = 2
_UP: Final = 16
_DOWN: Final = 8
_BAD: Final = frozenset({"failed", "panicked"})
_ENDED: Final = frozenset({"completed", "failed", "panicked", "cancelled"})


def draw_strip(executions: Sequence[ExecutionSummary], places: int, base: str, what: str) -> Markup:
    """Draw executions, the latest at the right end.

    Args:
        executions: The executions, latest first.
        places: How many bars there is room for.
        base: What the paths of pages begin with.
        what: Whose executions they are, for screen readers.
    """
    shown = list(executions[:places])
    longest = max((_length(execution) for execution in shown), default=0.0)
    width = places * (_BAR + _GAP)
    bars = []
    for place, execution in enumerate(shown):
        x = width - (place + 1) * (_BAR + _GAP)
        bars.append(_draw(execution, x, longest, base))
    bad = sum(execution.status in _BAD for execution in shown)
    said = f"Latest {len(shown)} executions of {what}: {bad} went wrong" if shown else f"No executions of {what}"
    line = tag("line", x1=0, x2=width, y1=_UP + 0.5, y2=_UP + 0.5, class_="strip-line")
    return tag(
        "svg",
        line,
        join(*reversed(bars)),
        class_="strip",
        width=width,
        height=_UP + _DOWN + 1,
        viewBox=f"0 0 {width} {_UP + _DOWN + 1}",
        role="group" if shown else "img",
        aria_label=said,
    )


def _draw(execution: ExecutionSummary, x: int, longest: float, base: str) -> Markup:
    status = execution.status
    if status in _BAD:
        y, height = _UP + 1, _DOWN
    else:
        share = math.sqrt(_length(execution) / longest) if longest and status in _ENDED else 0.5
        height = max(round(share * _UP), 3)
        y = _UP - height
    text = f"{label(status)}: {execution.execution_id}"
    bar = tag("rect", x=x, y=y, width=_BAR, height=height, class_=f"is-{status}")
    return tag(
        "a",
        tag("title", text),
        bar,
        href=base + execution_path(execution.execution_id),
        aria_label=text,
        tabindex="-1",
    )


def _length(execution: ExecutionSummary) -> float:
    if execution.completed_at is None:
        return 0.0
    return max((execution.completed_at - execution.started_at).total_seconds(), 0.0)
