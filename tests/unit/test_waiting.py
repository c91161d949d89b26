"""What a running execution waits for, as whoever asks is told."""

import asyncio
import types

import pytest

from workflow_core.suspended import where


def told(machine, flow, **options):
    """Run a handler until nothing goes on any more, and return what is told then."""
    machine.define("w", **options)(flow)

    async def main():
        engine = machine.boot()
        await engine.start("w", "e", detach=True)
        await machine.clock.settle()
        (execution,) = engine.running()
        return execution.waiting_for()

    return asyncio.run(main())


async def helper():
    await asyncio.Event().wait()


HELPER = f", at {__file__}:{helper.__code__.co_firstlineno + 1} in helper"


def test_a_handler_outside_of_steps_is_told_with_its_place(machine):
    async def flow(ctx):
        await ctx.step("done", lambda: None)
        await helper()

    assert told(machine, flow) == [f"its handler, outside every step{HELPER}"]


def test_a_step_is_told_with_its_attempt_and_the_innermost_place_of_the_user_s_code(machine):
    async def flow(ctx):
        async def body():
            if ctx.attempt == 1:
                raise ValueError("no")
            await asyncio.wait_for(helper(), None)

        await ctx.step("s", body).with_retry(max_attempts=2, backoff_ms=0)

    assert told(machine, flow) == [f'step "s", attempt 2{HELPER}']


def test_steps_beside_each_other_are_told_each_with_its_own_place(machine):
    async def flow(ctx):
        async def other():
            await asyncio.Event().wait()

        lines.append(other.__code__.co_firstlineno + 1)
        await asyncio.gather(ctx.step("one", helper), ctx.step("two", other))

    lines = []
    assert told(machine, flow) == [
        f'step "one", attempt 1{HELPER}',
        f'step "two", attempt 1, at {__file__}:{lines[0]} in other',
    ]


def test_sleeps_and_back_offs_are_told_with_their_end(machine):
    async def flow(ctx):
        def broken():
            raise ValueError("no")

        await asyncio.gather(ctx.sleep("rest", 2_000), ctx.step("s", broken).with_retry(backoff_ms=1_000), helper())

    assert sorted(told(machine, flow)) == [
        'back-off of step "s" until 2026-01-01T00:00:01+00:00',
        'sleep "rest" until 2026-01-01T00:00:02+00:00',
    ]


def suspended(function):
    """Return a coroutine of a function that waits at its first line."""
    waiting = function()
    waiting.send(None)
    return waiting


def test_generators_that_wait_have_a_place_and_what_does_not_wait_has_none():
    @types.coroutine
    def inner():
        yield

    @types.coroutine
    def generator():
        yield from inner()

    async def outer():
        await generator()

    waiting = suspended(outer)
    assert where(waiting) == f", at {__file__}:{inner.__code__.co_firstlineno + 2} in inner"
    with pytest.raises(StopIteration):
        waiting.send(None)
    assert where(waiting) == where(None) == where(object()) == ""


@pytest.mark.parametrize(
    ("module", "is_the_user_s"),
    [
        ("asyncio.locks", False),
        ("workflow_core.a.b", False),
        ("pytest_workflow", False),
        ("asyncio_like", True),
        (None, True),
    ],
)
def test_places_are_the_user_s(module, is_the_user_s):
    names = {"suspend": lambda: asyncio.sleep(0)} | ({} if module is None else {"__name__": module})
    exec("async def waits():\n    await suspend()", names)  # noqa: S102 - a function of a module of that name
    waiting = names["waits"]()
    waiting.send(None)
    told = where(waiting)
    waiting.close()
    assert told == (", at <string>:2 in waits" if is_the_user_s else "")
