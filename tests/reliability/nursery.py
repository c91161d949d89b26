"""Processes of the command line that are born in milliseconds: forked from one that has imported everything.

That one is a process of its own, with one thread, because one with several must not fork. It is spoken to by lines of
JSON: ``python -m tests.reliability.nursery`` reads requests from its standard input, and writes an answer for each.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_core.cli import main as workflow_main

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[2]
LOOK_SECONDS = 0.01
LONGEST_SECONDS = 60.0


class Nursery:
    """Gives birth to processes, and knows how they end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: Any) -> int:
        """Send a request, and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return int(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the nursery, and with it every process that it gave birth to."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@dataclass
class Command:
    """A process that runs ``workflow`` with some arguments.

    Args:
        nursery: Who gives birth to it.
        arguments: Its arguments.
        environment: What its environment has besides that of this process.
        log: Where it writes, standard output and standard error.
    """

    nursery: Nursery
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path

    def __post_init__(self) -> None:
        self.pid = self.nursery.ask(
            act="begin", arguments=list(self.arguments), environment=dict(self.environment), log=str(self.log)
        )

    def text(self) -> str:
        """Return what it has written so far."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = LONGEST_SECONDS) -> int:
        """Wait for its end, and return its exit code; a signal that ended it is negative."""
        deadline = time.monotonic() + seconds
        while (code := self.nursery.ask(act="look", pid=self.pid)) == STILL_RUNS:
            assert time.monotonic() < deadline, f"process {self.pid} has not ended after {seconds} s:\n{self.text()}"
            time.sleep(LOOK_SECONDS)
        return code

    def kill(self) -> None:
        """Kill it."""
        self.signal(signal.SIGKILL)
        self.wait()


STILL_RUNS = 1_000
"""What is answered for a process that has not ended; no exit code is that large."""


def _begin(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(request["environment"])
        code = workflow_main(request["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _look(request: dict[str, Any]) -> int:
    pid, status = os.waitpid(request["pid"], os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else STILL_RUNS


def main() -> None:
    """Answer requests until there are no more."""
    import workflow_core.cli.commands.cleanup
    import workflow_core.cli.commands.start
    import workflow_core.cli.commands.worker
    import workflow_core.cluster.worker  # noqa: F401 - what its children would import

    acts = {"begin": _begin, "look": _look}
    for line in sys.stdin:
        request = json.loads(line)
        sys.stdout.write(f"{acts[request['act']](request)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
