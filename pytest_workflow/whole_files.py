"""Files that are written as a whole or not at all, with the permissions that other new files have."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["neighbour", "write_whole"]


def neighbour(path: Path) -> Path:
    """Return a path in the same directory, and so on the same file system, that nobody uses."""
    return path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file; one that is there is replaced at once, and stays as it is if anything fails.

    Raises:
        OSError: It cannot be written.
    """
    beside = neighbour(path)
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
