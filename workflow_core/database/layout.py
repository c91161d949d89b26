"""Where things lie in the runtime directory, and the names that may become paths."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pydantic_core

from workflow_core.database.diagnosis import file_error

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["WORKFLOW_NAME", "RuntimeLayout"]

WORKFLOW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What a workflow may be called: its name becomes a directory."""


class RuntimeLayout:
    """The paths under one runtime directory; paths that are stored are relative to it, so that it can be moved.

    Args:
        root: The runtime directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def registry(self) -> Path:
        """The registry's database."""
        return self.root / "registry.db"

    def workflow_dir(self, workflow_name: str) -> Path:
        """The directory of a workflow."""
        return self.root / "workflows" / workflow_name

    def database(self, workflow_name: str) -> Path:
        """The database of a workflow."""
        return self.workflow_dir(workflow_name) / f"{workflow_name}.db"

    def log_dir(self, workflow_name: str) -> Path:
        """The log directory of a workflow."""
        return self.workflow_dir(workflow_name) / "logs"

    def relative(self, path: Path) -> str:
        """Return a path as it is stored: relative, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def make_root(self) -> None:
        """Make the runtime directory, readable by its user alone."""
        self._make(self.root)

    def make_workflow(self, workflow_name: str) -> None:
        """Make a workflow's directories."""
        self._make(self.root / "workflows")
        self._make(self.workflow_dir(workflow_name))
        self._make(self.log_dir(workflow_name) / "executions")

    def write_definition(self, workflow_name: str, definition: Mapping[str, object]) -> None:
        """Write ``definition.json`` as a whole or not at all, unless it is there already."""
        path = self.workflow_dir(workflow_name) / "definition.json"
        if not path.exists():
            _write_atomically(path, pydantic_core.to_json(definition, indent=2) + b"\n")

    @staticmethod
    def _make(path: Path) -> None:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            advice = "set WORKFLOW_DIR to a directory that this user may write"
            raise file_error(error, path, "cannot make this directory", advice) from error


def _write_atomically(path: Path, content: bytes) -> None:
    try:
        descriptor, name = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        advice = "check that this user may write the directory"
        raise file_error(error, path, "cannot write this file", advice) from error
