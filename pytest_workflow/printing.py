"""Texts from elsewhere as a terminal may show them."""

from __future__ import annotations

__all__ = ["harmless"]


def harmless(text: str) -> str:
    """Return a text without what would move the terminal's cursor, colour it, or turn the order of what follows."""
    return "".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text)
