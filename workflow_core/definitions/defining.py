"""Defining declarative workflows on an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workflow_core.definitions.reading import load_definition
from workflow_core.definitions.running import compiled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from workflow_core.definition import Definitions
    from workflow_core.definitions.document import WorkflowDefinition
    from workflow_core.engine import WorkflowEngine

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["define", "define_declarative"]


def define(
    definitions: Definitions, source: str | Path | Mapping[str, Any] | WorkflowDefinition, stacklevel: int
) -> WorkflowDefinition:
    """Add a declarative workflow to others.

    Args:
        definitions: The others.
        source: A file, a document, or a checked definition.
        stacklevel: How far up the caller is, for the warning that another one of that name is replaced.

    Raises:
        ValidationError: The document has mistakes.
    """
    definition = load_definition(source)
    definitions.add(compiled(definition), stacklevel)
    return definition


def define_declarative(
    engine: WorkflowEngine, source: str | Path | Mapping[str, Any] | WorkflowDefinition
) -> WorkflowDefinition:
    """Define a declarative workflow on an engine; the same as its method of this name.

    Args:
        engine: The engine.
        source: A file of JSON or YAML, the document itself, or what `load_definition` returned.

    Raises:
        ValidationError: The document has mistakes; all of them are named, with their paths.
    """
    return define(engine.definitions, source, stacklevel=4)
