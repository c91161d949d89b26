"""Databases of every schema version that there was: they open, are migrated, and their executions go on."""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import sqlite3
import sys
import textwrap
from pathlib import Path

import pytest

from tests.fixtures.schema import recorded
from tests.unit.conftest import FakeClock
from workflow_core import SchemaVersionError, Settings, StorageError, WorkflowEngine
from workflow_core.database import migrations
from workflow_core.database.directory import DirectoryStore
from workflow_core.database.opening import open_database
from workflow_core.database.schema import (
    REGISTRY_SCHEMA,
    REGISTRY_SCHEMA_VERSION,
    WORKFLOW_SCHEMA,
    WORKFLOW_SCHEMA_VERSION,
)
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.ownership import Owner

RECORDED = Path(__file__).parents[1] / "fixtures" / "schema"
VERSIONS = sorted(path.parent.name for path in RECORDED.glob("v*/single.db"))


class Probe:
    """The recorder has ended, and nobody else."""

    def make_owner(self):
        return Owner("reader", 2, "0")

    def has_ended(self, owner):
        return owner.host == "recorder"


@pytest.fixture(params=[(version, kind) for version in VERSIONS for kind in ("single", "runtime")], ids="-".join)
def engine(request, tmp_path):
    version, kind = request.param
    store = copied(version, kind, tmp_path)
    clock = FakeClock()
    settings = Settings(sync_handlers="inline", lease_ms=None)
    engine = WorkflowEngine(store, clock, settings=settings, process_probe=Probe())
    recorded.define(engine, recording=False)
    yield engine
    engine.close()


def copied(version, kind, target):
    if kind == "runtime":
        shutil.copytree(RECORDED / version / kind, target / kind)
        return DirectoryStore(target / kind)
    shutil.copy(RECORDED / version / "single.db", target)
    return SQLiteStore(target / "single.db")


def shape(connection):
    """What a database consists of, whatever order and spaces its parts were made with."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
    return {(kind, name, table, _without_needless_spaces(sql)) for kind, name, table, sql in rows}


def _without_needless_spaces(sql):
    return re.sub(r" ?([(),]) ?", r"\1", " ".join(sql.split()))


def test_there_is_something_to_open():
    assert VERSIONS


def test_everything_is_there(engine):
    async def main():
        found = {summary.execution_id: summary.status for summary in await engine.list_executions()}
        assert found == {**recorded.STATUSES, "values": "completed"}
        for execution_id, status in recorded.STATUSES.items():
            assert (await engine.get_status(execution_id)).status == status
            assert (await engine.history(execution_id))[0].seq == 1
        counts = {stats.workflow_name: stats.total for stats in await engine.stats()}
        assert counts == {"orders": len(recorded.STATUSES), "values": 1}

    asyncio.run(main())


def test_the_values_are_what_they_were(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "recorded", recorded)  # the module as the recorder imported it
    result = asyncio.run(engine.get_status("values"))
    assert result.output == recorded.PLAIN
    assert {name: type(value) for name, value in result.output.items()} == {
        name: type(value) for name, value in recorded.PLAIN.items()
    }
    assert set(result.steps) == set(recorded.VALUES)

    seen = {}

    async def replayed():
        store = engine.store.workflow("values")
        store.connection.execute("UPDATE executions SET status = 'running' WHERE id = 'values'")

        @engine.define("values")
        async def values(ctx):
            for name in recorded.PLAIN:
                seen[name] = await ctx.step(name, lambda: pytest.fail("it ran again"))
            for name, (declared, _) in recorded.DECLARED.items():
                seen[name] = await ctx.step(name, lambda: pytest.fail("it ran again"), returns=declared)

        assert (await engine.resume("values")).status == "completed"

    with pytest.warns(UserWarning, match="values"):
        asyncio.run(replayed())
    assert seen == recorded.VALUES


def test_what_was_not_at_rest_goes_on(engine):
    async def main():
        clock = engine.clock
        assert set(await engine.recover()) == {"sleeping", "retrying", "interrupted", "panicked-due"}
        await clock.settle()
        outputs = {}
        for execution_id in ("interrupted", "panicked-due", "retrying", "sleeping"):
            await clock.finish(engine.wait(execution_id))
            outputs[execution_id] = (await engine.get_status(execution_id)).output, clock.elapsed_ms
        assert outputs == {
            "interrupted": ("interrupted done and last: end", 0),
            "panicked-due": ("panicked-due calm and last: end", 5_000),
            "retrying": ("retrying late and last: end", recorded.BACKOFF_MS),
            "sleeping": ("sleeping and last: end", recorded.SLEEP_MS),
        }
        assert (await clock.finish(engine.restart("panicked"))).output == "panicked calm and last: end"
        failed = await engine.get_status("failed")
        assert (failed.error.type, failed.error.message) == ("NonRetryableError", "no such customer")
        again = await engine.start("orders", "completed", {"kind": "completed"})
        assert again.output == "completed and last: end"

    asyncio.run(main())


def test_the_circuit_is_still_open(engine):
    async def main():
        circuit = (await engine.store.load_circuits())["orders", "remote"]
        assert (circuit.status, circuit.failures) == ("open", 1)
        skipped = await engine.start("orders", "another", {"kind": "skipped"})
        assert skipped.steps["remote"].status == "skipped"
        engine.clock.time = recorded.BEGIN
        await engine.clock.advance(60_000)
        probed = await engine.start("orders", "probe", {"kind": "skipped"})
        assert probed.steps["remote"].result == "late"

    asyncio.run(main())


def test_old_executions_can_be_removed(engine):
    async def main():
        await engine.clock.advance(10_000)
        report = await engine.clock.finish(engine.cleanup(5_000))
        assert (
            report.total
            == 1
            + sum(status in {"completed", "failed", "cancelled", "panicked"} for status in recorded.STATUSES.values())
            - 1
        )  # the panicked one that is to be restarted

    asyncio.run(main())


def test_the_outcome_is_todays_schema(engine):
    fresh = SQLiteStore()
    for name in ("orders", "values"):
        store = engine.store.workflow(name)
        assert store.select("PRAGMA user_version") == [(WORKFLOW_SCHEMA_VERSION,)]
        assert shape(store.connection) == shape(fresh.connection)
        assert store.select("PRAGMA integrity_check") == [("ok",)]
    fresh.close()


# Crashes and rivals in the middle ------------------------------------------------------------------------------------


def single(tmp_path, version="v1"):
    return Path(shutil.copy(RECORDED / version / "single.db", tmp_path / "single.db"))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_crash_in_the_middle_leaves_the_old_version(tmp_path, version, nursery):
    """The process ends by itself when all has been written and nothing committed."""
    program = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from workflow_core.database import migrations, opening
        from workflow_core.database.sqlite import SQLiteStore

        connect, split = opening.sqlite3.connect, migrations.statements

        def dying(*args, **kwargs):
            connection = connect(*args, **kwargs)
            connection.create_function("die", 0, lambda: os._exit(7))
            return connection

        opening.sqlite3.connect = dying
        migrations.statements = lambda script: [*split(script), "SELECT die()"]
        SQLiteStore(Path(sys.argv[1]))
    """)
    path = single(tmp_path, version)
    before = dump(path)
    environment = {**os.environ, "PYTHONPATH": str(RECORDED.parents[2])}
    died = nursery.run([sys.executable, "-c", program, path], env=environment)
    assert died.returncode == 7
    assert dump(path) == before
    store = SQLiteStore(path)
    assert store.select("PRAGMA user_version") == [(WORKFLOW_SCHEMA_VERSION,)]
    store.close()


def dump(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [*connection.iterdump(), connection.execute("PRAGMA user_version").fetchone()]


def test_all_rows_are_kept(tmp_path):
    path = single(tmp_path, "v2")
    before = rows(path, "steps"), rows(path, "step_events")
    assert all(before)
    SQLiteStore(path).close()
    assert (rows(path, "steps"), rows(path, "step_events")) == before


def rows(path, table):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        cursor = connection.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in cursor.description]
        return sorted((dict(zip(names, row, strict=True)) for row in cursor), key=repr)


def test_steps_of_an_execution_that_another_program_deleted_go(tmp_path):
    """Programs that leave foreign keys off, as the shell of SQLite does, leave an execution's steps behind."""
    path = single(tmp_path, "v2")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM executions WHERE id = 'completed'")
    left = [row for row in rows(path, "steps") if row["execution_id"] != "completed"]
    SQLiteStore(path).close()
    assert rows(path, "steps") == left


def test_a_step_that_fails_leaves_the_old_version(tmp_path, monkeypatch):
    path = single(tmp_path)
    before = dump(path)
    steps = dict(migrations.WORKFLOW_MIGRATIONS)
    steps[max(steps)] += "\nSELECT no_such_function();\n"
    monkeypatch.setitem(migrations._MIGRATIONS, WORKFLOW_SCHEMA, steps)
    with pytest.raises(StorageError, match="no_such_function"):
        SQLiteStore(path)
    assert dump(path) == before


def test_another_process_that_was_faster(tmp_path, monkeypatch):
    path = single(tmp_path)
    SQLiteStore(path).close()
    connection = sqlite3.connect(path, isolation_level=None)
    monkeypatch.setitem(migrations._MIGRATIONS, WORKFLOW_SCHEMA, {})
    migrations.migrate(connection, WORKFLOW_SCHEMA, 1, WORKFLOW_SCHEMA_VERSION)
    assert connection.execute("PRAGMA user_version").fetchone() == (WORKFLOW_SCHEMA_VERSION,)
    connection.close()


def test_a_program_of_the_old_version_goes_on(tmp_path):
    """It had the file open before another one migrated it."""
    path = single(tmp_path)
    old = sqlite3.connect(path, isolation_level=None)
    query = "SELECT id FROM executions WHERE status IN ('running', 'sleeping') ORDER BY id"
    before = old.execute(query).fetchall()
    SQLiteStore(path).close()
    assert old.execute(query).fetchall() == before
    old.close()


@pytest.mark.parametrize("name", ["registry.db", "workflows/orders/orders.db"])
def test_a_file_from_the_future_is_refused(tmp_path, name):
    store = copied(VERSIONS[-1], "runtime", tmp_path)
    connection = sqlite3.connect(tmp_path / "runtime" / name)
    connection.execute("PRAGMA user_version = 1000")
    connection.close()
    with pytest.raises(SchemaVersionError, match="1000"):
        asyncio.run(store.load_execution("completed"))
    store.close()


# Nothing changes unnoticed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "schema", "version"),
    [
        ("workflow", WORKFLOW_SCHEMA, WORKFLOW_SCHEMA_VERSION),
        ("registry", REGISTRY_SCHEMA, REGISTRY_SCHEMA_VERSION),
    ],
)
def test_a_schema_changes_with_its_version(name, schema, version):
    hashes = json.loads((RECORDED / "hashes.json").read_text())[name]
    assert sorted(map(int, hashes)) == list(range(1, version + 1)), "each version has its digest in hashes.json"
    digest = hashlib.sha256(" ".join(schema.split()).encode()).hexdigest()
    assert hashes[str(version)] == digest, (
        f"the text of the {name} schema was changed: a new version is due (see tests/fixtures/schema/README.md)"
    )


def versions_in(files):
    found = set()
    for file in files:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as connection:
            found.add(connection.execute("PRAGMA user_version").fetchone()[0])
    return found


def test_each_former_version_is_recorded():
    workflow = versions_in(RECORDED.glob("v*/single.db")) & versions_in(RECORDED.glob("v*/runtime/workflows/*/*.db"))
    registry = versions_in(RECORDED.glob("v*/runtime/registry.db"))
    assert workflow >= set(range(1, WORKFLOW_SCHEMA_VERSION))
    assert registry >= set(range(1, REGISTRY_SCHEMA_VERSION))


def test_each_version_has_its_step():
    assert sorted(migrations.WORKFLOW_MIGRATIONS) == list(range(1, WORKFLOW_SCHEMA_VERSION))
    assert sorted(migrations.REGISTRY_MIGRATIONS) == list(range(1, REGISTRY_SCHEMA_VERSION))


def test_a_new_database_has_no_step_to_take(tmp_path):
    connection = open_database(tmp_path / "w.db", WORKFLOW_SCHEMA, WORKFLOW_SCHEMA_VERSION, "NORMAL", 0)
    assert connection.execute("PRAGMA user_version").fetchone() == (WORKFLOW_SCHEMA_VERSION,)
    assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    assert connection.execute("PRAGMA page_size").fetchone() == (2_048,)
    assert connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (2_000,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
