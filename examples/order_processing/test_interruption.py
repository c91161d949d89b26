"""The order command on real processes: interrupted, killed, and brought to the end without doing anything twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]


def begin(state: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "examples.order_processing", "--directory", str(state)]
    return subprocess.Popen(  # noqa: S603 - this very interpreter
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def stop_at(process: subprocess.Popen[str], text: str, stop: Callable[[subprocess.Popen[str]], None]) -> str:
    """Let the process run until it has printed ``text``, stop it, and return all that it printed."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            stop(process)
    _, errors = process.communicate(timeout=30)
    return "".join(lines) + errors


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_an_order_survives_an_interruption_and_a_kill(tmp_path: Path) -> None:
    interrupted = begin(tmp_path)
    first = stop_at(interrupted, "shipping-retry-1", lambda process: process.send_signal(signal.SIGINT))
    assert interrupted.returncode == 130
    assert "starts" in first
    assert "Run the same command again" in first
    assert "Traceback" not in first

    killed = begin(tmp_path)
    second = stop_at(killed, "shipping-retry-2", lambda process: process.kill())
    assert killed.returncode == -signal.SIGKILL
    assert "goes on where it was" in second
    assert "validate-order" not in second

    finished = begin(tmp_path)
    third, errors = finished.communicate(timeout=60)
    assert finished.returncode == 0, errors
    assert "goes on where it was" in third
    lines = (tmp_path / "order-processing-outbox.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["effect"] for line in lines] == [
        "charge-declined",
        "charge",
        "reserve",
        "reserve",
        "carrier-outage",
        "carrier-outage",
        "label",
        "notify",
        "status",
    ]
