"""Where a suspended coroutine waits, in the user's code."""

from __future__ import annotations

from typing import Any

__all__ = ["where"]

_NOT_THE_USERS = frozenset({"asyncio", "workflow_core", "pytest_workflow"})


def where(coroutine: object) -> str:
    """Tell where a suspended coroutine waits: the innermost frame that is neither asyncio's nor the engine's."""
    awaited: Any = coroutine
    place = ""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] not in _NOT_THE_USERS:
            place = f", at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return place
