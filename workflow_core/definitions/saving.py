"""Declarative workflows that are saved: in the ``definition.json`` of a runtime directory, or in a database."""

from __future__ import annotations

import logging
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast

from pydantic.alias_generators import to_camel

from workflow_core.database.directory import DirectoryStore
from workflow_core.database.layout import WORKFLOW_NAME, RuntimeLayout, definition_content
from workflow_core.database.store import KeepsDefinitions
from workflow_core.definitions.document import WorkflowDefinition
from workflow_core.definitions.reading import load_definition, read_document
from workflow_core.definitions.running import compiled
from workflow_core.errors import InvalidStateError, ValidationError, WorkflowRedefinedWarning
from workflow_core.interception import patiently

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from workflow_core.engine import WorkflowEngine

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["create_workflow", "load_saved", "save_definition"]

logger = logging.getLogger("workflow_core")

_KEYS: Final = frozenset({*WorkflowDefinition.model_fields, *map(to_camel, WorkflowDefinition.model_fields)})
"""Keys of ``definition.json`` that are the document's; the others are the directory's, or other programs'."""


def save_definition(target: WorkflowEngine | RuntimeLayout, definition: WorkflowDefinition) -> bool:
    """Save a declarative workflow, so that `load_saved` finds it.

    It is written as a whole or not at all, and not touched if it says the same already. Executions under way go on with
    the definition that they were started with: each database keeps the documents of its executions.

    Args:
        target: An engine on a runtime directory or on PostgreSQL, or the layout of a directory.
        definition: The definition.

    Returns:
        Whether anything had to be written.

    Raises:
        StorageError: The directory, or the database, cannot be written.
    """
    if isinstance(target, RuntimeLayout):
        shelf, at = cast("RuntimeLayout | KeepsDefinitions", target), datetime.now(UTC)
    else:
        shelf, at = _shelf_of(target), target.clock.now()
    return shelf.save_document(definition.name, definition_content(definition, at, definition.document()))


async def create_workflow(engine: WorkflowEngine, definition: WorkflowDefinition) -> bool:
    """Save a declarative workflow, make its database, and define it on the engine.

    Args:
        engine: An engine on a runtime directory, or on PostgreSQL.
        definition: The definition.

    Returns:
        Whether anything had to be written.

    Raises:
        InvalidStateError: The engine has no runtime directory, or a function of this process has the name.
        StorageError: The directory cannot be written.
    """
    if not isinstance(engine.bare_store, (DirectoryStore, KeepsDefinitions)):
        raise InvalidStateError(
            f"{engine.store.location()} is no runtime directory, so nothing can be created in it; use an engine with a "
            "runtime directory or on PostgreSQL, or define the workflow with define_declarative"
        )
    known = engine.known_definition(definition.name)
    if known is not None and known.revision is None:
        raise InvalidStateError(
            f'Workflow "{definition.name}" is defined by a function in this process, which goes before a document; '
            "choose another name"
        )

    async def save() -> bool:
        return save_definition(engine, definition)

    written = await patiently(engine.store, save)
    await engine.store.workflow_defined(definition.name, {}, engine.clock.now())  # the registry and the database
    engine.definitions.replace(compiled(definition))
    return written


def load_saved(engine: WorkflowEngine) -> list[WorkflowDefinition]:
    """Define every declarative workflow that is saved in an engine's runtime directory, or in its database.

    One that cannot be read is left out and logged, so that it does not keep the others away. A function of the same
    name that is defined in this process goes before it, with a warning.

    Args:
        engine: An engine on a runtime directory or on PostgreSQL; one with another store has nothing saved.

    Returns:
        The definitions, by name.
    """
    try:
        shelf = _shelf_of(engine)
    except ValidationError:
        return []
    found = _in_files(shelf) if isinstance(shelf, RuntimeLayout) else _in_database(shelf, engine)
    definitions = (_load_one(where, name, document) for where, name, document in found)
    return [definition for definition in definitions if definition is not None and _define(engine, definition)]


def _in_files(layout: RuntimeLayout) -> Iterator[tuple[str, str, Mapping[str, object]]]:
    """Yield where each definition stands, of which workflow it is, and what it says; tell of unreadable ones."""
    try:
        directories = sorted((layout.root / "workflows").iterdir())
    except OSError:
        return
    for directory in directories:
        path = layout.definition(directory.name)
        if WORKFLOW_NAME.fullmatch(directory.name) and path.exists():
            try:
                yield str(path), directory.name, read_document(path)
            except ValidationError as error:
                _tell_of_one_left_out(str(path), str(error))


def _in_database(store: KeepsDefinitions, engine: WorkflowEngine) -> Iterator[tuple[str, str, Mapping[str, object]]]:
    where = engine.bare_store.location()
    for name, document in store.saved_definitions().items():
        yield f'the definition of "{name}" in {where}', name, document


def _load_one(where: str, name: str, found: Mapping[str, object]) -> WorkflowDefinition | None:
    document = {key: value for key, value in found.items() if key in _KEYS}
    if "steps" not in document:
        return None  # a function's
    try:
        definition = load_definition(document)
    except ValidationError as error:
        _tell_of_one_left_out(where, str(error))
        return None
    if definition.name != name:
        _tell_of_one_left_out(where, f'it is named "{definition.name}", and lies in the directory of "{name}"')
        return None
    return definition


def _tell_of_one_left_out(where: str, why: str) -> None:
    logger.error("%s is left out, so its workflow cannot be started: %s", where, why)


def _define(engine: WorkflowEngine, definition: WorkflowDefinition) -> bool:
    known = engine.known_definition(definition.name)
    if known is not None and known.revision is None:
        warnings.warn(
            f'Workflow "{definition.name}" is saved as a definition and is defined by a function in this process; the '
            "function goes before it",
            WorkflowRedefinedWarning,
            stacklevel=4,
        )
        return False
    engine.definitions.replace(compiled(definition))
    return True


def _shelf_of(engine: WorkflowEngine) -> RuntimeLayout | KeepsDefinitions:
    store = engine.bare_store
    if isinstance(store, DirectoryStore):
        return store.layout
    if isinstance(store, KeepsDefinitions):
        return store
    raise ValidationError(
        f"{engine!r} is not on a runtime directory, so nothing can be saved with it; define the workflow with "
        "define_declarative"
    )
