"""The history of an execution, to compare, to assert on and to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias, TypeVar, overload

from tabulate import tabulate

from pytest_workflow.matching import is_expected, matching
from workflow_core.events import (
    UNSET,
    CircuitOpened,
    Event,
    ExecutionEvent,
    ExecutionPanicked,
    ExecutionRestarted,
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
    from collections.abc import Iterable

__all__ = ["Expected", "History", "compare", "table"]

Expected: TypeAlias = "Event | type[Event]"
"""What a comparison may name: an event, of which only the set fields count, or an event's class."""

EventT = TypeVar("EventT", bound=Event)

_STARTS = (StepStarted, SleepStarted)
_RESULTS = (StepCompleted, StepSkipped, SleepCompleted)


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

    @property
    def whole(self) -> History:
        """The history that these events are a part of."""
        return self._whole

    # Parts -----------------------------------------------------------------------------------------------------------

    def of(self, step_id: str) -> History:
        """Return the events of one step; with ``*`` or ``?`` in the id, and no such step, of all that match."""
        chosen = set(self._ids(step_id))
        return History(
            (event for event in self if isinstance(event, StepEvent) and event.step_id in chosen),
            f'{self.title}, step "{step_id}"',
            self._whole,
        )

    def only(self, *kinds: type[Event]) -> History:
        """Return the events of the given classes.

        Raises:
            TypeError: Something else than a class of events is given.
        """
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, Event)):
                raise TypeError(f"only() takes classes of events, such as StepCompleted; not {kind!r}")
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

    def _ids(self, step_id: str, *kinds: type[StepEvent]) -> list[str]:
        """Return the ids, among those of events of some classes, that an id or a glob means."""
        named = (event.step_id for event in self if isinstance(event, kinds or StepEvent))
        return matching(dict.fromkeys(name for name in named if name is not UNSET), step_id)

    # Named assertions ------------------------------------------------------------------------------------------------

    def assert_completed(self, step_id: str, *more_ids: str) -> None:
        """Assert that each step has its result, by itself or by a handler, and that each sleep is over.

        Args:
            step_id: A step or sleep; a glob means each that appears in the history, and at least one.
            *more_ids: Others.
        """
        __tracebackhide__ = True
        done = {event.step_id for event in self if isinstance(event, _RESULTS)}
        for wanted in (step_id, *more_ids):
            for found in self._ids(wanted) or [wanted]:
                if found not in done:
                    self._fail(f'step "{found}" did not complete{self._hint(found)}', _of_step(found))

    def assert_order(self, step_id: str, *more_ids: str) -> None:
        """Assert that the steps and sleeps completed, in this order; others may stand between.

        Args:
            step_id: A step or sleep; a glob means each that appears in the history, and at least one.
            *more_ids: Those that completed after it.
        """
        __tracebackhide__ = True
        self.assert_completed(step_id, *more_ids)
        order = [event.step_id for event in self if isinstance(event, _RESULTS)]
        latest = None
        for wanted in (step_id, *more_ids):
            places = [order.index(found) for found in self._ids(wanted)]
            if latest is not None and min(places) <= latest:
                self._fail(
                    f'step "{order[min(places)]}" did not complete after "{order[latest]}"; expected: '
                    f"{', '.join((step_id, *more_ids))}; completed: {', '.join(order)}",
                    _of_step(order[min(places)]),
                )
            latest = max(places)

    def assert_never_ran(self, step_id: str) -> None:
        """Assert that no attempt of the step began, and no such sleep; a step answered by ``on_open`` did not run."""
        __tracebackhide__ = True
        for found in self._ids(step_id, *_STARTS):
            self._fail(f'step "{found}" ran', _of_step(found))

    def assert_attempts(self, step_id: str, count: int) -> None:
        """Assert how many attempts of the step began, over all restarts; of each step that a glob matches."""
        __tracebackhide__ = True
        begun = Counter(event.step_id for event in self if isinstance(event, _STARTS))
        for found in self._ids(step_id) or [step_id]:
            if begun[found] != count:
                attempts = "attempt" if begun[found] == 1 else "attempts"
                message = f'step "{found}" made {begun[found]} {attempts}, not {count}{self._hint(found)}'
                self._fail(message, _of_step(found))

    def assert_backoff(self, step_id: str, milliseconds: Sequence[int]) -> None:
        """Assert the waits between the step's attempts, in milliseconds; of each step that a glob matches."""
        __tracebackhide__ = True
        for wanted in self._ids(step_id, StepStarted, StepSkipped) or [step_id]:
            found = [event.backoff_ms for event in self._each(StepRetrying) if event.step_id == wanted]
            if found != list(milliseconds):
                self._fail(f'step "{wanted}" backed off for {found} ms, not {list(milliseconds)} ms', _of_step(wanted))

    def assert_slept(self, step_id: str, duration: float | timedelta) -> None:
        """Assert that a durable sleep of this length began; with a glob, that each that matches has this length.

        Args:
            step_id: The sleep, or a glob.
            duration: Milliseconds, or a ``timedelta``.
        """
        __tracebackhide__ = True
        milliseconds = round(duration / timedelta(milliseconds=1) if isinstance(duration, timedelta) else duration)
        for wanted in self._ids(step_id, SleepStarted) or [step_id]:
            found = [event.duration_ms for event in self._each(SleepStarted) if event.step_id == wanted]
            if milliseconds not in found:
                lasted = f"lasted {', '.join(map(str, found))} ms, not {milliseconds} ms" if found else "did not begin"
                self._fail(f'sleep "{wanted}" {lasted}{self._hint(wanted)}', _of_step(wanted))

    def assert_circuit_opened(self, step_id: str) -> None:
        """Assert that the step's circuit opened during this execution; with a glob, that of each that matches."""
        __tracebackhide__ = True
        opened = {event.step_id for event in self._each(CircuitOpened)}
        for wanted in self._ids(step_id, StepStarted, StepSkipped) or [step_id]:
            if wanted not in opened:
                self._fail(f'the circuit of step "{wanted}" did not open', _of_step(wanted))

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

    def _hint(self, step_id: str) -> str:
        """Return, for an id that is not in the history, those that are."""
        ids = list(dict.fromkeys(event.step_id for event in self._whole if isinstance(event, StepEvent)))
        return "" if step_id in ids else f"; the history knows {', '.join(map(str, ids)) or 'no step'}"

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
        return isinstance(event, StepEvent) and event.step_id == mark
    return isinstance(event, mark)


# Comparing -----------------------------------------------------------------------------------------------------------


def first_difference(history: History, expected: Sequence[object]) -> int | None:
    """Return the position in ``expected`` of the first difference, or ``None`` if there is none."""
    counted = history.compared_with(expected)
    for position, (item, (_, event)) in enumerate(zip(expected, counted, strict=False)):
        if not is_expected(event, item):
            return position
    return None if len(counted) == len(expected) else min(len(counted), len(expected))


def compare(history: History, expected: Sequence[object]) -> list[str]:
    """Explain, for pytest, where a history differs from an expectation.

    pytest cuts an explanation after eight lines or so, which is why the table shows only the surroundings.
    """
    position = first_difference(history, expected)
    counted = history.compared_with(expected)
    if position is None:
        return []
    wanted = expected[position] if position < len(expected) else None
    place, found = counted[position] if position < len(counted) else (len(history), None)
    names = _named(wanted)
    return [
        f"{history.title} differs from the expectation at position {position}",
        f"  expected: {'nothing more' if position >= len(expected) else _as_written(wanted, names)}",
        f"  happened: {'nothing more' if found is None else _as_written(found, [*found.named_fields(), *names])}",
        *_fields_that_differ(wanted, found, names),
        *_window(history, place),
    ]


def _named(wanted: object) -> list[str]:
    """Return the fields that an expectation names, those of ``None`` and of the envelope among them."""
    if not isinstance(wanted, Event):
        return []
    return [name for name in wanted.field_names() if getattr(wanted, name) is not UNSET]


def _as_written(item: object, names: Iterable[str]) -> str:
    """Return an item of an expectation, or an event, as it would be written in a test."""
    if isinstance(item, type):
        return item.__name__
    if not isinstance(item, Event):
        return repr(item)
    chosen = set(names)
    shown = ((name, getattr(item, name)) for name in item.field_names() if name in chosen)
    return f"{type(item).__name__}({', '.join(f'{name}={value!r}' for name, value in shown)})"


def _fields_that_differ(wanted: object, found: Event | None, names: Iterable[str]) -> list[str]:
    if type(wanted) is not type(found):
        return []
    different = [name for name in names if getattr(wanted, name) != getattr(found, name) is not UNSET]
    return [f"  differs in {', '.join(different)}"]


def _window(history: History, place: int) -> list[str]:
    """Draw the surroundings of a place, which is marked."""
    last = min(place + 2, len(history))
    first = max(min(place - 1, last - 2), 0)
    left_out = len(history) - (last - first)
    return [
        *table(history, {place}, slice(first, last)).splitlines(),
        *([f"({left_out} more events are not shown here)"] if left_out else []),
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


def table(events: Sequence[Event], marked: Iterable[int] = (), shown: slice = slice(None)) -> str:
    """Draw events as a table, with an arrow at the marked places; times are counted from the execution's start.

    Args:
        events: The events.
        marked: The places of those that are marked.
        shown: The part that is drawn.
    """
    if not events:
        return "(no events)"
    marks = set(marked)
    whole = events.whole if isinstance(events, History) else events
    first = next((event.at for event in whole if event.at is not UNSET), None)
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
        for place, event in list(enumerate(events))[shown]
    ]
    headers = ("", "#", "time", "event", "step", "attempt", "details")
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
