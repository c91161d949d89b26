"""``--workflow-report``: what it captures, what it writes, and what it says."""

from __future__ import annotations

import os
import re

import pytest

import pytest_workflow.report.plugin as report_plugin

pytest_plugins = ["pytester"]

SUITE = """
    import pytest

    @pytest.fixture
    def flow(workflow):
        @workflow.define("flow")
        async def flow(ctx):
            await ctx.step("charge", lambda: {"id": "tx-1"}).catch(lambda error, ctx: "later")
            await ctx.sleep("settle", 60_000)
            return await ctx.step("receipt", lambda: 7)
        return workflow

    def test_passes(flow, workflow_faults):
        workflow_faults.fail("charge", ValueError("declined"), attempts=[1])
        flow.run("flow", "id-passes", {"customer": "ada"})

    def test_fails(flow):
        assert flow.run("flow", "id-fails").output == 8

    def test_skips(flow):
        flow.run("flow", "id-skips")
        pytest.skip("not today")

    @pytest.mark.xfail
    def test_xfails(flow):
        assert flow.run("flow", "id-xfails").output == 8

    @pytest.mark.xfail
    def test_xpasses(flow):
        assert flow.run("flow", "id-xpasses").output == 7

    @pytest.fixture
    def broken_before(flow):
        flow.run("flow", "id-before")
        raise RuntimeError("set-up broke")

    def test_error_before(broken_before): ...

    @pytest.fixture
    def broken_after(flow):
        yield
        raise RuntimeError("tear-down broke")

    def test_error_after(flow, broken_after):
        flow.run("flow", "id-after")

    def test_of_something_else(): ...
"""


@pytest.fixture
def reports(monkeypatch):
    """Return the reports that runs within this process write."""
    written = []
    render = report_plugin.render

    def noting(report):
        written.append(report)
        return render(report)

    monkeypatch.setattr(report_plugin, "render", noting)
    return written


def test_outcomes_and_executions(run_within, pytester, reports):
    pytester.makepyfile(SUITE)
    run_within("--workflow-report=out/report.html")
    (report,) = reports
    assert {test.node_id.partition("::")[2]: test.outcome for test in report.tests} == {
        "test_fails": "failed",
        "test_error_before": "error",
        "test_error_after": "error",
        "test_passes": "passed",
        "test_skips": "skipped",
        "test_xfails": "xfailed",
        "test_xpasses": "xpassed",
    }
    assert report.tests[0].node_id.endswith("test_fails")  # what needs a look comes first
    assert all(len(test.record.executions) == 1 for test in report.tests)
    assert all(test.record.virtual_ms == 60_000 for test in report.tests)
    assert all(test.seconds > 0 for test in report.tests)
    assert report.other_tests == 1
    assert "assert 7 == 8" in report.tests[0].failure
    text = (pytester.path / "out" / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert all(f"id-{name}" in text for name in ("passes", "fails", "skips", "xfails", "xpasses", "before", "after"))


def test_what_an_execution_shows(run_within, pytester, reports):
    pytester.makepyfile(SUITE)
    run_within("--workflow-report=report.html", "-k", "test_passes")
    (execution,) = reports[0].tests[0].record.executions
    assert (execution.workflow_name, execution.status, execution.error) == ("flow", "completed", None)
    assert (execution.input, execution.output) == ('{\n  "customer": "ada"\n}', "7")
    assert [event.type for event in execution.events] == [
        "ExecutionStarted",
        "StepStarted",
        "StepFailed",
        "StepCompleted",
        "SleepStarted",
        "SleepCompleted",
        "StepStarted",
        "StepCompleted",
        "ExecutionCompleted",
    ]
    assert {step.step_id: step.result for step in execution.steps} == {
        "charge": '"later"',
        "settle": None,
        "receipt": "7",
    }
    (error,) = execution.errors
    assert (error.step_id, error.attempt, error.type, error.message) == ("charge", 1, "ValueError", "declined")
    assert error.stack.startswith("Traceback")


def test_faults_are_noted_where_they_strike(run_within, pytester, reports):
    pytester.makepyfile(
        """
        def test_it(workflow, workflow_faults, workflow_clock):
            @workflow.define("flow")
            async def flow(ctx):
                await ctx.step("a", lambda: 1)
                return await ctx.step("b", lambda: 1).with_circuit_breaker(3, on_open=lambda ctx: 2)

            workflow_faults.fail("a", "lost", attempts=[1])
            workflow_faults.delay("a", 50)
            workflow_faults.open_circuit("b")
            workflow.run("flow", "one", detach=True)
            workflow_clock.advance(1_000)
            workflow.reopen()  # the new engine is watched as well
            workflow.wait("one")
            workflow.run("flow", "two")
        """
    )
    result = run_within("--workflow-report=report.html")
    result.assert_outcomes(passed=1)
    one, two = reports[0].tests[0].record.executions
    seqs = {event.seq: (event.type, event.attempt) for event in one.events}
    struck = [(seqs[fault.after_seq], fault.step_id, fault.description.partition("(")[0]) for fault in one.faults]
    assert (("StepStarted", 1), "a", "delay") in struck
    assert (("StepStarted", 1), "a", "fail") in struck
    assert (("StepStarted", 2), "a", "delay") in struck
    assert [step_id for _, step_id, name in struck if name == "open_circuit"] == ["b"]
    assert {fault.description.partition("(")[0] for fault in two.faults} == {"delay", "fail"}


def test_faults_at_durable_points(run_within, pytester, reports):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("when", ["before", "after"], ids=["1", "2"])
        def test_it(workflow, workflow_faults, when):
            @workflow.define("flow")
            async def flow(ctx):
                return await ctx.step("a", lambda: 1)

            workflow_faults.crash("step_completed", "a", when)
            workflow.run("flow", "x")
        """
    )
    run_within("--workflow-report=report.html").assert_outcomes(passed=2)
    for test, latest in zip(reports[0].tests, ("StepStarted", "StepCompleted"), strict=True):
        (execution,) = test.record.executions
        (fault,) = execution.faults
        assert fault.step_id == "a"
        assert execution.events[fault.after_seq - 1].type == latest
        assert execution.events[fault.after_seq].type == "ExecutionRecovered"


def test_an_asynchronous_test(run_within, pytester, reports):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.asyncio
        async def test_it(workflow):
            workflow.define("flow", lambda ctx: 1)
            await workflow.start("flow", "x")
        """
    )
    run_within("--workflow-report=report.html").assert_outcomes(passed=1)
    (execution,) = reports[0].tests[0].record.executions
    assert execution.status == "completed"


@pytest.mark.parametrize(
    "damage",
    [
        "workflow_db.connection.close()",
        "workflow_db.query('DROP VIEW step_events')",
        """workflow_db.query("UPDATE executions SET status = 'odd'")""",
        """workflow_db.query("INSERT INTO event_log VALUES ('x', 99, 'Odd', NULL, NULL, '2025-01-01', NULL)")""",
    ],
)
def test_a_database_that_a_test_has_damaged(run_within, pytester, reports, damage):
    pytester.makepyfile(
        f"""
        def test_it(workflow, workflow_db):
            workflow.define("flow", lambda ctx: 1)
            workflow.run("flow", "x")
            {damage}
        """
    )
    run_within("--workflow-report=report.html").assert_outcomes(passed=1)
    assert "cannot be read" in reports[0].tests[0].record.problem


def test_a_damaged_result_is_shown_as_it_is(run_within, pytester, reports):
    pytester.makepyfile(
        """
        def test_it(workflow, workflow_db):
            workflow.define("flow", lambda ctx: 1)
            workflow.run("flow", "x")
            workflow_db.query("UPDATE executions SET output_data = '{broken'")
        """
    )
    run_within("--workflow-report=report.html")
    assert reports[0].tests[0].record.executions[0].output == "{broken"


def test_a_test_that_is_run_again_counts_once_by_its_last_run(run_within, pytester, reports):
    pytester.makeconftest(
        """
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            runtestprotocol(item, nextitem=nextitem)
            runtestprotocol(item, nextitem=nextitem)
            return True
        """
    )
    pytester.makepyfile(
        """
        runs = []

        def test_it(workflow):
            workflow.define("flow", lambda ctx: 1)
            runs.append(workflow.run("flow", f"run-{len(runs) + 1}"))
            assert len(runs) == 2
        """
    )
    run_within("--workflow-report=report.html")
    (test,) = reports[0].tests
    assert (test.outcome, test.failure) == ("passed", None)
    assert [execution.execution_id for execution in test.record.executions] == ["run-2"]


def test_long_histories_and_texts_are_cut(run_within, pytester, reports, monkeypatch):
    monkeypatch.setattr("pytest_workflow.report.capture.MOST_EVENTS", 5)
    monkeypatch.setattr("pytest_workflow.report.capture.MOST_EXECUTIONS", 2)
    monkeypatch.setattr("workflow_core.report.reading.LONGEST_TEXT", 20)
    pytester.makepyfile(
        """
        def test_it(workflow):
            @workflow.define("flow")
            async def flow(ctx):
                await ctx.step("a", lambda: "x" * 100)
                await ctx.step("b", lambda: 1)

            for _ in range(3):
                workflow.run("flow")
        """
    )
    run_within("--workflow-report=report.html").assert_outcomes(passed=1)
    record = reports[0].tests[0].record
    assert (len(record.executions), record.problem) == (2, "1 more executions of this test are not shown.")
    execution = record.executions[0]
    assert (len(execution.events), execution.left_out) == (5, 1)
    assert execution.steps[0].result.endswith("\n... 82 more characters")


def test_no_workflow_test_ran(run_within, pytester):
    pytester.makepyfile("def test_it(): ...")
    result = run_within("--workflow-report=report.html")
    assert "No workflow tests ran" in (pytester.path / "report.html").read_text(encoding="utf-8")
    result.stdout.fnmatch_lines(["0 workflow tests, 0 executions, *report.html*"])


# Where it is written -------------------------------------------------------------------------------------------------


def test_header_and_summary_name_the_file(run_within, pytester):
    pytester.makepyfile(SUITE)
    result = run_within("--workflow-report=out/report.html", "-k", "passes and not x")
    path = pytester.path / "out" / "report.html"
    result.stdout.fnmatch_lines(
        [
            f"workflow report: {path}",
            "*= workflow report =*",
            f"1 workflow test, 1 execution, 1 min of virtual time in *: {path} (* kB)",
        ]
    )


@pytest.mark.parametrize("place", ["", ".", "file.txt/report.html", "/proc/none/report.html"])
def test_a_place_that_cannot_be_written_ends_the_run_at_its_start(run_within, pytester, place):
    pytester.makefile(".txt", file="a file, and no directory")
    pytester.makepyfile("def test_it(workflow): open('ran', 'w')")
    result = run_within(f"--workflow-report={place}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --workflow-report={place}: *name a*"])
    assert not (pytester.path / "ran").exists()


def test_a_place_that_goes_missing_during_the_run_is_said_and_fails_the_run(run_within, pytester):
    pytester.makepyfile(
        """
        import shutil

        def test_it(workflow):
            shutil.rmtree("out")
            open("out", "w").close()
        """
    )
    result = run_within("--workflow-report=out/report.html")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["*report.html cannot be written: *"])


def test_an_older_report_stays_whole_until_it_is_replaced(run_within, pytester, monkeypatch):
    pytester.makepyfile("def test_it(workflow): ...")
    path = pytester.path / "report.html"
    path.write_text("older")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    result = run_within("--workflow-report=report.html")
    monkeypatch.undo()
    result.stdout.fnmatch_lines(["*cannot be written: No space left on device"])
    assert path.read_text() == "older"
    assert not list(pytester.path.glob(".report*"))


def test_collecting_alone_writes_nothing(run_within, pytester):
    pytester.makepyfile("def test_it(workflow): ...")
    run_within("--workflow-report=report.html", "--collect-only")
    assert not (pytester.path / "report.html").exists()


def test_the_same_report_from_several_processes(run_within, run_apart, pytester):
    pytester.makepyfile(SUITE)
    pages = []
    for run, options in ((run_within, ()), (run_apart, ("-n", "2", "-W", "error"))):
        result = run(*options, "--workflow-report=report.html")
        result.stdout.fnmatch_lines(["7 workflow tests, 7 executions, *"])
        pages.append(_without_real_time((pytester.path / "report.html").read_text(encoding="utf-8")))
    assert pages[0] == pages[1]


def _without_real_time(page):
    """Return a page without what differs from run to run, and without the worker's name in tracebacks."""
    for differs in (
        r"<time.*?</time>",
        r"in a run of [\d.]+ m?s|[\d,]+ times as fast",
        r"<span>[\d.]+ m?s real</span>",
        r"<dt>Real time</dt><dd[^>]*>[\d.]+ m?s",
        r"\[gw\d\] .*\n\n",
    ):
        page = re.sub(differs, "", page)
    return page


def test_a_test_whose_marker_is_wrong_is_shown_as_an_error(run_within, pytester, reports):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.workflow_faults("nope.json")
        def test_workflow(workflow):
            pass

        @pytest.fixture
        def broken():
            raise RuntimeError

        def test_other(broken):
            pass
        """
    )
    run_within("--workflow-report=report.html")
    (test,) = reports[0].tests
    assert (test.outcome, test.record.executions) == ("error", ())
    assert "nope.json cannot be read" in test.failure
