"""What the test harness costs: ``python tests/bench/harness.py`` runs pytest on many tests of one workflow.

The workflow has ten steps, of which one fails and is tried again, and sleeps a day. Beside it run as many tests that
ask for nothing, so that what pytest itself takes can be seen. Printed is the time from the first test's set-up to the
last one's tear-down, in one process, and what a test takes; then the real time that one virtual day takes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

_CONFTEST = """
import time

begun = None


def pytest_runtest_setup(item):
    global begun
    begun = begun or (time.perf_counter(), time.process_time())


def pytest_sessionfinish(session):
    print(f"\\nMEASURED tests {time.perf_counter() - begun[0]}")
    print(f"\\nMEASURED processor {time.process_time() - begun[1]}")
"""

_WORKFLOWS = """
import os

import pytest

from workflow_core import Settings, Workflow

DAY_MS, DAYS = 86_400_000, 1_000


@pytest.fixture
def workflow_settings():
    return Settings(max_sleep_ms=DAY_MS)


class Unreachable(Exception):
    pass


@Workflow.define("bench", retry_config={"max_attempts": 2, "backoff_ms": 1_000})
async def bench(ctx):
    for number in range(5):
        await ctx.step(f"before-{number}", lambda: {"ok": True})
    await ctx.sleep("a-day", DAY_MS)
    for number in range(5):
        await ctx.step(f"after-{number}", lambda: {"ok": True})
    return "done"


@Workflow.define("days")
async def days(ctx):
    begin = os.times().elapsed  # the harness leaves this clock alone
    for number in range(DAYS):
        await ctx.sleep(f"day-{number}", DAY_MS)
    return (os.times().elapsed - begin) / DAYS


@pytest.mark.parametrize("number", range(TESTS))
def test_workflow(workflow, workflow_faults, number):
    workflow_faults.fail("after-2", Unreachable("503"), attempts=[1])
    result = workflow.run("bench")
    assert result.output == "done" and result.steps["after-2"].attempt == 2


def test_a_day(workflow):
    print("\\nMEASURED day", workflow.run("days").output)
"""

_EMPTY = """
import pytest


@pytest.mark.parametrize("number", range(TESTS))
def test_nothing(number):
    assert number >= 0
"""


def measured(source: str, tests: int) -> dict[str, float]:
    """Run pytest on a file of tests, and return the seconds that it measured, by their names."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
        (root / "conftest.py").write_text(textwrap.dedent(_CONFTEST))
        (root / "test_bench.py").write_text(f"TESTS = {tests}\n{source}")
        command = [sys.executable, "-m", "pytest", "-qsx", "-pno:cacheprovider", "-pno:randomly", str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
        if done.returncode != 0:
            raise SystemExit(f"{done.stdout}\n{done.stderr}")
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("MEASURED")]
    return {name: float(seconds) for _, name, seconds in lines}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=int, default=1_000, help="how many tests (default 1000)")
    tests = parser.parse_args().tests
    for name, source in ("that ask for nothing", _EMPTY), ("of a ten-step workflow", _WORKFLOWS):
        found = measured(source, tests)
        each = found["tests"] / tests * 1e3
        print(f"  {tests} tests {name}: {found['tests']:.2f} s, {each:.2f} ms each", end="")
        print(f" (processor time {found['processor']:.2f} s)")
    print(f"  a virtual day, its two durable points included: {found['day'] * 1e3:.3f} ms")


if __name__ == "__main__":
    main()
