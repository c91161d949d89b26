"""What a step's function captured: arguments of ``functools.partial``, defaults and closure variables, copied."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections import Counter, OrderedDict, defaultdict, deque
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["captured_values", "copied"]

_ITEMS: dict[type, Callable[[Any], Iterable[tuple[Any, object]]]] = {
    **dict.fromkeys((list, deque), enumerate),
    **dict.fromkeys((dict, OrderedDict, defaultdict, Counter), lambda mapping: mapping.items()),
}
"""The containers whose items can be set one by one, and how their keys and items are listed."""


def captured_values(function: Callable[..., object]) -> dict[str, object]:
    """Return the values that a function without arguments brings along, by name.

    An argument bound by ``functools.partial`` counts before a default. A closure variable that has no value yet is left
    out. Values are copied as by `copied`.

    Args:
        function: Any callable.
    """
    positional: tuple[object, ...] = ()
    named: dict[str, object] = {}
    inner: Any = function
    while isinstance(inner, functools.partial):
        positional, named, inner = inner.args + positional, {**inner.keywords, **named}, inner.func
    if not hasattr(inner, "__code__") and not hasattr(inner, "__func__"):
        inner = getattr(inner, "__call__", inner)  # noqa: B004 - an instance's class may be callable
    values = _closure(getattr(inner, "__func__", inner))
    values.update(_parameters(inner, positional, named))
    seen: dict[int, object] = {}
    return {name: copied(value, seen) for name, value in values.items()}


def _closure(function: Any) -> dict[str, object]:  # noqa: ANN401 - any callable
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    values = {}
    for name, cell in zip(getattr(code, "co_freevars", ()), cells or (), strict=False):
        try:
            values[name] = cell.cell_contents
        except ValueError:  # the variable has no value yet
            continue
    return values


def _parameters(
    function: Any,  # noqa: ANN401 - any callable
    positional: tuple[object, ...],
    named: dict[str, object],
) -> dict[str, object]:
    """Bind arguments by the code alone: a signature would evaluate annotations, which may not exist at run time."""
    plain = getattr(function, "__func__", function)
    code = getattr(plain, "__code__", None)
    if code is None:
        return {**({"args": positional} if positional else {}), **named}
    names = code.co_varnames[: code.co_argcount]
    defaults = plain.__defaults__ or ()
    values = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
    if plain is not function:  # a method: its first parameter is the object
        names = names[1:]
    values.update(zip(names, positional, strict=False))
    values.update({**(plain.__kwdefaults__ or {}), **named})
    rest = positional[len(names) :]
    if rest and code.co_flags & inspect.CO_VARARGS:
        values[code.co_varnames[code.co_argcount + code.co_kwonlyargcount]] = rest
    return {name: values[name] for name in [*names, *values] if name in values}


def copied(value: object, seen: dict[int, object] | None = None) -> object:
    """Return a copy that later changes of ``value`` do not reach.

    The standard containers, dataclasses and pydantic models are copied, and what they hold as well. Anything else - a
    connection, a client, an open file - is returned as it is: copying it could do anything.

    Args:
        value: Any value.
        seen: The copies made so far, by the identity of what they were made from.
    """
    seen = {} if seen is None else seen
    if id(value) in seen:
        return seen[id(value)]
    try:
        return _copy(value, seen)
    except Exception:  # noqa: BLE001 - a class of the user's may refuse to be copied in any way
        seen[id(value)] = value
        return value


def _copy(value: Any, seen: dict[int, object]) -> object:  # noqa: ANN401 - any value
    kind = type(value)
    if kind in _ITEMS:
        new = seen[id(value)] = copy.copy(value)
        for key, item in _ITEMS[kind](value):
            new[key] = copied(item, seen)
        return new
    if isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        new = seen[id(value)] = copy.copy(value)
        for name, item in _fields(value):
            object.__setattr__(new, name, copied(item, seen))
        return new
    if kind is tuple:
        return tuple(copied(item, seen) for item in value)
    if isinstance(value, tuple) and hasattr(kind, "_make"):
        return kind._make(copied(item, seen) for item in value)
    return copy.copy(value) if kind in {set, bytearray} else value


def _fields(value: Any) -> list[tuple[str, object]]:  # noqa: ANN401 - a model or a dataclass
    if isinstance(value, BaseModel):
        return list(vars(value).items())
    names = [field.name for field in dataclasses.fields(value)]
    return [(name, getattr(value, name)) for name in names if hasattr(value, name)]
