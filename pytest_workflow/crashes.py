"""Crash exploration: a scenario is run once for every place where the process could die, and what is left is checked.

Bounded exhaustive, after Mohan et al., "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing" (OSDI
2018): small scenarios, every durable point, few crashes in a row.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pytest_workflow.crash_text import OWN_ASSERTIONS, described_failures
from pytest_workflow.invariants import DEFAULT_INVARIANTS, Comparison, Invariant
from pytest_workflow.observation import Observation, Place
from pytest_workflow.plan import FaultPlan

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = [
    "OWN_ASSERTIONS",
    "CrashExplorationError",
    "CrashFailure",
    "CrashReport",
    "Runner",
    "explore",
]

Runner: TypeAlias = Callable[[tuple[Place, ...]], Observation]
"""Runs the scenario, letting the process die at the given places one after the other."""

_NOT_REACHED = "the place is reached"
_SEED = 0


class CrashExplorationError(AssertionError):
    """A crash somewhere breaks an invariant; the message shows where, and how to replay it."""


@dataclass(frozen=True, slots=True)
class CrashFailure:
    """A run that broke an invariant.

    Attributes:
        places: Where the process died.
        violations: The invariants that were broken, each with what was found.
        run: What was seen of the run.
    """

    places: tuple[Place, ...]
    violations: tuple[tuple[str, str], ...]
    run: Observation

    @property
    def plan(self) -> FaultPlan:
        """The crashes as a fault plan."""
        return FaultPlan(rules=tuple(place.rule() for place in self.places))


@dataclass(slots=True)
class CrashReport:
    """What an exploration found.

    Attributes:
        test: Node id of the test; empty outside pytest.
        baseline: The run without a crash.
        points: Durable points that the scenario passes without a crash.
        depth: Most crashes in one run.
        runs: Runs with a crash.
        singles: How many of them have one crash alone.
        exhausted: Whether every place, up to ``depth`` crashes in a row, was tried.
        at: The places that alone were tried; empty if all were.
        elapsed_seconds: Real time that all runs took.
        failures: The runs that broke an invariant.
        command: The shell command that runs the test again; empty outside pytest.
    """

    test: str
    baseline: Observation
    depth: int
    points: int = 0
    runs: int = 0
    singles: int = 0
    exhausted: bool = True
    at: tuple[Place, ...] = ()
    elapsed_seconds: float = 0.0
    failures: list[CrashFailure] = field(default_factory=list)
    command: str = ""

    @property
    def ok(self) -> bool:
        """Whether every invariant held in every run."""
        return not self.failures

    @property
    def runs_per_second(self) -> float:
        """Crash runs per second of real time."""
        return self.runs / self.elapsed_seconds if self.elapsed_seconds else 0.0

    def summary(self) -> str:
        """Return the bound of the exploration, its result and its speed, in one line."""
        if self.at:
            places = ", then ".join(map(str, self.at))
            return f"1 run that dies at {places}, {'passed' if self.ok else 'failed'}"
        if not self.points:
            return "no workflow ran, so nothing was explored"
        further = self.runs - self.singles
        runs = f"{self.points} points \N{MULTIPLICATION SIGN} {{before, after}} = {self.singles} runs"
        if self.depth > 1:
            runs += f", and {further} with up to {self.depth} crashes"
        bound = "exhausted" if self.exhausted else "not exhausted"
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"{runs}, depth {self.depth}, {bound}{failed}, {self.runs_per_second:.0f} runs/s"

    def __str__(self) -> str:
        return "\n".join([f"crash exploration: {self.summary()}", *described_failures(self)])

    def raise_for_failures(self) -> None:
        """Raise an error that explains the failures, if there are any.

        Raises:
            CrashExplorationError: An invariant was broken.
        """
        __tracebackhide__ = True
        if self.failures:
            raise CrashExplorationError(str(self))


def explore(
    run: Runner,
    *,
    test: str = "",
    command: str = "",
    depth: int = 1,
    nondeterministic: Iterable[str] = (),
    invariants: Sequence[Invariant] = (),
    most_runs: int | None = None,
    at: Sequence[Place] = (),
    own_assertions: bool = True,
    baseline: Observation | None = None,
) -> CrashReport:
    """Run a scenario once without a crash, then once for each place where the process could die.

    Args:
        run: Runs the scenario.
        test: Node id of the test.
        command: The shell command that runs the test again, to which the places are added.
        depth: Most crashes in one run: 2 tries, after each first crash, each place of what follows.
        nondeterministic: Ids, or globs, of steps whose results may differ from run to run.
        invariants: What must hold besides the default invariants.
        most_runs: Limit; runs with several crashes are then drawn at random, by a fixed seed.
        at: Try these places alone, all in one run.
        own_assertions: Whether an error of the scenario itself counts.
        baseline: What was seen of the run without a crash, if it was made already.

    Returns:
        The report.

    Raises:
        ValueError: ``depth`` or ``most_runs`` is less than 1.
    """
    if depth < 1 or (most_runs is not None and most_runs < 1):
        raise ValueError(f"depth and most_runs are at least 1; got {depth!r} and {most_runs!r}")
    __tracebackhide__ = True
    begin = time.perf_counter()
    first = run(()) if baseline is None else baseline
    report = CrashReport(test, first, depth, points=len(first.passed), command=command)
    checks = (*DEFAULT_INVARIANTS, *invariants)
    allowed = tuple(nondeterministic)

    def attempt(places: tuple[Place, ...]) -> Observation:
        seen = run(places)
        report.runs += 1
        violations = tuple(_violations(Comparison(seen, first, allowed), checks, own_assertions=own_assertions))
        if violations:
            report.failures.append(CrashFailure(places, violations, seen))
        return seen

    if at:
        attempt(tuple(at))
        report.singles, report.exhausted, report.depth, report.at = 1, False, len(at), tuple(at)
    else:
        _explore_all(report, attempt, most_runs)
    report.elapsed_seconds = time.perf_counter() - begin
    return report


def _explore_all(
    report: CrashReport, attempt: Callable[[tuple[Place, ...]], Observation], most_runs: int | None
) -> None:
    schedules: list[tuple[Place, ...]] = [(place,) for place in report.baseline.places_from(0)]
    for level in range(1, report.depth + 1):
        left = None if most_runs is None else most_runs - report.runs
        if left is not None and left < len(schedules):
            schedules = random.Random(_SEED).sample(schedules, left) if level > 1 else schedules[:left]  # noqa: S311 - a sample
            report.exhausted = False
        deeper: list[tuple[Place, ...]] = []
        for schedule in schedules:
            seen = attempt(schedule)
            if level < report.depth and len(seen.deaths) == level:
                deeper += [(*schedule, place) for place in seen.places_from(seen.deaths[-1].passed)]
        if level == 1:
            report.singles = report.runs
        schedules = deeper


def _violations(
    compared: Comparison, invariants: Sequence[Invariant], *, own_assertions: bool
) -> Iterator[tuple[str, str]]:
    run = compared.run
    if len(run.deaths) < len(run.places):
        missed = run.places[len(run.deaths)]
        yield _NOT_REACHED, f"the scenario did not come to {missed}: it does not do the same in each run"
    for invariant in invariants:
        for found in invariant.check(compared):
            yield invariant.name, found
    if run.error is not None and own_assertions:
        yield OWN_ASSERTIONS, run.error
