"""The definitions of workflows, for programs that do not have their code, and the documents that are saved here.

What a runtime directory keeps in each ``definition.json`` is a column here. Saving and loading are called from code
that is not asynchronous, as files are, so they run in an event loop of their own, in a thread.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pydantic_core

from workflow_core.database.postgres.removal import RemovalPoints

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = ["DefinitionStore"]

_OF_A_DIRECTORY: Final = frozenset({"created_at", "last_modified", "database_path", "log_directory"})
"""Keys of ``definition.json`` that speak of the file itself, and of others beside it."""

_DEFINED: Final = (
    "INSERT INTO {s}.workflows AS w (name, definition, is_document, created_at)"
    " VALUES (%(name)s, %(definition)s::text, %(is_document)s, %(at)s) ON CONFLICT (name) DO UPDATE"
    " SET definition = excluded.definition, is_document = excluded.is_document WHERE NOT w.is_document"
    " AND excluded.definition IS NOT NULL AND w.definition IS DISTINCT FROM excluded.definition RETURNING 1"
)
_SAVED: Final = (
    "INSERT INTO {s}.workflows AS w (name, definition, is_document, created_at)"
    " VALUES (%(name)s, %(definition)s, true, now()) ON CONFLICT (name) DO UPDATE"
    " SET definition = excluded.definition, is_document = true"
    " WHERE w.definition IS DISTINCT FROM excluded.definition OR NOT w.is_document RETURNING 1"
)
_LOADED: Final = "SELECT name, definition FROM {s}.workflows WHERE definition IS NOT NULL ORDER BY name"


class DefinitionStore(RemovalPoints):
    """The definitions of a store's workflows; see `workflow_core.database.store.KeepsDefinitions`."""

    async def workflow_defined(self, workflow_name: str, definition: Mapping[str, object], at: datetime) -> None:
        """Note a workflow and how it is defined; a document is changed by `save_document` alone."""
        values = {
            "name": workflow_name,
            "definition": _text(definition) if definition else None,
            "is_document": "steps" in definition,
            "at": at,
        }
        await self.fetch(_DEFINED, values)

    def save_document(self, workflow_name: str, definition: Mapping[str, object]) -> bool:
        """Save the document of a declarative workflow; return whether anything had to be written."""
        return bool(self._fetch_now(_SAVED, {"name": workflow_name, "definition": _text(definition)}))

    def saved_definitions(self) -> dict[str, dict[str, object]]:
        """Read how the workflows are defined, by name."""
        return {name: pydantic_core.from_json(text) for name, text in self._fetch_now(_LOADED, {})}

    def _fetch_now(self, sql: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        async def fetch() -> list[tuple[Any, ...]]:
            try:
                return await self.fetch(sql, values)
            finally:
                self._connections.leave()

        with ThreadPoolExecutor(1, thread_name_prefix="workflow definitions") as thread:
            return thread.submit(lambda: asyncio.run(fetch())).result()


def _text(definition: Mapping[str, object]) -> str:
    kept = {key: value for key, value in definition.items() if key not in _OF_A_DIRECTORY}
    return pydantic_core.to_json(kept).decode()
