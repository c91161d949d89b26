"""The streams of the command: they are there, and take any text."""

from __future__ import annotations

import codecs
import io
import os
import sys
from pathlib import Path

__all__ = ["prepare_streams"]

_ESCAPED = "workflow_core.escaped"


def prepare_streams() -> None:
    """Replace streams that were closed before the command began, and let stdout take what its encoding cannot say.

    Where stdout is no terminal, Windows and some locales give it an encoding of 256 characters. What that lacks is
    written as JSON escapes it, so that JSON stays JSON.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - it stays open
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        codecs.register_error(_ESCAPED, _escaped)
        sys.stdout.reconfigure(errors=_ESCAPED)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    import json  # noqa: PLC0415 - for such characters alone

    return json.dumps(error.object[error.start : error.end])[1:-1], error.end
