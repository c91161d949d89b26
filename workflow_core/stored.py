"""Executions as the store knows them: their rows, what became of them, and how one is brought back to life."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from workflow_core.arguments import validated_id
from workflow_core.database.store import HistoryEnd
from workflow_core.errors import ExecutionNotFoundError, WorkflowCoreError
from workflow_core.events import ExecutionFailed, ExecutionRestarted
from workflow_core.execution import Execution
from workflow_core.models import TERMINAL_STATUSES, ErrorInfo, ExecutionResult, PanicConfig, RetryConfig
from workflow_core.results import result_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.database.store import ErrorRecord, ExecutionRecord, StepRecord, WholeExecution
    from workflow_core.definition import Definition
    from workflow_core.engine import WorkflowEngine

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["complete_log", "is_at_rest", "load_record", "revive", "stored_result"]

logger = logging.getLogger("workflow_core")


async def load_record(engine: WorkflowEngine, execution_id: str) -> ExecutionRecord:
    """Read an execution's row.

    Raises:
        ValidationError: The id is not acceptable.
        ExecutionNotFoundError: There is no such execution.
    """
    record = await engine.store.load_execution(validated_id(execution_id, engine.settings))
    if record is None:
        raise ExecutionNotFoundError(f'No execution "{execution_id}" in {engine.bare_store.location()}')
    return record


def is_at_rest(record: ExecutionRecord) -> bool:
    """Tell whether nothing happens to an execution any more, unless somebody restarts it."""
    return record.status in TERMINAL_STATUSES or (record.status == "panicked" and record.restart_at is None)


async def stored_result(engine: WorkflowEngine, record: ExecutionRecord) -> ExecutionResult:
    """Return what the store knows of an execution."""
    workflow = engine.store.workflow(record.workflow_name)
    steps, _ = await workflow.load_steps(record.workflow_name, record.execution_id)
    errors = _last_errors(await workflow.load_errors(record.workflow_name, record.execution_id))
    return result_of(record, steps, errors, engine.codec, engine.known_definition(record.workflow_name))


def _last_errors(errors: Sequence[tuple[str, ErrorRecord]]) -> dict[str, ErrorInfo]:
    return {step_id: error.info(step_id) for step_id, error in errors}


async def revive(
    engine: WorkflowEngine, record: ExecutionRecord, *, is_new: bool = False, whole: WholeExecution | None = None
) -> Execution:
    """Return an execution as it was left, ready to be run.

    Args:
        engine: What runs it.
        record: Its row.
        is_new: Whether nothing has happened in it so far.
        whole: The rest of it, if it was read together with its row.

    Raises:
        WorkflowNotFoundError: Its workflow is a function, and none of that name is defined.
        ValidationError: Its workflow is a document that cannot run in this process, or something that was stored cannot
            be read.
    """
    definition = await _definition_of(engine, record)
    engine.configurations.prepare(record.workflow_name)
    steps: dict[str, StepRecord] = {}
    end = HistoryEnd(1, record.started_at)
    errors: Sequence[tuple[str, ErrorRecord]] = ()
    if not is_new:
        await complete_log(engine, record)
    if whole is not None:
        steps, end, errors = whole.steps, whole.end, whole.errors
    elif not is_new:
        store = engine.store.workflow(record.workflow_name)
        steps, end = await store.load_steps(record.workflow_name, record.execution_id)
        errors = await store.load_errors(record.workflow_name, record.execution_id)
    execution = Execution(
        engine,
        definition,
        record,
        record.lease,
        RetryConfig.model_validate_json(record.retry_config),
        PanicConfig.model_validate_json(record.panic_config),
        engine.codec.decode(
            record.input_data, definition.input_type, f'the input of execution "{record.execution_id}"'
        ),
        steps,
        end,
    )
    execution.last_errors = _last_errors(errors)
    if record.restart_attempt > 1 and engine.extensions.wraps_runs:
        await _look_back(engine, execution)
    return execution


async def _look_back(engine: WorkflowEngine, execution: Execution) -> None:
    """Find out when the run of an execution that was restarted began, and whether the execution had failed before."""
    record = execution.record
    workflow = engine.store.workflow(record.workflow_name)
    for event in await workflow.load_events(record.workflow_name, record.execution_id):
        if isinstance(event, ExecutionRestarted):
            execution.run_began_at = event.at
        elif isinstance(event, ExecutionFailed):
            execution.has_failed = True


async def _definition_of(engine: WorkflowEngine, record: ExecutionRecord) -> Definition:
    """Return the workflow as an execution was started with it.

    Raises:
        WorkflowNotFoundError: It is a function, and none of that name is defined.
        ValidationError: It is a document that cannot run in this process; a step type is unknown here, perhaps.
    """
    known = engine.known_definition(record.workflow_name)
    if record.definition_revision is None or (known and known.revision == record.definition_revision):
        return engine.definition(record.workflow_name)
    from workflow_core.definitions.running import compiled_text  # noqa: PLC0415 - they need the engine's parts

    document = await engine.store.workflow(record.workflow_name).load_definition(record.definition_revision)
    return compiled_text(document or "null", f'execution "{record.execution_id}"')


async def complete_log(engine: WorkflowEngine, record: ExecutionRecord) -> None:
    """Complete an execution's log; a log that cannot be completed stops nothing."""
    if engine.log_files is None:
        return
    workflow = engine.store.workflow(record.workflow_name)
    try:
        history = await workflow.load_events(record.workflow_name, record.execution_id)
    except WorkflowCoreError as error:
        logger.warning('The log of execution "%s" cannot be completed: %s', record.execution_id, error)
        return
    engine.log_files.complete(record.workflow_name, record.execution_id, history)
