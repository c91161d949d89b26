"""What the command line says of workers, and of what they run, on a real PostgreSQL."""

import asyncio
import json
import sys

import pytest

from workflow_core import Settings, StorageError, WorkflowEngine

psycopg = pytest.importorskip("psycopg")
pytest.importorskip("procrastinate")
from workflow_core.cli import follow  # noqa: E402
from workflow_core.cli.application import run  # noqa: E402
from workflow_core.database.postgres.store import PostgresStore  # noqa: E402
from workflow_core.limits import Limits  # noqa: E402

FAST = Settings(poll_interval_ms=10, sync_handlers="inline")


APP = """
from workflow_core import Settings, WorkflowEngine

engine = WorkflowEngine(settings=Settings(recover_on_start=False))


@engine.define("plain")
def plain(ctx):
    return ctx.input
"""


def plain(ctx):
    return ctx.input


@pytest.fixture
def cluster(make_postgres_store, postgres_url, schema_of_stores, monkeypatch, tmp_path, capsys):
    """Give a function that runs a scenario with an engine, and one that runs the command on the same database."""
    monkeypatch.setenv("WORKFLOW_DATABASE_URL", postgres_url)
    monkeypatch.setenv("WORKFLOW_DATABASE_SCHEMA", schema_of_stores)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster_app.py").write_text(APP)
    monkeypatch.setenv("WORKFLOW_APP", "cluster_app:engine")
    monkeypatch.setattr(follow, "_PATIENCE_SECONDS", 0.0)

    def scenario(work):
        async def all_of_it():
            async with WorkflowEngine(make_postgres_store(), settings=FAST) as engine:
                engine.define("plain", plain)
                engine.define("rated", plain, limits=Limits(starts=1, period_ms=3_600_000))
                await work(engine)

        asyncio.run(all_of_it())

    def command(*arguments):
        capsys.readouterr()
        code = run(arguments)
        sys.modules.pop("cluster_app", None)
        return code, *capsys.readouterr()

    return scenario, command


async def lost(engine, execution_id):
    """Let an execution be one that a worker ran which gave its last sign of life a minute ago."""
    await engine.enqueue("plain", execution_id, 1)
    ((worker_id,),) = await engine.bare_store.fetch(
        "INSERT INTO {s}.procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 minute') RETURNING id"
    )
    await engine.bare_store.worker_joined(worker_id, engine.owner.host, 4711, ["default"], 8, 10_000)
    conninfo, schema = engine.bare_store.connection_string()
    with psycopg.connect(conninfo, options=f"-c search_path={schema}") as connection:
        connection.execute("UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s", (worker_id,))
        connection.execute("UPDATE dispatches SET state = 'claimed', has_started = true")
        connection.execute("UPDATE executions SET status = 'running', owner_id = 'gone'")


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("cluster_state", ("cluster", "status")),
        ("dispatch_state", ("status", "e")),
        ("execution_enqueued", ("start", "plain", "--queue", "mail")),
        ("saved_definitions", ("list",)),
        ("save_document", ("create", "documented")),
    ],
)
def test_a_command_waits_for_a_database_that_is_away(cluster, monkeypatch, method, arguments):
    scenario, command = cluster
    scenario(lambda engine: engine.enqueue("plain", "e", 1, queue="mail"))
    works, failures = getattr(PostgresStore, method), [StorageError("The server is away", "there", "unavailable")]

    def fails_once(*given):
        if failures:
            raise failures.pop()
        return works(*given)

    monkeypatch.setattr(PostgresStore, method, fails_once)
    code, _, err = command(*arguments)
    assert (code, failures) == (0, []), err


def test_following_ends_where_nobody_serves_the_queue(cluster):
    scenario, command = cluster
    scenario(lambda engine: engine.enqueue("plain", "e", 1, queue="mail"))
    code, _, said = command("status", "e", "--follow")
    assert code == 1
    assert 'waits for a worker, and none serves its queue; "workflow worker --queue mail" begins one' in said
    code, _, said = command("start", "plain", "--execution-id", "e")
    assert code == 1
    assert 'waits for the workers of queue "mail"; followed' in said


def test_what_a_dead_worker_ran_does_not_run(cluster):
    scenario, command = cluster
    scenario(lambda engine: lost(engine, "e"))
    assert command("status", "e", "--follow")[0] == 1
    _, _, said = command("start", "plain", "--execution-id", "e")
    assert "was left by a worker that gives no sign of life" in said
    assert "runs in another process" not in said
    _, shown, _ = command("status", "e")
    assert "interrupted" in shown
    _, shown, _ = command("cluster", "status")
    assert "Lost" in shown.splitlines()[0]
    assert "1 lost" in shown
    assert command("cluster", "status", "--quiet")[1] == "", "nobody is alive"
    (queue,) = json.loads(command("cluster", "status", "--format", "json")[1])["queues"]
    assert queue["lag_ms"] >= 60_000
    assert (queue["running"], queue["lost"], queue["ready"], queue["workers"]) == (0, 1, 0, 0)


def test_what_a_rate_limit_schedules_has_a_column_where_there_is_any(cluster):
    scenario, command = cluster

    async def rated(engine):
        for execution_id in "ab":
            await engine.enqueue("rated", execution_id, 1)

    assert "Scheduled" not in command("cluster", "status")[1]
    scenario(rated)
    assert "Scheduled" in command("cluster", "status")[1]
    (queue,) = json.loads(command("cluster", "status", "--format", "json")[1])["queues"]
    assert (queue["ready"], queue["scheduled"], queue["limited"]) == (1, 1, 0)


def test_what_was_given_back_is_queued_again(cluster):
    scenario, command = cluster

    async def given_back(engine):
        await lost(engine, "e")
        record = await engine.bare_store.load_execution("e")
        await engine.bare_store.execution_released(record.lease, True, engine.clock.now())

    scenario(given_back)
    assert command("status", "--workflow", "plain", "--quiet")[1] == "e\n"
    assert " queued " in command("status", "--workflow", "plain")[1]
    assert command("status", "e", "--quiet")[1] == "queued\n"


def test_logs_say_where_they_are(cluster):
    scenario, command = cluster
    scenario(lambda engine: engine.enqueue("plain", "e", 1))
    for arguments in (["logs"], ["logs", "plain", "--follow"]):
        code, shown, said = command(*arguments)
        assert (code, shown) == (2, "")
        assert '"workflow logs --execution ID" shows the stored history' in said
    assert command("logs", "--execution", "e")[0] == 0


@pytest.mark.parametrize(
    "arguments", [["cluster", "status"], ["start", "plain", "--queue", "mail"], ["worker"], ["status", "--queue", "q"]]
)
def test_a_directory_that_hides_the_database_is_named(cluster, arguments):
    _, command = cluster
    code, _, said = command("--directory", "here", *arguments)
    assert code == 2
    assert "which WORKFLOW_DATABASE_URL names, but --directory here goes before it; leave it out" in said


def test_where_no_database_is_named_one_is_asked_for(cluster, monkeypatch):
    _, command = cluster
    monkeypatch.delenv("WORKFLOW_DATABASE_URL")
    code, _, said = command("--directory", "here", "cluster", "status")
    assert code == 2
    assert "set WORKFLOW_DATABASE_URL to" in said
