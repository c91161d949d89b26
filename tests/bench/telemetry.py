"""What tracing and metrics cost a step, against the same engine without the plugin, in one process.

Run it with ``python tests/bench/telemetry.py``; it alternates the variants and prints medians. Spans go through the
SDK's ``BatchSpanProcessor`` to an exporter that drops them, metrics to a reader that nobody reads.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler

from workflow_core import WorkflowContext, WorkflowEngine, hookimpl
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.telemetry import OpenTelemetryPlugin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workflow_core.events import Event


class Dropping(SpanExporter):
    """Exports nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Drop the spans."""
        del spans
        return SpanExportResult.SUCCESS


class Watcher:
    """The cheapest observer of events there is."""

    @hookimpl
    def on_event(self, event: Event) -> None:
        """Do nothing."""


def traced(sampler: Sampler) -> list[object]:
    """Return the plugin with an SDK."""
    spans = TracerProvider(sampler=ParentBased(sampler), shutdown_on_exit=False)
    spans.add_span_processor(BatchSpanProcessor(Dropping()))
    meters = MeterProvider(metric_readers=[InMemoryMetricReader()], shutdown_on_exit=False)
    return [OpenTelemetryPlugin(spans, meters)]


def bare(count: int) -> float:
    """Return what one span like a step's, and the measurements of a step, cost with the SDK alone, in seconds."""
    spans = TracerProvider(shutdown_on_exit=False)
    spans.add_span_processor(BatchSpanProcessor(Dropping()))
    tracer = spans.get_tracer("bench")
    meter = MeterProvider(metric_readers=[InMemoryMetricReader()], shutdown_on_exit=False).get_meter("bench")
    counter, histogram = meter.create_counter("attempts"), meter.create_histogram("duration")
    begin = time.perf_counter()
    for number in range(count):
        step = f"step-{number % 10}"
        attributes = {"name": "bench", "id": "execution", "run": 1, "step": step, "attempt": 1}
        span = tracer.start_span(step, attributes=attributes)
        span.set_attribute("outcome", "completed")
        span.end()
        measured = {"name": "bench", "step": step, "outcome": "completed"}
        counter.add(1, measured)
        histogram.record(0.001, measured)
    return (time.perf_counter() - begin) / count


VARIANTS: dict[str, Callable[[], list[object]]] = {
    "no plugin": list,
    "an observer that does nothing": lambda: [Watcher()],
    "plugin, no SDK": lambda: [OpenTelemetryPlugin()],
    "plugin, SDK, not sampled": lambda: traced(ALWAYS_OFF),
    "plugin, SDK, every span": lambda: traced(ALWAYS_ON),
}


async def seconds(path: Path, plugins: list[object], executions: int, steps: int) -> float:
    """Return the time that a step takes, in seconds."""
    engine = WorkflowEngine(SQLiteStore(path), plugins=plugins)

    async def work() -> int:
        return 1

    @engine.define("bench")
    async def bench(ctx: WorkflowContext) -> None:
        for number in range(steps):
            await ctx.step(f"step-{number}", work)

    begin = time.perf_counter()
    for execution in range(executions):
        await engine.start("bench", f"execution-{execution}")
    elapsed = time.perf_counter() - begin
    await engine.aclose()
    return elapsed / executions / steps


def main() -> None:
    """Measure in alternating rounds, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds to take the median of (default 7)")
    parser.add_argument("--executions", type=int, default=200, help="executions in each round (default 200)")
    parser.add_argument("--steps", type=int, default=10, help="steps of each execution (default 10)")
    options = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(options.rounds):
        for name, plugins in VARIANTS.items():
            with tempfile.TemporaryDirectory() as directory:
                run = seconds(Path(directory) / "bench.db", plugins(), options.executions, options.steps)
                taken[name].append(asyncio.run(run))
    alone = statistics.median(bare(options.executions * options.steps) for _ in range(options.rounds))
    base = statistics.median(taken["no plugin"])
    for name, values in taken.items():
        median = statistics.median(values)
        print(f"{name:30} {median * 1e6:7.1f} µs a step   {(median - base) * 1e6:+7.1f} µs   ratio {median / base:.2f}")
    print(f"{'the SDK alone, for one step':30} {alone * 1e6:7.1f} µs")


if __name__ == "__main__":
    main()
