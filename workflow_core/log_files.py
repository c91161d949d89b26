"""The log files of a runtime directory: a projection of the histories, written in batches.

What happened is noted in memory, which costs a step next to nothing, and formatted and written together: after 200 ms
at the latest, when an execution comes to rest, after a panic or an error, and when the engine is closed. A batch is one
write per file, at the file's end, so that several processes may log into the same files. What a crash kept from being
written is in the stored history, from which `LogFiles.complete` adds it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from workflow_core.event_loops import running_loop
from workflow_core.logs import LEVELS, event_line, level_of, parse_line, step_line

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable
    from datetime import date, datetime
    from pathlib import Path

    from workflow_core.clock import Clock
    from workflow_core.database.layout import RuntimeLayout
    from workflow_core.events import Event

__all__ = ["LogFiles"]

_WRITE_AFTER_MS: Final = 200
_MOST_NOTED: Final = 1_000
"""So much is written at once: steps that never let the event loop have a turn keep its timers from running."""
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""How a log is opened; Windows would make two characters of the end of a line otherwise."""

logger = logging.getLogger("workflow_core")

_Step: TypeAlias = tuple[str, "datetime", str, int, str, str, int]
"""Workflow, time, execution, position, type of the event, step, attempt."""
_Line: TypeAlias = tuple[str, "datetime", str, str]
"""Workflow, time, execution, and the line."""


class LogFiles:
    """The log files that an engine writes.

    Args:
        layout: Where the files lie.
        clock: When what is noted is written at the latest.
        level: Number of the least important level that is written.

    Attributes:
        level: The same.
        logs_steps: Whether lines about steps that began or succeeded are written.
        incomplete: By workflow, the executions whose files lack lines that could not be written.
    """

    def __init__(self, layout: RuntimeLayout, clock: Clock, level: int) -> None:
        self.level = level
        self.logs_steps = level <= LEVELS["info"]
        self.incomplete: dict[str, set[str]] = {}
        self._layout = layout
        self._clock = clock
        self._noted: deque[_Step | _Line] = deque()
        self._home: asyncio.AbstractEventLoop | None = None
        self._timer_set = False
        self._lock = threading.RLock()
        self._told: set[str] = set()
        self._torn: set[Path] = set()

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note the event loop in which executions run from now on: its timers write what is noted."""
        if self._home is not loop:
            self._home, self._timer_set = loop, False

    def step(self, happened: _Step) -> None:
        """Note that an attempt of a step began or succeeded."""
        self._noted.append(happened)
        if len(self._noted) >= _MOST_NOTED:
            self.flush()
        elif not self._timer_set:
            self._write_later()

    def event(self, event: Event) -> None:
        """Note an event of a history; an error is written at once."""
        level = LEVELS[level_of(type(event).__name__)]
        if level >= self.level:
            self.line(event.workflow_name, event.at, event.execution_id, event_line(event), level)

    def line(self, workflow_name: str, at: datetime, execution_id: str, line: str, level: int) -> None:
        """Note a line; an error is written at once."""
        self._noted.append((workflow_name, at, execution_id, line))
        if level >= LEVELS["error"] or len(self._noted) >= _MOST_NOTED:
            self.flush()
        elif not self._timer_set:
            self._write_later()

    def _write_later(self) -> None:
        loop = self._home
        if loop is None or loop.is_closed():
            return
        self._timer_set = True
        if loop is running_loop():
            self._set_timer()
        else:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile; closing the engine writes the rest
                loop.call_soon_threadsafe(self._set_timer)

    def _set_timer(self) -> None:
        self._clock.call_later(_WRITE_AFTER_MS, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer_set = False
        self.flush()

    def flush(self) -> None:
        """Write what was noted; a file that cannot be written is told of once, and completed later."""
        with self._lock:
            noted = [self._noted.popleft() for _ in range(len(self._noted))]
            self._write_all(noted)

    def drop(self) -> None:
        """Forget what was noted, as a process does that dies."""
        self._noted.clear()

    def forked(self) -> None:
        """Begin again in a child process: what was noted is its parent's to write."""
        self._lock = threading.RLock()
        self._home, self._timer_set = None, False
        self._noted.clear()

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
            missing: list[_Step | _Line] = [
                (workflow_name, event.at, execution_id, event_line(event))
                for event in history
                if event.seq not in there and LEVELS[level_of(type(event).__name__)] >= self.level
            ]
            self.incomplete.get(workflow_name, set()).discard(execution_id)
            self._write_all(missing)
        return len(missing)

    def _write_all(self, noted: Iterable[_Step | _Line]) -> None:
        daily: dict[tuple[str, date], list[tuple[str, str]]] = {}
        for each in noted:
            daily.setdefault((each[0], each[1].date()), []).append((each[2], _line(each)))
        for (workflow_name, day), lines in daily.items():
            by_execution: dict[str, list[str]] = {}
            for execution_id, line in lines:
                by_execution.setdefault(execution_id, []).append(line)
            data = _encoded([line for _, line in lines])
            # The daily log comes first: where it fails, or the process dies after it, the execution's own log tells
            # what is missing.
            if self._write(workflow_name, self._layout.daily_log(workflow_name, day), data, by_execution):
                for execution_id, of_one in by_execution.items():
                    path = self._layout.execution_log(workflow_name, execution_id)
                    own = data if len(by_execution) == 1 else _encoded(of_one)
                    self._write(workflow_name, path, own, [execution_id])

    def _write(self, workflow_name: str, path: Path, data: bytes, execution_ids: Iterable[str]) -> bool:
        is_torn = bool(self._torn) and path in self._torn
        begun, error = _append(path, b"\n" + data if is_torn else data)
        if error is None:
            if is_torn:
                self._torn.discard(path)
            return True
        if begun:
            self._torn.add(path)
        self._failed(workflow_name, path, error, execution_ids)
        return False

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


def _line(noted: _Step | _Line) -> str:
    if len(noted) == 4:  # noqa: PLR2004 - a line as it is
        return noted[3]
    _, at, execution_id, seq, kind, step_id, attempt = noted
    return step_line(at, execution_id, step_id, attempt, seq, kind)


def _encoded(lines: list[str]) -> bytes:
    return "".join(lines).encode("utf-8", "backslashreplace")


def _append(path: Path, data: bytes) -> tuple[bool, OSError | None]:
    """Append to a file, by one write unless the system takes less at once.

    Returns:
        Whether anything was written, and what kept all of it from being written.
    """
    written = 0
    try:
        descriptor = os.open(path, _APPEND, 0o600)
        try:
            while written < len(data):
                written += os.write(descriptor, data[written:])
        finally:
            os.close(descriptor)
    except OSError as error:
        return written > 0, error
    return True, None


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
