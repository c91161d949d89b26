"""Crash exploration: a scenario is run once for every place where the process could die, and what is left is checked.

Bounded exhaustive, after Mohan et al., "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing" (OSDI
2018): small scenarios, every durable point, few crashes in a row.
"""

from __future__ import annotations

import random
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeAlias

import pydantic_core
from tabulate import tabulate

from pytest_workflow.history import table
from pytest_workflow.invariants import DEFAULT_INVARIANTS, Comparison, Invariant
from pytest_workflow.observation import Observation, Place
from pytest_workflow.plan import FaultPlan
from workflow_core.events import event_from_row

if TYPE_CHECKING:
    from workflow_core.events import Event

__all__ = [
    "NOTHING_PASSED",
    "OWN_ASSERTIONS",
    "CrashExplorationError",
    "CrashFailure",
    "CrashReport",
    "Runner",
    "explore",
    "replay_command",
]

Runner: TypeAlias = Callable[[tuple[Place, ...]], Observation]
"""Runs the scenario, letting the process die at the given places one after the other."""

OWN_ASSERTIONS = "the test's own assertions"
"""The name under which an error of the scenario itself is reported."""

NOTHING_PASSED = (
    "crash exploration: no durable point was passed, so there is no place to die and nothing was explored; run a "
    "workflow by the fixture's engine"
)
"""What is said of a scenario that would pass whatever a crash does."""

_NOT_REACHED = "the place is reached"
_SHOWN = 3
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
        exhausted: Whether every place, up to ``depth`` crashes in a row, was tried.
        elapsed_seconds: Real time that all runs took.
        failures: The runs that broke an invariant.
        command: The shell command that runs the test again; empty outside pytest.
        at: The places that were tried alone.
    """

    test: str
    baseline: Observation
    depth: int
    points: int = 0
    runs: int = 0
    singles: int = 0
    exhausted: bool = True
    elapsed_seconds: float = 0.0
    failures: list[CrashFailure] = field(default_factory=list)
    command: str = ""
    at: tuple[Place, ...] = ()

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
        failed = f", {len(self.failures)} failed" if self.failures else ""
        if self.at:
            return f"{self.runs} run that dies {_places_in_words(self.at)}; {self.points} points{failed}"
        further = self.runs - self.singles
        runs = f"{self.points} points \N{MULTIPLICATION SIGN} {{before, after}} = {self.singles} runs"
        if self.depth > 1:
            runs += f", and {further} with up to {self.depth} crashes"
        bound = "exhausted" if self.exhausted else "not exhausted"
        return f"{runs}, depth {self.depth}, {bound}{failed}, {self.runs_per_second:.0f} runs/s"

    def __str__(self) -> str:
        lines = [f"crash exploration: {self.summary()}"]
        for number, failure in enumerate(self.failures[:_SHOWN], start=1):
            lines += ["", f"{number}. The process died {_places_in_words(failure.places)}."]
            lines += _described(failure, self.baseline, self.command)
        if len(self.failures) > _SHOWN:
            lines += ["", f"... and {len(self.failures) - _SHOWN} more:"]
            lines += [
                f"  {' + '.join(map(str, failure.places))}: {failure.violations[0][0]}"
                for failure in self.failures[_SHOWN:]
            ]
        return "\n".join(lines)

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
    begin = time.perf_counter()
    first = run(()) if baseline is None else baseline
    report = CrashReport(test, first, depth, points=len(first.passed), command=command, at=tuple(at))
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
        report.singles, report.exhausted, report.depth = 1, False, len(at)
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


# Showing -------------------------------------------------------------------------------------------------------------


def _places_in_words(places: Sequence[Place]) -> str:
    return ", and again ".join(place.in_words() for place in places)


def replay_command(command: str, places: Sequence[Place]) -> str:
    """Return the shell command that runs a test with the process dying at these places.

    Args:
        command: The command that runs the test.
        places: The places.
    """
    return " ".join([command, *(shlex.quote(f"--workflow-crash-at={place}") for place in places)])


def _described(failure: CrashFailure, baseline: Observation, command: str) -> Iterator[str]:
    for name in dict.fromkeys(name for name, _ in failure.violations):
        found = [text for broken, text in failure.violations if broken == name]
        yield f"   broken: {name}"
        for text in found[:_SHOWN]:
            first, *rest = text.splitlines() or [""]
            yield f"     - {first}"
            yield from (f"       {line}" for line in rest)
        if len(found) > _SHOWN:
            yield f"     - ... and {len(found) - _SHOWN} more"
    yield from _advice(failure)
    ledger = _ledger(failure.run, baseline)
    if ledger:
        yield "   effects (only steps that differ, or were cut off):"
        yield from (f"     {line}" for line in ledger.splitlines())
    for execution_id in dict.fromkeys((*baseline.executions, *failure.run.executions)):
        yield ""
        yield from _side_by_side(
            f'without the crash: "{execution_id}"',
            _history_table(baseline, execution_id),
            f'with the crash: "{execution_id}"',
            _history_table(failure.run, execution_id),
        )
    if command:
        yield ""
        yield f"   replay: {replay_command(command, failure.places)}"
    yield f"   as a fault plan: {failure.plan.to_json()}"


def _advice(failure: CrashFailure) -> Iterator[str]:
    interrupted = {
        key[1]
        for death in failure.run.deaths
        for key, state in death.steps.items()
        if state.is_cut_off and failure.run.steps.get(key, {}).get("status") == "failed"
    }
    for step_id in sorted(interrupted):
        yield (
            f'   hint: an attempt that a crash cuts off is an attempt used; step "{step_id}" needs one more '
            "(max_attempts) to survive its failures and a crash"
        )


def _ledger(run: Observation, baseline: Observation) -> str:
    cut_off = {key for death in run.deaths for key, state in death.steps.items() if state.is_cut_off}
    keys = sorted(
        key
        for key in run.bodies.keys() | baseline.bodies.keys()
        if run.bodies[key] != baseline.bodies[key] or key in cut_off
    )
    rows = [
        (
            key[1],
            baseline.bodies[key],
            run.bodies[key],
            sum(event["type"] == "StepStarted" and event["step_id"] == key[1] for event in run.events.get(key[0], ())),
            run.steps.get(key, {}).get("status", "not there"),
        )
        for key in keys
    ]
    headers = ("step", "ran without the crash", "ran with it", "attempts recorded", "status")
    return tabulate(rows, headers=headers, tablefmt="simple") if rows else ""


def _history_table(observation: Observation, execution_id: str) -> list[str]:
    return table(_events(observation, execution_id)).splitlines()


def _events(observation: Observation, execution_id: str) -> list[Event]:
    name = observation.executions.get(execution_id, {}).get("workflow_name", "")
    return [
        event_from_row(
            row["type"],
            seq=row["seq"],
            at=datetime.fromisoformat(row["at"]),
            execution_id=execution_id,
            workflow_name=name,
            step_id=row["step_id"],
            attempt=row["attempt"],
            data=pydantic_core.from_json(row["data"]) if row["data"] else {},
        )
        for row in observation.events.get(execution_id, ())
    ]


def _side_by_side(left_title: str, left: list[str], right_title: str, right: list[str]) -> Iterator[str]:
    width = max(len(line) for line in (left_title, *left))
    for one, other in zip_longest([left_title, *left], [right_title, *right], fillvalue=""):
        yield f"   {one.ljust(width)}  |  {other}".rstrip()
