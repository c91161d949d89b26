"""Measure crash exploration: crash runs a second of a ten-step workflow in memory, by wall time and processor time.

Run it with ``python tests/bench/crash_exploration.py [ROUNDS]``; it prints each round and the median.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import TYPE_CHECKING

from pytest_workflow.clock import VirtualClock
from pytest_workflow.environment import Environment
from pytest_workflow.freezer import Freezer
from pytest_workflow.scenarios import WorkflowCrashes
from workflow_core import Workflow, WorkflowContext

if TYPE_CHECKING:
    from pytest_workflow.crashes import CrashReport
    from pytest_workflow.harness import WorkflowHarness


@Workflow.define("ten-steps")
async def ten_steps(ctx: WorkflowContext) -> int:
    """Ten steps, one after the other."""
    total = 0
    for number in range(10):
        total += await ctx.step(f"step-{number}", lambda number=number: number)
    return total


def scenario(workflow: WorkflowHarness) -> None:
    """Run it once."""
    assert workflow.run("ten-steps", "e-1").output == 45


def explore(freezer: Freezer) -> CrashReport:
    """Explore every place of the workflow."""
    clock = VirtualClock()
    environment = Environment(clock)
    freezer.lead(clock)
    try:
        return WorkflowCrashes(environment, freezer, "").explore(scenario)
    finally:
        environment.close()
        freezer.release()


def main() -> None:
    """Print the figures."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    freezer = Freezer()
    explore(freezer)
    wall, processor = [], []
    for number in range(rounds):
        began, used = time.perf_counter(), time.process_time()
        report = explore(freezer)
        wall.append(report.runs / (time.perf_counter() - began))
        processor.append(report.runs / (time.process_time() - used))
        print(f"round {number + 1}: {report.summary()}; {processor[-1]:.0f} runs a second of processor time")
    freezer.stop()
    print(f"median: {statistics.median(wall):.0f} runs/s, {statistics.median(processor):.0f} of processor time")


if __name__ == "__main__":
    main()
