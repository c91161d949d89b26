"""What the examples in the description of the HTTP API have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import ConfigDict

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["AT", "LATER", "example"]

AT: Final = "2026-11-26T08:30:00Z"
LATER: Final = "2026-11-26T08:35:00.250000Z"


def example(value: dict[str, JsonValue]) -> ConfigDict:
    """Return the configuration of a model whose description shows a value."""
    return ConfigDict(json_schema_extra={"examples": [value]})
