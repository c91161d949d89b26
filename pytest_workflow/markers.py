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
