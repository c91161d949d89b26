"""Moments as SQLite holds them: as text, which sorts like the moments."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from workflow_core.clock import EPOCH

__all__ = ["stored_text"]

_LAST_MICROSECOND: Final = 999_999
_THREE_DIGITS: Final = tuple(f"{number:03}" for number in range(1_000))  # twice these are faster than to format six
_UTC: Final = "+00:00"


class _Second:
    """The second in which a moment was written last: of the next one most often only the microseconds are new."""

    __slots__ = ("begin", "end", "text")

    def __init__(self, at: datetime) -> None:
        self.begin = at.replace(microsecond=0)
        self.end = at.replace(microsecond=_LAST_MICROSECOND)
        self.text = self.begin.astimezone(UTC).isoformat(timespec="seconds").removesuffix(_UTC)


_second = _Second(EPOCH)


def stored_text(at: datetime) -> str:
    """Return a moment as it is stored, in UTC."""
    global _second  # noqa: PLW0603 - a memory of one second, replaced as a whole, so threads may share it
    second = _second
    if not second.begin <= at <= second.end:
        second = _second = _Second(at)
    microsecond = at.microsecond
    return f"{second.text}.{_THREE_DIGITS[microsecond // 1_000]}{_THREE_DIGITS[microsecond % 1_000]}{_UTC}"
