"""An execution as it is shown while it runs, and after: one picture for `start`, `status` and `recover`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.text import Text

from workflow_core.cli.output import COLOURS, Signs, in_colour
from workflow_core.cli.texts import moment_text, one_line, visible
from workflow_core.clock import stored_moment, to_epoch_ms
from workflow_core.models import ErrorInfo
from workflow_core.views.cluster import host_name
from workflow_core.views.wording import remaining, status_of, step_status, took_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from rich.console import RenderableType

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.database.dispatch import DispatchState
    from workflow_core.database.store import StepRecord
    from workflow_core.views.execution_view import ExecutionView

__all__ = ["console", "moment_of", "picture"]

_BEYOND_STEPS = 12
"""Lines of the terminal that are not for steps."""

_LONGEST_CELL = 40


def console(*, on_stderr: bool = False) -> Console:
    """Return rich's console for a stream, without colours where there should be none."""
    import sys  # noqa: PLC0415 - the stream of now, which tests replace

    coloured = in_colour(sys.stderr if on_stderr else sys.stdout)
    return Console(
        stderr=on_stderr,
        no_color=not coloured,
        force_terminal=True if coloured else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def picture(view: ExecutionView, signs: Signs, now: datetime, height: int | None = None) -> RenderableType:
    """Draw an execution.

    Args:
        view: The execution.
        signs: What the terminal can show.
        now: For what remains of waits.
        height: Lines of the terminal; without it all steps are shown.
    """
    return Group(_headline(view, signs, now), *_notes(view, now), Text(), _steps(view, signs, now, height))


def _headline(view: ExecutionView, signs: Signs, now: datetime) -> Text:
    record, status = view.record, status_of(view)
    end = record.completed_at or now
    text = Text()
    text.append(f"{signs.of(status)} {status}", style=f"bold {_style(status)}")
    text.append(f"  {record.workflow_name}", style="bold")
    text.append(f"  {record.execution_id}")
    text.append(f"  {took_text((end - record.started_at).total_seconds() * 1_000)}", style="dim")
    if record.restart_attempt > 1:
        text.append(f"  run {record.restart_attempt}", style="yellow")
    return text


def _notes(view: ExecutionView, now: datetime) -> list[Text]:
    record, notes = view.record, []
    if record.error_data and record.status in {"failed", "panicked"}:
        notes.append(Text(f"  {one_line(ErrorInfo.model_validate_json(record.error_data))}", style=_style("failed")))
    if record.restart_at is not None and record.status == "panicked" and not view.interrupted:
        notes.append(Text(f"  restarts in {remaining(record.restart_at, now)}", style=_style("retrying")))
    if record.deadline_at is not None and not view.at_rest:
        notes.append(Text(f"  times out in {remaining(record.deadline_at, now)}", style="dim"))
    if view.dispatch is not None and not view.at_rest:
        notes += _place(view, view.dispatch, now)
    if view.interrupted:
        notes.append(
            Text(f'  nobody runs it; "workflow resume {record.execution_id}" goes on', style=_style("interrupted"))
        )
    return notes


def _place(view: ExecutionView, dispatch: DispatchState, now: datetime) -> list[Text]:
    """Say where an execution stands that was handed to workers."""
    where = ""
    if dispatch.place == "ready" and dispatch.since is not None:
        waited = took_text((now - dispatch.since).total_seconds() * 1_000)
        where = f", ready for {waited}: no worker has taken it yet"
    elif dispatch.place == "limited":
        key = "" if dispatch.limit_key is None else f", key {visible(dispatch.limit_key)}"
        where = f": it waits for a limit of its workflow{key}"
    elif dispatch.place in {"scheduled", "parked"} and dispatch.until is not None:
        what = "a rate limit lets it begin" if dispatch.place == "scheduled" else "a worker goes on with it"
        where = f": {what} in {remaining(to_epoch_ms(dispatch.until), now)}"
    elif dispatch.place in {"running", "lost"} and view.owner is not None:
        ended = ", which gives no sign of life" if view.is_lost else ""
        where = f", pid {view.owner.pid} on {visible(host_name(view.owner.host))}{ended}"
    priority = f" (priority {dispatch.priority})" if dispatch.priority else ""
    queue = visible(dispatch.queue)
    notes = [Text(f"  queue {queue}{priority}{where}", style="dim")]
    if not dispatch.workers:
        command = f"workflow worker --app MODULE --queue {queue}"
        notes.append(Text(f"  no worker serves this queue: {command}", style=_style("interrupted")))
    return notes


@dataclass(frozen=True)
class _Row:
    status: str
    step_id: str
    shown_status: str
    attempt: str
    began: str
    took: str
    details: Text | str


def _steps(view: ExecutionView, signs: Signs, now: datetime, height: int | None) -> RenderableType:
    steps = list(view.steps.values())
    if not steps:
        return Text("  no step has begun yet" if not view.at_rest else "  no step", style="dim")
    most = len(steps) if height is None else max(height - _BEYOND_STEPS, 3)
    left_out = 0
    if len(steps) > most:
        going_on = [step for step in steps if step.status not in {"completed", "skipped"}]
        rest = [step for step in steps if step.status in {"completed", "skipped"}]
        kept = {step.step_id for step in [*rest[-max(most - len(going_on), 0) :], *going_on][-most:]}
        left_out = len(steps) - len(kept)
        steps = [step for step in steps if step.step_id in kept]
    rows = [_row(step, view, now) for step in steps]
    heads = _Row("", "Step", "Status", "Attempt", "Started", "Took", "Details" if any(r.details for r in rows) else "")
    widths = _widths([heads, *rows])
    lines = [_line(heads, "", widths, dim=True)]
    lines += [_line(row, signs.of(row.status), widths) for row in rows]
    if left_out:
        lines.insert(0, Text(f"{left_out} completed steps are not shown", style="dim"))
    return Group(*lines)


def _widths(rows: Sequence[_Row]) -> dict[str, int]:
    """Return how wide each column is."""
    columns = ("step_id", "shown_status", "attempt", "began", "took")
    return {name: min(max(cell_len(getattr(row, name)) for row in rows), _LONGEST_CELL) for name in columns}


def _line(row: _Row, sign: str, widths: Mapping[str, int], *, dim: bool = False) -> Text:
    """Return a line of the table; what is too long for the terminal is cut at its end."""

    def cell(name: str, value: str, *, right: bool = False) -> str:
        size = widths[name]
        room = " " * (size - min(cell_len(value), size))
        value = set_cell_size(value, min(cell_len(value), size))
        return f"{room}{value}  " if right else f"{value}{room}  "

    style = _style(row.status)
    text = Text(no_wrap=True, overflow="ellipsis", style="dim" if dim else "")
    text.append(f"{sign or ' '} ", style=style)
    text.append(cell("step_id", row.step_id))
    text.append(cell("shown_status", row.shown_status), style=style)
    text.append(cell("attempt", row.attempt, right=True))
    text.append(cell("began", row.began))
    text.append(cell("took", row.took, right=True))
    return text.append(row.details)


def _row(step: StepRecord, view: ExecutionView, now: datetime) -> _Row:
    status = step_status(step, view)
    end = step.completed_at or (now if status in {"running", "sleeping"} else None)
    took = ""
    if step.started_at is not None and end is not None:
        took = took_text((end - step.started_at).total_seconds() * 1_000)
    return _Row(
        status=status,
        step_id=one_line(step.step_id),
        shown_status=status,
        attempt=str(step.attempt) if step.kind == "step" else "",
        began=moment_text(step.started_at, "")[11:],
        took=took,
        details=_details(step, view, status, now),
    )


def _details(step: StepRecord, view: ExecutionView, status: str, now: datetime) -> Text:
    parts = [*_waits(step, status, now), *_circuit(view.circuits.get(step.step_id), now)]
    if step.handled_by:
        parts.append((f"by {one_line(step.handled_by)}", "yellow"))
    if status not in {"completed", "skipped"}:
        last = next((error for step_id, error in reversed(view.errors) if step_id == step.step_id), None)
        if last is not None:
            parts.append((one_line(f"{last.error_type}: {last.error_message}"), _style("failed")))
        elif step.error_message and status == "failed":
            parts.append((one_line(step.error_message), _style("failed")))
    text = Text()
    for part, style in parts:
        text.append("  " if text else "").append(part, style=style)
    return text


def _waits(step: StepRecord, status: str, now: datetime) -> list[tuple[str, str]]:
    if status == "sleeping" and step.wake_time is not None:
        return [(f"{remaining(step.wake_time, now)} left", _style(status))]
    if status == "retrying" and step.next_attempt_at is not None:
        is_due = step.next_attempt_at <= to_epoch_ms(now)
        when = "due" if is_due else f"in {remaining(step.next_attempt_at, now)}"
        return [(f"attempt {step.attempt + 1} {when}", _style(status))]
    return [("sleep", "dim")] if step.kind == "sleep" else []


def _circuit(state: CircuitState | None, now: datetime) -> list[tuple[str, str]]:
    if state is None or (state.status == "closed" and not state.failures):
        return []
    if state.status == "closed":
        return [(f"circuit closed, {state.failures} failed", "dim")]
    if state.status == "half_open":
        return [("circuit half-open", _style("half_open"))]
    if state.reset_time is None or state.reset_time <= to_epoch_ms(now):
        return [("circuit open, probe due", _style("open"))]
    return [(f"circuit open, probe in {remaining(state.reset_time, now)}", _style("open"))]


def _style(status: str) -> str:
    return COLOURS.get(status, "")


def moment_of(milliseconds: int | None) -> str:
    """Return a stored number of milliseconds as local time."""
    return moment_text(stored_moment(milliseconds))
