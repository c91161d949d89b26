"""How a worker that begins waits for a database that is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

import psycopg

from workflow_core.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["done_patiently"]

logger = logging.getLogger("workflow_core")

_PAUSE_SECONDS: Final = 1.0
_SAY_AGAIN_SECONDS: Final = 10.0


async def done_patiently(work: Callable[[], Awaitable[None]], stop: asyncio.Event) -> bool:
    """Do something that a worker needs before it can begin, as soon as the database can be used.

    The log says at once why it cannot, and then every ten seconds.

    Args:
        work: What to do; it may be begun again from the start.
        stop: When it is set, the database is waited for no longer.

    Returns:
        Whether it was done, and not given up because the worker is to stop.

    Raises:
        StorageError: Waiting mends nothing: the password is wrong, for example, or a privilege is missing.
    """
    loop, say_at = asyncio.get_running_loop(), 0.0
    while not stop.is_set():
        try:
            await work()
        except StorageError as error:
            if not _passes(error):
                raise
            if loop.time() >= say_at:
                logger.warning("The worker waits for the database, and begins when it can be used: %s", error)
                say_at = loop.time() + _SAY_AGAIN_SECONDS
        else:
            if say_at:
                logger.warning("The database can be used, and the worker begins")
            return True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _PAUSE_SECONDS)
    return False


def _passes(error: StorageError) -> bool:
    return error.is_transient and not isinstance(error.__cause__, psycopg.errors.InsufficientPrivilege)
