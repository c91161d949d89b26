"""Texts for a terminal: harmless, in one line, and no wider than there is room."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["moment_text", "one_line", "shortened", "visible"]

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
"""Characters that would move the cursor, change colours or reorder what is read."""


def visible(text: object) -> str:
    """Return a text that cannot steer a terminal: control characters are shown by their number."""
    return _UNSEEN.sub(lambda found: f"\\x{ord(found[0]):02x}", str(text))


def one_line(text: object) -> str:
    """Return the first line of a text, marked if there are more."""
    first, _, rest = str(text).strip().replace("\t", " ").partition("\n")
    return visible(first.rstrip("\r")) + (" ..." if rest else "")


def shortened(text: str, width: int) -> str:
    """Return a text in ``width`` characters at most."""
    if len(text) <= width:
        return text
    return text[: max(width - 3, 0)] + "..."[: max(width, 0)]


def moment_text(moment: datetime | None, missing: str = "-") -> str:
    """Return a moment in the time of this machine, to the second."""
    return missing if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
