"""What the commands read of a store; reading never writes, and never keeps a writer waiting."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from workflow_core.arguments import EXECUTION_ID
from workflow_core.cli.failures import NOT_FOUND, USAGE, Failure, did_you_mean
from workflow_core.errors import StorageError
from workflow_core.views.overviews import known_workflows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflow_core.database.store import ExecutionRecord
    from workflow_core.engine import WorkflowEngine

__all__ = ["find_execution", "require_workflow"]

_UUID_LENGTH = 36
_SHORTEST_PREFIX = 4
_LIKELY = 300


async def find_execution(engine: WorkflowEngine, text: str, *, changes_it: bool = False) -> ExecutionRecord:
    """Return the execution of an id, or of the only id that begins with a text.

    A part of a UUID is enough everywhere. A business id may be the beginning of another one (``order-1``,
    ``order-10``), so where something is changed it has to be whole.

    Args:
        engine: Whose store is searched.
        text: The id, or the first 4 or more characters of it.
        changes_it: Whether the execution is going to be changed.

    Raises:
        Failure: There is none, or more than one.
    """
    record = await engine.store.load_execution(text) if EXECUTION_ID.fullmatch(text) else None
    if record is not None:
        return record
    found = []
    if EXECUTION_ID.fullmatch(text) and len(text) >= _SHORTEST_PREFIX:
        found = await engine.store.find_execution_ids(text, 6)
    if changes_it:
        found = [execution_id for execution_id in found if _is_uuid(execution_id)] if _is_hexadecimal(text) else []
    if len(found) > 1:
        more = ", ..." if len(found) > 5 else ""  # noqa: PLR2004 - one more than is shown
        raise Failure(f'"{text}" begins several execution ids: {", ".join(found[:5])}{more}; write more of it', USAGE)
    record = await engine.store.load_execution(found[0]) if found else None
    if record is not None:
        return record
    advice = did_you_mean(text, await _likely_ids(engine, text))
    if not advice:
        advice = '; "workflow status --workflow NAME" lists those of a workflow'
    raise Failure(f'There is no execution "{text}" in {engine.store.location()}{advice}', NOT_FOUND)


async def _likely_ids(engine: WorkflowEngine, text: str) -> list[str]:
    start = re.match(r"[A-Za-z0-9._:-]{0,3}", text)
    alike = await engine.store.find_execution_ids(start[0], _LIKELY) if start and start[0] else []
    latest: list[str] = []
    with contextlib.suppress(StorageError):  # a database that cannot be read is not what was asked for
        latest = [execution.execution_id for execution in await engine.list_executions(limit=_LIKELY)]
    return [*alike, *latest]


def _is_uuid(execution_id: str) -> bool:
    return len(execution_id) == _UUID_LENGTH and execution_id.count("-") == 4 and _is_hexadecimal(execution_id)  # noqa: PLR2004


def _is_hexadecimal(text: str) -> bool:
    return re.fullmatch(r"[0-9a-fA-F-]+", text) is not None


async def require_workflow(engine: WorkflowEngine, name: str, advice: str = "") -> None:
    """Say so if there is no such workflow.

    Args:
        engine: Whose workflows are meant.
        name: The workflow.
        advice: What else can be done about it.

    Raises:
        Failure: There is none.
    """
    known = await known_workflows(engine)
    if name not in known:
        raise Failure(
            f'There is no workflow "{name}" in {engine.store.location()}{did_you_mean(name, known)}{_listed(known)}'
            f"{advice}",
            NOT_FOUND,
        )


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    most = 10
    shown = ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")
    return f" (there are: {shown})" if listed else " (there are none)"
