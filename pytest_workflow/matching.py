"""Telling whether a name is meant by a pattern, and an event by an expectation."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflow_core.events import Event

__all__ = ["is_expected", "matches"]


def matches(name: str, pattern: str) -> bool:
    """Tell whether ``pattern`` is the name itself, or a glob that fits it."""
    return name == pattern or fnmatchcase(name, pattern)


def is_expected(event: Event, expected: Event | type[Event]) -> bool:
    """Tell whether an event is of the expected class, or equal in the fields that the expectation names."""
    return isinstance(event, expected) if isinstance(expected, type) else event == expected
