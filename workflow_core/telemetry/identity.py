"""The ids of an execution's trace and spans, which every process derives for itself from what identifies it."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from workflow_core.clock import EPOCH

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Identified", "derived_span_id", "derived_trace_id", "nanoseconds", "trace_id_of"]

_MICROSECOND = timedelta(microseconds=1)


class Identified(Protocol):
    """What tells an execution from all others: a result, a summary, or what plugins are told of a run."""

    @property
    def workflow_name(self) -> str:
        """The workflow."""

    @property
    def execution_id(self) -> str:
        """The execution."""

    @property
    def started_at(self) -> datetime:
        """When it was started; an id that is used again after a cleanup has another moment."""


def trace_id_of(execution: Identified) -> str:
    """Return the id of an execution's trace, as tracing tools show it: 32 hexadecimal digits.

    Args:
        execution: An `ExecutionResult` or an `ExecutionSummary`.
    """
    return f"{derived_trace_id(execution):032x}"


def derived_trace_id(execution: Identified) -> int:
    """Return the id of an execution's trace: the first 128 bits of a SHA-256, so samplers may take it for random."""
    return _derived(16, execution.workflow_name, execution.execution_id, nanoseconds(execution.started_at))


def derived_span_id(trace_id: int, *place: str | int) -> int:
    """Return the id of a span.

    Args:
        trace_id: The execution's, by `derived_trace_id`.
        place: What tells the span from all others of the execution.
    """
    return _derived(8, trace_id, *place)


def _derived(size: int, *parts: str | int) -> int:
    text = "\0".join(map(str, parts))  # no part can hold a null character
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size]) or 1


def nanoseconds(moment: datetime) -> int:
    """Return a moment as OpenTelemetry counts it, in nanoseconds since 1970."""
    return (moment - EPOCH) // _MICROSECOND * 1_000
