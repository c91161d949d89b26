"""A connection whose disk operations are recorded, by an ``apsw`` VFS below SQLite.

``apsw`` brings an SQLite library of its own, and a VFS of one library is unknown to the other. So the engine's
statements go through ``apsw``, behind as much of ``sqlite3.Connection`` as the store uses.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import apsw

from pytest_workflow.power_disk import Delete, Operation, Sync, Truncate, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["recorded_connection"]

_VFS_NAME = "workflow-power"
_RowTuple: TypeAlias = tuple[Any, ...]


class _RecordedFile(apsw.VFSFile):
    def __init__(self, path: str | apsw.URIFilename, flags: list[int], operations: list[Operation]) -> None:
        super().__init__("", path, flags)
        self._name = Path(path if isinstance(path, str) else path.filename()).name
        self._operations = operations

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: ANN401, N802 - any buffer, as apsw says; SQLite's name
        super().xWrite(data, offset)
        self._operations.append(Write(self._name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        self._operations.append(Truncate(self._name, newsize))

    def xSync(self, flags: int) -> None:  # noqa: ARG002, N802
        # Not passed on: this disk is simulated, and a real flush would only take time.
        self._operations.append(Sync(self._name))


class _RecordingVFS(apsw.VFS):
    def __init__(self, operations: list[Operation]) -> None:
        super().__init__(_VFS_NAME, base="")
        self._operations = operations

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        if name is None:  # a temporary file, which nothing reads after a power cut
            return super().xOpen(name, flags)
        return _RecordedFile(name, flags, self._operations)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001, N802
        super().xDelete(filename, syncdir)
        self._operations.append(Delete(Path(filename).name))


class _Rows:
    """What a statement returned, as an ``sqlite3.Cursor`` shows it."""

    def __init__(self, description: Sequence[_RowTuple], rows: list[_RowTuple], rowcount: int) -> None:
        self.description = description
        self.rowcount = rowcount
        self._rows = iter(rows)

    def __iter__(self) -> Iterator[_RowTuple]:
        return self._rows

    def fetchone(self) -> _RowTuple | None:
        return next(self._rows, None)

    def fetchall(self) -> list[_RowTuple]:
        return list(self._rows)


class _RecordedConnection:
    """As much of ``sqlite3.Connection`` as the store and the harness use."""

    def __init__(
        self,
        connection: apsw.Connection,
        vfs: _RecordingVFS,
        operations: list[Operation],
        committed: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._vfs = vfs
        self._operations = operations
        self._committed = committed
        self._noted = 0

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> _Rows:
        try:
            cursor = self._connection.execute(sql, tuple(parameters))
            description = _description(cursor)
            rows = _Rows(description, cursor.fetchall(), -1 if description else self._connection.changes())
        except apsw.Error as error:
            raise _translated(error) from error
        if not self.in_transaction and len(self._operations) > self._noted:
            self._noted = len(self._operations)
            self._committed()
        return rows

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> _Rows:
        return _Rows((), [], sum(self.execute(sql, each).rowcount for each in parameters))

    def rollback(self) -> None:
        if self.in_transaction:
            self.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()
        self._vfs.unregister()


def _description(cursor: apsw.Cursor) -> Sequence[_RowTuple]:
    try:
        return cursor.get_description()
    except apsw.ExecutionCompleteError:  # apsw has no description of a statement without rows
        return ()


def _translated(error: apsw.Error) -> sqlite3.Error:
    if isinstance(error, apsw.ConnectionClosedError):
        return sqlite3.ProgrammingError("Cannot operate on a closed database.")
    kind = sqlite3.IntegrityError if isinstance(error, apsw.ConstraintError) else sqlite3.OperationalError
    translated = kind(str(error))
    translated.sqlite_errorcode = getattr(error, "extendedresult", sqlite3.SQLITE_ERROR)
    return translated


def recorded_connection(path: Path, operations: list[Operation], committed: Callable[[], None]) -> sqlite3.Connection:
    """Open a database through a recording VFS.

    Args:
        path: The database file.
        operations: Where the disk operations are put, in order; each names its file without the directory.
        committed: Is called when a statement that wrote has ended outside a transaction: from then on its caller may
            rely on it.
    """
    vfs = _RecordingVFS(operations)
    connection = _RecordedConnection(apsw.Connection(str(path), vfs=_VFS_NAME), vfs, operations, committed)
    return cast("sqlite3.Connection", connection)  # the store uses nothing that the other lacks
