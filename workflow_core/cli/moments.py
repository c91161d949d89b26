"""Moments as people write them on a command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from workflow_core.cli.failures import USAGE, Failure

__all__ = ["moment_of"]

_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def moment_of(text: str, now: datetime) -> datetime:
    """Return the moment that a text means: an age such as ``10m``, or a date or time in ISO 8601.

    A time without a zone is that of this machine.

    Raises:
        Failure: It means none.
    """
    found = _AGE.fullmatch(text.strip().lower())
    try:
        if found is not None:
            return now - timedelta(seconds=float(found[1]) * _SECONDS[found[2]])
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Failure(
            f'"{text}" is no moment; write an age such as 30s, 10m, 2h, 7d, or a time such as 2026-11-26T08:30', USAGE
        ) from None
