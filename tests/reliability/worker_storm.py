"""Workers of one PostgreSQL database that are killed, stopped and continued at random, while the server restarts.

Workers are forked from this process, which has imported everything: a death costs some milliseconds, not a second.
What they run is in `tests.reliability.storm_workflows`, and what must hold afterwards in
`tests.reliability.storm_checks`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import random
import signal
import traceback
from typing import TYPE_CHECKING

from tests.reliability.storm_workflows import BY_HAND_RESTARTS, ids_of, make_engine
from workflow_core import InvalidStateError, StorageError
from workflow_core.cluster.settings import WorkerSettings
from workflow_core.cluster.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from workflow_core import WorkflowEngine

SETTINGS = WorkerSettings(heartbeat_ms=300, poll_ms=100, rest_ms=500, grace_ms=2_000, concurrency=8)
STOPPED_SECONDS = (0.1, 2.0)
PAUSE_SECONDS = (0.02, 0.25)


class Storm:
    """Eight workers, and what befalls them.

    Args:
        directory: Where the witness and the complaints lie.
        seed: From which what happens is drawn.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.moments = random.Random(seed)
        self.living: set[int] = set()
        self.kills = 0
        self.stops = 0

    def fork(self) -> None:
        """Let one more worker work."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = work(self.directory)
            finally:
                os._exit(code)
        self.living.add(pid)

    async def strike(self, strikes: int, in_the_middle: Callable[[], None]) -> None:
        """Kill or stop random workers, one after the other."""
        for number in range(strikes):
            await asyncio.sleep(self.moments.uniform(*PAUSE_SECONDS))
            if number == strikes // 2:
                in_the_middle()
            pid = self.moments.choice(sorted(self.living))
            if self.moments.random() < 0.6:
                self.kill(pid)
                self.fork()
            else:
                self.stops += 1
                os.kill(pid, signal.SIGSTOP)
                seconds = self.moments.uniform(*STOPPED_SECONDS)
                asyncio.get_running_loop().call_later(seconds, self._continue, pid)

    def kill(self, pid: int) -> None:
        """Kill a worker."""
        self.kills += 1
        self.living.discard(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def _continue(self, pid: int) -> None:
        if pid in self.living:
            os.kill(pid, signal.SIGCONT)

    def end(self) -> list[int]:
        """Let the workers end in an orderly way; return their exit codes."""
        codes = []
        for pid in self.living:
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGTERM)
        for pid in self.living:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        self.living.clear()
        return codes

    def complaints(self) -> str:
        """Return what workers that did not end as they were told to have to say."""
        path = self.directory / "complaints.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def destroy(self) -> None:
        """Leave no process behind."""
        for pid in list(self.living):
            self.kill(pid)


def work(directory: Path) -> int:
    """Be a worker until told to stop; complain in a file. Returns the exit code."""
    try:
        while True:
            try:
                asyncio.run(_work(directory))
                break
            except StorageError as error:  # it came while the server was away, and is begun again as by a supervisor
                if not error.is_transient:
                    raise
    except BaseException:
        with (directory / "complaints.txt").open("a", encoding="utf-8") as file:
            file.write(traceback.format_exc())
        return 1
    return 0


async def _work(directory: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    engine = make_engine(directory, lease_ms=5_000, storage_patience_ms=500)
    try:
        await Worker(engine, SETTINGS).run(stop)
    finally:
        await engine.aclose()


async def enqueue(engine: WorkflowEngine, *batches: int) -> None:
    """Hand some batches of executions to the workers."""
    for batch in batches:
        for name, execution_id in ids_of(batch):
            await engine.enqueue(name, execution_id)


async def until(condition: Callable[[], object], seconds: float = 90) -> None:
    """Wait until something holds that other processes do; it may be asked for with an ``await``."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.02)


async def to_rest(engine: WorkflowEngine, batches: int, seconds: float) -> None:
    """Wait until everything is at rest, and restart by hand what wants that."""
    left = {execution_id for batch in range(1, batches + 1) for _, execution_id in ids_of(batch)}
    async with asyncio.timeout(seconds):
        while left:
            for execution_id in sorted(left):
                with contextlib.suppress(StorageError, InvalidStateError):
                    result = await engine.get_status(execution_id)
                    by_hand = execution_id.startswith("by-hand") and result.restart_attempt <= BY_HAND_RESTARTS
                    if result.status == "failed" and by_hand:
                        await engine.restart(execution_id, detach=True)
                    elif result.status in {"completed", "failed"}:
                        left.discard(execution_id)
            await asyncio.sleep(0.1)
