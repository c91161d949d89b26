"""Values to JSON's types: plain JSON as it is, other types with a tag, and anything else refused."""

from __future__ import annotations

import base64
import dataclasses
import enum
import math
import sys
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pydantic
import pydantic_core

from workflow_core.errors import shown
from workflow_core.serialization.classes import class_path, find_class
from workflow_core.serialization.tags import TAG, Json, NotPlainError, RefusedError, Serializer, TooLargeError
from workflow_core.serialization.times import encode_time, encode_zone

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["MAX_DEPTH", "Encoder", "GivenEncoder"]

MAX_DEPTH = 100
"""Containers nested deeper than this are refused: readers of JSON give up not far beyond."""

_LONG_TEXT = 1_000
"""A shorter text is not worth counting before it is encoded."""

_CONSTANTS = (str, int, float, type(None), bytes, UUID, Decimal, date, time, timedelta, enum.Enum)
_PLAIN_SCALARS: frozenset[type] = frozenset({str, int, bool, type(None)})
_OF_FIXED_SIZE: frozenset[type] = frozenset({int, bool, type(None)})
"""What is stored as it is, and needs no place in a message."""

_A_MOMENT = datetime.min.replace(tzinfo=UTC)
_A_DAY = date.min


class Encoder:
    """Turns one value into JSON's types, and remembers whether a tag was needed.

    Args:
        serializers: How values of further types are stored, by class.
        max_bytes: Longest acceptable text, in bytes; ``None`` sets no limit.

    Attributes:
        tagged: Whether a tag was needed.
    """

    __slots__ = ("_bytes_left", "_serializers", "tagged")

    def __init__(self, serializers: Mapping[type, Serializer[Any]], max_bytes: int | None = None) -> None:
        self._serializers = serializers
        self._bytes_left = sys.maxsize if max_bytes is None else max_bytes
        self.tagged = False

    def _spend(self, least_bytes: int) -> None:
        """Count what a part will take at least, so that what is too large is refused before it is copied."""
        self._bytes_left -= least_bytes
        if self._bytes_left < 0:
            raise TooLargeError

    def encode(self, value: Any, path: str = "", depth: int = 0) -> Json:  # noqa: ANN401 - any value
        """Turn a value, or a part of one, into JSON's types.

        Args:
            value: The value.
            path: Where in the whole it stands, for the error message.
            depth: How many containers it stands in.

        Raises:
            NotPlainError: Only a declared type can store it.
            RefusedError: Nothing can store it.
            TooLargeError: Its text would be longer than is acceptable.
        """
        cls = type(value)
        plain: Json = value
        if cls in _PLAIN_SCALARS:
            if cls is str and len(value) > _LONG_TEXT:
                self._spend(len(value))
            return plain
        if cls is dict:
            return self._encode_dict(value, path, depth)
        if cls is list:
            if depth > MAX_DEPTH:
                raise _too_deep(value, path)
            self._spend(2 * len(value))
            return [self.encode(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
        if cls is float:
            if not math.isfinite(value):
                raise RefusedError(f"{path or 'the value'} is {value}, which JSON cannot hold")
            return plain
        return self._encode_tagged(value, path, depth)

    def _encode_dict(self, value: dict[object, Any], path: str, depth: int) -> Json:
        if depth > MAX_DEPTH:
            raise _too_deep(value, path)
        self._spend(5 * len(value))
        encoded: dict[str, Json] = {}
        for key, item in value.items():
            if type(key) is not str:
                raise RefusedError(
                    f"{path or 'the value'} has the key {shown(key)}; JSON's keys are strings, so it would change"
                )
            cls = type(item)
            if cls in _OF_FIXED_SIZE or (cls is str and len(item) <= _LONG_TEXT):
                encoded[key] = item  # as `encode` would return it, without a call and a path
            else:
                encoded[key] = self.encode(item, f"{path}.{key}" if path else key, depth + 1)
        if TAG in encoded:
            self.tagged = True
            return {TAG: "dict", "value": encoded}
        return encoded

    def _encode_tagged(self, value: Any, path: str, depth: int) -> Json:  # noqa: ANN401, C901 - one line for each type
        self.tagged = True
        serializer = self._serializers.get(type(value))
        if serializer is not None:
            return {TAG: serializer.name, "value": self.encode(serializer.to_json(value), path, depth + 1)}
        if isinstance(value, enum.Enum):
            return _encode_enum(value, path)
        cls = type(value)
        if isinstance(value, datetime) and _stands_for(cls, _A_MOMENT):
            return {TAG: "datetime", "value": value.isoformat(), **encode_zone(value, path)}
        if isinstance(value, date) and _stands_for(cls, _A_DAY):
            return {TAG: "date", "value": value.isoformat()}
        if cls is time:
            return encode_time(value, path)
        if cls is timedelta:
            return {TAG: "timedelta", "value": [value.days, value.seconds, value.microseconds]}
        if cls is UUID or cls is Decimal:
            return {TAG: cls.__name__.lower(), "value": str(value)}
        if cls is bytes:
            self._spend(len(value))
            return {TAG: "bytes", "value": base64.b64encode(value).decode("ascii")}
        if cls is tuple or cls is set or cls is frozenset:
            if depth > MAX_DEPTH:
                raise _too_deep(value, path)
            self._spend(2 * len(value))
            items = [self.encode(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
            if cls is not tuple:
                items.sort(key=pydantic_core.to_json)
            return {TAG: cls.__name__, "value": items}
        raise NotPlainError(value, path)


def _too_deep(value: object, path: str) -> RefusedError:
    reason = "refers to itself" if _is_circular(value) else f"is nested deeper than {MAX_DEPTH} levels"
    return RefusedError(f"{(path[:60] + '…') if path else 'the value'} {reason}")


class GivenEncoder(Encoder):
    """Takes models and dataclasses apart as well: what it makes is compared, and never read back."""

    __slots__ = ()

    def _encode_tagged(self, value: Any, path: str, depth: int) -> Json:  # noqa: ANN401 - any value
        if isinstance(value, pydantic.BaseModel):
            fields = {name: getattr(value, name) for name in type(value).model_fields} | (value.model_extra or {})
            for name in fields.keys() - value.model_fields_set:
                # such a default may be new each time, as an id is; any other may have been changed in place since
                if isinstance(fields[name], _CONSTANTS):
                    del fields[name]
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        else:
            return super()._encode_tagged(value, path, depth)
        return {TAG: class_path(type(value)), "value": self.encode(fields, path, depth)}


def _is_circular(value: object) -> bool:
    """Tell whether following first children from a deep place comes back to it."""
    path, above = {id(value)}, [(id(value), iter(_children(value)))]
    for _ in range(10_000):
        if not above:
            return False
        parent, children = above[-1]
        child = next(children, _NO_CHILD)
        if child is _NO_CHILD:
            above.pop()
            path.remove(parent)
        elif id(child) in path:
            return True
        elif isinstance(child, (dict, list, tuple, set, frozenset)):
            path.add(id(child))
            above.append((id(child), iter(_children(child))))
    return False


_NO_CHILD = object()


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple, set, frozenset)) else ()


def _findable_path(cls: type, path: str) -> str:
    if find_class(class_path(cls)) is not cls:
        raise RefusedError(
            f"{path or 'the value'} is a {cls.__qualname__}, which cannot be found again as an attribute of the module "
            f'"{cls.__module__}"; define it at the top level of a module'
        )
    return class_path(cls)


def _encode_enum(value: enum.Enum, path: str) -> Json:
    cls = type(value)
    encoded: dict[str, Json] = {TAG: "enum", "class": _findable_path(cls, path)}
    if value.name is not None and cls.__members__.get(value.name) is value:
        return {**encoded, "name": value.name}
    return {**encoded, "value": Encoder({}).encode(value.value, path)}


def _stands_for(cls: type, example: object) -> bool:
    """Tell whether a class is that of ``example``, or counts it as an instance, as freezegun's do in tests."""
    return isinstance(example, cls)
