"""Telling whether a step or a workflow is meant by an id or a glob, and an event by an expectation."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["is_expected", "literal", "matches", "matching"]


def matches(name: str, pattern: str) -> bool:
    """Tell whether ``pattern`` is the name itself, or a glob that fits it.

    A glob has a ``*`` or a ``?``; in one, ``[...]`` stands for a character. Without them brackets are brackets, because
    ids such as ``item[1]`` are common.
    """
    return name == pattern or (("*" in pattern or "?" in pattern) and fnmatchcase(name, pattern))


def matching(names: Collection[str], pattern: str) -> list[str]:
    """Return the one of several names that is the pattern itself, else all that it fits.

    Raises:
        TypeError: The pattern is no text, but a list of names, for example.
    """
    if not isinstance(pattern, str):
        raise TypeError(f"a step is named by its id, or a glob, not by {pattern!r}")
    return [pattern] if pattern in names else [name for name in names if matches(name, pattern)]


def literal(name: str) -> str:
    """Return the pattern that fits this name alone."""
    if "*" not in name and "?" not in name:
        return name
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def is_expected(event: object, expected: object) -> bool:
    """Tell whether an event is of the expected class, or equal in the fields that the expectation names."""
    return isinstance(event, expected) if isinstance(expected, type) else event == expected
