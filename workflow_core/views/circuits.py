"""The circuit breakers of all workflows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflow_core.clock import stored_moment
from workflow_core.errors import StorageError

if TYPE_CHECKING:
    from datetime import datetime

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.engine import WorkflowEngine
    from workflow_core.models import CircuitStatus

__all__ = ["CircuitView", "read_circuits"]


@dataclass(frozen=True)
class CircuitView:
    """The circuit breaker of one step, as it is stored.

    Attributes:
        failures: Consecutive failures, over all executions.
        last_failure_at: When the last one happened.
        probe_at: From when an open circuit lets one attempt through.
        probing_execution: The execution that makes this attempt.
    """

    workflow_name: str
    step_id: str
    status: CircuitStatus
    failures: int
    last_failure_at: datetime | None
    probe_at: datetime | None
    probing_execution: str | None

    @classmethod
    def of(cls, workflow_name: str, step_id: str, state: CircuitState) -> CircuitView:
        """Describe a stored state."""
        return cls(
            workflow_name,
            step_id,
            state.status,
            state.failures,
            stored_moment(state.last_failure_time),
            stored_moment(state.reset_time),
            state.probe_execution_id,
        )

    def data(self) -> dict[str, object]:
        """Return it as it is printed as JSON."""
        return dict(vars(self))


async def read_circuits(
    engine: WorkflowEngine, workflow: str | None = None
) -> tuple[list[CircuitView], dict[str, str]]:
    """Read the circuits of all workflows, or of one, sorted by workflow and step.

    Returns:
        The circuits, and why those of some workflows cannot be read.
    """
    names: list[str] = [workflow] if workflow is not None else []
    try:
        circuits, problems = await engine.store.load_circuits(workflow), dict[str, str]()
    except StorageError:
        circuits, problems = {}, {}
        if workflow is None:
            names = [record.name for record in await engine.store.list_workflows()]
        for name in names:  # one database that cannot be read hides none of the others
            try:
                circuits |= await engine.store.load_circuits(name)
            except StorageError as error:
                problems[name] = str(error)
    return [
        CircuitView.of(*place, state) for place, state in sorted(circuits.items(), key=lambda item: item[0])
    ], problems
