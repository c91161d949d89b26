"""Whether a database was written since it was last asked for: what live views poll, at a few microseconds each time.

SQLite counts the commits of others for each connection (`PRAGMA data_version`,
https://www.sqlite.org/pragma.html#pragma_data_version). A connection that only ever asks for that number sees the
commits of this process like those of every other one, takes no lock that a writer waits for, and reads no page.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING

from workflow_core.database.opening import leave_to_parent
from workflow_core.forking import after_fork

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ChangeMarker"]


class ChangeMarker:
    """Tells, by a value that is another one after every commit, that a database file was written.

    Args:
        path: The database file, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened = 0
        after_fork(self)

    def forked(self) -> None:
        """Begin again in a child process, which may not use a connection of its parent's."""
        self._lock = threading.Lock()
        if self._connection is not None:
            leave_to_parent(self._connection)
            self._connection = None

    def read(self) -> tuple[int, int]:
        """Return the value of now; it stays the same while the database cannot be read."""
        with self._lock:
            try:
                if self._connection is None:
                    if not self._path.exists():
                        return self._opened, 0
                    self._connection = self._open()
                    self._opened += 1
                return self._opened, int(self._connection.execute("PRAGMA data_version").fetchone()[0])
            except sqlite3.Error:
                self._close()
                return self._opened, -1

    def _open(self) -> sqlite3.Connection:
        where = f"{self._path.absolute().as_uri()}?mode=ro"
        return sqlite3.connect(where, uri=True, timeout=0, isolation_level=None, check_same_thread=False)

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
