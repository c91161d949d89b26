"""Draws the timeline of one execution as HTML and SVG.

A page that uses `draw_timeline` also needs, once, the style sheet `timeline_styles` and the element
`timeline_definitions`. Positions are percentages, so a drawing is as wide as there is room, but never so narrow that
events run into each other: then it scrolls.
"""

from __future__ import annotations

import functools
import math
from importlib import resources
from typing import TYPE_CHECKING

from workflow_core.report.markup import Markup, join, tag
from workflow_core.report.scale import duration_text
from workflow_core.report.timeline import BAR_KINDS, MARK_KINDS, Bar, BarKind, Mark, MarkKind, Timeline, lay_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.events import Event
    from workflow_core.report.scale import Break, Tick
    from workflow_core.report.timeline import FaultStrike

__all__ = ["draw_legend", "draw_timeline", "timeline_definitions", "timeline_styles"]

_PLACE_PX = 15
_LETTER_PX = 6.2
_LANE_PX = 30
_AXIS_PX = 41
_WIDTH_STEP_PX = 120
_WIDTH_STEPS = 60
_BAR_PX = 14
_WAIT_PX = 6

_WAITS: frozenset[BarKind] = frozenset({"sleep", "backoff", "restart-wait"})

_SHAPES: dict[MarkKind, str] = {
    "started": "M-4-6 6 0-4 6Z",
    "execution-completed": "M-6 0-2 5 7-5 5-7-2 1-4-2Z",
    "execution-failed": "M-6-4-4-6 0-2 4-6 6-4 2 0 6 4 4 6 0 2-4 6-6 4-2 0Z",
    "cancelled": "M-5-5H5V5H-5Z",
    "panic": "M0-8 2-3 7-5 4 0 8 3 3 3 2 8-1 4-5 7-4 2-8 1-4-2-6-6-2-4Z",
    "recovered": "M2-8-5 1H-1L-3 8 5-2H1Z",
    "restarted": "M0-6A6 6 0 1 1-6 0H-3.2A3.2 3.2 0 1 0 0-3.2V-.5L-5-4.6 0-9Z",
    "circuit-opened": "M-9-2H-5L2-9 5-6-3 2H-9ZM4-2H9V2H4Z",
    "circuit-half-opened": "M-9-2H-5L3-6 5-2.5-3 2H-9ZM4-1H9V2H4Z",
    "circuit-closed": "M-9-2H-5A5 5 0 0 1 5-2H9V2H5A5 5 0 0 1-5 2H-9Z",
    "fault": "M-5-6H5L0 4Z",
}
"""The outline of each kind of mark, around its position, within 8 units."""

_PATTERNS: dict[BarKind, tuple[int, str]] = {
    "handled": (6, "M0 0H3V6H0Z"),
    "failed": (6, "M-1 7 7-1M-4 4 4-4M2 10 10 2"),
    "retried": (6, "M-1-1 7 7M-4 2 2 8M4-2 8 2"),
    "interrupted": (6, "M0 0V6M3 0V6"),
    "panicked": (5, "M0 0 5 5M5 0 0 5"),
    "skipped": (5, "M1 2H3"),
    "unfinished": (6, "M0 3H4"),
}
"""What covers the bars of each kind, so that they are told apart without colours: the size of a tile, and its lines."""


def draw_timeline(
    events: Sequence[Event], faults: Sequence[FaultStrike] = (), *, title: str = "Timeline", anchor: str | None = None
) -> Markup:
    """Draw one execution.

    Args:
        events: Its history, oldest first.
        faults: The faults that struck it.
        title: What is drawn, for screen readers.
        anchor: If each event has an element of the id ``{anchor}-{seq}`` on the page, bars and marks lead to it.
    """
    if not events:
        return tag("p", "No events.", class_="wt-empty")
    timeline = lay_out(events, faults)
    steps = min(math.ceil(timeline.width * _PLACE_PX / _WIDTH_STEP_PX), _WIDTH_STEPS)
    height = _AXIS_PX + len(timeline.lanes) * _LANE_PX
    drawn = [
        *(_draw_break(found, timeline, height) for found in timeline.breaks),
        *(_draw_lane(lane) for lane in range(len(timeline.lanes))),
        *_draw_ticks(timeline, steps * _WIDTH_STEP_PX, height),
        *_draw_in_order(timeline, anchor),
    ]
    names = [
        tag("li", name, title=name, class_=None if lane else "wt-whole") for lane, name in enumerate(timeline.lanes)
    ]
    picture = tag("svg", *drawn, class_=f"wt-picture wt-w{steps}", width="100%", height=height, role="group")
    return tag(
        "div",
        tag("ul", *names, class_="wt-names", aria_label="Lanes, from top to bottom"),
        picture,
        class_="wt",
        role="group",
        tabindex="0",
        aria_label=f"{title}; arrow keys go from event to event",
    )


def _percent(position: float, timeline: Timeline) -> str:
    return f"{position / timeline.width * 100:.2f}%"


def _draw_lane(lane: int) -> Markup:
    y = _middle(lane)
    return tag("line", class_="wt-lane", x1="0", x2="100%", y1=y, y2=y)


def _middle(lane: int) -> int:
    return _AXIS_PX + lane * _LANE_PX + _LANE_PX // 2


def _draw_break(found: Break, timeline: Timeline, height: int) -> Markup:
    x = _percent(found.left, timeline)
    width = _percent(found.right - found.left, timeline)
    middle = _percent((found.left + found.right) / 2, timeline)
    return tag(
        "g",
        tag("rect", x=x, y=_AXIS_PX, width=width, height=height - _AXIS_PX, class_="wt-break"),
        tag("use", href="#wt-break", x=middle, y=_AXIS_PX - 7),
        tag("text", found.text, x=middle, y=_AXIS_PX - 14, class_="wt-length"),
        role="img",
        aria_label=f"{found.text}, drawn shorter than to scale",
    )


def _draw_ticks(timeline: Timeline, width_px: int, height: int) -> list[Markup]:
    """Draw the instants; a label that would run into the one before it, or out of the picture, is left out."""
    drawn, free = [], 0.0
    for tick in timeline.ticks:
        x = tick.position / timeline.width * width_px
        end = x + len(tick.text) * _LETTER_PX
        shows = x >= free and end <= width_px
        if shows:
            free = end + _LETTER_PX
        drawn.append(_draw_tick(tick, timeline, height, shows=shows))
    return drawn


def _draw_tick(tick: Tick, timeline: Timeline, height: int, *, shows: bool) -> Markup:
    x = _percent(tick.position, timeline)
    line = tag("line", class_="wt-tick", x1=x, x2=x, y1=16 if shows else _AXIS_PX, y2=height)
    return join(line, tag("text", tick.text, class_="wt-time", x=x, y=12, dx=-3)) if shows else line


def _draw_in_order(timeline: Timeline, anchor: str | None) -> list[Markup]:
    """Draw bars and marks from left to right, which is the order in which the keyboard and screen readers meet them."""
    drawn = [(bar.left, _draw_bar(bar, timeline, anchor)) for bar in timeline.bars]
    drawn += [(mark.position, _draw_mark(mark, timeline, anchor)) for mark in timeline.marks]
    return [shape for _, shape in sorted(drawn, key=lambda found: found[0])]


def _draw_bar(bar: Bar, timeline: Timeline, anchor: str | None) -> Markup:
    thickness = _WAIT_PX if bar.kind in _WAITS else _BAR_PX
    width = bar.right - bar.left
    place: dict[str, str | float] = {
        "x": _percent(bar.left, timeline),
        "y": _middle(bar.lane) - thickness // 2,
        "width": _percent(width, timeline),
        "height": thickness,
        "rx": 2,
    }
    shapes = [tag("rect", class_=f"wt-bar wt-{bar.kind}", **place)]
    if bar.kind in _PATTERNS:
        shapes.append(tag("rect", fill=f"url(#wt-p-{bar.kind})", **place))
    length = duration_text(bar.length_ms)
    if bar.kind in _WAITS and width * _PLACE_PX > len(length) * _LETTER_PX:
        middle = _percent(bar.left + width / 2, timeline)
        shapes.append(tag("text", length, x=middle, y=_middle(bar.lane) - 6, class_="wt-length"))
    return _event(shapes, bar.text, bar.seq, anchor)


def _draw_mark(mark: Mark, timeline: Timeline, anchor: str | None) -> Markup:
    y = _middle(mark.lane) - (11 if mark.kind == "fault" else 0)
    shape = tag(
        "use", href=f"#wt-m-{mark.kind}", class_=f"wt-mark wt-{mark.kind}", x=_percent(mark.position, timeline), y=y
    )
    return _event([shape], mark.text, mark.seq, anchor)


def _event(shapes: Sequence[Markup], text: str, seq: int, anchor: str | None) -> Markup:
    contents = (tag("title", text), *shapes)
    if anchor is None or not seq:
        return tag("g", *contents, role="img", aria_label=text, class_="wt-event", tabindex="-1")
    return tag("a", *contents, href=f"#{anchor}-{seq}", aria_label=text, class_="wt-event", tabindex="-1")


# Once a page ---------------------------------------------------------------------------------------------------------


def draw_legend() -> Markup:
    """Draw what each kind of bar and mark means, as a list."""
    bars = [_legend_entry(BAR_KINDS[kind], _event_free_bar(kind)) for kind in BAR_KINDS]
    marks = [
        _legend_entry(text, tag("use", href=f"#wt-m-{kind}", class_=f"wt-mark wt-{kind}", x="14", y="10"))
        for kind, text in MARK_KINDS.items()
    ]
    broken = _legend_entry(
        "a stretch of time drawn shorter than to scale, with its true length",
        join(
            tag("rect", x="2", y="0", width="24", height="20", class_="wt-break"),
            tag("use", href="#wt-break", x="14", y="10"),
        ),
    )
    return tag("ul", *bars, *marks, broken, class_="wt-legend")


def _event_free_bar(kind: BarKind) -> Markup:
    thickness = _WAIT_PX if kind in _WAITS else _BAR_PX
    place: dict[str, str | float] = {"x": 2, "y": 10 - thickness // 2, "width": 24, "height": thickness, "rx": 2}
    bar = tag("rect", class_=f"wt-bar wt-{kind}", **place)
    return join(bar, tag("rect", fill=f"url(#wt-p-{kind})", **place)) if kind in _PATTERNS else bar


def _legend_entry(text: str, drawn: Markup) -> Markup:
    return tag("li", tag("svg", drawn, width=28, height=20, aria_hidden="true"), " ", text)


def timeline_definitions() -> Markup:
    """Return the element with the shapes and patterns that every drawing of a page refers to."""
    patterns = [
        tag(
            "pattern",
            tag("path", d=path),
            id=f"wt-p-{kind}",
            class_=f"wt-pattern wt-p-{kind}",
            width=size,
            height=size,
            patternUnits="userSpaceOnUse",
        )
        for kind, (size, path) in _PATTERNS.items()
    ]
    shapes = [tag("path", d=path, id=f"wt-m-{kind}") for kind, path in _SHAPES.items()]
    zigzag = tag("path", d="M-5 6-1-6M1 6 5-6", id="wt-break", class_="wt-zigzag")
    return tag("svg", tag("defs", *patterns, *shapes, zigzag), class_="wt-definitions", aria_hidden="true")


@functools.cache
def timeline_styles() -> str:
    """Return the style sheet of the drawings."""
    styles = resources.files(__package__).joinpath("assets", "timeline.css").read_text(encoding="utf-8")
    widths = "".join(f".wt-w{step}{{min-width:{step * _WIDTH_STEP_PX}px}}" for step in range(1, _WIDTH_STEPS + 1))
    return f"{styles}{widths}\n@media print{{.wt-picture{{min-width:0}}}}\n"
