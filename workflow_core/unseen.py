"""The characters of a text that do something else than be seen."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["UNSEEN"]

UNSEEN: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
"""One of those that move the cursor, change colours or reorder what is read, that HTML cannot hold, or that cannot be
encoded; tabs and line breaks are none of them."""
