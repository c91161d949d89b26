"""Reading the log files of a runtime directory: from a moment on, from a level on, and as they grow."""

from __future__ import annotations

import heapq
import itertools
import os
from collections import deque
from datetime import UTC, date
from typing import TYPE_CHECKING

from workflow_core.logs import LEVELS, parse_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from workflow_core.database.layout import RuntimeLayout
    from workflow_core.logs import Level, LogLine

__all__ = ["GrowingFiles", "LogFilter", "Shown", "daily_logs", "latest_lines", "line_data"]

_LONGEST_NUMBER = 18
_PART = 65_536
_MOST_READ = 8_388_608

Shown = tuple["LogLine", str]
"""A line: what it says, and its text without the line feed."""


_NUMBERS = {"seq", "attempt", "restart_attempt"}


class LogFilter:
    """Which lines are shown.

    Args:
        since: Those from this moment on.
        level: Those of this level, or a more important one.
        execution_id: Those of this execution.
    """

    def __init__(self, since: datetime | None, level: Level, execution_id: str | None = None) -> None:
        self.since = since
        self._level = LEVELS[level]
        self._execution_id = execution_id

    def admits(self, line: LogLine) -> bool:
        """Tell whether a line is shown."""
        return (
            (self.since is None or line.at >= self.since)
            and LEVELS[line.level] >= self._level
            and (self._execution_id is None or line.fields.get("execution") == self._execution_id)
        )


def line_data(line: LogLine) -> dict[str, object]:
    """Return a line as it is printed as JSON."""
    fields = {name: _value(line, name, text) for name, text in line.fields.items()}
    ours: dict[str, object] = {"at": line.at, "level": line.level}
    return {**ours, **fields, **ours}


def _value(line: LogLine, name: str, text: str) -> str | int:
    """Return a field as the number that the engine wrote, or as the text that it is."""
    of_engine = name in _NUMBERS or (line.seq is not None and name.endswith("_ms"))
    return int(text) if of_engine and text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER else text


def daily_logs(layout: RuntimeLayout, workflows: Iterable[str], since: datetime | None) -> list[Path]:
    """Return the daily logs of workflows that can hold lines from a moment on, sorted by day."""
    found: list[tuple[date, Path]] = []
    for workflow in workflows:
        directory = layout.log_dir(workflow)
        if directory.is_dir():
            for path in directory.glob("*.log"):
                try:
                    day = date.fromisoformat(path.stem)
                except ValueError:
                    continue
                if since is None or day >= since.astimezone(UTC).date():
                    found.append((day, path))
    return [path for _, path in sorted(found)]


def latest_lines(paths: Sequence[Path], wanted: LogFilter, most: int, most_read: int = _MOST_READ) -> list[Shown]:
    """Return the last ``most`` lines of files in the order of time, reading no more than the ends of the files.

    Args:
        paths: The files, each in the order of time.
        wanted: Which lines are shown.
        most: How many lines at most.
        most_read: How many bytes are read of each file at most; what is before them is not found.
    """
    streams = [_lines_backwards(path, wanted, most_read) for path in paths]
    merged = heapq.merge(*streams, key=lambda shown: shown[0].at, reverse=True)
    return list(itertools.islice(merged, most))[::-1]


def _lines_backwards(path: Path, wanted: LogFilter, most_read: int) -> Iterator[Shown]:
    for raw in _raw_lines_backwards(path, most_read):
        text = raw.decode("utf-8", "replace")
        line = parse_line(text)
        if line is not None and wanted.admits(line):
            yield line, text


def _raw_lines_backwards(path: Path, most_read: int) -> Iterator[bytes]:
    """Yield the complete lines at the end of a file, the last one first, without their line feeds."""
    try:
        with path.open("rb") as file:
            end = place = file.seek(0, os.SEEK_END)
            rest, incomplete = b"", True
            while place > 0 and end - place < most_read:
                begin = max(0, place - _PART)
                file.seek(begin)
                rest, *lines = (file.read(place - begin) + rest).split(b"\n")
                place = begin
                if lines and incomplete:
                    lines.pop()
                    incomplete = False
                yield from reversed(lines)
            if place == 0 and not incomplete:
                yield rest
    except FileNotFoundError:
        return


class GrowingFiles:
    """Reads files, and then what is added to them, wherever it was left.

    Args:
        wanted: Which lines are shown.
    """

    def __init__(self, wanted: LogFilter) -> None:
        self._wanted = wanted
        self._read: dict[Path, int] = {}

    def lines_so_far(self, paths: Iterable[Path], most: int | None) -> list[Shown]:
        """Return the complete lines of files in the order of time; the last ``most`` of them."""
        merged = heapq.merge(*map(self._lines, paths), key=lambda shown: shown[0].at)
        return list(deque(merged, maxlen=most))

    def _lines(self, path: Path) -> Iterator[Shown]:
        try:
            with path.open("rb") as file:
                for raw in file:
                    if not raw.endswith(b"\n"):
                        return
                    self._read[path] = self._read.get(path, 0) + len(raw)
                    text = raw.decode("utf-8", "replace").rstrip("\n")
                    line = parse_line(text)
                    if line is not None and self._wanted.admits(line):
                        yield line, text
        except FileNotFoundError:
            return

    def new_lines(self, paths: Iterable[Path]) -> list[Shown]:
        """Return the complete lines that were added since, in the order of time."""
        found: list[Shown] = []
        for path in paths:
            begin = self._read.get(path, 0)
            if _size(path) <= begin:
                continue
            try:
                with path.open("rb") as file:
                    file.seek(begin)
                    added = file.read()
            except FileNotFoundError:
                continue
            complete = added[: added.rfind(b"\n") + 1]
            self._read[path] = begin + len(complete)
            for text in complete.decode("utf-8", "replace").split("\n")[:-1]:
                line = parse_line(text)
                if line is not None and self._wanted.admits(line):
                    found.append((line, text))
        return sorted(found, key=lambda shown: shown[0].at)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
