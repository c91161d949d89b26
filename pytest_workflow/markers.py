"""What a test asks for with markers and options: its clock, and its faults."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_workflow.clock import DEFAULT_START, VirtualClock
from pytest_workflow.plan import FaultPlan
from workflow_core.errors import ValidationError

if TYPE_CHECKING:
    from pytest_workflow.clock import VirtualClock as Clock
    from pytest_workflow.faults import WorkflowFaults

__all__ = ["arm", "make_clock"]


def arm(item: pytest.Item, faults: WorkflowFaults) -> None:
    """Arm the fault plans that a test's markers and the command line name.

    A plan of the command line is for many tests, so none of its rules has to strike in each.
    """
    for marker in item.iter_markers("workflow_faults"):
        if not marker.args or marker.kwargs:
            _refuse(f"{item.nodeid}: @pytest.mark.workflow_faults takes the paths of fault plans, or FaultPlans")
        for given in marker.args:
            faults.add(_plan(item, given))
    for text in item.config.getoption("--workflow-faults"):
        plan = _plan(item, text)
        faults.add(FaultPlan(rules=tuple(rule.model_copy(update={"strict": False}) for rule in plan.rules)))


def _plan(item: pytest.Item, given: object) -> FaultPlan:
    if isinstance(given, FaultPlan):
        return given
    if not isinstance(given, (str, Path)):
        _refuse(f"{item.nodeid}: a fault plan is the path of a JSON file, or a FaultPlan; not {given!r}")
    try:
        if isinstance(given, str) and given.lstrip().startswith("{"):
            return FaultPlan.from_json(given)
        beside = item.path.parent / given
        return FaultPlan.load(beside if beside.exists() else given)
    except ValidationError as error:
        _refuse(f"{item.nodeid}: {error}")


def make_clock(item: pytest.Item, configured_start: str) -> Clock:
    """Return the clock that a test asks for.

    Args:
        item: The test.
        configured_start: The ini value ``workflow_start``; empty for the default.

    A marker, or an ini value, that does not name a wall time fails the test.
    """
    marker = item.get_closest_marker("workflow_clock")
    options = dict(marker.kwargs) if marker is not None else {}
    if marker is not None and (marker.args or set(options) - {"start", "manual"}):
        _refuse(f"{item.nodeid}: @pytest.mark.workflow_clock takes start= and manual=, nothing else")
    start = _moment(options.get("start") or configured_start or DEFAULT_START, item.nodeid)
    return VirtualClock(start, automatic=not options.get("manual", False))


def _moment(value: object, where: str) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            _refuse(f"{where}: the start of virtual time {value!r} is no ISO date and time")
    if not isinstance(value, datetime) or value.tzinfo is None:
        _refuse(f"{where}: the start of virtual time must be a datetime with a time zone, not {value!r}")
    return value.astimezone(DEFAULT_START.tzinfo)


def _refuse(message: str) -> NoReturn:
    pytest.fail(message, pytrace=False)
