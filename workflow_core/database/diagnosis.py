"""What the errors of SQLite and of the file system mean for a database, and what to do about them."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final

from workflow_core.errors import StorageError, error_text

if TYPE_CHECKING:
    from workflow_core.errors import StorageReason

__all__ = ["closed_error", "file_error", "storage_error"]

_BY_CODE: Final[dict[int, StorageReason]] = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_PROTOCOL: "locked",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_IOERR: "io",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_PERM: "read_only",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
}
"""By primary result code, see https://www.sqlite.org/rescode.html."""

_BY_TEXT: Final[tuple[tuple[str, StorageReason], ...]] = (
    ("closed", "closed"),
    ("locked", "locked"),
    ("busy", "locked"),
    ("full", "full"),
    ("readonly", "read_only"),
    ("not a database", "damaged"),
    ("malformed", "damaged"),
    ("disk i/o", "io"),
)
"""For errors without a code: those that Python's module raises by itself, and those that a test injects."""

_BY_ERRNO: Final[dict[int, StorageReason]] = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EIO: "io",
    errno.EMFILE: "io",
    errno.ENFILE: "io",
    errno.EACCES: "read_only",
    errno.EPERM: "read_only",
    errno.EROFS: "read_only",
}

_ADVICE: Final[dict[StorageReason, str]] = {
    "locked": "another program holds a lock on it; end that program, or let it finish",
    "full": "make room on the disk; nothing that was committed is lost",
    "io": "the disk reported an error; check the device and its connection; nothing that was committed is lost",
    "read_only": "check that this user may write the file and its directory, and that the disk can be written",
    "damaged": "the file is damaged or is not a workflow database; restore it from a backup, or move it away",
    "closed": "the store was closed; make a new engine",
}
_NO_ADVICE: Final = "see https://www.sqlite.org/rescode.html for this error"

_MISSING_TABLE: Final = "no such table"
_MOVED: Final = "SQLITE_READONLY_DBMOVED"


def storage_error(error: sqlite3.Error, where: str) -> StorageError:
    """Say what SQLite said, where, and what to do about it.

    Args:
        error: The error.
        where: The database's path.
    """
    text, reason = error_text(error), _reason(error, where)
    advice = _ADVICE.get(reason, _NO_ADVICE)
    if getattr(error, "sqlite_errorname", None) == _MOVED:
        reason, advice = "other", "the file was moved or deleted while it was open; put it back, and make a new engine"
    elif reason == "other" and _code(error) == sqlite3.SQLITE_CANTOPEN:
        advice = _why_it_cannot_be_opened(Path(where))
    return StorageError(f"{where}: {text} ({advice})", where, reason)


def _code(error: sqlite3.Error) -> int | None:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _reason(error: sqlite3.Error, where: str) -> StorageReason:
    code, text = _code(error), str(error).lower()
    if code is None:
        return next((reason for part, reason in _BY_TEXT if part in text), "other")
    if code == sqlite3.SQLITE_ERROR and _MISSING_TABLE in text:
        return "damaged"
    if code == sqlite3.SQLITE_CANTOPEN:
        return _unopenable(Path(where))
    reason = _BY_CODE.get(code, "other")
    # SQLite calls it an I/O error when there is no room for its shared memory.
    return "full" if reason == "io" and _has_no_room(where) else reason


def _unopenable(path: Path) -> StorageReason:
    """Tell why a file cannot be opened, which SQLite does not say."""
    if path.is_dir() or not path.parent.is_dir():
        return "other"
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.R_OK | os.W_OK)):
        return "read_only"
    return "full" if _has_no_room(str(path)) else "io"


def _why_it_cannot_be_opened(path: Path) -> str:
    if path.is_dir():
        return "there is a directory where the file should be; move it away"
    return "its directory does not exist; make it, or choose another place"


def _has_no_room(where: str) -> bool:
    if not hasattr(os, "statvfs"):
        return False
    try:
        file_system = os.statvfs(Path(where).parent)
    except OSError:
        return False
    return file_system.f_blocks > 0 and file_system.f_bavail == 0


def closed_error(where: str) -> StorageError:
    """Return the error of a store that was closed."""
    return StorageError(f"{where}: the store is closed; make a new engine", where, "closed")


def file_error(error: OSError, path: Path, what: str, advice: str) -> StorageError:
    """Say what the file system said, where, and what to do about it.

    Args:
        error: The error.
        path: What could not be made, read or written.
        what: What was tried, such as ``"cannot make this directory"``.
        advice: What to do about it, where the reason does not tell.
    """
    reason = _BY_ERRNO.get(error.errno or 0, "other")
    told = _ADVICE[reason] if reason in {"full", "io"} else advice
    return StorageError(f"{path}: {what}: {error.strerror or error}; {told}", str(path), reason)
