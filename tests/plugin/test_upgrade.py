"""Old code's executions, finished by new code."""

from __future__ import annotations

import asyncio

import pytest

from pytest_workflow.upgrade import UpgradeError

ran: list[str] = []


def charge() -> int:
    ran.append("charge")
    return 1


async def old(ctx):
    paid = await ctx.step("charge", charge)
    await ctx.sleep("settle", 60_000)
    return [paid, await ctx.step("ship", lambda: paid + 1)]


async def with_a_step_more(ctx):
    output = await old(ctx)
    await ctx.step("notify", lambda: None)
    return output


async def renamed(ctx):
    paid = await ctx.step("charge-card", charge)
    await ctx.sleep("settle", 60_000)
    return [paid, await ctx.step("ship", lambda: paid + 1)]


async def another_step(ctx):
    paid = await ctx.step("charge", charge)
    await ctx.sleep("settle", 60_000)
    return [paid, await ctx.step("ship", lambda: paid + 2)]


async def another_type(ctx):
    paid = await ctx.step("charge", lambda: {"cents": 1})
    return [paid["cents"], 2]


async def stuck(ctx):
    await ctx.step("charge", charge)
    await asyncio.Future()


async def asserting(ctx):
    assert await ctx.step("charge", charge) == 2


POINTS = [
    ("execution_started", None),
    ("step_started", "charge"),
    ("step_completed", "charge"),
    ("sleep_started", "settle"),
    ("sleep_completed", "settle"),
    ("step_started", "ship"),
    ("step_completed", "ship"),
]


@pytest.mark.parametrize("new", [old, with_a_step_more], ids=lambda code: code.__name__)
def test_new_code_that_finishes_everything(workflow_upgrade, workflow_clock, new):
    ran.clear()
    report = workflow_upgrade(old, new)
    assert report.ok and report.expected == "completed with [1,2]"
    assert [(place.point, place.step_id) for place in report.places] == POINTS
    assert [place.number for place in report.places] == [1, 2, 3, 4, 5, 6, 7]
    assert len(ran) == 3  # the old code, and the new code after the two points before the step was completed
    assert workflow_clock.monotonic() == 0


@pytest.mark.parametrize(
    ("new", "numbers", "problem"),
    [
        (
            renamed,
            [3, 4, 5, 6, 7],
            'step "charge" was completed, and is not asked for any more; step "charge-card" runs',
        ),
        (another_step, [1, 2, 3, 4, 5, 6], "the new code ends it otherwise: completed with [1,3]"),
        (another_type, [3, 4, 5, 6, 7], "the new code cannot finish it: failed with TypeError"),
        (stuck, [1, 2, 3, 4, 5, 6, 7], "the new code cannot finish it: Nothing can go on"),
        (asserting, [1, 2, 3, 4, 5, 6, 7], "the new code cannot finish it: failed with AssertionError"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_places_from_which_new_code_goes_wrong(workflow_upgrade, new, numbers, problem):
    report = workflow_upgrade(old, new, check=False)
    assert [place.number for place in report.failures] == numbers
    assert all(place.problems[0].startswith(problem) for place in report.failures)
    with pytest.raises(UpgradeError) as raised:
        workflow_upgrade(old, new)
    assert f"{len(numbers)} of 7 places" in str(raised.value)
    assert 'point 3 (step_completed of "charge")' in str(raised.value)
    assert "what to do: keep ids" in str(raised.value)


def test_code_that_defines_workflows(workflow_upgrade):
    def version_1(engine):
        engine.define("order", old)
        engine.define("other", old)

    def version_2(engine):
        @engine.define("order")
        async def order(ctx):
            return [*await old(ctx), ctx.input["id"]]

    with pytest.raises(ValueError, match=r"defines 2 workflows .order, other.: name the one to run"):
        workflow_upgrade(version_1, version_2)
    report = workflow_upgrade(
        version_1, version_2, "order", input={"id": 7}, returns={"charge": 5}, execution_id="o-1", check=False
    )
    assert report.expected == "completed with [5,6]"
    assert {place.ending for place in report.places} == {"completed with [5,6,7]"}


def test_an_old_code_that_fails(workflow_upgrade):
    async def failing(ctx):
        await ctx.step("a", lambda: 1 / 0).with_retry(max_attempts=2)

    async def mended(ctx):
        return await ctx.step("a", lambda: 1)

    assert workflow_upgrade(failing, failing).expected.startswith("failed with ZeroDivisionError")
    report = workflow_upgrade(failing, mended, check=False)
    assert any("the new code ends it: completed with 1" in place.problems for place in report.failures)


@pytest.mark.asyncio
async def test_in_an_asynchronous_test(workflow_upgrade):
    assert workflow_upgrade(old, old).ok
