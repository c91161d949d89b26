"""What going on with an execution costs that has completed many steps, in one run: ``python tests/bench/resume.py``.

An execution completes its steps and is cut off in a sleep; a new engine on the same file resumes it, and its handler
passes all completed steps again. Printed is the median of several resumptions for each number of steps, in processor
time, because the machine may have other work, and what each further step costs.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from workflow_core import WorkflowContext, WorkflowEngine
from workflow_core.database.sqlite import SQLiteStore

RESULT = {"ok": True, "number": 1}
LONG_MS = 300_000
_PATIENCE_SECONDS = 60


async def work() -> dict[str, object]:
    """Return what a step returns."""
    return dict(RESULT)


def make_engine(path: Path, steps: int, reached: asyncio.Event) -> WorkflowEngine:
    """Return an engine with the workflow, which says when its steps are behind it."""
    engine = WorkflowEngine(SQLiteStore(path))

    @engine.define("bench")
    async def bench(ctx: WorkflowContext) -> None:
        for number in range(steps):
            await ctx.step(f"step-{number}", work)
        reached.set()
        await ctx.sleep("rest", LONG_MS)

    return engine


async def resumed(path: Path, steps: int) -> float:
    """Return the milliseconds from a new engine to its handler having passed all completed steps."""
    reached = asyncio.Event()
    engine = make_engine(path, steps, reached)
    begin = time.process_time()
    await engine.recover()
    await asyncio.wait_for(reached.wait(), _PATIENCE_SECONDS)
    elapsed = time.process_time() - begin
    await engine.aclose()
    return elapsed * 1_000


async def measure(steps: int, rounds: int) -> float:
    """Make an execution with so many completed steps, and return the median time that resuming it takes."""
    with tempfile.TemporaryDirectory() as directory:
        path, reached = Path(directory) / "bench.db", asyncio.Event()
        engine = make_engine(path, steps, reached)
        await engine.start("bench", "e-1", detach=True)
        await reached.wait()
        await engine.aclose()
        return statistics.median([await resumed(path, steps) for _ in range(rounds)])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 100, 1_000, 10_000])
    parser.add_argument("--rounds", type=int, default=15, help="rounds to take the median of (default 15)")
    options = parser.parse_args()
    first: tuple[int, float] | None = None
    for steps in options.steps:
        milliseconds = asyncio.run(measure(steps, options.rounds))
        first = first or (steps, milliseconds)
        more = steps - first[0]
        each = f", {(milliseconds - first[1]) / more * 1_000:5.2f} µs for each further step" if more else ""
        print(f"  {steps:>6} completed steps: {milliseconds:8.3f} ms{each}", flush=True)


if __name__ == "__main__":
    main()
