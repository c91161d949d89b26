"""What an engine takes and refuses at a start, and how it ends under executions that still run."""

import asyncio
import contextlib

import pytest

from workflow_core import InvalidStateError, RetryConfig, ValidationError, WorkflowEngine, WorkflowNotFoundError
from workflow_core.clock import to_epoch_ms
from workflow_core.database.directory import DirectoryStore


def test_a_start_may_bring_its_own_retries(machine, clock):
    @machine.define("w")
    async def flow(ctx):
        async def broken():
            raise ValueError("no")

        await ctx.step("s", broken)

    async def main():
        engine = machine.boot()
        await engine.start("w", "e", retry_config=RetryConfig(max_attempts=2, backoff_ms=70), detach=True)
        return await clock.finish(engine.wait("e"))

    assert asyncio.run(main()).steps["s"].attempt == 2
    assert clock.elapsed_ms == 70


def test_an_engine_is_closed_before_what_runs_in_it_is_stopped(machine, clock):
    seen = []

    @machine.define("w")
    async def flow(ctx):
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(machine.engines[0].closed)

    async def main():
        engine = machine.boot()
        await engine.start("w", "e", detach=True)
        await clock.settle()
        assert not engine.closed
        await engine.aclose()

    asyncio.run(main())
    assert seen == [True]


def test_executions_of_an_engine_that_is_abandoned_meet_what_they_are_told(machine, clock):
    seen = []

    class Death(BaseException):
        pass

    @machine.define("w")
    async def flow(ctx):
        try:
            await asyncio.Event().wait()
        finally:
            with pytest.raises(Death) as caught:
                await ctx.step("too late", lambda: seen.append("a step"))
            seen.append(caught.value)

    async def main():
        engine = machine.boot()
        await engine.start("w", "e", detach=True)
        await clock.settle()
        await asyncio.gather(*engine.abandon(death), return_exceptions=True)

    death = Death()
    asyncio.run(main())
    assert seen == [death]


def test_an_event_loop_is_needed_and_trio_is_none(machine):
    with pytest.raises(InvalidStateError) as caught:
        machine.boot().check_event_loop()
    assert str(caught.value) == (
        "Workflows run in asyncio's event loop, and none runs here; trio is not supported: with anyio, use its asyncio "
        "backend"
    )


def test_run_refuses_to_block_an_event_loop(machine):
    async def main():
        machine.boot().run("w")

    with pytest.raises(InvalidStateError) as caught:
        asyncio.run(main())
    assert str(caught.value) == "run() cannot be called from asynchronous code: await start() instead"


def test_run_takes_what_start_takes(machine, clock):
    @machine.define("w")
    async def flow(ctx):
        def broken():
            raise ValueError("no")

        if ctx.input == "late":
            await asyncio.Event().wait()
        if ctx.input == "full":
            raise MemoryError("full")
        await ctx.step("s", broken)

    def run(execution_id, given, **options):
        async def main():
            begun = asyncio.ensure_future(engine.start_and_wait("w", execution_id, given, **options))
            return await clock.finish(begun)

        return asyncio.run(main())

    engine = machine.boot()
    assert run("one", {"a": 1}, retry_config={"max_attempts": 2, "backoff_ms": 0}).steps["s"].attempt == 2
    assert engine.run("w", "two", "given", {"max_attempts": 1}).input == "given"
    assert engine.run("w", "two", "given").steps["s"].attempt == 1
    assert engine.run("w", "three", "full", None, {"enable_auto_restart": False}).status == "panicked"
    assert run("four", "late", timeout_ms=50).error.type == "WorkflowTimeoutError"


def test_a_workflow_that_is_not_defined_is_told_with_those_that_are(machine):
    async def start(name):
        await machine.boot().start(name)

    machine.define("one")(lambda ctx: 1)
    told = r'No workflow "none" is defined in this process \(defined: (.*, )?one(, .*)?\); import the module that '
    with pytest.raises(WorkflowNotFoundError, match=f"{told}defines it"):
        asyncio.run(start("none"))
    for name in ("", 5):
        with pytest.raises(ValidationError) as caught:
            asyncio.run(start(name))
        assert str(caught.value) == f"A workflow name must be a non-empty string, not {name!r}"


def test_a_definition_is_of_the_first_version_unless_it_says_so(machine):
    engine = machine.boot()
    engine.define("function", lambda ctx: 1)

    @engine.define("decorated", description="told", version="2.0.0", retry_config={"max_attempts": 2})
    async def decorated(ctx):
        """Not this line."""

    assert engine.definition("function").version == "1.0.0"
    found = engine.definition("decorated")
    assert (found.version, found.description, found.retry_config.max_attempts) == ("2.0.0", "told", 2)


def test_one_database_is_no_runtime_directory_to_back_up(machine, tmp_path):
    engine = machine.boot()
    with pytest.raises(InvalidStateError) as caught:
        asyncio.run(engine.backup(tmp_path / "copy"))
    assert str(caught.value) == (
        "Only a runtime directory can be backed up, and the store of this engine is one database "
        f"({engine.store.location()}); copy that with pg_dump, or SQLite's with the backup() of Python's sqlite3"
    )
    assert repr(engine) == f"<WorkflowEngine on {engine.store.location()}>"


def test_no_engine_is_closed_inside_its_own_workflow(machine, clock):
    @machine.define("w")
    async def flow(ctx):
        with pytest.raises(InvalidStateError) as caught:
            await engine.aclose()
        return str(caught.value)

    engine = machine.boot()
    assert asyncio.run(clock.finish(engine.start_and_wait("w", "e"))).output == (
        "aclose() cannot be awaited inside a workflow: it waits for the workflows to stop"
    )


def test_an_engine_that_writes_no_log_has_none_to_complete(machine, clock):
    machine.define("w")(lambda ctx: 1)
    engine = machine.boot()
    asyncio.run(clock.finish(engine.start_and_wait("w", "e")))
    assert asyncio.run(engine.complete_log("e")) == 0


def test_restarting_and_resuming_return_at_once_if_they_are_asked_to(machine, clock):
    runs = []

    @machine.define("w", panic_config={"enable_auto_restart": False})
    async def flow(ctx):
        runs.append(ctx.input)
        if len(runs) == 1:
            raise MemoryError("full")
        await ctx.sleep("nap", 1_000)

    async def main():
        engine = machine.boot()
        await clock.finish(engine.start_and_wait("w", "e"))
        begun = await engine.restart("e", detach=True)
        await clock.settle()
        await machine.crash(engine)
        engine = machine.boot()
        resumed = await engine.resume("e", detach=True)
        return begun.status, resumed.status, (await clock.finish(engine.wait("e"))).status

    begun, resumed, ended = asyncio.run(main())
    assert begun in {"running", "restarting"}
    assert resumed in {"running", "sleeping"}
    assert ended == "completed"


def test_without_workers_what_is_enqueued_begins_here_with_all_that_it_was_given(machine, clock):
    @machine.define("w")
    async def flow(ctx):
        def broken():
            raise MemoryError("full") if ctx.input == "full" else ValueError("no")

        if ctx.input == "late":
            await asyncio.Event().wait()
        await ctx.step("s", broken)

    async def main():
        engine = machine.boot()
        begun = await engine.enqueue("w", "one", {"a": 1}, {"max_attempts": 2, "backoff_ms": 0})
        await engine.enqueue("w", "two", "full", None, {"enable_auto_restart": False})
        await engine.enqueue("w", "three", "late", timeout_ms=50)
        again = await engine.enqueue("w", "one", {"a": 1})
        ended = [await clock.finish(engine.wait(name)) for name in ("one", "two", "three")]
        return begun, again, *ended, await engine.enqueue("w", "one", {"a": 1})

    begun, again, one, two, three, stored = asyncio.run(main())
    assert (begun.status, begun.input, again.status) == ("running", {"a": 1}, "running")
    assert one.steps["s"].attempt == 2
    assert two.status == "panicked"
    assert three.error.type == "WorkflowTimeoutError"
    assert stored == one


def test_run_ends_what_takes_too_long(machine):
    @machine.define("w")
    async def flow(ctx):
        await asyncio.Event().wait()

    async def end():
        while not machine.clock.timers:
            await asyncio.sleep(0)
        await machine.clock.advance(50)

    async def start_and_wait(*arguments, **options):
        ending = asyncio.ensure_future(end())
        result = await begin(*arguments, **options)
        await ending
        return result

    engine = machine.boot()
    begin, engine.start_and_wait = engine.start_and_wait, start_and_wait
    assert engine.run("w", timeout_ms=50).error.type == "WorkflowTimeoutError"


def test_an_engine_that_is_closed_says_so(machine):
    engine = machine.boot()
    assert not engine.closed
    engine.close()
    assert engine.closed


def test_cleaning_up_one_workflow_leaves_the_others(machine, clock):
    async def main():
        for name in ("one", "two"):
            await clock.finish(engine.start_and_wait(name, name))
        await clock.advance(10)
        report = await clock.finish(engine.cleanup(5, workflow_name="one"))
        return report.removed, [each.execution_id for each in await engine.list_executions()]

    for name in ("one", "two"):
        machine.define(name)(lambda ctx: 1)
    engine = machine.boot()
    assert asyncio.run(main()) == ({"one": 1}, ["two"])


@pytest.mark.parametrize("batch", [0, 10_001])
def test_a_size_of_a_batch_that_cannot_be_is_named(machine, batch):
    async def main():
        await machine.boot().cleanup(5, batch=batch)

    with pytest.raises(ValidationError, match=r"^batch must be"):
        asyncio.run(main())


def test_a_definition_has_the_limits_that_it_is_given(machine):
    engine = machine.boot()
    engine.define("w", lambda ctx: 1, limits={"concurrency": 3})
    assert engine.definition("w").limits.concurrency == 3


def test_a_mirror_sees_the_same_workflows_configurations_and_processes(machine, make_sqlite_store):
    engine = machine.boot()
    engine.define("w", lambda ctx: 1)
    engine.configure("w", environment="test")
    own = engine.settings.model_copy(update={"storage_patience_ms": None})
    mirror = engine.mirror(make_sqlite_store(), own)
    assert mirror.settings == own
    assert mirror.definition("w") is engine.definition("w")
    assert (mirror.configurations, mirror.secrets) == (engine.configurations, engine.secrets)
    assert (mirror.codec, mirror.clock) == (engine.codec, engine.clock)
    assert mirror.owner.host == engine.owner.host


def test_an_engine_lets_go_of_what_rests_for_long_if_it_is_told_to(machine, clock):
    engine, now_ms = machine.boot(), to_epoch_ms(clock.now())
    assert not engine.parks_until(now_ms + 5_000)
    engine.let_go_after(1_000)
    assert [engine.parks_until(now_ms + rest_ms) for rest_ms in (999, 1_000)] == [False, True]


def test_a_runtime_directory_that_is_given_has_its_configurations(tmp_path, clock):
    async def main():
        with contextlib.closing(WorkflowEngine(DirectoryStore(tmp_path), clock)) as engine:

            @engine.define("w")
            async def flow(ctx):
                return ctx.config.variables["shop"]

            return (await engine.start_and_wait("w")).output

    (tmp_path / "workflows" / "w").mkdir(parents=True)
    (tmp_path / "workflows" / "w" / "config.json").write_text('{"environment": "test", "variables": {"shop": "north"}}')
    assert asyncio.run(main()) == "north"
