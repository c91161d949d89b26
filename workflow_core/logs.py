"""The line format of the log files (logfmt), and its reader.

A line is ``2026-11-26T00:30:00.123456Z INFO execution=order-1 step=charge attempt=1 seq=7 event=StepCompleted``: a
moment in UTC, a level, and fields. A value with anything but plain printable characters in it is a JSON string in
which every character that cannot be printed is escaped, so one event is one line, whatever texts it holds.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflow_core.events import Event

__all__ = [
    "LEVELS",
    "Level",
    "LogLine",
    "event_line",
    "format_line",
    "level_name",
    "level_of",
    "parse_line",
    "step_line",
]

Level: TypeAlias = Literal["debug", "info", "warn", "error"]

LEVELS: Final[dict[Level, int]] = {"debug": 10, "info": 20, "warn": 30, "error": 40}
"""The levels by name, with the numbers of the module `logging`."""

_NAMES: Final[dict[str, Level]] = {level.upper(): level for level in LEVELS}
"""The levels as lines name them."""

_WARNINGS: Final = frozenset({"StepFailed", "StepInterrupted", "StepSkipped", "ExecutionRecovered", "CircuitOpened"})
_ERRORS: Final = frozenset({"ExecutionFailed", "ExecutionPanicked"})

_PLAIN: Final = re.compile(r"[^\s\"'=\\]+")
_LINE: Final = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([A-Z]+)((?: [^\s=\"]+=(?:\"(?:[^\"\\]|\\.)*\"|[^\s\"]*))*)\n?"
)
_FIELD: Final = re.compile(r" ([^\s=\"]+)=(\"(?:[^\"\\]|\\.)*\"|[^\s\"]*)")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a log.

    Attributes:
        at: When, aware and in UTC.
        level: ``debug``, ``info``, ``warn`` or ``error``.
        fields: What else it says, as texts; ``execution`` is always there, ``seq`` and ``event`` where the line tells
            of an event of the history, ``message`` where a handler logged something.
    """

    at: datetime
    level: Level
    fields: dict[str, str]

    @property
    def seq(self) -> int | None:
        """The position in the execution's history; ``None`` for what a handler logged."""
        seq = self.fields.get("seq", "")
        return int(seq) if seq.isascii() and seq.isdigit() else None


def level_of(kind: str) -> Level:
    """Return the level of an event of the history, by the name of its type."""
    return "error" if kind in _ERRORS else "warn" if kind in _WARNINGS else "info"


def level_name(number: int) -> Level:
    """Return the level that stands for a level number of the module `logging`."""
    return next((level for level, least in reversed(LEVELS.items()) if number >= least), "debug")


@functools.lru_cache(maxsize=4_096)
def _quoted(value: str) -> str:
    if value.isascii() and value.isprintable() and _PLAIN.fullmatch(value):
        return value
    return "".join(each if each.isprintable() else _escaped(each) for each in json.dumps(value, ensure_ascii=False))


def _escaped(character: str) -> str:
    """Escape a character that cannot be printed; one beyond 16 bits becomes the two surrogates that JSON knows."""
    return json.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"


def _text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds")[:26] + "Z"


def format_line(at: datetime, level: Level, fields: Iterable[tuple[str, object]]) -> str:
    """Return a line, with its line feed.

    Args:
        at: When, in UTC.
        level: How important it is.
        fields: Names, which must be plain, and values; those that are ``None`` are left out.
    """
    shown = "".join(f" {name}={_quoted(str(value))}" for name, value in fields if value is not None)
    return f"{_text(at)} {level.upper()}{shown}\n"


def step_line(at: datetime, execution_id: str, step_id: str, attempt: int, seq: int, kind: str) -> str:
    """Return the line of a step's event that has nothing but its attempt to tell: what `format_line` gives, sooner."""
    return (
        f"{at.isoformat('T', 'microseconds')[:26]}Z INFO execution={execution_id} step={_quoted(step_id)}"
        f" attempt={attempt} seq={seq} event={kind}\n"
    )


def event_line(event: Event) -> str:
    """Return the line of an event of the history."""
    kind = type(event).__name__
    named = event.named_fields()
    step_id, attempt = named.pop("step_id", None), named.pop("attempt", None)
    place = (
        ("execution", event.execution_id),
        ("step", step_id),
        ("attempt", attempt),
        ("seq", event.seq),
        ("event", kind),
    )
    return format_line(event.at, level_of(kind), (*place, *named.items()))


def parse_line(line: str) -> LogLine | None:
    """Read a line; return ``None`` for what is none, such as the beginning of one that a full disk cut off."""
    found = _LINE.fullmatch(line)
    if found is None or found[2] not in _NAMES:
        return None
    try:
        fields = {name: json.loads(value) if value[:1] == '"' else value for name, value in _FIELD.findall(found[3])}
        return LogLine(datetime.fromisoformat(found[1]), _NAMES[found[2]], fields)
    except ValueError:
        return None
