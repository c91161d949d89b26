"""Where recorded executions come from: which files are read, how, and what is said of those that cannot be."""

import contextlib
import shutil
import sqlite3

import pytest

from pytest_workflow import history_source, storages
from pytest_workflow.history_source import opened, recorded
from pytest_workflow.recorded_history import RecordedHistory, load_history, write_history
from tests.unit.store_calls import begin
from workflow_core.database.schema import WORKFLOW_SCHEMA_VERSION
from workflow_core.database.sqlite import SQLiteStore


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A database with one execution of the workflow "w"."""
    path = tmp_path_factory.mktemp("template") / "w.db"
    store = SQLiteStore(path)
    begin(store)
    store.close()
    return path


@pytest.fixture
def make(template, tmp_path):
    """Give a function that puts such a database somewhere, changes it, and returns its path."""

    def put(place="w.db", *statements):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(template, path)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            for statement in statements:
                database.execute(statement)
        return path

    return put


def found(source, workflow=None, execution_id=None):
    """Return which executions a source holds, and which databases they are in."""
    with opened(source, None) as databases:
        each = recorded(databases, workflow, execution_id)
        return [(execution.workflow_name, execution.execution_id) for _, execution in each]


def refusal(source):
    with pytest.raises((ValueError, TypeError)) as caught:
        found(source)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def test_what_is_opened_is_a_copy_in_memory_and_closed_at_the_end(make):
    with opened(make(), None) as (database,):
        assert database.execute("PRAGMA database_list").fetchall() == [(0, "main", "")]
        assert database.execute("SELECT id FROM executions").fetchall() == [("e",)]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        database.execute("SELECT 1")


def test_executions_may_be_chosen(make):
    source = make()
    assert found(source) == found(str(source), "w") == found(source, "w", "e") == [("w", "e")]
    assert found(source, "v") == found(source, None, "f") == []


def test_all_databases_of_a_directory_are_read_in_the_order_of_their_names(make, tmp_path):
    for name in ("b", "a"):
        make(f"state/workflows/{name}/{name}.db", f"UPDATE executions SET id = '{name}'")
    make("state/0.db")
    make("state/foreign.db", "ALTER TABLE executions RENAME TO other")
    (tmp_path / "state" / "thumbs.db").write_bytes(b"no database")
    make("state/w.sqlite")
    assert found(tmp_path / "state") == [("w", "e"), ("w", "a"), ("w", "b")]


@pytest.mark.parametrize(
    ("place", "head", "is_read"),
    [
        ("workflows/a/a.db", b"garbage", True),
        ("workflows/a/b.db", b"garbage", False),
        ("elsewhere/a/a.db", b"garbage", False),
        ("elsewhere/b.db", b"SQLite format 3\x00", True),
        ("elsewhere/b.db", b"SQLite format 4\x00", False),
    ],
)
def test_a_damaged_file_of_a_directory_is_told_if_it_was_a_workflow_s(make, tmp_path, place, head, is_read):
    make("state/w.db")
    path = tmp_path / "state" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(head + b" and more")
    if is_read:
        assert refusal(tmp_path / "state").startswith(f"the database {path} cannot be read: ")
    else:
        assert found(tmp_path / "state") == [("w", "e")]


def test_what_was_opened_before_a_database_that_cannot_be_read_is_closed(make, tmp_path, monkeypatch):
    copies = []

    def copied(database):
        copies.append(storages.copied(database))
        return copies[-1]

    monkeypatch.setattr(history_source, "copied", copied)
    make("state/a.db")
    make("state/b.db", "PRAGMA user_version = 99")
    assert "b.db has schema version 99" in refusal(tmp_path / "state")
    (copy,) = copies
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        copy.execute("SELECT 1")


def test_what_has_not_reached_the_file_itself_is_read(make):
    path = make()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("UPDATE executions SET workflow_name = 'v'")
        assert found(path) == [("v", "e")]


def test_nothing_is_put_beside_a_file_that_nobody_uses(make):
    path = make()
    assert found(path) == [("w", "e")]
    assert [each.name for each in path.parent.iterdir()] == ["w.db"]


def test_a_saved_history_and_one_that_is_loaded(make, tmp_path):
    with opened(make(), None) as databases:
        executions = [execution for _, execution in recorded(databases, None, None)]
    saved = tmp_path / "saved.json"
    write_history(saved, executions)
    assert found(saved) == found(RecordedHistory(executions=load_history(saved))) == [("w", "e")]


def test_what_is_no_source_is_told(tmp_path):
    assert refusal(3) == (
        "a history is read from a database file, a runtime directory, a saved JSON file, the workflow fixture "
        "or an ExecutionResult, not from int"
    )
    assert refusal("  ") == "a history is read from a file or a directory, and this path is empty"
    assert refusal(tmp_path) == f"{tmp_path} holds no workflow database; name a database file, or a directory with some"
    missing = tmp_path / "missing.db"
    assert refusal(missing) == f"the history {missing} cannot be read: No such file or directory"
    missing.touch()
    assert refusal(missing) == f"the history {missing} is empty"


def test_a_database_that_cannot_be_replayed_says_why(make):
    path = make("w.db", "ALTER TABLE executions RENAME TO other")
    assert refusal(path) == (
        f"{path} is no workflow database: it has no table of executions. In a runtime directory they are "
        "workflows/NAME/NAME.db; name one of those, or the directory"
    )
    path = make("w.db", "PRAGMA user_version = 99")
    assert refusal(path) == (
        f"{path} has schema version 99, and this version of pytest-workflow-core knows up to "
        f"{WORKFLOW_SCHEMA_VERSION}; install the version that wrote it, or a newer one"
    )
    for change in ("PRAGMA user_version = 0", "DROP TABLE step_errors"):
        path = make("w.db", change)
        assert refusal(path) == f"{path} is the database of another program, or tables of it are missing"


def test_a_damaged_database_says_so(make):
    path = make("w.db", "CREATE TABLE filler (a)", "INSERT INTO filler VALUES (randomblob(100000))")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size - 3 * 4_096)
        file.write(b"x" * 3 * 4_096)
    told = refusal(path)
    assert told.startswith(f"the database {path} is damaged: ")
    assert told.endswith("; replay a backup of it")
