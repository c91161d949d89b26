"""The pytest plugin: options, markers and fixtures; everything else is imported at the first workflow test.

This is what the ``pytest11`` entry point names. It imports pytest and nothing more, so that a suite without workflow
tests pays next to nothing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import inspect
import sys
from types import CodeType
from typing import TYPE_CHECKING, Literal

import pytest
from _pytest.doctest import DoctestModule

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from syrupy.assertion import SnapshotAssertion

    from pytest_workflow.clock import VirtualClock
    from pytest_workflow.coverage_plugin import CoveragePlugin
    from pytest_workflow.crash_everywhere import Rerun
    from pytest_workflow.database import WorkflowDatabase
    from pytest_workflow.faults import WorkflowFaults
    from pytest_workflow.freezer import Freezer
    from pytest_workflow.harness import Environment, WorkflowHarness
    from pytest_workflow.injection import AttemptWrapper
    from pytest_workflow.invariants import Invariant
    from pytest_workflow.plan import Custom
    from pytest_workflow.power import WorkflowPower
    from pytest_workflow.replay import WorkflowReplay
    from pytest_workflow.scenarios import WorkflowCrashes
    from pytest_workflow.spy import WorkflowSpy
    from pytest_workflow.storages import Storage
    from pytest_workflow.upgrade import WorkflowUpgrade
    from workflow_core.settings import Settings

_STORES = ("memory", "file", "postgres")
_MARKERS = (
    'workflow_store(kind): keep the state of this test in "memory", in a real "file" of its own, or on "postgres"',
    (
        "workflow_crash_everywhere(*, depth=1, nondeterministic=(), most_runs=None): run this test once for every "
        "place where the process could die, and check what is left; depth=2 tries pairs of crashes"
    ),
    "workflow_faults(*plans): arm fault plans, each the path of a JSON file or a pytest_workflow.plan.FaultPlan",
    (
        "workflow_clock(*, start=None, manual=False): begin virtual time at start (a datetime or ISO text), and let "
        "only workflow_clock.advance() move it if manual"
    ),
)

_COVERAGE_OPTIONS: tuple[tuple[str, Literal["bool", "string", "args"], str | None, str], ...] = (
    ("workflow_coverage", "bool", None, "end the run with what the tests made happen to each step and handler"),
    ("workflow_coverage_fail_under", "string", "PERCENT", "fail a run that covers less than this percentage"),
    ("workflow_coverage_json", "string", "FILE", "write the workflow coverage to this file as JSON"),
    ("workflow_coverage_html", "string", "FILE", "write the workflow coverage to this file as a page of HTML"),
    ("workflow_coverage_only", "args", "GLOB", "count the workflows of this name, or glob; may be given several times"),
    ("workflow_coverage_each_id", "bool", None, "do not group step ids that differ in digits alone"),
)
_ACTIONS = {"bool": "store_true", "string": "store", "args": "append"}

NAMESAKE = (
    "pytest-workflow-core and pytest-workflow are both installed, and both install a package pytest_workflow, so one "
    "has overwritten files of the other. Uninstall both, then install the one you want: "
    "pip uninstall pytest-workflow pytest-workflow-core; pip install 'pytest-workflow-core[pytest]'"
)

CRASHES_PROPERTY = "workflow_crashes"
"""The user property of a report that holds the summary of a crash exploration."""

_rerun_key: pytest.StashKey[Rerun] = pytest.StashKey()
_test_modules_key = pytest.StashKey[set[str]]()
_environment_key = pytest.StashKey["Environment"]()
_freezer_key = pytest.StashKey["Freezer"]()

running: list[pytest.Item] = []
"""The test that runs, after those within which it runs."""


def _refuse_namesake() -> None:
    """Stop with one clear error if the other distribution that owns the import name is installed."""
    try:
        importlib.metadata.distribution("pytest-workflow")
    except importlib.metadata.PackageNotFoundError:
        return
    raise pytest.UsageError(NAMESAKE)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ``--workflow-*`` options and their twins in the configuration file."""
    group = parser.getgroup("workflow", "durable workflows (pytest-workflow-core)")
    group.addoption(
        "--workflow-store",
        choices=_STORES,
        default=None,
        help="where the workflow fixtures keep their state: memory (default), a real file for each test, or a "
        "PostgreSQL server: that of $WORKFLOW_TEST_POSTGRES_URL, or one that is started for the tests",
    )
    group.addoption(
        "--workflow-replay-check",
        action="store_true",
        help="after every workflow.run, replay it from its record, and let a new engine go on after every step",
    )
    group.addoption(
        "--workflow-crash-everywhere",
        nargs="?",
        choices=("all", "invariants"),
        const="all",
        default=None,
        help="run every workflow test once for each place where the process could die; with =invariants the test's own "
        "assertions do not count after a crash",
    )
    group.addoption(
        "--workflow-crash-at",
        action="append",
        default=[],
        metavar="PLACE",
        help="let the process die at this place, such as step_completed:charge#1:before, and check what is left; "
        "again for a further crash in the same run",
    )
    group.addoption(
        "--workflow-power-cut",
        action="append",
        default=[],
        metavar="OPERATION:IMAGE",
        help="let workflow_power try this image of the disk alone, such as 37:2; again for another one",
    )
    group.addoption(
        "--workflow-faults",
        action="append",
        default=[],
        metavar="PLAN",
        help="arm a fault plan in every workflow test: the path of a JSON file, or the JSON itself",
    )
    for name, kind, metavar, explained in _COVERAGE_OPTIONS:
        flag = f"--{name.replace('_', '-')}"
        extra = {"metavar": metavar} if metavar else {}
        group.addoption(flag, dest=name, action=_ACTIONS[kind], default=None, help=explained, **extra)
        parser.addini(name, f"same as {flag}", type=kind)
    group.addoption("--workflow-report", metavar="FILE.html", help="write an HTML report of the workflow tests")
    parser.addini("workflow_store", "default of --workflow-store", default="memory")
    parser.addini("workflow_start", "wall time at which virtual time begins, as ISO text with a zone", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and refuse what cannot work."""
    _refuse_namesake()
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    if config.getini("workflow_store") not in _STORES:
        raise pytest.UsageError(
            f"workflow_store = {config.getini('workflow_store')!r} in the configuration: use {_either(_STORES)}"
        )
    if _store_option(config) == "postgres":
        from pytest_workflow.postgres import session  # noqa: PLC0415 - not without the option

        session.begin(config)
    if config.getoption("--workflow-faults"):
        from pytest_workflow.markers import plans_of_the_command_line  # noqa: PLC0415 - not without the option

        plans_of_the_command_line(config)
    given = any(config.getoption(name) is not None for name, *_ in _COVERAGE_OPTIONS)
    if given or config.getini("workflow_coverage"):
        from pytest_workflow import coverage_plugin  # noqa: PLC0415 - not without the option

        coverage_plugin.register(config)
    if (report := config.getoption("--workflow-report")) is not None:
        from pytest_workflow.report import plugin as report_plugin  # noqa: PLC0415 - not without the option

        report_plugin.register(config, report)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Offer the hooks of the harness."""
    pluginmanager.add_hookspecs(WorkflowHarnessHooks)


class WorkflowHarnessHooks:
    """What plugins and ``conftest.py`` files may add to the harness."""

    def pytest_workflow_invariants(self, item: pytest.Item) -> Sequence[Invariant]:  # type: ignore[empty-body]
        """Return what must hold after a crash besides the default invariants."""

    @pytest.hookspec(firstresult=True)
    def pytest_workflow_fault(self, fault: Custom, item: pytest.Item) -> AttemptWrapper | None:
        """Return what carries out a fault of the kind ``custom``; ``None`` for one of another plugin's."""

    def pytest_workflow_explored(
        self, item: pytest.Item, report: pytest.TestReport, reports: Sequence[pytest.TestReport]
    ) -> None:
        """Carry over, to the report of a test that was explored, what is needed of the last reports of its runs."""

    def pytest_workflow_report_sections(self, item: pytest.Item) -> Sequence[tuple[str, str]]:  # type: ignore[empty-body]
        """Return further texts for a test in the HTML report, each with its title."""


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let each test module define its workflows as if there were no other test module."""
    if not isinstance(collector, pytest.Module) or isinstance(collector, DoctestModule):
        return (yield)
    tests = collector.config.stash.setdefault(_test_modules_key, set())
    _rank_definitions(lambda module: -1 if module in tests else 0)
    try:
        report = yield
    finally:
        _rank_definitions(lambda _: 0)
    if report.passed:
        tests.add(collector.obj.__name__)
    return report


def _rank_definitions(rank: Callable[[str], int]) -> None:
    """Choose between modules that define a workflow of the same name; without the engine there are none."""
    module = sys.modules.get("workflow_core.definition")
    if module is not None:
        module.SHARED_DEFINITIONS.rank(rank)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Load crash exploration if any test asks for it, and reach for a server before the first test that needs one."""
    if not config.getoption("collectonly") and any(_uses_workflow(item) and _asks_for_server(item) for item in items):
        from pytest_workflow.postgres import session  # noqa: PLC0415 - not without a server

        session.databases(config)
    mode = config.getoption("--workflow-crash-everywhere")
    if (
        mode
        or config.getoption("--workflow-crash-at")
        or any(item.get_closest_marker("workflow_crash_everywhere") for item in items)
    ):
        from pytest_workflow.crash_everywhere import CrashEverywhere, asked_places  # noqa: PLC0415 - not before that

        asked_places(config)
        config.pluginmanager.register(
            CrashEverywhere(mode, _rerun_key, CRASHES_PROPERTY, _invariants, _leave_virtual_time)
        )


def _invariants(item: pytest.Item) -> list[Invariant]:
    return [one for several in item.ihook.pytest_workflow_invariants(item=item) for one in several]


def pytest_report_header(config: pytest.Config) -> str:
    """Say which store the workflow fixtures use."""
    return f"workflow: {_store_option(config)} store, virtual time"


def _store_option(config: pytest.Config) -> str:
    return str(config.getoption("--workflow-store") or config.getini("workflow_store"))


# Fixtures ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def workflow_settings() -> Settings:
    """Settings of the engine under test; override this fixture to change some of them."""
    from pytest_workflow.harness import HARNESS_SETTINGS  # noqa: PLC0415 - not before the first workflow test

    return HARNESS_SETTINGS


@pytest.fixture
def workflow_plugins() -> list[object]:
    """Plugins of the engine under test; override this fixture to register some."""
    return []


@pytest.fixture
def _workflow_environment(
    request: pytest.FixtureRequest, workflow_settings: Settings, workflow_plugins: list[object]
) -> Generator[Environment, None, None]:
    from pytest_workflow.harness import Environment  # noqa: PLC0415
    from pytest_workflow.markers import arm, check_overrides, make_clock  # noqa: PLC0415 - not before the first workflow test

    item = request.node
    check_overrides(workflow_settings, workflow_plugins)
    clock = make_clock(item, str(request.config.getini("workflow_start")))
    kind = _marked_store(item) or _store_option(request.config)
    rerun = item.stash.get(_rerun_key, None)
    observation = None if rerun is None else rerun.observation
    storage: Storage | None = None if rerun is None else rerun.memory
    file = None
    if kind == "file":
        file, storage = request.getfixturevalue("tmp_path") / "workflow.db", None
    elif kind == "postgres":
        storage = _on_server(item)
    custom = functools.partial(_custom_fault, item)
    coverage: CoveragePlugin | None = request.config.pluginmanager.get_plugin("workflow_coverage")
    plugins = [*workflow_plugins, coverage.observer(item)] if coverage is not None else workflow_plugins
    environment = Environment(
        clock, file, workflow_settings, plugins, observation, storage, custom, lent=kind == "memory"
    )
    item.stash[_environment_key] = environment
    freezer = _freezer(request.config)
    with contextlib.ExitStack() as stack:
        stack.callback(freezer.release)
        stack.callback(environment.close, keep_database=True)
        freezer.lead(clock)
        if request.config.getoption("--workflow-replay-check") and observation is None:
            from pytest_workflow.replay_check import install  # noqa: PLC0415 - not without the option

            install(environment, freezer, item)
        arm(item, environment.faults)
        yield environment
        if observation is not None:
            environment.finish_observation()


@pytest.fixture
def workflow(_workflow_environment: Environment) -> WorkflowHarness:
    """An isolated workflow engine on virtual time, made the current one: .run(), .wait(), .history(), .reopen()."""
    return _workflow_environment.harness


@pytest.fixture
def workflow_db(_workflow_environment: Environment) -> WorkflowDatabase:
    """The database under the engine: .query(sql, *params), .executions(), .steps(id), .step_errors(id)."""
    return _workflow_environment.database


@pytest.fixture
def workflow_clock(_workflow_environment: Environment) -> VirtualClock:
    """Virtual time: .now(), .advance(ms), .sleeps; datetime.now() and time.time() follow it."""
    return _workflow_environment.clock


@pytest.fixture
def workflow_faults(_workflow_environment: Environment) -> WorkflowFaults:
    """Faults and doubles for steps: .fail(), .panic(), .delay(), .returns(); unused ones fail the test."""
    return _workflow_environment.faults


@pytest.fixture
def workflow_replay(request: pytest.FixtureRequest, _workflow_environment: Environment) -> WorkflowReplay:
    """Replay recorded executions against today's code: a database, a result of this test, or a saved history."""
    from pytest_workflow.replay import WorkflowReplay  # noqa: PLC0415 - not before the first workflow test

    return WorkflowReplay(_workflow_environment, _freezer(request.config))


@pytest.fixture
def workflow_upgrade(request: pytest.FixtureRequest, _workflow_environment: Environment) -> WorkflowUpgrade:
    """Freeze an execution of the old code at every durable point, and resume each on the new code."""
    from pytest_workflow.upgrade import WorkflowUpgrade  # noqa: PLC0415 - not before the first workflow test

    return WorkflowUpgrade(_workflow_environment, _freezer(request.config))


@pytest.fixture
def workflow_crashes(
    _workflow_environment: Environment, request: pytest.FixtureRequest
) -> Generator[WorkflowCrashes, None, None]:
    """Crash exploration inside a test: .explore(scenario, depth=1) lets the process die at every place."""
    from pytest_workflow.commands import command  # noqa: PLC0415
    from pytest_workflow.crash_everywhere import asked_places  # noqa: PLC0415
    from pytest_workflow.scenarios import WorkflowCrashes  # noqa: PLC0415 - not before the first workflow test

    item = request.node
    crashes = WorkflowCrashes(
        _workflow_environment,
        _freezer(request.config),
        item.nodeid,
        asked_places(request.config),
        _invariants(item),
        lambda report: item.user_properties.append((CRASHES_PROPERTY, report.summary())),
        command(item),
    )
    yield crashes
    crashes.check_reached()


@pytest.fixture
def workflow_power(
    _workflow_environment: Environment, request: pytest.FixtureRequest
) -> Generator[WorkflowPower, None, None]:
    """Power cuts inside a test: .explore(scenario, synchronous="FULL") opens each disk image that could survive one."""
    from pytest_workflow.commands import command  # noqa: PLC0415
    from pytest_workflow.power import WorkflowPower, parse_cut  # noqa: PLC0415 - not before the first workflow test

    item = request.node
    try:
        at = [parse_cut(text) for text in request.config.getoption("--workflow-power-cut")]
    except ValueError as error:
        pytest.fail(f"--workflow-power-cut: {error}", pytrace=False)
    power = WorkflowPower(_workflow_environment, _freezer(request.config), _invariants(item), at, command(item))
    yield power
    power.check_reached()


def _custom_fault(item: pytest.Item, fault: Custom) -> AttemptWrapper:
    wrapper: AttemptWrapper | None = item.ihook.pytest_workflow_fault(fault=fault, item=item)
    if wrapper is None:
        raise ValueError(f'no plugin carries out the custom fault "{fault.name}" (hook pytest_workflow_fault)')
    return wrapper


@pytest.fixture
def workflow_spy(_workflow_environment: Environment) -> WorkflowSpy:
    """The calls of steps: .calls, .count(), .assert_called(), .assert_not_called(), .assert_called_with()."""
    from pytest_workflow.spy import WorkflowSpy  # noqa: PLC0415 - not before the first test that spies

    spy = WorkflowSpy(_workflow_environment.clock)
    for plugin in spy.plugins():
        _workflow_environment.add_plugin(plugin)
    return spy


@pytest.fixture
def workflow_snapshot(request: pytest.FixtureRequest) -> SnapshotAssertion:
    """Compares histories with stored snapshots, by syrupy: assert workflow_snapshot == workflow.history(result)."""
    from pytest_workflow.snapshots import snapshot_of_histories  # noqa: PLC0415 - not before the first such test

    return snapshot_of_histories(request)


def _marked_store(item: pytest.Item) -> str | None:
    marker = item.get_closest_marker("workflow_store")
    if marker is None:
        return None
    values = (*marker.args, *marker.kwargs.values())
    if len(values) != 1 or set(marker.kwargs) - {"kind"} or values[0] not in _STORES:
        kinds = _either([f'"{kind}"' for kind in _STORES])
        pytest.fail(f"@pytest.mark.workflow_store takes {kinds}, nothing else", pytrace=False)
    return str(values[0])


def _asks_for_server(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("workflow_store")
    asked = (_store_option(item.config),) if marker is None else (*marker.args, *marker.kwargs.values())
    return "postgres" in asked


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _on_server(item: pytest.Item) -> Storage | None:
    """Return an empty database on a server, if the state of a test is to be there."""
    if (_marked_store(item) or _store_option(item.config)) != "postgres":
        return None
    from pytest_workflow.postgres import session  # noqa: PLC0415 - not without a server

    return session.databases(item.config).take()


def _freezer(config: pytest.Config) -> Freezer:
    from pytest_workflow.freezer import Freezer  # noqa: PLC0415 - not before the first workflow test

    return config.stash.setdefault(_freezer_key, Freezer())


# Around each test ----------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give a test its own module's workflows, and begin virtual time before all other fixtures of the test's own."""
    own = getattr(getattr(item, "module", None), "__name__", None)
    tests = item.config.stash.get(_test_modules_key, frozenset[str]())
    _rank_definitions(lambda module: 2 if module == own else 0 if module in tests else 1)
    if _uses_workflow(item) and isinstance(item, pytest.Function):
        names, definitions = item.fixturenames, item._fixtureinfo.name2fixturedefs
        names.remove("_workflow_environment")
        wider = [name in definitions and definitions[name][-1].scope != "function" for name in names]
        names.insert(len(names) - wider[::-1].index(True) if True in wider else 0, "_workflow_environment")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test whose assertions failed unseen, whose faults did not all strike, or whose workflows forgot a step."""
    __tracebackhide__ = True
    running.append(item)
    try:
        result = yield
    finally:
        running.pop()
    environment = item.stash.get(_environment_key, None)
    if environment is None:
        return result
    environment.failures.surface_at_end(_code(item))
    _refuse_unused(environment.faults)
    if environment.never_awaited:
        messages, environment.never_awaited = environment.never_awaited, []
        pytest.fail("\n".join(messages), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the histories of a test of which a phase fails."""
    report = yield
    environment = item.stash.get(_environment_key, None)
    if environment is not None:
        if report.failed:
            report.sections.extend(environment.report())
            report.sections.extend(_armed(item, environment.faults))
        if report.when == "teardown":
            environment.forget()
            del item.stash[_environment_key]
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Let real time return before a test that does not use virtual time."""
    try:
        return (yield)
    finally:
        _leave_virtual_time(item, nextitem)


def _leave_virtual_time(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    freezer = item.config.stash.get(_freezer_key, None)
    if freezer is not None and freezer.active and not _uses_workflow(nextitem):
        freezer.stop()


def _refuse_unused(faults: WorkflowFaults) -> None:
    unused = faults.unused()
    if unused:
        names = "\n".join(f"  workflow_faults.{rule.description}{_hint(faults.resembling(rule))}" for rule in unused)
        pytest.fail(
            f"these faults never struck, so the test shows less than it says:\n{names}\n"
            "Mend the step id, the attempts or the order (a fault made later hides those that it strikes before), or "
            "pass strict=False to the rule or set workflow_faults.strict = False",
            pytrace=False,
        )


def _hint(step_id: str) -> str:
    return f'  <- did you mean the step "{step_id}"?' if step_id else ""


def _armed(item: pytest.Item, faults: WorkflowFaults) -> list[tuple[str, str]]:
    """Return the armed rules as a plan, and the command that arms them again."""
    if not faults.rules:
        return []
    from pytest_workflow.commands import command  # noqa: PLC0415 - not before a workflow test fails

    lines = [f"as a plan: {faults.plan.to_json()}"] if faults.plan.rules else []
    lines += [
        f"not in the plan, because JSON cannot hold it: workflow_faults.{rule.description}"
        for rule in faults.rules
        if not rule.portable
    ]
    lines.append(f"replay:    {command(item)}")
    return [("workflow faults", "\n".join(lines))]


def _code(item: pytest.Item) -> CodeType | None:
    if not isinstance(item, pytest.Function):
        return None
    hypothesis = getattr(item.obj, "hypothesis", None)  # @given puts a function of its own in front of the test's
    function = item.obj if hypothesis is None else hypothesis.inner_test
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code if isinstance(code, CodeType) else None


def _uses_workflow(item: pytest.Item | None) -> bool:
    return "_workflow_environment" in getattr(item, "fixturenames", ())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what crash explorations covered."""
    lines = [
        f"{report.nodeid}: {summary}"
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, summary in report.user_properties
        if name == CRASHES_PROPERTY
    ]
    if lines:
        terminalreporter.section("workflow crash exploration")
        for line in lines:
            terminalreporter.line(line)


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain a comparison of histories by the place where they differ."""
    module = sys.modules.get("pytest_workflow.history")
    if module is None or op != "==":
        return None
    if not isinstance(left, module.History):
        left, right = right, left
    if not isinstance(left, module.History) or not isinstance(right, (list, tuple, module.History)):
        return None
    explained: list[str] = module.compare(left, right)
    return explained
