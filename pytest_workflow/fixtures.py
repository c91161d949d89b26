"""The fixtures of the plugin; everything that they need is imported at the first test that asks for one."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

import pytest

from pytest_workflow.items import (
    custom_fault,
    database_on_server,
    environment_key,
    freezer_of,
    invariants_of,
    note_crashes,
    rerun_key,
)
from pytest_workflow.options import store_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from syrupy.assertion import SnapshotAssertion

    from pytest_workflow.clock import VirtualClock
    from pytest_workflow.coverage_plugin import CoveragePlugin
    from pytest_workflow.database import WorkflowDatabase
    from pytest_workflow.environment import Environment
    from pytest_workflow.faults import WorkflowFaults
    from pytest_workflow.harness import WorkflowHarness
    from pytest_workflow.power import WorkflowPower
    from pytest_workflow.replay import WorkflowReplay
    from pytest_workflow.scenarios import WorkflowCrashes
    from pytest_workflow.spy import WorkflowSpy
    from pytest_workflow.storages import Storage
    from pytest_workflow.upgrade import WorkflowUpgrade
    from workflow_core.settings import Settings


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
    from pytest_workflow.environment import Environment  # noqa: PLC0415
    from pytest_workflow.markers import arm, check_overrides, make_clock  # noqa: PLC0415 - not before the first workflow test

    item = request.node
    check_overrides(workflow_settings, workflow_plugins)
    clock = make_clock(item, str(request.config.getini("workflow_start")))
    kind = store_of(item)
    rerun = item.stash.get(rerun_key, None)
    observation = None if rerun is None else rerun.observation
    storage: Storage | None = None if rerun is None else rerun.memory
    file = None
    if kind == "file":
        file, storage = request.getfixturevalue("tmp_path") / "workflow.db", None
    elif kind == "postgres":
        storage = database_on_server(item)
    custom = functools.partial(custom_fault, item)
    coverage: CoveragePlugin | None = request.config.pluginmanager.get_plugin("workflow_coverage")
    plugins = [*workflow_plugins, coverage.observer(item)] if coverage is not None else workflow_plugins
    environment = Environment(
        clock, file, workflow_settings, plugins, observation, storage, custom, lent=kind == "memory"
    )
    item.stash[environment_key] = environment
    freezer = freezer_of(request.config)
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

    return WorkflowReplay(_workflow_environment, freezer_of(request.config))


@pytest.fixture
def workflow_upgrade(request: pytest.FixtureRequest, _workflow_environment: Environment) -> WorkflowUpgrade:
    """Freeze an execution of the old code at every durable point, and resume each on the new code."""
    from pytest_workflow.upgrade import WorkflowUpgrade  # noqa: PLC0415 - not before the first workflow test

    return WorkflowUpgrade(_workflow_environment, freezer_of(request.config))


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
        freezer_of(request.config),
        item.nodeid,
        asked_places(request.config),
        invariants_of(item),
        lambda report: note_crashes(item.user_properties, report.summary()),
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
    power = WorkflowPower(_workflow_environment, freezer_of(request.config), invariants_of(item), at, command(item))
    yield power
    power.check_reached()


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
