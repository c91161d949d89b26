"""The installed command as a process of its own: pipes, signals, and executions of other processes."""

import importlib.metadata
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from workflow_core.cli import main

COMMAND = [sys.executable, "-m", "workflow_core.cli"]

SLOW = """
import time
from pathlib import Path
from workflow_core import Workflow

@Workflow.define("slow")
async def slow(ctx):
    await ctx.step("first", lambda: 1)
    await ctx.sleep("pause", 60_000 if not Path("go").exists() else 1)
    return "done"

@Workflow.define("blocking")
async def blocking(ctx):
    await ctx.step("block", lambda: time.sleep(60))

@Workflow.define("waiting")
async def waiting(ctx):
    import asyncio
    await ctx.step("begin", lambda: 1)
    while not Path("go").exists():
        await asyncio.sleep(0.02)
    await ctx.step("end", lambda: 2)
"""


@pytest.fixture
def started(tmp_path, shop_text, nursery):
    """Start processes that do not outlive the test."""
    (tmp_path / "shop.py").write_text(shop_text)
    (tmp_path / "slow.py").write_text(SLOW)
    processes = []

    def start(*arguments, **environment):
        process = nursery.popen(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            env={**os.environ, "WORKFLOW_DIR": str(tmp_path / "state"), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def stored(tmp_path, workflow, column="status"):
    path = tmp_path / "state" / "workflows" / workflow / f"{workflow}.db"
    if not path.exists():
        return None
    connection = sqlite3.connect(path)
    try:
        row = connection.execute(f"SELECT {column} FROM executions").fetchone()
        return row and row[0]
    except sqlite3.OperationalError:
        return None
    finally:
        connection.close()


def test_noise_on_every_way_to_stdout_does_not_spoil_json(started, tmp_path):
    (tmp_path / "noisy.py").write_text(
        "import os, subprocess, sys\n"
        "from workflow_core import Workflow\n"
        '@Workflow.define("noisy")\n'
        "async def noisy(ctx):\n"
        "    def shout():\n"
        '        print("print")\n'
        '        os.write(1, b"descriptor\\n")\n'
        '        subprocess.run([sys.executable, "-S", "-c", "print(\'child\')"], check=True)\n'
        '    await ctx.step("shout", shout)\n'
    )
    out, err = started("start", "noisy", "--app", "noisy", "--format", "json").communicate(timeout=60)
    assert json.loads(out)["status"] == "completed"
    assert all(noise in err for noise in ("print", "descriptor", "child"))


def test_what_the_encoding_of_a_pipe_lacks_is_escaped(tmp_path, shop_text):
    (tmp_path / "shop.py").write_text(shop_text)
    said = {"name": "Zoë 日本 😀"}

    def output_of(*arguments):
        environment = {**os.environ, "WORKFLOW_DIR": str(tmp_path / "state"), "PYTHONIOENCODING": "cp1252"}
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    started = output_of("start", "order", "--app", "shop", "--execution-id", "o-1", "--input", json.dumps(said))
    assert r"Zoë \u65e5\u672c \ud83d\ude00" in started.decode("cp1252")
    assert json.loads(output_of("status", "o-1", "--format", "json").decode("cp1252"))["input"] == said
    assert "Zoë 日本 😀" in output_of("inspect", "o-1", "--html", "-").decode()  # the page says that it is UTF-8


@pytest.mark.parametrize("workflow", ["slow", "blocking"])
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_ctrl_c_tells_how_to_go_on(started, tmp_path, workflow):
    process = started("start", workflow, "--app", "slow", "--execution-id", "e-1")
    under_way = {"slow": "sleeping", "blocking": "running"}[workflow]
    steps = "(SELECT count(*) FROM steps) || status"
    wait_for(lambda: stored(tmp_path, workflow, steps) in {f"2{under_way}", f"1{under_way}"})
    if workflow == "slow":
        wait_for(lambda: stored(tmp_path, workflow) == "sleeping")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == 'Interrupted. "workflow resume e-1 --app slow" goes on where it was.'
    assert "Traceback" not in out + err
    assert stored(tmp_path, workflow) == under_way
    if workflow == "slow":
        before = stored(tmp_path, workflow, "fencing_token")
        process = started("resume", "e-1", "--app", "slow")
        wait_for(lambda: stored(tmp_path, workflow, "fencing_token") > before)
        process.send_signal(signal.SIGTERM)
        assert "goes on where it was" in process.communicate(timeout=30)[1]
        assert process.returncode == 143


def test_following_joining_and_cancelling_the_execution_of_another_process(started, tmp_path, cli):
    runner = started("start", "waiting", "--app", "slow", "--execution-id", "w-1")
    wait_for(lambda: stored(tmp_path, "waiting", "(SELECT count(*) FROM steps WHERE status = 'completed')") == 1)
    follower = started("status", "w-1", "--follow")
    joiner = started("start", "waiting", "--execution-id", "w-1", "--format", "json")
    assert "ExecutionStarted" in follower.stdout.readline()
    assert "joined" in joiner.stderr.readline()
    refused = cli("resume", "w-1")
    assert refused.code == 2
    assert f"runs in another process (pid {runner.pid})" in refused.err
    assert cli("cancel", "w-1", "--quiet").out == "w-1\n"
    (tmp_path / "go").touch()
    for process, name in ((runner, "runner"), (follower, "follower"), (joiner, "joiner")):
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err.splitlines()[-1]) == (1, 'Error: Execution "w-1" was cancelled'), name
        if process is joiner:
            assert json.loads(out)["status"] == "cancelled"


def test_what_a_killed_process_left_is_recovered(started, tmp_path, cli, make_app):
    runner = started("start", "waiting", "--app", "slow", "--execution-id", "w-1")
    wait_for(lambda: stored(tmp_path, "waiting", "(SELECT count(*) FROM steps WHERE status = 'completed')") == 1)
    runner.kill()
    runner.communicate()
    (tmp_path / "go").touch()
    done = cli("recover", "--app", make_app(SLOW))
    assert done.code == 0
    assert "event=ExecutionRecovered" in done.out
    assert stored(tmp_path, "waiting") == "completed"


def test_a_reader_that_leaves_ends_it_quietly(started):
    process = started("start", "order", "--app", "shop", "--execution-id", "o-1")
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(30) in {0, 1}
    assert "Traceback" not in err
    assert "Exception" not in err


def test_streams_that_were_closed_before_it_began_are_done_without(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main(["--version"]) == 0
    for stream in (sys.stdout, sys.stderr):
        with stream:
            assert stream.name == os.devnull


def test_what_the_overview_imports_and_what_the_command_says_without_its_packages():
    script = (
        "import sys, importlib.util\n"
        "from workflow_core.cli import main\n"
        "main(['--help'])\n"
        "heavy = {'pydantic', 'asyncio', 'sqlite3', 'rich', 'tabulate', 'workflow_core.engine'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))\n"
        "importlib.util.find_spec = lambda name: None\n"
        "sys.exit(main(['--help']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "loaded: []"
    assert done.returncode == 2
    assert done.stderr == 'The command "workflow" needs more packages: pip install "pytest-workflow-core[cli]"\n'


def test_the_command_is_a_script_of_the_distribution():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="workflow")
    assert script.load() is main


def test_a_reader_that_goes_away_leaves_an_execution_that_can_go_on(started, tmp_path):
    process = started("--app", "slow", "start", "waiting", "--execution-id", "w-1")
    wait_for(lambda: stored(tmp_path, "waiting") == "running")
    process.stdout.close()
    process.stdout = None
    (tmp_path / "go").touch()  # there is more to print
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "nobody reads the output any more" in err
    assert '"workflow status w-1" shows how far it got' in err
    again = started("--app", "slow", "start", "waiting", "--execution-id", "w-1", "--format", "json")
    out, _ = again.communicate(timeout=60)
    assert json.loads(out)["status"] == "completed"
