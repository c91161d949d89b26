"""``--workflow-coverage``: what a run of pytest shows, writes and fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.shared_definitions import scoped

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def _no_shared_workflows():
    """Forget the workflows of this process's other tests."""
    with scoped(empty=True):
        yield


def document(pytester, name):
    return json.loads((pytester.path / name).read_text(encoding="ascii"))


SUITE = """
    import pytest

    from workflow_core import Workflow

    @Workflow.define("order")
    async def order(ctx):
        await ctx.step("pay", lambda: 1).on_error({"default": lambda error, ctx: 0}).catch(lambda error, ctx: 0)
        for number in range(ctx.input or 1):
            await ctx.step(f"item-{number}", lambda: 1)
        await ctx.sleep("rest", 10)

    @Workflow.define("refund")
    async def refund(ctx):
        await ctx.step("back", lambda: 1)

    def test_plain(workflow):
        workflow.run("order")

    @pytest.mark.parametrize("number", range(6))
    def test_payment(workflow, workflow_faults, number):
        workflow_faults.fail("pay", ValueError())
        workflow.run("order", input=number)

    def test_without_a_workflow():
        pass
"""


def test_the_report(run_within, pytester):
    pytester.makepyfile(SUITE)
    result = run_within("--workflow-coverage")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "*= workflow coverage =*",
            "Cells: *",
            "order: 18.7% (3 of 16)",
            "step * failed * retried * crash * slept * entered",
            "pay  * 6 * never * never *",
            "> on_error:default * 6",
            "> catch * never",
            "item-?* (5 ids) * never * -",
            "rest * - * - * 7*",
            "workflow * tests * covered * share",
            "order * 7 * 3/16 * 18.7%",
            "refund * never * - * 0%",
            "in all * 3/17 * 17.6%",
            "1 step that no test made fail:",
            "  order: item-?* (5 ids)",
            "1 handler that no test entered:",
            "  order: catch of pay",
        ]
    )


def test_the_documentation_shows_what_is_printed(run_within, pytester):
    page = (Path(__file__).parents[2] / "docs" / "coverage.md").read_text(encoding="utf-8")
    source, _, rest = page.partition("```python\n")[2].partition("```")
    promised = rest.partition("```text\n")[2].partition("```")[0]
    pytester.makepyfile(source)
    printed = [line.rstrip() for line in run_within("--workflow-coverage").stdout.lines]
    assert promised.rstrip() in "\n".join(printed)


def test_each_id_on_a_row_of_its_own(run_within, pytester):
    pytester.makepyfile(SUITE)
    result = run_within("--workflow-coverage-each-id", "--workflow-coverage-json=c.json")
    assert [f"item-{n}" for n in range(5)] == [
        step for step in document(pytester, "c.json")["workflows"]["order"]["steps"] if step.startswith("item")
    ]
    result.stdout.no_fnmatch_line("*ids)*")


def test_only_some_workflows(run_within, pytester):
    pytester.makepyfile(SUITE)
    run_within("--workflow-coverage-only=ref*", "--workflow-coverage-json=c.json")
    assert list(document(pytester, "c.json")["workflows"]) == ["refund"]


def test_a_workflow_of_the_test_s_engine_that_no_test_ran(run_within, pytester):
    pytester.makepyfile(
        """
        def test_it(workflow):
            workflow.define("local", lambda ctx: 1)
        """
    )
    run_within("--workflow-coverage").stdout.fnmatch_lines(["local * never * - * 0%"])


def test_a_workflow_of_a_module_that_no_test_ran(run_within, pytester):
    pytester.makepyfile(SUITE)
    run_within("--workflow-coverage", "-k", "without").stdout.fnmatch_lines(["order * never *", "refund * never *"])


def test_steps_stand_in_the_same_order_in_whatever_order_the_tests_run(run_within, pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("step", ["c", "a", "b"])
        def test_it(workflow, step):
            @workflow.define("w")
            async def w(ctx):
                await ctx.step(step, lambda: 1)

            workflow.run("w")
        """
    )
    run_within("--workflow-coverage-json=c.json")
    assert list(document(pytester, "c.json")["workflows"]["w"]["steps"]) == ["a", "b", "c"]


def test_nothing_to_cover(run_within, pytester):
    pytester.makepyfile("def test_it(): ...")
    result = run_within("--workflow-coverage")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["No test ran a workflow, and no imported module defines one."])


def test_a_pattern_that_no_workflow_fits(run_within, pytester):
    pytester.makepyfile(
        """
        def test_it(workflow):
            workflow.define("order-of-coverage", lambda ctx: 1)
            workflow.run("order-of-coverage")
        """
    )
    result = run_within("--workflow-coverage-only=odrer")
    result.stdout.fnmatch_lines(
        ["--workflow-coverage-only=odrer names none of the workflows seen: *order-of-coverage*"]
    )


@pytest.mark.parametrize(("percent", "status"), [("17", 0), ("17.64", 0), ("17.65", 1), ("100", 1), ("0", 0)])
def test_fail_under(run_within, pytester, percent, status):
    pytester.makepyfile(SUITE)
    result = run_within(f"--workflow-coverage-fail-under={percent}")
    assert result.ret == status
    result.assert_outcomes(passed=8)
    if status:
        result.stdout.fnmatch_lines(["ERROR: workflow coverage of 17.6% is less than the required *%"])
    else:
        result.stdout.no_fnmatch_line("ERROR*")


def test_fail_under_where_no_workflow_was_seen(run_within, pytester):
    pytester.makepyfile("def test_it(): ...")
    result = run_within("--workflow-coverage-fail-under=50")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ERROR: no workflow was seen, but 50% of workflow coverage is required"])
    assert run_within("--workflow-coverage-fail-under=0").ret == pytest.ExitCode.OK


def test_fail_under_does_not_hide_how_the_run_ended(run_within):
    assert run_within("--workflow-coverage-fail-under=50").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_collecting_alone_judges_nothing(run_within, pytester):
    pytester.makepyfile(SUITE)
    result = run_within("--collect-only", "--workflow-coverage-fail-under=50", "--workflow-coverage-json=c.json")
    assert result.ret == pytest.ExitCode.OK
    assert not (pytester.path / "c.json").exists()
    result.stdout.no_fnmatch_line("*workflow coverage*")


@pytest.mark.parametrize("value", ["101", "-1", "many", "nan", "inf"])
def test_a_wrong_percentage_is_one_clear_error(run_within, value):
    result = run_within(f"--workflow-coverage-fail-under={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *takes a percentage from 0 to 100, not '{value}'"])


def test_a_directory_is_no_file(run_within, pytester):
    pytester.mkdir("there")
    result = run_within("--workflow-coverage-html=there")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --workflow-coverage-html takes the file to write, but *there is a directory"])


def test_a_file_that_cannot_be_written_fails_the_run(run_within, pytester):
    pytester.makepyfile(SUITE)
    (pytester.path / "file").touch()
    result = run_within("--workflow-coverage-json=file/c.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ERROR: the workflow coverage could not be written: *"])
    result.stdout.no_fnmatch_line("Written to *")


def test_the_files(run_within, pytester):
    pytester.makepyfile(SUITE)
    result = run_within("--workflow-coverage-json=out/c.json", "--workflow-coverage-html=out/c.html")
    result.stdout.fnmatch_lines(["Written to *c.json", "Written to *c.html"])
    assert document(pytester, "out/c.json")["percent"] == 17.65
    assert "<title>Workflow coverage: 17.6%</title>" in (pytester.path / "out" / "c.html").read_text(encoding="utf-8")


def test_the_configuration_file(run_within, pytester):
    pytester.makepyfile(SUITE)
    pytester.makeini(
        """
        [pytest]
        workflow_coverage = true
        workflow_coverage_fail_under = 50
        workflow_coverage_json = c.json
        workflow_coverage_html = c.html
        workflow_coverage_only = order 'ref*'
        workflow_coverage_each_id = true
        """
    )
    assert run_within().ret == pytest.ExitCode.TESTS_FAILED
    assert "item-4" in document(pytester, "c.json")["workflows"]["order"]["steps"]
    assert (pytester.path / "c.html").exists()


def test_where_files_are_written(run_within, pytester, monkeypatch):
    pytester.makepyfile("def test_it(): ...")
    pytester.makeini("[pytest]\nworkflow_coverage_json = ini.json\n")
    monkeypatch.chdir(pytester.mkdir("inner"))
    run_within("--workflow-coverage-html=option.html", "..")
    assert (pytester.path / "ini.json").exists()
    assert (pytester.path / "inner" / "option.html").exists()


def test_an_option_goes_before_the_configuration_file(run_within, pytester):
    pytester.makepyfile(SUITE)
    pytester.makeini("[pytest]\nworkflow_coverage_fail_under = 50\nworkflow_coverage_only = order\n")
    result = run_within("--workflow-coverage-fail-under=0", "--workflow-coverage-only=refund")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["refund * never *"])
    result.stdout.no_fnmatch_line("order *")


def test_values_of_the_configuration_file_alone_measure_nothing(run_within, pytester):
    pytester.makepyfile(SUITE)
    pytester.makeini("[pytest]\nworkflow_coverage_fail_under = 50\nworkflow_coverage_json = c.json\n")
    result = run_within()
    assert result.ret == pytest.ExitCode.OK
    assert not (pytester.path / "c.json").exists()


def test_several_processes_see_the_same_as_one(run_apart, run_within, pytester):
    pytester.makepyfile(SUITE)
    arguments = ["-W", "error", "--strict-markers", "--workflow-coverage-fail-under=17.6"]
    several = run_apart(*arguments, "--workflow-coverage-json=2.json", "--workflow-coverage-html=2.html", "-n", "2")
    one = run_within(*arguments, "--workflow-coverage-json=1.json", "--workflow-coverage-html=1.html")
    assert one.ret == several.ret == pytest.ExitCode.OK
    assert (pytester.path / "1.json").read_bytes() == (pytester.path / "2.json").read_bytes()
    assert (pytester.path / "1.html").read_bytes() == (pytester.path / "2.html").read_bytes()
    several.stdout.fnmatch_lines(["order * 7 * 3/16 * 18.7%"])
    assert several.stdout.str().count("= workflow coverage =") == 1


def test_names_that_no_terminal_and_no_worker_can_show(run_apart, pytester):
    pytester.makepyfile(
        r"""
        def test_it(workflow, workflow_faults):
            @workflow.define("w")
            async def w(ctx):
                await ctx.step("<b>", lambda: 1).on_error({"\ud800\x1b[31m<script>": print})

            assert workflow.run("w").status == "completed"
        """
    )
    result = run_apart("-n", "1", "--workflow-coverage-json=c.json", "--workflow-coverage-html=c.html")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines([r"> on_error:\ud800\x1b[[]31m<script> *"])
    assert "<script" not in (pytester.path / "c.html").read_text(encoding="utf-8")


def test_a_run_without_the_terminal_reporter(run_apart, pytester):
    pytester.makepyfile(SUITE)
    result = run_apart("-p", "no:terminal", "--workflow-coverage-fail-under=50", "--workflow-coverage-json=c.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert document(pytester, "c.json")["total"] == 17


LAZY = """
    import sys

    def test_it(workflow):
        workflow.define("w", lambda ctx: 1)
        workflow.run("w")

    def test_what_is_imported(workflow):
        assert [name for name in sys.modules if name.startswith("pytest_workflow.coverage")] == []
        engine = workflow.engine
        assert not engine.extensions.announces_steps and not engine.extensions.announces_handlers
        assert type(engine.store).__name__ == "SQLiteStore"
"""


def test_without_the_option_nothing_is_imported_and_no_hook_is_used(run_apart, pytester):
    pytester.makepyfile(LAZY)
    run_apart().assert_outcomes(passed=2)
