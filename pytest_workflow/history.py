"""The history of an execution, to compare, to assert on and to read."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeAlias, TypeVar, overload

from tabulate import tabulate

from workflow_core.events import (
    UNSET,
    CircuitOpened,
    Event,
    ExecutionEvent,
    ExecutionPanicked,
    ExecutionRestarted,
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
    from collections.abc import Iterable

__all__ = ["Expected", "History", "compare", "table"]

Expected: TypeAlias = "Event | type[Event]"
"""What a comparison may name: an event, of which only the set fields count, or an event's class."""

EventT = TypeVar("EventT", bound=Event)


class History(Sequence[Event]):
    """The events of one execution, oldest first.

    ``history == [...]`` compares event by event, and of each event only the fields that the expectation names.
    `StepStarted` is compared if the expectation names one, or is empty; otherwise only that of an attempt without an
    end, because all others start before they end.

    Args:
        events: The events.
        title: What they belong to, for messages.
        whole: The history that these events are a part of.
    """

    def __init__(self, events: Iterable[Event], title: str = "history", whole: History | None = None) -> None:
        self._events = tuple(events)
        self._whole = self if whole is None else whole
        self.title = title

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> History: ...

    def __getitem__(self, index: int | slice) -> Event | History:
        if isinstance(index, slice):
            return History(self._events[index], self.title, self._whole)
        return self._events[index]

    def __len__(self) -> int:
        return len(self._events)

    def __repr__(self) -> str:
        return f"History({list(self._events)!r})"

    def __str__(self) -> str:
        return f"{self.title}\n{table(self)}"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (str, bytes)) or not isinstance(other, Sequence):
            return NotImplemented
        return first_difference(self, other) is None

    __hash__ = None  # type: ignore[assignment]  # equality with unset fields is not transitive

    # Parts -----------------------------------------------------------------------------------------------------------

    def of(self, step_id: str) -> History:
        """Return the events of one step; with ``*`` or ``?`` in the id, of all that match."""
        return History(
            (event for event in self if isinstance(event, StepEvent) and _matches(event.step_id, step_id)),
            f'{self.title}, step "{step_id}"',
            self._whole,
        )

    def only(self, *kinds: type[Event]) -> History:
        """Return the events of the given classes."""
        return History((event for event in self if isinstance(event, kinds)), self.title, self._whole)

    def compared_with(self, expected: Sequence[object]) -> list[tuple[int, Event]]:
        """Return the events that count against an expectation, each with its place."""
        if not expected or any(isinstance(item, StepStarted) or item is StepStarted for item in expected):
            return list(enumerate(self))
        endless = self._whole._endless_starts()
        return [
            (place, event)
            for place, event in enumerate(self)
            if not isinstance(event, StepStarted) or any(event is start for start in endless)
        ]

    def _endless_starts(self) -> list[StepStarted]:
        """Return the starts of attempts that have no end here: they go on, or were abandoned."""
        ended: set[tuple[str, int]] = set()
        endless = []
        for event in reversed(self._events):
            if isinstance(event, (StepCompleted, StepFailed, StepSkipped, StepInterrupted)):
                ended.add((event.step_id, event.attempt))
            elif isinstance(event, StepStarted):
                if (event.step_id, event.attempt) in ended:
                    ended.discard((event.step_id, event.attempt))
                else:
                    endless.append(event)
        return endless

    def _each(self, kind: type[EventT]) -> list[EventT]:
        return [event for event in self if isinstance(event, kind)]

    # Named assertions ------------------------------------------------------------------------------------------------

    def assert_completed(self, *step_ids: str) -> None:
        """Assert that each step has its result, by itself or by a handler."""
        __tracebackhide__ = True
        done = {event.step_id for event in self if isinstance(event, (StepCompleted, StepSkipped))}
        for step_id in step_ids:
            if not any(_matches(found, step_id) for found in done):
                self._fail(f'step "{step_id}" did not complete', _of_step(step_id))

    def assert_order(self, *step_ids: str) -> None:
        """Assert that the steps completed, in this order; others may stand between."""
        __tracebackhide__ = True
        self.assert_completed(*step_ids)
        order = [event.step_id for event in self if isinstance(event, (StepCompleted, StepSkipped))]
        position = -1
        for step_id in step_ids:
            later = [place for place, found in enumerate(order) if place > position and _matches(found, step_id)]
            if not later:
                self._fail(f'step "{step_id}" did not complete after {order[: position + 1]!r}', _of_step(step_id))
            position = later[0]

    def assert_never_ran(self, step_id: str) -> None:
        """Assert that no attempt of the step began; a step answered by ``on_open`` did not run."""
        __tracebackhide__ = True
        if any(_matches(event.step_id, step_id) for event in self._each(StepStarted)):
            self._fail(f'step "{step_id}" ran', _of_step(step_id))

    def assert_attempts(self, step_id: str, count: int) -> None:
        """Assert how many attempts of the step began, over all restarts."""
        __tracebackhide__ = True
        found = sum(_matches(event.step_id, step_id) for event in self._each(StepStarted))
        if found != count:
            self._fail(f'step "{step_id}" made {found} attempts, not {count}', _of_step(step_id))

    def assert_backoff(self, step_id: str, milliseconds: Sequence[int]) -> None:
        """Assert the waits between the step's attempts, in milliseconds."""
        __tracebackhide__ = True
        found = [event.backoff_ms for event in self._each(StepRetrying) if _matches(event.step_id, step_id)]
        if found != list(milliseconds):
            self._fail(f'step "{step_id}" backed off for {found} ms, not {list(milliseconds)} ms', _of_step(step_id))

    def assert_slept(self, step_id: str, milliseconds: int) -> None:
        """Assert that a durable sleep of this length began."""
        __tracebackhide__ = True
        found = [event.duration_ms for event in self._each(SleepStarted) if _matches(event.step_id, step_id)]
        if milliseconds not in found:
            self._fail(f'sleep "{step_id}" lasted {found or "never"} ms, not {milliseconds} ms', _of_step(step_id))

    def assert_circuit_opened(self, step_id: str) -> None:
        """Assert that the step's circuit opened during this execution."""
        __tracebackhide__ = True
        if not any(_matches(event.step_id, step_id) for event in self._each(CircuitOpened)):
            self._fail(f'the circuit of step "{step_id}" did not open', _of_step(step_id))

    def assert_panicked(self, indicator: str | None = None) -> None:
        """Assert that the execution panicked, and by what.

        Args:
            indicator: The indicator, such as ``"out of memory"``, or a part of it; ``None`` accepts any.
        """
        __tracebackhide__ = True
        found = [str(event.indicator) for event in self._each(ExecutionPanicked)]
        wanted = (indicator or "").lower()
        if not any(wanted in text.lower() for text in found):
            expected = f"by {indicator!r}" if indicator else "at all"
            self._fail(f"the execution did not panic {expected} (panics: {found})", ExecutionPanicked)

    def assert_restarts(self, count: int) -> None:
        """Assert how many times the execution was restarted."""
        __tracebackhide__ = True
        found = len(self._each(ExecutionRestarted))
        if found != count:
            self._fail(f"the execution restarted {found} times, not {count}", ExecutionRestarted)

    def _fail(self, message: str, mark: type[Event] | _StepMark) -> None:
        __tracebackhide__ = True
        marked = {place for place, event in enumerate(self) if _is_marked(event, mark)}
        raise AssertionError(f"{message}\n{self.title}\n{table(self, marked)}")


class _StepMark(str):
    """Marks the events of a step in a table."""

    __slots__ = ()


def _of_step(step_id: str) -> _StepMark:
    return _StepMark(step_id)


def _is_marked(event: Event, mark: type[Event] | _StepMark) -> bool:
    if isinstance(mark, _StepMark):
        return isinstance(event, StepEvent) and _matches(event.step_id, mark)
    return isinstance(event, mark)


def _matches(step_id: str, pattern: str) -> bool:
    return step_id == pattern or (("*" in pattern or "?" in pattern) and fnmatchcase(step_id, pattern))


# Comparing -----------------------------------------------------------------------------------------------------------


def _fits(event: object, expected: object) -> bool:
    return isinstance(event, expected) if isinstance(expected, type) else event == expected


def first_difference(history: History, expected: Sequence[object]) -> int | None:
    """Return the position in ``expected`` of the first difference, or ``None`` if there is none."""
    counted = history.compared_with(expected)
    for position, (item, (_, event)) in enumerate(zip(expected, counted, strict=False)):
        if not _fits(event, item):
            return position
    return None if len(counted) == len(expected) else min(len(counted), len(expected))


def compare(history: History, expected: Sequence[object]) -> list[str]:
    """Explain, for pytest, where a history differs from an expectation."""
    position = first_difference(history, expected)
    counted = history.compared_with(expected)
    if position is None:
        return []
    wanted = repr(expected[position]) if position < len(expected) else "nothing more"
    found = repr(counted[position][1]) if position < len(counted) else "nothing more"
    place = {counted[position][0]} if position < len(counted) else set[int]()
    return [
        f"{history.title} differs from the expectation at position {position}",
        f"  expected: {wanted}",
        f"  happened: {found}",
        *table(history, place).splitlines(),
    ]


# Showing -------------------------------------------------------------------------------------------------------------


def _details(event: Event) -> str:
    fields = event.named_fields()
    shown = {name: value for name, value in fields.items() if name not in {"step_id", "attempt"}}
    return ", ".join(
        f"{name}={value!r}" if isinstance(value, str) else f"{name}={value}" for name, value in shown.items()
    )


def _shown(event: Event, name: str) -> object:
    """Return a field for a table; an event that was made by hand need not have it."""
    value = getattr(event, name, UNSET)
    return "" if value is UNSET or (isinstance(event, ExecutionEvent) and name == "step_id") else value


def table(events: Sequence[Event], marked: Iterable[int] = ()) -> str:
    """Draw events as a table, with an arrow at the marked places; times are counted from the first event."""
    if not events:
        return "(no events)"
    marks = set(marked)
    first = next((event.at for event in events if event.at is not UNSET), None)
    rows = [
        (
            ">" if place in marks else "",
            _shown(event, "seq"),
            "" if first is None or event.at is UNSET else f"+{(event.at - first).total_seconds():.3f}s",
            type(event).__name__,
            _shown(event, "step_id"),
            _shown(event, "attempt"),
            _details(event),
        )
        for place, event in enumerate(events)
    ]
    headers = ("", "#", "time", "event", "step", "attempt", "details")
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
