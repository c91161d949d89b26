"""The wait between two attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflow_core.errors import NonRetryableError, RetryLaterError
from workflow_core.failures import type_names
from workflow_core.timeouts import LONGEST_MS

if TYPE_CHECKING:
    from workflow_core.models import RetryConfig

__all__ = ["backoff_ms", "is_retryable", "wait_ms"]


def backoff_ms(config: RetryConfig, attempt: int) -> int:
    """Return the wait after a failed attempt, in milliseconds.

    Binary exponential back-off without jitter (Metcalfe and Boggs, "Ethernet", CACM 19(7), 1976):
    ``backoff_ms * 2 ** (attempt - 1)``, or ``backoff_ms`` each time, and at most ``max_backoff_ms``.

    Args:
        config: The retry configuration.
        attempt: The attempt that failed, counted from 1.
    """
    wait = config.backoff_ms * 2 ** (attempt - 1) if config.exponential_backoff else config.backoff_ms
    return min(wait, LONGEST_MS if config.max_backoff_ms is None else config.max_backoff_ms)


def wait_ms(config: RetryConfig, attempt: int, error: BaseException) -> int:
    """Return the wait after a failed attempt, in milliseconds: the back-off, or what the error asks for, if longer.

    Args:
        config: The retry configuration.
        attempt: The attempt that failed, counted from 1.
        error: What it failed with.
    """
    wait = backoff_ms(config, attempt)
    asked = error.retry_after_ms if isinstance(error, RetryLaterError) else 0
    return min(max(wait, asked), LONGEST_MS)


def is_retryable(config: RetryConfig, error: BaseException) -> bool:
    """Tell whether an error allows another attempt: it, or a base class of it, is not listed as non-retryable."""
    refused = {NonRetryableError.__name__, *config.non_retryable}
    return refused.isdisjoint(type_names(error))
