"""A copy of a runtime directory, made while others write to it, that is complete or is not there."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final

from workflow_core.database.diagnosis import storage_error
from workflow_core.database.layout import RuntimeLayout
from workflow_core.database.registry import executions_in, register
from workflow_core.errors import StorageError, ValidationError
from workflow_core.whole_files import neighbour

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

__all__ = ["back_up"]


def back_up(
    layout: RuntimeLayout,
    to: Path,
    busy_timeout_ms: int,
    progress: Callable[[int, int], object] | None = None,
    cancelled: Event | None = None,
) -> Path:
    """Copy a runtime directory: the registry, and of each workflow its database, definition, configuration and logs.

    Each database is copied by SQLite's backup interface, in one step: the copy is the database of one moment, and
    writers are not kept waiting. No execution of the copy has an owner, so any engine may go on with it at once.

    Args:
        layout: The runtime directory.
        to: The copy; made under another name beside it and renamed when it is complete.
        busy_timeout_ms: How long to wait for another process's lock, in milliseconds.
        progress: Called with the number of workflows that are copied, and of all.
        cancelled: Once it is set, the copy is given up.

    Returns:
        The absolute path of the copy.

    Raises:
        ValidationError: There is something at that place, or it lies in the runtime directory itself.
        StorageError: Nothing is there to copy, something cannot be read or written, or a database is damaged.
    """
    to = to.absolute()
    root = layout.root.resolve()
    if to.resolve() == root or root in to.resolve().parents:
        raise ValidationError(f"Cannot back up {layout.root} to {to}, which lies in it; choose another place")
    if to.exists() and not (to.is_dir() and next(to.iterdir(), None) is None):
        raise ValidationError(f"Cannot back up to {to}: it is there already; choose a new name, or move it away")
    if not layout.registry.is_file():
        raise StorageError(f"{layout.root} holds no workflows, so there is nothing to back up", str(layout.root))
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        part = neighbour(to)
        part.mkdir(mode=0o700)
        try:
            _Copy(layout, RuntimeLayout(part), busy_timeout_ms).make(progress, cancelled)
            if to.exists():
                to.rmdir()
            part.rename(to)
            _flush(to.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except OSError as error:
        raise StorageError(f"{error.filename or to}: cannot be backed up to {to}: {error.strerror}") from error
    return to


class _Copy:
    """A copy in the making."""

    def __init__(self, source: RuntimeLayout, target: RuntimeLayout, busy_timeout_ms: int) -> None:
        self._source = source
        self._target = target
        self._busy_timeout = busy_timeout_ms / 1_000

    def make(self, progress: Callable[[int, int], object] | None, cancelled: Event | None) -> None:
        names = list(self._source.workflow_names())
        executions: dict[str, list[tuple[str, str]]] = {}
        self._target.make_workflows()
        for number, name in enumerate(names):
            if cancelled is not None and cancelled.is_set():
                raise StorageError("The backup was cancelled")
            if progress is not None:
                progress(number, len(names))
            self._target.make_workflow(name)
            executions[name] = self._copy_workflow(name)
        # An id is in the registry before its execution is in the workflow's database, so the registry is copied last.
        self._copy_registry(executions)
        for directory, _, _ in os.walk(self._target.root, topdown=False):
            _flush(Path(directory))
        if progress is not None:
            progress(len(names), len(names))

    def _copy_workflow(self, name: str) -> list[tuple[str, str]]:
        database = self._source.database(name)
        for directory in (
            self._source.workflow_dir(name),
            self._source.log_dir(name),
            self._source.log_dir(name) / "executions",
        ):
            for path in directory.iterdir() if directory.is_dir() else ():
                is_databases = directory == database.parent and path.name.startswith(database.name)
                is_other = not is_databases and not path.name.endswith(".part")
                if is_other and path.is_file() and not path.is_symlink():
                    with contextlib.suppress(FileNotFoundError):  # a log that is removed with its execution meanwhile
                        _copy_file(path, self._target.root / path.relative_to(self._source.root))
        copy = self._copy_database(database, self._target.database(name))
        try:
            found = executions_in(copy)
            if found:
                copy.execute("BEGIN IMMEDIATE")
                copy.execute("DELETE FROM owners")
                copy.execute(
                    "UPDATE executions SET owner_id = NULL, revision = revision + 1 WHERE owner_id IS NOT NULL"
                )
                copy.execute("COMMIT")
        except sqlite3.Error as error:
            raise storage_error(error, str(database)) from error
        finally:
            _complete(copy, self._target.database(name))
        return found

    def _copy_registry(self, executions: dict[str, list[tuple[str, str]]]) -> None:
        path = self._target.registry
        copy = self._copy_database(self._source.registry, path)
        try:
            copy.execute("BEGIN IMMEDIATE")
            for (name,) in copy.execute("SELECT name FROM workflow_registry").fetchall():
                if name not in executions:  # it was made after the others were copied
                    copy.execute("DELETE FROM workflow_registry WHERE name = ?", (name,))
                    copy.execute("DELETE FROM execution_index WHERE workflow_name = ?", (name,))
            for name, found in executions.items():
                register(copy, self._target, name, found)
            copy.execute("COMMIT")
        except sqlite3.Error as error:
            raise storage_error(error, str(self._source.registry)) from error
        finally:
            _complete(copy, path)

    def _copy_database(self, source: Path, target: Path) -> sqlite3.Connection:
        """Copy a database, and return a connection to the copy, which is one file from then on.

        Raises:
            StorageError: It cannot be read, or is damaged.
        """
        target.touch(mode=0o600)
        try:
            original = sqlite3.connect(source, timeout=self._busy_timeout, isolation_level=None)
            copy = sqlite3.connect(target, isolation_level=None)
            try:
                original.backup(copy)
                # Without a journal: until it is complete, the copy is of no use to anybody.
                copy.execute("PRAGMA journal_mode = DELETE")
                copy.execute("PRAGMA synchronous = OFF")
                found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
            except BaseException:
                copy.close()
                raise
            finally:
                original.close()
        except sqlite3.Error as error:
            raise storage_error(error, str(source)) from error
        if found != "ok":
            copy.close()
            raise StorageError(f"{source} is damaged, so it was not backed up: {found}", str(source))
        return copy


def _complete(connection: sqlite3.Connection, path: Path) -> None:
    connection.close()
    with path.open("rb+") as file:
        os.fsync(file.fileno())


_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as original, os.fdopen(os.open(target, _NEW_FILE, 0o600), "wb") as copy:
        shutil.copyfileobj(original, copy)
        copy.flush()
        os.fsync(copy.fileno())


def _flush(directory: Path) -> None:
    """Let a directory's entries reach the disk, where the system knows how."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
