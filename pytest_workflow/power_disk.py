"""A model of a disk that loses power: what was synced is kept, and any part of what was not may be.

The model, which is harsher than most file systems: until a file is synced, each write to it may be kept, dropped or
torn at the borders of its 512-byte sectors, in any order. A deletion may be undone until the next sync of any file,
as names are journalled. After "simulate the effect of a power failure" in SQLite's own tests, see
https://www.sqlite.org/testing.html#crash_testing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from random import Random

__all__ = ["Delete", "Disk", "Image", "Operation", "Sync", "Truncate", "Write", "describe", "image_digest"]

SECTOR_BYTES = 512

Image: TypeAlias = Mapping[str, bytes]
"""The content of each file that survives, by its name."""


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes were written at ``offset``."""

    file: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file was given a length of ``size`` bytes."""

    file: str
    size: int


@dataclass(frozen=True, slots=True)
class Delete:
    """A file was deleted."""

    file: str


@dataclass(frozen=True, slots=True)
class Sync:
    """A file was flushed to the disk."""

    file: str


Change: TypeAlias = Write | Truncate | Delete
Operation: TypeAlias = Change | Sync


class Disk:
    """The files after some operations: what is durable of each, and what has not been synced."""

    def __init__(self) -> None:
        self._durable: dict[str, bytes] = {}
        self._unsynced: dict[str, list[Change]] = {}

    def apply(self, operation: Operation) -> None:
        """Carry an operation out."""
        if not isinstance(operation, Sync):
            self._unsynced.setdefault(operation.file, []).append(operation)
            return
        for file, changes in list(self._unsynced.items()):
            deletions = [position for position, change in enumerate(changes, start=1) if isinstance(change, Delete)]
            synced = len(changes) if file == operation.file else max(deletions, default=0)
            _store(self._durable, file, _changed(self._durable.get(file), changes[:synced]))
            self._unsynced[file] = changes[synced:]

    def images(self, count: int, random: Random) -> Iterator[Image]:
        """Yield what a power cut at this moment could leave.

        Args:
            count: How many images: the first drops all that is not synced, the second keeps it, and each further one
                keeps a random part. Where everything is synced there is one image.
            random: Draws the parts.
        """
        if not any(self._unsynced.values()):
            yield dict(self._durable)
            return
        for number in range(count):
            image = dict(self._durable)
            for file, changes in self._unsynced.items():
                kept = changes if number == 1 else [] if number == 0 else list(_part(changes, random))
                _store(image, file, _changed(image.get(file), kept))
            yield image


def _store(files: dict[str, bytes], file: str, content: bytes | None) -> None:
    if content is None:
        files.pop(file, None)
    else:
        files[file] = content


def _changed(content: bytes | None, changes: list[Change]) -> bytes | None:
    if not changes:
        return content
    now = None if content is None else bytearray(content)
    for change in changes:
        if isinstance(change, Delete):
            now = None
            continue
        now = bytearray() if now is None else now
        if isinstance(change, Truncate):
            del now[change.size :]
            now.extend(bytes(change.size - len(now)))
        else:
            now.extend(bytes(max(0, change.offset - len(now))))
            now[change.offset : change.offset + len(change.data)] = change.data
    return None if now is None else bytes(now)


def _part(changes: list[Change], random: Random) -> Iterator[Change]:
    for change in changes:
        fate = random.choice(("kept", "dropped", "torn"))
        if fate == "torn" and isinstance(change, Write):
            yield from (sector for sector in _sectors(change) if random.random() < 0.5)  # noqa: PLR2004 - a coin
        elif fate != "dropped":
            yield change


def _sectors(write: Write) -> Iterator[Write]:
    begin, end = write.offset, write.offset + len(write.data)
    while begin < end:
        border = min(end, (begin // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield Write(write.file, begin, write.data[begin - write.offset : border - write.offset])
        begin = border


def describe(operation: Operation) -> str:
    """Return an operation in words."""
    match operation:
        case Write():
            return f"a write of {len(operation.data)} bytes to {operation.file}"
        case Truncate():
            return f"a truncation of {operation.file}"
        case Delete():
            return f"the deletion of {operation.file}"
        case Sync():
            return f"a sync of {operation.file}"


def image_digest(image: Image) -> bytes:
    """Return what tells an image from others."""
    content = hashlib.blake2b()
    for name, data in sorted(image.items()):
        content.update(f"{name}:{len(data)}:".encode())
        content.update(data)
    return content.digest()
