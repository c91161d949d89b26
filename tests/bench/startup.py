"""How long imports and commands take to start, in processes that begin in turn.

`python -m tests.bench.startup --help` tells what can be chosen. What is compared takes turns, so that a load on the
machine falls on all alike. With ``--modules`` it prints what takes the longest to import, by ``python -X importtime``.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

FIRST_EXECUTION = """
from workflow_core import WorkflowEngine
from workflow_core.database.sqlite import SQLiteStore

engine = WorkflowEngine(SQLiteStore())


@engine.define("w")
async def w(ctx):
    return await ctx.step("s", lambda: 1)


assert engine.run("w").output == 1
"""
PROGRAMS: dict[str, list[str]] = {
    "python": ["-c", "pass"],
    "import pydantic": ["-c", "from pydantic import BaseModel; BaseModel"],
    "import workflow_core": ["-c", "import workflow_core"],
    "from workflow_core import Workflow": ["-c", "from pydantic import BaseModel; from workflow_core import Workflow"],
    "a first execution": ["-c", FIRST_EXECUTION],
    "workflow --help": ["-m", "workflow_core.cli", "--help"],
    "workflow status --help": ["-m", "workflow_core.cli", "status", "--help"],
    "workflow serve --help": ["-m", "workflow_core.cli", "serve", "--help"],
    "pytest without the plugin": ["-m", "pytest", "-q", "-p", "no:workflow_core"],
    "pytest with the plugin unused": ["-m", "pytest", "-q"],
    "pytest with one workflow test": ["-m", "pytest", "-q", "sub/test_workflow.py"],
}
TESTS = {"test_plain.py": "def test_nothing(): ...\n", "sub/test_workflow.py": "def test_one(workflow): ...\n"}
FIGURES = (
    ("workflow_core beyond pydantic", "from workflow_core import Workflow", "import pydantic"),
    ("workflow --help", "workflow --help", None),
    ("the plugin, unused", "pytest with the plugin unused", "pytest without the plugin"),
)


def run(name: str, folder: str, *flags: str) -> tuple[float, str]:
    """Run a program once, and return its milliseconds and what it wrote on stderr."""
    arguments = PROGRAMS[name]
    path = [f"{folder}/{arguments[-1]}"] if arguments[-1].endswith(".py") else []
    arguments = [*arguments[:-1], *path] if path else arguments
    begin = perf_counter()
    done = subprocess.run([sys.executable, *flags, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    milliseconds = (perf_counter() - begin) * 1_000
    assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    return milliseconds, done.stderr


def slowest(name: str, folder: str, count: int) -> list[tuple[int, str]]:
    """Return the modules whose own code takes the longest to import, with their microseconds."""
    _, trace = run(name, folder, "-X", "importtime")
    rows = re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", trace, re.MULTILINE)
    return sorted(((int(own), module) for own, module in rows), reverse=True)[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=11, help="processes of each kind (11)")
    parser.add_argument("--modules", metavar="PROGRAM", choices=PROGRAMS, help="print the slowest imports of one")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in TESTS.items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_text(text, encoding="utf-8")
        (Path(folder) / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider --ignore=sub\n")
        if chosen.modules:
            for own, module in slowest(chosen.modules, folder, 25):
                print(f"{own / 1_000:8.1f} ms  {module}")
            return
        taken: dict[str, list[float]] = {name: [] for name in PROGRAMS}
        for name in PROGRAMS:  # byte code, and the caches of the system
            run(name, folder)
        for _ in range(chosen.runs):
            for name, times in taken.items():
                times.append(run(name, folder)[0])
    print("  median   fastest")
    for name, times in taken.items():
        print(f"{statistics.median(times):8.0f}  {min(times):8.0f} ms  {name}")
    print()
    for title, name, without in FIGURES:
        median, fastest = (
            measure(taken[name]) - (measure(taken[without]) if without else 0) for measure in (statistics.median, min)
        )
        print(f"{median:8.0f}  {fastest:8.0f} ms  {title}")


if __name__ == "__main__":
    main()
