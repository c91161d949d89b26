"""Running whole tests as scenarios of crash exploration: each place where the process could die is one more run.

Every run sets the test up anew, with all its fixtures, and tears it down; pytest hears of the test once.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import pytest
from _pytest.runner import runtestprotocol

from pytest_workflow.commands import command
from pytest_workflow.crashes import CrashReport, explore
from pytest_workflow.items import invariants_of, leave_virtual_time, note_crashes, rerun_key, uses_workflow
from pytest_workflow.observation import Observation, Place
from pytest_workflow.places import located
from pytest_workflow.storages import MemoryStorage
from workflow_core.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _pytest.nodes import Node

__all__ = ["CrashEverywhere", "Exploration", "Rerun", "asked_places"]

MARKER = "workflow_crash_everywhere"


@dataclass(frozen=True, slots=True)
class Exploration:
    """How a test is to be explored.

    Attributes:
        depth: Most crashes in one run.
        nondeterministic: Ids, or globs, of steps whose results may differ from run to run.
        most_runs: Limit of the runs.
        own_assertions: Whether the test's own assertions count after a crash.
        at: Try these places alone.
        required: Whether the test itself asks to be explored, so that there must be something to explore.
    """

    depth: int = 1
    nondeterministic: tuple[str, ...] = ()
    most_runs: int | None = None
    own_assertions: bool = True
    at: tuple[Place, ...] = ()
    required: bool = False


@dataclass(frozen=True, slots=True)
class Rerun:
    """What the fixtures of a test need in one of its runs.

    Attributes:
        observation: Where the process is to die, and where they leave what they saw.
        memory: An empty database in memory.
    """

    observation: Observation
    memory: MemoryStorage


def asked_places(config: pytest.Config) -> tuple[Place, ...]:
    """Return the places that ``--workflow-crash-at`` names.

    Raises:
        UsageError: One of them is none.
    """
    try:
        return tuple(Place.parse(text) for text in config.getoption("--workflow-crash-at"))
    except ValidationError as error:
        raise pytest.UsageError(f"--workflow-crash-at: {error}") from None


def _exploration_of(item: pytest.Item, mode: Literal["all", "invariants"] | None) -> Exploration | None:
    """Return how a test is to be explored; ``None`` if it is not.

    Args:
        item: The test.
        mode: What ``--workflow-crash-everywhere`` says.
    """
    marker = item.get_closest_marker(MARKER)
    at = asked_places(item.config)
    if not isinstance(item, pytest.Function) or not uses_workflow(item):
        if marker is not None:
            pytest.fail(f"@pytest.mark.{MARKER} is for a test that uses the workflow fixtures", pytrace=False)
        return None
    if "workflow_crashes" in item.fixturenames or not (marker or mode or at):
        return None  # such a test explores for itself
    options = dict(marker.kwargs) if marker is not None else {}
    if marker is not None and (marker.args or set(options) - {"depth", "nondeterministic", "most_runs"}):
        pytest.fail(
            f"@pytest.mark.{MARKER} takes depth=, nondeterministic= and most_runs=, nothing else",
            pytrace=False,
        )
    depth, most_runs = options.get("depth", 1), options.get("most_runs")
    if type(depth) is not int or depth < 0 or not (most_runs is None or (type(most_runs) is int and most_runs > 0)):
        pytest.fail(
            f"@pytest.mark.{MARKER}: depth is 1 or more (0 leaves the test out), most_runs 1 or more",
            pytrace=False,
        )
    if depth == 0:
        return None
    steps = options.get("nondeterministic", ())
    steps = (steps,) if isinstance(steps, str) else tuple(steps)
    return Exploration(
        depth,
        steps,
        most_runs,
        own_assertions=marker is not None or mode != "invariants",
        at=at,
        required=marker is not None,
    )


class _SameTestAgain:
    """Stands for the next test while a test is run again: all fixtures but its own stay."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    def listchain(self) -> list[Node]:
        """Return the collectors that stay set up."""
        return self._item.listchain()[:-1]

    def __getattr__(self, name: str) -> object:
        return getattr(self._item, name)


class CrashEverywhere:
    """The plugin that runs marked tests as scenarios.

    Args:
        mode: What ``--workflow-crash-everywhere`` says.
    """

    def __init__(self, mode: Literal["all", "invariants"] | None) -> None:
        self._mode = mode
        self._memory = MemoryStorage()

    @pytest.hookimpl
    def pytest_unconfigure(self) -> None:
        """Close the database that the runs have shared."""
        self._memory.close()

    @pytest.hookimpl
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run a test once for each place, and report it once."""
        try:
            exploration = _exploration_of(item, self._mode)
        except pytest.fail.Exception as error:
            _report_once(item, [_mistake(item, str(error))])
            return True
        if exploration is None:
            return None
        begin = time.perf_counter()
        reports: list[pytest.TestReport] = []
        last_reports: list[pytest.TestReport] = []

        def run(places: tuple[Place, ...]) -> Observation:
            observation = Observation(places)
            reports[:] = self._run_once(item, observation)
            observation.error = _first_error(reports)
            last_reports.append(reports[-1])
            return observation

        baseline = run(())
        outcome = list(reports)
        if all(report.passed for report in outcome):
            found = explore(
                run,
                test=item.nodeid,
                command=command(item, [] if exploration.own_assertions else ["--workflow-crash-everywhere=invariants"]),
                depth=exploration.depth,
                nondeterministic=exploration.nondeterministic,
                invariants=invariants_of(item),
                most_runs=exploration.most_runs,
                at=exploration.at,
                own_assertions=exploration.own_assertions,
                baseline=baseline,
            )
            crashed = reports if exploration.at else []
            self._tell(outcome, found, crashed, time.perf_counter() - begin, required=exploration.required)
            item.ihook.pytest_workflow_explored(item=item, report=outcome[-1], reports=last_reports)
        failure = self._leave(item, nextitem)
        if failure is not None and outcome[-1].passed:
            outcome[-1].outcome, outcome[-1].longrepr = "failed", failure
        _report_once(item, outcome)
        return True

    def _run_once(self, item: pytest.Item, observation: Observation) -> list[pytest.TestReport]:
        self._memory.empty()
        item.stash[rerun_key] = Rerun(observation, self._memory)
        if hasattr(item, "_request"):
            item._initrequest()  # type: ignore[attr-defined] # what makes fixtures anew; plugins that rerun tests call it
        try:
            return runtestprotocol(item, log=False, nextitem=cast("pytest.Item", _SameTestAgain(item)))
        finally:
            del item.stash[rerun_key]

    def _leave(self, item: pytest.Item, nextitem: pytest.Item | None) -> str | None:
        """Tear down what the next test does not need; return what went wrong."""
        try:
            item.session._setupstate.teardown_exact(nextitem)
        except Exception:  # noqa: BLE001 - a fixture may fail with anything
            return traceback.format_exc()
        finally:
            leave_virtual_time(item, nextitem)
        return None

    def _tell(
        self,
        reports: list[pytest.TestReport],
        found: CrashReport,
        crashed: list[pytest.TestReport],
        seconds: float,
        *,
        required: bool,
    ) -> None:
        """Put what was found into the reports of the run without a crash.

        Args:
            reports: Those reports.
            found: What was found.
            crashed: The reports of the only run with a crash; its own traceback is shown, if it has one.
            seconds: Real time of all runs.
            required: Whether there must be something to explore.
        """
        call = next((report for report in reports if report.when == "call"), reports[-1])
        call.duration = seconds
        note_crashes(call.user_properties, found.summary())
        if not found.ok:
            call.outcome = "failed"
            call.longrepr = str(found)
            failed = next((report for report in crashed if report.failed), None)
            if failed is not None:
                call.longrepr = failed.longrepr
                call.sections = [*failed.sections, ("workflow crash exploration", str(found))]
        elif required and not found.points:
            call.outcome = "failed"
            call.longrepr = f"crash exploration: {found.summary()}; start one by the workflow fixtures"


def _first_error(reports: list[pytest.TestReport]) -> str | None:
    for report in reports:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            text = str(report.longrepr) if crash is None else located(crash.path, crash.lineno, crash.message)
            return text if report.when == "call" else f"in the {report.when}: {text}"
        if report.skipped:
            return "the test was skipped after the crash"
    return None


def _mistake(item: pytest.Item, message: str) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome="failed",
        longrepr=message,
        when="setup",
    )


def _report_once(item: pytest.Item, reports: Sequence[pytest.TestReport]) -> None:
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
