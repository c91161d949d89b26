"""The memory of one engine over many executions: ``python tests/bench/memory.py`` prints it as they go by.

Every execution has two steps, one of which is retried once, and is told to an observer. Printed are the resident set of
the process, and how many objects Python's garbage collector knows. A long-lived engine keeps nothing of an execution
that has ended, so both stay where they are after the first rounds, in which caches fill.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
from pathlib import Path

from workflow_core import Settings, WorkflowContext, WorkflowEngine, hookimpl


class Observer:
    """Counts the events."""

    count = 0

    @hookimpl
    def on_event(self, event: object) -> None:
        """Count an event."""
        self.count += 1


def resident_kilobytes() -> int:
    """Return the resident set of this process, as Linux tells it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


async def run(directory: Path, executions: int, every: int) -> None:
    """Run executions, and print."""
    engine = WorkflowEngine(plugins=[Observer()], settings=Settings(directory=directory, sync_handlers="inline"))

    async def work() -> dict[str, object]:
        return {"ok": True, "text": "x" * 200}

    @engine.define("bench", retry_config={"max_attempts": 2, "backoff_ms": 0})
    async def bench(ctx: WorkflowContext) -> object:
        def flaky() -> int:
            if ctx.attempt == 1:
                raise ConnectionError("503")
            return ctx.attempt

        await ctx.step("flaky", flaky)
        return await ctx.step("work", work)

    first: tuple[int, int] | None = None
    for number in range(executions + 1):
        if number % every == 0:
            gc.collect()
            now = resident_kilobytes(), len(gc.get_objects())
            if first is None and number:
                first = now
            since = "" if first is None else f"   {now[0] - first[0]:+7} kB, {now[1] - first[1]:+6} objects"
            print(f"  {number:>7} executions: {now[0]:>7} kB resident, {now[1]:>7} objects{since}", flush=True)
        await engine.start("bench", input={"number": number})
    await engine.aclose()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executions", type=int, default=50_000)
    parser.add_argument("--every", type=int, default=5_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory), options.executions, options.every))


if __name__ == "__main__":
    main()
