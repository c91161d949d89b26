"""What only PostgreSQL has: a server that can be away, tables that several processes make, and locks that wait."""

import asyncio
import concurrent.futures
import contextlib
import gc
from datetime import UTC, datetime
from unittest.mock import Mock
from urllib.parse import quote

import pytest

from pytest_workflow import VirtualClock
from tests.unit.conftest import sql
from tests.unit.store_calls import NOW, OWNER
from workflow_core import LeaseLostError, SchemaVersionError, Settings, StorageError, WorkflowEngine
from workflow_core.circuit_breaker import after_failure
from workflow_core.database.postgres.schema import SCHEMA_VERSION
from workflow_core.database.removal import Expiry
from workflow_core.database.store import CircuitChange, ErrorRecord, Lease, NewExecution, StepRecord
from workflow_core.models import CircuitBreakerConfig
from workflow_core.ownership import Owner

pytestmark = pytest.mark.usefixtures("postgres_schema")  # the tables are made by the test, and changed
LEASE = Lease("w", "e", 1)
CONFIG = CircuitBreakerConfig(failure_threshold=100, reset_timeout_ms=1_000)


@pytest.fixture
def store_kind():
    return "postgres"


def with_parameter(url, name, value):
    return f"{url}{'&' if '?' in url else '?'}{name}={quote(value)}"


async def begin(store, execution_id="e"):
    new = NewExecution("w", execution_id, None, "{}", "{}", None)
    assert await store.execution_started(new, OWNER, None, NOW) is None
    return Lease("w", execution_id, 1)


# The tables ----------------------------------------------------------------------------------------------------------


def test_several_processes_make_the_tables_at_the_same_moment(make_postgres_store):
    async def scenario():
        stores = [make_postgres_store() for _ in range(8)]
        await asyncio.gather(*(store.open() for store in stores))
        assert await sql(stores[0], "SELECT version FROM {s}.schema_version") == [(SCHEMA_VERSION,)]

    asyncio.run(scenario())


def test_a_newer_schema_is_refused_and_left_alone(make_postgres_store):
    async def scenario():
        store = make_postgres_store()
        await store.open()
        await sql(store, "UPDATE {s}.schema_version SET version = 99")
        with pytest.raises(SchemaVersionError, match="version 99") as caught:
            await make_postgres_store().load_execution("e")
        assert (caught.value.reason, caught.value.is_transient) == ("schema", False)

    asyncio.run(scenario())


def test_tables_of_another_program_are_refused(make_postgres_store, postgres_schema, postgres_url):
    import psycopg

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {postgres_schema}")
        connection.execute(f"CREATE TABLE {postgres_schema}.steps (id int)")
        with pytest.raises(SchemaVersionError, match=r"another program \(steps\); choose another schema"):
            asyncio.run(make_postgres_store().open())
        connection.execute(f"ALTER TABLE {postgres_schema}.steps RENAME TO ours")
        asyncio.run(make_postgres_store().open())  # it may live beside the user's own tables


def test_tables_that_cannot_be_made_are_not_half_made(make_postgres_store, monkeypatch):
    from workflow_core.database.postgres import migrations

    whole = migrations.SCHEMA
    monkeypatch.setattr(migrations, "SCHEMA", (*whole[:4], "CREATE TABLE {s}.steps (broken"))
    with pytest.raises(StorageError, match="syntax error"):
        asyncio.run(make_postgres_store().open())
    monkeypatch.setattr(migrations, "SCHEMA", whole)
    asyncio.run(make_postgres_store().open())


def test_missing_tables_are_damage(make_postgres_store):
    async def scenario():
        store = make_postgres_store()
        await begin(store)
        await sql(store, "DROP TABLE {s}.step_errors CASCADE")
        with pytest.raises(StorageError, match="step_errors") as caught:
            await store.load_errors("w", "e")
        assert caught.value.reason == "damaged"

    asyncio.run(scenario())


def test_a_migration_brings_an_older_schema_up(make_postgres_store, monkeypatch):
    from workflow_core.database.postgres import migrations

    async def scenario():
        await make_postgres_store().open()
        newer = SCHEMA_VERSION + 1
        monkeypatch.setattr(migrations, "SCHEMA_VERSION", newer)
        monkeypatch.setattr(
            migrations, "MIGRATIONS", {SCHEMA_VERSION: ("ALTER TABLE {s}.executions ADD COLUMN extra text",)}
        )
        stores = [make_postgres_store() for _ in range(4)]
        await asyncio.gather(*(store.open() for store in stores))
        assert await sql(stores[0], "SELECT version FROM {s}.schema_version") == [(newer,)]
        assert await sql(stores[0], "SELECT extra FROM {s}.executions") == []

    asyncio.run(scenario())


# Latency -------------------------------------------------------------------------------------------------------------


def test_an_execution_is_read_as_a_whole_and_taken_over(machine, clock, monkeypatch):
    """Each of both is one exchange with the server; before them a page of what is unfinished is read."""

    @machine.define("w")
    async def flow(ctx):
        await ctx.step("a", lambda: 1)
        await ctx.sleep("rest", 1_000)

    async def scenario():
        engine = machine.boot()
        for number in range(3):
            await engine.start("w", f"e{number}", detach=True)
        await clock.settle()
        await machine.crash(engine)
        again, exchanges = machine.boot(), []
        store = again.bare_store
        together = store.together

        async def counted(work):
            exchanges.append(work)
            return await together(work)

        monkeypatch.setattr(store, "together", counted)
        assert len(await again.recover()) == 3
        assert len(exchanges) == 1 + 2 * 3
        monkeypatch.undo()
        assert [(await clock.finish(again.wait(f"e{number}"))).status for number in range(3)] == ["completed"] * 3

    asyncio.run(scenario())


def test_round_trips(make_postgres_store, proxy):
    """A step costs two, and so does a sleep; a circuit costs a look before each, and a failure one write more."""
    store = make_postgres_store(proxy.url)
    engine = WorkflowEngine(store, settings=Settings(sync_handlers="inline", lease_ms=None))
    costs = {}

    @contextlib.contextmanager
    def counted(name):
        before = proxy.requests
        yield
        costs[name] = proxy.requests - before

    @engine.define("w")
    async def flow(ctx):
        with counted("step"):
            await ctx.step("s", lambda: 1)
        with counted("sleep"):
            await ctx.sleep("z", 1)
        with counted("circuit"):
            await ctx.step("c", lambda: 1).with_circuit_breaker(5)
        with counted("caught"):
            await ctx.step("f", lambda: 1 / 0).catch(lambda error, ctx: 1)

    async def scenario():
        for number in range(8):  # statements are prepared when they have been used a few times
            before = proxy.requests
            await engine.start("w", f"e{number}")
        costs["all"] = proxy.requests - before
        await engine.aclose()

    asyncio.run(scenario())
    assert costs == {"step": 2, "sleep": 2, "circuit": 4, "caught": 3, "all": 13}


# A server that cannot be used ----------------------------------------------------------------------------------------


def test_an_execution_waits_for_a_server_that_stops_and_goes_on_when_it_is_back(make_postgres_store, postgres_server):
    ran = []

    async def scenario():
        engine = WorkflowEngine(make_postgres_store(postgres_server.url), settings=Settings(sync_handlers="inline"))

        @engine.define("w")
        async def flow(ctx):
            def stop():
                ran.append(ctx.attempt)
                postgres_server.stop()

            await ctx.step("s", stop)
            return await ctx.step("t", lambda: "done")

        running = asyncio.ensure_future(engine.start("w", "e"))
        while not ran:
            await asyncio.sleep(0)
        while not any("the database" in reason for reason in engine.running()[0].waiting_for()):
            await asyncio.sleep(0)
        reason = engine.running()[0].waiting_for()[0]
        postgres_server.start()
        assert (await running).output == "done"
        await engine.aclose()
        return reason

    assert "check that the server runs" in asyncio.run(scenario())
    assert ran == [1]


@pytest.mark.parametrize("is_new", [True, False], ids=["first use", "in use"])
def test_what_is_enqueued_waits_for_a_server_that_is_away(make_postgres_store, postgres_server, is_new, caplog):
    async def scenario():
        async with WorkflowEngine(make_postgres_store(postgres_server.url)) as engine:
            engine.define("w", lambda ctx: "done")
            if not is_new:
                await engine.enqueue("w", "before")
            postgres_server.stop()
            handing = asyncio.ensure_future(engine.enqueue("w", "e"))
            while "what needs it waits" not in caplog.text and not handing.done():
                await asyncio.sleep(0)
            postgres_server.start()
            assert (await handing).status == "queued"
            assert (await engine.get_status("e")).status == "queued"

    asyncio.run(scenario())


def test_sessions_that_an_administrator_ends_are_made_anew(make_postgres_store, postgres_url, postgres_schema):
    async def scenario():
        store, admin = (
            make_postgres_store(with_parameter(postgres_url, "application_name", postgres_schema)),
            make_postgres_store(),
        )

        async def end(state):
            """End the session of the store as soon as it is in a state, and wait until it has ended."""
            query = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %(name)s"
            while not await admin.fetch(f"{query} AND state = %(state)s", {"name": postgres_schema, "state": state}):
                await asyncio.sleep(0)

        lease = await begin(store)
        for number in range(3):
            await end("idle")
            await store.step_started(lease, StepRecord(f"s{number}"), 1, number + 2, NOW, None)
        waiting = asyncio.ensure_future(store.together(lambda connection: connection.execute("SELECT pg_sleep(60)")))
        await end("active")  # on a connection that was used before: it is begun again on a new one
        await end("active")  # on a new one: it is told
        with pytest.raises(StorageError) as caught:
            await waiting
        assert (caught.value.reason, caught.value.is_transient) == ("unavailable", True)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("options", "reason"),
    [("-c default_transaction_read_only=on", "read_only"), ("-c statement_timeout=20ms", "locked")],
)
def test_what_a_session_may_not_do(make_postgres_store, postgres_url, options, reason):
    async def scenario():
        store = make_postgres_store()
        lease = await begin(store)
        other = make_postgres_store(with_parameter(postgres_url, "options", options))

        async def hold(connection):
            async with connection.transaction():
                await connection.execute(store.sql("SELECT 1 FROM {s}.executions FOR UPDATE"))
                with pytest.raises(StorageError) as caught:
                    await other.step_started(lease, StepRecord("s"), 1, 2, NOW, None)
                return caught.value

        error = await store.together(hold)
        assert (error.reason, error.is_transient) == (reason, True)

    asyncio.run(scenario())


def test_a_lock_is_waited_for_no_longer_than_seconds(make_postgres_store):
    async def scenario():
        assert await make_postgres_store().fetch("SHOW lock_timeout") == [("5s",)]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("53100", "full"),
        ("53200", "unavailable"),
        ("53300", "unavailable"),
        ("57P01", "unavailable"),
        ("57P03", "unavailable"),
        ("08006", "unavailable"),
        ("40001", "locked"),
        ("40P01", "locked"),
        ("55P03", "locked"),
        ("58030", "io"),
        ("25006", "read_only"),
        ("25P04", "unavailable"),
        ("42501", "read_only"),
        ("XX001", "damaged"),
        ("22012", "other"),
    ],
)
def test_what_the_states_mean(state, reason):
    from psycopg import errors

    from workflow_core.database.postgres.diagnosis import storage_error

    error = storage_error(errors.lookup(state)("it said\nso"), "there")
    assert (error.reason, error.location) == (reason, "there")
    assert str(error).startswith(f"there: it said so [{state}] (")


@pytest.mark.parametrize(
    ("grants", "denied", "grant"),
    [
        ([], "schema", "GRANT USAGE ON SCHEMA {schema} TO {role}, with CREATE where its tables are to be made"),
        (
            ["USAGE ON SCHEMA {schema}"],
            "table",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema}",
        ),
    ],
)
def test_a_missing_privilege_is_told_with_what_to_grant(make_postgres_store, make_poor_role, grants, denied, grant):
    store = make_postgres_store()
    asyncio.run(store.open())
    url = make_poor_role(*grants)
    with pytest.raises(StorageError, match=f"permission denied for {denied}") as caught:
        asyncio.run(make_postgres_store(url).open())
    role = '"' + url.partition("//")[2].partition("@")[0] + '"'
    assert f"gives the privilege: {grant.format(schema=store.schema, role=role)}" in str(caught.value)
    assert caught.value.reason == "read_only"


def test_a_role_that_may_not_make_the_schema_is_told_so(make_postgres_store, make_poor_role):
    url = make_poor_role()
    with pytest.raises(StorageError, match='GRANT CREATE ON DATABASE "postgres" TO "poor_'):
        asyncio.run(make_postgres_store(url).open())


def test_a_server_that_refuses_is_told_at_once(make_postgres_store, postgres_server):
    for url, told in (
        (postgres_server.url.replace("/postgres?", "/absent?"), 'database "absent" does not exist'),
        (postgres_server.url.replace("postgres@", "nobody_at_all@"), 'role "nobody_at_all" does not exist'),
    ):
        with pytest.raises(StorageError, match=told) as caught:
            asyncio.run(make_postgres_store(url).open())
        assert (caught.value.reason, caught.value.is_transient) == ("other", False)


def test_a_database_that_cannot_hold_every_text_is_refused(make_postgres_store, postgres_server):
    import psycopg

    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
        with pytest.raises(StorageError, match="encoding LATIN1"):
            asyncio.run(make_postgres_store(postgres_server.url.replace("/postgres?", "/latin?")).open())
        connection.execute("DROP DATABASE latin")


@pytest.fixture
def make_habitual_role(postgres_server):
    """Give a function that makes a role whose sessions begin with settings of its own; returns its name."""
    import psycopg

    with psycopg.connect(postgres_server.url, autocommit=True) as connection:

        def make(**habits):
            connection.execute("CREATE ROLE habitual LOGIN SUPERUSER")
            for name, value in habits.items():
                connection.execute(f"ALTER ROLE habitual SET {name} = {value}")
            return "habitual@"

        yield make
        connection.execute("REASSIGN OWNED BY habitual TO postgres")
        connection.execute("DROP ROLE habitual")


async def write_and_read(store, lock_timeout="5s"):
    lease = await begin(store)
    await store.execution_completed(lease, "1", False, 2, NOW)
    record = await store.load_execution("e")
    assert (record.started_at, record.completed_at) == (NOW, NOW)
    assert await store.fetch("SHOW transaction_isolation") == [("read committed",)]
    assert await store.fetch("SHOW lock_timeout") == [(lock_timeout,)]
    assert await store.fetch("SHOW idle_session_timeout") == [("0",)]
    store.close()


ABROAD = {"timezone": "'Asia/Kolkata'", "search_path": "nowhere", "standard_conforming_strings": "off"}


def test_the_habits_of_a_role_change_nothing(make_postgres_store, postgres_server, make_habitual_role):
    role = make_habitual_role(
        **ABROAD,
        datestyle="'German, DMY'",
        default_transaction_isolation="serializable",
        idle_session_timeout="'1min'",
    )
    asyncio.run(write_and_read(make_postgres_store(postgres_server.url.replace("postgres@", role))))


def test_a_pooler_that_drops_options_changes_nothing(make_postgres_store, proxy, make_habitual_role):
    proxy.drops_options = True
    store = make_postgres_store(proxy.url.replace("postgres@", make_habitual_role(**ABROAD)))
    asyncio.run(write_and_read(store, lock_timeout="0"))


@pytest.mark.parametrize(
    ("name", "habit", "told"),
    [
        ("default_transaction_isolation", "'repeatable read'", "read committed"),
        ("datestyle", "'German, DMY'", "ISO"),
    ],
)
def test_a_session_that_a_pooler_begins_in_a_way_that_cannot_be_is_refused(
    make_postgres_store, proxy, make_habitual_role, name, habit, told
):
    """Not changed: in the next transaction it would be somebody else's."""
    proxy.drops_options = True
    url = proxy.url.replace("postgres@", make_habitual_role(**{name: habit}))
    with pytest.raises(StorageError, match=rf'ALTER ROLE "habitual" SET {name} = .{told}.') as caught:
        asyncio.run(make_postgres_store(url).open())
    assert not caught.value.is_transient
    proxy.drops_options = False
    asyncio.run(write_and_read(make_postgres_store(url)))


# Connections ---------------------------------------------------------------------------------------------------------


def test_no_more_connections_than_said(make_postgres_store, postgres_url, postgres_schema):
    async def scenario():
        store = make_postgres_store(
            with_parameter(postgres_url, "application_name", postgres_schema), max_connections=2
        )
        await store.open()
        count = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{postgres_schema}'"
        found = await asyncio.gather(*(store.fetch(count) for _ in range(20)))
        return max(row[0] for (row,) in found)

    assert asyncio.run(scenario()) == 2


def test_a_store_is_used_by_many_threads_and_event_loops(make_postgres_store):
    store = make_postgres_store()

    def one(number):
        async def work():
            lease = await begin(store, f"e{number}")
            await asyncio.gather(
                *(store.step_started(lease, StepRecord(f"s{n}"), 1, n + 2, NOW, None) for n in range(5))
            )

        asyncio.run(work())

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(8)))
    assert asyncio.run(sql(store, "SELECT count(*) FROM {s}.steps")) == [(40,)]


def test_closing_ends_what_is_under_way(make_postgres_store):
    async def scenario():
        store = make_postgres_store(max_connections=1)
        await store.open()
        waiting = asyncio.ensure_future(store.together(lambda connection: connection.execute("SELECT pg_sleep(60)")))
        while not store._connections._here().busy:
            await asyncio.sleep(0)
        queued = asyncio.ensure_future(store.load_execution("e"))
        for _ in range(10):
            await asyncio.sleep(0)
        store.close()
        for call in (waiting, queued, store.load_execution("e")):
            with pytest.raises(StorageError, match="closed") as caught:
                await call
            assert caught.value.reason == "closed"

    asyncio.run(scenario())


def test_connections_may_be_given_back_while_a_store_is_closed_from_another_thread(make_postgres_store, monkeypatch):
    async def scenario():
        store = make_postgres_store()
        here, cut = store._connections._here(), []

        def cut_off(descriptor):  # the event loop of another thread has its turn meanwhile
            cut.append(descriptor)
            here.busy.pop()

        monkeypatch.setattr("workflow_core.database.postgres.connections._cut", cut_off)
        here.busy.update(Mock(**{"pgconn.socket": number}) for number in range(3))
        store.close()
        assert sorted(cut) == [0, 1, 2]

    asyncio.run(scenario())


def test_a_statement_ends_with_the_event_loop_that_waits_for_it(make_postgres_store):
    store = make_postgres_store()

    async def scenario():
        await store.open()
        task = asyncio.ensure_future(store.together(lambda connection: connection.execute("SELECT pg_sleep(60)")))
        while not store._connections._here().busy:
            await asyncio.sleep(0)
        return task

    asyncio.run(scenario())
    asyncio.run(store.open())


def test_a_statement_that_does_not_end_is_cut_off_when_its_task_is_cancelled(make_postgres_store, monkeypatch):
    async def scenario():
        store = make_postgres_store(max_connections=1)
        monkeypatch.setitem(type(store).together.__globals__, "_GRACE_SECONDS", 0.01)
        await store.open()
        task = asyncio.ensure_future(store.together(lambda connection: connection.execute("SELECT pg_sleep(60)")))
        while not store._connections._here().busy:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.fetch("SELECT 1") == [(1,)]

    asyncio.run(scenario())


def test_a_take_over_that_meets_a_lock_leaves_nothing(make_postgres_store, postgres_url):
    async def scenario():
        store = make_postgres_store()
        await begin(store)
        hurried = make_postgres_store(
            with_parameter(postgres_url, "options", "-c lock_timeout=20ms"), max_connections=1
        )

        async def hold(connection):
            async with connection.transaction():
                await connection.execute(store.sql("SELECT 1 FROM {s}.executions FOR UPDATE"))
                with pytest.raises(StorageError) as caught:
                    await hurried.execution_recovered(LEASE, Owner("host", 2, "0"), None, 2, NOW)
                return caught.value.reason

        assert await store.together(hold) == "locked"
        taken = await hurried.execution_recovered(LEASE, Owner("host", 2, "0"), None, 2, NOW)
        assert taken.fencing_token == 2

    asyncio.run(scenario())


# Two at the same rows ------------------------------------------------------------------------------------------------


async def until_somebody_waits(store):
    query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    while not await store.fetch(query):
        await asyncio.sleep(0)


def test_who_takes_over_waits_for_who_writes_and_sees_what_was_written(make_postgres_store):
    async def scenario():
        writer, taker = make_postgres_store(), make_postgres_store()
        await begin(writer)

        async def write_slowly(connection):
            async with connection.transaction():
                await connection.execute(writer.sql("SELECT 1 FROM {s}.executions WHERE id = 'e' FOR SHARE"))
                taking = asyncio.ensure_future(taker.execution_recovered(LEASE, Owner("host", 2, "0"), None, 2, NOW))
                await until_somebody_waits(writer)
                await connection.execute(
                    writer.sql("INSERT INTO {s}.event_log (execution_id, seq, type, at) VALUES ('e', 41, 'x', now())")
                )
            return await taking

        assert (await writer.together(write_slowly)).fencing_token == 2
        found = await sql(writer, "SELECT seq FROM {s}.event_log WHERE type = 'ExecutionRecovered'")
        assert found == [(42,)]

    asyncio.run(scenario())


def test_who_writes_while_somebody_takes_over_has_lost_the_lease(make_postgres_store):
    async def scenario():
        writer, taker = make_postgres_store(), make_postgres_store()
        await begin(writer)

        async def take_slowly(connection):
            async with connection.transaction():
                await connection.execute(taker.sql("UPDATE {s}.executions SET fencing_token = 2, revision = 9"))
                writing = asyncio.ensure_future(writer.step_started(LEASE, StepRecord("s"), 1, 2, NOW, None))
                await until_somebody_waits(taker)
            return writing

        writing = await taker.together(take_slowly)
        with pytest.raises(LeaseLostError):
            await writing
        assert await sql(writer, "SELECT * FROM {s}.steps") == []

    asyncio.run(scenario())


def test_every_failure_counts_on_a_circuit_that_many_share(make_postgres_store):
    async def scenario():
        store = make_postgres_store()
        step = StepRecord("s", status="running", attempt=1, started_seq=2, stored=True)

        async def fail(number):
            lease = await begin(store, f"e{number}")
            await store.step_started(lease, StepRecord("s"), 1, 2, NOW, None)
            change = CircuitChange(lambda state: after_failure(state, CONFIG, lease.execution_id, 5), 4)
            error = ErrorRecord("E", "m", None, None, 1, 0)
            return await store.step_attempt_failed(lease, step, error, 3, NOW, None, change)

        found = await asyncio.gather(*(fail(number) for number in range(20)))
        assert sorted(after.failures for _, after in found) == list(range(1, 21))
        assert (await store.load_circuits())["w", "s"].failures == 20
        assert await sql(store, "SELECT count(*) FROM {s}.step_errors") == [(20,)]

    asyncio.run(scenario())


def test_an_execution_that_is_restarted_while_it_is_to_be_removed_stays(make_postgres_store):
    async def scenario():
        store = make_postgres_store()
        for name in ("a", "b"):
            lease = await begin(store, name)
            await store.execution_failed(lease, '{"type":"E","message":"m"}', "m", 2, NOW)
        look = store.executions_to_remove

        async def look_and_be_overtaken(*arguments):
            found = await look(*arguments)
            await store.execution_restarted(Lease("w", "a", 1), OWNER, None, 2, None, 3, NOW)
            return found

        store.executions_to_remove = look_and_be_overtaken
        expiry = Expiry(datetime(2027, 1, 1, tzinfo=UTC), ["failed"])
        removed, _ = await store.executions_removed("w", expiry, None, 10, lambda: False)
        assert [candidate.execution_id for candidate in removed] == ["b"]
        assert (await store.load_execution("a")).status == "restarting"

    asyncio.run(scenario())


def test_what_was_removed_still_counts(make_postgres_store):
    async def scenario():
        store = make_postgres_store()
        await store.workflow_defined("w", {"name": "w", "version": "1.0.0"}, NOW)
        await store.workflow_defined("v", {"name": "v"}, NOW)
        for name in ("a", "b"):
            await store.execution_completed(await begin(store, name), None, False, 2, NOW)
        expiry = Expiry(datetime(2027, 1, 1, tzinfo=UTC), ["completed"])
        await store.executions_removed("w", expiry, None, 10, lambda: False)
        await begin(store, "c")
        v, w = await store.list_workflows()
        assert (v.name, v.execution_count, v.last_execution_at) == ("v", 0, None)
        assert (w.name, w.execution_count, w.last_execution_at, w.created_at) == ("w", 3, NOW, NOW)

    asyncio.run(scenario())


# Virtual time --------------------------------------------------------------------------------------------------------


def test_virtual_time_stands_still_while_the_server_works(make_postgres_store):
    clock = VirtualClock()
    engine = WorkflowEngine(make_postgres_store(), clock, settings=Settings(sync_handlers="inline"))

    @engine.define("w")
    async def flow(ctx):
        await ctx.sleep("z", 300_000)
        await ctx.step("s", lambda: 1 / (ctx.attempt - 1)).with_retry(backoff_ms=1_000)
        return clock.monotonic()

    async def scenario():
        result = await engine.start("w", "e")

        async def asked(connection):
            await connection.execute("SELECT pg_sleep(0.15)")
            return clock.monotonic()

        answered, _ = await asyncio.gather(engine.bare_store.together(asked), asyncio.sleep(10))
        await engine.aclose()
        return result.output, answered, clock.monotonic()

    try:
        assert clock.run(scenario()) == (301, 301, 311)
    finally:
        clock.detach()


def test_a_store_that_is_forgotten_says_goodbye(make_postgres_store, postgres_url, postgres_schema, recwarn):
    from workflow_core.database.postgres.store import PostgresStore

    async def scenario():
        watcher = make_postgres_store()
        forgotten = PostgresStore(
            with_parameter(postgres_url, "application_name", postgres_schema), schema=postgres_schema
        )
        count = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{postgres_schema}'"
        await forgotten.open()
        assert await watcher.fetch(count) == [(1,)]
        del forgotten
        gc.collect()
        while await watcher.fetch(count) != [(0,)]:
            await asyncio.sleep(0)

    asyncio.run(scenario())
    assert not recwarn.list
