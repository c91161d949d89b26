"""Executions that end their process every time, and those that only look as if they did."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from tests.unit.conftest import every_store_kind
from workflow_core import ExecutionInterruptedError, PanicConfig, RetryConfig
from workflow_core.crash_loops import TRIAL_MS, Recoveries, deaths_in_a_row

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

store_kind = every_store_kind


@pytest.mark.parametrize(
    ("minutes", "waited_until", "restart_at", "deaths"),
    [
        ([], None, None, 0),
        ([0], None, None, 1),
        ([0, 1, 2], None, None, 3),
        ([0, 9, 19.5], None, None, 1),
        ([0, 9, 18], None, None, 3),
        ([0, 1, 2, 3], 1, None, 2),
        ([0, 1, 2, 3], 5, None, 0),
        ([0, 1, 2, 3], None, 2, 1),
        ([0, 1, 2, 3], 2, 0, 1),
    ],
)
def test_which_recoveries_count(minutes, waited_until, restart_at, deaths):
    def ms(after):
        return None if after is None else round((NOON + after * MINUTE).timestamp() * 1_000)

    moments = [NOON + minute * MINUTE for minute in minutes]
    assert deaths_in_a_row(Recoveries(moments, ms(waited_until) or 0), ms(restart_at)) == deaths


@pytest.fixture
def poison(machine):
    """A workflow whose own code runs when its execution is in the state asked for, and never gets anywhere."""

    @machine.define("poison", retry_config=RetryConfig(max_attempts=3, backoff_ms=3_600_000))
    async def poison(ctx):
        async def fail():
            raise ConnectionError("503")

        if ctx.input == "sleep":
            await ctx.sleep("rest", 200_000)
        elif ctx.input == "back-off":
            await ctx.step("s", fail)
        elif ctx.input == "panic" and ctx.restart_attempt == 1:
            raise MemoryError
        elif ctx.input == "attempt":
            await ctx.step("s", lambda: asyncio.sleep(3_600))
        await asyncio.get_running_loop().create_future()

    return machine


async def die_and_recover(machine, times, every_ms=1_000, **settings):
    """Let the process die again and again, and be followed by another one."""
    for _ in range(times):
        await machine.clock.advance(every_ms)
        await machine.crash(machine.engines[-1])
        engine = machine.boot(**settings)
        assert await engine.recover() == ["e"]
        await machine.clock.settle()
    return engine


def begin(machine, argument, **settings):
    async def start():
        panics = PanicConfig(restart_delay_ms=3_600_000)
        engine = machine.boot(**settings)
        await engine.start("poison", "e", argument, panic_config=panics, detach=True)
        await machine.clock.settle()

    return start()


def test_code_that_ends_its_process_every_time_fails(poison):
    async def test():
        await begin(poison, "code", max_recoveries=4)
        engine = await die_and_recover(poison, 5, max_recoveries=4)
        result = await engine.wait("e")
        assert (result.status, result.error.type) == ("failed", "ExecutionInterruptedError")
        assert "5 times in a row while its code outside of steps ran" in result.error.message
        events = [type(event).__name__ for event in await engine.history("e")]
        assert events == ["ExecutionStarted", *["ExecutionRecovered"] * 5, "ExecutionFailed"]

    asyncio.run(test())


def test_who_starts_what_ends_its_process_every_time_is_told(poison):
    async def test():
        await begin(poison, "code", max_recoveries=1)
        await die_and_recover(poison, 1, max_recoveries=1)
        await poison.crash(poison.engines[-1])
        with pytest.raises(ExecutionInterruptedError, match="in a row while its code outside of steps ran"):
            await poison.boot(max_recoveries=1).start("poison", "e", "code")

    asyncio.run(test())


def test_it_can_be_restarted_by_hand_and_is_given_as_many_again(poison):
    async def test():
        await begin(poison, "code", max_recoveries=1)
        engine = await die_and_recover(poison, 2, max_recoveries=1)
        assert (await engine.wait("e")).status == "failed"
        again = asyncio.ensure_future(engine.restart("e"))
        await poison.clock.settle()
        assert (await engine.get_status("e")).status in {"running", "restarting"}
        again.cancel()
        engine = await die_and_recover(poison, 1, max_recoveries=1)
        assert (await engine.get_status("e")).status == "running"

    asyncio.run(test())


@pytest.mark.parametrize("argument", ["sleep", "back-off", "panic"])
def test_no_number_of_deaths_during_a_wait_counts(poison, argument):
    async def test():
        await begin(poison, argument)
        engine = await die_and_recover(poison, 20)
        assert (await engine.get_status("e")).status != "failed"
        await poison.crash(poison.engines[-1])
        await poison.clock.advance(3_700_000)  # the wait has ended, and nobody was there
        engine = poison.boot()
        await engine.recover()
        await poison.clock.settle()
        assert (await engine.get_status("e")).status != "failed"

    asyncio.run(test())


def test_deaths_far_from_each_other_do_not_count(poison):
    async def test():
        await begin(poison, "code", max_recoveries=2)
        engine = await die_and_recover(poison, 20, every_ms=600_001, max_recoveries=2)
        assert (await engine.get_status("e")).status == "running"

    asyncio.run(test())


def test_orderly_ends_do_not_count(poison):
    async def test():
        await begin(poison, "code", max_recoveries=2)
        for _ in range(10):
            await poison.engines[-1].aclose()
            engine = poison.boot(max_recoveries=2)
            assert await engine.recover() == ["e"]
            await poison.clock.settle()
        assert (await engine.get_status("e")).status == "running"

    asyncio.run(test())


def test_without_a_limit_nothing_is_counted(poison):
    async def test():
        await begin(poison, "code", max_recoveries=None)
        engine = await die_and_recover(poison, 30, max_recoveries=None)
        assert (await engine.get_status("e")).status == "running"

    asyncio.run(test())


def test_suspects_are_taken_over_one_at_a_time(machine):
    order = []

    @machine.define("w")
    async def w(ctx):
        order.append(ctx.execution_id)
        await asyncio.sleep(0)
        if machine.engines[-1].settings.max_recoveries == 9:  # the third process
            await ctx.sleep("on", 100_000)
        await asyncio.get_running_loop().create_future()

    async def test():
        engine = machine.boot()
        for number in range(3):
            await engine.start("w", f"e{number}", detach=True)
        await machine.clock.settle()
        await machine.crash(machine.engines[-1])
        engine = machine.boot()
        assert await engine.recover() == ["e0", "e1", "e2"]
        await machine.clock.settle()
        assert order[:3] == sorted(order[3:]) == ["e0", "e1", "e2"]  # nobody was suspected yet: all at once
        await machine.crash(machine.engines[-1])
        order.clear()
        engine = machine.boot()
        assert await engine.recover() == ["e0", "e1", "e2"]
        await machine.clock.settle()
        assert order == ["e0"]  # which does not get on: the others wait
        waiting = asyncio.ensure_future(engine.wait("e2"))
        await machine.clock.advance(TRIAL_MS + 100)
        assert order == ["e0", "e1"]
        assert not waiting.done()
        await machine.crash(machine.engines[-1])
        waiting.cancel()
        order.clear()
        engine = machine.boot(max_recoveries=9)
        await engine.recover()
        await machine.clock.advance(50)
        assert order == ["e2", "e0", "e1"]  # least suspicious first; each gets on at once
        await engine.aclose()

    asyncio.run(test())
