"""What a test asks for with the marker ``workflow_clock``: its clock."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_workflow.clock import DEFAULT_START, VirtualClock

if TYPE_CHECKING:
    from pytest_workflow.clock import VirtualClock as Clock

__all__ = ["make_clock"]


def make_clock(item: pytest.Item, configured_start: str) -> Clock:
    """Return the clock that a test asks for.

    Args:
        item: The test.
        configured_start: The ini value ``workflow_start``; empty for the default.

    A marker, or an ini value, that does not name a wall time fails the test.
    """
    options: dict[str, object] = {}
    for marker in reversed(list(item.iter_markers("workflow_clock"))):  # the closest one has the last word
        if marker.args or set(marker.kwargs) - {"start", "manual"}:
            _refuse(f"{item.nodeid}: @pytest.mark.workflow_clock takes start= and manual=, nothing else")
        options |= marker.kwargs
    manual, start = options.get("manual", False), options.get("start")
    if not isinstance(manual, bool):
        _refuse(f"{item.nodeid}: @pytest.mark.workflow_clock takes manual=True or manual=False, not {manual!r}")
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
    pytest.fail(message, pytrace=False)
