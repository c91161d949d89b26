"""The OpenTelemetry plugin in a test: spans on virtual time, and one trace through every simulated crash."""

from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from workflow_core import Workflow
from workflow_core.telemetry import OpenTelemetryPlugin, trace_id_of


@Workflow.define("traced-order", panic_config={"restart_delay_ms": 10_000})
async def order(ctx):
    def flaky():
        if ctx.attempt == 1:
            raise ConnectionError("no answer")
        return "tx-1"

    payment = await ctx.step("charge", flaky).with_retry(max_attempts=4, backoff_ms=2_000)
    await ctx.sleep("settle", 300_000)

    def receipt():
        if ctx.restart_attempt == 1:
            raise MemoryError("full")
        return payment

    return await ctx.step("receipt", receipt)


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def workflow_plugins(exporter):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return [OpenTelemetryPlugin(provider)]


def test_spans_have_the_times_of_the_virtual_clock(workflow, workflow_clock, exporter):
    begun = workflow_clock.now()
    result = workflow.run("traced-order", "o-1")

    def seconds(nanoseconds):
        return (datetime.fromtimestamp(nanoseconds / 1e9, UTC) - begun) / timedelta(seconds=1)

    found = {(span.name, seconds(span.start_time), seconds(span.end_time)) for span in exporter.get_finished_spans()}
    assert found == {
        ("execution traced-order", 0, 312),
        ("run traced-order", 0, 302),
        ("step charge", 0, 0),
        ("back-off charge", 0, 2),
        ("step charge", 2, 2),
        ("sleep settle", 2, 302),
        ("step receipt", 302, 302),
        ("run traced-order", 312, 312),
        ("step receipt", 312, 312),
    }
    assert {f"{span.context.trace_id:032x}" for span in exporter.get_finished_spans()} == {trace_id_of(result)}


@pytest.mark.workflow_crash_everywhere
def test_every_crash_leaves_one_trace_without_loose_ends(workflow, exporter):
    result = workflow.run("traced-order", "o-1")
    spans = exporter.get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in spans} == {trace_id_of(result)}
    ids = [span.context.span_id for span in spans]
    assert len(ids) == len(set(ids)), "a span was exported twice"
    attempts = [
        (span.attributes["workflow.run.attempt"], span.attributes["workflow.step.attempt"])
        for span in spans
        if span.name == "step charge"
    ]
    assert attempts == sorted(set(attempts))
    if sum(span.name.startswith("execution") for span in spans) == 0:
        return  # the process died between the commit of the end and its span, which nobody else can tell of
    loose = [span.name for span in spans if span.parent is not None and span.parent.span_id not in ids]
    names = [span.name for span in spans]
    assert set(loose) <= {"step charge", "back-off charge", "sleep settle", "step receipt", "recover traced-order"}
    if names.count("run traced-order") == 2:  # neither died between the commit of its end and its span
        assert not loose
