"""The registry of a runtime directory: which workflows there are, and which execution id belongs to which.

It holds nothing that the workflows' own databases do not tell. So what it lacks, because a workflow's directory was
copied in, or because it was lost or is damaged, is read from them when it is opened.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pydantic_core

from workflow_core.database.diagnosis import storage_error
from workflow_core.database.moments import stored_text
from workflow_core.database.opening import leave_to_parent, open_database, roll_back
from workflow_core.database.schema import REGISTRY_SCHEMA, REGISTRY_SCHEMA_VERSION
from workflow_core.database.store import WorkflowRecord
from workflow_core.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workflow_core.database.layout import RuntimeLayout

__all__ = ["Registry", "executions_in", "register"]

logger = logging.getLogger("workflow_core")


class Registry:
    """The registry's database, opened at the first use.

    Args:
        layout: Where it lies.
        synchronous: ``NORMAL`` or ``FULL``.
        busy_timeout_ms: How long to wait for another process's lock, in milliseconds.
    """

    def __init__(self, layout: RuntimeLayout, synchronous: str, busy_timeout_ms: int) -> None:
        self.lock = threading.RLock()
        self._layout = layout
        self._path = str(layout.registry)
        self._synchronous = synchronous
        self._busy_timeout_ms = busy_timeout_ms
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    def exists(self) -> bool:
        """Tell whether there is anything to read: a registry, or workflows that it is to be made from."""
        return os.path.exists(self._path) or next(self._layout.workflow_names(), None) is not None  # noqa: PTH110 - as `_identity`

    def forked(self) -> None:
        """Begin again in a child process, which may not use a connection of its parent's."""
        self.lock = threading.RLock()
        if self._connection is not None:
            leave_to_parent(self._connection)
            self._connection = None

    def close(self) -> None:
        """Let go of the database."""
        with self.lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _rows(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """Run a statement in a transaction of its own, and return its rows."""
        with self.lock:
            try:
                return self.open().execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                failure = storage_error(error, self._path)
                if failure.reason != "damaged":
                    raise failure from error
            self._replace_damaged()
            try:
                return self.open().execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                raise storage_error(error, self._path) from error

    # Reading ---------------------------------------------------------------------------------------------------------

    def workflow_names(self) -> list[str]:
        """Return the names of the workflows, sorted."""
        return [str(row[0]) for row in self._found("SELECT name FROM workflow_registry ORDER BY name")]

    def workflows(self) -> list[WorkflowRecord]:
        """Return the workflows, sorted by name."""
        rows = self._found(
            "SELECT name, status, created_at, last_execution_at, execution_count FROM workflow_registry ORDER BY name"
        )
        return [WorkflowRecord.of_row(row) for row in rows]

    def workflow_of(self, execution_id: str) -> str | None:
        """Return the workflow to which an id belongs, whether there is such an execution or not."""
        rows = self._found("SELECT workflow_name FROM execution_index WHERE execution_id = ?", (execution_id,))
        return str(rows[0][0]) if rows else None

    def find_execution_ids(self, prefix: str, limit: int) -> list[str]:
        """Return the ids that begin with a prefix, sorted."""
        rows = self._found(
            "SELECT execution_id FROM execution_index WHERE execution_id >= ? AND execution_id < ? || '~'"
            " ORDER BY execution_id LIMIT ?",
            (prefix, prefix, limit),
        )
        return [str(row[0]) for row in rows]

    def _found(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        is_open = self._connection is not None and self._connection.in_transaction
        return self._rows(sql, parameters) if is_open or self.exists() else []

    # Writing ---------------------------------------------------------------------------------------------------------

    def add_workflow(self, name: str, at: datetime) -> None:
        """Put a workflow in; does nothing if it is there."""
        self._rows(
            "INSERT INTO workflow_registry (name, db_path, workflow_dir, log_dir, created_at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (name) DO NOTHING",
            (name, *_paths(self._layout, name), stored_text(at)),
        )

    def add_execution(self, execution_id: str, workflow_name: str) -> None:
        """Give an id to a workflow, unless it belongs to one."""
        self._rows(
            "INSERT INTO execution_index (execution_id, workflow_name) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (execution_id, workflow_name),
        )

    def move_execution(self, connection: sqlite3.Connection, execution_id: str, workflow_name: str) -> None:
        """Give an id to a workflow, in a `transaction`, whichever it belongs to."""
        connection.execute(
            "INSERT INTO execution_index (execution_id, workflow_name) VALUES (?, ?)"
            " ON CONFLICT (execution_id) DO UPDATE SET workflow_name = excluded.workflow_name",
            (execution_id, workflow_name),
        )

    def count_execution(self, connection: sqlite3.Connection, workflow_name: str, at: datetime) -> None:
        """Count a new execution, which is committed already: what goes wrong here must not make it look as if not."""
        try:
            connection.execute(
                "UPDATE workflow_registry SET last_execution_at = ?, execution_count = execution_count + 1"
                " WHERE name = ?",
                (stored_text(at), workflow_name),
            )
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            logger.warning("An execution was started, but not counted: %s", storage_error(error, self._path))
            roll_back(connection)

    def remove_executions(self, connection: sqlite3.Connection, execution_ids: list[str], workflow_name: str) -> None:
        """Take ids from a workflow, in a `transaction`."""
        connection.executemany(
            "DELETE FROM execution_index WHERE execution_id = ? AND workflow_name = ?",
            [(execution_id, workflow_name) for execution_id in execution_ids],
        )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Begin a write transaction, and end it by a commit, or by a rollback on any error."""
        with self.lock:
            connection = self.open()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                if connection.in_transaction:
                    connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise storage_error(error, self._path) from error
            finally:
                roll_back(connection)

    def wait_for_locks(self, *, wait: bool) -> None:
        """Tell whether a write waits for another process's lock, or reports it at once."""
        with self.lock, contextlib.suppress(sqlite3.Error):
            if self._connection is not None:
                self._connection.execute(f"PRAGMA busy_timeout = {self._busy_timeout_ms if wait else 0}")

    def open(self) -> sqlite3.Connection:
        """Return the connection to the file that bears the registry's name now, and complete what it lacks.

        Raises:
            StorageError: It cannot be opened.
        """
        if self._connection is not None:
            if self._connection.in_transaction or self._file == _identity(self._path):
                return self._connection
            self._connection.close()  # another process has moved a damaged file away
            self._connection = None
        self._layout.make_root()
        try:
            return self._open_complete()
        except StorageError as error:
            if error.reason != "damaged":
                raise
        self._replace_damaged()
        return self._open_complete()

    def _open_complete(self) -> sqlite3.Connection:
        connection = self._open()
        try:
            self._adopt(connection)
        except sqlite3.Error as error:
            connection.close()
            raise storage_error(error, self._path) from error
        self._connection, self._file = connection, _identity(self._path)
        return connection

    def _open(self) -> sqlite3.Connection:
        return open_database(
            self._layout.registry, REGISTRY_SCHEMA, REGISTRY_SCHEMA_VERSION, self._synchronous, self._busy_timeout_ms
        )

    # What it lacks ---------------------------------------------------------------------------------------------------

    def _adopt(self, connection: sqlite3.Connection) -> None:
        """Register the workflows that lie in the directory and that the registry does not know."""
        known = {row[0] for row in connection.execute("SELECT name FROM workflow_registry")}
        for name in self._layout.workflow_names():
            if name in known:
                continue
            try:
                executions = _executions_in(self._layout, name, self._busy_timeout_ms)
            except (sqlite3.Error, StorageError) as error:
                logger.warning(
                    'Workflow "%s" cannot be registered, because its database cannot be read: %s; the others are not '
                    "affected; restore it from a backup, or move its directory away",
                    name,
                    error,
                )
                continue
            connection.execute("BEGIN IMMEDIATE")
            try:
                register(connection, self._layout, name, executions)
                connection.execute("COMMIT")
            finally:
                roll_back(connection)

    def _replace_damaged(self) -> None:
        """Move a damaged registry aside, unless another process has done so meanwhile; a new one is made of the rest.

        Raises:
            StorageError: It cannot be moved.
        """
        path = self._layout.registry
        self.close()
        with _alone(self._layout, self._busy_timeout_ms):
            if not self._is_damaged():
                return
            aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
            try:
                for suffix in ("-wal", "-shm"):
                    part = path.with_name(path.name + suffix)
                    if part.exists():
                        part.replace(aside.with_name(aside.name + suffix))
                path.replace(aside)
            except OSError as error:
                raise StorageError(
                    f"{path} is damaged and cannot be moved aside: {error.strerror}; end the programs that use it, and "
                    "move it away: it is made anew from the workflows' databases",
                    str(path),
                ) from error
        logger.warning("%s was damaged; it was moved to %s and is made anew from the workflows' databases", path, aside)

    def _is_damaged(self) -> bool:
        if not self._layout.registry.exists():
            return False
        connection = None
        try:
            connection = self._open()
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok")
        except StorageError as error:
            return error.reason == "damaged"
        except sqlite3.Error as error:
            return storage_error(error, self._path).reason == "damaged"
        finally:
            if connection is not None:
                connection.close()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - once for each execution: a quarter of what Path.stat costs
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _alone(layout: RuntimeLayout, busy_timeout_ms: int) -> Iterator[None]:
    """Keep other processes from replacing the registry at the same time, by SQLite's own lock on a file beside it."""
    path = layout.root / "registry.lock"
    with contextlib.suppress(OSError):  # it is there already, or SQLite will say what is wrong
        path.touch(mode=0o600, exist_ok=False)
    try:
        connection = sqlite3.connect(path, timeout=busy_timeout_ms / 1_000, isolation_level=None)
        try:
            connection.execute("BEGIN EXCLUSIVE")
            yield
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise storage_error(error, str(path)) from error


def _executions_in(layout: RuntimeLayout, name: str, busy_timeout_ms: int) -> list[tuple[str, str]]:
    """Read the ids of a workflow's executions, and when each started.

    Raises:
        sqlite3.Error: Its database cannot be read.
    """
    connection = sqlite3.connect(layout.database(name), timeout=busy_timeout_ms / 1_000, isolation_level=None)
    try:
        return executions_in(connection)
    finally:
        connection.close()


def executions_in(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return the ids of a workflow's executions, and when each started.

    Args:
        connection: Its database; one that was made, and whose tables were not yet, has none.
    """
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'executions'").fetchone() is None:
        return []
    return connection.execute("SELECT id, started_at FROM executions").fetchall()


def register(
    connection: sqlite3.Connection, layout: RuntimeLayout, name: str, executions: list[tuple[str, str]]
) -> None:
    """Put a workflow and its executions into a registry, or correct what it tells of them.

    Args:
        connection: The registry, in a transaction.
        layout: Where the workflow lies.
        name: The workflow.
        executions: The ids of its executions, and when each started.
    """
    began = [at for _, at in executions]
    connection.execute(
        "INSERT INTO workflow_registry (name, db_path, workflow_dir, log_dir, created_at, last_execution_at,"
        " execution_count) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
        " last_execution_at = excluded.last_execution_at, execution_count = excluded.execution_count",
        (
            name,
            *_paths(layout, name),
            _made_at(layout, name) or min(began, default=None) or stored_text(datetime.now(UTC)),
            max(began, default=None),
            len(executions),
        ),
    )
    connection.executemany(
        "INSERT INTO execution_index (execution_id, workflow_name) VALUES (?, ?) ON CONFLICT DO NOTHING",
        [(execution_id, name) for execution_id, _ in executions],
    )


def _paths(layout: RuntimeLayout, name: str) -> tuple[str, str, str]:
    """Return where a workflow's database, directory and logs lie, as the registry tells it."""
    return (
        layout.relative(layout.database(name)),
        layout.relative(layout.workflow_dir(name)) + "/",
        layout.relative(layout.log_dir(name)) + "/",
    )


def _made_at(layout: RuntimeLayout, name: str) -> str | None:
    try:
        definition = pydantic_core.from_json(layout.definition(name).read_bytes())
        return stored_text(datetime.fromisoformat(definition["created_at"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
