"""How often a client may do something: a bucket of tokens for each, which fills up again steadily."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from workflow_core.clock import Clock

__all__ = ["Throttle"]

_MOST_CLIENTS: Final = 10_000
"""The clients that were seen longest ago are forgotten beyond this number, so that nobody can fill the memory."""


class Throttle:
    """Counts what clients do, by their addresses (token bucket).

    Args:
        clock: Where the time comes from.
        per_minute: How much a client may do in a minute, all at once if it likes.
    """

    def __init__(self, clock: Clock, per_minute: int) -> None:
        self._clock = clock
        self._most = float(per_minute)
        self._per_second = per_minute / 60
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_for(self, client: str) -> int:
        """Return for how many seconds a client has to wait; 0 if it has not."""
        left = self._now(client)
        return 0 if left >= 1 else math.ceil((1 - left) / self._per_second)

    def count(self, client: str) -> None:
        """Count one more."""
        self._left[client] = self._now(client) - 1, self._clock.monotonic()
        self._left.move_to_end(client)
        if len(self._left) > _MOST_CLIENTS:
            self._left.popitem(last=False)

    def _now(self, client: str) -> float:
        left, at = self._left.get(client, (self._most, 0.0))
        return min(self._most, left + (self._clock.monotonic() - at) * self._per_second)
