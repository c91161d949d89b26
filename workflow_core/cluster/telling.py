"""What a worker tells in its log of the executions that it runs, and of those that it cannot run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from workflow_core.clock import from_epoch_ms
from workflow_core.errors import LeaseLostError
from workflow_core.views.wording import took_text

if TYPE_CHECKING:
    from workflow_core.clock import Clock
    from workflow_core.database.dispatch import Claim, ClaimKind
    from workflow_core.running import Active

__all__ = ["Teller"]

logger = logging.getLogger("workflow_core")

_BEGINNINGS: Final[dict[ClaimKind, str]] = {
    "begun": "begins",
    "woken": "goes on",
    "abandoned": "goes on, which another worker has left",
}
_GIVEN_BACK: Final = "goes on, which another worker has given back"

_PAUSE_SECONDS: Final = 600
"""How long the log says nothing more of a workflow that is not defined here."""


class Teller:
    """Tells what happens to executions on a worker.

    Args:
        clock: Tells when enough time has passed to say something again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told_at: dict[str, float] = {}
        self._left: dict[str, set[str]] = {}

    def begins(self, claim: Claim) -> None:
        """Say that the worker begins an execution, or goes on with it."""
        record = claim.record
        is_given_back = claim.kind == "abandoned" and record.owner_id is None
        logger.info(
            'Execution "%s" of workflow "%s" %s, from queue %s',
            record.execution_id,
            record.workflow_name,
            _GIVEN_BACK if is_given_back else _BEGINNINGS[claim.kind],
            record.queue,
        )

    def ends(self, active: Active, began: float) -> None:
        """Say what has become of an execution when the worker has done with it.

        Args:
            active: The execution.
            began: When the worker began it, in seconds of its clock's monotonic time.
        """
        if not logger.isEnabledFor(logging.INFO):
            return
        record = active.execution.record
        took = took_text((self._clock.monotonic() - began) * 1_000)

        status = active.execution.status if active.final.result is None else active.final.result.status
        if active.parked_until is not None:
            what = f"waits until {from_epoch_ms(active.parked_until):%Y-%m-%d %H:%M:%S} UTC, and leaves its place"
        elif isinstance(active.final.error, LeaseLostError):
            what = "is another worker's now"
        elif status in {"completed", "failed", "panicked"}:
            what = f"has {status}"
        elif status == "cancelled":
            what = "was cancelled"
        else:
            what = "is given back"
        logger.info(
            'Execution "%s" of workflow "%s" %s, after %s', record.execution_id, record.workflow_name, what, took
        )

    def is_unknown(self, execution_id: str, workflow_name: str) -> None:
        """Say that a workflow is not defined here: at once the first time, and then how many wait, now and then."""
        left = self._left.setdefault(workflow_name, set())
        left.add(execution_id)
        now, told_at = self._clock.monotonic(), self._told_at.get(workflow_name)
        if told_at is not None and now - told_at < _PAUSE_SECONDS:
            return
        waiting = f'Execution "{execution_id}" waits' if len(left) == 1 else f"{len(left)} executions wait"
        logger.error(
            '%s for a worker that knows the workflow "%s"; it is not defined in this process: begin one with the --app '
            "that defines it",
            waiting,
            workflow_name,
        )
        self._told_at[workflow_name] = now
        left.clear()
