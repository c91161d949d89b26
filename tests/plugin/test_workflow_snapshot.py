"""Normalised histories, and the fixture `workflow_snapshot`, which compares them with stored snapshots."""

from __future__ import annotations

import json
import sys
import uuid
from datetime import timedelta

import pytest

from pytest_workflow import StepCompleted, normalized

pytest_plugins = ["pytester"]


def messages(history):
    return [event["message"] for event in normalized(history) if "message" in event]


def test_normalized(workflow, workflow_faults):
    @workflow.define("order")
    async def order(ctx):
        await ctx.step("charge", lambda: 1).catch(lambda error, ctx: "later")
        await ctx.sleep("settle", timedelta(seconds=2))

    workflow_faults.fail("charge", ConnectionError("503"))
    history = workflow.history(workflow.run("order", "o-1"))
    assert normalized(history) == [
        {"event": "ExecutionStarted", "at_ms": 0},
        {"event": "StepStarted", "at_ms": 0, "step_id": "charge", "attempt": 1},
        {
            "event": "StepFailed",
            "at_ms": 0,
            "step_id": "charge",
            "attempt": 1,
            "error": "ConnectionError",
            "message": "503",
        },
        {"event": "StepCompleted", "at_ms": 0, "step_id": "charge", "attempt": 1, "handled_by": "catch"},
        {"event": "SleepStarted", "at_ms": 0, "step_id": "settle", "duration_ms": 2000},
        {"event": "SleepCompleted", "at_ms": 2000, "step_id": "settle"},
        {"event": "ExecutionCompleted", "at_ms": 2000},
    ]
    assert json.loads(json.dumps(normalized(history))) == normalized(history)
    assert normalized(history.of("settle"))[0]["at_ms"] == 0
    assert normalized(history[:0]) == []


def test_two_executions_are_the_same_apart_from_their_ids_and_times(workflow, workflow_clock):
    workflow.define("w", lambda ctx: ctx.step("a", lambda: 1))
    first = workflow.history(workflow.run("w"))
    workflow_clock.advance(1_234)
    second = workflow.history(workflow.run("w"))
    assert first[0].at != second[0].at
    assert normalized(first) == normalized(second)


OTHER, THIRD = uuid.uuid4(), uuid.uuid4()


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"{OTHER} and {THIRD}, {str(OTHER).upper()}", "<uuid-1> and <uuid-2>, <uuid-1>"),
        ("<Client object at 0x7f30cb3a2f90>", "<Client object at 0x...>"),
        ("code 0x7f30cb3a2f90", "code 0x7f30cb3a2f90"),
        (
            'remote:\nTraceback (most recent call last):\n  File "/srv/a.py", line 3, in f\n    x()\nValueError: no',
            "remote:\n<traceback>\nValueError: no",
        ),
        ('File "/home/ada/shop/pay.py", line 42, in charge', 'File "pay.py", line ..., in charge'),
        ("no such file: '/tmp/pytest-of-ada/pytest-12/test_it0/x.csv'", "no such file: '<tmp>/test_it0/x.csv'"),
        ("in /tmp/pytest-of-ada/pytest-12/popen-gw1/test_it0/x.csv", "in <tmp>/test_it0/x.csv"),
        (r"C:\Temp\pytest-of-ada\pytest-12\test_it0\x.csv", r"<tmp>\test_it0\x.csv"),
        ("line 3 of 5 is wrong at 08:15", "line 3 of 5 is wrong at 08:15"),
    ],
)
def test_what_is_masked(workflow, workflow_faults, text, masked):
    workflow.define("w", lambda ctx: ctx.step("a", lambda: 1))
    workflow_faults.fail("a", ValueError(text), attempts=[1])
    assert messages(workflow.history(workflow.run("w"))) == [masked]


def test_further_texts_to_hide(workflow, workflow_faults):
    workflow.define("w", lambda ctx: ctx.step("a", lambda: 1))
    workflow_faults.fail("a", ValueError("port 5432 of /data/x"), attempts=[1])
    history = workflow.history(workflow.run("w"))
    hidden = normalized(history, hide={"5432": "<port>", "/data": "<data>"})
    assert hidden[2]["message"] == "port <port> of <data>/x"


def test_the_executions_own_uuid(workflow):
    def fail(ctx):
        raise ValueError(f"{ctx.execution_id} after {OTHER}")

    workflow.define("w", lambda ctx: ctx.step("a", lambda: fail(ctx)))
    result = workflow.run("w", str(THIRD), retry_config={"max_attempts": 1})
    assert messages(workflow.history(result)) == ["<execution> after <uuid-1>"] * 2


@pytest.mark.parametrize("wrong", [[StepCompleted("a")], ["text"]])
def test_what_cannot_be_normalized(wrong):
    with pytest.raises(TypeError, match="never happened"):
        normalized(wrong)


# The fixture ---------------------------------------------------------------------------------------------------------

SUITE = """
    import pytest
    from pathlib import Path

    class Client: ...

    @pytest.mark.parametrize("store", ["memory"])
    def test_it(workflow, workflow_snapshot, store, tmp_path):
        @workflow.define("order")
        async def order(ctx):
            def body():
                raise ConnectionError(f"{Client()} {ctx.execution_id} {tmp_path / 'x'}")

            await ctx.step("charge", body).catch(lambda error, ctx: "later")
            await ctx.sleep("settle", SETTLE)

        history = workflow.history(workflow.run("order"))
        assert workflow_snapshot == history
        assert history == workflow_snapshot(name="the other way round")
        assert workflow_snapshot == {"part": history.of("settle"), "number": 1}
"""


@pytest.fixture(autouse=True)
def _no_worker(monkeypatch):
    """Let syrupy within this process write, although the tests may run in a worker of pytest-xdist."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)


def suite(pytester, settle=1_500):
    pytester.makepyfile(test_suite=SUITE.replace("SETTLE", str(settle)))


def test_a_snapshot_is_stored_and_compared(pytester, run_within, run_apart, monkeypatch):
    suite(pytester)
    missing = run_within()
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(["*Snapshot 'test_it*memory*' does not exist!"])
    run_within("--snapshot-update").assert_outcomes(passed=1)
    (file,) = pytester.path.glob("__snapshots__/*")
    stored = file.read_text(encoding="utf-8")
    assert "'message': '<test_suite.Client object at 0x...> <execution> <tmp>/test_it_memory_0/x'," in stored
    run_within().assert_outcomes(passed=1)
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    run_apart("-n", "1", "-W", "error", "--workflow-store=file", needed=["syrupy"]).assert_outcomes(passed=1)
    assert file.read_text(encoding="utf-8") == stored


def test_a_difference_is_shown_line_by_line(pytester, run_within):
    suite(pytester)
    run_within("--snapshot-update").assert_outcomes(passed=1)
    suite(pytester, settle=2_000)
    result = run_within("-vv")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E *-     'duration_ms': 1500,", "E *+     'duration_ms': 2000,", "*workflow history of*"]
    )


def test_other_extensions_and_filters(pytester, run_within):
    pytester.makepyfile(
        """
        import json
        from pathlib import Path
        from syrupy.extensions.json import JSONSnapshotExtension
        from syrupy.filters import props

        def test_it(workflow, workflow_snapshot):
            workflow.define("w", lambda ctx: ctx.step("a", lambda: 1))
            history = workflow.history(workflow.run("w"))
            assert workflow_snapshot(extension_class=JSONSnapshotExtension, exclude=props("at_ms")) == history
        """
    )
    run_within("--snapshot-update").assert_outcomes(passed=1)
    (file,) = pytester.path.rglob("*.json")
    assert json.loads(file.read_text(encoding="utf-8")) == [
        {"event": "ExecutionStarted"},
        {"event": "StepStarted", "step_id": "a", "attempt": 1},
        {"event": "StepCompleted", "step_id": "a", "attempt": 1},
        {"event": "ExecutionCompleted"},
    ]


def test_without_syrupy(pytester, run_within, monkeypatch):
    suite(pytester)
    monkeypatch.setitem(sys.modules, "syrupy.assertion", None)
    result = run_within("-p", "no:syrupy")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*syrupy, which is not installed: pip install 'pytest-workflow-core*snapshot*'*inline-snapshot*normalized"]
    )
    result.stdout.no_fnmatch_line("*During handling*")


def test_with_syrupy_turned_off(pytester, run_within):
    suite(pytester)
    result = run_within("-p", "no:syrupy")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*not active*run pytest without -p no:syrupy*"])


def test_another_fixture_of_the_name(pytester, run_within):
    suite(pytester)
    pytester.makeconftest("import pytest\n\n@pytest.fixture\ndef snapshot():\n    return {}")
    result = run_within()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the fixture snapshot is not syrupy's but a builtins.dict*"])
