"""Declarative workflows in the runtime directory: saved in ``definition.json``, and defined from there."""

from __future__ import annotations

import logging
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from pydantic.alias_generators import to_camel

from workflow_core.database.directory import DirectoryStore
from workflow_core.database.layout import WORKFLOW_NAME, RuntimeLayout
from workflow_core.definitions.document import WorkflowDefinition
from workflow_core.definitions.reading import load_definition, read_document
from workflow_core.definitions.running import compiled
from workflow_core.errors import InvalidStateError, ValidationError, WorkflowRedefinedWarning

if TYPE_CHECKING:
    from pathlib import Path

    from workflow_core.engine import WorkflowEngine

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["create_workflow", "load_saved", "save_definition"]

logger = logging.getLogger("workflow_core")

_KEYS: Final = frozenset({*WorkflowDefinition.model_fields, *map(to_camel, WorkflowDefinition.model_fields)})
"""Keys of ``definition.json`` that are the document's; the others are the directory's, or other programs'."""


def save_definition(target: WorkflowEngine | RuntimeLayout, definition: WorkflowDefinition) -> bool:
    """Save a declarative workflow, so that `load_saved` finds it.

    The file is written as a whole or not at all, and not touched if it says the same already. Executions under way go
    on with the definition that they were started with: each database keeps the documents of its executions.

    Args:
        target: An engine on a runtime directory, or the layout of one.
        definition: The definition.

    Returns:
        Whether anything had to be written.

    Raises:
        StorageError: The directory cannot be written.
    """
    if isinstance(target, RuntimeLayout):
        layout, now = target, datetime.now(UTC).isoformat()
    else:
        layout, now = _layout_of(target), target.clock.now().isoformat()
    return layout.save_document(
        definition.name,
        {
            "name": definition.name,
            "version": definition.version,
            "description": definition.description,
            "created_at": now,
            "last_modified": now,
            "database_path": f"./{definition.name}.db",
            "log_directory": "./logs/",
            **definition.document(),
            "retry_config": definition.retry_config.model_dump(mode="json"),
            "panic_config": definition.panic_config.model_dump(mode="json"),
        },
    )


async def create_workflow(engine: WorkflowEngine, definition: WorkflowDefinition) -> bool:
    """Save a declarative workflow, make its database, and define it on the engine.

    Args:
        engine: An engine on a runtime directory.
        definition: The definition.

    Returns:
        Whether anything had to be written.

    Raises:
        InvalidStateError: The engine has no runtime directory, or a function of this process has the name.
        StorageError: The directory cannot be written.
    """
    if not isinstance(engine.bare_store, DirectoryStore):
        raise InvalidStateError(
            f"{engine.store.location()} is no runtime directory, so nothing can be created in it; use an engine with a "
            "runtime directory, or define the workflow with define_declarative"
        )
    known = engine.known_definition(definition.name)
    if known is not None and known.revision is None:
        raise InvalidStateError(
            f'Workflow "{definition.name}" is defined by a function in this process, which goes before a document; '
            "choose another name"
        )
    written = save_definition(engine, definition)
    await engine.store.workflow_defined(definition.name, {}, engine.clock.now())  # the registry and the database
    engine.definitions.replace(compiled(definition))
    return written


def load_saved(engine: WorkflowEngine) -> list[WorkflowDefinition]:
    """Define every declarative workflow that is saved in an engine's runtime directory.

    One that cannot be read is left out and logged, so that it does not keep the others away. A function of the same
    name that is defined in this process goes before it, with a warning.

    Args:
        engine: An engine on a runtime directory; one with another store has nothing saved.

    Returns:
        The definitions, by name.
    """
    try:
        layout = _layout_of(engine)
        found = sorted((layout.root / "workflows").iterdir())
    except (OSError, ValidationError):
        return []
    loaded: list[WorkflowDefinition] = []
    for directory in found:
        if WORKFLOW_NAME.fullmatch(directory.name):
            definition = _load_one(layout.definition(directory.name), directory.name)
            if definition is not None and _define(engine, definition):
                loaded.append(definition)
    return loaded


def _load_one(path: Path, name: str) -> WorkflowDefinition | None:
    if not path.exists():
        return None
    try:
        document = {key: value for key, value in read_document(path).items() if key in _KEYS}
        if "steps" not in document:
            return None  # a function's
        definition = load_definition(document)
    except ValidationError as error:
        _tell_of_one_left_out(path, str(error))
        return None
    if definition.name != name:
        _tell_of_one_left_out(path, f'it is named "{definition.name}", and lies in the directory of "{name}"')
        return None
    return definition


def _tell_of_one_left_out(path: Path, why: str) -> None:
    logger.error("%s is left out, so its workflow cannot be started: %s", path, why)


def _define(engine: WorkflowEngine, definition: WorkflowDefinition) -> bool:
    known = engine.definition(definition.name) if definition.name in engine.workflow_names() else None
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


def _layout_of(engine: WorkflowEngine) -> RuntimeLayout:
    store = engine.bare_store
    if isinstance(store, DirectoryStore):
        return store.layout
    raise ValidationError(
        f"{engine!r} is not on a runtime directory, so nothing can be saved with it; define the workflow with "
        "define_declarative"
    )
