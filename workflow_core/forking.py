"""What begins again in a forked child: a child is a process of its own, and may not use what its parent has open."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["Forked", "after_fork"]


class Forked(Protocol):
    """Something that knows how to begin again."""

    def forked(self) -> None:
        """Begin again in a child process."""


_to_begin_again: weakref.WeakValueDictionary[int, Forked] = weakref.WeakValueDictionary()
"""By their ids: references to its values can be had at one blow, whatever the garbage collector does meanwhile."""


def after_fork(one: Forked) -> None:
    """Let something begin again in each child that this process is forked into, for as long as it is used."""
    _to_begin_again[id(one)] = one


def _begin_again_in_child() -> None:
    failures = []
    for reference in _to_begin_again.valuerefs():
        one = reference()
        try:
            if one is not None:
                one.forked()
        except Exception as error:  # noqa: BLE001 - what one has left must not keep the others from beginning again
            failures.append(error)
    if failures:
        raise ExceptionGroup("not all could begin again in a forked child", failures)  # Python tells of it and goes on


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again_in_child)
