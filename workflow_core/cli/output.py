"""What commands print on stdout: tables, JSON, and what a terminal can show of colours and signs."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click
from tabulate import tabulate

from workflow_core.cli.texts import one_line, shortened
from workflow_core.views.json_text import json_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "FORMAT_OPTION",
    "LISTING_FORMAT_OPTION",
    "Signs",
    "in_colour",
    "is_terminal",
    "print_json",
    "print_table",
    "quietly",
    "styled",
    "styled_status",
    "width",
]

_CommandT = TypeVar("_CommandT", bound="Callable[..., object]")


def _format_option(*short: str) -> Callable[[_CommandT], _CommandT]:
    """Return the option ``--format`` of a command.

    Args:
        *short: What it is called in short.
    """
    return click.option(
        *short,
        "--format",
        "output_format",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="Output format.",
    )


FORMAT_OPTION = _format_option("-F")
"""``--format`` where ``-f`` names a file, or could."""

LISTING_FORMAT_OPTION = _format_option("-f", "-F")
"""``--format`` of the commands that list and take no file."""

COLOURS = {
    "completed": "green",
    "failed": "red",
    "panicked": "magenta",
    "cancelled": "bright_black",
    "running": "cyan",
    "restarting": "cyan",
    "sleeping": "blue",
    "retrying": "yellow",
    "skipped": "yellow",
    "interrupted": "yellow",
    "pending": "bright_black",
    "queued": "bright_black",
    "open": "red",
    "half_open": "yellow",
    "closed": "green",
    "active": "green",
    "inactive": "bright_black",
}
"""The colour of each status."""

_NARROWEST = 8
_HEADER_PADDING = 2
"""What tabulate adds to the width of a column's name."""


class Signs:
    """The signs that a stream can show.

    Args:
        stream: Where they are printed.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
        try:
            "✓✗█▓▒░─┈◔↻○│·…⚡".encode(encoding)
            self.unicode = True
        except (UnicodeEncodeError, LookupError):
            self.unicode = False

    def of(self, status: str) -> str:
        """Return the sign of a status."""
        signs = _UNICODE if self.unicode else _ASCII
        return signs.get(status, "?")


_UNICODE = {
    "completed": "✓",
    "failed": "✗",
    "panicked": "✗",
    "cancelled": "✗",
    "running": "▸",
    "restarting": "▸",
    "sleeping": "◔",
    "retrying": "↻",
    "skipped": "○",
    "interrupted": "‖",
    "pending": "·",
    "queued": "·",
}
_ASCII = {
    "completed": "+",
    "failed": "x",
    "panicked": "x",
    "cancelled": "x",
    "running": ">",
    "restarting": ">",
    "sleeping": "z",
    "retrying": "~",
    "skipped": "o",
    "interrupted": "=",
    "pending": ".",
    "queued": ".",
}


def is_terminal(stream: IO[str] | None = None) -> bool:
    """Tell whether a stream, stdout by default, is a terminal that can be drawn on."""
    with contextlib.suppress(ValueError, AttributeError):
        return (stream or sys.stdout).isatty() and os.environ.get("TERM") != "dumb"
    return False


def in_colour(stream: IO[str] | None = None) -> bool:
    """Tell whether colours belong on a stream, stdout by default; see https://no-color.org."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_terminal(stream)


def width() -> int:
    """Return the width of the terminal; 100 where there is none."""
    return shutil.get_terminal_size((100, 24)).columns


def styled(text: str, **style: Any) -> str:  # noqa: ANN401 - click's own signature
    """Return a text in a style, if stdout shows styles."""
    return click.style(text, **style) if in_colour() else text


def styled_status(status: str) -> str:
    """Return a status in its colour."""
    return styled(status, fg=COLOURS.get(status))


def print_line(text: str = "") -> None:
    """Print a line on stdout."""
    click.echo(text, color=in_colour())


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], flexible: int = -1, spare: Sequence[str] = ()
) -> None:
    """Print a table that fits the terminal.

    Args:
        headers: The names of the columns.
        rows: Their cells; of texts the first line is shown.
        flexible: The column that is cut where the table would be wider than the terminal.
        spare: The names of columns that are left out one by one before anything is cut.
    """
    cells = [[one_line(cell) for cell in row] for row in rows]
    if is_terminal():
        kept = _without_spare(headers, cells, spare)
        flexible = kept.index(flexible % len(headers))
        sizes = _fitted([_column_width(column, headers, cells) for column in kept], flexible)
        headers = [
            shortened(headers[column], max(size - _HEADER_PADDING, 1)) for column, size in zip(kept, sizes, strict=True)
        ]
        cells = [[shortened(row[column], size) for column, size in zip(kept, sizes, strict=True)] for row in cells]
        rows = [[row[column] for column in kept] for row in rows]
    coloured = [[styled_status(cell) if cell in COLOURS else cell for cell in row] for row in cells]
    numbers = ["right" if _is_numeric([row[column] for row in rows]) else "left" for column in range(len(headers))]
    print_line(
        tabulate(
            coloured,
            headers=[styled(header, bold=True) for header in headers],
            tablefmt="simple",
            disable_numparse=True,
            colalign=numbers,
        )
    )


def _is_numeric(cells: Sequence[object]) -> bool:
    return any(isinstance(cell, int) for cell in cells) and all(isinstance(cell, int) or cell == "" for cell in cells)


def _column_width(column: int, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    return max(len(headers[column]) + _HEADER_PADDING, *(len(row[column]) for row in rows), 0)


def _without_spare(headers: Sequence[str], cells: Sequence[Sequence[str]], spare: Sequence[str]) -> list[int]:
    """Return the columns that a table keeps in this terminal."""
    kept = list(range(len(headers)))
    for name in spare:
        if _beyond([_column_width(column, headers, cells) for column in kept]) > 0:
            kept.remove(headers.index(name))
    return kept


def _beyond(widths: Sequence[int]) -> int:
    """Return by how much columns are wider than the terminal; less than zero if there is room."""
    return sum(widths) + 2 * (len(widths) - 1) - width()


def _fitted(widths: list[int], flexible: int) -> list[int]:
    """Return the widths of columns so that the table fits: first one column gives way, then whichever is the widest."""
    beyond = _beyond(widths)
    given = min(max(beyond, 0), max(widths[flexible] - _NARROWEST, 0))
    widths[flexible] -= given
    for _ in range(beyond - given):
        widest = max(range(len(widths)), key=lambda column: widths[column])
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths


def print_json(data: object) -> None:
    """Print JSON: exact where JSON can say it, else as text."""
    click.echo(json_text(data, indent=2))


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Send what a user's steps print to stderr, so that stdout holds the command's own output alone."""
    sys.stdout.flush()
    try:
        number = sys.stdout.fileno()
        kept = os.dup(number)
        os.dup2(sys.stderr.fileno(), number)
    except (OSError, ValueError, AttributeError):  # stdout is no file, as in a test
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, number)
        os.close(kept)
