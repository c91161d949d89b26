"""Executions as JSON, for scripts."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from workflow_core.clock import stored_moment
from workflow_core.report.model import EventEntry
from workflow_core.views.cluster import host_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.database.store import ErrorRecord
    from workflow_core.events import Event
    from workflow_core.models import ExecutionResult
    from workflow_core.views.execution_view import ExecutionView

__all__ = ["error_data", "event_data", "execution_data", "inspection_data"]


def execution_data(result: ExecutionResult, view: ExecutionView | None = None) -> dict[str, object]:
    """Return an execution: the fields of its result, and with a view what it waits for and who runs it."""
    data: dict[str, object] = {name: getattr(result, name) for name in type(result).model_fields if name != "steps"}
    steps: dict[str, dict[str, object]] = {
        step_id: {name: getattr(step, name) for name in type(step).model_fields}
        for step_id, step in result.steps.items()
    }
    if view is not None:
        data["interrupted"] = view.interrupted
        data["restart_at"] = stored_moment(view.record.restart_at)
        data["deadline_at"] = stored_moment(view.record.deadline_at)
        for step_id, record in view.steps.items():
            if step_id in steps:
                steps[step_id] |= {
                    "kind": record.kind,
                    "handled_by": record.handled_by,
                    "wake_at": stored_moment(record.wake_time),
                    "next_attempt_at": stored_moment(record.next_attempt_at),
                }
        data["owner"] = _owner(view)
        data["dispatch"] = None if view.dispatch is None else asdict(view.dispatch)
        data["circuit_breakers"] = {step_id: _circuit(state) for step_id, state in view.circuits.items()}
    data["steps"] = steps
    return data


def inspection_data(result: ExecutionResult, view: ExecutionView, events: Sequence[Event]) -> dict[str, object]:
    """Return everything known of an execution."""
    return {
        **execution_data(result, view),
        "errors": [error_data(step_id, error) for step_id, error in view.errors],
        "events": [event_data(event) for event in events],
    }


def error_data(step_id: str, error: ErrorRecord) -> dict[str, object]:
    """Return an error of a step."""
    return {
        "step_id": step_id,
        "attempt": error.attempt,
        "type": error.error_type,
        "message": error.error_message,
        "at": stored_moment(error.timestamp),
        "traceback": error.error_stack,
    }


def event_data(event: Event) -> dict[str, object]:
    """Return an event."""
    entry = EventEntry.of(event)
    named: dict[str, object] = {"seq": entry.seq, "at": entry.at, "event": entry.type}
    if entry.step_id is not None:
        named["step_id"] = entry.step_id
    if entry.attempt is not None:
        named["attempt"] = entry.attempt
    return {**named, **entry.details}


def _owner(view: ExecutionView) -> dict[str, object] | None:
    if view.owner is None:
        return None
    return {"host": host_name(view.owner.host), "pid": view.owner.pid, "state": view.owner_state}


def _circuit(state: CircuitState) -> dict[str, object]:
    return {"status": state.status, "failures": state.failures, "probe_at": stored_moment(state.reset_time)}
