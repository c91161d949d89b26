"""What group commit is worth: steps per second of 100 executions at once, with and without it, in one process.

Run it with ``python tests/bench/group_commit.py``. For ``synchronous=NORMAL`` and ``FULL`` it prints, in each round and
as medians, the steps per second of raw sqlite3 doing the commits of one execution, of one execution, of executions one
after another, of as many at once that commit each by itself, and of 100 at once with group commit; then the ratios. A
step's function gives way to others once, as one that waits for anything does.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from steps_per_second import EXECUTION, RESULT, raw

from workflow_core import WorkflowContext, WorkflowEngine
from workflow_core.database.sqlite import SQLiteStore


async def engine(
    path: Path, synchronous: str, executions: int, steps: int, *, at_once: bool, grouped: bool = True
) -> float:
    """Return the steps per second of the engine.

    Args:
        path: The database, which is made.
        synchronous: ``NORMAL`` or ``FULL``.
        executions: How many executions.
        steps: How many steps each has.
        at_once: Whether the executions run at the same time, or one after another.
        grouped: Whether commits are shared.
    """
    store = SQLiteStore(path, synchronous=synchronous)
    store.groups.is_on = grouped
    workflows = WorkflowEngine(store)

    async def work() -> dict[str, object]:
        await asyncio.sleep(0)
        return dict(RESULT)

    @workflows.define("bench")
    async def bench(ctx: WorkflowContext) -> None:
        for number in range(steps):
            await ctx.step(f"step-{number}", work)

    begin = time.perf_counter()
    starts = (workflows.start("bench", f"{EXECUTION}-{number}") for number in range(executions))
    if at_once:
        await asyncio.gather(*starts)
    else:
        for start in starts:
            await start
    elapsed = time.perf_counter() - begin
    await workflows.aclose()
    return executions * steps / elapsed


def measure(directory: Path, synchronous: str, steps: int) -> dict[str, float]:
    """Measure each way once.

    Args:
        directory: Where the databases are made.
        synchronous: ``NORMAL`` or ``FULL``.
        steps: How many steps each way takes; those that flush the disk for each commit take a tenth with ``FULL``. One
            after another that is a tenth of the executions, each as long as those at once: a short one costs more a
            step.
    """
    few = steps // 10 if synchronous == "FULL" else steps
    as_many_as_fit = max(few // max(steps // 100, 2), 1)

    def run(name: str, executions: int, total: int, *, at_once: bool, grouped: bool = True) -> float:
        each = max(total // executions, 2)
        return asyncio.run(
            engine(directory / f"{name}.db", synchronous, executions, each, at_once=at_once, grouped=grouped)
        )

    return {
        "raw": raw(directory / "raw.db", 1, few, synchronous),
        "one": run("one", 1, few, at_once=False),
        "one, off": run("one-off", 1, few, at_once=False, grouped=False),
        "sequential": run("sequential", as_many_as_fit, few, at_once=False),
        "at once, off": run("ungrouped", as_many_as_fit, few, at_once=True, grouped=False),
        "at once": run("grouped", 100, steps, at_once=True),
    }


RATIOS = (
    ("one", "raw"),
    ("one", "one, off"),
    ("at once", "sequential"),
    ("at once", "at once, off"),
    ("at once", "one"),
    ("at once", "raw"),
)


def main() -> None:
    """Measure in rounds, and print the medians and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take the median of (default 5)")
    parser.add_argument("--steps", type=int, default=4_000, help="steps of each way in a round (default 4000)")
    parser.add_argument("--directory", type=Path, default=None, help="where the databases are made")
    options = parser.parse_args()
    for synchronous in ("NORMAL", "FULL"):
        print(f"synchronous={synchronous}, steps per second")
        rates: dict[str, list[float]] = defaultdict(list)
        for number in range(options.rounds):
            with tempfile.TemporaryDirectory(dir=options.directory) as directory:
                found = measure(Path(directory), synchronous, options.steps)
            for name, rate in found.items():
                rates[name].append(rate)
            print(f"  round {number + 1}: " + "   ".join(f"{name} {rate:.0f}" for name, rate in found.items()))
        print("  medians: " + "   ".join(f"{name} {statistics.median(rates[name]):.0f}" for name in rates))
        for one, other in RATIOS:
            ratio = statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True))
            print(f"  {one} / {other}: {ratio:.2f}")


if __name__ == "__main__":
    main()
