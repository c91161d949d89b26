"""The trace of an execution whose process was really killed, and which another process went on with."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("traced_worker.py")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def spawn(nursery, tmp_path, command):
    return nursery.popen(
        [sys.executable, str(WORKER), command, str(tmp_path / "spans.jsonl")],
        env={**os.environ, "WORKFLOW_DIR": str(tmp_path / "state")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_killed_process_and_the_one_that_recovers_write_one_trace(tmp_path, nursery):
    process = spawn(nursery, tmp_path, "start")
    try:
        assert process.stdout.readline() == "HANGS\n"
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    output, errors = spawn(nursery, tmp_path, "recover").communicate(timeout=60)
    assert output == "RESULT completed\n", errors
    spans = [json.loads(line) for line in (tmp_path / "spans.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({span["context"]["trace_id"] for span in spans}) == 1
    names = {span["context"]["span_id"]: span["name"] for span in spans}
    assert len(names) == len(spans)
    seen = [
        (
            span["resource"]["attributes"]["service.instance.id"],
            span["name"],
            span["attributes"].get("workflow.step.outcome"),
            names[span["parent_id"]] if span["parent_id"] else None,
        )
        for span in spans
    ]
    assert seen == [
        ("start", "step first", "completed", "run order"),
        ("start", "request", None, "step hang"),  # of an attempt that the process which began it could not tell of
        ("recover", "step hang", "interrupted", "run order"),
        ("recover", "recover order", None, "run order"),
        ("recover", "request", None, "step hang"),
        ("recover", "step hang", "completed", "run order"),
        ("recover", "run order", None, "execution order"),
        ("recover", "execution order", None, None),
    ]
    parents = [span["parent_id"] for span in spans if span["name"] == "request"]
    assert [names[parent] for parent in parents] == ["step hang", "step hang"]
    interrupted, completed = (span for span in spans if span["name"] == "step hang")
    assert parents == [interrupted["context"]["span_id"], completed["context"]["span_id"]]
    execution = spans[-1]
    first_begun = min(span["start_time"] for span in spans)
    assert execution["start_time"] == first_begun
    assert execution["end_time"] == max(span["end_time"] for span in spans)


def test_opentelemetry_instrument_traces_a_program_that_says_nothing_of_it(tmp_path):
    (tmp_path / "program.py").write_text(
        "from workflow_core import Workflow\n"
        "@Workflow.define('order')\n"
        "async def order(ctx):\n"
        "    return await ctx.step('work', lambda: 1)\n"
        "print('RESULT', Workflow.run('order', 'o-1').output)\n",
        encoding="utf-8",
    )

    def run(*command, **environment):
        exporters = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
        return subprocess.run(
            [*command, "program.py"],
            cwd=tmp_path,
            env={**os.environ, "WORKFLOW_DIR": str(tmp_path / "state"), **exporters, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    instrument = Path(sys.executable).with_name("opentelemetry-instrument")
    assert "opentelemetry" not in run(sys.executable, "-X", "importtime").stderr
    off = run(instrument, sys.executable, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="workflow_core")
    assert off.stdout == "RESULT 1\n", off.stderr
    done = run(instrument, sys.executable, WORKFLOW_DIR=str(tmp_path / "other"))
    assert [line for line in done.stdout.splitlines() if '"name"' in line] == [
        '    "name": "step work",',
        '    "name": "run order",',
        '    "name": "execution order",',
    ], done.stderr
