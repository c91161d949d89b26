"""What keeps one execution from taking its process down with it for ever.

A step that ends its process uses up its attempts. Nothing counts the runs of what stands outside of attempts: the
workflow's own code, and the handlers of steps. So their deaths are counted here, by the recoveries that follow each
other in the history with nothing between them. Three kinds of recovery say nothing against an execution:

- one that came while it waited for a moment (a sleep, a back-off, the restart after a panic): a service may be deployed
  any number of times meanwhile;
- one after an orderly end of the process;
- one that came long after the one before it: that is no loop.

A process that dies takes innocent executions with it, and those that were recovered together are all recovered again.
So executions under suspicion are taken over one by one, each when the one before has got on: whichever was taken last
when the process died is the one that did it, and the others have got on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from workflow_core.clock import from_epoch_ms
from workflow_core.errors import ExecutionInterruptedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from workflow_core.clock import Clock
    from workflow_core.database.store import ExecutionRecord
    from workflow_core.execution import Execution

__all__ = ["Recoveries", "deaths_in_a_row", "deaths_until", "in_peace", "interrupted_too_often"]

LOOP_GAP = timedelta(minutes=10)
"""Deaths further apart are no loop; longer than the waits of the usual supervisors between restarts."""

TRIAL_MS = 5_000
"""How long an execution under suspicion keeps the next one waiting, if it neither gets on nor ends its process."""

LOOK_MS = 2
"""How often that is looked at, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Recoveries:
    """The recoveries of an execution since anything else has happened in it, oldest first.

    Attributes:
        moments: When each was, since the last one that followed an orderly end.
        waited_until: Until when its steps and sleeps have been waiting, in milliseconds since 1970; 0 if none does.
    """

    moments: Sequence[datetime]
    waited_until: int


def deaths_in_a_row(recoveries: Recoveries, restart_at: int | None) -> int:
    """Return how many processes in a row have ended, soon after each other, while an execution's own code ran.

    Args:
        recoveries: Its recoveries.
        restart_at: When its restart after a panic is due, in milliseconds since 1970.
    """
    waited_until = from_epoch_ms(max(recoveries.waited_until, restart_at or 0))
    count = 0
    for before, after in pairwise([None, *recoveries.moments]):
        if after is None or after <= waited_until:
            continue
        count = 1 if before is None or before <= waited_until or after - before >= LOOP_GAP else count + 1
    return count


def deaths_until(now: datetime, recoveries: Recoveries, record: ExecutionRecord) -> int:
    """Return how many deaths in a row count against an execution that is about to be taken over.

    Args:
        now: The engine's time; the last death is now, or was not long ago.
        recoveries: Its recoveries.
        record: What is known of it.
    """
    if not recoveries.moments or now - recoveries.moments[-1] >= LOOP_GAP:
        return 0
    return deaths_in_a_row(recoveries, record.restart_at)


def interrupted_too_often(execution: Execution, deaths: int) -> ExecutionInterruptedError:
    """Return the error that ends an execution whose code has ended its process every time."""
    handlers = [step.step_id for step in execution.steps.values() if step.error_message is not None and step.stored]
    handling = [step_id for step_id in handlers if execution.steps[step_id].status in {"running", "pending"}]
    place = f'a handler of step "{handling[0]}" ran' if len(handling) == 1 else "its code outside of steps ran"
    return ExecutionInterruptedError(
        f"{execution}: the process ended {deaths + 1} times in a row while {place}, so it is not run again; mend what "
        "ends the process, then restart() the execution, or raise Settings.max_recoveries"
    )


async def in_peace(
    latest: Execution | None, running: Callable[[], Iterable[Execution]], clock: Clock, most_ms: float = TRIAL_MS
) -> None:
    """Wait until the next execution under suspicion can be taken over with the least harm to the others.

    Args:
        latest: The one that was taken over before; it should have got on, or it cannot be told from the next one.
        running: What runs in this process; no attempt should be in flight, because a death uses it up.
        clock: The engine's.
        most_ms: How long to wait at most, in milliseconds.
    """
    begun = clock.monotonic()
    while (clock.monotonic() - begun) * 1_000 < most_ms:
        if (latest is None or latest.has_got_on) and not any(execution.bodies for execution in running()):
            return
        await clock.sleep(LOOK_MS)
