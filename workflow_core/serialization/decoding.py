"""JSON's types with tags to the values that they stand for."""

from __future__ import annotations

import base64
import enum
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from workflow_core.errors import ValidationError
from workflow_core.serialization.classes import find_class
from workflow_core.serialization.tags import DECLARED, TAG, Serializer
from workflow_core.serialization.times import decode_datetime, decode_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["BUILTIN_TAGS", "Decoder"]


class Decoder:
    """Turns parsed JSON into the value it stands for.

    Args:
        serializers: How values of further types are read, by tag.
    """

    __slots__ = ("_serializers",)

    def __init__(self, serializers: Mapping[str, Serializer[Any]]) -> None:
        self._serializers = serializers

    def decode(self, value: Any) -> Any:  # noqa: ANN401 - JSON of any shape
        """Turn parsed JSON with tags into the value it stands for."""
        if type(value) is dict:
            tag = value.get(TAG)
            if tag is None:
                return {key: self.decode(item) for key, item in value.items()}
            return self._from_tagged(tag, value)
        if type(value) is list:
            return [self.decode(item) for item in value]
        return value

    def _from_tagged(self, tag: str, encoded: dict[str, Any]) -> object:
        if tag == "dict":
            return {key: self.decode(item) for key, item in encoded["value"].items()}
        if tag in _CONTAINERS:
            return _CONTAINERS[tag](self.decode(item) for item in encoded["value"])
        if tag in self._serializers:
            return self._serializers[tag].from_json(self.decode(encoded["value"]))
        if tag not in _SCALAR_DECODERS:
            raise ValidationError(
                f'A stored value has the type "{tag}", which no serializer of this engine knows; register the plugin '
                "that stored it"
            )
        return _SCALAR_DECODERS[tag](encoded)


def _decode_enum(encoded: dict[str, Any]) -> object:
    cls = find_class(encoded["class"])
    if not (isinstance(cls, type) and issubclass(cls, enum.Enum)):
        raise ValidationError(
            f"A stored value is a member of the enumeration {encoded['class']}, which is not loaded; "
            "import the module that defines it before reading"
        )
    return cls[encoded["name"]] if "name" in encoded else cls(Decoder({}).decode(encoded["value"]))


_SCALAR_DECODERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "datetime": decode_datetime,
    "date": lambda encoded: date.fromisoformat(encoded["value"]),
    "time": decode_time,
    "timedelta": lambda encoded: timedelta(*encoded["value"]),
    "uuid": lambda encoded: UUID(encoded["value"]),
    "decimal": lambda encoded: Decimal(encoded["value"]),
    "bytes": lambda encoded: base64.b64decode(encoded["value"]),
    "enum": _decode_enum,
    DECLARED: lambda encoded: encoded["value"],
}

_CONTAINERS: dict[str, Callable[[Iterable[object]], object]] = {"tuple": tuple, "set": set, "frozenset": frozenset}

BUILTIN_TAGS = frozenset({*_SCALAR_DECODERS, *_CONTAINERS, "dict"})
"""The tags that no serializer may have."""
