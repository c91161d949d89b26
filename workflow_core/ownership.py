"""Which process runs an execution, and whether that process still lives."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["Owner", "ProcessProbe", "SystemProcessProbe"]


@dataclass(frozen=True, slots=True)
class Owner:
    """One engine in one process.

    Attributes:
        owner_id: Unique for each engine ever made.
        host: The machine and its boot, so that process ids of different machines are not confused.
        pid: Process id on that machine.
        process_started: When the process started, as the system tells it; empty where it does not.
    """

    host: str
    pid: int
    process_started: str
    owner_id: str = field(default_factory=lambda: uuid.uuid4().hex)


class ProcessProbe(Protocol):
    """Tells who this process is and whether another one lives."""

    def make_owner(self) -> Owner:
        """Return a new owner for an engine in this process."""

    def has_ended(self, owner: Owner) -> bool | None:
        """Tell whether the owner's process has ended; ``None`` if that cannot be known, as for another machine."""


class SystemProcessProbe:
    """Asks the operating system."""

    def make_owner(self) -> Owner:
        """Return a new owner for an engine in this process."""
        return Owner(host=_host(), pid=os.getpid(), process_started=_process_started(os.getpid()) or "")

    def has_ended(self, owner: Owner) -> bool | None:
        """Tell whether the owner's process has ended; ``None`` on another machine or where the system cannot tell."""
        if owner.host != _host():
            return None
        if owner.pid == os.getpid():
            return owner.process_started != (_process_started(owner.pid) or "")
        if sys.platform == "win32":
            return None
        try:
            os.kill(owner.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        started = _process_started(owner.pid)
        return bool(started and owner.process_started and started != owner.process_started)


_START_TIME = 19
"""Where the start time stands in /proc/PID/stat, counted from the field after the program's name."""


def _host() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        boot_id = boot.read_text(encoding="ascii").strip()
    except OSError:
        boot_id = ""
    return f"{socket.gethostname()}/{boot_id}"


def _process_started(pid: int) -> str | None:
    """Return the start time of a process from Linux's /proc (field 22 of proc_pid_stat(5)), else ``None``."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    if fields and fields[0] == "Z":
        return "ended"
    return fields[_START_TIME] if len(fields) > _START_TIME else None
