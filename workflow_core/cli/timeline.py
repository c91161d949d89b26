"""The timeline of an execution drawn with characters; `workflow_core.report.timeline` says where everything stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from workflow_core.cli.texts import shortened, visible
from workflow_core.report.timeline import BAR_KINDS, EXECUTION_LANE, MARK_KINDS, lay_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.cli.output import Signs
    from workflow_core.events import Event
    from workflow_core.report.timeline import Bar, BarKind, Mark, MarkKind, Timeline

__all__ = ["draw"]

_BARS: dict[BarKind, tuple[str, str, str]] = {
    "completed": ("█", "#", "green"),
    "handled": ("▓", "h", "yellow"),
    "failed": ("▒", "x", "red"),
    "retried": ("▒", "x", "red"),
    "interrupted": ("░", "%", "yellow"),
    "panicked": ("▚", "!", "magenta"),
    "skipped": ("○", "o", "yellow"),
    "unfinished": ("▷", ">", "cyan"),
    "sleep": ("─", "-", "blue"),
    "backoff": ("┈", ".", "bright_black"),
    "restart-wait": ("┈", ".", "magenta"),
}
"""How each kind of bar is filled: in Unicode, in ASCII, and in which colour."""

_MARKS: dict[MarkKind, tuple[str, str, str]] = {
    "started": ("▸", ">", "bright_black"),
    "execution-completed": ("✓", "+", "green"),
    "execution-failed": ("✗", "X", "red"),
    "cancelled": ("■", "C", "bright_black"),
    "panic": ("!", "!", "magenta"),
    "recovered": ("⚡", "R", "yellow"),
    "restarted": ("↻", "@", "cyan"),
    "circuit-opened": ("◇", "O", "red"),
    "circuit-half-opened": ("◈", "H", "yellow"),
    "circuit-closed": ("◆", "K", "green"),
    "fault": ("▼", "v", "red"),
}

_LONGEST_NAME = 24
_NARROWEST = 20


def draw(events: Sequence[Event], width: int, signs: Signs, *, in_colour: bool) -> list[str]:
    """Draw the timeline of an execution, as lines of text.

    Args:
        events: The history, oldest first.
        width: The width of the terminal, in characters.
        signs: What the terminal can show.
        in_colour: Whether the lines are coloured.
    """
    timeline = lay_out(events)
    return _Drawing(timeline, width, unicode=signs.unicode, in_colour=in_colour).lines()


class _Drawing:
    """A grid of characters, a line for each lane."""

    def __init__(self, timeline: Timeline, width: int, *, unicode: bool, in_colour: bool) -> None:
        self._timeline = timeline
        self._unicode = unicode
        self._in_colour = in_colour
        self._names = [shortened(visible(name), _LONGEST_NAME) for name in timeline.lanes]
        self._margin = max(len(name) for name in self._names) + 2
        self._width = max(width - self._margin - 1, _NARROWEST)

    def lines(self) -> list[str]:
        timeline = self._timeline
        grid: list[list[tuple[str, str | None]]] = [[(" ", None)] * self._width for _ in timeline.lanes]
        for bar in timeline.bars:
            self._fill(grid[bar.lane], bar)
        for mark in timeline.marks:
            grid[mark.lane][self._column(mark.position)] = self._sign(_MARKS[mark.kind])
        lines = [self._axis()]
        for name, row in zip(self._names, grid, strict=True):
            shown = (
                self._styled(name.ljust(self._margin), "bright_black")
                if name == EXECUTION_LANE
                else name.ljust(self._margin)
            )
            lines.append((shown + self._coloured(row)).rstrip())
        return [*lines, "", *self._legend()]

    def _column(self, position: float) -> int:
        return min(int(position / self._timeline.width * self._width), self._width - 1)

    def _fill(self, row: list[tuple[str, str | None]], bar: Bar) -> None:
        first, last = self._column(bar.left), self._column(bar.right)
        for column in range(first, max(last, first + 1)):
            row[column] = self._sign(_BARS[bar.kind])

    def _sign(self, signs: tuple[str, str, str]) -> tuple[str, str | None]:
        return signs[0] if self._unicode else signs[1], signs[2]

    def _axis(self) -> str:
        """Write the times that find room, each where it belongs."""
        row = [" "] * self._width
        free_from = 0
        for tick in self._timeline.ticks:
            column = self._column(tick.position)
            if column >= free_from and column + len(tick.text) <= self._width:
                row[column : column + len(tick.text)] = tick.text
                free_from = column + len(tick.text) + 2
        return self._styled(" " * self._margin + "".join(row).rstrip(), "bright_black")

    def _coloured(self, row: list[tuple[str, str | None]]) -> str:
        text, run, colour = "", "", None
        for sign, its_colour in [*row, ("", "end")]:
            if its_colour != colour:
                text += self._styled(run, colour)
                run, colour = "", its_colour
            run += sign
        return text

    def _legend(self) -> list[str]:
        bars: dict[BarKind, Bar] = {bar.kind: bar for bar in self._timeline.bars}
        marks: dict[MarkKind, Mark] = {mark.kind: mark for mark in self._timeline.marks if mark.kind != "started"}
        entries = [(self._sign(_BARS[kind]), text) for kind, text in BAR_KINDS.items() if kind in bars]
        entries += [(self._sign(_MARKS[kind]), text) for kind, text in MARK_KINDS.items() if kind in marks]
        lines, line, length = [], "", 0
        for (sign, colour), text in entries:
            added = len(text) + 5
            if length and length + added > self._width + self._margin:
                lines.append(line.rstrip())
                line, length = "", 0
            line += f"{self._styled(sign, colour)} {text}   "
            length += added
        return [*lines, line.rstrip()]

    def _styled(self, text: str, colour: str | None) -> str:
        return click.style(text, fg=colour) if self._in_colour and colour is not None and text else text
