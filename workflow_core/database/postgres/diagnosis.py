"""What the errors of PostgreSQL mean for a store, and what to do about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psycopg

from workflow_core.errors import StorageError, error_text

if TYPE_CHECKING:
    from workflow_core.errors import StorageReason

__all__ = ["storage_error"]

_BY_STATE: Final[dict[str, StorageReason]] = {
    "23505": "other",
    "25006": "read_only",
    "25P03": "unavailable",
    "3F000": "damaged",
    "40001": "locked",
    "40P01": "locked",
    "42501": "read_only",
    "42703": "damaged",
    "42P01": "damaged",
    "53100": "full",
    "55006": "locked",
    "55P03": "locked",
    "57014": "locked",
    "57P01": "unavailable",
    "57P02": "unavailable",
    "57P03": "unavailable",
    "57P05": "unavailable",
    "XX001": "damaged",
    "XX002": "damaged",
}
_BY_CLASS: Final[dict[str, StorageReason]] = {"08": "unavailable", "53": "unavailable", "58": "io"}
"""By SQLSTATE and by its class, see https://www.postgresql.org/docs/current/errcodes-appendix.html."""

_REFUSALS: Final = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "does not exist",
    "is not permitted to log in",
    "permission denied for database",
    "invalid connection option",
    "invalid value",
    "certificate verify failed",
    "does not support ssl",
)
"""What a server, or libpq, says of a connection that will not be made later either: that has no SQLSTATE."""

_ADVICE: Final[dict[StorageReason, str]] = {
    "unavailable": "check that the server runs and can be reached; nothing that was committed is lost",
    "locked": "another session holds a lock on it, or a statement was cancelled; end what holds the lock",
    "full": "make room on the server's disk; nothing that was committed is lost",
    "io": "the server reported an error of its disk or its system; see its log; nothing that was committed is lost",
    "read_only": "this session may not write there: the server is a standby, or the role lacks a privilege",
    "damaged": "tables or columns are missing, or the server found damaged data; restore the schema from a backup",
    "closed": "the store was closed; make a new engine",
}
_NO_ADVICE: Final = "see the server's log"
_REFUSED: Final = "the server refuses the connection; correct the database URL, or what the server allows"


def storage_error(error: psycopg.Error, where: str, *, connecting: bool = False) -> StorageError:
    """Say what PostgreSQL said, where, and what to do about it.

    Args:
        error: The error.
        where: The store's place, without secrets.
        connecting: Whether it was met while a connection was made.
    """
    text = " ".join(error_text(error).split())
    refused = error.sqlstate is None and connecting and any(part in text.lower() for part in _REFUSALS)
    reason: StorageReason = "other" if refused else _reason(error)
    code = f" [{error.sqlstate}]" if error.sqlstate else ""
    return StorageError(
        f"{where}: {text}{code} ({_REFUSED if refused else _ADVICE.get(reason, _NO_ADVICE)})", where, reason
    )


def _reason(error: psycopg.Error) -> StorageReason:
    state = error.sqlstate
    if state is not None:
        return _BY_STATE.get(state) or _BY_CLASS.get(state[:2], "other")
    # Without a state it was libpq that noticed: the connection broke, or could not be made.
    return "unavailable" if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)) else "other"
