"""The log files of a runtime directory: a projection of the histories, written in batches.

What happened is noted in memory, which costs a step next to nothing, and formatted and written together: after 200 ms
at the latest, when an execution comes to rest, after a panic or an error, and when the engine is closed. A batch is one
write per file, at the file's end, so that several processes may log into the same files. What a crash kept from being
written is in the stored history, from which `LogFiles.complete` adds it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from itertools import groupby
from typing import TYPE_CHECKING, Final, TypeAlias

from workflow_core.logs import LEVELS, event_line, level_of, parse_line, step_line

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date, datetime
    from pathlib import Path

    from workflow_core.clock import Clock
    from workflow_core.database.layout import RuntimeLayout
    from workflow_core.events import Event

__all__ = ["LogFiles"]

_FLUSH_AFTER_MS: Final = 200
_MOST_ENTRIES: Final = 2_000
"""So many entries are written at once, however little time has passed."""

logger = logging.getLogger("workflow_core")

_StepEntry: TypeAlias = tuple["datetime", str, int, str, str, int]
_LineEntry: TypeAlias = tuple["datetime", str, str]
_Line: TypeAlias = tuple["date", str, str]
"""The day, the execution's id, and the line."""


class LogFiles:
    """The log files that an engine writes.

    Args:
        layout: Where the files lie.
        clock: When what is noted is written at the latest.
        level: Number of the least important level that is written.
    """

    def __init__(self, layout: RuntimeLayout, clock: Clock, level: int) -> None:
        self.level = level
        self.incomplete: dict[str, set[str]] = {}
        self._logs_steps = level <= LEVELS["info"]
        self._layout = layout
        self._clock = clock
        self._entries: dict[str, list[_StepEntry | _LineEntry]] = {}
        self._count = 0
        self._timer_loop: asyncio.AbstractEventLoop | None = None
        self._home: asyncio.AbstractEventLoop | None = None
        self._lock = threading.RLock()
        self._told: set[str] = set()
        self._torn: set[Path] = set()

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note the event loop in which executions run: what their threads log is written by its timers."""
        self._home = loop

    def step(
        self, workflow_name: str, at: datetime, execution_id: str, seq: int, kind: str, step_id: str, attempt: int
    ) -> None:
        """Note that an attempt of a step began or succeeded."""
        if self._logs_steps:
            self._add(workflow_name, (at, execution_id, seq, kind, step_id, attempt))

    def event(self, event: Event) -> None:
        """Note an event of a history; an error is written at once."""
        level = LEVELS[level_of(type(event).__name__)]
        if level >= self.level:
            self.line(event.workflow_name, event.at, event.execution_id, event_line(event), level)

    def line(self, workflow_name: str, at: datetime, execution_id: str, line: str, level: int) -> None:
        """Note a line; an error is written at once."""
        self._add(workflow_name, (at, execution_id, line))
        if level >= LEVELS["error"]:
            self.flush()

    def _add(self, workflow_name: str, entry: _StepEntry | _LineEntry) -> None:
        with self._lock:
            entries = self._entries.get(workflow_name)
            if entries is None:
                entries = self._entries[workflow_name] = []
            entries.append(entry)
            self._count += 1
        if self._timer_loop is None or self._timer_loop.is_closed():
            self._flush_later()
        if self._count >= _MOST_ENTRIES:
            self.flush()

    def _flush_later(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a thread of a step
            if self._home is not None and not self._home.is_closed():
                self._timer_loop = self._home
                self._home.call_soon_threadsafe(self._set_timer)
            return
        self._timer_loop = loop
        self._set_timer()

    def _set_timer(self) -> None:
        self._clock.call_later(_FLUSH_AFTER_MS, self.flush)

    def flush(self) -> None:
        """Write what was noted; a file that cannot be written is told of once, and completed later."""
        with self._lock:
            noted, self._entries, self._count, self._timer_loop = self._entries, {}, 0, None
            for workflow_name, entries in noted.items():
                self._write_all(workflow_name, [_line(entry) for entry in entries])

    def drop(self) -> None:
        """Forget what was noted, as a process does that dies."""
        with self._lock:
            self._entries, self._count, self._timer_loop = {}, 0, None

    def forked(self) -> None:
        """Begin again in a child process: what was noted is its parent's to write."""
        self._lock = threading.RLock()
        self._home = None
        self.drop()

    def complete(self, workflow_name: str, execution_id: str, history: Iterable[Event]) -> int:
        """Add what is missing in an execution's log to it.

        A line of the daily log that was written when the process died before it wrote the execution's own log is there
        twice afterwards, with the same ``execution`` and ``seq``.

        Args:
            workflow_name: The workflow.
            execution_id: The execution.
            history: Its stored history.

        Returns:
            How many lines were added.
        """
        self.flush()
        path = self._layout.execution_log(workflow_name, execution_id)
        with self._lock:
            try:
                there, torn = _positions(path, execution_id)
            except OSError as error:
                self._failed(workflow_name, path, error, [execution_id])
                return 0
            if torn:
                self._torn.add(path)
            missing = [
                (event.at.date(), execution_id, event_line(event))
                for event in history
                if event.seq not in there and LEVELS[level_of(type(event).__name__)] >= self.level
            ]
            self.incomplete.get(workflow_name, set()).discard(execution_id)
            self._write_all(workflow_name, missing)
        return len(missing)

    def _write_all(self, workflow_name: str, lines: list[_Line]) -> None:
        written: dict[str, list[_Line]] = {}
        for day, of_day in groupby(lines, key=_day):
            lines_of_day = list(of_day)
            # The daily log comes first: where it fails, or the process dies after it, the execution's own log tells
            # what is missing.
            if self._write(workflow_name, self._layout.daily_log(workflow_name, day), lines_of_day):
                for line in lines_of_day:
                    written.setdefault(line[1], []).append(line)
        for execution_id, of_execution in written.items():
            self._write(workflow_name, self._layout.execution_log(workflow_name, execution_id), of_execution)

    def _write(self, workflow_name: str, path: Path, lines: list[_Line]) -> bool:
        data = "".join([line[2] for line in lines]).encode("utf-8", "backslashreplace")
        try:
            _append(path, b"\n" + data if path in self._torn else data)
        except OSError as error:
            self._torn.add(path)
            self._failed(workflow_name, path, error, {line[1] for line in lines})
            return False
        self._torn.discard(path)
        return True

    def _failed(self, workflow_name: str, path: Path, error: OSError, execution_ids: Iterable[str]) -> None:
        self.incomplete.setdefault(workflow_name, set()).update(execution_ids)
        if workflow_name not in self._told:
            self._told.add(workflow_name)
            logger.warning(
                "%s cannot be written: %s; the executions go on, and what is missing in their logs is added from their "
                "histories when it can be written",
                path,
                error.strerror,
            )


def _day(line: _Line) -> date:
    return line[0]


def _line(entry: _StepEntry | _LineEntry) -> _Line:
    at, execution_id = entry[:2]
    if len(entry) == 3:  # noqa: PLR2004 - a line as it is
        return at.date(), execution_id, entry[2]
    _, _, seq, kind, step_id, attempt = entry
    return at.date(), execution_id, step_line(at, execution_id, step_id, attempt, seq, kind)


def _append(path: Path, data: bytes) -> None:
    """Append to a file, by one write unless the system takes less at once."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)


def _positions(path: Path, execution_id: str) -> tuple[set[int], bool]:
    """Return of what places in a history its log has lines, and whether the last line was cut off."""
    there: set[int] = set()
    text = ""
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            for text in file:
                line = parse_line(text)
                if line is not None and line.seq is not None and line.fields.get("execution") == execution_id:
                    there.add(line.seq)
    except FileNotFoundError:
        pass
    return there, bool(text) and not text.endswith("\n")
