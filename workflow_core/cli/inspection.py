"""Everything known of an execution, printed in sections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflow_core.cli.display import moment_of
from workflow_core.cli.output import Signs, in_colour, print_line, print_table, styled, styled_status, width
from workflow_core.cli.texts import moment_text, one_line, shortened, visible
from workflow_core.cli.timeline import draw
from workflow_core.report.scale import duration_text
from workflow_core.views.cluster import host_name
from workflow_core.views.json_text import json_text
from workflow_core.views.wording import status_of, step_status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.database.dispatch import DispatchState
    from workflow_core.events import Event
    from workflow_core.models import ExecutionResult
    from workflow_core.views.execution_view import ExecutionView

__all__ = ["print_inspection"]

_LONGEST_RESULT = 60
_LABEL_WIDTH = 12


def print_inspection(
    result: ExecutionResult, view: ExecutionView, events: Sequence[Event], *, with_tracebacks: bool
) -> None:
    """Print an execution.

    Args:
        result: Its result.
        view: Its rows.
        events: Its history.
        with_tracebacks: Whether the tracebacks of errors are printed.
    """
    record = view.record
    status = status_of(view)
    facts = [
        ("Execution", record.execution_id),
        ("Workflow", record.workflow_name),
        ("Status", f"{Signs().of(status)} {styled_status(status)}"),
        ("Started", moment_text(record.started_at)),
    ]
    if record.completed_at is not None:
        passed = (record.completed_at - record.started_at).total_seconds() * 1_000
        facts += [("Completed", moment_text(record.completed_at)), ("Duration", duration_text(round(passed, 1)))]
    if record.restart_attempt > 1:
        facts.append(("Restarts", str(record.restart_attempt - 1)))
    if record.restart_at is not None:
        facts.append(("Restart due", moment_of(record.restart_at)))
    if record.deadline_at is not None:
        facts.append(("Times out", moment_of(record.deadline_at)))
    facts.append(("Owner", _owner(view)))
    if view.dispatch is not None:
        facts.append(("Queue", _queue(view.dispatch)))
    if result.error is not None:
        first, *more = str(result.error).strip().expandtabs(2).splitlines()
        facts.append(("Error", styled(visible(first), fg="red")))
        facts += [("", styled(visible(line), fg="red")) for line in more]
    for name, value in facts:
        print_line(f"{_label(name)} {value}")
    _print_value("Input", result.input)
    _print_value("Output", result.output)
    _print_steps(result, view)
    _print_errors(view, with_tracebacks=with_tracebacks)
    _print_circuits(view)
    if events:
        _heading("Timeline")
        for line in draw(events, width(), Signs(), in_colour=in_colour()):
            print_line(line)


def _heading(text: str) -> None:
    print_line()
    print_line(styled(text, bold=True))


def _label(name: str) -> str:
    return styled(f"{name}:".ljust(_LABEL_WIDTH), bold=True) if name else " " * _LABEL_WIDTH


def _owner(view: ExecutionView) -> str:
    if view.owner is None:
        return "nobody" if not view.at_rest else "nobody any more"
    host = visible(host_name(view.owner.host))
    return f"pid {view.owner.pid} on {host}, {view.owner_state}"


def _queue(dispatch: DispatchState) -> str:
    key = "" if dispatch.limit_key is None else f", limit key {visible(dispatch.limit_key)}"
    nobody = "" if dispatch.workers or dispatch.place == "ended" else ", no worker serves it"
    return f"{visible(dispatch.queue)}, priority {dispatch.priority}{key}, {dispatch.place}{nobody}"


def _print_value(name: str, value: object) -> None:
    if value is None:
        return
    text = json_text(value)
    if len(text) <= width() - _LABEL_WIDTH - 1:
        print_line(f"{_label(name)} {visible(text)}")
    else:
        _heading(name)
        print_line(visible(json_text(value, indent=2)))


def _print_steps(result: ExecutionResult, view: ExecutionView) -> None:
    if not view.steps:
        return
    _heading("Steps")
    rows = []
    for step_id, step in view.steps.items():
        took = ""
        if step.started_at is not None and step.completed_at is not None:
            took = duration_text(round((step.completed_at - step.started_at).total_seconds() * 1_000, 1))
        value = result.steps[step_id].result
        shown = "" if value is None else shortened(json_text(value), _LONGEST_RESULT)
        details = [f"by {step.handled_by}"] if step.handled_by else []
        if step.kind == "sleep":
            details.append(f"sleep of {duration_text(float(step.duration_ms or 0))}")
            if step.wake_time is not None and step.status == "sleeping":
                details.append(f"until {moment_of(step.wake_time)}")
        if step.status == "retrying" and step.next_attempt_at is not None:
            details.append(f"next attempt {moment_of(step.next_attempt_at)}")
        if step.status == "failed" and step.error_message:
            details.append(one_line(step.error_message))
        rows.append(
            [
                step_id,
                step_status(step, view),
                "" if step.kind == "sleep" else step.attempt,
                moment_text(step.started_at)[11:] or "-",
                took,
                shown,
                ", ".join(details),
            ]
        )
    print_table(["Step", "Status", "Attempt", "Started", "Took", "Result", "Details"], rows)


def _print_errors(view: ExecutionView, *, with_tracebacks: bool) -> None:
    if not view.errors:
        return
    _heading("Errors")
    print_table(
        ["Step", "Attempt", "At", "Error"],
        [
            [step_id, error.attempt, moment_of(error.timestamp), f"{error.error_type}: {error.error_message}"]
            for step_id, error in view.errors
        ],
    )
    if with_tracebacks:
        for step_id, error in view.errors:
            _heading(f"Traceback of {visible(step_id)}, attempt {error.attempt}")
            print_line(visible(error.error_stack or "none was stored"))


def _print_circuits(view: ExecutionView) -> None:
    if not view.circuits:
        return
    _heading("Circuit breakers")
    print_table(
        ["Step", "Status", "Failures", "Last failure", "Probe from"],
        [
            [step_id, state.status, state.failures, moment_of(state.last_failure_time), moment_of(state.reset_time)]
            for step_id, state in view.circuits.items()
        ],
    )
