"""The latest log lines of an execution, of a workflow or of all, from log files or from a stored history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflow_core.database.directory import DirectoryStore
from workflow_core.logs import event_line, parse_line
from workflow_core.stored import load_record
from workflow_core.views.log_reading import LogFilter, daily_logs, latest_lines

if TYPE_CHECKING:
    from datetime import datetime

    from workflow_core.engine import WorkflowEngine
    from workflow_core.logs import Level, LogLine

__all__ = ["execution_log", "workflow_log"]


async def execution_log(
    engine: WorkflowEngine, execution_id: str, *, level: Level = "debug", since: datetime | None = None, most: int = 500
) -> list[LogLine]:
    """Return the latest lines of an execution's log, oldest first; without a file, they are made of its history.

    Args:
        engine: Whose store is read.
        execution_id: The execution.
        level: The least important level that is shown.
        since: From this moment on.
        most: How many lines at most.

    Raises:
        ExecutionNotFoundError: There is no such execution.
    """
    record = await load_record(engine, execution_id)
    wanted = LogFilter(since, level, record.execution_id)
    store = engine.bare_store
    if isinstance(store, DirectoryStore):
        path = store.layout.execution_log(record.workflow_name, record.execution_id)
        if path.exists():
            return [line for line, _ in latest_lines([path], wanted, most)]
    events = await engine.store.workflow(record.workflow_name).load_events(record.workflow_name, record.execution_id)
    lines = [line for line in (parse_line(event_line(event)) for event in events) if line is not None]
    return [line for line in lines if wanted.admits(line)][-most:] if most else []


async def workflow_log(
    engine: WorkflowEngine,
    workflow: str | None = None,
    *,
    level: Level = "debug",
    since: datetime | None = None,
    most: int = 500,
) -> list[LogLine]:
    """Return the latest lines of the daily logs of a workflow, or of all workflows, oldest first.

    Args:
        engine: Whose store is read; one without a runtime directory has no logs.
        workflow: The workflow; ``None`` for all.
        level: The least important level that is shown.
        since: From this moment on.
        most: How many lines at most.
    """
    store = engine.bare_store
    if not isinstance(store, DirectoryStore):
        return []
    names = [workflow] if workflow is not None else [record.name for record in await store.list_workflows()]
    wanted = LogFilter(since, level)
    found: list[LogLine] = []
    by_day = daily_logs(store.layout, names, since)
    for day in sorted({path.stem for path in by_day}, reverse=True):
        lines = latest_lines([path for path in by_day if path.stem == day], wanted, most - len(found))
        found = [line for line, _ in lines] + found
        if len(found) >= most:
            break
    return found
