"""A worker in this process, on a real PostgreSQL: executions are handed to it, and it lets go of those that rest."""

import asyncio
import contextlib
import logging
import re
from datetime import UTC, datetime, timedelta

import pytest

from workflow_core import (
    InvalidStateError,
    NonRetryableError,
    PanicConfig,
    RetryConfig,
    Settings,
    StorageError,
    ValidationError,
    WorkflowEngine,
    WorkflowRedefinedWarning,
)
from workflow_core.limits import Limits

psycopg = pytest.importorskip("psycopg")
procrastinate = pytest.importorskip("procrastinate")
worker_module = pytest.importorskip("workflow_core.cluster.worker")
retrying = pytest.importorskip("workflow_core.cluster.retrying")
from workflow_core.cluster.settings import WorkerSettings  # noqa: E402

LOOKING = "USAGE ON SCHEMA {schema}", "SELECT ON ALL TABLES IN SCHEMA {schema}"
WRITING = "INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema}"
FAST = Settings(poll_interval_ms=10, sync_handlers="inline")
PLAIN = {"heartbeat_ms": 500, "poll_ms": 50, "rest_ms": 30, "grace_ms": 5_000}


def names(events):
    return [type(event).__name__ for event in events]


async def until(condition):
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.01)  # another task, and a server, are waited for


@contextlib.asynccontextmanager
async def working(engine, **settings):
    worker = worker_module.Worker(engine, WorkerSettings(**{**PLAIN, **settings}))
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(worker.run(stop, ready.set))
    wait = asyncio.create_task(ready.wait())
    await asyncio.wait([task, wait], return_when=asyncio.FIRST_COMPLETED)
    try:
        yield worker
    finally:
        stop.set()
        wait.cancel()
        await task
        await engine.aclose()


async def plain(ctx):
    return await ctx.step("a", lambda: ctx.input) + await ctx.step("b", lambda: 1)


async def sleeper(ctx):
    await ctx.step("a", lambda: 1)
    await ctx.sleep("pause", 60)
    return await ctx.step("b", lambda: 2)


async def parallel(ctx):
    return await asyncio.gather(ctx.sleep("one", 200), ctx.sleep("other", 250))


async def flaky(ctx):
    def body():
        if ctx.attempt < 2:
            raise ConnectionError("503")
        return ctx.attempt

    return await ctx.step("a", body)


async def panicking(ctx):
    def body():
        if ctx.restart_attempt < 2:
            raise MemoryError
        return ctx.restart_attempt

    return await ctx.step("a", body)


async def limited(ctx):
    return await ctx.step("a", lambda: ctx.input)


@pytest.fixture
def make_engine(make_postgres_store, postgres_queue):
    engines = []

    def make():
        engine = WorkflowEngine(make_postgres_store(), settings=FAST)
        engines.append(engine)
        engine.define("plain", plain)
        engine.define("sleeper", sleeper)
        engine.define("parallel", parallel)
        engine.define("flaky", flaky, retry_config=RetryConfig(max_attempts=3, backoff_ms=100))
        restarts = PanicConfig(enable_auto_restart=True, restart_delay_ms=1_000)
        engine.define("panicking", panicking, panic_config=restarts)
        engine.define("limited", limited, limits=Limits(concurrency=1))
        return engine

    yield make
    for engine in engines:
        engine.close()


def test_a_client_gets_the_result_of_what_a_worker_ran(make_engine):
    async def scenario():
        client = make_engine()
        queued = await client.enqueue("plain", "e", 41)
        assert queued.status == "queued"
        async with working(make_engine()):
            result = await client.wait("e")
            assert (result.status, result.output) == ("completed", 42)
            again = await client.enqueue("plain", "e", 41)
            assert again.status == "completed"
            assert (await client.start("plain", "e", 41)).output == 42
        assert names(await client.history("e")) == [
            "ExecutionStarted",
            *["StepStarted", "StepCompleted"] * 2,
            "ExecutionCompleted",
        ]

    asyncio.run(scenario())


@pytest.mark.parametrize("workflow", ["sleeper", "parallel", "flaky", "panicking"])
def test_who_rests_leaves_its_place_and_goes_on_when_it_is_due(make_engine, workflow):
    async def scenario():
        client, engine = make_engine(), make_engine()
        parked = []
        park = engine.bare_store.execution_parked

        async def noting(lease, due_at, at):
            await park(lease, due_at, at)
            parked.append(lease.execution_id)

        engine.bare_store.execution_parked = noting
        async with working(engine, concurrency=1):
            await client.enqueue(workflow, "e")
            result = await client.wait("e")
            assert result.status == "completed", result.error
            assert "e" in parked
        assert "ExecutionRecovered" not in names(await client.history("e"))

    asyncio.run(scenario())


def test_the_log_tells_of_each_execution_what_a_person_wants_to_know(make_engine, caplog):
    async def scenario():
        client, engine = make_engine(), make_engine()
        for each in (client, engine):
            each.define("declined", failing_step, retry_config=RetryConfig(max_attempts=1))
        with caplog.at_level(logging.INFO, "workflow_core"):
            async with working(engine):
                await client.enqueue("sleeper", "e")
                await client.wait("e")
                await client.enqueue("declined", "d")
                await client.wait("d")
        told = [
            (record.levelno, re.sub(r"until .* UTC|after .*", "...", record.getMessage()))
            for record in caplog.records
            if record.name == "workflow_core" and record.getMessage().startswith("Execution")
        ]
        assert told == [
            (logging.INFO, 'Execution "e" of workflow "sleeper" begins, from queue default'),
            (logging.INFO, 'Execution "e" of workflow "sleeper" waits ..., and leaves its place, ...'),
            (logging.INFO, 'Execution "e" of workflow "sleeper" goes on, from queue default'),
            (logging.INFO, 'Execution "e" of workflow "sleeper" has completed, ...'),
            (logging.INFO, 'Execution "d" of workflow "declined" begins, from queue default'),
            (logging.INFO, 'Execution "d" of workflow "declined" has failed, ...'),
        ]

    asyncio.run(scenario())


async def failing_step(ctx):
    def body():
        raise ValueError("no")

    return await ctx.step("a", body)


def test_others_run_in_the_place_of_who_rests(make_engine):
    async def scenario():
        client, engine = make_engine(), make_engine()

        @engine.define("long")
        @client.define("long")
        async def long(ctx):
            await ctx.sleep("pause", 60_000)

        async with working(engine, concurrency=1):
            await client.enqueue("long", "first")
            await client.enqueue("plain", "second", 1)
            assert (await client.wait("second")).output == 2
            assert (await client.get_status("first")).status == "sleeping"
            state = await client.bare_store.cluster_state()
            (queue,) = state.queues
            assert (queue.queue, queue.parked, queue.workers) == ("default", 1, 1)
            assert [(worker.is_alive, worker.concurrency) for worker in state.workers] == [(True, 1)]
            assert (await client.cancel("first")).status == "cancelled"
        assert (await client.bare_store.cluster_state()).workers == []

    asyncio.run(scenario())


def test_a_worker_that_is_told_to_stop_hands_over_what_does_not_end(make_engine, caplog):
    async def scenario():
        client, first, second = make_engine(), make_engine(), make_engine()
        begun = asyncio.Event()

        @first.define("stuck")
        @client.define("stuck")
        async def stuck(ctx):
            async def body():
                begun.set()
                await asyncio.Event().wait()

            await ctx.step("a", body)

        second.define("stuck", plain_step)
        async with working(first, grace_ms=0):
            await client.enqueue("stuck", "e")
            await begun.wait()
        assert (await client.get_status("e")).status == "running"
        with caplog.at_level(logging.INFO, "workflow_core"):
            async with working(second):
                result = await client.wait("e")
        assert (result.status, result.output) == ("completed", "done")
        assert "goes on, which another worker has given back, from queue default" in caplog.text
        history = await client.history("e")
        assert names(history)[:4] == ["ExecutionStarted", "StepStarted", "StepInterrupted", "ExecutionRecovered"]

    asyncio.run(scenario())


def test_an_execution_that_waits_for_its_restart_is_restarted_by_hand_at_once(make_engine):
    async def scenario():
        client, engine = make_engine(), make_engine()
        restarts = PanicConfig(enable_auto_restart=True, restart_delay_ms=3_600_000)
        for each in (client, engine):
            each.define("panicking", panicking, panic_config=restarts)
        async with asyncio.timeout(30), working(engine):
            await client.enqueue("panicking", "e")

            async def parked():
                return (await client.bare_store.dispatch_state("e")).place == "parked"

            await until(parked)
            await client.restart("e", detach=True)
            result = await client.wait("e")
            assert (result.status, result.output) == ("completed", 2)

    asyncio.run(scenario())


async def plain_step(ctx):
    return await ctx.step("a", lambda: "done")


def test_a_failed_execution_that_is_restarted_from_elsewhere_runs_on_a_worker(make_engine, caplog):
    async def scenario():
        client, engine = make_engine(), make_engine()
        calls = []

        @engine.define("failing")
        @client.define("failing")
        async def failing(ctx):
            def body():
                calls.append(ctx.restart_attempt)
                if len(calls) < 2:
                    raise ValueError("not yet")

            await ctx.step("a", body).with_retry(RetryConfig(max_attempts=1))

        async with working(engine):
            await client.enqueue("failing", "e")
            assert (await client.wait("e")).status == "failed"
            with caplog.at_level(logging.INFO, "workflow_core"):
                await client.restart("e", detach=True)
                assert (await client.wait("e")).status == "completed"
            assert calls == [1, 2]
            assert 'Execution "e" of workflow "failing" goes on, from queue default' in caplog.text
            assert "ExecutionRecovered" not in names(await client.history("e"))  # nobody has left it
            with pytest.raises(InvalidStateError):
                await client.resume("e")

    asyncio.run(scenario())


@pytest.mark.parametrize("trouble", ["cancelled meanwhile", "a server that is away for a moment"])
def test_a_restart_by_hand_of_what_workers_run_is_handed_to_them_all_the_same(make_engine, monkeypatch, trouble):
    async def failing(ctx):
        raise NonRetryableError("no")

    async def scenario():
        client, other, engine = make_engine(), make_engine(), make_engine()
        for each in (client, engine):
            each.define("failing", failing)
        async with working(engine):
            await client.enqueue("failing", "e")
            assert (await client.wait("e")).status == "failed"
        store, times = client.bare_store, []
        released = type(store).execution_released

        async def execution_released(*args):
            times.append(args)
            if trouble == "cancelled meanwhile":
                await other.cancel("e")
            elif len(times) == 1:
                raise StorageError("away", store.location(), "unavailable")
            await released(store, *args)

        monkeypatch.setattr(store, "execution_released", execution_released)
        result = await client.restart("e", detach=True)
        owner = await store.fetch("SELECT owner_id FROM {s}.executions")
        await other.aclose()
        await client.aclose()
        return result.status, owner, len(times)

    expected = {"cancelled meanwhile": ("cancelled", [(None,)], 1)}
    assert asyncio.run(scenario()) == expected.get(trouble, ("restarting", [(None,)], 2))


def test_a_worker_leaves_an_execution_that_it_does_not_know_to_others(make_engine, caplog):
    async def scenario():
        client, engine = make_engine(), make_engine()
        client.define("unknown", plain_step)
        async with working(engine):
            await client.enqueue("unknown", "e")

            async def complained():
                return "is not defined in this process" in caplog.text

            with caplog.at_level(logging.ERROR, "workflow_core"):
                await until(complained)
            assert (await client.get_status("e")).status == "queued"
            await client.enqueue("plain", "other", 1)
            assert (await client.wait("other")).status == "completed"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("attempts", "least", "most"),
    [(0, 250, 500), (1, 500, 1_000), (4, 4_000, 8_000), (5, 5_000, 10_000), (10**6, 5_000, 10_000)],
)
def test_the_times_between_the_tries_of_what_a_worker_does_not_know_grow_and_differ(attempts, least, most):
    job = procrastinate.jobs.Job(
        id=1, queue="q", lock=None, queueing_lock=None, task_name="t", attempts=attempts, worker_id=None
    )
    error = retrying.NotDefinedHereError("w")
    now = datetime.now(UTC)
    waits = [
        (retrying.TriedAgain().get_retry_decision(exception=error, job=job).retry_at - now) / timedelta(milliseconds=1)
        for _ in range(50)
    ]
    assert least <= min(waits) < max(waits) < most + 1_000
    assert max(waits) - min(waits) > (most - least) / 2


@pytest.mark.parametrize("in_step", [True, False], ids=["in a step", "outside of steps"])
@pytest.mark.parametrize("raised", [None, GeneratorExit], ids=["cancels itself", "GeneratorExit"])
def test_an_execution_that_stops_itself_each_time_comes_to_an_end(make_postgres_store, caplog, in_step, raised):
    async def scenario():
        engine = WorkflowEngine(make_postgres_store(), settings=FAST.model_copy(update={"max_recoveries": 2}))
        begun = []

        async def stop():
            begun.append(asyncio.current_task())
            if raised is not None:
                raise raised
            begun[-1].cancel()
            await asyncio.sleep(0)

        async def stopping(ctx):
            await (ctx.step("stop", stop) if in_step else stop())

        engine.define("stopping", stopping)

        client = WorkflowEngine(make_postgres_store(), settings=FAST)
        client.define("stopping", stopping)
        async with client, working(engine):
            await client.enqueue("stopping", "e", retry_config=RetryConfig(max_attempts=2, backoff_ms=1))
            result = await asyncio.wait_for(client.wait("e"), 20)
        assert (result.status, result.error.type) == (
            "failed",
            "StepInterruptedError" if in_step else "ExecutionInterruptedError",
        )
        assert len(begun) == (2 if in_step else 3)

    asyncio.run(scenario())
    assert ("has cancelled its own task" in caplog.text) == (raised is None)


def test_an_execution_that_is_claimed_again_before_its_worker_has_done_with_it_goes_on(make_engine):
    """What lets go of it is committed, and the answer comes when the same worker has its next job already."""

    async def scenario():
        client, engine = make_engine(), make_engine()
        park = engine.bare_store.execution_parked

        async def is_claimed():
            return await client.bare_store.fetch("SELECT 1 FROM {s}.dispatches WHERE state = 'claimed'") != []

        async def told_late(*arguments):
            await park(*arguments)
            await until(is_claimed)

        engine.bare_store.execution_parked = told_late
        async with working(engine):
            await client.enqueue("sleeper", "e")
            assert (await asyncio.wait_for(client.wait("e"), 20)).output == 2

    asyncio.run(scenario())


def test_a_job_whose_fetch_was_lost_is_fetched_again(make_engine, postgres_url, postgres_schema):
    async def scenario():
        client, engine = make_engine(), make_engine()
        async with working(engine, heartbeat_ms=100) as worker:
            await client.enqueue("plain", "e", 1, queue="elsewhere")
            with psycopg.connect(postgres_url, options=f"-c search_path={postgres_schema}") as connection:
                connection.execute(
                    "UPDATE procrastinate_jobs SET status = 'doing', queue_name = 'default', worker_id = %s"
                    " WHERE queue_name = 'elsewhere'",
                    (worker._worker_id,),
                )
            assert (await client.wait("e")).output == 2

    asyncio.run(scenario())


def test_a_worker_whose_queue_is_refused_ends_with_the_reason(make_engine, postgres_url, postgres_schema):
    async def scenario():
        engine = make_engine()
        await worker_module.dispatching_store(engine).make_queue()
        with psycopg.connect(postgres_url, options=f"-c search_path={postgres_schema}") as connection:
            connection.execute("ALTER TABLE procrastinate_periodic_defers RENAME TO gone")
        try:
            with pytest.raises(StorageError, match='queue has stopped: relation "procrastinate_periodic_defers" does'):
                await worker_module.Worker(engine, WorkerSettings(**PLAIN)).run(asyncio.Event())
        finally:
            await engine.aclose()


def test_a_worker_that_lacks_a_privilege_names_what_to_grant(make_engine, make_postgres_store, make_poor_role):
    async def scenario():
        store = make_engine().bare_store
        await store.make_queue()
        engine = WorkflowEngine(make_postgres_store(make_poor_role(*LOOKING, WRITING)), settings=FAST)
        engine.define("plain", plain)
        try:
            with pytest.raises(StorageError, match="queue has stopped: permission denied for sequence") as caught:
                await worker_module.Worker(engine, WorkerSettings(**PLAIN)).run(asyncio.Event())
        finally:
            await engine.aclose()
        assert f'(who owns it gives the privilege: GRANT USAGE ON ALL SEQUENCES IN SCHEMA {store.schema} TO "poor_' in (
            str(caught.value)
        )
        assert "CONTEXT" not in str(caught.value)

    asyncio.run(scenario())


def test_jobs_of_others_in_the_same_database_that_are_aborted_abort_none_of_ours(make_engine):
    async def scenario():
        client, engine = make_engine(), make_engine()
        begun, go_on, calls = asyncio.Event(), asyncio.Event(), []

        async def body():
            calls.append(1)
            begun.set()
            await go_on.wait()

        async def held(ctx):
            await ctx.step("a", body)

        for each in (client, engine):
            each.define("held", held)
        async with working(engine):
            await client.enqueue("held", "e")
            await begun.wait()
            await client.bare_store.fetch(
                "SELECT pg_notify('procrastinate_queue_v1#default', json_build_object('type', 'abort_job_requested',"
                " 'job_id', job_id)::text) FROM {s}.dispatches"
            )
            await client.enqueue("plain", "after", 1)  # is announced behind it
            await client.wait("after")
            go_on.set()
            assert (await client.wait("e")).status == "completed"
        assert calls == [1]

    asyncio.run(scenario())


def test_a_limit_holds_on_workers(make_engine):
    async def scenario():
        client, engine = make_engine(), make_engine()
        async with working(engine):
            for number in range(5):
                await client.enqueue("limited", f"e{number}", number)
            outputs = [(await client.wait(f"e{number}")).output for number in range(5)]
            assert outputs == list(range(5))

    asyncio.run(scenario())


def test_the_limits_of_the_newest_definition_hold_as_soon_as_a_worker_begins(make_engine):
    async def limited_executions(client):
        rows = await client.bare_store.fetch("SELECT execution_id FROM {s}.dispatches WHERE state = 'waiting'")
        return sorted(execution_id for (execution_id,) in rows)

    async def scenario():
        older, client, newer = make_engine(), make_engine(), make_engine()
        for execution_id in "abc":
            await client.enqueue("limited", execution_id, queue="elsewhere")
        assert await limited_executions(client) == ["b", "c"]
        with pytest.warns(WorkflowRedefinedWarning):
            newer.define("limited", plain)
        async with working(newer):
            assert await limited_executions(client) == []
        async with working(older):
            await older.enqueue("limited", "d", queue="elsewhere")
            assert await limited_executions(client) == []
        async with working(make_engine()):  # as after a rollback
            await client.enqueue("limited", "e", queue="elsewhere")
            assert await limited_executions(client) == ["e"]

    asyncio.run(scenario())


def test_a_rate_limit_lets_the_next_one_begin_on_time(make_engine):
    async def scenario():
        client, engine = make_engine(), make_engine()
        for each in (client, engine):
            each.define("rated", limited, limits=Limits(starts=1, period_ms=100))
        async with working(engine):
            for number in range(4):
                await client.enqueue("rated", f"e{number}", number)
            for number in range(4):
                assert (await client.wait(f"e{number}")).output == number
        rows = await client.bare_store.fetch(
            "SELECT first_start_at - lag(first_start_at) OVER (ORDER BY first_start_at) FROM {s}.dispatches"
        )
        pauses = [pause for (pause,) in rows if pause is not None]
        assert min(pauses) >= timedelta(milliseconds=100)

    asyncio.run(scenario())


def test_a_handler_that_catches_its_cancellation_is_let_go_of_all_the_same(make_engine):
    async def scenario():
        client, engine = make_engine(), make_engine()

        @engine.define("stubborn")
        @client.define("stubborn")
        async def stubborn(ctx):
            try:
                await ctx.sleep("pause", 60)
            except asyncio.CancelledError:
                return "caught"
            return await ctx.step("after", lambda: "slept")

        async with working(engine):
            await client.enqueue("stubborn", "e")
            assert (await client.wait("e")).output == "slept"

    asyncio.run(scenario())


def test_a_worker_can_be_stopped_while_the_database_is_away(make_postgres_store, proxy, caplog):
    async def scenario():
        engine = WorkflowEngine(make_postgres_store(proxy.url), settings=FAST)
        engine.define("plain", plain)
        with caplog.at_level(logging.WARNING, "workflow_core"):
            async with asyncio.timeout(20), working(engine, grace_ms=10):
                proxy.close()
        assert "ends while the database is away" in caplog.text

    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
    try:
        asyncio.run(scenario())
    finally:
        logging.getLogger("psycopg.pool").setLevel(logging.NOTSET)


def test_without_workers_an_execution_begins_here(tmp_path):
    async def scenario():
        async with WorkflowEngine(settings=Settings(directory=tmp_path)) as engine:
            engine.define("plain", plain_step)
            assert (await engine.enqueue("plain", "e")).status == "running"
            assert (await engine.wait("e")).output == "done"
            assert (await engine.enqueue("plain", "e")).status == "completed"
            with pytest.raises(ValidationError, match="Workers need PostgreSQL"):
                worker_module.Worker(engine)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "wrong", [{"queue": "a b"}, {"queue": "workflow_core"}, {"queue": ""}, {"priority": True}, {"priority": 10**9}]
)
def test_arguments_that_cannot_be(make_engine, wrong):
    async def scenario():
        with pytest.raises(ValidationError):
            await make_engine().enqueue("plain", "e", 1, **wrong)

    asyncio.run(scenario())


def test_a_worker_that_is_told_to_stop_lives_on_while_its_executions_end(make_engine):
    async def heartbeat(store, after=None):
        async with asyncio.timeout(20):
            while True:
                ((told,),) = await store.fetch("SELECT last_heartbeat FROM {s}.procrastinate_workers")
                if after is None or told > after:
                    return told

    async def scenario():
        engine = make_engine()
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def body():
            begun.set()
            await go_on.wait()

        async def held(ctx):
            await ctx.step("a", body)

        engine.define("held", held)
        stop = asyncio.Event()
        worker = worker_module.Worker(engine, WorkerSettings(**{**PLAIN, "grace_ms": 60_000, "heartbeat_ms": 100}))
        run = asyncio.create_task(worker.run(stop))
        await engine.enqueue("held", "e")
        await begun.wait()
        stop.set()
        told = await heartbeat(engine.bare_store)
        for _ in range(5):
            told = await heartbeat(engine.bare_store, after=told)

        async def serves_none():
            return not (await engine.bare_store.cluster_state()).workers[0].queues

        await until(serves_none)
        state = await engine.bare_store.cluster_state()
        assert [(worker.is_alive, worker.running) for worker in state.workers] == [(True, 1)]
        assert [queue.workers for queue in state.queues] == [0]
        go_on.set()
        await run
        assert (await engine.wait("e")).status == "completed"
        await engine.aclose()

    asyncio.run(scenario())
