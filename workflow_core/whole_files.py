"""Files that are written as a whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file that only its owner may read.

    It is on the disk before it gets its name, so that no power cut leaves an empty file under it; see T. Pillai et al.,
    "All File Systems Are Not Created Equal" (OSDI 2014).

    Args:
        path: The file; its directory must be there.
        content: What it is to hold.
        replace: Whether a file that is there already, or comes to be there meanwhile, is replaced.

    Raises:
        OSError: It cannot be written; nothing has changed.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}", suffix=".part", dir=path.absolute().parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            _place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _place(temporary: Path, path: Path) -> None:
    """Give a file its name unless that is taken."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            temporary.replace(path)
            return
    temporary.unlink()
