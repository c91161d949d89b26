"""Copies what a store on PostgreSQL holds into SQLite databases of a runtime directory, for checks that read those."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from workflow_core.database.schema import WORKFLOW_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TABLES = ("owners", "executions", "steps", "step_errors", "event_log", "definitions")
OF_A_WORKFLOW = {"executions": "workflow_name = %(name)s"}
OF_AN_EXECUTION = "execution_id IN (SELECT id FROM {schema}.executions WHERE workflow_name = %(name)s)"


def copy(url: str, schema: str, state: Path, kinds: Iterable[str]) -> None:
    """Make the database of each workflow in the runtime directory ``state``."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as source:
        for kind in kinds:
            path = state / "workflows" / kind / f"{kind}.db"
            path.parent.mkdir(parents=True)
            with closing(sqlite3.connect(path)) as target, target:
                target.executescript(WORKFLOW_SCHEMA)
                for table in TABLES:
                    _copy_table(source, target, schema, table, kind)


def _copy_table(source: Any, target: sqlite3.Connection, schema: str, table: str, kind: str) -> None:
    default = "TRUE" if table in {"owners", "definitions"} else OF_AN_EXECUTION.format(schema=schema)
    condition = OF_A_WORKFLOW.get(table, default)
    known = [row[1] for row in target.execute(f"PRAGMA table_info({table})")]
    cursor = source.execute(f"SELECT {', '.join(known)} FROM {schema}.{table} WHERE {condition}", {"name": kind})
    columns = [column.name for column in cursor.description]
    marks = ", ".join("?" * len(columns))
    target.executemany(
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})",
        ([_as_stored(value) for value in row] for row in cursor),
    )


def _as_stored(value: object) -> object:
    return value.astimezone(UTC).isoformat(timespec="microseconds") if isinstance(value, datetime) else value
