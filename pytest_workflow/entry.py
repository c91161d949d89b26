"""The pytest plugin: options, markers and fixtures; everything else is imported at the first workflow test.

This is what the ``pytest11`` entry point names. It imports pytest and nothing more, so that a suite without workflow
tests pays next to nothing.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_workflow.clock import VirtualClock
    from pytest_workflow.database import WorkflowDatabase
    from pytest_workflow.faults import WorkflowFaults
    from pytest_workflow.freezer import Freezer
    from pytest_workflow.harness import Environment, WorkflowHarness
    from pytest_workflow.replay import WorkflowReplay
    from pytest_workflow.upgrade import WorkflowUpgrade
    from workflow_core.settings import Settings

_STORES = ("memory", "file")
_MARKERS = (
    'workflow_store(kind): keep the state of this test in "memory" or in a real "file" of its own',
    (
        "workflow_clock(*, start=None, manual=False): begin virtual time at start (a datetime or ISO text), and let "
        "only workflow_clock.advance() move it if manual"
    ),
)

NAMESAKE = (
    "pytest-workflow-core and pytest-workflow are both installed, and both install a package pytest_workflow, so one "
    "has overwritten files of the other. Uninstall both, then install the one you want: "
    "pip uninstall pytest-workflow pytest-workflow-core; pip install 'pytest-workflow-core[pytest]'"
)

_environment_key = pytest.StashKey["Environment"]()
_freezer_key = pytest.StashKey["Freezer"]()


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
        help="where the workflow fixtures keep their state: memory (default), or a real file for each test",
    )
    group.addoption(
        "--workflow-replay-check",
        action="store_true",
        help="after every workflow.run, replay it from its record, and let a new engine go on after every step",
    )
    parser.addini("workflow_store", "default of --workflow-store", default="memory")
    parser.addini("workflow_start", "wall time at which virtual time begins, as ISO text with a zone", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and refuse what cannot work."""
    _refuse_namesake()
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    if config.getini("workflow_store") not in _STORES:
        raise pytest.UsageError(
            f"workflow_store = {config.getini('workflow_store')!r} in the configuration: use {' or '.join(_STORES)}"
        )


def pytest_report_header(config: pytest.Config) -> str:
    """Say which store the workflow fixtures use."""
    return f"workflow: {_store_option(config)} store, virtual time"


def _store_option(config: pytest.Config) -> str:
    return str(config.getoption("--workflow-store") or config.getini("workflow_store"))


# Fixtures ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def workflow_settings() -> Settings:
    """Settings of the engine under test; override this fixture to change them."""
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
    from pytest_workflow.markers import make_clock  # noqa: PLC0415 - not before the first workflow test

    item = request.node
    clock = make_clock(item, str(request.config.getini("workflow_start")))
    kind = _marked_store(item) or _store_option(request.config)
    file = request.getfixturevalue("tmp_path") / "workflow.db" if kind == "file" else None
    environment = Environment(clock, file, workflow_settings, workflow_plugins)
    item.stash[_environment_key] = environment
    freezer = _freezer(request.config)
    freezer.lead(clock)
    if request.config.getoption("--workflow-replay-check"):
        from pytest_workflow.replay_check import install  # noqa: PLC0415 - not without the option

        install(environment, freezer, item)
    try:
        yield environment
    finally:
        environment.close()
        freezer.release()


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


def _marked_store(item: pytest.Item) -> str | None:
    marker = item.get_closest_marker("workflow_store")
    if marker is None:
        return None
    values = (*marker.args, *marker.kwargs.values())
    if len(values) != 1 or set(marker.kwargs) - {"kind"} or values[0] not in _STORES:
        pytest.fail(f'{item.nodeid}: @pytest.mark.workflow_store takes "memory" or "file", nothing else', pytrace=False)
    return str(values[0])


def _freezer(config: pytest.Config) -> Freezer:
    from pytest_workflow.freezer import Freezer  # noqa: PLC0415 - not before the first workflow test

    return config.stash.setdefault(_freezer_key, Freezer())


# Around each test ----------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin virtual time before all other fixtures of the test's own, whatever the order of its arguments."""
    if _uses_workflow(item) and isinstance(item, pytest.Function):
        names, definitions = item.fixturenames, item._fixtureinfo.name2fixturedefs
        names.remove("_workflow_environment")
        wider = [name in definitions and definitions[name][-1].scope != "function" for name in names]
        names.insert(len(names) - wider[::-1].index(True) if True in wider else 0, "_workflow_environment")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test whose faults did not all strike."""
    result = yield
    environment = item.stash.get(_environment_key, None)
    unused = environment.faults.unused() if environment is not None else []
    if unused:
        names = "\n".join(f"  workflow_faults.{rule.description}" for rule in unused)
        pytest.fail(
            f"these faults never struck, so the test shows less than it says:\n{names}\n"
            "Mend the step id or the attempts, or pass strict=False to the rule or set workflow_faults.strict = False",
            pytrace=False,
        )
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the histories of a failing test."""
    report = yield
    environment = item.stash.get(_environment_key, None)
    if report.when == "call" and report.failed and environment is not None:
        report.sections.extend(environment.report())
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Let real time return before a test that does not use virtual time."""
    try:
        return (yield)
    finally:
        freezer = item.config.stash.get(_freezer_key, None)
        if freezer is not None and freezer.active and not _uses_workflow(nextitem):
            freezer.stop()
        if _environment_key in item.stash:
            del item.stash[_environment_key]


def _uses_workflow(item: pytest.Item | None) -> bool:
    return "_workflow_environment" in getattr(item, "fixturenames", ())


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
