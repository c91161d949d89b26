"""Each command, in this process: what it prints, what it does, and its exit code."""

import asyncio
import contextlib
import json
import re
import shlex
import sqlite3
import sys
from datetime import UTC, datetime, timedelta

import pytest

from tests.shared_definitions import scoped
from workflow_core import PanicError, Settings, WorkflowEngine
from workflow_core.cli.application import COMMANDS, workflow
from workflow_core.cli.commands import list_workflows
from workflow_core.cli.follow import Follower
from workflow_core.database.layout import RuntimeLayout
from workflow_core.definitions import executors
from workflow_core.errors import ExecutionNotFoundError
from workflow_core.views.execution_view import read_view

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"


@pytest.fixture
def interrupted(cli, app, directory):
    """An execution that sleeps, and whose process is gone."""
    cli("list")  # imports the app

    async def begin():
        engine = WorkflowEngine(settings=Settings(directory=directory, recover_on_start=False))
        await engine.start("night", "night-1", detach=True)
        while (await engine.get_status("night-1")).status != "sleeping":
            await asyncio.sleep(0.001)
        await engine.aclose()

    asyncio.run(begin())
    return "night-1"


# Overviews ------------------------------------------------------------------------------------------------------------


def test_the_overview_says_of_each_command_what_the_command_says_of_itself():
    assert list(COMMANDS) == workflow.list_commands(None)
    for name, entry in COMMANDS.items():
        command = workflow.get_command(None, name)
        assert command.name == name
        assert command.get_short_help_str(200)
        assert command.epilog.startswith("\b\nExamples:\n")
        assert entry.summary.endswith(".")
    assert workflow.get_command(None, "ls") is list_workflows.command


def test_nothing_is_made_by_looking(cli, directory):
    assert cli("list").out == f"No workflows found in {directory}.\n"
    assert cli("status").out == f"No workflows found in {directory}.\n"
    assert cli("list", "--format", "json").data == []
    assert cli("status", "nobody").code == 3
    assert not directory.exists()


def test_workflows_of_code_and_of_documents_are_listed(cli, app):
    assert cli("create", "greeting", "--description", "Says hello").code == 0
    assert cli("start", "order", "--quiet").code == 0
    listed = {each["name"]: each for each in cli("list", "--format", "json").data}
    assert set(listed) == {"declined", "fragile", "greeting", "night", "order", "typed"}
    assert listed["order"]["executions_by_status"] == {"completed": 1}
    assert listed["order"]["description"] == "Process an order."
    assert (listed["greeting"]["description"], listed["greeting"]["last_execution_at"]) == ("Says hello", None)
    assert cli("ls", "--quiet", "--status", "active").out.split() == sorted(listed)
    assert cli("list", "-f", "json").data == cli("list", "-F", "json").data
    assert cli("status", "--workflow", "order", "-f", "json").data[0]["status"] == "completed"
    assert cli("list", "--status", "inactive").out.startswith("No inactive workflows found in ")
    table = cli("list").out
    assert "Says hello" in table
    assert "never" in table


def test_status_without_an_id(cli, app):
    cli("start", "order", "--execution-id", "o-1")
    cli("start", "declined", "--execution-id", "d-1")
    rows = {line.split()[0]: line.split()[1:6] for line in cli("status").out.splitlines()[2:]}
    assert rows["order"] == ["1", "0", "1", "0", "0"]
    assert rows["declined"] == ["1", "0", "0", "1", "0"]
    executions = cli("status", "--workflow", "order", "--format", "json").data
    assert [(each["execution_id"], each["status"], each["steps"]) for each in executions] == [("o-1", "completed", 3)]
    assert cli("status", "-w", "order", "--status", "failed").out == "No executions found for workflow: order\n"
    assert cli("status", "--status", "failed", "--quiet").out == "d-1\n"
    missing = cli("status", "--workflow", "ordr")
    assert missing.code == 3
    assert 'did you mean "order"?' in missing.err


def test_an_execution_that_is_removed_while_they_are_listed_is_left_out(cli, app, monkeypatch):
    for execution_id in ("o-1", "o-2", "o-3"):
        cli("start", "order", "--execution-id", execution_id)

    async def removing(engine, execution_id):
        if execution_id == "o-2":
            raise ExecutionNotFoundError("gone")
        return await read_view(engine, execution_id)

    monkeypatch.setattr("workflow_core.cli.commands.status.read_view", removing)
    assert cli("status", "--workflow", "order", "--quiet").out == "o-3\no-1\n"


# Creating ------------------------------------------------------------------------------------------------------------


def test_a_workflow_is_created_and_started(cli, directory):
    made = cli("create", "my-workflow", "--description", "My first workflow")
    assert made.code == 0
    assert f"Database: {directory}/workflows/my-workflow/my-workflow.db" in made.out
    assert "Steps: 1" in made.out
    started = cli("start", "my-workflow", "--format", "json")
    assert started.data["status"] == "completed"
    assert "Hello from workflow!" in started.err
    assert "with the same definition" in cli("create", "my-workflow", "--description", "My first workflow").out


def test_a_dry_run_creates_nothing(cli, tmp_path, directory):
    file = tmp_path / "pipeline.json"
    document = {"name": "pipeline", "steps": [{"id": "a", "type": "log", "config": {"message": "hi"}}]}
    file.write_text(json.dumps(document))
    done = cli("create", "pipeline", "--file", file, "--dry-run")
    assert done.code == 0
    assert done.out.startswith("Workflow definition is valid:\n{")
    assert cli("create", "pipeline", "--file", file, "--dry-run", "--format", "json").data == document
    assert not directory.exists()
    assert cli("create", "pipeline", "--file", file).code == 0
    assert cli("list", "--quiet").out == "pipeline\n"


def test_a_document_may_use_the_step_types_of_the_app(cli, make_app, tmp_path, monkeypatch):
    executors.known_types()
    monkeypatch.setattr(executors, "_executors", dict(executors._executors))
    name = make_app(
        "from workflow_core.definitions import register_executor\n"
        '@register_executor("twice")\n'
        "async def twice(config, context):\n"
        '    return 2 * config["n"]\n'
    )
    steps = [{"id": "a", "type": "twice", "config": {"n": "${input.n}"}}]
    (tmp_path / "w.json").write_text(json.dumps({"name": "w", "steps": steps, "output": "${steps.a}"}))
    assert cli("create", "w", "--file", "w.json", "--app", name).code == 0
    assert cli("start", "w", "--app", name, "--input", '{"n": 4}', "--format", "json").data["output"] == 8


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not JSON"),
        ('{"name": "w", "steps": []}', "steps"),
        ('{"name": "w", "steps": [{"id": "a"}]}', "type"),
        ('{"name": "other", "steps": [{"id": "a", "type": "log", "config": {"message": "x"}}]}', '"other", not "w"'),
    ],
)
def test_a_definition_with_mistakes(cli, tmp_path, directory, content, told):
    (tmp_path / "w.json").write_text(content)
    done = cli("create", "w", "--file", "w.json")
    assert done.code == 2
    assert done.err.startswith("Error: ")
    assert told in done.err
    assert cli("create", "w", "--file", "nothing.json").code == 2
    assert cli("create", "../w").code == 2
    assert not directory.exists()


# Starting ------------------------------------------------------------------------------------------------------------


def test_start_shows_the_id_the_events_and_what_came_of_it(cli, app):
    done = cli("start", "order", "--input", '{"source": "database"}')
    assert done.code == 0
    assert re.search(rf"Execution ID: {UUID}$", done.out, re.MULTILINE)
    assert 'Input: {"source":"database"}' in done.out
    assert "Max retries: 4" in done.out
    assert len(re.findall(r"step=charge attempt=\d seq=\d+ event=StepFailed error=NetworkError", done.out)) == 2
    assert re.search(r"completed +3 +\d\d:\d\d:\d\d", done.out)
    assert '"source": "database"' in done.out


def test_json_is_alone_on_stdout(cli, app):
    done = cli("start", "order", "--input", "[1]", "--format", "json")
    assert done.data["output"]["input"] == [1]
    assert done.data["steps"]["charge"]["attempt"] == 3
    assert done.data["circuit_breakers"]["charge"]["status"] == "closed"
    assert "noise on stdout" in done.err


def test_input_from_a_file_and_from_stdin(cli, app, tmp_path, monkeypatch):
    (tmp_path / "input.json").write_text('\ufeff{"n": 1}', encoding="utf-8")
    assert cli("start", "order", "--input-file", "input.json", "-F", "json").data["input"] == {"n": 1}
    (tmp_path / "stdin").write_text('{"n": 2}')
    with (tmp_path / "stdin").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert cli("start", "order", "--input-file", "-", "-F", "json").data["input"] == {"n": 2}
    assert cli("start", "order", "-F", "json").data["input"] == {}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--input", "{bad"], "--input is not JSON"),
        (["--input-file", "missing.json"], "--input-file missing.json: No such file"),
        (["--input", "1", "--input-file", "x"], "exclude each other"),
        (["--max-retries", "11"], "11 is not in the range"),
        (["--execution-id", "a b"], "Invalid execution id"),
        (["--input", '"not an order"'], "Invalid input"),
    ],
)
def test_start_refuses(cli, app, options, told):
    done = cli("start", "typed", *options)
    assert (done.code, done.out) == (2, "")
    assert told in done.err


def test_retries_are_those_of_the_workflow_unless_given(cli, app):
    done = cli("start", "order", "--max-retries", "2", "-F", "json")
    assert done.code == 1
    assert done.data["steps"]["charge"]["attempt"] == 2
    assert "NetworkError: 503" in done.err


def test_a_failure_says_what_to_do(cli, app):
    done = cli("start", "declined", "--execution-id", "d-1")
    assert done.code == 1
    assert done.err.splitlines()[-1] == (
        'Error: Execution "d-1" failed: NetworkError: declined \\x1b[31m for good ...; "workflow restart d-1" runs it '
        "again, completed steps are kept"
    )
    assert "\x1b" not in done.out


def test_a_second_start_shows_the_stored_result(cli, app):
    first = cli("start", "order", "--execution-id", "o-1", "--input", "7", "-F", "json").data
    for again in (
        cli("start", "order", "--execution-id", "o-1", "-F", "json"),
        cli("start", "order", "--execution-id", "o-1", "--input", "7", "-F", "json"),
    ):
        assert again.code == 0
        assert again.data == first
        assert "stored result" in again.err
    assert cli("start", "order", "--execution-id", "o-1", "--input", "8").code == 2
    assert 'in use for workflow "order"' in cli("start", "night", "--execution-id", "o-1").err


def test_a_workflow_that_nothing_defines(cli, app, monkeypatch):
    cli("start", "order", "--execution-id", "o-1")
    unknown = cli("start", "ordr")
    assert unknown.code == 3
    assert 'did you mean "order"?' in unknown.err


# One execution --------------------------------------------------------------------------------------------------------


def test_status_of_an_execution(cli, app):
    done = cli("start", "order", "-F", "json").data
    execution_id = done["execution_id"]
    shown = cli("status", execution_id[:8])
    assert f"order  {execution_id}" in shown.out
    assert cli("status", execution_id[:8], "-F", "json").data == done
    assert cli("status", execution_id, "--quiet").out == "completed\n"


def test_following_ends_with_the_exit_code_of_the_execution(cli, app):
    cli("start", "order", "--execution-id", "o-1")
    cli("start", "declined", "--execution-id", "d-1")
    followed = cli("status", "o-1", "--follow")
    assert followed.code == 0
    assert followed.out.splitlines()[-1].endswith("event=ExecutionCompleted")
    events = [json.loads(line) for line in cli("status", "o-1", "--follow", "-F", "json").out.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert cli("status", "d-1", "--follow").code == 1
    assert cli("status", "--follow").code == 2


def test_following_writes_nothing(app, cli, directory):
    cli("list")  # imports the app

    async def watch():
        settings = Settings(directory=directory, recover_on_start=False, lease_ms=None)
        runner, reader = WorkflowEngine(settings=settings), WorkflowEngine(settings=settings)
        await runner.start("night", "night-1", detach=True)
        while (await runner.get_status("night-1")).status != "sleeping":
            await asyncio.sleep(0.001)
        connection = sqlite3.connect(directory / "workflows" / "night" / "night.db")
        version = connection.execute("PRAGMA data_version").fetchone()
        with Follower(reader, "lines") as follower, contextlib.suppress(TimeoutError):
            await asyncio.wait_for(follower.follow("night-1"), 0.5)
        reader.close()
        assert connection.execute("PRAGMA data_version").fetchone() == version
        connection.close()
        await runner.aclose()

    asyncio.run(watch())


def test_a_part_of_an_id_is_enough_to_look_and_only_of_a_uuid_to_change(cli, app):
    for execution_id in ("order-10", "order-11", "other-1"):
        cli("start", "declined", "--execution-id", execution_id)
    assert "declined  other-1" in cli("status", "othe").out
    several = cli("status", "order-1")
    assert several.code == 2
    assert "order-10, order-11" in several.err
    refused = cli("restart", "other")
    assert refused.code == 3
    assert 'did you mean "other-1"?' in refused.err
    uuid = cli("start", "declined", "--quiet").out.split()[0]
    assert cli("restart", uuid[:8], "--quiet").out == "failed\n"


def test_inspect(cli, app):
    cli("start", "order", "--execution-id", "o-1", "--input", '{"n": 1}')
    shown = cli("inspect", "o-1")
    assert shown.code == 0
    for told in ("Workflow:    order", 'Input:       {"n":1}', "NetworkError: 503", "Circuit breakers", "Timeline"):
        assert told in shown.out
    data = cli("inspect", "o-1", "-F", "json").data
    assert [(error["step_id"], error["attempt"]) for error in data["errors"]] == [("charge", 1), ("charge", 2)]
    assert "NetworkError" in data["errors"][0]["traceback"]
    assert data["events"][-1]["event"] == "ExecutionCompleted"
    assert data["owner"] is None or data["owner"]["pid"]
    assert "Traceback of charge, attempt 1" in cli("inspect", "o-1", "--tracebacks").out


def test_inspect_shows_all_lines_of_an_error(cli, app):
    cli("start", "declined", "--execution-id", "d-1")
    error = "Error:       NetworkError: declined \\x1b[31m for good\n               Ask the bank\n"
    assert error in cli("inspect", "d-1").out


def test_inspect_writes_a_page(cli, app, tmp_path):
    cli("start", "declined", "--execution-id", "d-1")
    done = cli("inspect", "d-1", "--html", "page.html")
    assert (done.code, done.out, done.err) == (0, "", "Wrote page.html\n")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "Content-Security-Policy" in page
    assert "\\u001b[31m" in page
    assert "<svg" in page
    assert cli("inspect", "d-1", "--html", "-").out.startswith("<!DOCTYPE html>")
    assert cli("inspect", "d-1", "--html", "missing/page.html").code == 4
    assert [path.name for path in tmp_path.glob(".page*")] == []


def test_restart(cli, app):
    panicked = cli("start", "fragile", "--execution-id", "f-1")
    assert panicked.code == 1
    assert "MemoryError: out of memory" in panicked.err
    restarted = cli("restart", "f-1", "-F", "json")
    assert (restarted.code, restarted.data["output"], restarted.data["restart_attempt"]) == (0, "survived", 2)
    refused = cli("restart", "f-1")
    assert refused.code == 2
    assert "is completed" in refused.err


def test_an_interrupted_execution_is_told_resumed_and_cancelled(cli, app, interrupted):
    assert "nobody runs it" in cli("status", interrupted).out
    assert cli("status", interrupted, "-F", "json").data["interrupted"] is True
    assert "resume night-1" in cli("restart", interrupted).err
    assert cli("cancel", interrupted, "--quiet").out == "night-1\n"
    assert cli("status", interrupted, "-F", "json").data["status"] == "cancelled"
    assert cli("cancel", interrupted).code == 2
    assert cli("resume", interrupted).code == 2
    assert cli("start", "night", "--execution-id", interrupted).code == 1


def test_a_start_goes_on_with_a_panicked_execution_that_nobody_restarts(cli, make_app, monkeypatch, directory):
    monkeypatch.setenv(
        "WORKFLOW_APP",
        make_app("""
from workflow_core import Workflow

@Workflow.define("shaky")
async def shaky(ctx):
    if ctx.restart_attempt == 1:
        raise MemoryError("out of memory")
    return ctx.input
"""),
    )
    cli("list")

    async def begin():
        engine = WorkflowEngine(settings=Settings(directory=directory, recover_on_start=False))
        with contextlib.suppress(PanicError):
            await engine.start("shaky", "s-1", 5)
        await engine.aclose()

    asyncio.run(begin())
    done = cli("start", "shaky", "--execution-id", "s-1", "-F", "json")
    assert (done.code, done.data["output"], done.data["restart_attempt"]) == (0, 5, 2)


def test_resume_needs_the_code(cli, app, interrupted, monkeypatch, make_app):
    monkeypatch.setenv("WORKFLOW_APP", make_app("x = 1\n"))
    with scoped(empty=True):
        done = cli("resume", interrupted)
        assert done.code == 3
        assert "does not define it" in done.err
        monkeypatch.delenv("WORKFLOW_APP")
        assert "--app MODULE" in cli("resume", interrupted).err


def test_recover(cli, app, make_app, monkeypatch, directory):
    assert "Nothing to recover" in cli("recover").out
    name = make_app("""
from workflow_core import Workflow

@Workflow.define("nap")
async def nap(ctx):
    await ctx.sleep("nap", 50)
""")
    monkeypatch.setenv("WORKFLOW_APP", name)
    cli("list")

    async def begin():
        engine = WorkflowEngine(settings=Settings(directory=directory, recover_on_start=False))
        for number in range(3):
            await engine.start("nap", f"nap-{number}", detach=True)
        await engine.aclose()

    asyncio.run(begin())
    done = cli("recover", "-F", "json")
    assert done.code == 0
    assert {each["execution_id"]: each["status"] for each in done.data} == dict.fromkeys(
        ["nap-0", "nap-1", "nap-2"], "completed"
    )


# Logs ----------------------------------------------------------------------------------------------------------------


def test_logs(cli, app):
    cli("start", "order", "--execution-id", "o-1")
    cli("start", "declined", "--execution-id", "d-1")
    everything = cli("logs").out.splitlines()
    assert len(everything) == len(cli("logs", "order").out.splitlines()) + len(cli("logs", "declined").out.splitlines())
    assert everything == sorted(everything)
    errors = [json.loads(line) for line in cli("logs", "--level", "error", "-F", "json").out.splitlines()]
    assert [(error["execution"], error["event"]) for error in errors] == [("d-1", "ExecutionFailed")]
    one = cli("logs", "--execution", "o-1").out.splitlines()
    assert one[-1].endswith(" event=ExecutionCompleted")
    assert cli("logs", "order", "--lines", "2").out.splitlines() == one[-2:]
    assert cli("logs", "--since", "1h").out.splitlines() == everything
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert (cli("logs", "--since", later).out, cli("logs", "--since", later).err) == ("", "No log lines.\n")
    assert cli("logs", "--since", "yesterday").code == 2
    assert cli("logs", "--execution", "o-1", "--follow").out.splitlines() == one
    assert cli("logs", "nothing").code == 3


def test_logs_of_an_execution_without_a_file_are_its_history(cli, app, directory):
    cli("start", "order", "--execution-id", "o-1")
    written = cli("logs", "--execution", "o-1").out
    RuntimeLayout(directory).execution_log("order", "o-1").unlink()
    derived = cli("logs", "--execution", "o-1", "--follow")
    assert derived.out == written
    assert "stored history" in derived.err


# Upkeep --------------------------------------------------------------------------------------------------------------


def test_cleanup(cli, app):
    cli("start", "order", "--execution-id", "o-1")
    cli("start", "declined", "--execution-id", "d-1")
    assert "Nothing to remove" in cli("cleanup").out
    dry = cli("cleanup", "--older-than", "0", "--dry-run")
    assert "Would remove 2 executions" in dry.out
    assert cli("cleanup", "--older-than", "0", "--status", "failed", "-F", "json").data["removed"] == {"declined": 1}
    assert cli("status", "d-1").code == 3
    assert cli("cleanup", "--older-than", "0", "--quiet").out == "1\n"
    assert cli("status", "o-1").code == 3
    assert cli("cleanup", "--status", "running").code == 2
    for days in ("-1", "nan", "inf"):
        assert cli("cleanup", "--older-than", days).code == 2


def test_backup(cli, app, tmp_path):
    cli("start", "order", "--execution-id", "o-1")
    done = cli("backup", tmp_path / "copy", "-F", "json")
    assert done.data["workflows"] == 1
    assert cli("--directory", tmp_path / "copy", "status", "o-1", "--quiet").out == "completed\n"
    assert cli("backup", tmp_path / "copy").code in {2, 4}


# Options -------------------------------------------------------------------------------------------------------------


def test_shared_options_may_stand_before_and_after_the_command(cli, app, tmp_path):
    other = tmp_path / "other"
    cli("create", "w", "--directory", other)
    for line in (["-C", other, "list", "-q"], ["list", "-q", "-C", other], ["-q", "list", "--directory", other]):
        assert "w" in cli(*line).out.split()
    assert "w" not in cli("list", "-q").out.split()


@pytest.mark.parametrize("line", [["list"], ["status", "e"], ["start", "w"]])
def test_a_runtime_directory_that_is_a_file(cli, monkeypatch, tmp_path, line):
    path = tmp_path / "file"
    path.write_text("kept")
    monkeypatch.setenv("WORKFLOW_DIR", str(path))
    done = cli(*line)
    assert (done.code, done.err) == (4, f"Error: {path} is a file; set WORKFLOW_DIR to a directory\n")
    assert path.read_text() == "kept"


def test_an_unknown_command_and_a_wrong_level(cli, monkeypatch):
    done = cli("strat")
    assert done.code == 2
    assert 'did you mean "start"?' in done.err
    monkeypatch.setenv("LOG_LEVEL", "loud")
    done = cli("list")
    assert (done.code, done.err) == (2, "Error: LOG_LEVEL=loud is no level; use debug, info, warn or error\n")


def test_a_damaged_registry_or_database_is_one_line(cli, app, directory):
    cli("start", "order", "--execution-id", "o-1")
    (directory / "workflows" / "order" / "order.db").write_bytes(b"not a database" * 1_000)
    for suffix in ("-wal", "-shm"):
        (directory / "workflows" / "order" / f"order.db{suffix}").unlink(missing_ok=True)
    done = cli("status", "o-1")
    assert done.code == 4
    assert len(done.err.splitlines()) == 1
    assert "restore it from a backup" in done.err


def _damage(path):
    path.write_bytes(b"not a database" * 1_000)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def test_a_damaged_database_hides_no_other_workflow(cli, app, directory):
    cli("start", "order", "--execution-id", "o-1")
    cli("start", "typed", "--execution-id", "t-1", "--input", '{"amount": 1}')
    _damage(directory / "workflows" / "order" / "order.db")
    for command in ("status", "list"):
        done = cli(command, "--format", "json")
        assert done.code == 4
        assert "restore it from a backup" in done.err
        found = {each["name"]: each for each in done.data}
        assert "order.db" in found["order"]["problem"]
        assert (found["typed"]["executions_by_status"], found["typed"]["problem"]) == ({"completed": 1}, None)
    assert re.search(r"^order +\? +\?", cli("status").out, re.MULTILINE)
    done = cli("status", "--status", "completed", "--quiet")
    assert (done.code, done.out) == (4, "t-1\n")
    assert cli("status", "--workflow", "order").code == 4
    assert cli("status", "nobody").code == 3


def test_a_damaged_database_keeps_no_other_from_being_cleaned_up(cli, app, directory):
    cli("start", "order", "--execution-id", "o-1")
    cli("start", "typed", "--execution-id", "t-1", "--input", '{"amount": 1}')
    _damage(directory / "workflows" / "order" / "order.db")
    done = cli("cleanup", "--older-than", "0", "--format", "json")
    assert (done.code, done.data["removed"], list(done.data["problems"])) == (4, {"typed": 1}, ["order"])
    assert "order.db" in done.err
    assert cli("cleanup", "--older-than", "0", "--workflow", "order").code == 4


def test_a_registry_that_was_deleted_is_made_anew_by_whoever_looks_first(cli, app, directory):
    cli("start", "typed", "--execution-id", "t-1", "--input", '{"amount": 1}')
    for path in directory.glob("registry.db*"):
        path.unlink()
    found = {each["name"]: each["execution_count"] for each in cli("status", "--format", "json").data}
    assert found["typed"] == 1


def test_a_step_that_ends_the_process_is_told_with_an_exit_code_of_its_own(cli, make_app, tmp_path):
    name = make_app(
        "import sys\nfrom workflow_core import Workflow\n"
        '@Workflow.define("leaving")\n'
        "async def leaving(ctx):\n"
        '    await ctx.step("leave", lambda: sys.exit(3))\n'
    )
    done = cli("start", "leaving", "--app", name, "--execution-id", "l-1")
    assert done.code == 1
    assert "ended the process (exit code 3)" in done.err
    assert f'"workflow resume l-1 --app {name}" goes on' in done.err
    done = cli("recover", "--app", name)
    assert (done.code, f'"workflow recover --app {name}" goes on' in done.err) == (1, True)


def test_the_overview_counts_what_was_cancelled(cli, app):
    cli("start", "typed", "--execution-id", "t-1", "--input", '{"amount": 1}')
    header, _, *rows = cli("status").out.splitlines()
    assert header.split() == ["Name", "Total", "Under", "way", "Completed", "Failed", "Cancelled", "Latest"]
    assert ["typed", "1", "0", "1", "0", "0"] in [row.split()[:6] for row in rows]
    assert len(header) < 80


def test_the_log_as_json_has_numbers(cli, app):
    cli("start", "order", "--execution-id", "o-1")
    lines = [json.loads(line) for line in cli("logs", "order", "--format", "json").out.splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line["attempt"] for line in lines if line["event"] == "StepFailed"] == [1, 2]
    assert [line["backoff_ms"] for line in lines if line["event"] == "StepRetrying"] == [0, 0]
    assert cli("logs", "order", "--lines", "0").out == ""


def test_a_mistake_of_the_command_itself_is_one_line(cli, monkeypatch):
    def broken(*_):
        raise TypeError("oh")

    monkeypatch.setattr(list_workflows, "show_overviews", broken)
    done = cli("list")
    assert (done.code, done.err) == (
        70,
        "Error: A mistake in this command: TypeError: oh; LOG_LEVEL=debug shows where\n",
    )
    monkeypatch.setenv("LOG_LEVEL", "debug")
    assert "Traceback" in cli("list").err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(cli, shell):
    done = cli("completion", shell)
    assert done.code == 0
    assert "_WORKFLOW_COMPLETE" in done.out


def test_the_usual_command_lines(cli, make_app, monkeypatch, tmp_path):
    """Each command line that people are told to type, as it is written."""
    (tmp_path / "workflows").mkdir()
    steps = [{"id": "a", "type": "log", "config": {"message": "from ${input.source:-nowhere}"}}]
    for file, name in (("workflows/data-pipeline.json", "data-pipeline"), ("test.json", "test-workflow")):
        (tmp_path / file).write_text(json.dumps({"name": name, "steps": steps}))
    (tmp_path / "input.json").write_text('{"source": "file"}')
    for line in """
        workflow list
        workflow list --format json
        workflow list --status active
        workflow create my-workflow --description "My first workflow"
        workflow create data-pipeline --file ./workflows/data-pipeline.json
        workflow create test-workflow --file ./test.json --dry-run
        workflow start my-workflow
        workflow start my-workflow --execution-id abc123def-456-789
        workflow start data-pipeline --input '{"source": "database", "target": "s3"}'
        workflow start data-pipeline --input-file ./input.json
        workflow start my-workflow --max-retries 5 --retry-delay 2000
        workflow status
        workflow status --workflow my-workflow
        workflow status abc123def-456-789
        workflow status abc123def-456-789 --follow
        workflow cleanup --older-than 7 --dry-run
        workflow cleanup --older-than 30
        workflow cleanup --status failed --older-than 7
    """.strip().splitlines():
        done = cli(*shlex.split(line)[1:])
        assert done.code == 0, (line, done.err)
        assert done.out


@pytest.mark.parametrize("line", [["worker"], ["cluster", "status"], ["start", "order", "--queue", "default"]])
def test_workers_need_postgresql(cli, app, line):
    pytest.importorskip("procrastinate")
    done = cli(*line)
    assert done.code == 2
    assert "Workers need PostgreSQL" in done.err
    assert "WORKFLOW_DATABASE_URL" in done.err


@pytest.mark.parametrize("package", ["procrastinate", "psycopg"])
def test_a_start_for_workers_says_what_is_not_installed(cli, app, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    done = cli("start", "order", "--queue", "default")
    assert done.code == 2
    assert "Workers need PostgreSQL" in done.err
    monkeypatch.setattr("workflow_core.cli.commands.start.dispatching", lambda store: store)
    done = cli("start", "order", "--queue", "default")
    assert (done.code, done.err) == (
        2,
        f'Error: Workers need "{package}"; install it with: pip install "pytest-workflow-core[postgres]"\n',
    )


def test_a_start_for_workers_is_repeated_without_waiting(cli, app, monkeypatch, postgres_url, postgres_schema):
    monkeypatch.setenv("WORKFLOW_DATABASE_URL", postgres_url)
    monkeypatch.setenv("WORKFLOW_DATABASE_SCHEMA", postgres_schema)
    line = ("start", "order", "--execution-id", "o-1", "--queue", "mail", "--priority", "3")
    first = cli(*line, "--input", '{"n": 1}')
    assert first.code == 0, first.err
    assert 'Execution "o-1" is queued for the workers of queue "mail"' in first.out
    assert 'No worker serves this queue yet: "workflow worker --queue mail" begins one' in first.out
    assert cli(*line) == cli(*line, "--input", '{"n": 1}') == first
    assert "another input" in cli(*line, "--input", '{"n": 2}').err
    shown = cli("status", "o-1").out
    assert "  queue mail (priority 3), ready for " in shown
    assert "  no worker serves this queue: workflow worker --app MODULE --queue mail\n" in shown
    assert "\nQueue:       mail, priority 3, ready, no worker serves it\n" in cli("inspect", "o-1").out

    async def interrupted(self, execution_id):
        raise asyncio.CancelledError

    monkeypatch.setattr(WorkflowEngine, "resume", interrupted)
    resumed = cli("resume", "o-1")
    assert resumed.code == 130
    assert resumed.err == 'Interrupted. The execution is not affected; "workflow status o-1 --follow" follows it.\n'


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        (["start", "order", "--id", "o-1"], "Did you mean '--execution-id'?"),
        (["start", "order", "--execution-di", "o-1"], "Did you mean '--execution-id'?"),
        (["status", "--json"], "Did you mean '--format json'?"),
        (["start", "order", "--retries", "3"], "Did you mean '--max-retries'?"),
        (["status", "--nonsense"], "No such option '--nonsense'.\n"),
    ],
)
def test_an_option_that_there_is_not(cli, app, line, meant):
    done = cli(*line)
    assert done.code == 2
    assert meant in done.err


def test_a_list_shows_queues_and_those_of_one(cli, app, monkeypatch, postgres_url, postgres_schema):
    monkeypatch.setenv("WORKFLOW_DATABASE_URL", postgres_url)
    monkeypatch.setenv("WORKFLOW_DATABASE_SCHEMA", postgres_schema)
    for execution_id, queue in (("o-1", "mail"), ("o-2", "default"), ("o-3", "mail")):
        assert cli("start", "order", "--execution-id", execution_id, "--queue", queue).code == 0
    assert re.search(r"o-2 +order +default +queued", cli("status", "--status", "queued").out)
    assert cli("status", "--queue", "mail", "--quiet").out == "o-3\no-1\n"
    assert cli("status", "--queue", "mail", "--limit", "1", "--quiet").out == "o-3\n"
    (found,) = cli("status", "--queue", "default", "-F", "json").data
    assert (found["execution_id"], found["queue"]) == ("o-2", "default")
    assert "No executions found" in cli("status", "--queue", "other").out


def test_a_queue_is_asked_for_where_there_are_none(cli, app):
    done = cli("status", "--queue", "mail")
    assert (done.code, done.out) == (2, "")
    assert "Workers need PostgreSQL" in done.err


@pytest.mark.parametrize("line", [["start", "order", "--queue"], ["worker", "--queue"], ["status", "--queue"]])
def test_the_queue_that_workers_keep_themselves_going_with(cli, app, line, monkeypatch, postgres_url, postgres_schema):
    monkeypatch.setenv("WORKFLOW_DATABASE_URL", postgres_url)
    monkeypatch.setenv("WORKFLOW_DATABASE_SCHEMA", postgres_schema)
    done = cli(*line, "workflow_core")
    assert (done.code, done.out) == (2, "")
    assert 'Invalid queue "workflow_core": workers keep themselves going with it' in done.err


def test_a_priority_is_for_a_queue(cli, app):
    done = cli("start", "order", "--priority", "3")
    assert (done.code, done.err) == (2, "Error: --priority means something only with --queue\n")


@pytest.mark.parametrize(
    "option", ["--concurrency=0", "--grace=-1", "--rest=-1", "--poll=1", "--heartbeat=1", "--queue"]
)
def test_options_of_a_worker_that_cannot_be(cli, app, option):
    assert cli("worker", option).code == 2


def test_the_version(cli):
    assert cli("--version").out.startswith("workflow 0.")
