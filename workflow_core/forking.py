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


_to_begin_again: weakref.WeakSet[Forked] = weakref.WeakSet()


def after_fork(one: Forked) -> None:
    """Let something begin again in each child that this process is forked into, for as long as it is used."""
    _to_begin_again.add(one)


def _begin_again_in_child() -> None:
    for one in list(_to_begin_again):
        one.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again_in_child)
