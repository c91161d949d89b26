"""SQL as tests write it, for SQLite and PostgreSQL alike: its parameters, and the values that it returns."""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from psycopg.adapt import AdaptersMap, Buffer, Loader
from psycopg.types.string import StrDumperUnknown

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Rows", "in_psycopg", "returned", "teach"]

_TOKEN: Final = re.compile(
    r"""'(?:[^']|'')*'          # a text
    | "(?:[^"]|"")*"            # a name
    | --[^\n]* | /\*.*?\*/      # a comment
    | \?(\d*)                   # a parameter
    | %""",
    re.VERBOSE | re.DOTALL,
)
_SELECTED: Final = re.compile(r"^\s*SELECT\s(.*?)\sFROM\s", re.IGNORECASE | re.DOTALL)


class _Text(Loader):
    """Leaves a value as the text that the server sends."""

    def load(self, data: Buffer) -> object:
        return bytes(data).decode()


class _Moment(Loader):
    """Returns a moment as the text that is stored in SQLite."""

    def load(self, data: Buffer) -> object:
        text = bytes(data).decode()
        try:
            return datetime.fromisoformat(text).astimezone(UTC).isoformat(timespec="microseconds")
        except ValueError:  # infinity, or before Christ
            return text


class _Number(Loader):
    """Returns a sum of integers as an integer, and every other number as a float."""

    def load(self, data: Buffer) -> object:
        text = bytes(data).decode()
        return int(text) if text.lstrip("-").isdecimal() else float(text)


class _Truth(Loader):
    """Returns 1 and 0, because SQLite has no truth values."""

    def load(self, data: Buffer) -> object:
        return int(bytes(data) == b"t")


def teach(adapters: AdaptersMap) -> None:
    """Let a cursor take and return values as SQLite does: moments and JSON as text, truth values as numbers."""
    for name in ("timestamp", "date", "time", "interval", "uuid", "json", "jsonb"):
        adapters.register_loader(name, _Text)
    adapters.register_loader("timestamptz", _Moment)
    adapters.register_loader("numeric", _Number)
    adapters.register_loader("bool", _Truth)
    adapters.register_dumper(str, StrDumperUnknown)  # the server knows what it is compared with


class Rows:
    """What a statement returned, as a cursor of `sqlite3` tells it.

    Args:
        names: The names of the columns.
        rows: The rows.
    """

    def __init__(self, names: Sequence[str] = (), rows: Sequence[tuple[object, ...]] = ()) -> None:
        self.description = [(name,) for name in names] or None
        self._left = list(rows)

    def fetchone(self) -> tuple[object, ...] | None:
        """Return the next row."""
        return self._left.pop(0) if self._left else None

    def fetchall(self) -> list[tuple[object, ...]]:
        """Return the rows that are left."""
        rows, self._left = self._left, []
        return rows


@functools.lru_cache(512)
def in_psycopg(sql: str) -> str:
    """Return a statement with the parameters ``?`` and ``?1`` as psycopg names them: ``%(p1)s``."""
    count = 0

    def replaced(match: re.Match[str]) -> str:
        nonlocal count
        found = match[0]
        if not found.startswith("?"):
            return found.replace("%", "%%")
        count = int(match[1]) if match[1] else count + 1
        return f"%(p{count})s"

    return _TOKEN.sub(replaced, sql)


def returned(sql: str, names: Sequence[str], rows: list[tuple[object, ...]]) -> Rows:
    """Return rows without the column ``rowid``, which ``SELECT *`` does not show in SQLite either.

    Args:
        sql: The statement.
        names: The names of the columns.
        rows: The rows.
    """
    if "rowid" in names:
        selected = _SELECTED.match(sql)
        if selected is not None and "rowid" not in selected[1].lower():
            hidden = names.index("rowid")
            names = [*names[:hidden], *names[hidden + 1 :]]
            rows = [row[:hidden] + row[hidden + 1 :] for row in rows]
    return Rows(names, rows)
