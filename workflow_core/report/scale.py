"""The horizontal scale of a timeline: in the order of the events, and only roughly that of time.

On virtual time many things happen in one instant, and minutes pass between two of them. So every event has a place of
its own, in the order of the history. Between two events the scale widens with the time that passed; a stretch that
would be too long is cut short, and says so.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.events import Event

__all__ = ["PLACE", "Break", "Scale", "Tick", "duration_text", "milliseconds_between", "since_start"]

PLACE = 1.0
"""The width of an event's own place, which is the unit of the scale."""

_LONGEST_TO_SCALE = 6.0
"""A longer stretch is cut short, in places."""

_INSTANT_MS = 10.0
"""Shorter stretches do not decide the scale, as those between two commits of one step."""

_LONGEST_QUANTUM_MS = 10_000.0
"""One place stands for no more time than this, so that a wait of minutes is cut short even if it is the only one."""

_SECOND_MS = 1_000
_MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Tick:
    """The position of an instant, named by the time since the first event."""

    position: float
    text: str


@dataclass(frozen=True, slots=True)
class Break:
    """A stretch of time that is drawn shorter than it was; ``text`` is its true length."""

    left: float
    right: float
    text: str


def milliseconds_between(earlier: Event, later: Event) -> float:
    """Return the time from one event to another, in milliseconds; negative if the clock was set back."""
    return (later.at - earlier.at).total_seconds() * 1_000


def duration_text(milliseconds: float) -> str:
    """Return a duration to read, such as ``"1 h 30 min"``, ``"5 min"``, ``"2.5 s"`` or ``"0 ms"``."""
    if milliseconds < 0:
        return f"-{duration_text(-milliseconds)}"
    if milliseconds < _SECOND_MS:
        return f"{round(milliseconds, 3):g} ms"
    if milliseconds < _MINUTE_MS:
        return f"{round(milliseconds / _SECOND_MS, 3):g} s"
    minutes, rest = divmod(round(milliseconds), _MINUTE_MS)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    counts = ((days, "d"), (hours, "h"), (minutes, "min"), (rest / _SECOND_MS, "s"))
    return " ".join(f"{count:g} {unit}" for count, unit in counts if count)


def since_start(events: Sequence[Event], event: Event) -> str:
    """Return the time of an event, counted from the first one, to read."""
    return f"+{duration_text(milliseconds_between(events[0], event))}"


class Scale:
    """Where the events of one execution stand.

    Attributes:
        positions: The position of each event.
        ticks: One for each instant, that is for each event whose time is not that of the event before it.
        breaks: What is drawn shorter than it was.
        width: Where the scale ends.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self.positions: list[float] = []
        self.breaks: list[Break] = []
        gaps = [milliseconds_between(earlier, later) for earlier, later in pairwise(events)]
        passed = [gap for gap in gaps if gap > 0]
        waits = [gap for gap in passed if gap >= _INSTANT_MS] or passed
        quantum = min(statistics.median_low(waits) / 2, _LONGEST_QUANTUM_MS) if waits else 1.0
        position = PLACE / 2
        for gap in [0.0, *gaps][: len(events)]:
            units = max(gap, 0.0) / quantum
            if units > _LONGEST_TO_SCALE:
                units = _LONGEST_TO_SCALE + math.log10(units / _LONGEST_TO_SCALE)
                self.breaks.append(Break(position, position + units, duration_text(gap)))
            position += units
            self.positions.append(position)
            position += PLACE
        self.width = position
        self.ticks = [
            Tick(self.positions[place], since_start(events, event))
            for place, event in enumerate(events)
            if place == 0 or event.at != events[place - 1].at
        ]
