"""The event loop that runs here, if one does."""

from __future__ import annotations

import asyncio

__all__ = ["running_loop"]


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread; ``None`` in code that no loop runs."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
