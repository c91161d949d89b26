"""The option --workflow-replay-check."""

from __future__ import annotations

import os
from datetime import datetime as now_of
from os import environ
from random import choice
from time import time as seconds
from uuid import uuid4 as new_id

import pytest

from pytest_workflow.nondeterminism import suspects

pytest_plugins = ["pytester"]

MODULE = """
    import asyncio, functools, os, random, time, uuid
    from datetime import datetime
    from pathlib import Path
    import pytest

    async def clock_in_a_closure(ctx):
        at = datetime.now().isoformat()  # suspect
        await ctx.step("stamp", lambda: len(at))

    async def clock_in_a_branch(ctx):
        if time.time() < 1_735_700_000:  # suspect
            await ctx.step("early", lambda: 1)
        else:
            await ctx.step("late", lambda: 1)

    async def clock_in_a_default(ctx):
        def stamped(at=time.time()):  # suspect
            return 1

        await ctx.step("stamp", stamped)

    async def random_argument(ctx):
        await ctx.step("pow", functools.partial(pow, random.randint(1, 10**9), 1))  # suspect

    async def random_id(ctx):
        for number in range(3):
            await ctx.step(f"s-{random.random()}", lambda: 1)  # suspect

    async def random_order(ctx):
        numbers = list(range(9))
        random.shuffle(numbers)  # suspect
        for number in numbers:
            await ctx.step(f"s-{number}", lambda: 1)

    async def random_output(ctx):
        await ctx.step("a", lambda: 1)
        return str(uuid.uuid4())  # suspect

    async def environment(ctx):
        await ctx.step("a", lambda: os.getenv("IN_A_STEP"))
        os.getenv("BETWEEN_STEPS")  # suspect

    async def order_of_a_set(ctx):
        names = {"a", "b"}
        for name in sorted(names):
            await ctx.step(f"sorted-{name}", lambda: 1)
        for name in names:  # suspect
            await ctx.step(name, lambda: 1)

    async def order_of_a_list_of_a_set(ctx):
        names = frozenset(["a", "b"])
        names = [name.upper() for name in names | {"c"}]
        pairs = dict.fromkeys({"d", "e"})
        for name in sorted(names):
            await ctx.step(name, lambda: 1)
        for name in pairs:  # suspect
            await ctx.step(name, lambda: 1)

    def token_of_a_function():
        return uuid.uuid4().hex  # suspect

    async def function(ctx):
        await ctx.step("use", functools.partial(len, token_of_a_function()))

    WRONG = [
        (order_of_a_list_of_a_set, "unordered"), (function, "captured"),
        (clock_in_a_closure, "captured"), (clock_in_a_branch, "renamed"), (clock_in_a_default, "captured"),
        (random_argument, "captured"), (random_id, "renamed"), (random_order, "order"), (random_output, "output"),
        (environment, "environment"), (order_of_a_set, "unordered"),
    ]
"""

WRONG = (
    MODULE
    + """
    @pytest.mark.parametrize(("handler", "kind"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
    def test_wrong(workflow, handler, kind, record_property):
        workflow.define("w", handler)
        with pytest.raises(AssertionError) as raised:
            workflow.run("w", "x")
        assert f"[{kind}]" in str(raised.value), raised.value
        source = Path(__file__).read_text().splitlines()
        start = (token_of_a_function if handler is function else handler).__code__.co_firstlineno
        line = next(number for number, text in enumerate(source[start:], start + 1) if "suspect" in text)
        assert f"{__file__}:{line}" in str(raised.value), raised.value
        assert str(raised.value).startswith("the workflow is not deterministic: ")
        assert "run again:  " in str(raised.value)
        assert "recorded id" not in str(raised.value)  # which is what to do about changed code
"""
)

RIGHT = (
    MODULE
    + """
    def test_without_a_fault(workflow, workflow_clock, workflow_faults, workflow_db):
        calls = []

        async def right(ctx):
            started = await ctx.step("now", lambda: datetime.now())
            await ctx.sleep("pause", 1_000)
            name = f"{ctx.input['name']}-{started:%Y}"
            results = await asyncio.gather(*(ctx.step(f"p-{i}", lambda i=i: (name, i)) for i in range(3)))
            caught = await ctx.step("fails", lambda: calls.append("fails") or 1 / 0).catch(lambda error, ctx: "caught")
            await ctx.step("flaky", lambda: calls.append("flaky"))
            return [len(results), caught]

        state = random.getstate()
        workflow_faults.fail("flaky", ConnectionError("503"), attempts=[1])
        workflow.define("right", right)
        result = workflow.run("right", "r", {"name": "n"})
        assert result.output == [3, "caught"]
        assert calls == ["fails", "flaky"]
        assert random.getstate() == state
        assert workflow_clock.monotonic() == 2
        assert [row["seq"] for row in workflow_db.step_events("r")] == list(range(1, len(workflow.history("r")) + 1))
        assert "ExecutionRecovered" not in str(workflow.history("r"))
        assert [step["attempt"] for step in workflow_db.steps("r")] == [1, 1, 1, 1, 1, 1, 2]

    def test_defined_again(workflow, recwarn):
        workflow.define("w", lambda ctx: 1)
        assert workflow.run("w", "1").output == 1
        workflow.define("w", lambda ctx: 2)
        assert workflow.run("w", "2").output == 2

    def test_a_failing_execution(workflow):
        async def failing(ctx):
            await ctx.step("a", lambda: 1)
            await ctx.step("b", lambda: 1 / 0).with_retry(max_attempts=1)

        workflow.define("failing", failing)
        assert workflow.run("failing").status == "failed"

    @pytest.mark.asyncio
    async def test_asynchronous(workflow):
        workflow.define("w", lambda ctx: ctx.step("a", lambda: 1))
        assert (await workflow.start("w")).output == 1

    @pytest.mark.asyncio
    async def test_asynchronous_and_wrong(workflow):
        workflow.define("w", random_output)
        with pytest.raises(AssertionError, match="another output"):
            await workflow.start("w")

    def test_detached_and_wrong(workflow):
        workflow.define("w", random_output)
        workflow.run("w", "x", detach=True)
        with pytest.raises(AssertionError, match="another output"):
            workflow.wait("x")

    def test_plugins_of_the_test_see_every_step(workflow):
        from workflow_core.hookspecs import hookimpl

        seen = []

        class Plugin:
            @hookimpl
            def on_event(self, event):
                seen.append(type(event).__name__)

        workflow.engine.register(Plugin())

        async def two(ctx):
            await ctx.step("a", lambda: 1)
            await ctx.step("b", lambda: 1)

        workflow.define("two", two)
        workflow.run("two")
        assert seen.count("StepStarted") == seen.count("StepCompleted") == 2
"""
)

MEMORY = """
    async def connected(ctx):
        connection = []

        async def connect():
            connection.append(object())

        await ctx.step("connect", connect)
        return await ctx.step("use", lambda: len(connection))

    def test_memory(workflow):
        workflow.define("connected", connected)
        assert workflow.run("connected", "c").output == 1
"""


@pytest.mark.parametrize("store", ["memory", "file"])
def test_code_that_is_not_deterministic(pytester, run_within, store):
    pytester.makepyfile(WRONG)
    run_within("--workflow-replay-check", f"--workflow-store={store}").assert_outcomes(passed=11)


@pytest.mark.parametrize("store", ["memory", "file"])
def test_code_that_is(pytester, run_within, store):
    pytester.makepyfile(RIGHT)
    run_within("--workflow-replay-check", f"--workflow-store={store}", "-W", "error").assert_outcomes(passed=7)


def test_a_workflow_that_keeps_something_in_memory(pytester, run_within):
    pytester.makepyfile(MEMORY)
    run_within().assert_outcomes(passed=1)
    result = run_within("--workflow-replay-check")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*assert 0 == 1*",
            '--workflow-replay-check: execution "c" went on in a new engine after "connect", "use"; a workflow that*',
        ]
    )


def test_without_the_option_nothing_is_imported(pytester, run_apart):
    pytester.makepyfile(
        """
        import sys

        def test_workflow(workflow):
            workflow.define("w", lambda ctx: ctx.step("a", lambda: 1))
            assert workflow.run("w").output == 1
            ours = {"replay", "replay_check", "replay_engine", "upgrade", "observed", "recorded_history"}
            assert not {f"pytest_workflow.{name}" for name in ours} & set(sys.modules)
        """
    )
    run_apart().assert_outcomes(passed=1)


# Hints ---------------------------------------------------------------------------------------------------------------


def of_the_names(ctx):
    return (
        ctx.config.secrets["KEY"],
        ctx.input.time(),
        choice([1, 2]),
        now_of.now(),
        environ["HOME"],
        os.getenv("HOME"),
        new_id(),
        seconds(),
        id(ctx),
    )


def test_a_hint_goes_by_what_a_name_means():
    assert [(suspect.code, suspect.what) for suspect in suspects(of_the_names)] == [
        ("choice([1, 2])", "a random number"),
        ("now_of.now()", "the time"),
        ("environ['HOME']", "the environment"),
        ("os.getenv('HOME')", "the environment"),
        ("new_id()", "a new id"),
        ("seconds()", "the time"),
        ("id(ctx)", "another value in another process"),
    ]
