"""Claims on the ids of executions: one task at a time, in whatever thread, begins something about an execution."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflow_core.clock import Clock

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["Claim", "Claims"]

_POLL_MS = 1


class Claims:
    """The ids that are claimed in one engine.

    Args:
        clock: Of the engine.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._holders: dict[str, Claim] = {}

    def of(self, execution_id: str) -> Claim:
        """Return a claim on an id, for an ``async with`` block."""
        return Claim(self._holders, execution_id, self._clock)


class Claim:
    """Is held in an ``async with`` block, by nobody else meanwhile."""

    __slots__ = ("_clock", "_execution_id", "_holders")

    def __init__(self, holders: dict[str, Claim], execution_id: str, clock: Clock) -> None:
        self._holders = holders
        self._execution_id = execution_id
        self._clock = clock

    async def __aenter__(self) -> None:
        while self._holders.setdefault(self._execution_id, self) is not self:
            await self._clock.sleep(_POLL_MS)

    async def __aexit__(self, *exc_info: object) -> None:
        del self._holders[self._execution_id]
