"""The scripts of tests/bench: each has its place in the documentation, and runs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "tests" / "bench"

SMALLEST = {
    "crash_exploration": "",
    "group_commit": "--rounds 1 --steps 200",
    "harness": "--tests 5",
    "limit_changes": "--keys 20",
    "memory": "--executions 200 --every 100",
    "postgres_scale": "--sizes 100 --with-steps 50 --executions 5",
    "postgres_steps": "--rounds 1 --steps 20",
    "resume": "--rounds 1 --steps 10",
    "scale": "--sizes 100 200 --sleeping 20",
    "server_reads": "200",
    "steps_per_second": "--rounds 1 --steps 100",
    "telemetry": "--rounds 1 --executions 2 --steps 5",
}
"""The least that each can be asked to measure."""

TOO_MUCH = {
    "dashboard": "six seconds at least",
    "dbos_postgres": "needs DBOS",
    "dbos_sqlite": "needs DBOS",
    "flame_graph": "needs what py-spy has sampled",
    "harness_stores": "five seconds at least",
    "startup": "starts pytest many times",
}


def scripts():
    return sorted(path.stem for path in BENCH.glob("*.py") if path.stem != "__init__")


def test_each_script_is_tried_here_or_has_a_reason_not_to_be():
    assert scripts() == sorted(SMALLEST | TOO_MUCH)


@pytest.mark.parametrize("script", scripts())
def test_each_script_is_in_the_documentation(script):
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    assert f"{script}.py" in pages or f"tests.bench.{script}" in pages


@pytest.mark.parametrize("script", sorted(SMALLEST))
def test_the_least_that_a_script_can_measure(script, tmp_path, request):
    if script in {"limit_changes", "postgres_scale", "postgres_steps"}:
        request.getfixturevalue("postgres_programs")
    ended = subprocess.run(
        [sys.executable, BENCH / f"{script}.py", *SMALLEST[script].split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout
