"""Classes as text: the path that is stored, and the class of that path among the modules that are loaded."""

from __future__ import annotations

import sys

__all__ = ["class_path", "find_class"]


def class_path(cls: type) -> str:
    """Return the text that a class is stored as: its module and its qualified name."""
    return f"{cls.__module__}:{cls.__qualname__}"


def find_class(path: str) -> object | None:
    """Look a class up among the modules that are loaded already: stored text never causes an import."""
    module_name, _, qualname = path.partition(":")
    found: object = sys.modules.get(module_name)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found
