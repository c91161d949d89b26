"""Command lines that commands tell the user to type."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflow_core.cli.invocation import Invocation

__all__ = ["command_line"]


def command_line(invocation: Invocation, *words: str, with_app: bool = True) -> str:
    """Return a command line with the shared options that were given."""
    options = ["--directory", str(invocation.directory)] if invocation.directory is not None else []
    if with_app and invocation.app is not None:
        options += ["--app", invocation.app]
    return shlex.join(["workflow", *words, *options])
