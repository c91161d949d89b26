"""What a monitoring system scrapes: the executions in all databases, and what this process has done.

What must cover other processes is read from the databases when it is asked for; what only this process can time is
counted by a plugin of its engine. Names follow https://prometheus.io/docs/practices/naming/, and no label holds what
grows without bound, such as ids of executions or of steps.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from workflow_core import events
from workflow_core.hookspecs import hookimpl
from workflow_core.summaries import EXECUTION_STATUSES
from workflow_core.views.circuits import read_circuits
from workflow_core.views.cluster import QUEUE_PARTS, ClusterView, read_cluster
from workflow_core.views.overviews import read_overviews

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.engine import WorkflowEngine
    from workflow_core.events import Event
    from workflow_core.server.reading import Reader
    from workflow_core.views.circuits import CircuitView
    from workflow_core.views.overviews import Overview

__all__ = ["ProcessMetrics", "render"]

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_MOST_ATTEMPTS = 100_000
"""Attempts of which the end is never seen, because another process went on with them, are forgotten at this number."""

_ENDINGS = {
    events.ExecutionCompleted: "completed",
    events.ExecutionFailed: "failed",
    events.ExecutionPanicked: "panicked",
    events.ExecutionCancelled: "cancelled",
}
_OUTCOMES = {
    events.StepCompleted: "completed",
    events.StepFailed: "failed",
    events.StepSkipped: "skipped",
    events.StepInterrupted: "interrupted",
}


class ProcessMetrics:
    """Counts and times what the executions of one process do; a plugin of its engine."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        info = Gauge("workflow_build_info", "The version of this server.", ["version"], registry=self.registry)
        info.labels(version("pytest-workflow-core")).set(1)
        self._started = Counter(
            "workflow_process_executions_started",
            "Executions that this process has started.",
            ["workflow"],
            registry=self.registry,
        )
        self._ended = Counter(
            "workflow_process_executions_ended",
            "Executions that this process has brought to rest, by how they ended.",
            ["workflow", "status"],
            registry=self.registry,
        )
        self._attempts = Counter(
            "workflow_process_step_attempts",
            "Attempts of steps that ended in this process, by their outcome.",
            ["workflow", "outcome"],
            registry=self.registry,
        )
        self._durations = Histogram(
            "workflow_process_step_duration_seconds",
            "How long attempts of steps took in this process.",
            ["workflow"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._begun: dict[tuple[str, str], Event] = {}

    @hookimpl
    def on_event(self, event: Event) -> None:
        """Count an event."""
        name = event.workflow_name
        if isinstance(event, events.ExecutionStarted):
            self._started.labels(name).inc()
        elif isinstance(event, events.StepStarted):
            if len(self._begun) >= _MOST_ATTEMPTS:
                self._begun.clear()
            self._begun[event.execution_id, event.step_id] = event
        elif (outcome := _OUTCOMES.get(type(event))) is not None and isinstance(event, events.StepEvent):
            self._attempts.labels(name, outcome).inc()
            began = self._begun.pop((event.execution_id, event.step_id), None)
            if began is not None:
                self._durations.labels(name).observe(max(0.0, (event.at - began.at).total_seconds()))
        elif (status := _ENDINGS.get(type(event))) is not None:
            self._ended.labels(name, status).inc()


async def render(engine: WorkflowEngine, reader: Reader, process: ProcessMetrics) -> bytes:
    """Return all metrics in the text format of Prometheus."""

    async def find(reading: WorkflowEngine) -> tuple[list[Overview], list[CircuitView], ClusterView | None]:
        return await read_overviews(reading), (await read_circuits(reading))[0], await read_cluster(reading)

    overviews, circuits, cluster = await reader(find)
    stored = _stored(overviews, circuits)
    if cluster is not None and not cluster.is_empty:
        _add_cluster(stored, cluster)
    running = Gauge("workflow_process_executions", "Executions that run in this process.", registry=stored)
    running.set(len(engine.running()))
    return generate_latest(stored) + generate_latest(process.registry)


def _stored(overviews: Sequence[Overview], circuits: Sequence[CircuitView]) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    executions = Gauge(
        "workflow_executions", "Executions that are stored, by status.", ["workflow", "status"], registry=registry
    )
    started = Counter(
        "workflow_executions_started",
        "Executions that were ever started, by any process, removed ones included.",
        ["workflow"],
        registry=registry,
    )
    readable = Gauge(
        "workflow_database_up", "Whether the database of a workflow can be read.", ["workflow"], registry=registry
    )
    breakers = Gauge(
        "workflow_circuits", "Circuit breakers of steps, by state.", ["workflow", "state"], registry=registry
    )
    for each in overviews:
        readable.labels(each.name).set(each.problem is None)
        started.labels(each.name).inc(each.execution_count)
        if each.problem is None:
            for status in EXECUTION_STATUSES:
                executions.labels(each.name, status).set(each.counts.get(status, 0))
    for circuit in circuits:
        breakers.labels(circuit.workflow_name, circuit.status).inc()
    return registry


def _add_cluster(registry: CollectorRegistry, cluster: ClusterView) -> None:
    executions = Gauge(
        "workflow_queue_executions",
        "Executions that were handed to workers and are not at rest, by where they stand.",
        ["queue", "state"],
        registry=registry,
    )
    lag = Gauge(
        "workflow_queue_lag_seconds",
        "For how long the execution that waits longest for a worker has waited; 0 if none waits.",
        ["queue"],
        registry=registry,
    )
    serving = Gauge("workflow_queue_workers", "Workers alive that serve a queue.", ["queue"], registry=registry)
    workers = Gauge("workflow_workers", "Workers, by whether they give signs of life.", ["state"], registry=registry)
    slots = Gauge(
        "workflow_worker_slots", "Executions that the workers alive can run at once.", ["state"], registry=registry
    )
    for queue in cluster.state.queues:
        for state in QUEUE_PARTS:
            executions.labels(queue.queue, state).set(getattr(queue, state))
        lag.labels(queue.queue).set(queue.lag_ms / 1_000)
        serving.labels(queue.queue).set(queue.workers)
    workers.labels("alive").set(cluster.alive)
    workers.labels("lost").set(cluster.lost)
    slots.labels("used").set(cluster.slots_used)
    slots.labels("free").set(max(0, cluster.slots - cluster.slots_used))
