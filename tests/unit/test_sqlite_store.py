"""What only SQLite has, in a file and in memory; `test_store` has what it shares with other stores."""

import contextlib
import sqlite3

import pytest

from tests.unit.store_calls import begin
from workflow_core import SchemaVersionError, StorageError, ValidationError
from workflow_core.database import opening
from workflow_core.database.schema import WORKFLOW_SCHEMA, WORKFLOW_SCHEMA_VERSION
from workflow_core.database.sqlite import SQLiteStore


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    store = SQLiteStore(None if request.param == "memory" else tmp_path / "w.db")
    yield store
    store.close()


def names(store, kind):
    return {row[0] for row in store.select("SELECT name FROM sqlite_master WHERE type = ?", (kind,))}


def test_the_schema_has_what_the_guide_names(store):
    assert {"executions", "steps", "circuit_breaker_state", "step_errors"} <= names(store, "table")
    assert {
        "idx_executions_status",
        "idx_executions_started_at",
        "idx_steps_status",
        "idx_steps_execution_id",
        "idx_execution_step",
    } <= names(store, "index")
    assert {"update_executions_timestamp", "update_steps_timestamp"} <= names(store, "trigger")
    assert "step_events" in names(store, "view")
    assert store.select("PRAGMA user_version") == [(WORKFLOW_SCHEMA_VERSION,)]
    assert store.select("PRAGMA foreign_keys") == [(1,)]


def test_a_newer_schema_is_refused(tmp_path):
    path = tmp_path / "w.db"
    SQLiteStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(SchemaVersionError, match="999"):
        SQLiteStore(path)


def test_garbage_is_a_clear_error(tmp_path):
    path = tmp_path / "w.db"
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(StorageError, match="restore it from a backup"):
        SQLiteStore(path)


def test_a_lock_held_by_another_is_a_clear_error(tmp_path):
    path = tmp_path / "w.db"
    store = SQLiteStore(path, busy_timeout_ms=1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="another program holds a lock"):
        begin(store)
    other.execute("ROLLBACK")
    begin(store)
    store.close()
    other.close()


def test_full_synchronous(tmp_path):
    store = SQLiteStore(tmp_path / "w.db", synchronous="FULL")
    assert store.select("PRAGMA synchronous") == [(2,)]
    assert store.select("PRAGMA journal_mode") == [("wal",)]
    store.close()


@pytest.mark.parametrize(("synchronous", "whole"), [("NORMAL", 0), ("FULL", 1)])
def test_on_macos_a_flush_goes_all_the_way_to_the_disk(tmp_path, monkeypatch, synchronous, whole):
    monkeypatch.setattr("sys.platform", "darwin")
    store = SQLiteStore(tmp_path / "w.db", synchronous=synchronous)
    assert store.select("PRAGMA fullfsync") == [(whole,)]
    assert store.select("PRAGMA checkpoint_fullfsync") == [(1,)]
    store.close()


def test_times_are_utc_text_and_milliseconds(store):
    begin(store)
    (started_at,) = store.select("SELECT started_at FROM executions")[0]
    assert started_at == "2026-01-02T03:04:05.678901+00:00"


def test_tables_that_another_process_makes_at_the_same_moment_are_no_foreign_ones(tmp_path, monkeypatch):
    path, look = tmp_path / "w.db", opening._version
    path.touch()

    def look_and_be_overtaken(database):
        found = look(database)
        other = sqlite3.connect(path, timeout=0, isolation_level=None)
        with (
            contextlib.closing(other),
            contextlib.suppress(sqlite3.OperationalError),
        ):  # locked until both looks are done
            other.execute("CREATE TABLE executions (id)")
        return found

    monkeypatch.setattr(opening, "_version", look_and_be_overtaken)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        opening._refuse_foreign(database, WORKFLOW_SCHEMA, WORKFLOW_SCHEMA_VERSION, str(path))


def test_a_path_may_be_a_text(tmp_path):
    store = SQLiteStore(str(tmp_path / "w.db"))
    begin(store)
    store.close()
    assert (tmp_path / "w.db").exists()


def test_a_database_in_memory_by_the_name_that_sqlite_has_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore(":memory:")
    assert store.location() == ":memory:"
    assert store.for_reading() is None
    store.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "how", "message"),
    [
        ("", {}, "is a file, or None for one in memory, not ''"),
        (5, {}, "is a file, or None for one in memory, not 5"),
        ("a.db", {"synchronous": "OFF"}, "synchronous is NORMAL or FULL, not 'OFF'"),
    ],
)
def test_what_a_database_cannot_be(path, how, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValidationError, match=message):
        SQLiteStore(path, **how)
    assert list(tmp_path.iterdir()) == []
