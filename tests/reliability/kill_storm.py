"""Kills real worker processes at random moments, hundreds of times, and checks what is left.

    python -m tests.reliability.kill_storm --kills 500 --seed 7

Several workers run the same executions on one runtime directory. Each lives until it is killed with SIGKILL at a moment
drawn from the seed, some within milliseconds of their start, and is replaced at once. Then the last workers finish
everything, and the databases are compared with the file that the steps themselves have written.

With ``WORKFLOW_DATABASE_URL`` and ``WORKFLOW_DATABASE_SCHEMA`` in the environment they share that database instead.

Workers are forked from this process, which has imported everything: a death costs some milliseconds, not a second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.reliability.postgres_copy import copy
from tests.reliability.storm_checks import check
from tests.reliability.storm_workflows import KINDS, make_engine, work
from workflow_core.database.store import KeepsDefinitions
from workflow_core.settings import default_database_url

if TYPE_CHECKING:
    from collections.abc import Callable

LAST_WORKERS_SECONDS = 60.0
"""How long the last workers may take for what is left; what hangs is an error."""

MOST_KILLS_IN_A_BATCH = 15
"""After so many, workers begin another batch; what is left of the one before they recover."""

STARTUP = 0.35
"""The share of workers that die within milliseconds of their start, while they open databases and recover."""


@dataclass
class Summary:
    """What a storm came to."""

    seed: int
    kills: int = 0
    batches: int = 0
    executions: int = 0
    recoveries: int = 0
    interruptions: int = 0
    calls: int = 0
    seconds: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


class Workers:
    """The living workers of a storm.

    Args:
        directory: Where the state, the witness and the complaints lie.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.living: dict[int, float] = {}
        self._lives: dict[int, float] = {}
        self._begun, self._begin = os.pipe()
        os.set_blocking(self._begun, False)

    def fork(self, batch: int, life: float, *, from_birth: bool = False, last: bool = False) -> None:
        """Start a worker on a batch, which is to be killed after so many seconds of work, or from its birth on."""
        pid = os.fork()
        if pid:
            self._lives[pid] = life
            self.living[pid] = time.monotonic() + life if from_birth else float("inf")
            return
        try:
            handler = logging.FileHandler(self.directory / "complaints.txt", delay=True)
            handler.setLevel(logging.ERROR)
            logging.getLogger("workflow_core").addHandler(handler)
            asyncio.run(self._work(batch, last=last))
        finally:
            os._exit(1)

    async def _work(self, batch: int, *, last: bool) -> None:
        """Do a worker's work, and end the process without closing anything: an orderly end is no part of a storm."""
        code = 0
        try:
            engine = make_engine(self.directory, max_recoveries=None)
            if isinstance(engine.bare_store, KeepsDefinitions):
                await engine.bare_store.list_workflows()  # connecting takes longer than most lives last
            os.write(self._begin, f"{os.getpid()}\n".encode())
            await work(engine, batch, last=last)
        except BaseException:
            code = 1
            with (self.directory / "complaints.txt").open("a", encoding="utf-8") as file:
                traceback.print_exc(file=file)
        finally:
            os._exit(code)

    def note_begun(self) -> None:
        """Let the lives begin of the workers that have begun to work: a slow machine must not kill them before."""
        with contextlib.suppress(BlockingIOError):
            for pid in map(int, os.read(self._begun, 4_096).split()):
                if self.living.get(pid) == float("inf"):
                    self.living[pid] = time.monotonic() + self._lives[pid]

    def reap(self) -> bool:
        """Forget the workers that ended by themselves; tell whether one of them had done its batch."""
        done = False
        for pid in list(self.living):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self.living[pid]
                done = done or status == 0
        return done

    def kill(self, pid: int) -> None:
        """Kill a worker that lives."""
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        del self.living[pid]


def storm(directory: Path, kills: int, seed: int, workers: int, *, progress: bool = False) -> Summary:
    """Run a storm in an empty directory.

    Args:
        directory: Where everything is written.
        kills: How many workers are killed.
        seed: Draws the moments.
        workers: How many live at a time.
        progress: Tell on stderr how it goes.
    """
    moments = random.Random(seed)
    summary = Summary(seed)
    crowd = Workers(directory)
    begun = time.monotonic()

    def lifetime() -> tuple[float, bool]:
        """Return how long a worker lives, in seconds, and whether that counts from its birth or into its work."""
        if moments.random() < STARTUP:
            return moments.uniform(0, 0.02), True
        return min(moments.expovariate(1 / (0.05 + 0.03 * workers)), 1.0), False

    def tell() -> None:
        if progress and summary.kills % 50 == 0:
            print(f"{summary.kills} kills, batch {summary.batches}, {time.monotonic() - begun:.1f} s", file=sys.stderr)

    try:
        while summary.kills < kills:
            kill_in_a_batch(crowd, workers, lifetime, summary, kills, tell)
        for pid in list(crowd.living):
            crowd.kill(pid)
            summary.kills += 1
        finish(crowd, workers, summary)
    finally:
        for pid in list(crowd.living):
            crowd.kill(pid)
    if (url := default_database_url()) is not None:
        copy(url, os.environ["WORKFLOW_DATABASE_SCHEMA"], directory / "state", KINDS)
    check(directory, summary.batches, summary)
    summary.seconds = round(time.monotonic() - begun, 1)
    return summary


def kill_in_a_batch(
    crowd: Workers,
    workers: int,
    lifetime: Callable[[], tuple[float, bool]],
    summary: Summary,
    kills: int,
    tell: Callable[[], None],
) -> None:
    """Kill workers on the next batch until one of them has done it, or enough have died."""
    summary.batches += 1
    enough = min(kills, summary.kills + MOST_KILLS_IN_A_BATCH)
    while summary.kills < enough:
        while len(crowd.living) < workers:
            life, from_birth = lifetime()
            crowd.fork(summary.batches, life, from_birth=from_birth)
        crowd.note_begun()
        pid, dies_at = min(crowd.living.items(), key=lambda item: item[1])
        time.sleep(max(0.0, min(dies_at - time.monotonic(), 0.01)))
        if crowd.reap():
            return
        if pid in crowd.living and time.monotonic() >= dies_at:
            crowd.kill(pid)
            summary.kills += 1
            tell()


def finish(crowd: Workers, workers: int, summary: Summary) -> None:
    """Let the last workers end everything; then let one more find nothing to do."""
    witness = crowd.directory / "witness.txt"
    for generation, number in enumerate((workers, 1)):
        before = witness.stat().st_size
        for _ in range(number):
            crowd.fork(summary.batches, float("inf"), last=True)
        deadline = time.monotonic() + LAST_WORKERS_SECONDS
        while crowd.living and time.monotonic() < deadline:
            crowd.reap()
            time.sleep(0.01)
        if crowd.living:
            summary.violations.append(f"workers {sorted(crowd.living)} hang")
        if generation and witness.stat().st_size != before:
            summary.violations.append("a step was called although everything had ended")


def main() -> None:
    """Run a storm from the shell; exit with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.kill_storm", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=500, help="how many workers to kill (default: 500)")
    parser.add_argument("--seed", type=int, default=None, help="draws the moments (default: a new one, which is told)")
    parser.add_argument("--workers", type=int, default=2, help="how many live at a time (default: 2)")
    parser.add_argument(
        "--directory", type=Path, help="an empty directory to keep everything in (default: none is kept)"
    )
    parser.add_argument("--json", action="store_true", help="tell the summary as JSON, for programs")
    options = parser.parse_args()
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="storm-") as scratch:
        directory = options.directory or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        summary = storm(directory, options.kills, seed, options.workers, progress=not options.json)
    if options.json:
        print(json.dumps(asdict(summary)))
    else:
        print(
            f"seed {summary.seed}: {summary.kills} kills in {summary.seconds} s, {summary.executions} executions in "
            f"{summary.batches} batches {summary.statuses}, {summary.recoveries} recoveries, {summary.interruptions} "
            f"attempts cut off, {summary.calls} calls of steps"
        )
        print("\n".join(summary.violations) or "nothing ran twice, nothing was lost, nothing is left")
    sys.exit(bool(summary.violations))


if __name__ == "__main__":
    main()
