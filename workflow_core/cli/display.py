"""An execution as it is shown while it runs, and after: one picture for `start`, `status` and `recover`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from workflow_core.cli.output import COLOURS, Signs, in_colour
from workflow_core.cli.texts import moment_text, one_line
from workflow_core.clock import from_epoch_ms, to_epoch_ms
from workflow_core.models import ErrorInfo
from workflow_core.report.scale import duration_text

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import RenderableType

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.cli.reading import ExecutionView
    from workflow_core.database.store import StepRecord

__all__ = ["console", "picture", "remaining", "status_of", "step_status"]

_BEYOND_STEPS = 12
"""Lines of the terminal that are not for steps."""


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


def remaining(until_ms: int, now: datetime) -> str:
    """Return the time until a moment, to the second; to the tenth in the last ten."""
    left = max(until_ms - to_epoch_ms(now), 0)
    return duration_text(round(left, -2) if left < 10_000 else round(left, -3))  # noqa: PLR2004 - as said


def status_of(view: ExecutionView) -> str:
    """Return the status, or that nobody runs it."""
    return "interrupted" if view.interrupted else view.record.status


def step_status(step: StepRecord, view: ExecutionView) -> str:
    """Return the status of a step, or that it was cut off and nobody runs it."""
    return "interrupted" if view.interrupted and step.status == "running" else step.status


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
    passed = max((end - record.started_at).total_seconds(), 0.0)
    text = Text()
    text.append(f"{signs.of(status)} {status}", style=f"bold {_style(status)}")
    text.append(f"  {record.workflow_name}", style="bold")
    text.append(f"  {record.execution_id}")
    text.append(f"  {duration_text(round(passed, 1 if passed < 60 else 0) * 1_000)}", style="dim")  # noqa: PLR2004 - a minute
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
    if view.interrupted:
        notes.append(
            Text(f'  nobody runs it; "workflow resume {record.execution_id}" goes on', style=_style("interrupted"))
        )
    return notes


@dataclass(frozen=True)
class _Row:
    status: str
    step_id: str
    attempt: str
    began: str
    took: str
    details: Text


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
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    table.add_column("")
    table.add_column("Step", overflow="ellipsis", no_wrap=True, max_width=40)
    table.add_column("Status", no_wrap=True)
    table.add_column("Attempt", justify="right")
    table.add_column("Started", no_wrap=True)
    table.add_column("Took", justify="right", no_wrap=True)
    table.add_column("Details", overflow="ellipsis", no_wrap=True, ratio=1)
    for step in steps:
        row = _row(step, view, now)
        table.add_row(
            Text(signs.of(row.status), style=_style(row.status)),
            Text(row.step_id),
            Text(row.status, style=_style(row.status)),
            row.attempt,
            row.began,
            row.took,
            row.details,
        )
    if left_out:
        return Group(Text(f"  {left_out} completed steps are not shown", style="dim"), table)
    return table


def _row(step: StepRecord, view: ExecutionView, now: datetime) -> _Row:
    status = step_status(step, view)
    end = step.completed_at or (now if status in {"running", "sleeping"} else None)
    took = ""
    if step.started_at is not None and end is not None:
        passed = max((end - step.started_at).total_seconds() * 1_000, 0)
        took = duration_text(round(passed, 0 if passed < 1_000 else -2))  # noqa: PLR2004 - a second
    return _Row(
        status=status,
        step_id=one_line(step.step_id),
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
        return [(f"attempt {step.attempt + 1} in {remaining(step.next_attempt_at, now)}", _style(status))]
    return [("sleep", "dim")] if step.kind == "sleep" else []


def _circuit(state: CircuitState | None, now: datetime) -> list[tuple[str, str]]:
    if state is None or (state.status == "closed" and not state.failures):
        return []
    if state.status == "closed":
        return [(f"circuit closed, {state.failures} failed", "dim")]
    if state.status == "half_open":
        return [("circuit half-open", _style("half_open"))]
    probe = "" if state.reset_time is None else f", probe in {remaining(state.reset_time, now)}"
    return [(f"circuit open{probe}", _style("open"))]


def _style(status: str) -> str:
    return COLOURS.get(status, "")


def moment_of(milliseconds: int | None) -> str:
    """Return a stored number of milliseconds as local time."""
    return moment_text(None if milliseconds is None else from_epoch_ms(milliseconds))
