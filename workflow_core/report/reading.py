"""Stored rows and texts as a page shows them: indented, and cut where they are too long."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from workflow_core.models import ErrorInfo
from workflow_core.report.model import ErrorEntry, EventEntry, ExecutionEntry, StepEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workflow_core.database.store import ErrorRecord, ExecutionRecord, StepRecord
    from workflow_core.events import Event

__all__ = ["LONGEST_TEXT", "MOST_EVENTS", "entry_of", "error_entries", "readable_json", "shortened"]

MOST_EVENTS = 2_000
"""The further events of one execution are left out, and counted."""

LONGEST_TEXT = 10_000
"""Longer inputs, outputs, results and tracebacks are cut, in characters."""


def readable_json(text: str | None) -> str | None:
    """Return stored JSON indented, and whatever else is stored, such as a damaged result, as it is."""
    if text is None:
        return None
    with contextlib.suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return shortened(text)


def shortened(text: str) -> str:
    """Return a text without what is beyond `LONGEST_TEXT`."""
    beyond = len(text) - LONGEST_TEXT
    return f"{text[:LONGEST_TEXT]}\n... {beyond:,} more characters" if beyond > 0 else text


def entry_of(
    record: ExecutionRecord,
    steps: Iterable[StepRecord],
    errors: Iterable[tuple[str, ErrorRecord]],
    events: Sequence[Event],
) -> ExecutionEntry:
    """Describe an execution by its rows.

    Args:
        record: The execution.
        steps: Its steps.
        errors: Its errors, oldest first, each with its step id.
        events: Its history.
    """
    return ExecutionEntry(
        execution_id=record.execution_id,
        workflow_name=record.workflow_name,
        status=record.status,
        input=readable_json(record.input_data),
        output=readable_json(record.output_data),
        error=shortened(str(ErrorInfo.model_validate_json(record.error_data))) if record.error_data else None,
        events=tuple(EventEntry.of(event) for event in events[:MOST_EVENTS]),
        left_out=max(len(events) - MOST_EVENTS, 0),
        steps=tuple(
            StepEntry(step_id=step.step_id, status=step.status, result=readable_json(step.result_data))
            for step in steps
        ),
        errors=error_entries(errors),
    )


def error_entries(errors: Iterable[tuple[str, ErrorRecord]]) -> tuple[ErrorEntry, ...]:
    """Describe the errors of steps by their rows, each given with its step id."""
    return tuple(
        ErrorEntry(
            step_id=step_id,
            attempt=error.attempt,
            type=error.error_type,
            message=shortened(error.error_message),
            stack=error.error_stack and shortened(error.error_stack),
        )
        for step_id, error in errors
    )
