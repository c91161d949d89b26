"""Stored texts as a page shows them: indented, and cut where they are too long."""

from __future__ import annotations

import contextlib
import json

__all__ = ["LONGEST_TEXT", "readable_json", "shortened"]

LONGEST_TEXT = 10_000
"""Longer inputs, outputs, results and tracebacks are cut, in characters."""


def readable_json(text: str | None) -> str | None:
    """Return stored JSON indented, and whatever else is stored, such as a damaged result, as it is."""
    if text is None:
        return None
    with contextlib.suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return shortened(text)


def shortened(text: str) -> str:
    """Return a text without what is beyond `LONGEST_TEXT`."""
    beyond = len(text) - LONGEST_TEXT
    return f"{text[:LONGEST_TEXT]}\n... {beyond:,} more characters" if beyond > 0 else text
