"""One suite beside everything that people use with pytest, all of it at the same time."""

from __future__ import annotations

import sys

import pytest

from tests.plugin.conftest import UNUSED

pytest_plugins = ["pytester"]

SUITE = """
    import asyncio
    import datetime
    import time
    import unittest

    import anyio
    import freezegun
    import hypothesis
    import pytest
    from hypothesis import strategies

    pytest_plugins = ["pytester"]

    def define(workflow):
        @workflow.define("nap")
        async def nap(ctx):
            await ctx.sleep("nap", 60_000)
            return await ctx.step("add", lambda: (ctx.input or 0) + 1)

    def test_plain(workflow):
        define(workflow)
        assert workflow.run("nap").output == 1

    @pytest.mark.asyncio
    async def test_asyncio(workflow, workflow_clock):
        define(workflow)
        first, second = await asyncio.gather(workflow.start("nap", input=1), workflow.start("nap", input=2))
        assert (first.output, second.output) == (2, 3)
        assert workflow_clock.monotonic() == 60

    async def test_asyncio_without_a_mark(workflow):
        define(workflow)
        assert (await workflow.start("nap")).output == 1

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    @pytest.mark.anyio
    async def test_anyio(workflow, anyio_backend):
        define(workflow)
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(workflow.start, "nap", f"n-{number}")
        assert workflow.status("n-2").status == "completed"

    @hypothesis.settings(
        max_examples=20,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(number=strategies.integers())
    def test_hypothesis(workflow, number):
        define(workflow) if not workflow.engine.workflow_names() else None
        assert workflow.run("nap", input=number).output == number + 1

    def test_freezegun_in_the_test(workflow):
        define(workflow)
        with freezegun.freeze_time("2020-02-02"):
            assert datetime.date.today().year == 2020
        assert workflow.run("nap").output == 1
        assert datetime.date.today().year == 2025

    @freezegun.freeze_time("2020-02-02")
    def test_freezegun_without_workflows():
        assert time.strftime("%Y") == "2020"

    @pytest.mark.timeout(30)
    def test_a_time_out_of_its_own(workflow, workflow_clock):
        define(workflow)
        for number in range(100):
            workflow.run("nap", f"n-{number}")
        assert workflow_clock.monotonic() == 6_000

    def test_pytester(pytester, workflow):
        pytester.makepyfile("def test_inner(workflow, workflow_clock): ...")
        pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:xdist").assert_outcomes(passed=1)
        define(workflow)
        assert workflow.run("nap").output == 1

    class TestUnittest(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def flow(self, workflow):
            self.workflow = workflow
            define(workflow)

        def test_it(self):
            self.assertEqual(self.workflow.run("nap").output, 1)

    def test_real_time_is_back():
        assert datetime.date.today().year > 2025
"""


@pytest.mark.skipif(sys.platform == "win32", reason="pytest-timeout measures differently there")
@pytest.mark.parametrize(
    "processes", [["-p", "no:xdist"], ["-n", "1", "-p", "no:schemathesis"]], ids=["one-process", "xdist"]
)
def test_all_at_once(pytester, monkeypatch, processes):
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess(
        *("-p", "no:cacheprovider", "-W", "error", "-o", "asyncio_mode=auto"),
        *("-o", "asyncio_default_fixture_loop_scope=function", "--strict-markers", "--strict-config"),
        *("--timeout=60", "--cov=.", *processes),
        timeout=90,
    )
    result.assert_outcomes(passed=11)
    result.stdout.fnmatch_lines(["*--randomly-seed=*", "*coverage: platform*"])


def test_time_is_frozen_before_anything_of_workflows_is_used(pytester):
    pytester.makepyfile(
        """
        import freezegun
        import workflow_core

        @freezegun.freeze_time("2020-02-02")
        def test_frozen():
            pass

        def test_workflow(workflow):
            assert workflow.engine and workflow_core.Workflow
        """
    )
    without = [f"-pno:{name}" for name in ("cacheprovider", "randomly", *UNUSED)]
    result = pytester.runpytest_subprocess(*without, timeout=60)
    result.assert_outcomes(passed=2)
