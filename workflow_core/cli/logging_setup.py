"""The log of the command's own process, on stderr; the library itself never configures logging."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING

from workflow_core.cli.failures import USAGE, Failure
from workflow_core.cli.texts import visible
from workflow_core.logs import LEVELS
from workflow_core.settings import LOG_LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["log_to_stderr"]

_OF_WORKFLOWS = ("workflow_core.workflow",)
"""The logger of what workflows say themselves: without LOG_LEVEL that is shown from info on, all else from warn on."""

_OF_THE_QUEUE = ("procrastinate", "psycopg.pool")
"""The loggers of what hands executions to workers: the worker says itself what matters of it."""


class _Formatter(logging.Formatter):
    """One line a record; tracebacks are for debugging."""

    def __init__(self, *, with_tracebacks: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
        self._with_tracebacks = with_tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text."""
        if self._with_tracebacks:
            return visible(super().format(record))
        cause = record.exc_info[1] if record.exc_info else None
        record.message = visible(record.getMessage() + (f" ({type(cause).__name__}: {cause})" if cause else ""))
        record.asctime = self.formatTime(record, self.datefmt)
        return self.formatMessage(record)


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # generic in its stub alone
    """Writes to what is sys.stderr now: a live view puts itself between."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self.stream = sys.stderr
        super().emit(record)


@contextlib.contextmanager
def log_to_stderr() -> Iterator[None]:
    """Log to stderr in the ``with`` block, from the level that LOG_LEVEL names on.

    Raises:
        Failure: It names none.
    """
    name = os.environ.get("LOG_LEVEL", "").strip().lower()
    if name and name not in LOG_LEVELS:
        raise Failure(f"LOG_LEVEL={name} is no level; use debug, info, warn or error", USAGE)
    level = LEVELS[LOG_LEVELS.get(name, "warn")]
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Formatter(with_tracebacks=level == logging.DEBUG))
    root = logging.getLogger()
    levels = {root: level} | {logging.getLogger(each): logging.INFO for each in _OF_WORKFLOWS if not name}
    if level != logging.DEBUG:
        levels |= {logging.getLogger(each): logging.CRITICAL for each in _OF_THE_QUEUE}
    before = {logger: logger.level for logger in levels}
    root.addHandler(handler)
    for logger, its_level in levels.items():
        logger.setLevel(its_level)
    try:
        with warnings.catch_warnings():
            logging.captureWarnings(capture=True)
            yield
    finally:
        logging.captureWarnings(capture=False)
        root.removeHandler(handler)
        for logger, its_level in before.items():
            logger.setLevel(its_level)
