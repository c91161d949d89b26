"""Texts for a terminal: harmless, in one line, and no wider than there is room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflow_core.unseen import UNSEEN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

__all__ = ["age_text", "moment_text", "one_line", "shortened", "visible", "workflows_text"]


def visible(text: object) -> str:
    """Return a text that cannot steer a terminal: control characters are shown by their number."""
    return UNSEEN.sub(lambda found: f"\\x{ord(found[0]):02x}", str(text))


def one_line(text: object) -> str:
    """Return the first line of a text, marked if there are more; a line that ends in a colon goes on with the next."""
    first, _, rest = str(text).strip().replace("\t", " ").partition("\n")
    first = first.rstrip()
    if first.endswith(":") and rest.strip():
        second, _, rest = rest.strip().partition("\n")
        first = f"{first} {second.rstrip()}"
    return visible(first) + (" ..." if rest else "")


def shortened(text: str, width: int) -> str:
    """Return a text in ``width`` characters at most."""
    if len(text) <= width:
        return text
    return text[: max(width - 3, 0)] + "..."[: max(width, 0)]


def moment_text(moment: datetime | None, missing: str = "-") -> str:
    """Return a moment in the time of this machine, to the second."""
    return missing if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age_text(moment: datetime | None, now: datetime, missing: str = "-") -> str:
    """Return how long ago a moment was, to its largest unit; that says enough in a list, in little room."""
    from workflow_core.views.wording import ago_text  # noqa: PLC0415 - the overview of commands needs no clock

    if moment is None:
        return missing
    return moment_text(moment) if moment > now else ago_text(moment, now)


def workflows_text(names: Sequence[str]) -> str:
    """Return which workflows a process serves, in a few words."""
    return f"{len(names)} workflows" if len(names) != 1 else f'the workflow "{names[0]}"'
