"""Workflows as JSON: what is stored, the definition, and the configuration without the values of secrets."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pydantic

from workflow_core.errors import ConfigurationError

if TYPE_CHECKING:
    from workflow_core.definition import Definition
    from workflow_core.engine import WorkflowEngine
    from workflow_core.views.overviews import Overview

__all__ = ["workflow_data"]


def workflow_data(engine: WorkflowEngine, overview: Overview) -> dict[str, object]:
    """Return everything known of a workflow."""
    definition = engine.known_definition(overview.name)
    return {
        **overview.data(),
        "version": definition.version if definition else None,
        "retry_config": definition.retry_config if definition else None,
        "panic_config": definition.panic_config if definition else None,
        "limits": definition.limits if definition else None,
        "document": json.loads(definition.document) if definition and definition.document else None,
        "input_schema": _input_schema(definition) if definition else None,
        "config": _configuration_data(engine, overview.name),
    }


def _configuration_data(engine: WorkflowEngine, name: str) -> dict[str, object]:
    """Return how a workflow is configured; of a secret, where its value is read from and whether there is one."""
    try:
        values = engine.configurations.values(name)
    except ConfigurationError as error:
        return {"environment": None, "variables": {}, "secrets": {}, "problem": str(error)}
    secrets = {}
    for key, written in values.secrets.items():
        is_reference = written.startswith("env:")
        is_set = bool(os.environ.get(written.removeprefix("env:"))) if is_reference else True
        secrets[key] = {"source": written if is_reference else "memory", "is_set": is_set}
    return {
        "environment": values.environment,
        "variables": engine.secrets.redact_all(dict(values.variables)),
        "secrets": secrets,
        "problem": None,
    }


def _input_schema(definition: Definition) -> dict[str, object] | None:
    adapter = definition.input_type.adapter() if definition.input_type is not None else None
    if adapter is None:
        return None
    try:
        return adapter.json_schema()
    except (pydantic.errors.PydanticUserError, TypeError, ValueError):  # some types have no schema
        return None
