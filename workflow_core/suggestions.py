"""Which known name was probably meant by one that is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["did_you_mean", "nearest"]


def nearest(given: object, known: Iterable[str]) -> str | None:
    """Return the known name that resembles a given one most; ``None`` if none does.

    The measure is that of `difflib.get_close_matches`.
    """
    import difflib  # noqa: PLC0415 - only who mistypes something waits for it

    return next(iter(difflib.get_close_matches(str(given), list(known), 1)), None)


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """Return the end of a sentence that hints to the nearest known name; empty if none is near."""
    close = nearest(given, known)
    return "" if close is None else f'; did you mean "{close}"?'
