"""The timeline of one execution: events in, positioned bars and marks out.

A bar is an attempt or a wait, a mark is what happens in a moment; `workflow_core.report.scale` says where they stand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from workflow_core.events import (
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    Event,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
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
from workflow_core.report.scale import PLACE, Break, Scale, Tick, duration_text, milliseconds_between, since_start

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BAR_KINDS",
    "EXECUTION_LANE",
    "MARK_KINDS",
    "Bar",
    "BarKind",
    "FaultStrike",
    "Mark",
    "MarkKind",
    "Timeline",
    "lay_out",
]

BarKind: TypeAlias = Literal[
    "completed",
    "handled",
    "failed",
    "retried",
    "interrupted",
    "panicked",
    "skipped",
    "unfinished",
    "sleep",
    "backoff",
    "restart-wait",
]
MarkKind: TypeAlias = Literal[
    "started",
    "execution-completed",
    "execution-failed",
    "cancelled",
    "panic",
    "recovered",
    "restarted",
    "circuit-opened",
    "circuit-half-opened",
    "circuit-closed",
    "fault",
]

BAR_KINDS: dict[BarKind, str] = {
    "completed": "attempt completed",
    "handled": "completed by a handler",
    "failed": "attempt failed",
    "retried": "attempt failed, tried again",
    "interrupted": "attempt cut off by the end of its process",
    "panicked": "attempt panicked",
    "skipped": "skipped",
    "unfinished": "attempt not finished",
    "sleep": "sleep",
    "backoff": "back-off",
    "restart-wait": "wait before a restart",
}
"""What each kind of bar means."""

MARK_KINDS: dict[MarkKind, str] = {
    "started": "execution started",
    "execution-completed": "execution completed",
    "execution-failed": "execution failed",
    "cancelled": "execution cancelled",
    "panic": "execution panicked",
    "recovered": "taken over by another process, or again",
    "restarted": "execution restarted",
    "circuit-opened": "circuit opened",
    "circuit-half-opened": "circuit half-opened",
    "circuit-closed": "circuit closed",
    "fault": "injected fault",
}
"""What each kind of mark means."""

EXECUTION_LANE = "execution"
"""What the first lane is called, which belongs to no step."""

_MARKS: dict[type[Event], MarkKind] = {
    ExecutionStarted: "started",
    ExecutionCompleted: "execution-completed",
    ExecutionFailed: "execution-failed",
    ExecutionCancelled: "cancelled",
    ExecutionPanicked: "panic",
    ExecutionRecovered: "recovered",
    ExecutionRestarted: "restarted",
    CircuitOpened: "circuit-opened",
    CircuitHalfOpened: "circuit-half-opened",
    CircuitClosed: "circuit-closed",
}


@dataclass(frozen=True, slots=True)
class FaultStrike:
    """One stroke of an injected fault.

    Attributes:
        after_seq: The latest event of the execution when it struck; 0 before the first.
        step_id: The step that it struck, if any.
        description: The fault, as the test asked for it.
    """

    after_seq: int
    step_id: str | None
    description: str


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that lasts: an attempt or a wait; ``left`` and ``right`` are positions on the scale.

    Attributes:
        lane: Index in `Timeline.lanes`.
        text: Everything about it, to read.
        length_ms: How long it lasted, in milliseconds.
        seq: The event that it ends with, or began with if it has no end.
    """

    kind: BarKind
    lane: int
    left: float
    right: float
    text: str
    length_ms: float
    seq: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at one position.

    Attributes:
        lane: Index in `Timeline.lanes`.
        text: Everything about it, to read.
        seq: The event that it stands for, or follows.
    """

    kind: MarkKind
    lane: int
    position: float
    text: str
    seq: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """A timeline; positions run from 0 to ``width``.

    Attributes:
        lanes: The names of the lanes: `EXECUTION_LANE`, then the steps in the order of their first events.
    """

    width: float
    lanes: tuple[str, ...]
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]
    ticks: tuple[Tick, ...]
    breaks: tuple[Break, ...]


def lay_out(events: Sequence[Event], faults: Sequence[FaultStrike] = ()) -> Timeline:
    """Position the events of one execution.

    Args:
        events: The history, oldest first; empty for an empty timeline.
        faults: The faults that struck this execution.
    """
    return _Layout(events, faults).timeline()


@dataclass(frozen=True, slots=True)
class _Open:
    """Something that has begun, at the place ``start``."""

    kind: BarKind
    start: int


class _Layout:
    """Goes through a history once, opening and closing bars."""

    def __init__(self, events: Sequence[Event], faults: Sequence[FaultStrike]) -> None:
        self._events = events
        self._faults = faults
        self._scale = Scale(events)
        self._lanes: dict[str | None, int] = {None: 0}
        self._bars: list[Bar] = []
        self._marks: list[Mark] = []
        self._open: dict[str | None, _Open] = {}
        self._failed: dict[str, int] = {}
        self._recovered = -1

    def timeline(self) -> Timeline:
        for place, event in enumerate(self._events):
            kind = _MARKS.get(type(event))
            step_id = event.step_id if isinstance(event, StepEvent) else None
            self._lane(step_id)
            if kind is not None:
                self._mark(kind, step_id, place)
            self._take_attempt(place, event)
            self._take_wait(place, event)
        last = len(self._events) - 1
        for step_id in list(self._open):
            self._close(step_id, last, "unfinished")
        for fault in self._faults:
            self._strike(fault)
        names = tuple(EXECUTION_LANE if name is None else name for name in self._lanes)
        ticks = tuple(self._scale.ticks)
        breaks = tuple(self._scale.breaks)
        return Timeline(self._scale.width, names, tuple(self._bars), tuple(self._marks), ticks, breaks)

    def _take_attempt(self, place: int, event: Event) -> None:
        """Begin or end an attempt."""
        match event:
            case StepStarted(step_id=step_id):
                self._close(step_id, place, "interrupted")
                self._open[step_id] = _Open("completed", place)
            case StepFailed(step_id=step_id):
                self._failed[step_id] = place
                self._close(step_id, place, self._fate(place, step_id))
            case StepInterrupted(step_id=step_id):
                started = self._open.get(step_id)
                crashed = started is not None and started.start < self._recovered
                self._close(step_id, self._recovered if crashed else place, "interrupted")
            case StepCompleted(step_id=step_id, handled_by=handler):
                self._complete(step_id, place, handled=bool(handler))
            case StepSkipped(step_id=step_id):
                self._close(step_id, place, "unfinished")
                self._add("skipped", step_id, place, place)

    def _take_wait(self, place: int, event: Event) -> None:
        """Begin or end a wait; a back-off ends where the next attempt begins."""
        match event:
            case SleepStarted(step_id=step_id):
                self._open[step_id] = _Open("sleep", place)
            case StepRetrying(step_id=step_id):
                self._open[step_id] = _Open("backoff", place)
            case SleepCompleted(step_id=step_id):
                self._close(step_id, place, "sleep")
            case ExecutionPanicked(restart_delay_ms=delay) if delay is not None:
                self._open[None] = _Open("restart-wait", place)
            case ExecutionRestarted():
                self._close(None, place, "restart-wait")
            case ExecutionRecovered():
                self._recovered = place

    def _complete(self, step_id: str, place: int, *, handled: bool) -> None:
        if step_id in self._open:
            self._close(step_id, place, "handled" if handled else "completed")
        else:
            self._add("handled" if handled else "completed", step_id, self._failed.get(step_id, place), place)

    def _fate(self, place: int, step_id: str) -> BarKind:
        """Return what a failed attempt led to: another attempt, a panic, or nothing more."""
        for number in range(place + 1, len(self._events)):
            match self._events[number]:
                case StepRetrying(step_id=found) if found == step_id:
                    return "retried"
                case ExecutionPanicked(step_id=found) if found == step_id or (found is None and number == place + 1):
                    return "panicked"
                case StepStarted(step_id=found) | StepCompleted(step_id=found) if found == step_id:
                    return "failed"
        return "failed"

    def _close(self, step_id: str | None, place: int, outcome: BarKind) -> None:
        """End what is open in a lane; waits stay what they are, attempts become what they led to."""
        begun = self._open.pop(step_id, None)
        if begun is not None:
            self._add(outcome if begun.kind == "completed" else begun.kind, step_id, begun.start, place)

    def _add(self, kind: BarKind, step_id: str | None, start: int, end: int) -> None:
        first, last = self._events[start], self._events[end]
        left, right = self._scale.positions[start], self._scale.positions[end]
        length = max(milliseconds_between(first, last), 0.0)
        name = EXECUTION_LANE if step_id is None else step_id
        attempt = getattr(first, "attempt", None)
        parts = [name]
        if attempt and kind not in {"sleep", "backoff"}:
            parts.append(f"attempt {attempt}")
        parts.append(f"{BAR_KINDS[kind]}{_because(last if kind != 'backoff' else first)}")
        parts.append(f"at {self._since_start(first)} for {duration_text(length)}")
        self._bars.append(
            Bar(kind, self._lane(step_id), left, max(right, left + PLACE * 0.75), ", ".join(parts), length, last.seq)
        )

    def _mark(self, kind: MarkKind, step_id: str | None, place: int) -> None:
        event = self._events[place]
        where = f"{step_id}: " if step_id is not None else ""
        text = f"{where}{MARK_KINDS[kind]}{_because(event)}, at {self._since_start(event)}"
        self._marks.append(Mark(kind, self._lane(step_id), self._scale.positions[place], text, event.seq))

    def _strike(self, fault: FaultStrike) -> None:
        before = [place for place, event in enumerate(self._events) if event.seq <= fault.after_seq]
        position = self._scale.positions[before[-1]] + PLACE / 2 if before else 0.0
        where = f"{fault.step_id}: " if fault.step_id is not None else ""
        text = f"{where}{MARK_KINDS['fault']} {fault.description}"
        self._marks.append(Mark("fault", self._lane(fault.step_id), position, text, fault.after_seq))

    def _lane(self, step_id: str | None) -> int:
        return self._lanes.setdefault(step_id, len(self._lanes))

    def _since_start(self, event: Event) -> str:
        return since_start(self._events, event)


def _because(event: Event) -> str:
    """Return what an event tells besides its kind."""
    match event:
        case StepFailed(error=error, message=message) | ExecutionFailed(error=error, message=message):
            return f" ({error}: {message})" if message else f" ({error})"
        case ExecutionPanicked(indicator=indicator):
            return f" ({indicator})" if indicator else ""
        case StepRetrying(backoff_ms=milliseconds):
            return f" of {duration_text(milliseconds)}"
        case StepCompleted(handled_by=handler) if handler:
            return f" ({handler})"
        case CircuitOpened(failures=failures):
            return f" (failures: {failures})"
        case ExecutionRestarted(restart_attempt=attempt):
            return f" (run {attempt})"
    return ""
