"""What each status looks like: a shape and a word, so that no one needs colours to tell them apart."""

from __future__ import annotations

from typing import Final

from workflow_core.report.markup import Markup, join, tag

__all__ = ["badge", "icon", "label"]

_SHAPES: Final = {
    "completed": "M0-8A8 8 0 1 0 0 8 8 8 0 0 0 0-8ZM3.9-3.9 5.3-2.5-1.6 4.6-5.2 1-3.8-.4-1.6 1.8Z",
    "failed": "M-3.3-8H3.3L8-3.3V3.3L3.3 8H-3.3L-8 3.3V-3.3ZM-2.8-4-4-2.8-1.2 0-4 2.8-2.8 4 0 1.2 2.8 4 4 2.8 1.2 0 "
    "4-2.8 2.8-4 0-1.2Z",
    "panicked": "M0-8 2-3 7-5 4 0 8 3 3 3 2 8-1 4-5 7-4 2-8 1-4-2-6-6-2-4Z",
    "cancelled": "M-7-7H7V7H-7ZM-4.6-4.6V4.6H4.6V-4.6Z",
    "running": "M-5-7.5 8 0-5 7.5Z",
    "restarting": "M0-6A6 6 0 1 1-6 0H-3.2A3.2 3.2 0 1 0 0-3.2V-.5L-5-4.6 0-9Z",
    "retrying": "M0-6A6 6 0 1 1-6 0H-3.2A3.2 3.2 0 1 0 0-3.2V-.5L-5-4.6 0-9Z",
    "sleeping": "M1.5-7.8A8 8 0 1 0 7.8 3 6.6 6.6 0 0 1 1.5-7.8Z",
    "interrupted": "M-6-7H-1.8V7H-6ZM1.8-7H6V7H1.8Z",
    "skipped": "M0-7.5A7.5 7.5 0 1 1 0 7.5 7.5 7.5 0 0 1 0-7.5ZM0-5.3A5.3 5.3 0 1 0 0 5.3 5.3 5.3 0 0 0 0-5.3ZM-3-1.1H3"
    "V1.1H-3Z",
    "queued": "M-7-6.6H7V-3.8H-7ZM-7-1.4H3.5V1.4H-7ZM-7 3.8H0V6.6H-7Z",
    "alive": "M-8-1.2H-4.6L-2.4-7H-.4L2.6 3 4.2-1.2H8V1.2H5.8L3.6 7H1.4L-1.5-2.6-3 1.2H-8Z",
    "lost": "M-8-1.2H-1.5V1.2H-8ZM1.2-1.2H3.4V1.2H1.2ZM5.2-1.2H7.4V1.2H5.2Z",
    "pending": "M0-4A4 4 0 1 1 0 4 4 4 0 0 1 0-4ZM0-2A2 2 0 1 0 0 2 2 2 0 0 0 0-2Z",
    "open": "M-8-2H-5L2-9 5-6-3 2H-8ZM4-2H8V2H4Z",
    "half_open": "M-8-2H-5L3-6 5-2.5-3 2H-8ZM4-1H8V2H4Z",
    "closed": "M-8-2H-5A5 5 0 0 1 5-2H8V2H5A5 5 0 0 1-5 2H-8Z",
    "warning": "M0-8 8 7H-8ZM-1.1-3V2.4H1.1V-3ZM-1.1 3.6V5.6H1.1V3.6Z",
}
"""The outline of each status around its middle, within 8 units."""


def label(status: str) -> str:
    """Return the word for a status."""
    return status.replace("_", "-")


def icon(status: str) -> Markup:
    """Return the shape of a status, which says nothing to screen readers: its word stands beside it."""
    shape = tag("path", d=_SHAPES.get(status, _SHAPES["pending"]))
    return tag("svg", shape, class_="icon", viewBox="-9 -9 18 18", aria_hidden="true")


def badge(status: str) -> Markup:
    """Return a status as its shape and its word."""
    return tag("span", icon(status), join(" ", label(status)), class_=f"status is-{status}")
