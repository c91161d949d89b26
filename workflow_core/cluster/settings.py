"""The settings of a worker."""

from __future__ import annotations

from pydantic import Field

from workflow_core.database.dispatch import MISSED_HEARTBEATS
from workflow_core.models import Model, WholeNumber
from workflow_core.timeouts import LONGEST_MS

__all__ = ["WorkerSettings"]


class WorkerSettings(Model):
    """What can be set for a worker.

    Attributes:
        queues: The queues whose executions it runs.
        concurrency: How many executions it runs at once.
        poll_ms: How often it looks for work when nothing is told to it, in milliseconds. Work is announced at once
            (``LISTEN``), so this is how late it comes when an announcement is lost.
        heartbeat_ms: How often it gives a sign of life, in milliseconds. Executions of a worker that has given none for
            three times as long are run by others.
        rest_ms: An execution that sleeps, backs off, or waits for its restart for this long at least, in milliseconds,
            is let go of, and a worker goes on with it when it is due.
        grace_ms: How long running executions may go on after the worker was told to stop, in milliseconds; those that
            have not ended by then are handed to other workers.
    """

    queues: tuple[str, ...] = Field(default=("default",), min_length=1)
    concurrency: WholeNumber = Field(default=10, ge=1, le=10_000)
    poll_ms: WholeNumber = Field(default=1_000, ge=10, le=LONGEST_MS)
    heartbeat_ms: WholeNumber = Field(default=10_000, ge=100, le=LONGEST_MS)
    rest_ms: WholeNumber = Field(default=2_000, ge=0, le=LONGEST_MS)
    grace_ms: WholeNumber = Field(default=10_000, ge=0, le=LONGEST_MS)

    @property
    def stalled_seconds(self) -> float:
        """After how many seconds without a sign of life a worker counts as dead."""
        return self.heartbeat_ms * MISSED_HEARTBEATS / 1_000
