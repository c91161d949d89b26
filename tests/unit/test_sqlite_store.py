"""The SQLite store, in a file and in memory, by the same tests."""

import asyncio
import contextlib
import sqlite3
from datetime import UTC, datetime

import pytest

from workflow_core import LeaseLostError, SchemaVersionError, StorageError
from workflow_core.database import connection
from workflow_core.database.schema import WORKFLOW_SCHEMA, WORKFLOW_SCHEMA_VERSION
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.database.store import DURABLE_POINTS, ErrorRecord, Lease, NewExecution, StepRecord
from workflow_core.ownership import Owner

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
OWNER = Owner("host", 1, "0")


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    store = SQLiteStore(None if request.param == "memory" else tmp_path / "w.db")
    yield store
    store.close()


def begin(store, execution_id="e"):
    new = NewExecution("w", execution_id, '{"a":1}', "{}", "{}", None)
    assert asyncio.run(store.execution_started(new, OWNER, None, NOW)) is None
    return Lease("w", execution_id, 1)


def start_step(store, lease, step_id="s", seq=2):
    step = StepRecord(step_id)
    asyncio.run(store.step_started(lease, step, 1, seq, NOW, None))
    step.stored, step.status, step.attempt, step.started_seq = True, "running", 1, seq
    return step


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


def test_every_durable_point_is_a_method(store):
    assert all(callable(getattr(store, name)) for name in DURABLE_POINTS)


def test_a_step_is_one_row_and_two_events(store):
    lease = begin(store)
    step = start_step(store, lease)
    asyncio.run(store.step_completed(lease, step, "7", None, 3, NOW, None, None))
    assert store.select("SELECT count(*) FROM event_log") == [(0,)]
    kinds = [type(event).__name__ for event in asyncio.run(store.load_events("w", "e"))]
    assert kinds == ["ExecutionStarted", "StepStarted", "StepCompleted"]


def test_an_owner_is_there_although_its_first_write_was_refused(store):
    lease, second = begin(store), Owner("host", 2, "0")
    with pytest.raises(LeaseLostError):
        asyncio.run(store.execution_recovered(Lease("w", "e", 7), second, 5_000, "running", 2, NOW))
    asyncio.run(store.execution_recovered(lease, second, 5_000, "running", 2, NOW))
    assert asyncio.run(store.load_owner(second.owner_id)) == (second, 5_000)


def test_starting_an_id_again_returns_what_is_there(store):
    begin(store)
    found = asyncio.run(store.execution_started(NewExecution("v", "e", None, "{}", "{}", None), OWNER, None, NOW))
    assert (found.workflow_name, found.input_data, found.started_at) == ("w", '{"a":1}', NOW)


@pytest.mark.parametrize(
    "write",
    [
        lambda store, lease, step: store.step_started(lease, StepRecord("new"), 1, 9, NOW, None),
        lambda store, lease, step: store.step_started(lease, step, 2, 9, NOW, "running"),
        lambda store, lease, step: store.step_completed(lease, step, "1", None, 9, NOW, None, None),
        lambda store, lease, step: store.step_completed(lease, step, "1", None, 9, NOW, "running", None),
        lambda store, lease, step: store.step_attempt_failed(
            lease, step, ErrorRecord("E", "m", None, None, 1, 0), 9, NOW, None, None
        ),
        lambda store, lease, step: store.step_retrying(lease, step, 5, 5, 9, NOW),
        lambda store, lease, step: store.step_failed(lease, step, ErrorRecord("E", "m", None, None, 1, 0), True, NOW),
        lambda store, lease, step: store.step_refused(lease, step, 1, NOW),
        lambda store, lease, step: store.step_skipped(lease, step, "1", 9, NOW),
        lambda store, lease, step: store.sleep_started(lease, StepRecord("z"), 5, 5, 9, NOW, None),
        lambda store, lease, step: store.sleep_completed(lease, step, 9, NOW, None),
        lambda store, lease, step: store.execution_completed(lease, None, False, 9, NOW),
        lambda store, lease, step: store.execution_failed(lease, '{"type":"E","message":"m"}', "m", 9, NOW),
        lambda store, lease, step: store.execution_panicked(lease, "{}", "m", None, "{}", 9, NOW),
        lambda store, lease, step: store.execution_restarted(lease, OWNER, None, 2, None, 9, NOW),
        lambda store, lease, step: store.execution_cancelled(lease, 9, NOW),
        lambda store, lease, step: store.execution_released(lease, True, NOW, 9),
        lambda store, lease, step: store.execution_recovered(lease, OWNER, None, "running", 9, NOW),
    ],
)
def test_without_the_lease_nothing_is_written(store, write):
    lease = begin(store)
    step = start_step(store, lease)
    asyncio.run(store.execution_recovered(lease, Owner("other", 2, "0"), None, "running", 3, NOW))
    before = list(store.connection.iterdump())
    with pytest.raises(LeaseLostError):
        asyncio.run(write(store, lease, step))
    assert list(store.connection.iterdump()) == before
    assert not store.connection.in_transaction


def test_a_foreign_change_moves_updated_at_and_ours_sets_it(store):
    lease = begin(store)
    start_step(store, lease)
    assert store.select("SELECT updated_at FROM steps") == [(NOW.isoformat(),)]
    store.connection.execute("UPDATE steps SET status = 'failed'")
    assert store.select("SELECT updated_at FROM steps") != [(NOW.isoformat(),)]
    store.connection.execute("UPDATE executions SET status = 'failed'")
    assert store.select("SELECT updated_at FROM executions") != [(NOW.isoformat(),)]


def test_the_log_of_events_is_append_only(store):
    lease = begin(store)
    asyncio.run(store.execution_cancelled(lease, 2, NOW))
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        store.connection.execute("UPDATE event_log SET type = 'ExecutionCompleted'")


def test_deleting_an_execution_deletes_what_belongs_to_it(store):
    lease = begin(store)
    step = start_step(store, lease)
    asyncio.run(store.step_attempt_failed(lease, step, ErrorRecord("E", "m", None, None, 1, 0), 3, NOW, None, None))
    store.connection.execute("DELETE FROM executions")
    for table in ("steps", "step_errors", "event_log", "step_events"):
        assert store.select(f"SELECT count(*) FROM {table}") == [(0,)]


def test_a_closed_store_says_so(store):
    store.close()
    with pytest.raises(StorageError, match="closed"):
        asyncio.run(store.load_execution("e"))


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


def test_times_are_utc_text_and_milliseconds(store):
    begin(store)
    (started_at,) = store.select("SELECT started_at FROM executions")[0]
    assert started_at == "2026-01-02T03:04:05.678901+00:00"


def test_tables_that_another_process_makes_at_the_same_moment_are_no_foreign_ones(tmp_path, monkeypatch):
    path, look = tmp_path / "w.db", connection._version
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

    monkeypatch.setattr(connection, "_version", look_and_be_overtaken)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        connection._refuse_foreign(database, WORKFLOW_SCHEMA, WORKFLOW_SCHEMA_VERSION, str(path))


def test_a_path_may_be_a_text(tmp_path):
    store = SQLiteStore(str(tmp_path / "w.db"))
    begin(store)
    store.close()
    assert (tmp_path / "w.db").exists()
