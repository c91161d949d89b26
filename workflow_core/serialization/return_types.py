"""The declared type of what a handler returns, and pydantic's adapter for it."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pydantic

__all__ = ["ReturnType", "return_type_of"]


class ReturnType:
    """The declared type of a handler's result, looked up only when a value needs it."""

    __slots__ = ("_declared", "_handler")

    def __init__(self, handler: Callable[..., object] | None, declared: object = None) -> None:
        self._handler = handler
        self._declared = declared

    def __str__(self) -> str:
        declared = self._resolved()
        if declared is None:
            return "plain data"
        return declared.__qualname__ if isinstance(declared, type) else repr(declared)

    def _resolved(self) -> object:
        if self._declared is None and self._handler is not None:
            self._declared = return_type_of(self._handler)
            self._handler = None
        return self._declared

    @property
    def declared(self) -> object:
        """The type as it was declared; ``None`` if nothing usable is."""
        return self._resolved()

    def adapter(self) -> pydantic.TypeAdapter[Any] | None:
        """Return pydantic's adapter for the declared type, or ``None`` if nothing usable is declared."""
        declared = self._resolved()
        return None if declared is None else _adapter_for(declared)


def return_type_of(handler: Callable[..., object]) -> object | None:
    """Return what a handler's annotation says it returns, awaitables unwrapped; ``None`` if it says nothing usable."""
    function: Any = handler
    while isinstance(function, functools.partial):
        function = function.func
    if not isinstance(function, (types.FunctionType, types.MethodType, types.BuiltinFunctionType)):
        function = type(function).__call__
    if not getattr(function, "__annotations__", None):
        return None
    try:
        annotation = typing.get_type_hints(function, include_extras=True).get("return")
    except Exception:  # noqa: BLE001 - evaluating another's annotation can raise anything; then none is known
        return None
    if typing.get_origin(annotation) in {Awaitable, Coroutine}:
        annotation = typing.get_args(annotation)[-1]
    says_nothing = (None, type(None), Any, object)  # no set: an annotation need not be hashable
    return None if annotation in says_nothing else annotation


def _new_adapter(declared: Any) -> pydantic.TypeAdapter[Any] | None:  # noqa: ANN401 - an annotation
    try:
        return pydantic.TypeAdapter(declared)
    except pydantic.errors.PydanticUserError:
        return None


_cached_adapter = functools.lru_cache(maxsize=512)(_new_adapter)


def _adapter_for(declared: Any) -> pydantic.TypeAdapter[Any] | None:  # noqa: ANN401 - an annotation
    try:
        hash(declared)
    except TypeError:  # such as Annotated with a list
        return _new_adapter(declared)
    return _cached_adapter(declared)
