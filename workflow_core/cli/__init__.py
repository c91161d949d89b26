"""The command `workflow`: manages workflows and watches executions from a terminal."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_PACKAGES = ("click", "rich", "tabulate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What follows the command's name; by default those of this process.

    Returns:
        The exit code: 0 done, 1 the workflow failed, 2 usage, 3 not found, 4 storage, 130 interrupted.
    """
    if any(importlib.util.find_spec(name) is None for name in _PACKAGES):
        sys.stderr.write('The command "workflow" needs more packages: pip install "pytest-workflow-core[cli]"\n')
        return 2
    from workflow_core.cli.application import run  # noqa: PLC0415 - not without its packages

    return run(arguments)
