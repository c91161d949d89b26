"""Waiting for a database that cannot be used for a while: it is locked, full, read-only, or its disk reports errors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from workflow_core.errors import LeaseLostError, StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workflow_core.clock import Clock

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["Patience", "Tenacious"]

logger = logging.getLogger("workflow_core")

_T = TypeVar("_T")

_FIRST_WAIT_MS: Final = 50
_LONGEST_WAIT_MS: Final = 5_000
_FIRST_WAIT_FOR_LOCK_MS: Final = 5
_LONGEST_WAIT_FOR_LOCK_MS: Final = 250
"""A lock is usually held for a moment, and nobody tells when it is let go."""

_USUAL_LOCK_MS: Final = 1_000
"""A lock that is held no longer is no incident worth a warning."""


class Tenacious(Protocol):
    """An execution whose durable points are tried again, however long that takes."""

    def keeps_trying(self) -> bool:
        """Tell whether somebody drives it, so that it goes on by itself; else its caller is told to come back."""

    def tell_waiters(self, error: StorageError) -> None:
        """Raise an error to everybody who waits for it; it goes on all the same."""

    def waiting_for_storage(self, reason: str) -> contextlib.AbstractContextManager[None]:
        """Note, in a ``with`` block, that it waits for a database, and why."""


class WaitForLocks(Protocol):
    """The method of that name of a `Store`."""

    def __call__(self, location: str, *, wait: bool) -> None:
        """Tell whether writes to a database wait for another process's lock, or report it at once."""


class _Incident:
    """A while in which one database cannot be used, from the first error to the first success."""

    def __init__(self, error: StorageError, began: float) -> None:
        self.error = error
        self.began = began
        self.warned = False
        self.is_over = False
        self.sufferers = 0
        self._paused: set[asyncio.Future[None]] = set()

    async def pause(self, clock: Clock, delay_ms: float) -> None:
        """Wait for a while, or until the incident is over."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        handle = clock.call_later(delay_ms, lambda: None if done.done() else done.set_result(None))
        self._paused.add(done)
        try:
            await done
        finally:
            handle.cancel()
            self._paused.discard(done)

    def end(self) -> None:
        """Let everybody try again at once."""
        self.is_over = True
        for done in self._paused:
            if not done.done():
                done.set_result(None)


class Patience:
    """How one engine deals with databases that cannot be used for a while.

    What failed is tried again in place, with its values kept, so that nothing has to run again. The waits double, as in
    "Exponential Backoff And Jitter" (M. Brooker, AWS Architecture Blog, 2015), up to a limit; they need no jitter,
    because the first success in a process lets the others there try at once.

    Args:
        clock: Where the time comes from.
        patience_ms: How long until somebody is told, in milliseconds.
        wait_for_locks: Tells a store whether to wait for the locks of a database, see `Store.wait_for_locks`.
    """

    def __init__(self, clock: Clock, patience_ms: int, wait_for_locks: WaitForLocks) -> None:
        self._clock = clock
        self._patience_ms = patience_ms
        self._wait_for_locks = wait_for_locks
        self._incidents: dict[tuple[int, str], _Incident] = {}

    async def again(
        self, error: StorageError, attempt: Callable[[], Awaitable[_T]], execution: Tenacious | None = None
    ) -> _T:
        """Try again what failed, until it succeeds or fails otherwise.

        Args:
            error: How it failed, transiently.
            attempt: Does it.
            execution: Whose durable point it is. Those who wait for it are told each time the patience is over, and it
                goes on trying; without one, or while nobody drives it, the caller is told and nothing goes on.

        Raises:
            StorageError: The patience of a caller is over, or the failure is not transient any more.
        """
        with contextlib.ExitStack() as stack:
            if execution is not None:
                stack.enter_context(execution.waiting_for_storage(f"the database: {error}"))
            incident = self._join(error)
            try:
                clock, told_at, delay = self._clock, self._clock.monotonic(), 0.0
                while True:
                    remaining = self._patience_ms - (clock.monotonic() - told_at) * 1_000
                    if remaining < 1:
                        if execution is None or not execution.keeps_trying():
                            raise self._over(error)
                        execution.tell_waiters(error)
                        told_at, remaining = clock.monotonic(), max(self._patience_ms, _FIRST_WAIT_MS)
                    first, longest = _waits(error)
                    delay = min(max(delay * 2, first), longest)
                    await incident.pause(clock, min(delay, remaining))
                    try:
                        result = await attempt()
                    except StorageError as failure:
                        if not failure.is_transient:
                            raise
                        error = failure
                        if incident.is_over or failure.location != incident.error.location:
                            self._leave(incident)
                            incident = self._join(error)
                        incident.error = error
                        self._warn(incident)
                    except LeaseLostError:  # it could be read, so it works
                        self._end(incident)
                        raise
                    else:
                        self._end(incident)
                        return result
            finally:
                self._leave(incident)

    def _over(self, error: StorageError) -> StorageError:
        told = StorageError(f"{error}; gave up after {self._patience_ms} ms", error.location, error.reason)
        told.__cause__ = error
        return told

    def _join(self, error: StorageError) -> _Incident:
        """Take part in the incident of a database, which begins with its first failure."""
        key = _key(error)
        incident = self._incidents.get(key)
        if incident is None:
            incident = self._incidents[key] = _Incident(error, self._clock.monotonic())
            if error.reason == "locked":
                self._wait_for_locks(key[1], wait=False)
        incident.sufferers += 1
        self._warn(incident)
        return incident

    def _leave(self, incident: _Incident) -> None:
        """Leave an incident, of which nobody will tell the end if nobody takes part in it."""
        incident.sufferers -= 1
        if not incident.sufferers and not incident.is_over:
            self._forget(incident)

    def _forget(self, incident: _Incident) -> None:
        key = _key(incident.error)
        if self._incidents.get(key) is incident:
            del self._incidents[key]
        self._wait_for_locks(key[1], wait=True)

    def _warn(self, incident: _Incident) -> None:
        age_ms = (self._clock.monotonic() - incident.began) * 1_000
        if incident.warned or (incident.error.reason == "locked" and age_ms < _USUAL_LOCK_MS):
            return
        incident.warned = True
        logger.warning("%s; what needs it waits, and goes on by itself when it works again", incident.error)

    def _end(self, incident: _Incident) -> None:
        if incident.is_over:
            return
        self._forget(incident)
        if incident.warned:
            seconds = self._clock.monotonic() - incident.began
            logger.info("%s works again, after %.1f s", incident.error.location, seconds)
        incident.end()


def _key(error: StorageError) -> tuple[int, str]:
    return id(asyncio.get_running_loop()), error.location or ""


def _waits(error: StorageError) -> tuple[int, int]:
    if error.reason == "locked":
        return _FIRST_WAIT_FOR_LOCK_MS, _LONGEST_WAIT_FOR_LOCK_MS
    return _FIRST_WAIT_MS, _LONGEST_WAIT_MS
