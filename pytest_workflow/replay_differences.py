"""How a replay differs from its record: what is noted on the way, and which of it counts in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_workflow.divergence import Divergence
from pytest_workflow.replay_ending import ending_divergence, has_own_ending
from pytest_workflow.stored_types import stored_type_problem

if TYPE_CHECKING:
    import asyncio

    from pytest_workflow.observed import Ask
    from pytest_workflow.recorded_history import RecordedExecution
    from pytest_workflow.timeline import RecordedPlace, Timeline
    from workflow_core.serialization import Codec

__all__ = ["Differences"]


@dataclass(slots=True)
class _Suspicion:
    """A step that was asked for out of place; what it means shows later.

    Attributes:
        ask: What was asked for.
        instead_of: What the record has there, if anything.
        answer: For a step that the record does not know: set to let it go on.
    """

    ask: Ask
    instead_of: RecordedPlace | None
    answer: asyncio.Future[None] | None = None


class Differences:
    """What differs between one replay and its record.

    Args:
        record: The record.
        timeline: How far the replay has come in it.
        codec: Reads the stored values.
        same_code: Whether today's code made the record: then what was stored need not fit the declared types better
            than the engine asks for.

    Attributes:
        asked: What was asked for, in this order.
    """

    def __init__(self, record: RecordedExecution, timeline: Timeline, codec: Codec, *, same_code: bool) -> None:
        self._record = record
        self._timeline = timeline
        self._codec = codec
        self._same_code = same_code
        self.asked: list[Ask] = []
        self._found: list[Divergence | _Suspicion] = []
        self._speculated = False

    def check_order(self, ask: Ask, place: RecordedPlace) -> None:
        """Note that a recorded step is asked for before another one that stands before it."""
        skipped = self._timeline.skipped_by(place)
        if skipped is not None:
            self._found.append(_Suspicion(ask, skipped))

    def are_between(self, ask: Ask, place: RecordedPlace) -> bool:
        """Tell whether what is asked for differs from what is recorded of it, and note how."""
        difference = self._difference(ask, place)
        if difference is not None:
            self._found.append(difference)
        return difference is not None

    def _difference(self, ask: Ask, place: RecordedPlace) -> Divergence | None:
        record = place.record
        if ask.kind != record.kind:
            what = f'"{ask.step_id}" was a {record.kind} and is a {ask.kind} today'
            return Divergence("kind", what, str(place), str(ask), ask.step_id, str(ask.site))
        if ask.kind == "sleep" and ask.duration_ms != record.duration_ms:
            what = f'sleep "{ask.step_id}" has another length'
            lengths = f"{record.duration_ms} ms", f"{ask.duration_ms} ms"
            return Divergence("duration", what, *lengths, ask.step_id, str(ask.site))
        if record.status in {"completed", "skipped"}:
            problem = stored_type_problem(self._codec, record.result, ask.returns, only_read=self._same_code)
            if problem is not None:
                what = f'the recorded result of step "{ask.step_id}" does not fit its declared type any more'
                return Divergence("result", what, *problem, ask.step_id, str(ask.site))
        return None

    def suspect(self, ask: Ask, instead_of: RecordedPlace | None, answer: asyncio.Future[None]) -> None:
        """Note that a step is asked for that the record does not know.

        Args:
            ask: What was asked for.
            instead_of: What the record has there, if anything.
            answer: Set to let it go on.
        """
        self._found.append(_Suspicion(ask, instead_of, answer))

    def held(self) -> asyncio.Future[None] | None:
        """Return what lets the first unknown step go on that stands before a recorded one; ``None`` without any."""
        answer = next((answer for answer in map(self._held_answer, self._found) if answer is not None), None)
        if answer is not None:
            self._speculated = True
        return answer

    def _held_answer(self, found: Divergence | _Suspicion) -> asyncio.Future[None] | None:
        if not isinstance(found, _Suspicion) or found.answer is None or found.answer.done():
            return None
        place = found.instead_of
        return found.answer if place is not None and not self._timeline.was_asked(place.step_id) else None

    # Which one counts ------------------------------------------------------------------------------------------------

    def first(self, after: RecordedExecution, error: BaseException | None, *, ended: bool) -> Divergence | None:
        """Return the first difference, as the end of the replay shows it.

        Args:
            after: What the replay has left in its database.
            error: What ended it, if an error did.
            ended: Whether the handler has ended.
        """
        failed = error is not None and self._record.error is None
        divergence = self._first_noted(ended=ended, failed=failed)
        return self._unlike_the_end(after, error, ended=ended) if divergence is None else divergence

    def _first_noted(self, *, ended: bool, failed: bool) -> Divergence | None:
        for found in self._found:
            divergence = found if isinstance(found, Divergence) else self._judged(found, ended=ended, failed=failed)
            if divergence is not None:
                return divergence
        return None

    def _judged(self, suspicion: _Suspicion, *, ended: bool, failed: bool) -> Divergence | None:
        ask, place = suspicion.ask, suspicion.instead_of
        is_missing = place is not None and not self._timeline.was_asked(place.step_id)
        if suspicion.answer is None:
            return self._out_of_order(ask, place, is_missing=is_missing) if place is not None else None
        if not (has_own_ending(self._record) or self._speculated or ended or self._timeline.unasked()):
            return None  # everything recorded was asked for: this is what comes next
        recorded = str(place) if place is not None else f"nothing more ({self._record.status})"
        if place is not None and is_missing and not failed:
            if place.record.kind != ask.kind:
                return self._missing(place, str(ask), str(ask.site))
            what = f'{ask.kind} "{ask.step_id}" is asked for where "{place.step_id}" is recorded'
            return Divergence("renamed", what, recorded, str(ask), place.step_id, str(ask.site))
        what = f'{ask.kind} "{ask.step_id}" is new, although the execution was past it'
        hints = (f'it is "{place.step_id}" under a new id',) if place is not None and is_missing else ()
        return Divergence("new", what, recorded, str(ask), ask.step_id, str(ask.site), hints)

    def _out_of_order(self, ask: Ask, place: RecordedPlace, *, is_missing: bool) -> Divergence | None:
        if is_missing:
            return self._missing(place, str(ask), str(ask.site))
        later = next(other for other in self.asked if other.step_id == place.step_id)
        if not ask.is_ordered_with(later):
            return None  # in tasks that run side by side: neither waits for the other
        what = f'{ask.kind} "{ask.step_id}" is asked for before {place.record.kind} "{place.step_id}"'
        order = f'"{place.step_id}" ended before "{ask.step_id}" began'
        return Divergence("order", what, order, str(ask), ask.step_id, str(ask.site))

    def _missing(self, place: RecordedPlace, today: str, site: str = "") -> Divergence:
        what = f'{place.record.kind} "{place.step_id}" is recorded, and today\'s code does not ask for it'
        return Divergence("missing", what, str(place), today, place.step_id, site)

    def _unlike_the_end(
        self, after: RecordedExecution, error: BaseException | None, *, ended: bool
    ) -> Divergence | None:
        divergence = ending_divergence(self._record, after, error) if ended else None
        missing = self._timeline.unasked()
        if missing and (divergence is None or divergence.kind != "raises"):
            return self._missing(missing[0], "the handler ends without it" if ended else "it is waited for in vain")
        if not ended and divergence is None and has_own_ending(self._record):
            what = "today's handler does not come to its end: it waits for something outside its steps"
            return Divergence("ending", what, f"the execution {self._record.status}", "it waits for ever")
        return divergence
