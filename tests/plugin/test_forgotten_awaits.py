"""A step that is made and not awaited does not run; that must not go unnoticed."""

from __future__ import annotations

import asyncio

import pytest

from workflow_core import ValidationError, WorkflowEngine, WorkflowError
from workflow_core.database.sqlite import SQLiteStore

pytest_plugins = ["pytester"]


@pytest.mark.parametrize("call", ['workflow.run("order")', "workflow_crashes.explore(scenario)"])
def test_it_fails_the_test_and_names_the_place(run_within, pytester, call):
    pytester.makepyfile(
        f"""
        def test_it(workflow, workflow_crashes):
            @workflow.define("order")
            async def order(ctx):
                ctx.step("charge", lambda: 1)
                return await ctx.step("ship", lambda: 2)

            def scenario(workflow):
                assert workflow.run("order").output == 2

            {call}
        """
    )
    result = run_within()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ['step "charge" of workflow "order", execution "*" was never awaited, so it did not run (made at *.py:4); *']
    )
    assert '"ship" of' not in result.stdout.str()


def test_a_test_that_fails_of_it_shows_it(run_within, pytester):
    pytester.makepyfile(
        """
        def test_it(workflow):
            charged = []

            @workflow.define("order")
            async def order(ctx):
                ctx.step("charge", lambda: charged.append(1))

            workflow.run("order")
            assert charged == [1]
        """
    )
    result = run_within()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*steps that were never awaited*", 'step "charge" of *'])


@pytest.mark.parametrize(
    "describe",
    [
        lambda step: step.with_circuit_breaker(failure_threshold=0),
        lambda step: step.with_retry(max_attempts=0),
        lambda step: step.on_error({1: print}),
        lambda step: step.catch("later"),
    ],
)
def test_a_step_that_was_refused_is_not_forgotten(workflow, describe):
    @workflow.define("order")
    async def order(ctx):
        with pytest.raises(ValidationError):
            describe(ctx.step("charge", lambda: 1))

    assert workflow.run("order").status == "completed"


def test_steps_that_an_error_left_out_are_not_forgotten(workflow):
    @workflow.define("order")
    async def order(ctx):
        later = ctx.step("later", lambda: 1)
        await ctx.step("charge", lambda: 1 / 0)
        await later

    assert workflow.run("order", retry_config={"max_attempts": 1}).status == "failed"


@pytest.mark.parametrize(
    ("wrapped", "where"), [(lambda step: step, "the value"), (lambda step: {"a": [step]}, r"a\[0\]")]
)
def test_one_that_is_returned(workflow, wrapped, where):
    async def plain(ctx):
        return wrapped(ctx.step("charge", int))

    async def annotated(ctx) -> int:
        return wrapped(ctx.step("charge", int))

    for handler in (plain, annotated):
        workflow.define(handler.__name__, handler)
        with pytest.raises(WorkflowError, match=f"{where} is a StepBuilder that was never awaited; write await before"):
            workflow.run(handler.__name__).raise_for_status()


def test_a_coroutine_that_a_step_returns(workflow):
    async def fetch():
        return 1

    async def call():
        return fetch()

    workflow.define("order", lambda ctx: ctx.step("call", call))
    with pytest.raises(WorkflowError, match="the value is a coroutine that was never awaited; write await before it"):
        workflow.run("order").raise_for_status()


@pytest.mark.parametrize(("debug", "place"), [(False, ""), (True, r" \(made at .*\.py:\d+\)")])
def test_production_warns(debug, place):
    engine = WorkflowEngine(SQLiteStore())

    @engine.define("order")
    async def order(ctx):
        ctx.step("charge", lambda: 1)

    message = f'step "charge" of workflow "order".* was never awaited, so it did not run{place}; write await before it'
    with pytest.warns(RuntimeWarning, match=message):
        assert asyncio.run(engine.start("order"), debug=debug).status == "completed"
    engine.close()
