"""Small bars beside numbers: what a queue holds, and how much of a worker is in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workflow_core.report.markup import Markup, join, tag
from workflow_core.views.cluster import QUEUE_PARTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.database.dispatch import QueueState

__all__ = ["queue_bar", "slots_bar"]

_WIDTH: Final = 150
_HEIGHT: Final = 10
_LEAST: Final = 3
_SLOTS_WIDTH: Final = 80


def queue_bar(queue: QueueState, greatest: int) -> Markup:
    """Draw what a queue holds; the numbers stand beside it.

    Args:
        queue: The queue.
        greatest: How many the fullest queue holds, whose bar has the whole width.
    """
    numbers = [getattr(queue, part) for part in QUEUE_PARTS]
    parts, x = [], 0.0
    for part, width in zip(QUEUE_PARTS, _widths(numbers, greatest), strict=True):
        if width:
            parts.append(tag("rect", x=f"{x:.1f}", y=0, width=f"{width:.1f}", height=_HEIGHT, class_=f"part-{part}"))
            x += width
    return _drawing(_WIDTH, tag("rect", width=_WIDTH, height=_HEIGHT, class_="bar-ground"), *parts)


def slots_bar(used: int, slots: int) -> Markup:
    """Draw how many of a worker's places are taken."""
    width = _SLOTS_WIDTH * min(used / slots, 1) if slots else 0
    return _drawing(
        _SLOTS_WIDTH,
        tag("rect", width=_SLOTS_WIDTH, height=_HEIGHT, class_="bar-ground"),
        tag("rect", width=f"{width:.1f}", height=_HEIGHT, class_="part-running"),
    )


def _widths(numbers: Sequence[int], greatest: int) -> list[float]:
    """Return the widths of a bar's parts: what is there can be seen, and all of them fit."""
    widths = [max(_WIDTH * number / greatest, _LEAST) if number else 0.0 for number in numbers]
    surplus = max(sum(widths) - _WIDTH, 0.0)
    widest = widths.index(max(widths))
    widths[widest] -= surplus
    return widths


def _drawing(width: int, *parts: Markup) -> Markup:
    return tag(
        "svg",
        join(*parts),
        class_="bar",
        width=width,
        height=_HEIGHT,
        viewBox=f"0 0 {width} {_HEIGHT}",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
