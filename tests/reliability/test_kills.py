"""Real workers, really killed: in storms at random moments, and by executions that end their process every time."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.poison_server import INNOCENT, POISONS

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")

KILLS = int(os.environ.get("WORKFLOW_STORM_KILLS", "40"))
SEED = int(os.environ.get("WORKFLOW_STORM_SEED", str(random.SystemRandom().randrange(1_000_000))))


def run(module, *arguments):
    process = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.stdout.strip(), process.stderr
    return json.loads(process.stdout)


@pytest.mark.timeout(120 + KILLS)
def test_a_storm_of_kills_loses_nothing_and_repeats_nothing():
    summary = run("tests.reliability.kill_storm", "--kills", str(KILLS), "--seed", str(SEED), "--json")
    assert summary["violations"] == [], summary
    assert summary["kills"] >= KILLS
    assert summary["recoveries"] > 0
    assert set(summary["statuses"]) <= {"completed", "failed"}
    assert summary["executions"] == 9 * summary["batches"]


@pytest.mark.parametrize("poison", [handler.__name__ for handler in POISONS])
def test_what_ends_its_process_every_time_fails_and_harms_nobody_else(tmp_path, poison):
    found = run("tests.reliability.poison_server", str(tmp_path), poison)
    assert found["statuses"] == {"p": "failed", **{f"i{number}": "completed" for number in range(INNOCENT)}}
    expected = "StepInterruptedError" if poison == "in_step" else "ExecutionInterruptedError"
    assert found["error"].startswith(expected)
    assert found["recoveries"] <= 4
    assert found["processes"] <= 12
