"""The pytest plugin: the hooks of pytest's by which workflow tests are collected, run and reported.

This is what the ``pytest11`` entry point names. It imports pytest and nothing more, so that a suite without workflow
tests pays next to nothing; everything else is imported at the first workflow test.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import TYPE_CHECKING

import pytest
from _pytest.doctest import DoctestModule

from pytest_workflow import fixtures
from pytest_workflow.items import code_of, crash_summaries, environment_key, leave_virtual_time, running, uses_workflow
from pytest_workflow.options import (
    COVERAGE_OPTIONS,
    MARKERS,
    add_options,
    asks_for_server,
    check_store_option,
    store_option,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from pytest_workflow.faults import WorkflowFaults
    from pytest_workflow.injection import AttemptWrapper
    from pytest_workflow.invariants import Invariant
    from pytest_workflow.plan import Custom

NAMESAKE = (
    "pytest-workflow-core and pytest-workflow are both installed, and both install a package pytest_workflow, so one "
    "has overwritten files of the other. Uninstall both, then install the one you want: "
    "pip uninstall pytest-workflow pytest-workflow-core; pip install 'pytest-workflow-core[pytest]'"
)

_test_modules_key = pytest.StashKey[set[str]]()


def refuse_namesake() -> None:
    """Stop with one clear error if the other distribution that owns the import name is installed."""
    try:
        importlib.metadata.distribution("pytest-workflow")
    except importlib.metadata.PackageNotFoundError:
        return
    raise pytest.UsageError(NAMESAKE)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and refuse what cannot work."""
    refuse_namesake()
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    check_store_option(config)
    if store_option(config) == "postgres":
        from pytest_workflow.postgres import session  # noqa: PLC0415 - not without the option

        session.begin(config)
    if config.getoption("--workflow-faults"):
        from pytest_workflow.markers import plans_of_the_command_line  # noqa: PLC0415 - not without the option

        plans_of_the_command_line(config)
    given = any(config.getoption(name) is not None for name, *_ in COVERAGE_OPTIONS)
    if given or config.getini("workflow_coverage"):
        from pytest_workflow import coverage_plugin  # noqa: PLC0415 - not without the option

        coverage_plugin.register(config)
    if (report := config.getoption("--workflow-report")) is not None:
        from pytest_workflow.report import plugin as report_plugin  # noqa: PLC0415 - not without the option

        report_plugin.register(config, report)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Offer the hooks of the harness, and its fixtures."""
    pluginmanager.add_hookspecs(WorkflowHarnessHooks)
    pluginmanager.register(fixtures, "workflow_fixtures")


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
    if not config.getoption("collectonly") and any(uses_workflow(item) and asks_for_server(item) for item in items):
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
        config.pluginmanager.register(CrashEverywhere(mode))


def pytest_report_header(config: pytest.Config) -> str:
    """Say which store the workflow fixtures use."""
    return f"workflow: {store_option(config)} store, virtual time"


# Around each test ----------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give a test its own module's workflows, and begin virtual time before all other fixtures of the test's own."""
    own = getattr(getattr(item, "module", None), "__name__", None)
    tests = item.config.stash.get(_test_modules_key, frozenset[str]())
    _rank_definitions(lambda module: 2 if module == own else 0 if module in tests else 1)
    if uses_workflow(item) and isinstance(item, pytest.Function):
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
    environment = item.stash.get(environment_key, None)
    if environment is None:
        return result
    environment.failures.surface_at_end(code_of(item))
    _refuse_unused(environment.faults)
    if environment.never_awaited:
        messages, environment.never_awaited = environment.never_awaited, []
        pytest.fail("\n".join(messages), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the histories of a test of which a phase fails."""
    report = yield
    environment = item.stash.get(environment_key, None)
    if environment is not None:
        if report.failed:
            report.sections.extend(environment.report())
            report.sections.extend(_armed(item, environment.faults))
        if report.when == "teardown":
            environment.forget()
            del item.stash[environment_key]
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Let real time return before a test that does not use virtual time."""
    try:
        return (yield)
    finally:
        leave_virtual_time(item, nextitem)


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what crash explorations covered."""
    lines = [
        f"{report.nodeid}: {summary}"
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport)
        for summary in crash_summaries(report)
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
