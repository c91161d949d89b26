"""Test modules that define workflows of the same name do not get in each other's way."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

_APPLICATION = """
from workflow_core import Workflow

@Workflow.define("order")
async def order(ctx):
    return "application"
"""
_OWN = """
from workflow_core import Workflow

@Workflow.define("order")
async def order(ctx):
    return await ctx.step("pay", lambda: {0!r})

def test_order(workflow):
    assert workflow.run("order").output == {0!r}
"""
_OF_THE_APPLICATION = """
import shop_of_one_name

def test_the_applications_order(workflow):
    assert workflow.run("order").output == "application"
"""


@pytest.mark.parametrize("options", [(), ("-n", "1")])
def test_each_test_module_runs_its_own(run_apart, pytester, options):
    pytester.makepyfile(
        shop_of_one_name=_APPLICATION,
        test_a=_OWN.format("a"),
        test_b=_OF_THE_APPLICATION,
        test_c=_OWN.format("c"),
        test_d=_OF_THE_APPLICATION,
    )
    run_apart(*options).assert_outcomes(passed=4)


def test_two_in_one_module_are_warned_of_at_the_line_of_the_second(run_within, pytester):
    pytester.makepyfile(
        """
        from workflow_core import Workflow

        @Workflow.define("twice_in_a_module")
        def one(ctx):
            return 1

        @Workflow.define("twice_in_a_module")
        def two(ctx):
            return 2

        def test_the_latest_is_in_force(workflow):
            assert workflow.run("twice_in_a_module").output == 2
        """
    )
    result = run_within("-W", "default")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*test_two_in_one_module*.py:7: WorkflowRedefinedWarning: *"])


def test_a_test_may_define_its_modules_workflow_again(run_within, pytester):
    pytester.makepyfile(
        """
        from workflow_core import Workflow

        @Workflow.define("mended")
        def old(ctx):
            return "old"

        def new(ctx):
            return "new"

        def test_it(workflow, recwarn):
            assert workflow.run("mended").output == "old"
            Workflow.define("mended", new)
            assert workflow.run("mended").output == "new"
            assert recwarn[0].filename == __file__
        """
    )
    run_within().assert_outcomes(passed=1)
