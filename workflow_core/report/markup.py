"""HTML and SVG built from elements, so that no text reaches a page unescaped."""

from __future__ import annotations

import html
from typing import TypeAlias

from workflow_core.unseen import UNSEEN

__all__ = ["Child", "Markup", "escaped", "join", "tag"]

_VOID = frozenset({"br", "input", "meta"})


class Markup(str):
    """Text that is HTML already, and goes into a page as it is."""

    __slots__ = ()


Child: TypeAlias = "str | int | Markup"
"""What an element may contain; everything but `Markup` is escaped."""


def escaped(text: object) -> Markup:
    """Return any text as HTML, fit for content and for quoted attributes; characters that hide become visible."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", str(text))))


def join(*children: Child) -> Markup:
    """Return several children as one."""
    return Markup("".join(map(escaped, children)))


def tag(element: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """Return an element.

    Args:
        element: Its name; a constant of the program, never data.
        *children: What it contains.
        **attributes: Its attributes; ``_`` stands for ``-``, a trailing one is dropped (``class_``). ``None`` and
            ``False`` leave an attribute out, ``True`` names it without a value.
    """
    parts = [element]
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(attribute)
        elif value is not None and value is not False:
            parts.append(f'{attribute}="{escaped(value)}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if element in _VOID else f"{opening}{join(*children)}</{element}>")
