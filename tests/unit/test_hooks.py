"""Every hook of the engine, and a plugin that is found by its entry point."""

import asyncio
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pluggy
import pytest

from workflow_core import Serializer, Settings, StepDescription, StorageError, WorkflowEngine, hookimpl
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.database.store import DURABLE_POINTS
from workflow_core.errors import PanicError, WorkflowError
from workflow_core.events import ExecutionCompleted, ExecutionPanicked
from workflow_core.extensions import Extensions, provide, withdraw
from workflow_core.hookspecs import Run, UnfinishedStep, WorkflowHooks


def run(*plugins, handler=None, **options):
    engine = WorkflowEngine(SQLiteStore(), plugins=plugins, settings=Settings(sync_handlers="inline"))

    async def simple(ctx):
        await ctx.step("one", lambda: 1)
        await ctx.sleep("pause", 0)
        return await ctx.step("two", lambda: 2)

    engine.define("w", handler or simple)
    try:
        return engine.run("w", "e", **options)
    finally:
        engine.close()


def test_on_event_sees_the_whole_history():
    seen = []

    class Watcher:
        @hookimpl
        def on_event(self, event):
            seen.append((event.seq, type(event).__name__, event.execution_id, event.workflow_name))

    run(Watcher())
    assert [seq for seq, *_ in seen] == list(range(1, 9))
    assert seen[0] == (1, "ExecutionStarted", "e", "w")
    assert seen[-1] == (8, "ExecutionCompleted", "e", "w")


def test_a_watcher_that_fails_disturbs_nothing(caplog):
    class Clumsy:
        @hookimpl
        def on_event(self, event):
            raise RuntimeError("oops")

    assert run(Clumsy()).status == "completed"
    assert "A plugin failed" in caplog.text


class Told:
    """Notes which hooks it was called for."""

    def __init__(self):
        self.names = []

    @hookimpl
    async def on_event(self):
        self.names.append("on_event")

    @hookimpl
    def on_step(self):
        self.names.append("on_step")

    @hookimpl
    def on_handler(self):
        self.names.append("on_handler")

    @hookimpl
    def wrap_run(self):
        self.names.append("wrap_run")

    @hookimpl
    def on_run_left(self):
        self.names.append("on_run_left")

    @hookimpl
    def log_fields(self):
        return {"name": "value"}


class Failing:
    def __init__(self, error):
        self.error = error

    @hookimpl
    def on_step(self):
        raise self.error

    on_event = on_handler = wrap_run = on_run_left = log_fields = on_step


class FailingLater(Failing):
    @hookimpl
    async def on_event(self):
        raise self.error

    @hookimpl
    def log_fields(self):
        return "no fields"


class FailingAround(Failing):
    @hookimpl(wrapper=True)
    def on_step(self):
        yield
        raise self.error

    on_event = on_handler = wrap_run = on_run_left = log_fields = on_step


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [RuntimeError("oops"), asyncio.CancelledError()], ids=["failed", "cancelled"])
@pytest.mark.parametrize("kind", [Failing, FailingLater, FailingAround])
async def test_a_watcher_that_fails_keeps_nothing_from_the_others(kind, error, caplog):
    told = Told()
    extensions = Extensions([told, kind(error)])  # the one registered last is called first
    extensions.announce_step("a step")
    extensions.announce_handler("an attempt", "catch", None)
    assert extensions.run_wrappers("a run") == []
    extensions.announce_leaving("a run", "lost")
    fields = extensions.log_fields()
    names = ["on_step", "on_handler", "wrap_run", "on_run_left"]
    if kind is not FailingAround:  # its results are all there is
        await extensions.emit("an event")
        assert fields == {"name": "value"}
        names.append("on_event")
    assert told.names == names
    assert len(caplog.records) == len(names) + 1


class Announcements:
    def __init__(self):
        self.steps = []
        self.handlers = []

    @hookimpl
    def on_step(self, step):
        self.steps.append(step)

    @hookimpl
    def on_handler(self, attempt, handler, error):
        self.handlers.append((attempt.step_id, attempt.attempt, handler, error and str(error)))


def test_on_step_describes_each_step_before_it_runs():
    seen = Announcements()

    async def flow(ctx):
        assert not seen.steps
        await ctx.step("plain", lambda: len(seen.steps))
        await ctx.step("plain", lambda: "its stored result is returned, so it is not announced again")
        await (
            ctx.step("rich", lambda: 2, timeout_ms=500)
            .on_error({ValueError: handler, "ValueError": handler, "default": handler})
            .catch(handler)
            .with_circuit_breaker(3, on_open=lambda ctx: None)
            .with_retry(max_attempts=5)
        )
        return await ctx.step("plain", lambda: None)

    def handler(error, ctx): ...

    assert run(seen, handler=flow).output == 1
    assert seen.steps == [
        StepDescription("w", "e", "plain", (), False, 3, None),
        StepDescription(
            "w", "e", "rich", ("on_error:ValueError", "on_error:default", "catch", "on_open"), True, 5, 500
        ),
    ]


def test_on_handler_is_told_before_a_handler_runs_whatever_it_does():
    seen = Announcements()

    async def flow(ctx):
        def broken():
            raise KeyError("x")

        def pass_on(error, ctx):
            assert len(seen.handlers) == 1
            raise LookupError("worse")

        await ctx.step("s", broken).on_error({LookupError: pass_on}).catch(lambda error, ctx: "caught")
        await ctx.step("open", broken).with_circuit_breaker(1, on_open=lambda ctx: 1).with_retry(backoff_ms=0)

    run(seen, handler=flow)
    assert seen.handlers == [
        ("s", 1, "on_error:LookupError", "'x'"),
        ("s", 1, "catch", "worse"),
        ("open", 2, "on_open", None),
    ]


def test_an_observer_of_steps_and_handlers_that_fails_disturbs_nothing(caplog):
    class Clumsy:
        @hookimpl
        def on_step(self, step):
            raise RuntimeError("oops")

        @hookimpl
        def on_handler(self, attempt, handler, error):
            raise RuntimeError("oops")

    async def flow(ctx):
        return await ctx.step("s", lambda: 1 / 0).catch(lambda error, ctx: "caught")

    assert run(Clumsy(), handler=flow).output == "caught"
    assert [record.message.partition(" Attempt")[0].partition(" Step")[0] for record in caplog.records] == [
        "A plugin failed while it was told of",
        "A plugin failed while it was told of the handler catch of",
    ]


def test_an_execution_waits_for_an_asynchronous_watcher():
    order = []

    class Slow:
        @hookimpl
        async def on_event(self, event):
            await asyncio.sleep(0)
            order.append(type(event).__name__)

    async def flow(ctx):
        order.append("handler")
        await ctx.step("a", lambda: order.append("body"))
        order.append("after a")

    assert run(Slow(), handler=flow).status == "completed"
    assert order == [
        "ExecutionStarted",
        "handler",
        "StepStarted",
        "body",
        "StepCompleted",
        "after a",
        "ExecutionCompleted",
    ]


@pytest.mark.parametrize("error", [RuntimeError("oops"), asyncio.CancelledError()])
def test_an_asynchronous_watcher_that_fails_disturbs_nothing(caplog, error):
    class Clumsy:
        @hookimpl
        async def on_event(self, event):
            raise error

    assert run(Clumsy()).status == "completed"
    assert "told of StepCompleted" in caplog.text


@pytest.mark.asyncio
async def test_a_second_start_joins_while_a_watcher_is_told_of_the_first():
    told = asyncio.Event()
    go_on = asyncio.Event()

    class Slow:
        @hookimpl
        async def on_event(self, event):
            told.set()
            await go_on.wait()

    bodies = []

    async def flow(ctx):
        return await ctx.step("a", lambda: bodies.append(1))

    engine = WorkflowEngine(SQLiteStore(), plugins=[Slow()], settings=Settings(sync_handlers="inline"))
    engine.define("w", flow)
    first = asyncio.create_task(engine.start("w", "e"))
    await told.wait()
    second = asyncio.create_task(engine.start("w", "e"))
    await asyncio.sleep(0)
    go_on.set()
    assert (await first).status == (await second).status == "completed"
    assert bodies == [1]
    assert [event.seq for event in await engine.history("e")] == [1, 2, 3, 4]
    await engine.aclose()


@pytest.mark.asyncio
async def test_a_completed_execution_stays_so_when_its_watcher_is_cut_off():
    told = asyncio.Event()

    class Endless:
        @hookimpl
        async def on_event(self, event):
            if isinstance(event, ExecutionCompleted):
                told.set()
                await asyncio.Event().wait()

    engine = WorkflowEngine(SQLiteStore(), plugins=[Endless()], settings=Settings(sync_handlers="inline"))
    engine.define("w", lambda ctx: 42)
    started = asyncio.create_task(engine.start("w", "e"))
    await told.wait()
    await engine.aclose()
    assert (await started).output == 42


@pytest.mark.asyncio
@pytest.mark.parametrize("automatic", [True, False])
async def test_a_restart_while_a_watcher_is_told_of_the_panic(automatic):
    told = asyncio.Event()
    go_on = asyncio.Event()

    class Slow:
        @hookimpl
        async def on_event(self, event):
            if isinstance(event, ExecutionPanicked):
                told.set()
                await go_on.wait()

    engine = WorkflowEngine(SQLiteStore(), plugins=[Slow()], settings=Settings(sync_handlers="inline"))
    bodies = []

    def body():
        bodies.append(1)
        if len(bodies) == 1:
            raise MemoryError

    engine.define("w", lambda ctx: ctx.step("a", body))
    await engine.start("w", "e", panic_config={"enable_auto_restart": automatic}, detach=True)
    await told.wait()
    restarted = asyncio.create_task(engine.restart("e"))
    await asyncio.sleep(0)
    go_on.set()
    assert (await restarted).status == "completed"
    assert len(bodies) == 2
    await engine.aclose()


def test_wrap_attempt_sees_the_steps_own_function():
    seen = []

    def body():
        return 1

    class Wrapper:
        @hookimpl
        def wrap_attempt(self, attempt):
            seen.append(attempt.handler)

    async def flow(ctx):
        await ctx.step("a", body)

    run(Wrapper(), handler=flow)
    assert seen == [body]


def test_wrap_attempt_changes_what_runs():
    order = []

    def wrapper(name):
        class Wrapper:
            @hookimpl
            def wrap_attempt(self, attempt):
                if attempt.step_id != "two":
                    return None

                def wrap(call):
                    async def wrapped():
                        order.append(f"{name} before {attempt.attempt}")
                        value = await call()
                        order.append(f"{name} after")
                        return value * 10

                    return wrapped

                return wrap

        return Wrapper()

    assert run(wrapper("inner"), wrapper("outer")).output == 200
    assert order == ["outer before 1", "inner before 1", "inner after", "outer after"]


def test_durable_points_are_seen_before_and_after():
    seen = []

    class Watcher:
        @hookimpl
        def before_durable_point(self, point):
            seen.append(("before", point.name, point.step_id))

        @hookimpl
        def after_durable_point(self, point):
            seen.append(("after", point.name, point.step_id))

    run(Watcher())
    names = [name for when, name, _ in seen if when == "before"]
    assert names == [
        "execution_started",
        "step_started",
        "step_completed",
        "sleep_started",
        "sleep_completed",
        "step_started",
        "step_completed",
        "execution_completed",
    ]
    assert seen[2:4] == [("before", "step_started", "one"), ("after", "step_started", "one")]
    assert set(names) <= set(DURABLE_POINTS)


def test_an_error_before_a_durable_point_prevents_it():
    store = SQLiteStore()

    class FullDisk:
        @hookimpl
        def before_durable_point(self, point):
            if point.name == "step_completed":
                raise StorageError("database or disk is full")

    engine = WorkflowEngine(store, plugins=[FullDisk()], settings=Settings(sync_handlers="inline"))

    @engine.define("w")
    async def flow(ctx):
        await ctx.step("one", lambda: 1)

    with pytest.raises(StorageError, match="full"):
        engine.run("w", "e")
    # The attempt is given back, and the execution waits to be resumed.
    assert store.select("SELECT status, attempt FROM steps") == [("pending", 0)]
    assert store.select("SELECT status, owner_id FROM executions") == [("running", None)]
    engine.close()


def test_panic_indicators_are_added():
    class Indicators:
        @hookimpl
        def panic_indicators(self):
            return ["reactor breach"]

    async def flow(ctx):
        raise RuntimeError("REACTOR BREACH in sector 7")

    result = run(Indicators(), handler=flow, panic_config={"enable_auto_restart": False})
    assert result.status == "panicked"
    assert result.error.indicator == "reactor breach"


def test_serializers_store_further_types():
    class Complex:
        @hookimpl
        def serializers(self):
            return [Serializer("complex", complex, lambda value: [value.real, value.imag], lambda pair: complex(*pair))]

    async def flow(ctx):
        return await ctx.step("z", lambda: {"z": 1 + 2j})

    assert run(Complex(), handler=flow).output == {"z": 1 + 2j}


def test_is_fatal_ends_at_once():
    calls = []

    class Strict:
        @hookimpl
        def is_fatal(self, error):
            return isinstance(error, KeyError) or None

    async def flow(ctx):
        async def broken():
            calls.append(ctx.attempt)
            raise KeyError("x")

        await ctx.step("s", broken).catch(lambda error, ctx: "never")

    with pytest.raises(KeyError):
        run(Strict(), handler=flow)
    assert calls == [1]


def test_everything_that_waits_is_raised_a_fatal_error():
    class Strict:
        @hookimpl
        def is_fatal(self, error):
            return isinstance(error, KeyError) or None

    async def flow(ctx):
        await asyncio.sleep(0)
        raise KeyError("x")

    async def main():
        engine = WorkflowEngine(SQLiteStore(), plugins=[Strict()])
        engine.define("w", flow)
        first = asyncio.create_task(engine.start("w", "e"))
        await asyncio.sleep(0)
        waiting = [engine.start_and_wait("w", "e"), engine.wait("e"), engine.resume("e")]
        raised = await asyncio.gather(first, *waiting, return_exceptions=True)
        assert [repr(error) for error in raised] == ["KeyError('x')"] * 4
        assert (await engine.wait("e")).status == (await engine.start("w", "e")).status == "failed"
        await engine.aclose()

    asyncio.run(main())


def test_force_circuit_opens_it():
    class Tripped:
        @hookimpl
        def force_circuit(self, attempt):
            return "open" if attempt.step_id == "pay" else None

    async def flow(ctx):
        return await ctx.step("pay", lambda: "paid").with_circuit_breaker(3, on_open=lambda ctx: "queued")

    assert run(Tripped(), handler=flow).output == "queued"


def test_a_plugin_is_registered_and_unregistered():
    seen = []

    class Watcher:
        @hookimpl
        def on_event(self, event):
            seen.append(event)

    engine = WorkflowEngine(SQLiteStore(), settings=Settings(sync_handlers="inline"))
    engine.define("w", lambda ctx: None)
    watcher = Watcher()
    engine.register(watcher)
    assert engine.extensions.observed
    engine.run("w")
    engine.unregister(watcher)
    assert not engine.extensions.observed
    count = len(seen)
    engine.run("w")
    assert len(seen) == count == 2
    engine.close()


def test_wrap_handler_surrounds_every_handler_of_a_step():
    seen = []

    class Wrapping:
        @hookimpl
        def wrap_handler(self, attempt, handler, error):
            def wrap(call):
                async def around():
                    seen.append((attempt.step_id, attempt.attempt, handler, error and str(error)))
                    value = await call()
                    return f"<{value}>"

                return around

            return wrap if handler != "on_error:LookupError" else None

    async def flow(ctx):
        def broken():
            raise KeyError("x")

        def pass_on(error, ctx):
            raise LookupError("worse")

        caught = await ctx.step("s", broken).on_error({LookupError: pass_on}).catch(lambda error, ctx: "caught")
        skipped = await ctx.step("open", broken).with_circuit_breaker(1, on_open=lambda ctx: 1).with_retry(backoff_ms=0)
        return caught, skipped

    assert run(Wrapping(), handler=flow).output == ("<caught>", "<1>")
    assert seen == [("s", 1, "catch", "worse"), ("open", 2, "on_open", None)]


class Runs:
    """Notes runs and what becomes of them."""

    def __init__(self):
        self.seen = []

    @hookimpl
    def wrap_run(self, run):
        self.seen.append(run)

        def wrap(call):
            async def around():
                self.seen.append("before")
                try:
                    return await call()
                finally:
                    self.seen.append("after")

            return around

        return wrap

    @hookimpl
    def on_event(self, event):
        self.seen.append(type(event).__name__)

    @hookimpl
    def on_run_left(self, run, leaving):
        self.seen.append(leaving)

    def described(self):
        return [each for each in self.seen if isinstance(each, Run)]


@pytest.mark.asyncio
async def test_wrap_run_is_told_of_each_run_before_the_event_that_begins_it(machine, clock):
    @machine.define("w", panic_config={"restart_delay_ms": 5_000})
    async def flow(ctx):
        if ctx.restart_attempt == 1:
            raise MemoryError

    runs = Runs()
    engine = machine.boot([runs])
    await clock.finish(engine.start_and_wait("w", "e"))
    first, second = runs.described()
    assert runs.seen == [
        *(first, "ExecutionStarted", "before", "after", "ExecutionPanicked"),
        *(second, "ExecutionRestarted", "before", "after", "ExecutionCompleted"),
    ]
    begun = clock.start
    assert first == Run("w", "e", 1, begun, begun, "started", False, False, (), clock.now)
    assert second == Run("w", "e", 2, begun, begun + timedelta(seconds=5), "restarted", False, False, (), clock.now)
    assert second.now() == clock.now()


@pytest.mark.asyncio
async def test_wrap_run_describes_what_a_dead_process_has_left(machine, clock):
    @machine.define("w", retry_config={"max_attempts": 2, "backoff_ms": 0})
    async def flow(ctx):
        def fail():
            if ctx.restart_attempt == 1:
                raise LookupError

        await ctx.step("fails", fail)
        await ctx.step("done", lambda: 1)

        async def hang():
            if len(machine.engines) == 1:
                await asyncio.Event().wait()

        await asyncio.gather(ctx.step("cut off", hang), ctx.sleep("rest", 10_000))

    engine = machine.boot()
    with pytest.raises(WorkflowError):
        await engine.start("w", "e")
    await clock.advance(1_000)
    restart = asyncio.create_task(engine.restart("e"))
    await clock.advance(1_000)
    await machine.crash(engine)
    await asyncio.gather(restart, return_exceptions=True)
    await clock.advance(1_000)
    runs = Runs()
    again = machine.boot([runs])
    await again.recover()
    await clock.finish(again.wait("e"))
    (found,) = runs.described()
    began = clock.start + timedelta(seconds=1)
    left = UnfinishedStep("cut off", "step", 1, began), UnfinishedStep("rest", "sleep", 1, began)
    assert found == Run("w", "e", 2, clock.start, began, "recovered", False, True, left, clock.now)


@pytest.mark.asyncio
async def test_a_run_that_panicked_in_a_dead_process_is_over(machine, clock):
    @machine.define("w", panic_config={"restart_delay_ms": 5_000})
    async def flow(ctx):
        if ctx.restart_attempt == 1:
            raise MemoryError

    engine = machine.boot()
    with pytest.raises(PanicError):
        await engine.start("w", "e")
    await machine.crash(engine)
    runs = Runs()
    again = machine.boot([runs])
    await again.recover()
    await clock.finish(again.wait("e"))
    assert [(run.beginning, run.is_over) for run in runs.described()] == [("recovered", True), ("restarted", False)]
    assert runs.seen.count("before") == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("leaving", ["released", "interrupted", "lost", "cancelled"])
async def test_on_run_left_tells_why_a_process_has_nothing_more_to_do_with_a_run(machine, clock, leaving):
    class Breaking(BaseException):
        pass

    @machine.define("w")
    async def flow(ctx):
        def work():
            if leaving == "interrupted" and len(machine.engines) == 1:
                raise Breaking

        await ctx.sleep("rest", 1_000)
        await ctx.step("work", work)

    runs = Runs()
    engine = machine.boot([runs])
    await engine.start("w", "e", detach=True)
    await clock.settle()
    if leaving == "released":
        await engine.aclose()
    elif leaving == "cancelled":
        await machine.boot().cancel("e")
    elif leaving == "lost":
        machine.dead.add(engine.owner.owner_id)
        await machine.boot().recover()
    await clock.advance(1_000)
    assert runs.seen.pop() == leaving
    assert not {"released", "interrupted", "lost", "cancelled"} & {each for each in runs.seen if isinstance(each, str)}


@pytest.mark.asyncio
async def test_a_crash_leaves_no_run_that_anybody_is_told_of(machine, clock):
    @machine.define("w")
    async def flow(ctx):
        await ctx.sleep("rest", 1_000)

    runs = Runs()
    engine = machine.boot([runs])
    await engine.start("w", "e", detach=True)
    await clock.settle()
    await machine.crash(engine)
    assert runs.seen[-2:] == ["SleepStarted", "after"]


def test_observers_of_runs_that_fail_disturb_nothing(caplog):
    class Clumsy:
        @hookimpl
        def wrap_run(self, run):
            raise RuntimeError("oops")

        @hookimpl
        def on_run_left(self, run, leaving):
            raise RuntimeError("oops")

        @hookimpl
        def log_fields(self):
            raise RuntimeError("oops")

    async def flow(ctx):
        ctx.logger.warning("here")
        return 1

    assert run(Clumsy(), handler=flow).output == 1
    assert [record.message.partition(" Run")[0] for record in caplog.records] == [
        "A plugin failed while it was told of",
        "A plugin failed while it was asked for the fields of a log record",
        "here",
    ]


def test_log_fields_are_added_to_records_and_to_lines_of_log_files(tmp_path, caplog):
    class Numbered:
        @hookimpl
        def log_fields(self):
            return {"request_id": "r-1", "step": "not ours to say"}

    class Silent:
        @hookimpl
        def log_fields(self):
            return None

    engine = WorkflowEngine(plugins=[Numbered(), Silent()], settings=Settings(directory=tmp_path))
    engine.define("w", lambda ctx: ctx.logger.warning("here", extra={"own": 1}))
    engine.run("w", "e")
    engine.close()
    (record,) = caplog.records
    assert (record.request_id, record.own, record.execution_id) == ("r-1", 1, "e")
    (line,) = [text for text in next(tmp_path.rglob("e*.log")).read_text().splitlines() if "here" in text]
    assert line.endswith("message=here own=1 request_id=r-1")


def test_a_wrong_hook_is_refused():
    class Wrong:
        @hookimpl
        def on_event(self, happening):
            pass

    store = SQLiteStore()
    with pytest.raises(pluggy.PluginValidationError):
        WorkflowEngine(store, plugins=[Wrong()])

    class Misspelt:
        @hookimpl
        def on_evnet(self, event):
            pass

    with pytest.raises(pluggy.PluginValidationError):
        WorkflowEngine(store, plugins=[Misspelt()])
    store.close()


def test_every_hook_has_a_test():
    source = Path(__file__).read_text(encoding="utf-8")
    hooks = [name for name in vars(WorkflowHooks) if not name.startswith("_")]
    assert all(f"def {name}(self" in source for name in hooks), hooks


def test_an_installed_plugin_is_found_by_its_entry_point(tmp_path):
    (tmp_path / "audit_plugin.py").write_text(
        textwrap.dedent(
            '''
            """An example plugin: it prints a line for every completed step."""

            from workflow_core import hookimpl
            from workflow_core.events import StepCompleted


            @hookimpl
            def on_event(event):
                if isinstance(event, StepCompleted):
                    print("AUDIT", event.execution_id, event.step_id)
            '''
        ),
        encoding="utf-8",
    )
    metadata = tmp_path / "audit_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: audit-plugin\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text("[workflow_core]\naudit = audit_plugin\n", encoding="utf-8")
    script = textwrap.dedent(
        """
        from workflow_core import Workflow, WorkflowEngine
        from workflow_core.database.sqlite import SQLiteStore
        engine = WorkflowEngine(SQLiteStore())
        @engine.define("w")
        async def flow(ctx):
            await ctx.step("one", lambda: 1)
        engine.run("w", "e")
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{script}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "AUDIT e one\n", done.stderr


def test_an_implementation_takes_some_of_the_arguments_in_any_order():
    seen = []

    class Watcher:
        @hookimpl
        def on_handler(self, error, handler):
            seen.append((handler, type(error)))

    async def flow(ctx):
        def broken():
            raise KeyError("price")

        return await ctx.step("look-up", broken).catch(lambda error, ctx: 1)

    assert run(Watcher(), handler=flow, retry_config={"max_attempts": 1}).output == 1
    assert seen == [("catch", KeyError)]


def test_an_implementation_that_wraps_the_others_is_called_around_them():
    seen = []

    class Inner:
        @hookimpl
        def on_event(self, event):
            seen.append(("inner", type(event).__name__))

    class Outer:
        @hookimpl(wrapper=True)
        def on_event(self, event):
            seen.append(("before", type(event).__name__))
            result = yield
            seen.append(("after", type(event).__name__))
            return result

    run(Outer(), Inner())
    assert seen[:3] == [("before", "ExecutionStarted"), ("inner", "ExecutionStarted"), ("after", "ExecutionStarted")]


def test_an_engine_that_takes_anothers_place_has_a_provided_plugin_of_its_own():
    class Provided: ...

    class Given: ...

    given = Given()
    provide(Provided)
    try:
        first = Extensions([given])
        second = first.handed_over([given])
    finally:
        withdraw(Provided)
    (one,), (other,) = ([each for each in extensions if isinstance(each, Provided)] for extensions in (first, second))
    assert one is not other
    assert given in second
