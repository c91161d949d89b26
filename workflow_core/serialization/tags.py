"""What stored JSON is made of: tagged objects, the serializers of further types, and why a value is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DECLARED", "GIVEN", "TAG", "Json", "NotPlainError", "RefusedError", "Serializer", "TooLargeError"]

_T = TypeVar("_T")

TAG = "$type"
DECLARED = "declared"
GIVEN = "given"

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None


@dataclass(frozen=True, slots=True)
class Serializer(Generic[_T]):
    """How one more type is stored; a plugin offers it through the hook ``serializers``.

    Attributes:
        name: The tag that marks stored values; it must never change.
        type: The class, matched exactly.
        to_json: Turns a value into JSON's types.
        from_json: Turns those back into an equal value.
    """

    name: str
    type: type[_T]
    to_json: Callable[[_T], object]
    from_json: Callable[[Any], _T]


class NotPlainError(Exception):
    """A value that only a declared type can store."""

    def __init__(self, value: object, path: str) -> None:
        super().__init__(path)
        self.value = value
        self.path = path


class RefusedError(Exception):
    """A value that cannot be stored at all."""


class TooLargeError(Exception):
    """A value whose text would be longer than is acceptable."""
