"""The names of the attributes of spans and metrics, in the style of OpenTelemetry's semantic conventions."""

from __future__ import annotations

from typing import Final

__all__ = [
    "BACKOFF_DURATION",
    "CIRCUIT_STATE",
    "ERROR_TYPE",
    "EXECUTION_ID",
    "EXECUTION_STATUS",
    "HANDLER",
    "PANIC_INDICATOR",
    "RUN_ATTEMPT",
    "RUN_OUTCOME",
    "SLEEP_DURATION",
    "STEP_ATTEMPT",
    "STEP_ID",
    "STEP_OUTCOME",
    "WORKFLOW_NAME",
]

WORKFLOW_NAME: Final = "workflow.name"
EXECUTION_ID: Final = "workflow.execution.id"
EXECUTION_STATUS: Final = "workflow.execution.status"
RUN_ATTEMPT: Final = "workflow.run.attempt"
RUN_OUTCOME: Final = "workflow.run.outcome"
STEP_ID: Final = "workflow.step.id"
STEP_ATTEMPT: Final = "workflow.step.attempt"
STEP_OUTCOME: Final = "workflow.step.outcome"
HANDLER: Final = "workflow.step.handler"
SLEEP_DURATION: Final = "workflow.sleep.duration"
BACKOFF_DURATION: Final = "workflow.backoff.duration"
CIRCUIT_STATE: Final = "workflow.circuit.state"
PANIC_INDICATOR: Final = "workflow.panic.indicator"
ERROR_TYPE: Final = "error.type"
"""OpenTelemetry's own."""
