"""How a replayed execution ended, compared with its record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pydantic_core

from pytest_workflow.divergence import Divergence
from pytest_workflow.frames import LIBRARIES, is_users
from workflow_core.errors import PanicError, StepFailure

if TYPE_CHECKING:
    from types import TracebackType

    from pytest_workflow.recorded_history import RecordedExecution

__all__ = ["ending_divergence", "has_own_ending"]

_SHOWN = 300


def has_own_ending(record: RecordedExecution) -> bool:
    """Tell whether the handler itself ended the execution, rather than a time-out, a cancellation or nobody yet."""
    if record.status == "completed":
        return True
    ended = record.status in {"failed", "panicked"}
    return ended and _error_type(record) not in {None, "WorkflowTimeoutError"}


def ending_divergence(
    record: RecordedExecution, replayed: RecordedExecution, error: BaseException | None
) -> Divergence | None:
    """Compare the end of a replay with the record.

    Args:
        record: The record.
        replayed: What the replay has left in its database.
        error: What ended the replay, if an error did.
    """
    if not has_own_ending(record):
        return None
    if replayed.status == "completed":
        if record.status != "completed":
            what = "today's code completes an execution that failed"
            return Divergence("ending", what, _ending(record), _ending(replayed))
        if record.output != replayed.output:
            what = "today's code makes another output of the same results"
            return Divergence("output", what, _ending(record), _ending(replayed))
        return None
    if record.status != "completed" and (_error_type(record) == _error_type(replayed) or _is_recorded(error, record)):
        return None
    outside = isinstance(error, PanicError) and error.step_id is None
    original = error.original_error if isinstance(error, StepFailure) and error.original_error else error
    site = _users_line(original.__traceback__) if original is not None else ""
    if outside or not isinstance(error, StepFailure):
        what = "the handler ends the execution with an error today outside every step"
        return Divergence("raises", what, _ending(record), _ending(replayed), site=site)
    what = "a step ends the execution with an error today"
    return Divergence("ending", what, _ending(record), _ending(replayed), site=site)


def _is_recorded(error: BaseException | None, record: RecordedExecution) -> bool:
    """Tell whether an error is that of a step that failed in the record: built again, it may have another class."""
    failed = {step.step_id for step in record.steps if step.status == "failed"}
    return isinstance(error, StepFailure) and error.step_id in failed


def _users_line(traceback: TracebackType | None) -> str:
    """Return, as ``file:line``, the innermost line of a traceback in the user's own code; empty if there is none."""
    found = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if is_users(traceback.tb_frame) and not file.startswith(LIBRARIES):
            found = f"{file}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found


def _error_type(record: RecordedExecution) -> str | None:
    return record.error.get("type") if isinstance(record.error, dict) else None


def _ending(record: RecordedExecution) -> str:
    if record.status == "completed":
        text = pydantic_core.to_json(record.output).decode()
        return f"completed with {text if len(text) <= _SHOWN else text[:_SHOWN] + '…'}"
    error = record.error if isinstance(record.error, dict) else {}
    return f"{record.status} with {error.get('type')}: {error.get('message')}"
