"""Where recorded executions come from: each source becomes a workflow database in memory, and is never written."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from pytest_workflow.harness import WorkflowHarness
from pytest_workflow.recorded_history import RecordedHistory, load_history, read_executions, write_executions
from pytest_workflow.storages import copied, memory_database
from workflow_core.database.schema import WORKFLOW_SCHEMA_VERSION
from workflow_core.models import ExecutionResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_workflow.recorded_history import RecordedExecution
    from pytest_workflow.storages import SQLConnection, Storage

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["HistorySource", "opened", "recorded"]

HistorySource: TypeAlias = "str | os.PathLike[str] | WorkflowHarness | ExecutionResult | RecordedHistory"
"""A database file, a runtime directory, a saved history, the ``workflow`` fixture, or a result of the same test."""

_ConnectionT = TypeVar("_ConnectionT", bound="SQLConnection | sqlite3.Connection")
_SQLITE = b"SQLite format 3\x00"
_NEEDED = frozenset({"executions", "steps", "step_errors", "step_events", "event_log"})


class opened:  # noqa: N801 - used as a function; a generator would put frames of contextlib's into tracebacks
    """Opens a source as workflow databases in memory, and closes them at the end of the ``with`` block.

    Args:
        source: The source.
        live: The database of the running test.

    Raises:
        ValueError: The source cannot be read, or is something else.
        TypeError: The source is of no known kind.
    """

    def __init__(self, source: HistorySource, live: Storage) -> None:
        if isinstance(source, (WorkflowHarness, ExecutionResult)):
            self._databases = [live.copied()]
        elif isinstance(source, RecordedHistory):
            self._databases = [_filled(source.executions)]
        elif isinstance(source, (str, os.PathLike)):
            if not os.fspath(source).strip():
                raise ValueError("a history is read from a file or a directory, and this path is empty")
            self._databases = []
            try:
                for database in _from_path(Path(source)):
                    self._databases.append(database)
            except BaseException:  # those before the one that cannot be read
                self.__exit__()
                raise
        else:
            raise TypeError(
                "a history is read from a database file, a runtime directory, a saved JSON file, the workflow fixture "
                f"or an ExecutionResult, not from {type(source).__name__}"
            )

    def __enter__(self) -> list[sqlite3.Connection]:
        return self._databases

    def __exit__(self, *error: object) -> None:
        for database in self._databases:
            database.close()


def recorded(
    databases: Iterable[_ConnectionT], workflow: str | None, execution_id: str | None
) -> list[tuple[_ConnectionT, RecordedExecution]]:
    """Return the executions of some databases, each with the database it is in."""
    return [
        (database, execution)
        for database in databases
        for execution in read_executions(database, workflow, execution_id)
    ]


def _filled(executions: tuple[RecordedExecution, ...]) -> sqlite3.Connection:
    database = memory_database()
    write_executions(database, executions)
    return database


def _from_path(path: Path) -> Iterator[sqlite3.Connection]:
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*.db")) if _is_workflow_database(file)]
        if not files:
            raise ValueError(f"{path} holds no workflow database; name a database file, or a directory with some")
        yield from map(_copy_of_file, files)
        return
    try:
        head = _head(path)
    except OSError as error:
        raise ValueError(f"the history {path} cannot be read: {error.strerror or error}") from None
    if not head:
        raise ValueError(f"the history {path} is empty")
    yield _copy_of_file(path) if head == _SQLITE else _filled(load_history(path))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_SQLITE))


def _is_workflow_database(path: Path) -> bool:
    """Tell whether a file of a directory is to be replayed; a damaged one is, so that its reader is told."""
    try:
        with contextlib.closing(_read_only(path)) as database:
            return _has_executions(database)
    except (sqlite3.Error, OSError):
        in_its_place = path.parent.name == path.stem and path.parent.parent.name == "workflows"
        return in_its_place or _begins_as_a_database(path)


def _begins_as_a_database(path: Path) -> bool:
    try:
        return _head(path) == _SQLITE
    except OSError:
        return True


def _has_executions(database: sqlite3.Connection) -> bool:
    return "executions" in _tables(database)


def _tables(database: sqlite3.Connection) -> set[str]:
    return {str(row[0]) for row in database.execute("SELECT name FROM sqlite_master")}


def _read_only(path: Path) -> sqlite3.Connection:
    """Open a file without leave to write it.

    A database in WAL mode that nobody has open is read as immutable: otherwise SQLite would put its ``-wal`` and
    ``-shm`` files next to it, and fail where it may not.
    """
    wal, shared = path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")
    in_use = wal.exists() and (wal.stat().st_size > 0 or shared.exists())
    uri = f"{path.absolute().as_uri()}?mode=ro{'' if in_use else '&immutable=1'}"
    return sqlite3.connect(uri, uri=True)


def _copy_of_file(path: Path) -> sqlite3.Connection:
    try:
        with contextlib.closing(_read_only(path)) as database:
            if not _has_executions(database):
                raise ValueError(
                    f"{path} is no workflow database: it has no table of executions. In a runtime directory they are "
                    "workflows/NAME/NAME.db; name one of those, or the directory"
                )
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version > WORKFLOW_SCHEMA_VERSION:
                raise ValueError(
                    f"{path} has schema version {version}, and this version of pytest-workflow-core knows up to "
                    f"{WORKFLOW_SCHEMA_VERSION}; install the version that wrote it, or a newer one"
                )
            if not version or _NEEDED - _tables(database):
                raise ValueError(f"{path} is the database of another program, or tables of it are missing")
            if (found := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise ValueError(f"the database {path} is damaged: {found}; replay a backup of it")
            return copied(database)
    except sqlite3.Error as error:
        raise ValueError(f"the database {path} cannot be read: {error}; if it is damaged, replay a backup") from None
