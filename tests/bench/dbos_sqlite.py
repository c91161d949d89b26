"""Steps per second of the engine against DBOS Transact on SQLite, side by side in one run.

Run it with ``python tests/bench/dbos_sqlite.py``, after ``pip install dbos`` into an environment of its own that has
this project as well. Both run the same work with their defaults, on files in the same directory: one long execution,
executions of ten steps one after another, and a hundred of them at once, as a server has them. There DBOS has its own
pool of threads (``DBOS.start_workflow``; fewer threads were not faster), and the engine's step gives way to others
once, as one that waits for anything does. DBOS keeps SQLite's rollback journal and flushes the disk at every commit; so
the engine is measured with ``synchronous=NORMAL``, its default, and with ``FULL``, which promises what DBOS promises.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import group_commit
from dbos import DBOS
from steps_per_second import RESULT, engine

if TYPE_CHECKING:
    from collections.abc import Iterator

AT_ONCE = 100


@DBOS.step()
def work() -> dict[str, object]:
    """Do what a step of the engine's benchmark does."""
    return dict(RESULT)


@DBOS.workflow()
def bench(steps: int) -> None:
    """Run steps one after the other."""
    for _ in range(steps):
        work()


def dbos(directory: Path, rounds: list[tuple[int, int, bool]]) -> Iterator[float]:
    """Yield the steps per second of DBOS for each number of executions and of steps, one after another or at once."""
    DBOS(
        config={
            "name": "bench",
            "system_database_url": f"sqlite:///{directory / 'dbos.sqlite'}",
            "run_admin_server": False,
            "log_level": "ERROR",
        }
    )
    DBOS.launch()
    bench(10)
    for executions, steps, at_once in rounds:
        begin = time.perf_counter()
        if at_once:
            for handle in [DBOS.start_workflow(bench, steps) for _ in range(executions)]:
                handle.get_result()
        else:
            for _ in range(executions):
                bench(steps)
        yield executions * steps / (time.perf_counter() - begin)
    DBOS.destroy()


def main() -> None:
    """Measure in alternating rounds, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take the median of (default 5)")
    parser.add_argument("--steps", type=int, default=1_000, help="steps of DBOS in each round (default 1000)")
    options = parser.parse_args()
    shapes = {
        "one long execution": (1, options.steps, False),
        "executions of 10 steps, one after another": (options.steps // 10, 10, False),
        f"{AT_ONCE} executions at once": (AT_ONCE, options.steps // AT_ONCE, True),
    }
    medians: dict[str, str] = {}
    print(f"DBOS Transact {version('dbos')}, pytest-workflow-core {version('pytest-workflow-core')}")
    with tempfile.TemporaryDirectory() as directory:
        theirs = dbos(Path(directory), [shape for shape in shapes.values() for _ in range(options.rounds)])
        for shape, (name, (executions, steps, at_once)) in enumerate(shapes.items()):
            print(name)
            ratios: dict[str, list[float]] = {"NORMAL": [], "FULL": []}
            for number in range(options.rounds):
                slow = next(theirs)
                told = []
                for synchronous, found in ratios.items():
                    file = Path(directory) / f"{shape}-{number}-{synchronous}.db"
                    if at_once:
                        run = group_commit.engine(file, synchronous, executions, steps * 10, at_once=True)
                    else:
                        run = engine(file, executions * 10, steps, synchronous)
                    fast = asyncio.run(run)
                    found.append(fast / slow)
                    told.append(f"{synchronous} {fast:8.0f}/s = {fast / slow:5.1f}x")
                print(f"  round {number + 1}: DBOS {slow:6.0f}/s   engine {'   '.join(told)}")
            medians[name] = "   ".join(f"{key} {statistics.median(found):.1f}x" for key, found in ratios.items())
        next(theirs, None)
    print("medians")
    for name, told in medians.items():
        print(f"  {name}: {told}")


if __name__ == "__main__":
    main()
