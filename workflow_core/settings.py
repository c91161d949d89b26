"""The settings of an engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, SecretStr, StrictBool

from workflow_core.errors import ValidationError
from workflow_core.models import Model, WholeNumber
from workflow_core.timeouts import LONGEST_MS

__all__ = ["LOG_LEVELS", "Settings", "default_database_url", "default_directory", "default_log_level"]

DatabaseUrl = Annotated[
    SecretStr | str | None,
    pydantic.BeforeValidator(lambda url: SecretStr(url) if isinstance(url, str) else url),
]
"""A URL, which may hold a password: it is kept so that it is never shown."""


_LARGEST_RESULT_BYTES = 500_000_000
"""SQLite stores rows of up to a billion bytes, https://www.sqlite.org/limits.html."""

_LONGEST_BUSY_MS = 2**31 - 1
"""SQLite counts these milliseconds in a C integer."""

LOG_LEVELS: dict[str, Literal["debug", "info", "warn", "error"]] = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warn": "warn",
    "warning": "warn",
    "error": "error",
    "critical": "error",
    "fatal": "error",
}
"""``LOG_LEVEL`` is a variable of many programs, so their spellings are known as well."""


def default_directory() -> Path:
    """Return the runtime directory: ``$WORKFLOW_DIR``, or ``~/.workflow``.

    Raises:
        ValidationError: It begins with ``~``, and whose home that is cannot be found out.
    """
    named = os.environ.get("WORKFLOW_DIR") or "~/.workflow"
    try:
        return Path(named).expanduser()
    except RuntimeError as error:
        raise ValidationError(
            f'There is no home directory for the runtime directory "{named}" ({error}); set WORKFLOW_DIR to a path '
            "without ~"
        ) from None


def default_database_url() -> str | None:
    """Return the URL of the database: ``$WORKFLOW_DATABASE_URL``, or ``None`` if it is not set, or empty."""
    return os.environ.get("WORKFLOW_DATABASE_URL") or None


def default_log_level() -> Literal["debug", "info", "warn", "error"]:
    """Return the level that ``$LOG_LEVEL`` names, in any of the usual spellings; ``info`` if it names none."""
    named = os.environ.get("LOG_LEVEL", "").strip().lower()
    return LOG_LEVELS.get(named, "info")


class Settings(Model):
    """What can be set for an engine.

    Attributes:
        directory: Runtime directory; ``None`` means ``$WORKFLOW_DIR`` or ``~/.workflow``.
        database_url: URL of a PostgreSQL database that holds the state instead of the runtime directory,
            ``postgresql://user:password@host/database``; needs the extra ``postgres``. ``None`` means
            ``$WORKFLOW_DATABASE_URL``, unless ``directory`` is given. It is never shown, as it may hold a password.
        database_schema: The schema of the tables in that database, made at the first use: letters, digits and ``_``.
            ``None`` means ``$WORKFLOW_DATABASE_SCHEMA`` or ``workflow``.
        database_connections: How many connections an engine makes to that database at most, in each event loop.
        database_prepares: Whether statements are prepared in that database; ``False`` behind a pooler that shares
            connections and does not keep their prepared statements apart, such as PgBouncer before 1.21.
        execution_id_format: ``"business"`` accepts 1 to 255 characters of ``A-Za-z0-9._:-``; ``"uuid"`` accepts UUIDs.
        max_sleep_ms: Longest durable sleep, in milliseconds.
        max_result_bytes: Largest stored result, input or output, in bytes of JSON.
        synchronous: SQLite's setting: ``"NORMAL"`` loses nothing when a process dies; ``"FULL"`` loses nothing in a
            power cut either, at the price of a disk flush for each durable point.
        busy_timeout_ms: How long SQLite itself waits for another process's lock, in milliseconds. The event loop stands
            still meanwhile, so this is short; what a longer lock does is told by ``storage_patience_ms``.
        storage_patience_ms: How long a database may be locked, full, read-only or failing before who waits for an
            execution is told so by a `StorageError`, in milliseconds. The execution itself keeps trying, and goes on
            when the database works again; an execution that could not be begun is not begun. ``None`` stops an
            execution at the first such error; it can be resumed.
        lease_ms: How long an execution stays with a process that gives no sign of life, in milliseconds; ``None``
            leaves it until that process has ended.
        poll_interval_ms: How often the state of another process's execution is read while waiting, in milliseconds.
        resident_sleepers: How many sleeping executions a recovery reads at once; all further ones wait in the database
            until they are due, and cost a few hundred bytes of memory each.
        sync_handlers: Where plain functions run: in a ``"thread"``, or ``"inline"`` in the event loop.
        max_recoveries: How often in a row an execution is taken over after its process died while its own code
            ran, outside of its steps' attempts and of its waits, before it fails; ``None`` sets no limit.
        recover_on_start: Take over interrupted executions when an engine is entered with ``async with``.
        log_files: Write the log files of a runtime directory.
        log_level: Least important level that goes into them: ``"debug"``, ``"info"``, ``"warn"`` or ``"error"``;
            ``None`` means ``$LOG_LEVEL``, or ``"info"``.
    """

    directory: Path | None = None
    database_url: DatabaseUrl = None
    database_schema: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    database_connections: WholeNumber = Field(default=10, ge=1, le=1_000)
    database_prepares: StrictBool = True
    execution_id_format: Literal["business", "uuid"] = "business"
    max_sleep_ms: WholeNumber = Field(default=300_000, ge=0, le=LONGEST_MS)
    max_result_bytes: WholeNumber = Field(default=16_777_216, ge=1_024, le=_LARGEST_RESULT_BYTES)
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL"
    busy_timeout_ms: WholeNumber = Field(default=100, ge=0, le=_LONGEST_BUSY_MS)
    storage_patience_ms: WholeNumber | None = Field(default=10_000, ge=0, le=LONGEST_MS)
    lease_ms: WholeNumber | None = Field(default=30_000, ge=1_000, le=LONGEST_MS)
    poll_interval_ms: WholeNumber = Field(default=200, ge=10, le=LONGEST_MS)
    resident_sleepers: WholeNumber = Field(default=1_000, ge=0)
    sync_handlers: Literal["thread", "inline"] = "thread"
    max_recoveries: WholeNumber | None = Field(default=10, ge=1)
    recover_on_start: StrictBool = True
    log_files: StrictBool = True
    log_level: Literal["debug", "info", "warn", "error"] | None = None

    def __init__(self, /, **data: Any) -> None:  # noqa: ANN401 - pydantic's own signature
        try:
            super(Model, self).__init__(**data)
        except pydantic.ValidationError as error:
            raise ValidationError.from_pydantic("Settings", error, with_input=False) from None

    @pydantic.field_validator("database_url")
    @classmethod
    def _of_postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("it must begin with postgresql:// (it is not shown, as it may hold a password)")
        return url

    @pydantic.field_validator("directory")
    @classmethod
    def _nameable(cls, directory: Path | None) -> Path | None:
        if directory is not None and "\0" in str(directory):
            raise ValueError("a directory's name cannot hold a null character")
        return directory
