"""JSON as programs are given it, by the command line and by the server alike."""

from __future__ import annotations

import pydantic_core

from workflow_core.errors import printable

__all__ = ["json_bytes", "json_text"]


def json_bytes(data: object, *, indent: int | None = None) -> bytes:
    """Return data as JSON: exact where JSON can say it, else as text.

    Args:
        data: Anything.
        indent: How many spaces a level is indented by; ``None`` for one line.
    """
    try:
        return pydantic_core.to_json(data, indent=indent, fallback=str, inf_nan_mode="strings")
    except pydantic_core.PydanticSerializationError:  # a surrogate that stands alone
        return pydantic_core.to_json(_encodable(data), indent=indent, fallback=str, inf_nan_mode="strings")


def json_text(data: object, *, indent: int | None = None) -> str:
    """Return what `json_bytes` returns, as text."""
    return json_bytes(data, indent=indent).decode()


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(item) for item in value]
    return value
