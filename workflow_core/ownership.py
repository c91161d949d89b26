"""Which process runs an execution, and whether that process still lives.

A lease ends at a moment of the wall clock, which may be set, and which goes on while a machine is suspended. That must
not cost a healthy process its executions. So a lease that has run out by the clock is believed of a process of another
machine, and of one that the system calls stopped. One that lives on this machine and is not stopped has lost it only if
it is seen to renew nothing for a whole lease of running time; taking over is safe in any case, by the fencing token.
"""

from __future__ import annotations

import os
import socket
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from workflow_core.clock import to_epoch_ms

if TYPE_CHECKING:
    from workflow_core.clock import Clock

__all__ = ["Owner", "OwnerWatch", "ProcessProbe", "SystemProcessProbe"]


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

    def is_stopped(self, owner: Owner) -> bool:
        """Tell whether the owner's process, which has not ended, is known to be stopped, as by SIGSTOP."""


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

    def is_stopped(self, owner: Owner) -> bool:
        """Tell whether the owner's process, which has not ended, is known to be stopped, as by SIGSTOP."""
        fields = _process_fields(owner.pid)
        return bool(fields) and fields[0] in {"T", "t"}


class OwnerWatch:
    """Judges whether the owners of executions live.

    Args:
        probe: Tells which processes live.
        clock: The engine's.
        lease_ms: How long an owner may give no sign of life, in milliseconds; ``None`` for as long as it likes.
    """

    def __init__(self, probe: ProcessProbe, clock: Clock, lease_ms: int | None) -> None:
        self._probe = probe
        self._clock = clock
        self._lease_ms = lease_ms
        self._silent_since: dict[str, tuple[int, float]] = {}

    def lives(self, owner: Owner, expires_at: int | None) -> bool:
        """Tell whether an owner lives, so that nobody may take its executions over.

        Args:
            owner: The owner.
            expires_at: When its lease runs out, in milliseconds since 1970; ``None`` for never.
        """
        ended = self._probe.has_ended(owner)
        if ended is not True and (expires_at is None or to_epoch_ms(self._clock.now()) < expires_at):
            return True
        if ended is not False or expires_at is None or self._lease_ms is None or self._probe.is_stopped(owner):
            self._silent_since.pop(owner.owner_id, None)
            return False
        now = self._clock.monotonic()
        seen, since = self._silent_since.get(owner.owner_id, (None, now))
        if seen != expires_at:
            since = now
        self._silent_since[owner.owner_id] = expires_at, since
        return (now - since) * 1_000 < self._lease_ms


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
    fields = _process_fields(pid)
    if fields and fields[0] == "Z":
        return "ended"
    return fields[_START_TIME] if len(fields) > _START_TIME else None


def _process_fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the program's name, the first of which is the state; else nothing."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return stat.rpartition(")")[2].split()
