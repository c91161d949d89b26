"""Finds and imports the module that defines a user's workflows."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import sys
import tomllib
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_core.cli.failures import USAGE, Failure, did_you_mean
from workflow_core.engine import WorkflowEngine
from workflow_core.suggestions import nearest

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["App", "AppName", "find_app", "load_app"]


@dataclass(frozen=True)
class AppName:
    """What a user named as the app.

    Attributes:
        attribute: Its attribute, perhaps dotted; ``None`` for the module alone.
        source: Where it was named, for messages.
        directory: What is put in front of ``sys.path`` besides the current directory.
    """

    module: str
    attribute: str | None
    source: str
    directory: Path | None = None


@dataclass(frozen=True)
class App:
    """A loaded app.

    Attributes:
        engine: The engine that its attribute is, if it is one.
    """

    engine: WorkflowEngine | None


def find_app(option: str | None) -> AppName | None:
    """Return the app that is named by the option, else by WORKFLOW_APP, else by the nearest pyproject.toml.

    Raises:
        Failure: What is named cannot be a module and an attribute.
    """
    if option is not None:
        return _parsed(option, "--app")
    variable = os.environ.get("WORKFLOW_APP")
    if variable:
        return _parsed(variable, "WORKFLOW_APP")
    for directory in (Path.cwd(), *Path.cwd().parents):
        path = directory / "pyproject.toml"
        if path.is_file():
            return _configured(path)
    return None


def _configured(path: Path) -> AppName | None:
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Failure(f"{path} cannot be read: {error}", USAGE) from None
    tool = project.get("tool")
    table = tool.get("workflow") if isinstance(tool, dict) else None
    app = table.get("app") if isinstance(table, dict) else None
    if app is None:
        return None
    if not isinstance(app, str):
        raise Failure(f'{path}: app in [tool.workflow] must be a text such as "shop.workflows:engine"', USAGE)
    return _parsed(app, f"app in [tool.workflow] of {path}", path.parent)


def _parsed(text: str, source: str, directory: Path | None = None) -> AppName:
    module, colon, attribute = text.strip().partition(":")
    parts = [*module.split("."), *(attribute.split(".") if colon else [])]
    if module.endswith(".py") or not all(part.isidentifier() for part in parts):
        advice = "; leave .py out" if module.endswith(".py") else ""
        raise Failure(
            f'{source}: "{text}" names no module; write module or module:attribute, such as shop.workflows:engine'
            f"{advice}",
            USAGE,
        )
    return AppName(module, attribute if colon else None, source, directory)


def load_app(name: AppName) -> App:
    """Import an app, which defines its workflows.

    Raises:
        Failure: There is no such module or attribute, or the module's own code raised an error.
    """
    for directory in (name.directory, Path.cwd()):
        if directory is not None and str(directory) not in sys.path:
            sys.path.insert(0, str(directory))
    module = _imported(name)
    if name.attribute is None:
        return App(None)
    found: object = module
    for part in name.attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            known = [attribute for attribute in dir(found) if not attribute.startswith("_")]
            raise Failure(
                f'{name.source}: the module "{name.module}" has no attribute "{name.attribute}"'
                f"{did_you_mean(part, known)}",
                USAGE,
            ) from None
    return App(found if isinstance(found, WorkflowEngine) else None)


def _imported(name: AppName) -> ModuleType:
    try:
        return importlib.import_module(name.module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name.module == missing or name.module.startswith(f"{missing}."):
            raise Failure(
                f'{name.source}: there is no module "{missing}"{_similar_module(missing)} (looked in {Path.cwd()} and '
                "in the installed packages)",
                USAGE,
            ) from None
        raise _failed(name, error) from error
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise _failed(name, error) from error


def _similar_module(missing: str) -> str:
    parent, _, last = missing.rpartition(".")
    path = None
    if parent:
        with contextlib.suppress(ImportError, AttributeError):
            path = list(importlib.import_module(parent).__path__)
    names = [module.name for module in pkgutil.iter_modules(path if path is not None else [str(Path.cwd())])]
    close = nearest(last, names)
    return "" if close is None else f'; did you mean "{f"{parent}." if parent else ""}{close}"?'


def _failed(name: AppName, error: BaseException) -> Failure:
    """Show a user the traceback of the user's own code."""
    found = error.__traceback__
    while found is not None and _is_machinery(found.tb_frame.f_code.co_filename):
        found = found.tb_next
    text = "".join(traceback.format_exception(type(error), error, found))
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    return Failure(f'{name.source}: the module "{name.module}" cannot be imported: {said}', USAGE, text)


def _is_machinery(file_name: str) -> bool:
    return file_name.startswith("<frozen importlib") or file_name in {__file__, importlib.__file__}
