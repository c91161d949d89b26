"""Which executions a worker lets go of: those of which nothing happens for a while, so that others have their place."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from workflow_core.clock import to_epoch_ms

if TYPE_CHECKING:
    from workflow_core.clock import Clock
    from workflow_core.execution import Execution
    from workflow_core.running import RunningExecutions

__all__ = ["Parking"]

_SETTLED_SECONDS: Final = 0.1
"""How long nothing must have happened in an execution with several steps at once: its handler may be about to go on."""


class Parking:
    """Lets go of executions that rest.

    Args:
        running: The executions of an engine.
        clock: Its clock.
        after_ms: How long, at least, an execution must be about to rest, in milliseconds.
    """

    def __init__(self, running: RunningExecutions, clock: Clock, after_ms: float) -> None:
        self._running = running
        self._clock = clock
        self.after_ms = after_ms

    def is_worth(self, moment_ms: int) -> bool:
        """Tell whether a moment, in milliseconds since 1970, is far enough away."""
        return moment_ms - to_epoch_ms(self._clock.now()) >= self.after_ms

    def consider(self, execution: Execution) -> None:
        """Let go of an execution, if it rests for long enough: at once, or when it is sure that nothing goes on."""
        until = execution.resting_until()
        if until is None or not self.is_worth(until) or execution.record.queue is None:
            return
        if execution.rests_as_a_whole:
            asyncio.get_running_loop().call_soon(self._park, execution, execution.last_seq)
        else:
            asyncio.get_running_loop().call_later(_SETTLED_SECONDS, self._park, execution, execution.last_seq)

    def consider_all(self) -> None:
        """Let go of every execution that rests."""
        for active in self._running:
            self.consider(active.execution)

    def _park(self, execution: Execution, last_seq: int) -> None:
        until = execution.resting_until()
        if until is not None and self.is_worth(until) and execution.last_seq == last_seq:
            self._running.park(execution, until)
