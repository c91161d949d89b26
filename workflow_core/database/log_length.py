"""The length of a write-ahead log that is flushed at every commit: it is given at once what it would grow to.

A flush of a file that has grown writes the file system's journal besides the file, which takes about twice as long on
ext4. A log grows with each commit until its first checkpoint; from then on it is written again from its beginning.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["lengthen_log"]

_CACHED_PAGES: Final = 10
"""What SQLite holds back of the transaction; the rest of it is written to the log before its end."""


_WORTH_IT: Final = 1 / 16
"""A log with this share of its length is one of a database that is written often."""


def lengthen_log(connection: sqlite3.Connection, path: Path) -> bool:
    """Give a write-ahead log that was written for a while its length, by a large transaction that is rolled back.

    What is left of it in the log belongs to no commit, as with every transaction that was rolled back. The log is
    deleted when the last connection is closed, and takes room until then: so a log that is short yet stays as it is.
    That it cannot be done, with a full disk or while another process writes, is no error.

    Args:
        connection: The connection, outside a transaction.
        path: The database.

    Returns:
        Whether that is settled; ``False`` while the log is short.
    """
    with contextlib.suppress(sqlite3.Error):
        pages, page_bytes, cached = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("wal_autocheckpoint", "page_size", "cache_size")
        )
        size, found = pages * page_bytes, _size_of(path.with_name(f"{path.name}-wal"))
        if found < size * _WORTH_IT:
            return False
        if found >= size:
            return True
        connection.execute(f"PRAGMA cache_size = {_CACHED_PAGES}")
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TABLE room (pages BLOB)")
            connection.execute("INSERT INTO room VALUES (zeroblob(?))", (size,))
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            connection.execute(f"PRAGMA cache_size = {cached}")
    return True


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it is not there yet; if it cannot be read, whoever writes it will say so
        return 0
