"""Running a function of a test as a scenario of its own: a fresh database, clock, engine and faults each time."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from pytest_workflow.clock import VirtualClock
from pytest_workflow.crashes import CrashExplorationError, CrashReport, explore
from pytest_workflow.environment import Environment
from pytest_workflow.observation import Observation, Place
from pytest_workflow.own_loop import SpareLoops
from pytest_workflow.places import located_error
from workflow_core.definition import Definitions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_workflow.freezer import Freezer
    from pytest_workflow.invariants import Invariant
    from pytest_workflow.storages import Storage
    from workflow_core.definition import Definition

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["ScenarioDefinitions", "WorkflowCrashes", "run_scenario"]


class WorkflowCrashes:
    """Explores what a crash anywhere in a scenario leaves.

    Args:
        environment: The test's own environment, whose settings, plugins and workflows each run takes over.
        freezer: Leads the user's code to a run's own time.
        test: Node id of the test.
        at: Try these places alone.
        invariants: What must hold besides the default invariants.
        report: Is told of each finished exploration.
        command: The shell command that runs the test again.
    """

    def __init__(
        self,
        environment: Environment,
        freezer: Freezer,
        test: str,
        at: Sequence[Place] = (),
        invariants: Sequence[Invariant] = (),
        report: Callable[[CrashReport], object] = lambda _: None,
        command: str = "",
    ) -> None:
        self._environment = environment
        self._freezer = freezer
        self._test = test
        self._at = tuple(at)
        self._invariants = tuple(invariants)
        self._report = report
        self._command = command
        self._missed = False
        self._reached = False

    def check_reached(self) -> None:
        """Refuse places that no exploration of the test came to.

        Raises:
            CrashExplorationError: There were explorations, and none came to the place that was asked for.
        """
        __tracebackhide__ = True
        if self._missed and not self._reached:
            raise CrashExplorationError(f"no exploration of this test comes to {self._at[0]}")

    def explore(
        self,
        scenario: Callable[..., object],
        *,
        depth: int = 1,
        nondeterministic: Iterable[str] = (),
        invariants: Sequence[Invariant] = (),
        most_runs: int | None = None,
        check: bool = True,
    ) -> CrashReport:
        """Run a scenario once without a crash, then once for each place where the process could die.

        Args:
            scenario: Function, ``def`` or ``async def``, that runs workflows and may assert. It takes any of the
                arguments ``workflow``, ``workflow_faults``, ``workflow_clock`` and ``workflow_db``, which are its own
                in each run. The outside world that a crash does not undo is made in it, too.
            depth: Most crashes in one run: 2 tries, after each first crash, each place of what follows.
            nondeterministic: Ids, or globs, of steps whose results may differ from run to run; the output of an
                execution is then not compared.
            invariants: What must hold besides the default invariants.
            most_runs: Limit; runs with several crashes are then drawn at random, by a fixed seed.
            check: Raise for the failures; otherwise they are in the report alone.

        Returns:
            The report; ``str(report)`` explains the failures, if any.

        Raises:
            CrashExplorationError: An invariant was broken.
            ValueError: ``depth`` or ``most_runs`` is less than 1, or the scenario runs no workflow.
        """
        __tracebackhide__ = True
        if isinstance(nondeterministic, str):
            nondeterministic = (nondeterministic,)
        with contextlib.closing(self._environment.storage.another()) as storage, SpareLoops() as loops:
            run = functools.partial(self._run, scenario, asked_for(scenario), storage, loops)
            baseline = run(())
            if not baseline.passed:
                raise ValueError("the scenario came to no durable point: it ran no workflow, so nothing was explored")
            at = self._at
            if at and not at[0].is_passed(baseline.passed):  # it is a place of another exploration of this test
                self._missed = True
                return CrashReport(self._test, baseline, len(at), points=len(baseline.passed), exhausted=False, at=at)
            self._reached = True
            report = explore(
                run,
                test=self._test,
                command=self._command,
                depth=depth,
                nondeterministic=nondeterministic,
                invariants=(*self._invariants, *invariants),
                most_runs=most_runs,
                at=at,
                baseline=baseline,
            )
        self._report(report)
        if check:
            report.raise_for_failures()
        return report

    def _run(
        self,
        scenario: Callable[..., object],
        asked: Sequence[str],
        storage: Storage,
        loops: SpareLoops,
        places: tuple[Place, ...],
    ) -> Observation:
        __tracebackhide__ = True
        outer = self._environment
        observation = Observation(places)
        clock = VirtualClock(outer.clock.start, automatic=outer.clock.automatic, loops=loops)
        storage.empty()
        environment = Environment(
            clock, None, outer.settings, outer.user_plugins, observation, storage, outer.custom_fault
        )
        environment.engine.definitions = ScenarioDefinitions(outer.engine.definitions)
        self._freezer.lead(clock)
        try:
            error = None
            try:
                run_with(scenario, asked, environment)
                environment.failures.surface()
            except Exception as raised:
                if not places:
                    raise  # without a crash the scenario's error is the test's
                error = located_error(raised)
            environment.finish_observation(error)
            if not places:
                outer.never_awaited += environment.never_awaited
        finally:
            environment.close()
            self._freezer.lead(outer.clock)
        return observation


class ScenarioDefinitions(Definitions):
    """The workflows of one run of a scenario: those of the test, and those that the scenario itself defines.

    Args:
        outer: The workflows of the test, which stay as they are.
    """

    def __init__(self, outer: Definitions) -> None:
        super().__init__()
        self._outer = outer

    def get(self, name: str) -> Definition | None:
        """Return a workflow, or ``None``."""
        return super().get(name) or self._outer.get(name)

    def names(self) -> list[str]:
        """Return the names, sorted."""
        return sorted({*super().names(), *self._outer.names()})


def run_scenario(scenario: Callable[..., object], environment: Environment) -> None:
    """Call a scenario with what it asks for by the names of its parameters.

    Raises:
        TypeError: It asks for something that there is not.
    """
    __tracebackhide__ = True
    run_with(scenario, asked_for(scenario), environment)


def asked_for(scenario: Callable[..., object]) -> tuple[str, ...]:
    """Return the names of what a scenario asks for.

    Raises:
        TypeError: It asks for something that there is not.
    """
    __tracebackhide__ = True
    parameters = inspect.signature(scenario).parameters.values()
    unknown = [p.name for p in parameters if p.name not in _OFFERED and p.default is p.empty and p.kind not in _OPEN]
    if unknown:
        raise TypeError(f"a scenario takes any of {', '.join(_OFFERED)}; this one asks for {', '.join(unknown)}")
    return tuple(parameter.name for parameter in parameters if parameter.name in _OFFERED)


def run_with(scenario: Callable[..., object], asked: Iterable[str], environment: Environment) -> None:
    """Call a scenario with what it asks for."""
    __tracebackhide__ = True
    result = scenario(**{name: _OFFERED[name](environment) for name in asked})
    if isinstance(result, Coroutine):
        environment.clock.run(result)


_OFFERED: dict[str, Callable[[Environment], object]] = {
    "workflow": lambda environment: environment.harness,
    "workflow_faults": lambda environment: environment.faults,
    "workflow_clock": lambda environment: environment.clock,
    "workflow_db": lambda environment: environment.database,
}

_OPEN: frozenset[Any] = frozenset({inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD})
