"""When a job of an execution is tried again that could not be done."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import procrastinate

from workflow_core.errors import WorkflowCoreError

if TYPE_CHECKING:
    from procrastinate.jobs import Job

__all__ = ["NotDefinedHereError", "TriedAgain"]

_FIRST_NOT_DEFINED_MS: Final = 500
_LONGEST_NOT_DEFINED_MS: Final = 10_000
"""After what time another worker is to try an execution whose workflow this one does not know: first, and at most."""

_NOT_SOONER: Final = 0.5
"""The least part of that time. It is drawn: who looks at regular intervals would be the first one each time."""

_AGAIN_MS: Final = 1_000
"""After what time an execution is tried again that could not be begun for another reason."""


class NotDefinedHereError(WorkflowCoreError):
    """A job's workflow is not defined in this process."""


class TriedAgain(procrastinate.BaseRetryStrategy):
    """No job of an execution is ever given up: the execution itself knows when it has failed."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> procrastinate.RetryDecision:
        """Return when a job is tried again."""
        if not isinstance(exception, NotDefinedHereError):
            return procrastinate.RetryDecision(retry_in={"milliseconds": _AGAIN_MS})
        longest = min(_FIRST_NOT_DEFINED_MS * 2 ** min(job.attempts, 10), _LONGEST_NOT_DEFINED_MS)
        drawn = random.uniform(_NOT_SOONER, 1)  # noqa: S311 - it hides nothing
        return procrastinate.RetryDecision(retry_in={"milliseconds": round(longest * drawn)})
