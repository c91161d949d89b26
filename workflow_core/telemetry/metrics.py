"""The metrics of workflows: names, units and attributes by OpenTelemetry's conventions, and no ids of executions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry import metrics

from workflow_core.telemetry.attributes import (
    CIRCUIT_STATE,
    ERROR_TYPE,
    EXECUTION_STATUS,
    STEP_ID,
    STEP_OUTCOME,
    WORKFLOW_NAME,
)
from workflow_core.telemetry.tracer import SCOPE

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

__all__ = ["WorkflowMetrics"]

_STEP_SECONDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600)
_EXECUTION_SECONDS: Final = (0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3_600, 14_400, 86_400, 604_800, 2_592_000)
"""From a hundredth of a second to thirty days: workflows sleep."""


class WorkflowMetrics:
    """Counts and measures.

    Args:
        provider: Where the instruments come from; ``None`` for the global provider, also one that is set later.
        version: This package's.
        step_name: Makes the value of the attribute ``workflow.step.id`` of a step's id.
    """

    def __init__(self, provider: metrics.MeterProvider | None, version: str, step_name: Callable[[str], str]) -> None:
        meter = metrics.get_meter(SCOPE, version, meter_provider=provider)
        self._step_name = step_name
        self._started = meter.create_counter(
            "workflow.execution.started", "{execution}", "Executions that this process has started"
        )
        self._ended = meter.create_counter(
            "workflow.execution.ended", "{execution}", "Executions that completed, failed or were cancelled"
        )
        self._active = meter.create_up_down_counter(
            "workflow.execution.active", "{execution}", "Executions that this process has at work, sleeps included"
        )
        self._duration = meter.create_histogram(
            "workflow.execution.duration",
            "s",
            "Time from the start of an execution to its end, through all restarts and recoveries",
            explicit_bucket_boundaries_advisory=_EXECUTION_SECONDS,
        )
        self._panics = meter.create_counter("workflow.execution.panics", "{panic}", "Panics of executions")
        self._restarts = meter.create_counter("workflow.execution.restarts", "{restart}", "Restarts of executions")
        self._recoveries = meter.create_counter(
            "workflow.execution.recoveries", "{recovery}", "Executions taken over after their process had ended"
        )
        self._attempts = meter.create_counter("workflow.step.attempts", "{attempt}", "Attempts of steps by outcome")
        self._step_duration = meter.create_histogram(
            "workflow.step.duration",
            "s",
            "Duration of attempts, from their start to their recorded outcome",
            explicit_bucket_boundaries_advisory=_STEP_SECONDS,
        )
        self._retries = meter.create_counter("workflow.step.retries", "{retry}", "Retries of steps that were decided")
        self._transitions = meter.create_counter(
            "workflow.circuit.transitions", "{transition}", "Changes of circuit breakers, by the new state"
        )

    def came(self, workflow_name: str) -> None:
        """Count an execution as active."""
        self._active.add(1, {WORKFLOW_NAME: workflow_name})

    def went(self, workflow_name: str) -> None:
        """Count an execution as not active any more."""
        self._active.add(-1, {WORKFLOW_NAME: workflow_name})

    def started(self, workflow_name: str) -> None:
        """Count a start."""
        self._started.add(1, {WORKFLOW_NAME: workflow_name})

    def recovered(self, workflow_name: str) -> None:
        """Count a recovery."""
        self._recoveries.add(1, {WORKFLOW_NAME: workflow_name})

    def restarted(self, workflow_name: str) -> None:
        """Count a restart."""
        self._restarts.add(1, {WORKFLOW_NAME: workflow_name})

    def panicked(self, workflow_name: str, error: str) -> None:
        """Count a panic."""
        self._panics.add(1, {WORKFLOW_NAME: workflow_name, ERROR_TYPE: error})

    def ended(self, workflow_name: str, status: str, error: str | None, duration: timedelta) -> None:
        """Count an end, and measure the execution."""
        attributes = {WORKFLOW_NAME: workflow_name, EXECUTION_STATUS: status}
        if error is not None:
            attributes[ERROR_TYPE] = error
        self._ended.add(1, attributes)
        self._duration.record(duration.total_seconds(), attributes)

    def attempt(
        self,
        workflow_name: str,
        step_id: str,
        outcome: str,
        error: str | None = None,
        duration: timedelta | None = None,
    ) -> None:
        """Count an attempt, and measure it if it is known how long it took."""
        attributes = {WORKFLOW_NAME: workflow_name, STEP_ID: self._step_name(step_id), STEP_OUTCOME: outcome}
        if error is not None:
            attributes[ERROR_TYPE] = error
        self._attempts.add(1, attributes)
        if duration is not None:
            self._step_duration.record(duration.total_seconds(), attributes)

    def retried(self, workflow_name: str, step_id: str) -> None:
        """Count a retry."""
        self._retries.add(1, {WORKFLOW_NAME: workflow_name, STEP_ID: self._step_name(step_id)})

    def circuit_changed(self, workflow_name: str, step_id: str, state: str) -> None:
        """Count a change of a circuit."""
        attributes = {WORKFLOW_NAME: workflow_name, STEP_ID: self._step_name(step_id), CIRCUIT_STATE: state}
        self._transitions.add(1, attributes)
