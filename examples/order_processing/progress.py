"""Shows an execution while it runs, a line for each event, and afterwards, a row for each step."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

from tabulate import tabulate

from workflow_core import hookimpl
from workflow_core.events import (
    CircuitOpened,
    Event,
    ExecutionPanicked,
    ExecutionRecovered,
    ExecutionRestarted,
    ExecutionStarted,
    SleepCompleted,
    SleepStarted,
    StepCompleted,
    StepEvent,
    StepFailed,
    StepInterrupted,
    StepRetrying,
    StepSkipped,
    StepStarted,
)

if TYPE_CHECKING:
    from datetime import datetime

    from workflow_core import ExecutionResult

__all__ = ["Progress", "history_table"]

_MARKS = {
    "▸": ("2", ">"),
    "✓": ("32", "+"),
    "✗": ("31", "x"),
    "↻": ("33", "~"),
    "↷": ("33", "-"),
    "☾": ("33", "z"),
}
"""The colour of each mark, and what stands for it where Unicode cannot be shown."""

_LINES: dict[type[Event], tuple[str, str]] = {
    StepStarted: ("▸", "attempt {event.attempt}"),
    StepFailed: ("✗", "{event.error}: {event.message}"),
    StepInterrupted: ("✗", "attempt {event.attempt} was cut off"),
    StepSkipped: ("↷", "the circuit is open"),
    StepRetrying: ("↻", "tries again in {event.backoff_ms} ms"),
    SleepStarted: ("☾", "sleeps for {event.duration_ms} ms"),
    SleepCompleted: ("✓", "awake"),
    CircuitOpened: ("✗", "the circuit opens after {event.failures} failures"),
    ExecutionPanicked: ("✗", "panic: {event.message}"),
    ExecutionRestarted: ("↻", "restarts"),
}


class Progress:
    """Prints the events of one execution as they happen.

    Args:
        subject: What is being processed, for the first line.

    Attributes:
        begun: Whether this process runs the execution, as opposed to another process, or nobody.
    """

    def __init__(self, subject: str) -> None:
        self.begun = False
        self._subject = subject
        self._first: datetime | None = None
        self._open: list[str] = []
        self._coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"

    @hookimpl
    def on_event(self, event: Event) -> None:
        """Print an event; the engine calls this after the event was committed."""
        self._first = self._first or event.at
        if isinstance(event, (ExecutionStarted, ExecutionRecovered)):
            self.begun = True
            resumed = isinstance(event, ExecutionRecovered)
            print(f"{self._subject}: " + ("was interrupted; goes on where it was" if resumed else "starts"), flush=True)
            return
        if isinstance(event, (StepStarted, SleepStarted)) and event.step_id not in self._open:
            self._open.append(event.step_id)
        mark, text = _mark_and_text(event)
        if mark:
            self._print(event, mark, text)
        if isinstance(event, (StepCompleted, StepSkipped, SleepCompleted)) and event.step_id in self._open:
            del self._open[self._open.index(event.step_id) :]

    def _print(self, event: Event, mark: str, text: str) -> None:
        elapsed = (event.at - (self._first or event.at)).total_seconds()
        step_id = event.step_id if isinstance(event, StepEvent) else ""
        depth = self._open.index(step_id) if step_id in self._open else len(self._open)
        colour, plain = _MARKS[mark]
        shown = mark if self._unicode else plain
        if self._coloured:
            shown = f"\x1b[{colour}m{shown}\x1b[0m"
        name = "  " * depth + step_id
        print(f"{elapsed:7.1f} s  {shown} {name:<32} {text}".rstrip(), flush=True)


def _mark_and_text(event: Event) -> tuple[str, str]:
    """Return what an event is shown as; an empty mark hides it."""
    if isinstance(event, StepStarted) and event.attempt == 1:
        return "▸", ""
    if isinstance(event, StepCompleted):
        return "✓", f"by {event.handled_by}" if event.handled_by else ""
    mark, template = _LINES.get(type(event), ("", ""))
    return mark, template.format(event=event)


def history_table(result: ExecutionResult, history: list[Event]) -> str:
    """Draw a row for each step and sleep of an execution, in the order in which they began."""
    events: dict[str, list[StepEvent]] = {}
    for event in history:
        if isinstance(event, StepEvent):
            events.setdefault(event.step_id, []).append(event)
    rows = []
    for step_id, own in events.items():
        step, began = result.steps[step_id], own[0].at
        rows.append(
            (
                step_id,
                step.status,
                step.attempt if any(isinstance(event, StepStarted) for event in own) else "",
                f"+{(began - result.started_at).total_seconds():.2f} s",
                f"{(step.completed_at - began).total_seconds():.2f} s" if step.completed_at else "",
                "; ".join(filter(None, map(_told, own))),
            )
        )
    headers = ("step", "status", "tries", "began", "took", "how it went")
    *others, _ = (  # a column is wider than its heading by two, and two from the next one
        max([len(heading) + 2, *(len(str(cell)) for cell in cells)]) + 2
        for heading, *cells in zip(headers, *rows, strict=True)
    )
    left = max(16, shutil.get_terminal_size((200, 24)).columns - sum(others))
    widths = [*(None for _ in others), left]
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True, maxcolwidths=widths)


def _told(event: StepEvent) -> str:
    if isinstance(event, StepFailed):
        return event.message
    if isinstance(event, StepInterrupted):
        return "cut off"
    if isinstance(event, SleepStarted):
        return f"slept for {event.duration_ms} ms"
    if isinstance(event, StepSkipped):
        return "the circuit was open"
    if isinstance(event, StepCompleted) and event.handled_by:
        return f"answered by {event.handled_by}"
    return ""
