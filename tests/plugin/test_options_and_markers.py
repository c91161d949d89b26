"""How the plugin presents itself: help, markers, fixtures, header; strictness and several processes."""

from __future__ import annotations

import re

import pytest

from tests.plugin.conftest import UNUSED

pytest_plugins = ["pytester"]


def test_markers_are_explained(run_within):
    run_within("--markers").stdout.fnmatch_lines(
        ["@pytest.mark.workflow_store(kind): *", "@pytest.mark.workflow_clock(*, start=None, manual=False): *"]
    )


def test_fixtures_are_explained(run_within):
    shown = run_within("--fixtures").stdout.str()
    text = shown.partition("fixtures defined from pytest_workflow")[2].partition("\n---")[0]
    described = dict(re.findall(r"^(workflow\w*) -- .*\n    (.+)$", text, re.MULTILINE))
    names = (
        "",
        "_power",
        "_replay",
        "_db",
        "_clock",
        "_faults",
        "_crashes",
        "_settings",
        "_plugins",
        "_replay",
        "_upgrade",
        "_spy",
        "_snapshot",
    )
    assert set(described) == {f"workflow{name}" for name in names}
    assert "An isolated workflow engine on virtual time" in described["workflow"]
    assert "no docstring" not in text


def test_options_are_explained(run_within):
    run_within("--help").stdout.fnmatch_lines(
        [
            "durable workflows (pytest-workflow-core):",
            "*--workflow-store=*",
            "*workflow_store (string)*",
            "*workflow_start (string)*",
        ]
    )


def test_header(run_within):
    run_within().stdout.fnmatch_lines(["workflow: memory store, virtual time"])
    assert "virtual time" not in run_within("-q").stdout.str()


def test_only_names_of_its_own(run_within):
    """Markers and options begin with ``workflow_`` and ``--workflow-``, so that other plugins keep theirs."""
    lines = run_within("--markers").stdout.lines
    ours = [line for line in lines if line.startswith("@pytest.mark.workflow")]
    assert ours
    assert all(line.startswith("@pytest.mark.workflow_") for line in ours)


STRICT = """
    import pytest

    @pytest.mark.workflow_store("memory")
    @pytest.mark.workflow_clock(manual=False)
    def test_it(workflow, workflow_db, workflow_clock, workflow_faults):
        @workflow.define("one")
        async def one(ctx):
            return await ctx.step("one", lambda: 1)

        assert workflow.run("one").output == 1
"""


def test_strict_markers_config_and_warnings(run_apart, pytester):
    pytester.makepyfile(STRICT)
    result = run_apart("--strict-markers", "--strict-config", "-W", "error", needed=UNUSED)
    result.assert_outcomes(passed=1)
    assert "warnings summary" not in result.stdout.str()


def test_several_processes(run_apart, pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(8))
        @pytest.mark.parametrize("kind", ["memory", pytest.param("file", marks=pytest.mark.workflow_store("file"))])
        def test_it(workflow, workflow_db, number, kind):
            @workflow.define("one")
            async def one(ctx):
                await ctx.sleep("nap", 60_000)
                return await ctx.step("one", lambda: number)

            assert workflow.run("one", "same-id").output == number
            assert len(workflow_db.executions()) == 1
        """
    )
    run_apart("-n", "2", "-W", "error").assert_outcomes(passed=16)


def test_it_can_be_turned_off(run_apart, pytester):
    pytester.makepyfile("def test_it(workflow): ...")
    result = run_apart("-p", "no:workflow_core")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'workflow' not found*"])


@pytest.mark.parametrize(
    "arguments", [["-p", "no:logging"], ["-p", "no:terminal"], ["--capture=no"], ["-p", "no:anyio", "-p", "no:asyncio"]]
)
def test_beside_other_plugins(run_apart, pytester, arguments):
    pytester.makepyfile(STRICT)
    assert run_apart(*arguments).ret == pytest.ExitCode.OK
