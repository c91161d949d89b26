"""The settings of an engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pydantic
from pydantic import Field

from workflow_core.errors import ValidationError
from workflow_core.models import Model, WholeNumber
from workflow_core.timeouts import LONGEST_MS

__all__ = ["Settings", "default_directory", "default_log_level"]


_LARGEST_RESULT_BYTES = 500_000_000
"""SQLite stores rows of up to a billion bytes, https://www.sqlite.org/limits.html."""

_LONGEST_BUSY_MS = 2**31 - 1
"""SQLite counts these milliseconds in a C integer."""

_LOG_LEVELS: dict[str, Literal["debug", "info", "warn", "error"]] = {
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


def default_log_level() -> Literal["debug", "info", "warn", "error"]:
    """Return the level that ``$LOG_LEVEL`` names, in any of the usual spellings; ``info`` if it names none."""
    named = os.environ.get("LOG_LEVEL", "").strip().lower()
    return _LOG_LEVELS.get(named, "info")


class Settings(Model):
    """What can be set for an engine.

    Attributes:
        directory: Runtime directory; ``None`` means ``$WORKFLOW_DIR`` or ``~/.workflow``.
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
    recover_on_start: bool = True
    log_files: bool = True
    log_level: Literal["debug", "info", "warn", "error"] | None = None

    @pydantic.field_validator("directory")
    @classmethod
    def _nameable(cls, directory: Path | None) -> Path | None:
        if directory is not None and "\0" in str(directory):
            raise ValueError("a directory's name cannot hold a null character")
        return directory
