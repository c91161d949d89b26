"""A registry that lacks something, or everything, is made from the workflows' databases."""

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys

import pytest

from workflow_core import Settings, StorageError, WorkflowEngine
from workflow_core.database.layout import RuntimeLayout
from workflow_core.database.registry import Registry


@pytest.fixture
def root(tmp_path):
    return tmp_path / "state"


def make_engine(root, **settings):
    engine = WorkflowEngine(settings=Settings(directory=root, sync_handlers="inline", **settings))
    for name in ("orders", "returns"):
        engine.define(name, lambda ctx: ctx.input)
    return engine


def fill(root):
    engine = make_engine(root)
    for name, count in (("orders", 3), ("returns", 2)):
        for number in range(count):
            engine.run(name, f"{name}-{number}", number)
    engine.close()
    return registry(root)


def registry(root):
    connection = sqlite3.connect(root / "registry.db")
    rows = [
        connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
        for table in ("workflow_registry", "execution_index")
    ]
    connection.close()
    return rows


def remove_registry(root):
    for path in root.glob("registry.db*"):
        path.unlink()


def check(root, before):
    """Everything is found again: by id, by a start of the same id, and in the registry."""
    engine = make_engine(root)
    assert asyncio.run(engine.get_status("returns-1")).output == 1
    assert engine.run("orders", "orders-2", 2).output == 2
    engine.close()
    after = registry(root)
    assert after[1] == before[1]
    # A registry that was rebuilt takes the moment of making from definition.json, which is a little earlier.
    without_time = [[row[:4] + row[5:] for row in rows[0]] for rows in (before, after)]
    assert without_time[0] == without_time[1]
    assert all(row[4] <= row[5] for row in after[0])


def test_a_lost_registry_is_made_again(root):
    before = fill(root)
    remove_registry(root)
    check(root, before)


def test_a_lost_registry_is_made_again_for_whoever_recovers(root):
    fill(root)
    remove_registry(root)
    engine = make_engine(root)
    assert asyncio.run(engine.recover()) == []
    assert engine.store.workflow_names() == ["orders", "returns"]
    engine.close()


def test_a_workflow_that_was_copied_in_is_known(root, tmp_path):
    before = fill(root)
    other = tmp_path / "other"
    engine = make_engine(other)
    engine.run("returns", "another")
    engine.close()
    shutil.rmtree(root / "workflows" / "returns")
    remove_registry(root)
    make_engine(root).close()
    engine = make_engine(root)
    engine.run("orders", "orders-0", 0)
    engine.close()
    shutil.copytree(other / "workflows" / "returns", root / "workflows" / "returns")
    engine = make_engine(root)
    assert asyncio.run(engine.get_status("another")).workflow_name == "returns"
    engine.close()
    assert [row[0] for row in before[0]] == [row[0] for row in registry(root)[0]]


def test_a_damaged_workflow_keeps_no_other_from_being_registered(root, caplog):
    before = fill(root)
    remove_registry(root)
    for path in (root / "workflows" / "orders").glob("orders.db*"):
        path.unlink()
    (root / "workflows" / "orders" / "orders.db").write_bytes(b"garbage" * 1_000)
    engine = make_engine(root)
    assert asyncio.run(engine.get_status("returns-1")).output == 1
    assert engine.store.workflow_names() == ["returns"]
    engine.close()
    assert any('Workflow "orders" cannot be registered' in record.getMessage() for record in caplog.records)
    assert registry(root)[1] == [row for row in before[1] if row[1] == "returns"]


def test_things_that_are_no_workflows_are_passed_over(root):
    before = fill(root)
    remove_registry(root)
    (root / "workflows" / "notes.txt").write_text("x")
    (root / "workflows" / "empty").mkdir()
    (root / "workflows" / ".hidden").mkdir()
    (root / "workflows" / ".hidden" / ".hidden.db").write_bytes(b"")
    check(root, before)


@pytest.mark.parametrize("how", ["garbage", "inside", "cut off"])
def test_a_damaged_registry_is_moved_aside_and_made_again(root, how, caplog):
    before = fill(root)
    path = root / "registry.db"
    content = path.read_bytes()
    if how == "garbage":
        damaged = b"this is not a database" * 500
    elif how == "inside":
        page = int.from_bytes(content[16:18], "big")
        damaged = content[:page] + b"\xff" * (len(content) - page)
    else:
        damaged = content[: len(content) // 2 + 100]
    path.write_bytes(damaged)
    check(root, before)
    (aside,) = [each for each in root.glob("registry.db.damaged-*") if each.suffix not in {"-wal", "-shm"}]
    assert aside.read_bytes()[100:] == damaged[100:]  # SQLite may have counted an opening in the header
    (record,) = [each for each in caplog.records if "moved to" in each.getMessage()]
    assert str(aside) in record.getMessage()


def test_a_registry_that_another_process_moved_aside_is_left_for_the_new_one(root):
    before = fill(root)
    engine = make_engine(root)
    engine.run("orders", "orders-0", 0)
    for path in list(root.glob("registry.db*")):
        path.rename(path.with_name(path.name.replace(".db", ".db.damaged-elsewhere")))
    other = make_engine(root)
    other.run("returns", "new", 7)
    assert asyncio.run(engine.get_status("new")).output == 7
    engine.close()
    other.close()
    assert [row for row in registry(root)[1] if row[0] != "new"] == before[1]


def test_who_comes_second_does_not_move_the_new_one_aside(root):
    fill(root)
    (root / "registry.db").write_bytes(b"garbage" * 1_000)
    first, second = (Registry(RuntimeLayout(root), "NORMAL", 5_000) for _ in range(2))
    first.open()
    second._replace_damaged()  # it had found the damage before the first one moved the file
    assert len(second._rows("SELECT * FROM execution_index")) == 5
    assert len(list(root.glob("registry.db.damaged-*"))) == 1
    first.close()
    second.close()


def test_a_locked_registry_is_not_damaged(root):
    fill(root)
    holder = sqlite3.connect(root / "registry.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    engine = make_engine(root, busy_timeout_ms=20, storage_patience_ms=200)
    with pytest.raises(StorageError, match="locked"):
        engine.run("orders", "new")
    holder.close()
    assert engine.run("orders", "new").status == "completed"
    engine.close()
    assert list(root.glob("registry.db.damaged*")) == []


def test_a_newer_registry_is_not_damaged(root):
    fill(root)
    connection = sqlite3.connect(root / "registry.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    engine = make_engine(root)
    with pytest.raises(StorageError, match="schema version 99"):
        engine.run("orders", "new")
    engine.close()
    assert list(root.glob("registry.db.damaged*")) == []


def test_several_processes_make_it_at_once(root, nursery):
    before = fill(root)
    (root / "registry.db").write_bytes(b"garbage" * 1_000)
    script = (
        "import asyncio, json, sys\nfrom pathlib import Path\nfrom workflow_core import Settings, WorkflowEngine\n"
        "engine = WorkflowEngine(settings=Settings(directory=Path(sys.argv[1])))\n"
        "print(json.dumps([asyncio.run(engine.get_status(f'orders-{n}')).output for n in range(3)]))\n"
        "engine.close()\n"
    )
    children = [nursery.popen([sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE) for _ in range(2)]
    assert [json.loads(child.communicate(timeout=60)[0]) for child in children] == [[0, 1, 2]] * 2
    assert len([path for path in root.glob("registry.db.damaged-*") if path.name.endswith("Z")]) == 1
    check(root, before)


def test_definition_json_is_brought_up_to_date(root, clock):
    path = root / "workflows" / "orders" / "definition.json"

    def run(version, number):
        engine = WorkflowEngine(clock=clock, settings=Settings(directory=root, sync_handlers="inline", lease_ms=None))
        engine.define("orders", lambda ctx: None, version=version)
        engine.run("orders", f"o-{number}")
        engine.close()
        return json.loads(path.read_text())

    first = run("1.0.0", 1)
    assert first["created_at"] == first["last_modified"] == "2026-01-01T00:00:00+00:00"
    inode = path.stat().st_ino
    clock.time = clock.time.replace(day=2)
    assert run("1.0.0", 2) == first
    assert path.stat().st_ino == inode  # nothing was written
    path.write_text(json.dumps({**first, "owner": "billing"}))
    third = run("2.0.0", 3)
    assert third == {
        **first,
        "owner": "billing",
        "version": "2.0.0",
        "last_modified": "2026-01-02T00:00:00+00:00",
    }
    path.write_text("{ damaged")
    assert run("2.0.0", 4)["version"] == "2.0.0"
    assert [each.name for each in path.parent.iterdir() if each.name.endswith(".part")] == []
