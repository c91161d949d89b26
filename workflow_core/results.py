"""The public result of an execution, made of its rows."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from workflow_core.errors import WorkflowCoreError
from workflow_core.models import TERMINAL_STATUSES, ErrorInfo, ExecutionResult, StepResult

if TYPE_CHECKING:
    from workflow_core.database.store import ExecutionRecord, StepRecord
    from workflow_core.definition import Definition
    from workflow_core.serialization import Codec

__all__ = ["result_of"]


def result_of(
    record: ExecutionRecord,
    steps: dict[str, StepRecord],
    errors: dict[str, ErrorInfo],
    codec: Codec,
    definition: Definition | None,
) -> ExecutionResult:
    """Build the public result from the rows.

    Args:
        record: The execution's row.
        steps: Its steps' rows.
        errors: The last error of each step that met one.
        codec: Reads the stored values.
        definition: The workflow, whose declared types its input and output are read as; ``None`` if it is unknown here.
    """
    make_steps = functools.partial(_step_results, steps, errors, codec)
    fields = {
        "execution_id": record.execution_id,
        "workflow_name": record.workflow_name,
        "status": record.status,
        "input": _read(codec, record.input_data, definition.input_type if definition else None),
        "output": _read(codec, record.output_data, definition.returns if definition else None),
        "error": ErrorInfo.model_validate_json(record.error_data) if record.error_data else None,
        "started_at": record.started_at,
        "completed_at": record.completed_at,
        "restart_attempt": record.restart_attempt,
    }
    if record.status in TERMINAL_STATUSES:  # nothing changes in its steps any more
        return ExecutionResult.with_steps_later(make_steps, **fields)
    return ExecutionResult.trusted(**fields, steps=make_steps())


def _step_results(steps: dict[str, StepRecord], errors: dict[str, ErrorInfo], codec: Codec) -> dict[str, StepResult]:
    return {
        step.step_id: StepResult.trusted(
            step_id=step.step_id,
            status=step.status,
            result=codec.decode_for_display(step.result_data),
            error=(errors.get(step.step_id) or ErrorInfo(type="Error", message=step.error_message))
            if step.error_message is not None
            else None,
            attempt=step.attempt,
            started_at=step.started_at,
            completed_at=step.completed_at,
        )
        for step in steps.values()
    }


def _read(codec: Codec, text: str | None, declared: Any) -> Any:  # noqa: ANN401 - what was stored
    try:
        return codec.decode(text, declared)
    except WorkflowCoreError:
        return codec.decode_for_display(text)
