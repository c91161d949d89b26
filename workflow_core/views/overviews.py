"""All workflows at a glance: what the store knows of them, and what the app defines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workflow_core.arguments import validated_name
from workflow_core.errors import StorageError, WorkflowNotFoundError
from workflow_core.views.saved import saved_description

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from workflow_core.database.store import WorkflowRecord
    from workflow_core.engine import WorkflowEngine
    from workflow_core.models import ExecutionStatus

__all__ = ["Overview", "known_workflows", "read_overview", "read_overviews"]


@dataclass(frozen=True)
class Overview:
    """One workflow.

    Attributes:
        status: ``active`` or ``inactive``.
        created_at: When the store first knew it; ``None`` if it was never started.
        execution_count: How many executions were ever started.
        counts: How many executions there are, by status.
        description: One line about it.
        defined: Whether it can be started by this process.
        problem: Why its database cannot be read; ``None`` if it can.
    """

    name: str
    status: str
    created_at: datetime | None
    last_execution_at: datetime | None
    execution_count: int
    counts: Mapping[ExecutionStatus, int]
    description: str
    defined: bool
    problem: str | None

    def data(self) -> dict[str, object]:
        """Return it as it is printed as JSON."""
        return {
            "name": self.name,
            "status": self.status,
            "execution_count": self.execution_count,
            "executions_by_status": dict(self.counts),
            "last_execution_at": self.last_execution_at,
            "created_at": self.created_at,
            "description": self.description,
            "defined": self.defined,
            "problem": self.problem,
        }


async def known_workflows(engine: WorkflowEngine) -> list[str]:
    """Return the names of all workflows that the store knows or the app defines, sorted."""
    stored = [workflow.name for workflow in await engine.store.list_workflows()]
    return sorted({*stored, *engine.workflow_names()})


async def read_overviews(engine: WorkflowEngine) -> list[Overview]:
    """Read all workflows, sorted by name; one whose database cannot be read hides none of the others."""
    stored = {workflow.name: workflow for workflow in await engine.store.list_workflows()}
    counts, problems = await _counted(engine, stored)
    return [
        _overview(engine, name, stored.get(name), counts, problems)
        for name in sorted({*stored, *engine.workflow_names()})
    ]


async def read_overview(engine: WorkflowEngine, name: str) -> Overview:
    """Read one workflow.

    Raises:
        ValidationError: The name is not acceptable.
        WorkflowNotFoundError: Neither the store nor this process knows it.
    """
    validated_name(name)
    stored = {workflow.name: workflow for workflow in await engine.store.list_workflows()}
    if name not in stored and name not in engine.workflow_names():
        raise WorkflowNotFoundError(f'There is no workflow "{name}" in {engine.store.location()}')
    counts: dict[str, Mapping[ExecutionStatus, int]] = {}
    problems: dict[str, str] = {}
    try:
        counts = {stats.workflow_name: stats.counts for stats in await engine.stats(name)}
    except StorageError as error:
        problems[name] = str(error)
    return _overview(engine, name, stored.get(name), counts, problems)


def _overview(
    engine: WorkflowEngine,
    name: str,
    record: WorkflowRecord | None,
    counts: Mapping[str, Mapping[ExecutionStatus, int]],
    problems: Mapping[str, str],
) -> Overview:
    defined = engine.known_definition(name)
    return Overview(
        name=name,
        status=record.status if record else "active",
        created_at=record.created_at if record else None,
        last_execution_at=record.last_execution_at if record else None,
        execution_count=record.execution_count if record else 0,
        counts=counts.get(name, {}),
        description=defined.description if defined else saved_description(engine, name),
        defined=defined is not None,
        problem=problems.get(name),
    )


async def _counted(
    engine: WorkflowEngine, names: Iterable[str]
) -> tuple[dict[str, Mapping[ExecutionStatus, int]], dict[str, str]]:
    """Return the executions of each workflow by status, and why some cannot be counted."""
    counts: dict[str, Mapping[ExecutionStatus, int]] = {}
    problems: dict[str, str] = {}
    try:
        return {stats.workflow_name: stats.counts for stats in await engine.stats()}, problems
    except StorageError:
        for name in names:
            try:
                counts |= {stats.workflow_name: stats.counts for stats in await engine.stats(name)}
            except StorageError as error:
                problems[name] = str(error)
    return counts, problems
