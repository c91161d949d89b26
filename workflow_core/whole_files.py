"""Files that are written as a whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["neighbour", "write_whole"]

_LONGEST_PART: Final = 40
"""So many characters of a name are at most 160 bytes of the 255 that a name in a directory may have."""


def neighbour(path: Path) -> Path:
    """Return a path in the same directory, and so on the same file system, that nobody uses."""
    return path.with_name(f".{path.name[:_LONGEST_PART]}.{secrets.token_hex(6)}.part")


def write_whole(path: Path, content: bytes, *, replace: bool = True, private: bool = True) -> None:
    """Write a file.

    It is on the disk before it gets its name, so that no power cut leaves an empty file under it; see T. Pillai et al.,
    "All File Systems Are Not Created Equal" (OSDI 2014).

    Args:
        path: The file; its directory must be there.
        content: What it is to hold.
        replace: Whether a file that is there already, or comes to be there meanwhile, is replaced.
        private: Whether its user alone may read it, rather than whoever may read other new files.

    Raises:
        OSError: It cannot be written; nothing has changed.
    """
    beside = neighbour(path)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(beside, flags, 0o600 if private else 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            beside.replace(path)
        else:
            _place(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _place(beside: Path, path: Path) -> None:
    """Give a file its name unless that is taken."""
    try:
        path.hardlink_to(beside)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            beside.replace(path)
            return
    beside.unlink()
