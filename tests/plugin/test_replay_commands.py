"""The command that a failure ends with, pasted again where it was printed."""

import re
import shlex

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest

@pytest.fixture
def replayed():
    return steps

async def steps(ctx):
    await ctx.step("it's $HOME", lambda: 1)
    await ctx.step("b*[1]", lambda: 2)
"""

CRASHING = """
import pytest

@pytest.mark.workflow_crash_everywhere
@pytest.mark.parametrize("name", ["it's $HOME"])
def test_crashing(workflow, workflow_db, replayed, name):
    workflow.define("replayed", replayed)
    result = workflow.run("replayed", "e-1")
    recovered = len(workflow.history(result)) - len(workflow.history(result).of("*")) > 2
    assert not (recovered and {fails})
"""

EXPLORING = """
def test_two(workflow_crashes, replayed):
    def first(workflow):
        workflow.define("first", lambda ctx: 1)
        workflow.run("first", "f")

    def second(workflow):
        workflow.define("replayed", replayed)
        result = workflow.run("replayed", "e-1")
        assert len(workflow.history(result).of("b[*][[]1]")) < 3

    workflow_crashes.explore(first)
    workflow_crashes.explore(second)
"""


def commands(result):
    return [shlex.split(found) for found in re.findall(r"replay: +pytest (.*)", result.stdout.str())]


@pytest.fixture
def suite(pytester):
    def make(source, folder="."):
        pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
        pytester.makeconftest(CONFTEST)
        (pytester.path / folder).mkdir(exist_ok=True)
        (pytester.path / folder / "test_it.py").write_text(source, encoding="utf-8")
        return pytester.path / folder

    return make


@pytest.mark.parametrize(
    ("fails", "options", "kept"),
    [
        ("True", [], []),
        ("workflow_db.path != ':memory:'", ["--workflow-store=file"], ["--workflow-store=file"]),
        (
            "workflow.history('e-1').of('b[*][[]1]')[-1].attempt > 1",
            ['--workflow-faults={"rules": [{"where": {"step": "b*1?"}, "what": {"kind": "delay", "ms": 1}}]}'],
            ['--workflow-faults={"rules": [{"where": {"step": "b*1?"}, "what": {"kind": "delay", "ms": 1}}]}'],
        ),
    ],
)
def test_a_command_holds_what_the_run_was_started_with(run_within, suite, monkeypatch, fails, options, kept):
    monkeypatch.chdir(suite(CRASHING.format(fails=fails), "inside"))  # not where pytest's root is
    result = run_within(*options)
    result.assert_outcomes(failed=1)
    for command in commands(result)[:2]:
        assert [each for each in command if each in kept] == kept
        run_within(*command).assert_outcomes(failed=1)


def test_a_place_of_the_second_exploration(run_within, suite):
    suite(EXPLORING)
    result = run_within()
    result.assert_outcomes(failed=1)
    again = run_within(*commands(result)[0])
    again.assert_outcomes(failed=1)
    again.stdout.no_fnmatch_line("*the place is reached*")
    assert "test_two: 1 run that dies at step_started:b*[1]#1:after, failed" in again.stdout.str()
    nowhere = run_within("--workflow-crash-at=step_started:nowhere#1:after")
    nowhere.assert_outcomes(passed=1, errors=1)
    nowhere.stdout.fnmatch_lines(["*no exploration of this test comes to step_started:nowhere#1:after"])


def test_a_power_cut(run_within, suite):
    pytest.importorskip("apsw")
    suite(
        "from pytest_workflow.invariants import Invariant\n"
        "def never(compared):\n"
        "    if len(compared.run.events['e-1']) > 6:\n"
        "        yield 'the run is recovered'\n"
        "def test_cut(workflow_power, workflow, replayed):\n"
        "    workflow.define('replayed', replayed)\n"
        "    workflow_power._invariants += (Invariant('never', never),)\n"
        "    workflow_power.explore(lambda workflow: workflow.run('replayed', 'e-1'), most_cuts=12)\n"
    )
    result = run_within()
    result.assert_outcomes(failed=1)
    found = commands(result)
    assert re.fullmatch(r"--workflow-power-cut=\d+:\d+", found[0][-1])
    again = run_within(*found[0])
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["*never: the run is recovered*"])
    assert {each[-1] for each in commands(again)} == {found[0][-1]}
    run_within("--workflow-power-cut=1:0").assert_outcomes(passed=1)
    run_within("--workflow-power-cut=1:99").assert_outcomes(passed=1, errors=1)
    wrong = run_within("--workflow-power-cut=x")
    wrong.assert_outcomes(errors=1)
    wrong.stdout.fnmatch_lines(["*is no power cut: write OPERATION:IMAGE*"])


def test_an_exploration_without_a_place_is_a_failure(run_within, suite):
    suite(
        "import pytest\n"
        "@pytest.mark.workflow_crash_everywhere\n"
        "def test_marked(workflow): pass\n"
        "def test_scenario(workflow_crashes): workflow_crashes.explore(lambda workflow: None)\n"
        "@pytest.mark.workflow_crash_everywhere(depth=0)\n"
        "def test_left_out(workflow): pass\n"
    )
    result = run_within()
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(["*ran no workflow, so nothing was explored*", "*no workflow ran, so nothing was*"])


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("x" * 5_000, "cannot be read"),
        ("[]", "Input should be an object"),
    ],
)
def test_what_is_no_plan(run_within, suite, plan, said):
    suite("def test_it(workflow): pass\n")
    result = run_within(f"--workflow-faults={plan}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{said}*"])


def test_an_error_does_not_steer_the_terminal(run_within, suite):
    suite(
        "def test_it(workflow):\n"
        "    def fail(): raise ValueError('a\\x1b[2Jb\\u202ec\\x00')\n"
        "    async def failing(ctx): await ctx.step('s', fail)\n"
        "    workflow.define('failing', failing)\n"
        "    assert workflow.run('failing').status == 'completed'\n"
    )
    shown = run_within("--color=no").stdout.str()
    assert r"ValueError: a\x1b[2Jb\u202ec\x00" in shown
    assert not set("\x1b\u202e\x00") & set(shown)
