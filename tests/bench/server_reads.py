"""What the server's reads cost at 10 000 and 1 000 000 executions of one workflow, in one run.

Run it with ``python tests/bench/server_reads.py``; it needs about a gigabyte in the directory of temporary files. The
times are medians of several calls, as processor time of this process. Reads run in a thread of their own in the server,
so the longest of them keeps no execution waiting; the last lines show that.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from scale import fill, make_engine

from workflow_core.server.reading import Reader
from workflow_core.views.circuits import read_circuits
from workflow_core.views.execution_pages import read_page
from workflow_core.views.statistics import read_statistics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workflow_core import WorkflowEngine

ROUNDS = 9


async def measure(work: Callable[[], Awaitable[object]], rounds: int = ROUNDS) -> float:
    """Return the median processor time of a call in milliseconds."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        await work()
        times.append((time.process_time() - began) * 1_000)
    return statistics.median(times)


async def costs(engine: WorkflowEngine) -> dict[str, float]:
    """Return what each read costs, in milliseconds."""
    first = await read_page(engine, limit=50)
    window = engine.clock.now() - datetime(2025, 1, 1, tzinfo=UTC)
    middle = await read_page(engine, workflow="bench", status="failed", limit=1_000)
    return {
        "first page": await measure(lambda: read_page(engine, limit=50)),
        "page of one status": await measure(lambda: read_page(engine, workflow="bench", status="failed", limit=50)),
        "later page": await measure(lambda: read_page(engine, cursor=middle.next or first.next, limit=50)),
        "search, 5 000 looked at": await measure(lambda: read_page(engine, search="absent", search_ms=0)),
        "search through all": await measure(lambda: engine.list_executions(search="absent"), 3),
        "counts": await measure(engine.stats),
        "statistics": await measure(lambda: read_statistics(engine, "bench", window)),
        "circuits": await measure(lambda: read_circuits(engine)),
        "change markers": await measure(engine.store.change_markers, 999),
    }


async def longest_wait(work: Callable[[], Awaitable[object]]) -> float:
    """Return for how long a read lets the event loop stand still at most, in milliseconds."""
    longest = 0.0
    done = asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not done.is_set():
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before - 0.001)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    await work()
    done.set()
    await watching
    return longest * 1_000


async def column(size: int) -> dict[str, float]:
    """Return what is measured at one size."""
    with tempfile.TemporaryDirectory() as directory:
        engine = make_engine(Path(directory))
        await engine.start("bench", "first")
        await fill(engine, 1, size)
        found = await costs(engine)
        reader = Reader(engine)
        reader.open()
        await reader(lambda reading: reading.stats())
        in_thread = await longest_wait(lambda: reader(lambda reading: reading.stats()))
        found["longest wait, counts in a thread"] = in_thread
        found["longest wait, counts in the loop"] = await longest_wait(engine.stats)
        await reader.close()
        await engine.aclose()
        return found


async def main(sizes: list[int]) -> None:
    """Measure, and print a table."""
    columns = [await column(size) for size in sizes]
    print(f"{'milliseconds':36}" + "".join(f"{size:>12,}" for size in sizes))
    for name in columns[0]:
        print(f"{name:36}" + "".join(f"{each[name]:12.3f}" for each in columns))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=[10_000, 1_000_000])
    asyncio.run(main(parser.parse_args().sizes))
