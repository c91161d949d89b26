"""The fixture ``workflow_upgrade``: executions that the old code has begun, finished by the new code.

An execution of the old code is frozen after every durable point: a copy of its database is kept, as a deploy at that
moment would find it. Each copy is then opened by an engine with the new code.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import pydantic_core

from pytest_workflow.at_once import outside_loops
from pytest_workflow.clock import VirtualClock
from pytest_workflow.environment import Environment
from pytest_workflow.observed import ObservedDefinitions
from pytest_workflow.recorded_history import read_executions
from workflow_core.events import Event, StepStarted
from workflow_core.hookspecs import hookimpl
from workflow_core.models import TERMINAL_STATUSES

if TYPE_CHECKING:
    from datetime import datetime
    from typing import Self

    from pytest_workflow.freezer import Freezer
    from pytest_workflow.observed import Ask
    from pytest_workflow.recorded_history import RecordedExecution
    from workflow_core.engine import WorkflowEngine
    from workflow_core.execution import Execution
    from workflow_core.hookspecs import DurablePoint

__all__ = ["UpgradeError", "UpgradePlace", "UpgradeReport", "WorkflowCode", "WorkflowUpgrade"]

WorkflowCode: TypeAlias = Callable[[Any], object]
"""A workflow's handler, or a function with the parameter ``engine`` that defines workflows on an engine."""

_SHOWN = 200
_ADVICE = "keep ids, order and types of what running executions have recorded, or let them finish on the old code"


class UpgradeError(AssertionError):
    """Executions of the old code do not end as they should on the new code; the message tells from which places."""


@dataclass(frozen=True, slots=True)
class UpgradePlace:
    """A moment at which the new code took an execution over.

    Attributes:
        number: Its place among the durable points of the old code, counted from 1.
        point: Name of the durable point that had just been committed.
        step_id: The step it belonged to, if any.
        ending: How the new code ended the execution.
        problems: What is wrong with that; empty if nothing is.
    """

    number: int
    point: str
    step_id: str | None
    ending: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the new code ended the execution as the old code would have."""
        return not self.problems

    def __str__(self) -> str:
        of = f' of "{self.step_id}"' if self.step_id is not None else ""
        return f"point {self.number} ({self.point}{of})"


@dataclass(frozen=True, slots=True)
class UpgradeReport:
    """How the new code ends what the old code has begun.

    Attributes:
        workflow_name: The workflow.
        expected: How the old code ends it.
        places: Each place at which the new code took over.
    """

    workflow_name: str
    expected: str
    places: tuple[UpgradePlace, ...]

    @property
    def ok(self) -> bool:
        """Whether the new code ended every execution as the old code would have."""
        return all(place.ok for place in self.places)

    @property
    def failures(self) -> tuple[UpgradePlace, ...]:
        """The places from which the new code did not."""
        return tuple(place for place in self.places if not place.ok)

    def __str__(self) -> str:
        wrong = f"{len(self.failures)} of {len(self.places)} places at which the new code takes over go wrong"
        lines = [f'upgrade of workflow "{self.workflow_name}": {wrong}', f"  the old code ends it: {self.expected}"]
        for problems, group in itertools.groupby(self.failures, key=lambda place: place.problems):
            lines.append(f"  taken over after {', '.join(map(str, group))}:")
            lines += [f"    {line}" for problem in problems for line in problem.splitlines()]
        return "\n".join([*lines, *([f"  what to do: {_ADVICE}"] if self.failures else [])])

    def raise_for_failures(self) -> UpgradeReport:
        """Return this report if nothing goes wrong.

        Raises:
            UpgradeError: Something does.
        """
        __tracebackhide__ = True
        if not self.ok:
            raise UpgradeError(str(self))
        return self


@dataclass(frozen=True, slots=True)
class _Frozen:
    """A database as it was after a durable point."""

    number: int
    point: DurablePoint
    database: bytes
    at: datetime


class WorkflowUpgrade:
    """What the fixture ``workflow_upgrade`` gives: call it with the old code and the new code.

    Args:
        environment: The running test's settings, plugins and clock.
        freezer: Shows virtual time to the user's code.
    """

    def __init__(self, environment: Environment, freezer: Freezer) -> None:
        self._test = environment
        self._freezer = freezer

    def __call__(
        self,
        old: WorkflowCode,
        new: WorkflowCode,
        workflow: str | None = None,
        *,
        input: object = None,  # noqa: A002 - the field's own name for it
        execution_id: str = "upgraded",
        returns: Mapping[str, object] | None = None,
        check: bool = True,
    ) -> UpgradeReport:
        """Run the old code once, and the new code from every durable point of that run on, each on virtual time.

        Args:
            old: A workflow's handler, or a function whose one parameter is called ``engine`` and that defines
                workflows on it.
            new: The same for the new code.
            workflow: Name of the workflow; needed if ``old`` defines several. A handler alone is called "upgraded".
            input: What the handlers find as ``ctx.input``.
            execution_id: Names the execution.
            returns: Values by step id, or glob, that steps of both return instead of running.
            check: Raise an error if something goes wrong.

        Returns:
            The report.

        Raises:
            UpgradeError: The new code cannot finish an execution, ends it otherwise than the old code, or runs a
                completed step again; and ``check`` is set.
            ValueError: ``old`` defines no workflow, or several and none is named.
        """
        __tracebackhide__ = True
        doubles = returns or {}
        report = outside_loops(lambda: self._report(old, new, workflow, input, execution_id, doubles))
        return report.raise_for_failures() if check else report

    def _report(
        self,
        old: WorkflowCode,
        new: WorkflowCode,
        workflow: str | None,
        input_value: object,
        execution_id: str,
        doubles: Mapping[str, object],
    ) -> UpgradeReport:
        now = self._test.clock.now()
        with _Run(self._test, self._freezer, now, doubles, freezes=True) as before:
            name = before.define(old, workflow)
            before.finish(lambda: before.environment.harness.run(name, execution_id, input_value))
            expected = before.record(execution_id)
        places = []
        for frozen in before.frozen:
            with _Run(self._test, self._freezer, frozen.at, doubles, frozen.database) as after:
                after.define(new, name)
                places.append(_taken_over(frozen, before, after, expected))
        return UpgradeReport(name, _ending(expected), tuple(places))


class _Run:
    """A run of one version of the code, in a process and with a database of its own.

    Attributes:
        asks: What was asked for, by id.
        begun: The ids of the steps whose functions ran, in this order.
        frozen: The database after each durable point, if it freezes them.
        failure: What the run raised.
    """

    def __init__(
        self,
        test: Environment,
        freezer: Freezer,
        start: datetime,
        doubles: Mapping[str, object],
        database: bytes | None = None,
        *,
        freezes: bool = False,
    ) -> None:
        self.asks: dict[str, Ask] = {}
        self.begun: list[str] = []
        self.frozen: list[_Frozen] = []
        self.failure: BaseException | None = None
        self._points = 0
        self._freezer = freezer
        with contextlib.ExitStack() as stack:
            self._storage = stack.enter_context(contextlib.closing(test.storage.another()))
            if database is not None:
                self._storage.fill(database)
            plugins = [*test.user_plugins, _Watch(self, freezes=freezes)]
            self.environment = stack.enter_context(
                contextlib.closing(
                    Environment(VirtualClock(start), settings=test.settings, plugins=plugins, storage=self._storage)
                )
            )
            self.environment.engine.configurations.succeed(test.engine.configurations)
            for step_id, value in doubles.items():
                self.environment.faults.returns(step_id, value, strict=False)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._freezer.led_by(self.environment.clock))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def define(self, code: WorkflowCode, workflow: str | None) -> str:
        """Define the workflows of a version of the code, and return the name of the one that runs."""
        engine: WorkflowEngine = self.environment.engine
        if _defines(code):
            code(engine)
            names = engine.definitions.names()
            if workflow is None and len(names) != 1:
                raise ValueError(f"{code!r} defines {len(names)} workflows ({', '.join(names)}): name the one to run")
            name = workflow or names[0]
        else:
            name = workflow or "upgraded"
            engine.define(name, code)
        engine.definitions = ObservedDefinitions(engine.definitions, [self])
        return name

    def finish(self, run: Callable[[], object]) -> None:
        """Run to the end, and keep what is raised."""
        try:
            run()
        except Exception as error:  # noqa: BLE001 - an assertion of the workflow's, a time-out, anything
            self.failure = error

    def record(self, execution_id: str) -> RecordedExecution:
        """Return what the database holds of an execution."""
        found = read_executions(self.environment.database.connection, execution_id=execution_id)
        if not found and self.failure is not None:
            raise self.failure
        return found[0]

    def freeze(self, point: DurablePoint) -> None:
        """Keep the database as it is after a durable point, unless the execution has ended."""
        self._points += 1
        (rest,) = self.environment.database.query(
            "SELECT count(*) AS n FROM executions WHERE status NOT IN (?, ?, ?)", *TERMINAL_STATUSES
        )
        if rest["n"]:
            now = self.environment.clock.now()
            self.frozen.append(_Frozen(self._points, point, self.environment.storage.image(), now))

    async def asked(self, execution: Execution, ask: Ask) -> None:
        """Note what is asked for."""
        del execution
        self.asks.setdefault(ask.step_id, ask)

    async def returned(self, execution: Execution) -> None:
        """Nothing to do: the end is read from the database."""


class _Watch:
    """Notes which steps run, and freezes the database after each durable point."""

    def __init__(self, run: _Run, *, freezes: bool) -> None:
        self._run = run
        self._freezes = freezes

    def __dir__(self) -> list[str]:
        return ["on_event", "after_durable_point"] if self._freezes else ["on_event"]

    @hookimpl
    def on_event(self, event: Event) -> None:
        """Note a step that runs."""
        if isinstance(event, StepStarted):
            self._run.begun.append(event.step_id)

    @hookimpl
    def after_durable_point(self, point: DurablePoint) -> None:
        """Freeze the database."""
        self._run.freeze(point)


def _defines(code: WorkflowCode) -> bool:
    return [*inspect.signature(code).parameters][:1] == ["engine"]


# Comparing -----------------------------------------------------------------------------------------------------------


def _taken_over(frozen: _Frozen, before: _Run, after: _Run, expected: RecordedExecution) -> UpgradePlace:
    execution_id = expected.execution_id
    had = after.record(execution_id)

    def go_on() -> None:
        after.environment.clock.run(after.environment.engine.recover())
        after.environment.harness.wait(execution_id)

    after.finish(go_on)
    found = after.record(execution_id)
    problems = [*_ending_problems(expected, found, after.failure), *_steps_run_again(had, before, after)]
    return UpgradePlace(frozen.number, frozen.point.name, frozen.point.step_id, _ending(found), tuple(problems))


def _ending_problems(
    expected: RecordedExecution, found: RecordedExecution, failure: BaseException | None
) -> Sequence[str]:
    if found.status not in TERMINAL_STATUSES:
        reason = str(failure).splitlines()[0] if failure is not None and str(failure) else f"it stays {found.status}"
        return [f"the new code cannot finish it: {reason}"]
    if found.status != expected.status:
        return [f"the new code {'cannot finish it' if found.status == 'failed' else 'ends it'}: {_ending(found)}"]
    if found.output != expected.output:
        return [f"the new code ends it otherwise: {_ending(found)}"]
    return []


def _steps_run_again(had: RecordedExecution, before: _Run, after: _Run) -> list[str]:
    done = [step.step_id for step in had.steps if step.kind == "step" and step.status in {"completed", "skipped"}]
    problems = [f'step "{step_id}" was completed, and runs again' for step_id in done if step_id in after.begun]
    left = [step_id for step_id in done if step_id not in after.asks and step_id in before.asks]
    for step_id in dict.fromkeys(after.begun):
        if step_id in before.asks or not left:
            continue
        code = after.asks[step_id].code if step_id in after.asks else ""
        same = next((other for other in left if code and before.asks[other].code == code), left[0])
        left.remove(same)
        problems.append(
            f'step "{same}" was completed, and is not asked for any more; step "{step_id}" runs in its place'
            + (f", at {after.asks[step_id].site}" if step_id in after.asks else "")
        )
    return problems


def _ending(record: RecordedExecution) -> str:
    if record.status == "completed":
        return f"completed with {pydantic_core.to_json(record.output).decode():.{_SHOWN}}"
    if isinstance(record.error, dict):
        return f"{record.status} with {record.error.get('type')}: {record.error.get('message')!s:.{_SHOWN}}"
    return record.status
