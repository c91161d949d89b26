"""Which frames of a stack are those of the user's own code."""

from __future__ import annotations

import sysconfig
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["LIBRARIES", "is_users", "users_frame"]

LIBRARIES: Final = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
"""Where the files of Python and of installed packages lie."""

_MACHINERY: Final = frozenset(
    {"asyncio", "concurrent", "contextvars", "queue", "threading", "workflow_core", "pytest_workflow"}
)


def is_users(frame: FrameType) -> bool:
    """Tell whether a frame is none of asyncio's, of threads, of the engine's and of the harness's."""
    return frame.f_globals.get("__name__", "").partition(".")[0] not in _MACHINERY


def users_frame(frame: FrameType | None) -> FrameType | None:
    """Return the innermost of a frame and its callers that is the user's."""
    while frame is not None and not is_users(frame):
        frame = frame.f_back
    return frame
