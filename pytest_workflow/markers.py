"""What a test asks for with markers, options and fixtures: its clock, its faults, its settings and its plugins."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_workflow.clock import DEFAULT_START, VirtualClock
from pytest_workflow.plan import FaultPlan
from workflow_core.errors import ValidationError
from workflow_core.settings import Settings

if TYPE_CHECKING:
    from pytest_workflow.faults import WorkflowFaults

__all__ = ["arm", "check_overrides", "make_clock", "plans_of_the_command_line"]


def arm(item: pytest.Item, faults: WorkflowFaults) -> None:
    """Arm the fault plans that a test's markers and the command line name.

    A plan of the command line is for many tests, so none of its rules has to strike in each.
    """
    for marker in item.iter_markers("workflow_faults"):
        if not marker.args or marker.kwargs:
            _refuse("@pytest.mark.workflow_faults takes the paths of fault plans, or FaultPlans")
        for given in marker.args:
            faults.add(_plan(item, given))
    for plan in plans_of_the_command_line(item.config):
        faults.add(FaultPlan(rules=tuple(rule.model_copy(update={"strict": False}) for rule in plan.rules)))


def plans_of_the_command_line(config: pytest.Config) -> list[FaultPlan]:
    """Return the fault plans of ``--workflow-faults``: JSON, or files named relative to the working directory.

    Raises:
        UsageError: One of them cannot be read, or is no plan.
    """
    plans = []
    for text in config.getoption("--workflow-faults"):
        try:
            if text.lstrip().startswith(("{", "[")):
                plans.append(FaultPlan.from_json(text))
            else:
                plans.append(FaultPlan.load(config.invocation_params.dir / text))
        except ValidationError as error:
            raise pytest.UsageError(f"--workflow-faults: {error}") from None
    return plans


def _plan(item: pytest.Item, given: object) -> FaultPlan:
    if isinstance(given, FaultPlan):
        return given
    if not isinstance(given, (str, Path)):
        _refuse(f"a fault plan is the path of a JSON file, or a FaultPlan; not {given!r}")
    try:
        if isinstance(given, str) and given.lstrip().startswith(("{", "[")):
            return FaultPlan.from_json(given)
        return FaultPlan.load(_beside(item, given))
    except ValidationError as error:
        _refuse(str(error))


def _beside(item: pytest.Item, given: str | Path) -> str | Path:
    """Return the path beside the test's file if there is such a file, else the path as it is."""
    beside = item.path.parent / given
    try:
        return beside if beside.exists() else given
    except (OSError, ValueError):  # no file can have such a name
        return given


def check_overrides(settings: object, plugins: object) -> None:
    """Fail a test whose own ``workflow_settings`` or ``workflow_plugins`` return what the engine cannot use."""
    if not isinstance(settings, Settings):
        _refuse(
            f"the fixture workflow_settings must return a workflow_core.Settings, such as "
            f"HARNESS_SETTINGS.model_copy(update={{...}}) of pytest_workflow.harness; not {settings!r}"
        )
    if not isinstance(plugins, (list, tuple)):
        _refuse(f"the fixture workflow_plugins must return a list of plugins; not {plugins!r}")


def make_clock(item: pytest.Item, configured_start: str) -> VirtualClock:
    """Return the clock that a test asks for; a marker, or an ini value, that names no wall time fails the test.

    Args:
        item: The test.
        configured_start: The ini value ``workflow_start``; empty for the default.
    """
    options: dict[str, object] = {}
    for marker in reversed(list(item.iter_markers("workflow_clock"))):  # the closest one has the last word
        if marker.args or set(marker.kwargs) - {"start", "manual"}:
            _refuse("@pytest.mark.workflow_clock takes start= and manual=, nothing else")
        options |= marker.kwargs
    manual, start = options.get("manual", False), options.get("start")
    if not isinstance(manual, bool):
        _refuse(f"@pytest.mark.workflow_clock takes manual=True or manual=False, not {manual!r}")
    if start is None:
        start = configured_start or DEFAULT_START
    return VirtualClock(_moment(start, item.nodeid), automatic=not manual)


def _moment(value: object, where: str) -> datetime:
    named = value
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            _refuse(f"{where}: the start of virtual time {named!r} is no ISO date and time")
    if not isinstance(value, datetime) or value.tzinfo is None:
        _refuse(f"{where}: the start of virtual time must be a datetime with a time zone, not {value!r}")
    try:
        return value.astimezone(DEFAULT_START.tzinfo)
    except OverflowError:
        _refuse(f"{where}: the start of virtual time {named!r} is outside the years that Python knows")


def _refuse(message: str) -> NoReturn:
    raise pytest.fail.Exception(message, pytrace=False) from None
