"""Power loss: a scenario is recorded below SQLite, cut off after every disk operation, and what is left goes on.

Crash exploration shows what is left when a process dies: then every write that was made survives. When the power
fails, what was not synced may be lost as well. So for each cut there are several images of the disk, see
`pytest_workflow.power_disk`; each is opened by the standard ``sqlite3`` and compared with what had been committed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import random
import sqlite3
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import pytest

from pytest_workflow.clock import VirtualClock
from pytest_workflow.environment import Environment
from pytest_workflow.invariants import DEFAULT_INVARIANTS, Comparison, Invariant
from pytest_workflow.observation import Observation, step_states
from pytest_workflow.power_disk import Disk, Image, describe, image_digest
from pytest_workflow.power_report import PowerLossError, PowerReport
from pytest_workflow.power_states import Commit, Recording, State, durable_state
from pytest_workflow.scenarios import ScenarioDefinitions, run_scenario
from pytest_workflow.storages import MemoryStorage
from workflow_core.database.opening import prepare
from workflow_core.database.schema import WORKFLOW_SCHEMA, WORKFLOW_SCHEMA_VERSION
from workflow_core.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pytest_workflow.freezer import Freezer

__all__ = ["Cut", "Synchronous", "WorkflowPower", "parse_cut"]

Synchronous = Literal["NORMAL", "FULL"]

Cut: TypeAlias = tuple[int, int]
"""After which disk operation the power is cut, counted from 1, and which image of the disk, counted from 0."""

DATABASE = "workflow.db"
_SEED = 0
_MOST_DIGITS = 19
_CHECKPOINT_PAGES = 20
"""SQLite copies its log to the database every 1000 pages, which a small scenario would never reach."""

_MISSING = "workflow_power needs apsw, which records what SQLite writes: pip install 'pytest-workflow-core[power]'"


class WorkflowPower:
    """Explores what a power cut anywhere in a scenario leaves.

    Args:
        environment: The test's own environment, whose settings, plugins and workflows each run takes over.
        freezer: Leads the user's code to a run's own time.
        invariants: What must hold besides the default invariants.
        at: Try these images alone; see `parse_cut`.
        command: The shell command that runs the test again.
    """

    def __init__(
        self,
        environment: Environment,
        freezer: Freezer,
        invariants: Sequence[Invariant] = (),
        at: Sequence[Cut] = (),
        command: str = "",
    ) -> None:
        if importlib.util.find_spec("apsw") is None:
            pytest.fail(_MISSING, pytrace=False)
        self._environment = environment
        self._freezer = freezer
        self._invariants = (*DEFAULT_INVARIANTS, *invariants)
        self.at = frozenset(at)
        self._command = command
        self._tried: set[Cut] = set()

    def check_reached(self) -> None:
        """Refuse images that were asked for and that no exploration of the test had.

        Raises:
            PowerLossError: There is one.
        """
        __tracebackhide__ = True
        if missed := sorted(self.at - self._tried):
            operation, image = missed[0]
            raise PowerLossError(f"no power cut of this test has an image {image} after disk operation {operation}")

    def is_wanted(self, cut: Cut) -> bool:
        """Tell whether an image is to be tried, and note that it is."""
        self._tried.add(cut)
        return not self.at or cut in self.at

    def explore(
        self,
        scenario: Callable[..., object],
        *,
        synchronous: Synchronous = "NORMAL",
        images_per_cut: int = 4,
        most_cuts: int | None = None,
        nondeterministic: Iterable[str] = (),
        check: bool = True,
    ) -> PowerReport:
        """Record a scenario, cut the power after each disk operation, and go on with what is left.

        A surviving database is given to a new engine, and the scenario is run again on it, as clients do that ask for
        their executions after an outage. What survived must go on, what was lost must be done anew, and the outcome
        must be that of the run without a power cut.

        Args:
            scenario: As for ``workflow_crashes.explore``. It runs anew after the power cut, so a list that it makes
                itself does not show what was done before; one made outside it does.
            synchronous: SQLite's setting under which the scenario is recorded.
            images_per_cut: How many images of the disk are tried for each cut: the first without what was not synced,
                the second with it, each further one with a random part of it, drawn by a fixed seed.
            most_cuts: Limit; the cuts are then drawn at random, by a fixed seed.
            nondeterministic: Ids, or globs, of steps whose results may differ from run to run.
            check: Raise for the failures; otherwise they are in the report alone.

        Returns:
            The report. Under ``NORMAL`` acknowledged commits may be lost, which is no failure.

        Raises:
            PowerLossError: A database was damaged, held half a transaction, or broke an invariant; or ``FULL`` lost an
                acknowledged commit.
            ValueError: ``synchronous``, ``images_per_cut`` or ``most_cuts`` is not acceptable.
        """
        __tracebackhide__ = True
        if synchronous not in get_args(Synchronous):
            raise ValueError(f'synchronous is "NORMAL" or "FULL"; got {synchronous!r}')
        if images_per_cut < 1 or (most_cuts is not None and most_cuts < 1):
            raise ValueError(f"images_per_cut and most_cuts are at least 1; got {images_per_cut!r} and {most_cuts!r}")
        allowed = (nondeterministic,) if isinstance(nondeterministic, str) else tuple(nondeterministic)
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="workflow-power-") as name:
            directory = Path(name)
            recording = self.record(scenario, directory / DATABASE, synchronous)
            report = PowerReport(synchronous, len(recording.operations), len(recording.commits) - 1)
            report.command = self._command

            def violations(seen: Observation) -> Iterator[str]:
                if seen.error is not None:
                    yield f"the scenario itself: {seen.error}"
                compared = Comparison(seen, recording.observation, allowed)
                for invariant in self._invariants:
                    yield from (f"{invariant.name}: {found}" for found in invariant.check(compared))

            _explore(
                self,
                scenario,
                recording,
                report,
                directory,
                images_per_cut=images_per_cut,
                most_cuts=most_cuts,
                violations=violations,
            )
        report.elapsed_seconds = time.perf_counter() - begin
        if check:
            report.raise_for_failures()
        return report

    def record(self, scenario: Callable[..., object], path: Path, synchronous: Synchronous) -> Recording:
        """Run a scenario on a recorded disk; the recording ends with the closing of the database."""
        from pytest_workflow.power_recording import recorded_connection  # noqa: PLC0415 - apsw is optional

        outer, recording = self._environment, Recording()
        clock = VirtualClock(outer.clock.start, automatic=outer.clock.automatic)

        def committed() -> None:
            recording.commits.append(
                Commit(
                    len(recording.operations),
                    durable_state(connection),
                    clock.now(),
                    Counter(recording.observation.bodies),
                )
            )

        connection = recorded_connection(path, recording.operations, committed)
        with contextlib.closing(connection):
            committed()
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            connection.execute("PRAGMA journal_mode = WAL")
            prepare(connection, WORKFLOW_SCHEMA, WORKFLOW_SCHEMA_VERSION, synchronous)
            storage = MemoryStorage(connection)
            environment = Environment(
                clock, None, outer.settings, outer.user_plugins, recording.observation, storage, outer.custom_fault
            )
            self._play(scenario, environment)
        return recording

    def go_on(self, scenario: Callable[..., object], path: Path, recording: Recording, survived: int) -> Observation:
        """Give a surviving database to a new engine, and run the scenario again on it.

        Args:
            scenario: The scenario.
            path: The database.
            recording: Where it comes from.
            survived: The number of the last commit that survived.
        """
        outer, observation = self._environment, Observation()
        at, observation.bodies = recording.before_next(survived)
        clock = VirtualClock(at, automatic=outer.clock.automatic)
        settings = outer.settings.model_copy(update={"synchronous": "NORMAL"})
        environment = Environment(clock, path, settings, outer.user_plugins, observation, custom=outer.custom_fault)
        steps = step_states(environment.database)
        observation.note_death(steps)
        for row in environment.database.query("SELECT * FROM step_events WHERE type = 'StepStarted' ORDER BY seq"):
            environment.faults.note_run(row["execution_id"], row["step_id"], row["seq"])
        environment.faults.take_back_cut_off(steps.values())
        self._play(scenario, environment)
        return observation

    def _play(self, scenario: Callable[..., object], environment: Environment) -> None:
        """Run a scenario to the end of all its executions, note what is left, and let go of the environment."""
        environment.engine.definitions = ScenarioDefinitions(self._environment.engine.definitions)
        self._freezer.lead(environment.clock)
        error = None
        try:
            for part in (run_scenario, _end_executions):
                try:
                    part(scenario, environment)
                except Exception as raised:
                    if not environment.observation.deaths:
                        raise  # without a power cut the scenario's error is the test's
                    error = error or f"{type(raised).__name__}: {raised}"
            environment.finish_observation(error)
        finally:
            environment.close()
            self._freezer.lead(self._environment.clock)


def parse_cut(text: str) -> Cut:
    """Read what a failure's ``cut`` says.

    Raises:
        ValidationError: It names no image.
    """
    operation, _, image = text.partition(":")
    if not (operation.isdecimal() and image.isdecimal() and max(len(operation), len(image)) < _MOST_DIGITS):
        raise ValidationError(f'"{text:.100}" is no power cut: write OPERATION:IMAGE, such as 37:2')
    return int(operation), int(image)


def _end_executions(_: object, environment: Environment) -> None:
    """Recover what no client asked for, and wait until every execution is at rest."""

    async def end() -> None:
        engine = environment.engine
        await engine.recover()
        for execution in engine.running():
            await engine.wait(execution.execution_id)

    if environment.clock.automatic:
        environment.clock.run(end())


def _explore(
    power: WorkflowPower,
    scenario: Callable[..., object],
    recording: Recording,
    report: PowerReport,
    directory: Path,
    *,
    images_per_cut: int,
    most_cuts: int | None,
    violations: Callable[[Observation], Iterator[str]],
) -> None:
    cuts = _cuts(power, len(recording.operations), most_cuts)
    disk, opened, gone_on = Disk(), dict[bytes, State | str](), set[int]()
    for position, operation in enumerate(recording.operations, start=1):
        disk.apply(operation)
        if position not in cuts:
            continue
        report.cuts += 1
        images = enumerate(disk.images(images_per_cut, random.Random(f"{_SEED}:{position}")))  # noqa: S311
        for number, image in ((number, image) for number, image in images if power.is_wanted((position, number))):
            cut = f"{position}:{number}"
            place = f"image {number} of a power cut after {describe(operation)} (operation {position})"
            report.images += 1
            key = image_digest(image)
            if key not in opened:
                opened[key] = _open(directory, image)
            state = opened[key]
            if isinstance(state, str):
                report.add("unopenable", place, state, cut)
                continue
            acknowledged, survived = recording.acknowledged(position), recording.surviving(state, position)
            if survived is None:
                report.add("torn", place, "its rows are those of no prefix of the commits", cut)
                continue
            if survived < acknowledged:
                before = recording.commits[acknowledged].state
                report.lose(
                    place, acknowledged - survived, before.executions - state.executions, before.done - state.done, cut
                )
            if survived not in gone_on:
                gone_on.add(survived)
                report.continued += 1
                path = _written(directory, image)
                for found in violations(power.go_on(scenario, path, recording, survived)):
                    report.add("violation", place, found, cut)
    report.different_images = len(opened)


def _cuts(power: WorkflowPower, operations: int, most_cuts: int | None) -> frozenset[int]:
    """Return the operations after which the power is cut: those asked for, a sample, or all."""
    if power.at:
        return frozenset(operation for operation, _ in power.at)
    points = range(1, operations + 1)
    few = most_cuts is not None and most_cuts < len(points)
    return frozenset(random.Random(_SEED).sample(points, most_cuts) if few and most_cuts else points)  # noqa: S311 - a sample


def _written(directory: Path, image: Image) -> Path:
    for file in directory.iterdir():
        file.unlink()
    for name, content in image.items():
        (directory / name).write_bytes(content)
    return directory / DATABASE


def _open(directory: Path, image: Image) -> State | str:
    """Return what the standard ``sqlite3`` reads in an image, or what is wrong with it."""
    path = _written(directory, image)
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            checked = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
            return durable_state(connection) if checked == ["ok"] else "; ".join(checked)
    except sqlite3.Error as error:
        return f"{type(error).__name__}: {error}"
