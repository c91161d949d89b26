"""What somebody waits for: settled once, and asked for by any number of tasks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["Outcome"]

_T = TypeVar("_T")


class Outcome(Generic[_T]):
    """A result, or an error, that is not there yet; for the tasks of one event loop.

    A future would be cancelled with the first task that waits for it and is cancelled. `asyncio.shield` keeps that from
    it by a second future and a turn of the event loop; here each task waits by a future of its own.
    """

    __slots__ = ("_callbacks", "_error", "_is_settled", "_result", "_traceback", "_waiters")

    def __init__(self) -> None:
        self._is_settled = False
        self._result: _T | None = None
        self._error: BaseException | None = None
        self._traceback: TracebackType | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._callbacks: list[Callable[[Outcome[_T]], object]] = []

    @property
    def is_settled(self) -> bool:
        """Whether it is there."""
        return self._is_settled

    @property
    def error(self) -> BaseException | None:
        """The error that it is, if it is there and is one."""
        return self._error

    @property
    def result(self) -> _T | None:
        """The result, if it is there and is no error."""
        return self._result

    def settle(self, result: _T | BaseException) -> None:
        """Give it to those who wait, and to those who will; what it was settled with first stays."""
        if self._is_settled:
            return
        self._is_settled = True
        if isinstance(result, BaseException):
            self._error, self._traceback = result, result.__traceback__
        else:
            self._result = result
        for callback in self._callbacks:
            callback(self)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def when_settled(self, callback: Callable[[Outcome[_T]], object]) -> None:
        """Call a function as soon as it is settled, before anybody goes on who waits."""
        self._callbacks.append(callback)

    async def wait(self) -> _T:
        """Wait for it.

        Raises:
            BaseException: It is that error.
        """
        if not self._is_settled:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                self._waiters.remove(waiter)
                raise
        if self._error is not None:
            raise self._error.with_traceback(self._traceback)  # without the frames of those who met it before
        result: _T = self._result  # type: ignore[assignment]  # it is settled, and not with an error
        return result
