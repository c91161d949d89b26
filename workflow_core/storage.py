"""Which store an engine has: the one that the settings, or the environment, name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pydantic import SecretStr

from workflow_core.database.directory import DirectoryStore
from workflow_core.database.layout import RuntimeLayout
from workflow_core.errors import ValidationError
from workflow_core.settings import default_database_url, default_directory

if TYPE_CHECKING:
    from workflow_core.database.store import Store
    from workflow_core.settings import Settings

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["make_store"]


def make_store(settings: Settings) -> tuple[Store, RuntimeLayout | None]:
    """Return the store that settings mean, and where the ``config.json`` of its workflows lie; nothing is opened.

    With a database on a server only a directory that was named has such files, as there is none else.

    Raises:
        ValidationError: The URL of the database cannot be read, or the package that it needs is not installed.
    """
    url = settings.database_url
    if url is None and settings.directory is None:
        url = default_database_url()
    if url is None:
        directory = DirectoryStore(
            settings.directory or default_directory(),
            synchronous=settings.synchronous,
            busy_timeout_ms=settings.busy_timeout_ms,
        )
        return directory, directory.layout
    try:
        from workflow_core.database.postgres.store import PostgresStore  # noqa: PLC0415 - needs an extra
    except ImportError as error:
        raise ValidationError(
            f'PostgreSQL needs the package psycopg ({error}): pip install "pytest-workflow-core[postgres]"'
        ) from error
    store = PostgresStore(
        url.get_secret_value() if isinstance(url, SecretStr) else url,
        schema=settings.database_schema or os.environ.get("WORKFLOW_DATABASE_SCHEMA") or "workflow",
        max_connections=settings.database_connections,
        prepares=settings.database_prepares,
    )
    is_named = settings.directory is not None or os.environ.get("WORKFLOW_DIR")
    return store, RuntimeLayout((settings.directory or default_directory()).absolute()) if is_named else None
