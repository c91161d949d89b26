"""The runtime directory: what is made, where, and by whom it can be read."""

import asyncio
import json
import shutil
import sqlite3
import stat
import sys

import pytest

from workflow_core import ExecutionConflictError, Settings, StorageError, WorkflowEngine


@pytest.fixture
def root(tmp_path):
    return tmp_path / "state"


def make_engine(root):
    engine = WorkflowEngine(settings=Settings(directory=root))

    @engine.define("orders", description="Orders.")
    async def orders(ctx):
        return await ctx.step("s", lambda: ctx.input)

    @engine.define("returns")
    async def returns(ctx):
        return None

    return engine


def test_making_an_engine_touches_no_disk(root):
    make_engine(root)
    assert not root.exists()


def test_the_layout(root):
    engine = make_engine(root)
    engine.run("orders", "o-1", {"n": 1})
    engine.close()
    directory = root / "workflows" / "orders"
    assert (root / "registry.db").is_file()
    assert (directory / "orders.db").is_file()
    assert (directory / "logs" / "executions").is_dir()
    definition = json.loads((directory / "definition.json").read_text())
    assert definition["name"] == "orders"
    assert definition["description"] == "Orders."
    assert definition["database_path"] == "./orders.db"
    assert definition["retry_config"]["max_attempts"] == 3
    if sys.platform != "win32":
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        for database in root.rglob("*.db"):
            assert stat.S_IMODE(database.stat().st_mode) == 0o600, database
    registry = sqlite3.connect(root / "registry.db")
    row = registry.execute("SELECT db_path, workflow_dir, log_dir, execution_count FROM workflow_registry").fetchone()
    registry.close()
    assert row == ("workflows/orders/orders.db", "workflows/orders/", "workflows/orders/logs/", 1)


def test_a_moved_directory_goes_on(root, tmp_path):
    engine = make_engine(root)
    first = engine.run("orders", "o-1", {"n": 1})
    engine.close()
    moved = tmp_path / "elsewhere"
    shutil.move(root, moved)
    engine = make_engine(moved)
    assert engine.run("orders", "o-1", {"n": 1}) == first
    engine.close()


def test_an_id_belongs_to_one_workflow(root):
    engine = make_engine(root)
    engine.run("orders", "o-1")
    with pytest.raises(ExecutionConflictError, match='in use for workflow "orders"'):
        engine.run("returns", "o-1")
    engine.close()


def test_an_id_that_was_reserved_but_never_started_is_free(root):
    engine = make_engine(root)
    engine.run("orders", "o-1")
    registry = sqlite3.connect(root / "registry.db")
    registry.execute("INSERT INTO execution_index VALUES ('o-2', 'orders')")
    registry.commit()
    registry.close()
    assert engine.run("returns", "o-2").status == "completed"
    assert asyncio.run(engine.get_status("o-2")).workflow_name == "returns"
    engine.close()


def test_reading_an_empty_place_makes_nothing(root):
    engine = make_engine(root)
    assert asyncio.run(engine.recover()) == []
    assert not root.exists()


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    engine = make_engine(tmp_path / "file" / "state")
    with pytest.raises(StorageError, match="WORKFLOW_DIR"):
        engine.run("orders", "o-1")


def test_the_environment_names_the_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKFLOW_DIR", str(tmp_path / "named"))
    engine = WorkflowEngine()
    assert engine.store.location() == str(tmp_path / "named")


def test_two_engines_side_by_side_do_not_meet(tmp_path):
    one, two = make_engine(tmp_path / "one"), make_engine(tmp_path / "two")
    one.run("orders", "o-1", 1)
    assert two.run("orders", "o-1", 2).output == 2
    assert one.run("orders", "o-1", 1).output == 1
    one.close()
    two.close()
