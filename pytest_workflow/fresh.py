"""Fresh workflow engines inside one test: a database, a clock and faults of its own for each example of Hypothesis."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from typing import TYPE_CHECKING, Any

from pytest_workflow import items
from pytest_workflow.clock import VirtualClock
from pytest_workflow.commands import command
from pytest_workflow.environment import Environment
from pytest_workflow.freezer import Freezer
from pytest_workflow.harness import HARNESS_SETTINGS, WorkflowHarness
from pytest_workflow.markers import arm, check_overrides, make_clock
from pytest_workflow.schedules import Schedule
from pytest_workflow.storages import MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    import pytest

    from pytest_workflow.database import WorkflowDatabase
    from pytest_workflow.faults import WorkflowFaults
    from pytest_workflow.observation import Observation
    from pytest_workflow.plan import FaultPlan
    from pytest_workflow.storages import Storage
    from workflow_core.settings import Settings

__all__ = ["FreshWorkflow", "fresh_workflow"]

_active: list[Environment] = []
_spare: list[MemoryStorage] = []


class FreshWorkflow(WorkflowHarness):
    """What the fixture ``workflow`` is, with what the other fixtures are at hand."""

    @property
    def clock(self) -> VirtualClock:
        """Virtual time, as the fixture ``workflow_clock``."""
        return self._environment.clock

    @property
    def faults(self) -> WorkflowFaults:
        """Faults, as the fixture ``workflow_faults``."""
        return self._environment.faults

    @property
    def db(self) -> WorkflowDatabase:
        """The database, as the fixture ``workflow_db``; in memory, or on PostgreSQL as that of the test."""
        return self._environment.database

    def damage(self) -> list[str]:
        """Return what is damaged in the database."""
        return self._environment.storage.problems()

    @property
    def observation(self) -> Observation:
        """What was seen of the run so far: the deaths of the process, and, if one was given, what it passed."""
        return self._environment.observation


@contextlib.contextmanager
def fresh_workflow(
    plan: FaultPlan | None = None,
    *,
    schedule: Schedule | None = None,
    settings: Settings | None = None,
    plugins: Sequence[object] | None = None,
    observation: Observation | None = None,
    remark: bool = True,
) -> Iterator[FreshWorkflow]:
    """Open an engine that shares nothing with any other, for one example.

    It is the current engine in the ``with`` block, and knows the workflows that are known around it. It takes over the
    test's markers, and its fixtures ``workflow_settings`` and ``workflow_plugins``.

    Args:
        plan: Faults. With ``--workflow-faults`` the command line's plan takes its place, which replays it.
        schedule: Which of several runnable tasks goes first.
        settings: Of the engine; those of the fixture ``workflow_settings`` if not given.
        plugins: Of the engine; those of the fixture ``workflow_plugins`` if not given.
        observation: What is seen of the run is put there.
        remark: Show the plan, and how to replay it, when an example of Hypothesis fails.

    Yields:
        The harness.

    Raises:
        AssertionError: A strict fault never struck.
    """
    item = items.running[-1] if items.running else None
    outer = _active[-1] if _active else None if item is None else item.stash.get(items.environment_key, None)
    freezer = Freezer() if item is None else items.freezer_of(item.config)
    storage = _storage(item, outer)
    storage.empty()
    environment = _environment(item, settings, plugins, observation, storage)
    if outer is not None:
        environment.engine.definitions = outer.engine.definitions
    _active.append(environment)
    try:
        freezer.lead(environment.clock)
        armed = _arm(environment.faults, plan, item)
        if remark and armed is not None:
            _remark(armed, item)
        with _quiet(), (schedule or Schedule()).leading(environment.clock):
            yield FreshWorkflow(environment)
        environment.failures.surface_at_end(None if item is None else items.code_of(item))
        _check_used(environment)
    except Exception:
        if (hypothesis := _examples()) is not None:
            hypothesis.note(_Histories(environment))
        raise
    finally:
        _active.remove(environment)
        try:
            environment.close()
            if isinstance(storage, MemoryStorage):
                _spare.append(storage)
            else:
                storage.close()
        finally:
            if outer is not None:
                freezer.lead(outer.clock)
            else:
                freezer.release()
            if item is None:
                freezer.stop()


def _storage(item: pytest.Item | None, outer: Environment | None) -> Storage:
    """Return a database as the test's own; one in memory in the place of a file."""
    if outer is not None and not isinstance(outer.storage, MemoryStorage):
        return outer.storage.another()
    if outer is None and item is not None and (storage := items.database_on_server(item)) is not None:
        return storage
    return _spare.pop() if _spare else MemoryStorage()


def _environment(
    item: pytest.Item | None,
    settings: Settings | None,
    plugins: Sequence[object] | None,
    observation: Observation | None,
    storage: Storage,
) -> Environment:
    """Make an environment as the fixtures of a test would."""
    if item is None:
        return Environment(VirtualClock(), None, settings or HARNESS_SETTINGS, plugins or (), observation, storage)
    clock = make_clock(item, str(item.config.getini("workflow_start")))
    if settings is None:
        settings = _fixture(item, "workflow_settings", HARNESS_SETTINGS)
    if plugins is None:
        plugins = _fixture(item, "workflow_plugins", ())
    check_overrides(settings, plugins)
    if (coverage := item.config.pluginmanager.get_plugin("workflow_coverage")) is not None:
        plugins = (*plugins, coverage.observer(item))
    custom = functools.partial(items.custom_fault, item)
    return Environment(clock, None, settings, plugins, observation, storage, custom)


def _arm(faults: WorkflowFaults, plan: FaultPlan | None, item: pytest.Item | None) -> FaultPlan | None:
    """Arm what the test's markers and the command line ask for, and the plan if the command line names none."""
    if item is not None:
        arm(item, faults)
        if item.config.getoption("--workflow-faults"):
            return None
    if plan is not None:
        faults.add(plan)
    return plan


def _check_used(environment: Environment) -> None:
    if environment.never_awaited:
        raise AssertionError("\n".join(environment.never_awaited))
    if unused := environment.faults.unused():
        names = ", ".join(armed.description for armed in unused)
        raise AssertionError(f"these faults never struck, so the example shows less than it says: {names}")


def _fixture(item: pytest.Item, name: str, default: Any) -> Any:  # noqa: ANN401 - whatever the fixture returns
    request = getattr(item, "_request", None)
    return default if request is None else request.getfixturevalue(name)


def _examples() -> ModuleType | None:
    """Return Hypothesis if it runs an example now."""
    hypothesis = sys.modules.get("hypothesis")
    return hypothesis if hypothesis is not None and hypothesis.currently_in_test_context() else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let the engine not log the faults of hundreds of examples: pytest would show them all with the failing one."""
    log = logging.getLogger("workflow_core")
    before = log.level
    if _examples() is not None and before == logging.NOTSET:
        log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)


class _Histories:
    """The histories of a failing example; Hypothesis asks for the text once, when it has found the simplest one."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def __repr__(self) -> str:
        return "\n".join(f"\n{title}\n{text}" for title, text in self._environment.report())


def _remark(plan: FaultPlan, item: pytest.Item | None) -> None:
    """Show a plan with the example that Hypothesis reports."""
    hypothesis = _examples()
    if hypothesis is None:
        return
    if not plan.rules:
        hypothesis.note("fault plan: none; the example fails without a fault")
        return
    text = plan.to_json()
    hypothesis.note(f"fault plan: {text}")
    if item is not None:
        hypothesis.note(f"replay: {command(item, [f'--workflow-faults={text}'], plans=False)}")
