"""The length of a write-ahead log that is flushed at every commit: it is given at once what it would grow to.

A flush of a file that has grown writes the file system's journal besides the file, which takes about twice as long on
ext4. A log grows with each commit until its first checkpoint; from then on it is written again from its beginning.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Final

from workflow_core.database.opening import changed_setting, roll_back

__all__ = ["lengthen_log"]

_CACHED_PAGES: Final = 10
"""What SQLite holds back of the transaction, about; the rest of it is written to the log before its end."""

_SHARE_OF_ROOM: Final = 100
"""A log gets its length where that takes no more than a hundredth of the disk's free room: what it does not need yet,
other files may need."""

_WORTH_IT: Final = 1 / 16
"""A log with this share of its length is one of a database that is written often."""


def lengthen_log(connection: sqlite3.Connection) -> bool:
    """Give a write-ahead log that was written for a while its length, by a large transaction that is rolled back.

    What is left of it in the log belongs to no commit, as with every transaction that was rolled back. The log is
    deleted when the last connection is closed, and takes room until then: so a log that is short yet stays as it is.
    That it cannot be done, with a full disk or while another process writes, is no error. A database without such a
    log is left as it is.

    Args:
        connection: The connection to a database in a file, outside a transaction.

    Returns:
        Whether that is settled; ``False`` while the log is short.
    """
    with contextlib.suppress(sqlite3.Error, OSError):
        journal, pages, page_bytes = (
            connection.execute(f"PRAGMA {setting}").fetchone()[0]
            for setting in ("journal_mode", "wal_autocheckpoint", "page_size")
        )
        name = connection.execute("PRAGMA database_list").fetchone()[2]  # behind links, where its log lies as well
        log, size = Path(f"{name}-wal"), pages * page_bytes
        found = _size_of(log)
        if journal == "wal" and found < size * _WORTH_IT:
            return False
        if journal != "wal" or found >= size or size * _SHARE_OF_ROOM > shutil.disk_usage(log.parent).free:
            return True
        with (
            changed_setting(connection, "busy_timeout", 0),  # who writes waits by himself, and need not do so twice
            changed_setting(connection, "cache_size", _CACHED_PAGES),
        ):
            try:
                connection.execute("BEGIN IMMEDIATE")
                if _size_of(log) < size:  # else another process was faster
                    _fill(connection, size + 2 * _CACHED_PAGES * page_bytes)
            finally:
                roll_back(connection)
    return True


def _fill(connection: sqlite3.Connection, size: int) -> None:
    """Write so many bytes to the log, in the transaction that has begun; give the room back if there is no more."""
    try:
        connection.execute("CREATE TABLE room (pages BLOB)")
        connection.execute("INSERT INTO room VALUES (zeroblob(?))", (size,))
    except sqlite3.Error:
        roll_back(connection)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        raise


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it is not there yet; if it cannot be read, whoever writes it will say so
        return 0
