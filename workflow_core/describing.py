"""What plugins are told of a run of a workflow's handler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from workflow_core.events import ExecutionRecovered, ExecutionRestarted, ExecutionStarted
from workflow_core.hookspecs import Run, UnfinishedStep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workflow_core.events import Event
    from workflow_core.execution import Execution

__all__ = ["described"]

_BEGINNINGS: Final[dict[type[Event], Literal["started", "recovered", "restarted"]]] = {
    ExecutionStarted: "started",
    ExecutionRecovered: "recovered",
    ExecutionRestarted: "restarted",
}


def described(execution: Execution) -> Run:
    """Describe the run that is about to begin in this process, or to go on in it."""
    return Run(
        execution.definition.name,
        execution.execution_id,
        execution.restart_attempt,
        execution.record.started_at,
        execution.run_began_at,
        _BEGINNINGS[type(execution.begun_by)],
        execution.status == "panicked",
        execution.has_failed,
        tuple(_unfinished(execution)),
        execution.now,
    )


def _unfinished(execution: Execution) -> Iterator[UnfinishedStep]:
    for step in execution.steps.values():
        if step.started_at is None or step.started_seq is None:
            continue
        if step.kind == "sleep" and step.status == "sleeping":
            yield UnfinishedStep(step.step_id, "sleep", step.attempt, step.started_at)
        elif step.kind == "step" and step.status == "running" and step.error_message is None:
            yield UnfinishedStep(step.step_id, "step", step.attempt, step.started_at)
