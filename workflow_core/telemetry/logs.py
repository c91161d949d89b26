"""Log records that name the span in which they were made."""

from __future__ import annotations

import logging
from typing import Final

from opentelemetry import trace

__all__ = ["TRACE_FIELDS", "trace_fields"]


def trace_fields() -> dict[str, str]:
    """Return the ids of the current trace and span in hexadecimal digits, named as OpenTelemetry names them in logs."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}


class _TraceFields(logging.Filter):
    """Gives records the attributes ``trace_id`` and ``span_id``, unless they have them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass."""
        for name, value in trace_fields().items():
            record.__dict__.setdefault(name, value)
        return True


TRACE_FIELDS: Final = _TraceFields()
"""Belongs on the engine's logger; those of workflows are asked for by the hook ``log_fields``."""
