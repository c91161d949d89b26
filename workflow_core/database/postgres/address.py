"""The address of a PostgreSQL database: what is given to libpq, and what may be shown of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from workflow_core.errors import ValidationError, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Address"]

_SCHEMES: Final = ("postgresql://", "postgres://")
_SCHEMA_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")

_DEFAULTS: Final[Mapping[str, str]] = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "fallback_application_name": "workflow_core",
    "options": r"-c default_transaction_isolation=read\ committed -c lock_timeout=5s"
    r" -c idle_in_transaction_session_timeout=60s -c idle_session_timeout=0 -c timezone=UTC -c datestyle=ISO",
}
"""What holds unless the URL says otherwise: a server that is gone is noticed within a minute, a lock within seconds.

Connections idle on purpose: those of a worker wait for announcements.
"""


class Address:
    """Where a store lies.

    Args:
        url: A URL as libpq reads it, ``postgresql://user:password@host:port/database?sslmode=require``. What it does
            not say is taken from libpq's environment variables and password file.
        schema: The schema of the tables.

    Attributes:
        schema: The name of the schema, quoted for SQL.
        role: The role that connects.

    Raises:
        ValidationError: It is no such URL, or the schema's name is not acceptable.
    """

    __slots__ = ("_conninfo", "_shown", "role", "schema")

    def __init__(self, url: str, schema: str) -> None:
        if not isinstance(url, str) or not url.startswith(_SCHEMES):
            raise ValidationError(
                "A database URL must begin with postgresql:// (it is not shown: it may hold a password)"
            )
        if not isinstance(schema, str) or not _SCHEMA_NAME.fullmatch(schema):
            raise ValidationError(
                f"The schema of a database must be 1 to 63 letters, digits and _, and not begin with a digit; this is "
                f"{shown(schema)}"
            )
        try:
            given = conninfo_to_dict(url)
        except psycopg.Error:  # its text may show a part of the password
            given = None
        if given is None or not _is_clear(url, given):
            raise ValidationError(
                "The database URL cannot be read (it is not shown: it may hold a password); write it as "
                "postgresql://user:password@host:port/database, with the special characters of the password as %XX"
            )
        values = {**_DEFAULTS, **_texts(given), "client_encoding": "UTF8"}
        if given.get("options"):  # what is said last holds
            values["options"] = f"{_DEFAULTS['options']} {given['options']}"
        self._conninfo = make_conninfo("", **values)
        self._shown = f'{_without_secrets(given)}, schema "{schema}"'
        self.schema = f'"{schema}"'
        self.role = str(given.get("user") or _default_role())

    def __repr__(self) -> str:
        return f"<{self._shown}>"

    def __str__(self) -> str:
        """Tell where it lies, without any secret."""
        return self._shown

    @property
    def conninfo(self) -> str:
        """What libpq connects with, the password included: for connecting alone."""
        return self._conninfo


def _is_clear(url: str, given: Mapping[str, object]) -> bool:
    """Tell whether libpq has read as a password what was meant as one.

    An ``@`` or ``/`` in it that is not written as ``%40`` or ``%2F`` ends it, and what follows would be shown as the
    port, the host or the database.
    """
    authority, _, path = url.partition("://")[2].partition("?")[0].partition("/")
    port = str(given.get("port") or "")
    return authority.count("@") <= 1 and "@" not in path and all(part.isdigit() or not part for part in port.split(","))


def _default_role() -> str:
    """Return as whom libpq connects where a URL does not say so."""
    found = (option.val for option in psycopg.pq.Conninfo.get_defaults() if option.keyword == b"user")
    return (next(found, None) or b"").decode(errors="replace")


def _texts(given: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in given.items() if value is not None}


def _without_secrets(given: Mapping[str, object]) -> str:
    user = f"{given['user']}@" if given.get("user") else ""
    host, port, database = (str(given.get(name) or "") for name in ("host", "port", "dbname"))
    if host.startswith("/"):  # the directory of a socket
        return f"postgresql://{user}/{database}?host={host}" + (f"&port={port}" if port else "")
    hosts, ports = (host or str(given.get("hostaddr") or "")).split(","), port.split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    names = [f"[{name}]" if ":" in name else name for name in hosts]
    places = ",".join(f"{name}:{number}" if number else name for name, number in zip(names, ports, strict=False))
    return f"postgresql://{user}{places}/{database}"
