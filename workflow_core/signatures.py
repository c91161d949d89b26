"""How many arguments a function takes, asked when it is given rather than when it is called."""

from __future__ import annotations

import inspect
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["takes"]


def takes(function: Callable[..., object], count: int) -> bool:
    """Tell whether a function can be called with ``count`` arguments; one that does not tell is believed to."""
    if isinstance(function, types.FunctionType):
        code = function.__code__
        if code.co_argcount == count and not code.co_kwonlyargcount:
            return True  # as nearly all do; the rest of this takes much longer
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
