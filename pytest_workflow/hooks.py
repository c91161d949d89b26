"""Plugins of an engine that are made anew for every test, and so have to be cheap to register."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Hooks"]


class Hooks:
    """A plugin of hook implementations that are bound already.

    pluggy looks at every name of a plugin, and searches the classes of its object for those that it does not find in
    the object itself.

    Args:
        *implementations: Methods marked by `workflow_core.hookspecs.hookimpl`, named as their hooks.
    """

    def __init__(self, *implementations: Callable[..., object]) -> None:
        vars(self).update({implementation.__name__: implementation for implementation in implementations})

    def __dir__(self) -> list[str]:
        return list(vars(self))
