"""The fixture `workflow_db`, and where it keeps the state."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def ran(workflow, workflow_faults):
    @workflow.define("ran")
    async def ran(ctx):
        await ctx.step("first", lambda: {"a": 1})
        await ctx.sleep("nap", 500)
        await ctx.step("second", lambda: 2).with_circuit_breaker(failure_threshold=1, reset_timeout_ms=1_500)

    workflow_faults.fail("second", ValueError("no"), attempts=[1])
    return workflow.run("ran", "r-1", {"in": "put"}, {"backoff_ms": 2_000})


def test_query(ran, workflow_db):
    sql = "SELECT id, status FROM executions WHERE id = ? AND status <> ?"
    assert workflow_db.query(sql, "r-1", "failed") == [{"id": "r-1", "status": "completed"}]
    assert workflow_db.query("SELECT 1 AS one WHERE 0") == []


def test_executions(ran, workflow_db):
    (row,) = workflow_db.executions()
    assert (row["id"], row["workflow_name"], row["status"]) == ("r-1", "ran", "completed")


def test_steps_in_the_order_they_began(ran, workflow_db):
    assert [
        (row["step_id"], row["status"], row["attempt"]) for row in workflow_db.steps("r-1") if row["kind"] == "step"
    ] == [
        ("first", "completed", 1),
        ("second", "completed", 2),
    ]
    assert [row["step_id"] for row in workflow_db.steps("r-1")] == ["first", "nap", "second"]
    assert workflow_db.steps("other") == []


def test_results_are_readable_json(ran, workflow_db):
    assert workflow_db.query("SELECT json_extract(result_data, '$.a') AS a FROM steps WHERE step_id = 'first'") == [
        {"a": 1}
    ]


def test_circuit_breakers(ran, workflow_db):
    (row,) = workflow_db.circuit_breakers()
    assert (row["workflow_name"], row["step_id"], row["status"]) == ("ran", "second", "closed")


def test_step_errors(ran, workflow_db):
    (row,) = workflow_db.step_errors("r-1")
    assert (row["step_id"], row["attempt"], row["error_type"], row["error_message"]) == (
        "second",
        1,
        "ValueError",
        "no",
    )


def test_step_events(ran, workflow_db):
    assert [row["seq"] for row in workflow_db.step_events("r-1")] == list(
        range(1, len(workflow_db.step_events("r-1")) + 1)
    )


def test_every_timestamp_is_virtual(ran, workflow_db):
    """All text that reads like a time, in every column of every table, lies in the test's few seconds."""
    tables = [row["name"] for row in workflow_db.query("SELECT name FROM sqlite_master WHERE type = 'table'")]
    moments = [
        value
        for table in tables
        for row in workflow_db.query(f'SELECT * FROM "{table}"')
        for name, value in row.items()
        if name.endswith("_at") and isinstance(value, str)
    ]
    assert len(moments) > 10
    assert {moment[:17] for moment in moments} == {"2025-01-01T00:00:"}


def test_memory_is_the_default(workflow_db):
    assert workflow_db.path == ":memory:"
    assert workflow_db.query("PRAGMA database_list")[0]["file"] == ""


@pytest.mark.workflow_store("file")
def test_marker_file(workflow, workflow_db, tmp_path):
    assert Path(workflow_db.path).is_relative_to(tmp_path)
    workflow.define("one", one)
    workflow.run("one", "o")
    with sqlite3.connect(workflow_db.path) as other:
        assert other.execute("SELECT status FROM executions").fetchall() == [("completed",)]
    other.close()
    assert workflow_db.executions()[0]["status"] == "completed"


async def one(ctx):
    await ctx.sleep("nap", 60_000)
    return await ctx.step("one", lambda: 1)


@pytest.mark.workflow_store(kind="file")
def test_reopen_on_a_file(workflow, workflow_clock, workflow_db):
    workflow.define("one", one)
    workflow.run("one", "o", detach=True)
    workflow_clock.advance(10_000)
    workflow.reopen()
    assert workflow.wait("o").output == 1
    assert workflow_db.query("PRAGMA integrity_check") == [{"integrity_check": "ok"}]


WHICH = """
    import pytest

    def test_default(workflow_db):
        assert workflow_db.path {default}

    @pytest.mark.workflow_store("memory")
    def test_memory(workflow_db):
        assert workflow_db.path == ":memory:"

    @pytest.mark.workflow_store("file")
    def test_file(workflow_db):
        assert workflow_db.path.endswith(".db")
"""


@pytest.mark.parametrize(
    ("options", "default", "header"),
    [
        ([], '== ":memory:"', "memory"),
        (["--workflow-store=memory"], '== ":memory:"', "memory"),
        (["--workflow-store=file"], '.endswith(".db")', "file"),
        (["-o", "workflow_store=file"], '.endswith(".db")', "file"),
        (["-o", "workflow_store=file", "--workflow-store=memory"], '== ":memory:"', "memory"),
    ],
)
def test_option_ini_and_marker(run_within, pytester, options, default, header):
    pytester.makepyfile(WHICH.format(default=default))
    result = run_within(*options)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines([f"workflow: {header} store*"])


@pytest.mark.parametrize("marker", ['"disk"', "", '"file", "memory"', 'sort="file"'])
def test_a_wrong_marker_fails_in_one_line(run_within, pytester, marker):
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.workflow_store({marker})
        def test_it(workflow): ...
        """
    )
    result = run_within()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(['@pytest.mark.workflow_store takes "memory", "file" or "postgres", nothing else'])
    assert "Traceback" not in result.stdout.str()
    assert "entry.py" not in result.stdout.str()


def test_wrong_values_end_the_run(run_within, pytester):
    pytester.makepyfile("def test_it(): ...")
    by_ini = run_within("-o", "workflow_store=disk")
    assert by_ini.ret == pytest.ExitCode.USAGE_ERROR
    by_ini.stderr.fnmatch_lines(["ERROR: workflow_store = 'disk' in the configuration: use memory, file or postgres"])
    by_option = run_within("--workflow-store=disk")
    assert by_option.ret == pytest.ExitCode.USAGE_ERROR
    by_option.stderr.fnmatch_lines(["*argument --workflow-store: invalid choice: 'disk'*"])
