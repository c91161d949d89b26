"""The OpenTelemetry plugin: what it makes of executions, on a clock that stands still until it is moved."""

import asyncio
import contextvars
import logging
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased

from workflow_core import PanicError, Settings, WorkflowEngine
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.errors import WorkflowError
from workflow_core.extensions import Extensions
from workflow_core.telemetry import OpenTelemetryPlugin, trace_id_of
from workflow_core.telemetry.identity import derived_span_id, derived_trace_id, nanoseconds
from workflow_core.telemetry.instrumentor import WorkflowInstrumentor
from workflow_core.telemetry.plugin import _within
from workflow_core.telemetry.tracer import SpanSource

START = nanoseconds(datetime(2026, 1, 1, tzinfo=UTC))


class Telemetry:
    """What one process, or several, have exported; each `plugin` stands for a process."""

    def __init__(self, sampler=None):
        self.exporter = InMemorySpanExporter()
        self.sampler = sampler
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider(metric_readers=[self.reader], shutdown_on_exit=False)

    def provider(self):
        provider = TracerProvider(sampler=self.sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        return provider

    def plugin(self, **options):
        return OpenTelemetryPlugin(self.provider(), self.meters, **options)

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    def one(self, name):
        (span,) = self.named(name)
        return span

    def tree(self):
        """Return the spans as indented lines in the order of their beginning: name, outcome, seconds from and to."""
        by_id = {span.context.span_id: span for span in self.spans}
        assert len(by_id) == len(self.spans), "two spans have one id"
        lines = []

        def add(parent_id, depth):
            for span in sorted(self.spans, key=lambda each: (each.start_time, each.end_time)):
                parent = span.parent.span_id if span.parent is not None else None
                if parent == parent_id or (depth == 0 and parent not in by_id and parent is not None):
                    outcome = [
                        str(span.attributes[key])
                        for key in ("workflow.execution.status", "workflow.run.outcome", "workflow.step.outcome")
                        if key in span.attributes
                    ]
                    begin, end = ((moment - START) / 1e9 for moment in (span.start_time, span.end_time))
                    lines.append(" ".join(["  " * depth + span.name, *outcome, f"{begin:g}-{end:g}"]))
                    add(span.context.span_id, depth + 1)

        add(None, 0)
        return lines

    def metrics(self):
        """Return the values of all metrics: {(name, attribute values ...): value}; of histograms (count, sum)."""
        data = self.reader.get_metrics_data()
        found = {}
        for metric in [m for r in data.resource_metrics for scope in r.scope_metrics for m in scope.metrics]:
            for point in metric.data.data_points:
                value = point.value if hasattr(point, "value") else (point.count, point.sum)
                found[metric.name, *(str(each) for _, each in sorted(point.attributes.items()))] = value
        return found


@pytest.fixture
def telemetry():
    return Telemetry()


async def flaky_flow(ctx):
    async def charge():
        if ctx.attempt < 2:
            raise ConnectionError("no answer")
        return "paid"

    await ctx.step("charge", charge).with_retry(max_attempts=3, backoff_ms=1_000)
    await ctx.sleep("settle", 60_000)
    return await ctx.step("ship", charge).catch(lambda error, ctx: "later").with_retry(max_attempts=1)


@pytest.mark.asyncio
async def test_an_execution_is_a_trace_with_a_span_for_each_attempt(machine, clock, telemetry):
    machine.define("order")(flaky_flow)
    engine = machine.boot([telemetry.plugin()])
    result = await clock.finish(engine.start("order", "o-1"))
    assert telemetry.tree() == [
        "execution order completed 0-61",
        "  run order completed 0-61",
        "    step charge failed 0-0",
        "    back-off charge 0-1",
        "    step charge completed 1-1",
        "    sleep settle 1-61",
        "    step ship failed 61-61",
        "    catch ship 61-61",
    ]
    assert {f"{span.context.trace_id:032x}" for span in telemetry.spans} == {trace_id_of(result)}
    first, second = telemetry.named("step charge")
    assert dict(first.attributes) == {
        "workflow.name": "order",
        "workflow.execution.id": "o-1",
        "workflow.run.attempt": 1,
        "workflow.step.id": "charge",
        "workflow.step.attempt": 1,
        "workflow.step.outcome": "failed",
        "error.type": "ConnectionError",
    }
    assert (first.status.status_code.name, first.status.description) == ("ERROR", "no answer")
    (exception,) = first.events
    assert exception.name == "exception"
    assert exception.attributes["exception.message"] == "no answer"
    assert "in charge" in exception.attributes["exception.stacktrace"]
    assert second.status.is_unset
    assert not second.events


@pytest.mark.asyncio
async def test_a_panic_ends_a_run_and_a_restart_begins_the_next(machine, clock, telemetry):
    @machine.define("order", panic_config={"restart_delay_ms": 5_000})
    async def order(ctx):
        await ctx.step("first", lambda: 1)
        if ctx.restart_attempt == 1:
            raise MemoryError("full")

    engine = machine.boot([telemetry.plugin()])
    await clock.finish(engine.start_and_wait("order", "o-1"))
    assert telemetry.tree() == [
        "execution order completed 0-5",
        "  run order panicked 0-0",
        "    step first completed 0-0",
        "  run order completed 5-5",
    ]
    panicked = telemetry.named("run order")[0]
    assert [(event.name, dict(event.attributes)) for event in panicked.events] == [
        ("workflow.panic", {"workflow.panic.indicator": "MemoryError"})
    ]
    assert panicked.status.description == "full"
    assert telemetry.one("execution order").status.is_unset


@pytest.mark.asyncio
async def test_a_sleep_beside_a_panic_is_in_both_runs(machine, clock, telemetry):
    @machine.define("order", panic_config={"restart_delay_ms": 5_000})
    async def order(ctx):
        async def fail():
            if ctx.restart_attempt == 1:
                raise MemoryError("full")

        async def work():
            await asyncio.sleep(0)
            await ctx.step("work", fail)

        await asyncio.gather(ctx.sleep("rest", 10_000), work())

    await clock.finish(machine.boot([telemetry.plugin()]).start_and_wait("order", "o-1"))
    assert telemetry.tree() == [
        "execution order completed 0-10",
        "  run order panicked 0-0",
        "    step work failed 0-0",
        "    sleep rest 0-0",
        "  run order completed 5-10",
        "    step work completed 5-5",
        "    sleep rest 5-10",
    ]


@pytest.mark.asyncio
async def test_another_process_goes_on_with_the_trace_after_a_crash(machine, clock, telemetry):
    @machine.define("order")
    async def order(ctx):
        await ctx.step("first", lambda: 1)

        async def hang():
            if ctx.attempt == 1:
                await asyncio.Event().wait()

        await asyncio.gather(ctx.step("hang", hang), ctx.sleep("rest", 10_000))

    engine = machine.boot([telemetry.plugin()])
    await engine.start("order", "o-1", detach=True)
    await clock.advance(4_000)
    await machine.crash(engine)
    assert telemetry.tree() == ["step first completed 0-0"]
    again = machine.boot([telemetry.plugin()])
    await clock.advance(2_000)
    await again.recover()
    await clock.finish(again.wait("o-1"))
    assert telemetry.tree() == [
        "execution order completed 0-10",
        "  run order completed 0-10",
        "    step first completed 0-0",
        "    step hang interrupted 0-6",
        "    sleep rest 0-10",
        "    recover order 6-6",
        "    step hang completed 6-6",
    ]
    assert telemetry.metrics()["workflow.step.attempts", "order", "hang", "interrupted"] == 1


@pytest.mark.asyncio
async def test_an_orderly_stop_tells_of_the_attempt_that_is_given_back(machine, clock, telemetry):
    @machine.define("order")
    async def order(ctx):
        async def hang():
            if len(machine.engines) == 1:
                await asyncio.Event().wait()

        await asyncio.gather(ctx.step("hang", hang), ctx.sleep("rest", 10_000))

    engine = machine.boot([telemetry.plugin()])
    await engine.start("order", "o-1", detach=True)
    await clock.advance(4_000)
    await engine.aclose()
    assert telemetry.tree() == ["step hang released 0-4"]
    machine.dead.add(engine.owner.owner_id)
    again = machine.boot([telemetry.plugin()])
    await again.recover()
    await clock.finish(again.wait("o-1"))
    assert telemetry.tree() == [
        "execution order completed 0-10",
        "  run order completed 0-10",
        "    step hang released 0-4",
        "    sleep rest 0-10",
        "    recover order 4-4",
        "    step hang completed 4-4",
    ]
    assert telemetry.metrics()["workflow.execution.active", "order"] == 0


@pytest.mark.asyncio
async def test_a_restart_by_hand_of_a_failed_execution_adds_a_run_and_ends_nothing_twice(machine, clock, telemetry):
    @machine.define("order", retry_config={"max_attempts": 2, "backoff_ms": 0})
    async def order(ctx):
        async def work():
            if ctx.restart_attempt == 1:
                raise LookupError("not there")
            if len(machine.engines) == 1:
                await asyncio.Event().wait()

        await ctx.step("work", work)

    engine = machine.boot([telemetry.plugin()])
    with pytest.raises(WorkflowError):
        await engine.start("order", "o-1")
    await clock.advance(3_000)
    restart = asyncio.create_task(engine.restart("o-1"))
    await clock.settle()
    await machine.crash(engine)
    await asyncio.gather(restart, return_exceptions=True)
    await clock.advance(1_000)
    again = machine.boot([telemetry.plugin()])
    await again.recover()
    await clock.finish(again.wait("o-1"))
    assert telemetry.tree() == [
        "execution order failed 0-0",
        "  run order failed 0-0",
        "    step work failed 0-0",
        "    step work failed 0-0",
        "  run order completed 3-4",
        "    step work interrupted 3-4",
        "    recover order 4-4",
        "    step work completed 4-4",
    ]


@pytest.mark.asyncio
async def test_a_process_that_takes_over_a_panicked_execution_ends_its_span(machine, clock, telemetry):
    @machine.define("order", panic_config={"restart_delay_ms": 60_000})
    async def order(ctx):
        if ctx.restart_attempt == 1:
            raise MemoryError("full")

    engine = machine.boot([telemetry.plugin()])
    with pytest.raises(PanicError):
        await engine.start("order", "o-1")
    await machine.crash(engine)
    again = machine.boot([telemetry.plugin()])
    await again.recover()
    await clock.finish(again.wait("o-1"))
    assert telemetry.tree() == [
        "execution order completed 0-60",
        "  run order panicked 0-0",
        "  run order completed 60-60",
    ]


@pytest.mark.asyncio
async def test_what_is_cancelled_ends_when_it_was_cancelled(machine, clock, telemetry):
    @machine.define("order")
    async def order(ctx):
        async def hang():
            await asyncio.Event().wait()

        await asyncio.gather(ctx.step("hang", hang), ctx.sleep("rest", 10_000))

    engine = machine.boot([telemetry.plugin()])
    await engine.start("order", "o-1", detach=True)
    await clock.advance(4_000)
    await engine.cancel("o-1")
    tree = [
        "execution order cancelled 0-4",
        "  run order cancelled 0-4",
        "    step hang cancelled 0-4",
        "    sleep rest 0-4",
    ]
    assert telemetry.tree() == tree
    ended = telemetry.metrics()["workflow.execution.ended", "cancelled", "order"]
    assert ended == 1
    telemetry.exporter.clear()
    # Another process cancels it, and the one that has it notices when its next write is refused.
    await engine.start("order", "o-2", detach=True)
    await clock.advance(0)
    await machine.boot().cancel("o-2")
    await clock.finish(engine.wait("o-2"))
    assert [line.split(" ")[:3] for line in telemetry.tree()[:1]] == [["execution", "order", "cancelled"]]
    assert telemetry.metrics()["workflow.execution.active", "order"] == 0


@pytest.mark.asyncio
async def test_a_time_out_of_a_step_is_its_outcome_and_one_around_it_ends_its_span(machine, clock, telemetry):
    @machine.define("order", retry_config={"max_attempts": 1})
    async def order(ctx):
        async def hang():
            await asyncio.Event().wait()

        await ctx.step("slow", hang, timeout_ms=2_000).catch(lambda error, ctx: None)
        task = asyncio.ensure_future(ctx.step("left", hang).execute())
        await ctx.sleep("rest", 1_000)
        task.cancel()
        await asyncio.wait([task])
        await ctx.sleep("more", 1_000)

    await clock.finish(machine.boot([telemetry.plugin()]).start("order", "o-1"))
    slow, left = telemetry.one("step slow"), telemetry.one("step left")
    assert slow.attributes["error.type"] == "StepTimeoutError"
    assert "exception.stacktrace" not in slow.events[0].attributes
    assert (left.attributes["workflow.step.outcome"], (left.end_time - START) / 1e9) == ("cancelled", 3)


@pytest.mark.asyncio
async def test_circuits_and_skips_are_told_on_the_run(machine, clock, telemetry):
    @machine.define("order", retry_config={"max_attempts": 2, "backoff_ms": 0})
    async def order(ctx):
        def fail():
            raise ConnectionError

        await ctx.step("call", fail).with_circuit_breaker(1, 1_000, on_open=lambda ctx: "closed today")
        await ctx.skip("rest", None)

    await clock.finish(machine.boot([telemetry.plugin()]).start("order", "o-1"))
    run = telemetry.one("run order")
    assert [(event.name, *sorted(event.attributes.values())) for event in run.events] == [
        ("workflow.circuit", "call", "open"),
        ("workflow.step.skipped", "call"),
        ("workflow.step.skipped", "rest"),
    ]
    assert telemetry.one("on_open call").attributes["workflow.step.handler"] == "on_open"
    assert not telemetry.named("back-off call")
    metrics = telemetry.metrics()
    assert metrics["workflow.circuit.transitions", "open", "order", "call"] == 1
    assert metrics["workflow.step.attempts", "order", "call", "skipped"] == 1


@pytest.mark.asyncio
async def test_a_handler_that_raises_is_an_error_of_its_span(machine, clock, telemetry):
    @machine.define("order", retry_config={"max_attempts": 1})
    async def order(ctx):
        def fail():
            raise ConnectionError("down")

        def worse(error, ctx):
            raise LookupError("worse")

        await ctx.step("call", fail).on_error({"default": worse}).catch(lambda error, ctx: None)

    await clock.finish(machine.boot([telemetry.plugin()]).start("order", "o-1"))
    handler = telemetry.one("on_error:default call")
    assert (handler.status.description, handler.attributes["error.type"]) == ("worse", "LookupError")
    assert telemetry.one("catch call").status.is_unset


@pytest.mark.asyncio
@pytest.mark.parametrize("leaving", ["lost", "interrupted"])
async def test_an_attempt_that_is_told_of_elsewhere_is_not_told_of_here(machine, clock, telemetry, leaving):
    class Breaking(BaseException):
        pass

    broken = asyncio.Event()

    @machine.define("order")
    async def order(ctx):
        async def hang():
            if len(machine.engines) == 1:
                await broken.wait()
                raise Breaking

        await asyncio.gather(ctx.step("hang", hang), ctx.sleep("rest", 1_000))

    engine = machine.boot([telemetry.plugin()])
    await engine.start("order", "o-1", detach=True)
    await clock.advance(500)
    if leaving == "interrupted":
        broken.set()
        await clock.settle()
    machine.dead.add(engine.owner.owner_id)
    again = machine.boot([telemetry.plugin()])
    await again.recover()
    await clock.finish(again.wait("o-1"))
    await clock.settle()
    await engine.aclose()
    assert [span.attributes["workflow.step.outcome"] for span in telemetry.named("step hang")] == [
        "interrupted",
        "completed",
    ]
    assert telemetry.metrics()["workflow.execution.active", "order"] == 0
    assert len(telemetry.named("execution order")) == 1


@pytest.mark.asyncio
async def test_one_plugin_in_two_simulated_processes_counts_and_links_as_two_would(machine, clock, telemetry):
    @machine.define("order", panic_config={"enable_auto_restart": False})
    async def order(ctx):
        await ctx.sleep("rest", 1_000)
        if ctx.execution_id == "o-2":
            raise MemoryError("full")

    plugin = telemetry.plugin()
    engine = machine.boot([plugin])
    with telemetry.provider().get_tracer("users").start_as_current_span("request"):
        for execution_id in ("o-1", "o-2"):
            await engine.start("order", execution_id, detach=True)
            await clock.settle()
    await machine.crash(engine)
    again = machine.boot([plugin])
    await again.recover()
    assert telemetry.metrics()["workflow.execution.active", "order"] == 2
    await clock.finish(again.wait("o-1"))
    await clock.finish(again.wait("o-2"))
    assert telemetry.metrics()["workflow.execution.active", "order"] == 0  # one panicked, and nothing restarts it
    assert not telemetry.one("execution order").links  # this process does not know who started it


@pytest.mark.asyncio
async def test_the_link_to_the_caller_is_kept_through_a_restart(machine, clock, telemetry):
    @machine.define("order", panic_config={"restart_delay_ms": 1_000})
    async def order(ctx):
        if ctx.restart_attempt == 1:
            raise MemoryError("full")

    engine = machine.boot([telemetry.plugin()])
    with telemetry.provider().get_tracer("users").start_as_current_span("request"):
        await engine.start("order", "o-1", detach=True)
        await clock.settle()
    await clock.finish(engine.wait("o-1"))
    assert len(telemetry.one("execution order").links) == 1
    assert len(telemetry.named("start order")) == 1


# What user code sees --------------------------------------------------------------------------------------------------


def test_user_code_runs_in_the_span_of_its_attempt_also_in_threads(telemetry):
    provider = telemetry.provider()
    tracer = provider.get_tracer("users")
    engine = WorkflowEngine(SQLiteStore(), plugins=[OpenTelemetryPlugin(provider)])
    threads = set()

    def in_thread():
        threads.add(threading.current_thread())
        with tracer.start_as_current_span("query"):
            pass

    async def in_task():
        with tracer.start_as_current_span("request"):
            await asyncio.sleep(0)

    @engine.define("order")
    async def order(ctx):
        with tracer.start_as_current_span("phase"):
            await asyncio.gather(ctx.step("plain", in_thread), ctx.step("async", in_task))
        with tracer.start_as_current_span("after"):
            pass

        def fail():
            raise ValueError

        def handle(error, ctx):
            with tracer.start_as_current_span("repair"):
                pass

        await ctx.step("broken", fail).catch(handle)

    try:
        assert engine.run("order", "o-1").status == "completed"
    finally:
        engine.close()
    assert threading.main_thread() not in threads
    names = {span.context.span_id: span.name for span in telemetry.spans}
    parents = {span.name: names.get(span.parent.span_id) if span.parent else None for span in telemetry.spans}
    assert parents == {
        "execution order": None,
        "run order": "execution order",
        "phase": "run order",
        "step plain": "phase",
        "query": "step plain",
        "step async": "phase",
        "request": "step async",
        "after": "run order",
        "step broken": "run order",
        "catch broken": "run order",
        "repair": "catch broken",
    }


@pytest.mark.parametrize("caller", ["link", "parent", "ignore"])
@pytest.mark.asyncio
async def test_the_callers_span_is_linked_continued_or_ignored(machine, clock, telemetry, caller):
    seen = []

    @machine.define("order")
    async def order(ctx):
        seen.append(baggage.get_baggage("tenant"))

    engine = machine.boot([telemetry.plugin(caller=caller)])
    tracer = telemetry.provider().get_tracer("users")
    with tracer.start_as_current_span("request") as request:
        token = context.attach(baggage.set_baggage("tenant", "t-1"))
        await engine.start("order", "o-1")
        context.detach(token)
    execution = telemetry.one("execution order")
    assert seen == ["t-1"]
    if caller == "parent":
        assert execution.context.trace_id == request.get_span_context().trace_id
        assert execution.parent.span_id == request.get_span_context().span_id
        return
    assert f"{execution.context.trace_id:032x}" == trace_id_of(await engine.get_status("o-1"))
    assert execution.parent is None
    started = telemetry.named("start order")
    if caller == "ignore":
        assert not execution.links
        assert not started
        return
    assert [link.context for link in execution.links] == [request.get_span_context()]
    assert started[0].parent.span_id == request.get_span_context().span_id
    assert [link.context for link in started[0].links] == [execution.context]


def test_a_wrong_choice_is_refused():
    with pytest.raises(ValueError, match='caller must be "link"'):
        OpenTelemetryPlugin(caller="child")


# Ids, sampling, failures ----------------------------------------------------------------------------------------------


def test_ids_depend_on_all_that_identifies_an_execution():
    at = datetime(2026, 1, 1, tzinfo=UTC)

    def trace_id(workflow_name, execution_id, started_at):
        identified = SimpleNamespace(workflow_name=workflow_name, execution_id=execution_id, started_at=started_at)
        return derived_trace_id(identified)

    ids = {
        trace_id("a", "b", at),
        trace_id("b", "a", at),
        trace_id("ab", "", at),
        trace_id("a", "b", at + timedelta(microseconds=1)),
    }
    assert len(ids) == 4
    assert all(0 < each < 1 << 128 for each in ids)
    assert derived_span_id(1, "step", "a", 1) != derived_span_id(1, "step", "a", 2)


@pytest.mark.asyncio
async def test_an_id_that_is_used_again_has_another_trace(machine, clock, telemetry):
    machine.define("order")(flaky_flow)
    engine = machine.boot([telemetry.plugin()])
    first = await clock.finish(engine.start("order", "o-1"))
    await clock.advance(1_000)
    await clock.finish(engine.cleanup(0))
    second = await clock.finish(engine.start("order", "o-1"))
    assert trace_id_of(first) != trace_id_of(second)
    assert len({span.context.trace_id for span in telemetry.spans}) == 2


@pytest.mark.asyncio
async def test_a_trace_that_is_not_sampled_has_no_spans_and_its_metrics_are_there(machine, clock):
    telemetry = Telemetry(ParentBased(ALWAYS_OFF))
    seen = []

    @machine.define("order")
    async def order(ctx):
        await ctx.step("work", lambda: seen.append(trace.get_current_span().get_span_context()))

    plugin = telemetry.plugin()
    engine = machine.boot([plugin])
    result = await clock.finish(engine.start("order", "o-1"))
    assert not telemetry.spans
    assert f"{seen[0].trace_id:032x}" == trace_id_of(result)  # what the step's own libraries do is not sampled either
    assert not seen[0].trace_flags.sampled
    assert telemetry.metrics()["workflow.step.attempts", "order", "work", "completed"] == 1


@pytest.mark.asyncio
async def test_nothing_is_put_around_attempts_and_handlers_of_a_trace_that_is_not_sampled(machine, clock):
    plugin = Telemetry(ParentBased(ALWAYS_OFF)).plugin()
    attempt = SimpleNamespace(workflow_name="order", execution_id="o-1", step_id="work", attempt=1)
    put = []

    @machine.define("order")
    async def order(ctx):
        await ctx.step("work", lambda: put.append(plugin.wrap_attempt(attempt)))
        put.append(plugin.wrap_handler(attempt, "catch"))

    await clock.finish(machine.boot([plugin]).start("order", "o-1"))
    assert put == [None, None]


@pytest.mark.asyncio
async def test_the_sampling_decision_is_the_same_in_every_process(machine, clock):
    telemetry = Telemetry(ParentBased(TraceIdRatioBased(0.5)))

    @machine.define("order")
    async def order(ctx):
        await ctx.sleep("rest", 1_000)
        await ctx.step("work", lambda: 1)

    engine = machine.boot([telemetry.plugin()])
    for number in range(40):
        await engine.start("order", f"o-{number}", detach=True)
    await clock.settle()
    await machine.crash(engine)
    again = machine.boot([telemetry.plugin()])
    await again.recover()
    for number in range(40):
        await clock.finish(again.wait(f"o-{number}"))
    names = [span.name for span in telemetry.spans]
    assert 5 < names.count("execution order") < 35
    assert len({names.count(name) for name in ("execution order", "run order", "sleep rest", "step work")}) == 1


class Broken(SpanExporter, SpanProcessor):
    """Fails wherever it can."""

    def export(self, spans):
        raise RuntimeError("the collector is down")

    def on_start(self, span, parent_context=None):
        raise RuntimeError("the processor is broken")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("breaks", ["exporter", "processor"])
@pytest.mark.asyncio
async def test_a_broken_exporter_or_processor_disturbs_no_execution(machine, clock, caplog, breaks):
    machine.define("order")(flaky_flow)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Broken()) if breaks == "exporter" else Broken())
    engine = machine.boot([OpenTelemetryPlugin(provider)])
    result = await clock.finish(engine.start("order", "o-1"))
    assert (result.status, result.output) == ("completed", "later")
    ours = [record for record in caplog.records if record.name == "workflow_core"]
    assert len(ours) == (breaks == "processor")


@pytest.mark.asyncio
async def test_without_an_sdk_nothing_happens(machine, clock):
    machine.define("order")(flaky_flow)
    result = await clock.finish(machine.boot([OpenTelemetryPlugin()]).start("order", "o-1"))
    assert result.output == "later"


@pytest.mark.asyncio
async def test_a_global_provider_that_is_set_later_is_used(machine, clock, telemetry, monkeypatch):
    machine.define("order")(flaky_flow)
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    engine = machine.boot([OpenTelemetryPlugin()])
    await clock.finish(engine.start("order", "o-1"))
    monkeypatch.setattr(trace, "get_tracer_provider", telemetry.provider)
    result = await clock.finish(engine.start("order", "o-2"))
    assert {f"{span.context.trace_id:032x}" for span in telemetry.spans} == {trace_id_of(result)}


def test_a_given_id_is_given_to_one_span_alone(telemetry):
    source = SpanSource(telemetry.provider(), "1")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    given = source.start_root("given", 1, 2, None, at, {}, []).get_span_context()
    assert (given.trace_id, given.span_id) == (1, 2)
    other = source._resolved().start_span("other").get_span_context()
    assert other.trace_id != 1
    assert other.span_id != 2


def test_a_coroutine_that_is_closed_elsewhere_leaves_no_error_in_the_log(caplog):
    async def wait():
        await asyncio.Event().wait()

    async def begin_and_leave():
        coroutine = _within(wait, context.Context())
        contextvars.copy_context().run(coroutine.send, None)
        return coroutine

    asyncio.run(begin_and_leave()).close()
    assert not caplog.records


class ForeignProvider(trace.TracerProvider):
    """A provider whose tracers hide those of the SDK, as some vendors' do."""

    def __init__(self, provider):
        self.provider = provider

    def get_tracer(self, *args, **kwargs):
        tracer = self.provider.get_tracer(*args, **kwargs)

        class Foreign(trace.Tracer):
            start_span = staticmethod(tracer.start_span)
            start_as_current_span = staticmethod(tracer.start_as_current_span)

        return Foreign()


@pytest.mark.asyncio
async def test_a_tracer_that_chooses_all_ids_itself_keeps_to_the_trace(machine, clock, telemetry):
    machine.define("order")(flaky_flow)
    engine = machine.boot([OpenTelemetryPlugin(ForeignProvider(telemetry.provider()))])
    result = await clock.finish(engine.start("order", "o-1"))
    assert {f"{span.context.trace_id:032x}" for span in telemetry.spans} == {trace_id_of(result)}
    assert telemetry.tree()[:2] == ["execution order completed 0-61", "  run order completed 0-61"]


@pytest.mark.asyncio
async def test_secrets_are_masked_in_messages_and_tracebacks(machine, clock, telemetry):
    machine.define("order")(flaky_flow)
    engine = machine.boot([telemetry.plugin()])
    engine.configure("leaky", secrets={"token": "hunter2-hunter2"})

    @engine.define("leaky", retry_config={"max_attempts": 1})
    async def leaky(ctx):
        secret = ctx.config.secrets["token"]

        def fail():
            raise ValueError(f"{secret} \ud800 was refused")

        def worse(error, ctx):
            raise LookupError(f"{secret} is not there")

        await ctx.step("call", fail).on_error({"ValueError": worse})

    with pytest.raises(WorkflowError):
        await clock.finish(engine.start("leaky", "l-1"))
    assert telemetry.one("on_error:ValueError call").status.description == "[secret token] is not there"
    text = "".join(span.to_json() for span in telemetry.spans)
    assert "[secret token]" in text
    assert "hunter2" not in text
    (exception,) = [event for span in telemetry.named("step call") for event in span.events]
    assert all(value.encode() for value in exception.attributes.values()), "an exporter cannot encode it"


@pytest.mark.asyncio
async def test_messages_can_be_left_out(machine, clock, telemetry):
    machine.define("order")(flaky_flow)
    await clock.finish(machine.boot([telemetry.plugin(exception_messages=False)]).start("order", "o-1"))
    text = "".join(span.to_json() for span in telemetry.spans)
    assert "no answer" not in text
    assert "ConnectionError" in text


# Metrics --------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_metrics_of_an_execution(machine, clock, telemetry):
    machine.define("order")(flaky_flow)
    engine = machine.boot([telemetry.plugin(step_name=str.upper)])
    await engine.start("order", "secret-id", detach=True)
    await clock.advance(10_000)
    assert telemetry.metrics()["workflow.execution.active", "order"] == 1
    await clock.finish(engine.wait("secret-id"))
    metrics = telemetry.metrics()
    assert metrics == {
        ("workflow.execution.started", "order"): 1,
        ("workflow.execution.ended", "completed", "order"): 1,
        ("workflow.execution.active", "order"): 0,
        ("workflow.execution.duration", "completed", "order"): (1, 61),
        ("workflow.step.attempts", "ConnectionError", "order", "CHARGE", "failed"): 1,
        ("workflow.step.attempts", "ConnectionError", "order", "SHIP", "failed"): 1,
        ("workflow.step.attempts", "order", "CHARGE", "completed"): 1,
        ("workflow.step.duration", "ConnectionError", "order", "CHARGE", "failed"): (1, 0),
        ("workflow.step.duration", "ConnectionError", "order", "SHIP", "failed"): (1, 0),
        ("workflow.step.duration", "order", "CHARGE", "completed"): (1, 0),
        ("workflow.step.retries", "order", "CHARGE"): 1,
    }


@pytest.mark.asyncio
async def test_panics_restarts_recoveries_and_failures_are_counted(machine, clock, telemetry):
    @machine.define("order", panic_config={"restart_delay_ms": 1_000, "max_restart_attempts": 1})
    async def order(ctx):
        await ctx.sleep("rest", 1_000)
        raise MemoryError("full")

    engine = machine.boot([telemetry.plugin()])
    await engine.start("order", "o-1", detach=True)
    await clock.settle()
    await machine.crash(engine)
    again = machine.boot([telemetry.plugin()])
    await again.recover()
    await clock.finish(again.wait("o-1"))
    metrics = telemetry.metrics()
    assert metrics["workflow.execution.recoveries", "order"] == 1
    assert metrics["workflow.execution.panics", "MemoryError", "order"] == 1
    assert metrics["workflow.execution.restarts", "order"] == 1
    assert metrics["workflow.execution.ended", "MemoryError", "failed", "order"] == 1
    assert telemetry.one("execution order").status.description == "full"


# Logs -----------------------------------------------------------------------------------------------------------------


def test_log_records_and_log_files_name_the_span(tmp_path, telemetry, caplog):
    engine = WorkflowEngine(plugins=[telemetry.plugin()], settings=Settings(directory=tmp_path))

    @engine.define("order")
    async def order(ctx):
        await ctx.step("work", lambda: ctx.logger.info("working"))
        logging.getLogger("workflow_core").warning("engine")

    with caplog.at_level("INFO"):
        result = engine.run("order", "o-1")
    engine.close()
    working, ours = (record for record in caplog.records if record.message in {"working", "engine"})
    step, run = telemetry.one("step work"), telemetry.one("run order")
    assert (working.trace_id, working.span_id) == (trace_id_of(result), f"{step.context.span_id:016x}")
    assert (ours.trace_id, ours.span_id) == (trace_id_of(result), f"{run.context.span_id:016x}")
    (line,) = [
        text for path in tmp_path.rglob("o-1*.log") for text in path.read_text().splitlines() if "working" in text
    ]
    assert line.endswith(f"trace_id={trace_id_of(result)} span_id={step.context.span_id:016x}")


# Without code ---------------------------------------------------------------------------------------------------------


def test_the_instrumentor_gives_every_engine_one_plugin_of_its_own():
    def plugins(extensions):
        return [plugin for plugin in extensions if isinstance(plugin, OpenTelemetryPlugin)]

    instrumentor = WorkflowInstrumentor()
    assert not plugins(Extensions([]))
    instrumentor.instrument(skip_dep_check=True)
    try:
        instrumentor.instrument()
        (one,), (other,) = plugins(Extensions([])), plugins(Extensions([]))
        assert one is not other
        own = OpenTelemetryPlugin()
        assert plugins(Extensions([own])) == [own]
    finally:
        instrumentor.uninstrument()
    instrumentor.uninstrument()
    assert not plugins(Extensions([]))
