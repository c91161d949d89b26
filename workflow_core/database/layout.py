"""Where things lie in the runtime directory, and the names that may become paths."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import re
from datetime import UTC
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import pydantic_core

from workflow_core.database.diagnosis import file_error
from workflow_core.whole_files import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import date, datetime
    from pathlib import Path

    from workflow_core.models import PanicConfig, RetryConfig

__all__ = ["WORKFLOW_NAME", "RuntimeLayout", "definition_content"]

WORKFLOW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What a workflow may be called: its name becomes a directory."""

_PLAIN_FILE_NAME = re.compile(r"[a-z0-9._-]{1,200}")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
"""What Windows means a device by, with any ending."""


_OF_A_DOCUMENT = frozenset({"steps", "output", "continue_on_error"})
"""Keys of ``definition.json`` that the documents of declarative workflows alone have."""
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")

logger = logging.getLogger("workflow_core")


class Described(Protocol):
    """A workflow, a function or a document, as far as ``definition.json`` describes it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def version(self) -> str:
        """Its own version."""

    @property
    def description(self) -> str:
        """One line about it."""

    @property
    def retry_config(self) -> RetryConfig:
        """How its steps are tried again."""

    @property
    def panic_config(self) -> PanicConfig:
        """How it is restarted."""


class RuntimeLayout:
    """The paths under one runtime directory; paths that are stored are relative to it, so that it can be moved.

    Args:
        root: The runtime directory.

    Attributes:
        root: The same.
        registry: The registry's database.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.registry = root / "registry.db"
        self._dirs = functools.lru_cache(1_024)(self._dirs_of)

    def workflow_dir(self, workflow_name: str) -> Path:
        """The directory of a workflow."""
        return self._dirs(workflow_name)[0]

    def database(self, workflow_name: str) -> Path:
        """The database of a workflow."""
        return self.workflow_dir(workflow_name) / f"{workflow_name}.db"

    def log_dir(self, workflow_name: str) -> Path:
        """The log directory of a workflow."""
        return self._dirs(workflow_name)[1]

    def _dirs_of(self, workflow_name: str) -> tuple[Path, Path]:
        """Return the directory of a workflow, and that of its logs: joining paths takes as long as a statement."""
        path = self.root / "workflows" / workflow_name
        return path, path / "logs"

    def definition(self, workflow_name: str) -> Path:
        """The description of a workflow, for programs that do not have its code."""
        return self.workflow_dir(workflow_name) / "definition.json"

    def config(self, workflow_name: str) -> Path:
        """The configuration of a workflow, which its users edit."""
        return self.workflow_dir(workflow_name) / "config.json"

    def daily_log(self, workflow_name: str, day: date) -> Path:
        """The log of what happened to all executions of a workflow on a day in UTC."""
        return self.log_dir(workflow_name) / f"{day.isoformat()}.log"

    def execution_log(self, workflow_name: str, execution_id: str) -> Path:
        """The log of one execution: ``{execution_id}.log`` where every file system takes that for a name of its own.

        An id with a colon or a capital letter, one of more than 200 characters, and one that Windows takes for a device
        are written as far as they are safe, with ``~`` and the first 16 digits of the id's SHA-256 after them.
        """
        name = execution_id
        if not _PLAIN_FILE_NAME.fullmatch(name) or _RESERVED.fullmatch(name):
            digest = hashlib.sha256(name.encode()).hexdigest()[:16]
            safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:200]
            name = f"{'_' if _RESERVED.fullmatch(name) else ''}{safe}~{digest}"
        return self.log_dir(workflow_name).joinpath("executions", f"{name}.log")

    def workflow_names(self) -> Iterator[str]:
        """Yield the names of the workflows whose databases lie here, whether the registry knows them or not."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in sorted((self.root / "workflows").iterdir()):
                if WORKFLOW_NAME.fullmatch(path.name) and self.database(path.name).is_file():
                    yield path.name

    def remove_execution_log(self, workflow_name: str, execution_id: str) -> None:
        """Remove the log of one execution, if there is one."""
        self.remove(self.execution_log(workflow_name, execution_id))

    def daily_logs(self, workflow_name: str, before: datetime) -> list[Path]:
        """Return the daily logs of a workflow, of the days that were over at ``before`` (UTC)."""
        over = before.astimezone(UTC).date().isoformat()
        logs = self.log_dir(workflow_name).glob("????-??-??.log")
        return sorted(log for log in logs if _DAY.fullmatch(log.stem) and log.stem < over)

    @staticmethod
    def remove(path: Path) -> None:
        """Remove a file; one that cannot be removed is left, with a warning."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s: cannot remove this file: %s", path, error.strerror)

    def relative(self, path: Path) -> str:
        """Return a path as it is stored: relative, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def make_root(self) -> None:
        """Make the runtime directory, readable by its user alone."""
        self._make(self.root)

    def make_workflows(self) -> None:
        """Make the directory of all workflows."""
        self._make(self.root / "workflows")

    def make_workflow(self, workflow_name: str) -> None:
        """Make a workflow's directories."""
        self.make_workflows()
        self._make(self.workflow_dir(workflow_name))
        self._make(self.log_dir(workflow_name))
        self._make(self.log_dir(workflow_name) / "executions")

    def write_definition(self, workflow_name: str, definition: Mapping[str, object]) -> None:
        """Bring ``definition.json`` up to date, as a whole or not at all; nothing is written if nothing has changed.

        The moment of its making is kept, and so is whatever other programs have added. A document of a declarative
        workflow is changed by `save_document` alone: a process that knows an older one, or a function of that name,
        leaves it as it is.
        """
        before = _object_in(self.definition(workflow_name))
        if "steps" not in before:
            self._update_definition(workflow_name, before, {**before, **definition})

    def save_document(self, workflow_name: str, definition: Mapping[str, object]) -> bool:
        """Bring ``definition.json`` up to date with a document, in the manner of `write_definition`.

        Returns:
            Whether anything had to be written.
        """
        before = _object_in(self.definition(workflow_name))
        kept = {key: value for key, value in before.items() if key not in _OF_A_DOCUMENT}
        return self._update_definition(workflow_name, before, {**kept, **definition})

    def _update_definition(
        self, workflow_name: str, before: Mapping[str, object], definition: Mapping[str, object]
    ) -> bool:
        changed = dict(pydantic_core.to_jsonable_python(definition))
        changed["created_at"] = before.get("created_at", definition.get("created_at"))
        if before and {**changed, "last_modified": before.get("last_modified")} == before:
            return False
        self.make_root()
        self.make_workflow(workflow_name)
        content = pydantic_core.to_json(changed, indent=2) + b"\n"
        _write(self.definition(workflow_name), content)
        return True

    def make_config(self, workflow_name: str, config: Mapping[str, object]) -> None:
        """Write ``config.json`` unless it is there: it belongs to the workflow's users."""
        path = self.config(workflow_name)
        if not path.exists():
            _write(path, pydantic_core.to_json(config, indent=2) + b"\n", replace=False)

    @staticmethod
    def _make(path: Path) -> None:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            advice = "set WORKFLOW_DIR to a directory that this user may write"
            raise file_error(error, path, "cannot make this directory", advice) from error


def definition_content(
    definition: Described, at: datetime, document: Mapping[str, object] = MappingProxyType({})
) -> dict[str, object]:
    """Return what ``definition.json`` says of a workflow.

    Args:
        definition: The workflow.
        at: The engine's time.
        document: Its steps and what else its document says, if it is declarative.
    """
    return {
        "name": definition.name,
        "version": definition.version,
        "description": definition.description,
        "created_at": at.isoformat(),
        "last_modified": at.isoformat(),
        "database_path": f"./{definition.name}.db",
        "log_directory": "./logs/",
        **document,
        "retry_config": definition.retry_config.model_dump(mode="json"),
        "panic_config": definition.panic_config.model_dump(mode="json"),
    }


def _object_in(path: Path) -> dict[str, object]:
    """Return the object in a JSON file; a file that is missing, or damaged, has none."""
    try:
        found = pydantic_core.from_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise file_error(error, path, "cannot read this file", "check that this user may read it") from error
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, content: bytes, *, replace: bool = True) -> None:
    try:
        write_whole(path, content, replace=replace)
    except OSError as error:
        advice = "check that this user may write the directory"
        raise file_error(error, path, "cannot write this file", advice) from error
