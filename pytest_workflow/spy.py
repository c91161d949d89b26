"""The fixture ``workflow_spy``: every call of a step's function, with what it captured and what came of it."""

from __future__ import annotations

import dataclasses
import reprlib
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from tabulate import tabulate

from pytest_workflow.capture import captured_values, copied
from pytest_workflow.matching import matches
from workflow_core.context import WorkflowContext
from workflow_core.hookspecs import Attempt, AttemptHandler, hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from pytest_workflow.clock import VirtualClock

__all__ = ["Call", "Calls", "WorkflowSpy"]

_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = 60


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a step's function, which is one attempt.

    Attributes:
        execution_id: The execution.
        workflow: The workflow's name.
        step_id: The step.
        attempt: Counted from 1.
        restart_attempt: 1, and one more for each restart of the execution.
        started_at: When it began, in virtual time.
        ended_at: When it ended; ``None`` while it runs.
        result: What it returned.
        error: What it raised; a cancellation, by a time-out for example, is a ``CancelledError``.
        doubled: Whether a fault or a double answered, and the function itself was not called.
        arguments: What the function had captured when the call began, by name: arguments of ``functools.partial``,
            defaults and closure variables.
    """

    execution_id: str
    workflow: str
    step_id: str
    attempt: int
    restart_attempt: int
    started_at: datetime
    ended_at: datetime | None
    result: object
    error: BaseException | None
    doubled: bool
    arguments: Mapping[str, object]


class Calls:
    """Calls in the order in which they began, over all executions.

    Step ids may be globs.

    Args:
        calls: The calls.
        start: When time began, for tables.
        title: What they are, for messages.
    """

    def __init__(self, calls: Sequence[Call], start: datetime, title: str = "calls of steps") -> None:
        self._calls = calls
        self._start = start
        self._title = title

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(tuple(self._calls))

    def __getitem__(self, index: int) -> Call:
        return self._calls[index]

    def __str__(self) -> str:
        return self._table()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.step_ids}>"

    @property
    def step_ids(self) -> list[str]:
        """The ids of the steps that were called, in order."""
        return [call.step_id for call in self]

    def of(self, step_id: str = "*", *, workflow: str = "*", execution_id: str = "*") -> Calls:
        """Return the calls of one step, workflow or execution; each is a name or a glob."""
        chosen = [
            call
            for call in self
            if matches(call.step_id, step_id)
            and matches(call.workflow, workflow)
            and matches(call.execution_id, execution_id)
        ]
        asked = {"step": step_id, "workflow": workflow, "execution": execution_id}
        narrowed = ", ".join(f'{name} "{pattern}"' for name, pattern in asked.items() if pattern != "*")
        return Calls(chosen, self._start, f"{self._title}, {narrowed}" if narrowed else self._title)

    def count(self, step_id: str = "*") -> int:
        """Return how often a step was called: attempts, doubled ones included."""
        return len(self.of(step_id))

    # Assertions ------------------------------------------------------------------------------------------------------

    def assert_called(self, step_id: str, times: int | None = None) -> None:
        """Assert that a step was called.

        Args:
            step_id: Step id, or a glob.
            times: How often; ``None`` for at least once.

        Raises:
            AssertionError: It was not; the message shows all calls.
        """
        __tracebackhide__ = True
        found = self.count(step_id)
        if times is None and not found:
            self._fail(f'step "{step_id}" was never called', step_id)
        if times is not None and found != times:
            self._fail(f'step "{step_id}" was called {_times(found)}, not {_times(times)}', step_id)

    def assert_not_called(self, step_id: str) -> None:
        """Assert that a step was never called, not even with a double in the place of its function."""
        __tracebackhide__ = True
        if found := self.count(step_id):
            self._fail(f'step "{step_id}" was called {_times(found)}', step_id)

    def assert_called_with(self, step_id: str, /, **captured: object) -> None:
        """Assert that one call of a step had captured these values.

        Args:
            step_id: Step id, or a glob.
            **captured: Names and values; what is not named does not count.

        Raises:
            AssertionError: No call had; the message tells how each differs.
        """
        __tracebackhide__ = True
        differences = [
            (number, _difference(call, captured)) for number, call in enumerate(self, 1) if self._is(call, step_id)
        ]
        if not differences:
            self._fail(f'step "{step_id}" was never called', step_id)
        if all(difference for _, difference in differences):
            wanted = ", ".join(f"{name}={_short(value)}" for name, value in captured.items())
            told = "\n".join(f"  call {number}: {difference}" for number, difference in differences)
            self._fail(f'step "{step_id}" was never called with {wanted}\n{told}', step_id)

    def assert_order(self, *steps: str | tuple[str, str]) -> None:
        """Assert that calls began in this order; others may stand between.

        Args:
            *steps: Step ids or globs, or pairs of an execution id and a step id.
        """
        __tracebackhide__ = True
        position = 0
        for place, step in enumerate(steps):
            execution_id, step_id = ("*", step) if isinstance(step, str) else step
            while position < len(self) and not (
                self._is(self[position], step_id) and matches(self[position].execution_id, execution_id)
            ):
                position += 1
            if position == len(self):
                before = f" after {list(steps[:place])!r}" if place else ""
                self._fail(f"{step!r} was not called{before}", step_id)
            position += 1

    @staticmethod
    def _is(call: Call, step_id: str) -> bool:
        return matches(call.step_id, step_id)

    def _fail(self, message: str, step_id: str) -> None:
        __tracebackhide__ = True
        marked = {place for place, call in enumerate(self) if self._is(call, step_id)}
        raise AssertionError(f"{message}\n{self._title}\n{self._table(marked)}")

    def _table(self, marked: Collection[int] = ()) -> str:
        rows = [
            (
                ">" if place in marked else "",
                place + 1,
                f"+{(call.started_at - self._start).total_seconds():.3f}s",
                call.execution_id,
                call.step_id,
                call.attempt,
                _shown_arguments(call),
                _outcome(call),
            )
            for place, call in enumerate(self)
        ]
        headers = ("", "#", "time", "execution", "step", "attempt", "captured", "outcome")
        return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True) if rows else "(no calls)"


class WorkflowSpy(Calls):
    """All calls of steps in a test, recorded while they happen.

    Args:
        clock: Where the times come from.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self._recorded: list[Call] = []
        super().__init__(self._recorded, clock.start)
        self.clock = clock
        self._latest: _Watched | None = None

    @property
    def calls(self) -> Calls:
        """The calls so far."""
        return self.of()

    def clear(self) -> None:
        """Forget the calls so far."""
        self._recorded.clear()

    def plugins(self) -> Iterable[object]:
        """Return what watches an engine."""
        return _Outermost(self), _Innermost(self)

    # Recording -------------------------------------------------------------------------------------------------------

    def wrap_outermost(self, attempt: Attempt) -> Callable[[AttemptHandler], AttemptHandler]:
        """Note a call, whoever answers it."""
        watched = self._latest = _Watched(self, attempt)
        return watched.around_all

    def wrap_innermost(self) -> Callable[[AttemptHandler], AttemptHandler] | None:
        """Note that the step's own function is called."""
        return self._latest.around_function if self._latest is not None else None

    def note(self, call: Call, before: Call | None = None) -> None:
        """Record a call that begins, or put what has become of it in the place of what it was ``before``."""
        if before is None:
            self._recorded.append(call)
            return
        for place in reversed(range(len(self._recorded))):
            if self._recorded[place] is before:
                self._recorded[place] = call
                return


class _Watched:
    """One attempt, watched from around everything that plugins put around it, and from within."""

    def __init__(self, spy: WorkflowSpy, attempt: Attempt) -> None:
        self._spy = spy
        self._attempt = attempt
        self._call: Call | None = None

    def around_all(self, call: AttemptHandler) -> AttemptHandler:
        async def spied() -> object:
            self._begin()
            try:
                result = await call()
            except BaseException as error:
                self._end(None, error)
                raise
            self._end(copied(result), None)
            return result

        return spied

    def around_function(self, call: AttemptHandler) -> AttemptHandler:
        async def reached() -> object:
            if self._call is not None:
                self._become(dataclasses.replace(self._call, doubled=False))
            return await call()

        return reached

    def _begin(self) -> None:
        attempt = self._attempt
        self._become(
            Call(
                execution_id=attempt.execution_id,
                workflow=attempt.workflow_name,
                step_id=attempt.step_id,
                attempt=attempt.attempt,
                restart_attempt=attempt.restart_attempt,
                started_at=self._spy.clock.now(),
                ended_at=None,
                result=None,
                error=None,
                doubled=True,
                arguments=MappingProxyType(captured_values(attempt.handler)),
            )
        )

    def _end(self, result: object, error: BaseException | None) -> None:
        if self._call is not None:
            self._become(dataclasses.replace(self._call, ended_at=self._spy.clock.now(), result=result, error=error))

    def _become(self, call: Call) -> None:
        before, self._call = self._call, call
        self._spy.note(call, before)


class _Outermost:
    """Is asked first, so that what it puts around an attempt is around everything else."""

    def __init__(self, spy: WorkflowSpy) -> None:
        self._spy = spy

    def __dir__(self) -> list[str]:
        return ["wrap_attempt"]  # each name costs pluggy a look at every registration

    @hookimpl(tryfirst=True)
    def wrap_attempt(self, attempt: Attempt) -> Callable[[AttemptHandler], AttemptHandler]:
        return self._spy.wrap_outermost(attempt)


class _Innermost:
    """Is asked last, for the same attempt: what it puts around it is around the step's own function."""

    def __init__(self, spy: WorkflowSpy) -> None:
        self._spy = spy

    def __dir__(self) -> list[str]:
        return ["wrap_attempt"]

    @hookimpl(trylast=True)
    def wrap_attempt(self) -> Callable[[AttemptHandler], AttemptHandler] | None:
        return self._spy.wrap_innermost()


# Showing -------------------------------------------------------------------------------------------------------------


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _difference(call: Call, captured: Mapping[str, object]) -> str:
    """Tell how a call differs from what was named; empty if it does not."""
    differences = []
    for name, wanted in captured.items():
        if name not in call.arguments:
            differences.append(f'it captured no "{name}", but {", ".join(call.arguments) or "nothing"}')
        elif wanted != call.arguments[name]:
            differences.append(f"{name} was {_short(call.arguments[name])}, not {_short(wanted)}")
    return "; ".join(differences)


def _short(value: object) -> str:
    text = _shortened.repr(value)
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def _shown_arguments(call: Call) -> str:
    """Show the data; functions and the context are what nearly every closure holds, and tell nothing."""
    return ", ".join(
        f"{name}={_short(value)}"
        for name, value in call.arguments.items()
        if not callable(value) and not isinstance(value, WorkflowContext)
    )


def _outcome(call: Call) -> str:
    if call.ended_at is None:
        return "(running)"
    outcome = _short(call.result) if call.error is None else f"raised {_short(call.error)}"
    return f"{outcome} (double)" if call.doubled else outcome
