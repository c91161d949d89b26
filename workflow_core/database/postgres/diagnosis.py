"""What the errors of PostgreSQL mean for a store, and what to do about them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psycopg

from workflow_core.errors import StorageError, error_text

if TYPE_CHECKING:
    from workflow_core.errors import StorageReason

__all__ = ["Session", "storage_error"]

_BY_STATE: Final[dict[str, StorageReason]] = {
    "23505": "other",
    "25006": "read_only",
    "25P03": "unavailable",
    "25P04": "unavailable",
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
    "read_only": "this session may not write there: the server is a standby, or its transactions are read-only",
    "damaged": "tables or columns are missing, or the server found damaged data; restore the schema from a backup",
    "closed": "the store was closed; make a new engine",
}
_NO_ADVICE: Final = "see the server's log"
_REFUSED: Final = "the server refuses the connection; correct the database URL, or what the server allows"


_DENIED: Final = re.compile(r"permission denied for (?P<kind>\w+) (?P<name>\S+)")
_GRANTS: Final = {
    "schema": "GRANT USAGE ON SCHEMA {schema} TO {role}, with CREATE where its tables are to be made or changed",
    "database": "GRANT CREATE ON DATABASE {name} TO {role}",
    "table": "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
    "view": "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
    "sequence": "GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}",
    "function": "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {role}",
}


@dataclass(frozen=True, slots=True)
class Session:
    """Who met an error, and where.

    Attributes:
        role: The role that is connected.
        schema: The schema of the tables, quoted.
    """

    role: str
    schema: str


def storage_error(
    error: psycopg.Error, where: str, *, connecting: bool = False, session: Session | None = None, what: str = ""
) -> StorageError:
    """Say what PostgreSQL said, where, and what to do about it.

    Args:
        error: The error.
        where: The store's place, without secrets.
        connecting: Whether it was met while a connection was made.
        session: Who met it, if a connection was there.
        what: What cannot go on, if it is not the call that met it.
    """
    denied = session is not None and error.sqlstate == "42501"
    text = " ".join(((error.diag.message_primary if denied else None) or error_text(error)).split())
    refused = error.sqlstate is None and connecting and any(part in text.lower() for part in _REFUSALS)
    reason: StorageReason = "other" if refused else _reason(error)
    code = f" [{error.sqlstate}]" if error.sqlstate else ""
    advice = _REFUSED if refused else _ADVICE.get(reason, _NO_ADVICE)
    if denied and session is not None:
        advice = _missing_privilege(text, session)
    return StorageError(f"{where}: {f'{what}: ' if what else ''}{text}{code} ({advice})", where, reason)


def _missing_privilege(text: str, session: Session) -> str:
    """Return which privilege to give to a role that lacks one."""
    found = _DENIED.search(text)
    grant = _GRANTS.get(found["kind"]) if found is not None else None
    role = '"' + session.role.replace('"', '""') + '"'
    if found is None or grant is None:
        return f"the role {role} lacks a privilege, or does not own what is to be changed"
    named = '"' + found["name"].strip('"') + '"'
    return f"who owns it gives the privilege: {grant.format(schema=session.schema, role=role, name=named)}"


def _reason(error: psycopg.Error) -> StorageReason:
    state = error.sqlstate
    if state is not None:
        return _BY_STATE.get(state) or _BY_CLASS.get(state[:2], "other")
    # Without a state it was libpq that noticed: the connection broke, or could not be made.
    return "unavailable" if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)) else "other"
