"""Events as lines, in the form of the log files."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from workflow_core.cli.texts import visible
from workflow_core.report.model import EventEntry

if TYPE_CHECKING:
    from workflow_core.events import Event

__all__ = ["event_line", "level_of"]

_PLAIN = re.compile(r"[^\s\"=\\]+")

_LEVELS = {
    "ExecutionFailed": "ERROR",
    "ExecutionPanicked": "ERROR",
    "ExecutionRecovered": "WARN",
    "ExecutionRestarted": "WARN",
    "StepFailed": "WARN",
    "StepInterrupted": "WARN",
    "StepRetrying": "WARN",
    "StepSkipped": "WARN",
    "CircuitOpened": "WARN",
}


def level_of(event: Event) -> str:
    """Return the level of an event: DEBUG, INFO, WARN or ERROR."""
    return _LEVELS.get(type(event).__name__, "INFO")


def event_line(event: Event) -> str:
    """Return an event as a line of ``key=value`` pairs, after its time and its level."""
    entry = EventEntry.of(event)
    named: dict[str, object] = {"execution": event.execution_id}
    if entry.step_id is not None:
        named["step"] = entry.step_id
    if entry.attempt is not None:
        named["attempt"] = entry.attempt
    named |= {"seq": entry.seq, "event": entry.type, **entry.details}
    pairs = " ".join(f"{key}={_value(value)}" for key, value in named.items() if value is not None)
    at = entry.at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return visible(f"{at} {level_of(event)} {pairs}")


def _value(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
