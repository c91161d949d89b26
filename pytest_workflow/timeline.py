"""The order in which a recorded execution asked for its steps and had them answered.

A replay answers each step when it was answered: at the recorded moment, and only after everything that had begun
before has been asked for. Steps that ran at the same time are then asked for again in the recorded order, although
none of them takes any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from workflow_core.database.store import ABANDONED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_workflow.recorded_history import RecordedExecution, RecordedStep

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
        self._asked: set[str] = set()
        self._by_end = sorted((place for place in self.places.values() if place.is_answered), key=lambda p: p.ended)
        self._answered: set[str] = set()
        self._inner = {
            inner.step_id
            for outer in self.places.values()
            for begun, ended in _handled(execution, outer.record)
            for inner in self._between(begun, ended)
        }

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

    def _between(self, begun: int, ended: int) -> list[RecordedPlace]:
        return [place for place in self.places.values() if begun < place.begun and place.ended < ended]

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
        return [place for place in self.places.values() if place.step_id not in self._asked | self._inner]

    def skipped_by(self, place: RecordedPlace) -> RecordedPlace | None:
        """Return the first step that had ended before ``place`` began and that the replay has not asked for."""
        for other in self.unasked():
            if other.is_answered and other.ended < place.begun:
                return other
        return None

    def is_due(self, place: RecordedPlace) -> bool:
        """Tell whether everything has happened that happened before a step was answered."""
        unasked = next(iter(self.unasked()), None)
        if unasked is not None and unasked.begun < place.ended:
            return False
        waiting = next((other for other in self._by_end if other.step_id not in self._answered | self._inner), None)
        return waiting is None or waiting.ended >= place.ended


def _handled(execution: RecordedExecution, step: RecordedStep) -> Iterator[tuple[int, int]]:
    """Yield, as positions in the history, when the error handlers of a step ran, and its ``on_open``."""
    own = [
        event for event in execution.events if event.step_id == step.step_id and not event.type.startswith("Circuit")
    ]
    last = max((event.seq for event in execution.events), default=0) + 1
    for event, following in zip(own, [*own[1:], None], strict=True):
        if event.type == "StepFailed":
            yield event.seq, following.seq if following is not None else last
        elif event.type == "StepSkipped":  # that its circuit was open is no event: only the row tells since when
            yield min(other.seq for other in execution.events if other.at >= step.created_at) - 1, event.seq


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
