"""Where in the user's code the errors of a test were raised."""

from __future__ import annotations

import contextlib
import linecache
import traceback
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pytest_workflow.frames import LIBRARIES, is_users
from pytest_workflow.printing import harmless
from workflow_core.errors import error_text
from workflow_core.events import ExecutionFailed, ExecutionPanicked, StepFailed
from workflow_core.failures import error_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflow_core.events import Event

__all__ = ["ErrorPlaces", "located", "located_error"]

_Place: TypeAlias = tuple[str, int, str]
"""File, line and function."""


class ErrorPlaces:
    """The places of errors by what the history tells of an error: its class name and its message."""

    def __init__(self) -> None:
        self._places: defaultdict[tuple[str, str], dict[_Place, None]] = defaultdict(dict)

    def note(self, error: BaseException) -> None:
        """Note where an error was raised, if that was in the user's code."""
        place = _place_of(error)
        if place is not None:
            self._places[error_name(error), error_text(error)][place] = None

    def of(self, events: Iterable[Event]) -> str:
        """Return the places of the errors in a history, each line after a line break; empty if none is known."""
        errors = dict.fromkeys(
            (str(event.error), str(event.message))
            for event in events
            if isinstance(event, (StepFailed, ExecutionFailed, ExecutionPanicked))
        )
        lines = []
        for name, message in errors:
            places = self._places.get((name, message))
            if places:
                lines += ["", f"{name}: {harmless(message[:500])}", *map(_described, places)]
        return "".join(f"\n{line}" for line in lines)


def _place_of(error: BaseException) -> _Place | None:
    """Return the innermost place in the user's own code, else in a library that it called."""
    places = [
        (frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if is_users(frame)
    ]
    own = [place for place in places if not place[0].startswith((*LIBRARIES, "<"))]
    return (own or places)[-1] if places else None


def located(file: str, line: int, message: str) -> str:
    """Put the place at which an error was raised, and the source there, before its message."""
    with contextlib.suppress(ValueError):
        file = str(Path(file).relative_to(Path.cwd()))
    source = linecache.getline(file, line).strip()
    return f"{file}:{line}: {source}\n{message}"


def located_error(error: BaseException) -> str:
    """Return the class and message of an error, below the place in the user's code where it was raised, if any."""
    message = f"{type(error).__name__}: {error}"
    place = _place_of(error)
    return message if place is None else located(place[0], place[1], message)


def _described(place: _Place) -> str:
    file, line, function = place
    source = linecache.getline(file, line).strip()
    return f"  {file}:{line}, in {function}" + (f": {source}" if source else "")
