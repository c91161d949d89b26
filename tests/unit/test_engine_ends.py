"""What an engine is given at a start, and how it ends under executions that still run."""

import asyncio

import pytest

from workflow_core import RetryConfig


def test_a_start_may_bring_its_own_retries(machine, clock):
    @machine.define("w")
    async def flow(ctx):
        async def broken():
            raise ValueError("no")

        await ctx.step("s", broken)

    async def main():
        engine = machine.boot()
        await engine.start("w", "e", retry_config=RetryConfig(max_attempts=2, backoff_ms=70), detach=True)
        return await clock.finish(engine.wait("e"))

    assert asyncio.run(main()).steps["s"].attempt == 2
    assert clock.elapsed_ms == 70


def test_an_engine_is_closed_before_what_runs_in_it_is_stopped(machine, clock):
    seen = []

    @machine.define("w")
    async def flow(ctx):
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(machine.engines[0].closed)

    async def main():
        engine = machine.boot()
        await engine.start("w", "e", detach=True)
        await clock.settle()
        assert not engine.closed
        await engine.aclose()

    asyncio.run(main())
    assert seen == [True]


def test_executions_of_an_engine_that_is_abandoned_meet_what_they_are_told(machine, clock):
    seen = []

    class Death(BaseException):
        pass

    @machine.define("w")
    async def flow(ctx):
        try:
            await asyncio.Event().wait()
        finally:
            with pytest.raises(Death) as caught:
                await ctx.step("too late", lambda: seen.append("a step"))
            seen.append(caught.value)

    async def main():
        engine = machine.boot()
        await engine.start("w", "e", detach=True)
        await clock.settle()
        await asyncio.gather(*engine.abandon(death), return_exceptions=True)

    death = Death()
    asyncio.run(main())
    assert seen == [death]
