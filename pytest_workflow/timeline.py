"""The order in which a recorded execution asked for its steps and had them answered.

A replay answers each step when it was answered: at the recorded moment, and only after everything that had begun
before has been asked for. Steps that ran at the same time are then asked for again in the recorded order, although
none of them takes any time.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING

from workflow_core.database.store import ABANDONED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_workflow.recorded_history import RecordedEvent, RecordedExecution, RecordedStep

__all__ = ["RecordedPlace", "Timeline"]

_ENDINGS = frozenset({"StepCompleted", "StepSkipped", "SleepCompleted", "StepFailed"})


@dataclass(frozen=True, slots=True)
class RecordedPlace:
    """A step or sleep in its execution's history.

    Attributes:
        record: Its row.
        position: Its place among the steps, counted from 1, in the order in which they began.
        begun: Position of its first event.
        ended: Position of its last event.
        ended_at: Moment of its last event.
    """

    record: RecordedStep
    position: int
    begun: int
    ended: int
    ended_at: datetime

    @property
    def step_id(self) -> str:
        """Its id."""
        return self.record.step_id

    @property
    def is_answered(self) -> bool:
        """Whether the record holds what it returned or raised; otherwise it was under way, or was given up."""
        status = self.record.status
        return status in {"completed", "skipped"} or (status == "failed" and self.record.error_message != ABANDONED)

    def __str__(self) -> str:
        record = self.record
        length = f" of {record.duration_ms} ms" if record.kind == "sleep" else ""
        number = f", attempt {record.attempt}" if record.attempt > 1 else ""
        return f'{record.kind} "{record.step_id}"{length} (number {self.position}, {record.status}{number})'


class Timeline:
    """The steps of a recorded execution in order, and how far a replay has come.

    Args:
        execution: The record.
    """

    def __init__(self, execution: RecordedExecution) -> None:
        spans: dict[str, tuple[int, int, str]] = {}
        for event in execution.events:
            if event.step_id is not None and not event.type.startswith("Circuit"):
                begun, ended, at = spans.get(event.step_id, (event.seq, event.seq, event.at))
                spans[event.step_id] = (begun, event.seq, event.at) if event.type in _ENDINGS else (begun, ended, at)
        last = max((event.seq for event in execution.events), default=0)
        unseen = (last + 1, last + 1, execution.started_at)
        found = sorted(((spans.get(step.step_id, unseen), step) for step in execution.steps), key=lambda item: item[0])
        self.places = {
            step.step_id: RecordedPlace(step, position, begun, ended, _moment(at))
            for position, ((begun, ended, at), step) in enumerate(found, start=1)
        }
        self.started_at = _moment(execution.started_at)
        self._by_begin = list(self.places.values())
        self._by_end = sorted((place for place in self._by_begin if place.is_answered), key=lambda p: p.ended)
        self._asked: set[str] = set()
        self._answered: set[str] = set()
        self._first_unasked = self._first_unanswered = 0
        self._inner = {inner.step_id for begun, ended in _handled(execution) for inner in self._between(begun, ended)}

    def ask(self, step_id: str, *, nests: bool = False) -> None:
        """Note that the replay has asked for a recorded step.

        Args:
            step_id: The step.
            nests: Whether its function may ask for steps itself; what was recorded meanwhile need not be asked for.
        """
        self._asked.add(step_id)
        if nests:
            place = self.places[step_id]
            self._inner.update(inner.step_id for inner in self._between(place.begun, place.ended))

    def _between(self, begun: int, ended: int) -> Iterator[RecordedPlace]:
        for number in range(bisect_right(self._by_begin, begun, key=attrgetter("begun")), len(self._by_begin)):
            place = self._by_begin[number]
            if place.begun >= ended:
                return
            if place.ended < ended:
                yield place

    def answer(self, step_id: str) -> None:
        """Note that the replay was given a recorded step's answer."""
        self._answered.add(step_id)

    def was_asked(self, step_id: str) -> bool:
        """Tell whether the replay has asked for a recorded step."""
        return step_id in self._asked

    def unasked(self) -> list[RecordedPlace]:
        """Return what the replay has not asked for, in the recorded order.

        Steps that were asked for by a handler of another step are not among them: the handler does not run again.
        """
        return list(self._unasked())

    def _unasked(self) -> Iterator[RecordedPlace]:
        places = self._by_begin
        # What was asked for stays so: of a thousand steps none is looked at a thousand times.
        while self._first_unasked < len(places) and self._is_settled(places[self._first_unasked], self._asked):
            self._first_unasked += 1
        for number in range(self._first_unasked, len(places)):
            if not self._is_settled(places[number], self._asked):
                yield places[number]

    def _is_settled(self, place: RecordedPlace, settled: set[str]) -> bool:
        return place.step_id in settled or place.step_id in self._inner

    def skipped_by(self, place: RecordedPlace) -> RecordedPlace | None:
        """Return the first step that had ended before ``place`` began and that the replay has not asked for."""
        for other in self._unasked():
            if other.begun >= place.begun:
                return None
            if other.is_answered and other.ended < place.begun:
                return other
        return None

    def is_due(self, place: RecordedPlace) -> bool:
        """Tell whether everything has happened that happened before a step was answered.

        What ended after a step that is not due is not due either.
        """
        unasked = next(self._unasked(), None)
        if unasked is not None and unasked.begun < place.ended:
            return False
        places = self._by_end
        while self._first_unanswered < len(places) and self._is_settled(places[self._first_unanswered], self._answered):
            self._first_unanswered += 1
        return self._first_unanswered == len(places) or places[self._first_unanswered].ended >= place.ended


def _handled(execution: RecordedExecution) -> Iterator[tuple[int, int]]:
    """Yield, as positions in the history, when the error handlers of steps ran, and their ``on_open``."""
    own: dict[str, list[RecordedEvent]] = {step.step_id: [] for step in execution.steps}
    for event in execution.events:
        if event.step_id in own and not event.type.startswith("Circuit"):
            own[event.step_id].append(event)
    last = max((event.seq for event in execution.events), default=0) + 1
    for step in execution.steps:
        events = own[step.step_id]
        for event, following in zip(events, [*events[1:], None], strict=True):
            if event.type == "StepFailed":
                yield event.seq, following.seq if following is not None else last
            elif event.type == "StepSkipped":  # that its circuit was open is no event: only the row tells since when
                yield min(other.seq for other in execution.events if other.at >= step.created_at) - 1, event.seq


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
