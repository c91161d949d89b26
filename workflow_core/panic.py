"""Recognising a panic: an error of the system rather than of the step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflow_core.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["PANIC_INDICATORS", "PANIC_TYPES", "find_panic_indicator"]

PANIC_INDICATORS: tuple[str, ...] = (
    "out of memory",
    "stack overflow",
    "segmentation fault",
    "process killed",
    "system error",
    "fatal error",
    "unhandled promise rejection",
    "uncaught exception",
    "maximum call stack",
    "heap out of memory",
    "cannot allocate memory",
)
"""Texts that, anywhere in an error's message and in any case, make it a panic."""

PANIC_TYPES: tuple[type[BaseException], ...] = (MemoryError, RecursionError, SystemError)
"""Errors that are a panic whatever their message."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and everything it was raised from or while handling."""
    pending, seen = [error], set[int]()
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            pending.extend(current.exceptions)
        pending.extend(linked for linked in (current.__cause__, current.__context__) if linked is not None)


def find_panic_indicator(error: BaseException, extra_indicators: Iterable[str] = ()) -> str | None:
    """Return what makes an error a panic, or ``None``.

    Args:
        error: The error; its causes and contexts count as well.
        extra_indicators: Texts that count besides `PANIC_INDICATORS`.

    Returns:
        The longest text found in a message, or the class name of a system error.
    """
    indicators = sorted({*PANIC_INDICATORS, *(text.lower() for text in extra_indicators if text)}, key=len)
    for link in _chain(error):
        if isinstance(link, PANIC_TYPES):
            return type(link).__name__
        message = error_text(link).lower()
        found = [indicator for indicator in indicators if indicator in message]
        if found:
            return found[-1]
    return None
