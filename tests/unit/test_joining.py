"""Waiting for executions that another process runs, that change hands meanwhile, or that nobody runs."""

import asyncio

import pytest

from workflow_core import InvalidStateError, LeaseLostError, NonRetryableError, ValidationError, WorkflowError
from workflow_core.joining import as_joined


@pytest.fixture
def resting(machine):
    @machine.define("w")
    async def w(ctx):
        await ctx.sleep("rest", 10_000)
        await ctx.step("s", lambda: None)
        return "done"

    return machine


async def begun(engine, clock):
    await engine.start("w", "e", detach=True)
    await clock.settle()


def taken_from(machine, engine):
    """Let an engine seem dead to others, and go on all the same."""
    machine.dead.add(engine.owner.owner_id)
    return machine.boot()


async def taken_from_those_who_wait(machine, clock):
    """Begin an execution, wait for it in three ways where it runs, and take it from there.

    Returns the engine that ran it, what waits there, and the engine that may recover it.
    """
    engine = machine.boot()
    starting = asyncio.ensure_future(engine.start_and_wait("w", "e"))
    await clock.settle()
    others = [asyncio.ensure_future(each) for each in (engine.wait("e"), engine.start("w", "e"))]
    await clock.settle()
    return engine, (starting, *others), taken_from(machine, engine)


def test_who_joins_is_raised_what_ended_the_execution_unless_somebody_cancelled_it(machine, clock):
    def refuse():
        raise NonRetryableError("no")

    @machine.define("w")
    async def w(ctx):
        await ctx.step("s", refuse if ctx.input == "fails" else lambda: None)
        await ctx.sleep("rest", 10_000)

    async def main():
        engine = machine.boot()
        await engine.start("w", "cancelled", detach=True)
        await engine.start("w", "failed", "fails", detach=True)
        await clock.settle()
        await engine.cancel("cancelled")
        cancelled, failed = [await engine.get_status(each) for each in ("cancelled", "failed")]
        assert cancelled.status == "cancelled"
        assert as_joined(cancelled) is cancelled
        with pytest.raises(WorkflowError, match="NonRetryableError: no"):
            as_joined(failed)

    asyncio.run(main())


def test_what_another_process_runs_is_waited_for(resting, clock):
    async def main():
        await begun(resting.boot(), clock)
        other = resting.boot()
        waiting, starting = (asyncio.ensure_future(each) for each in (other.wait("e"), other.start("w", "e")))
        await clock.settle()
        assert not waiting.done()
        assert (await other.start("w", "e", detach=True)).status == "sleeping"
        assert (await clock.finish(waiting)).output == (await clock.finish(starting)).output == "done"

    asyncio.run(main())


def test_what_nobody_runs_is_not_waited_for(resting, clock):
    async def main():
        engine = resting.boot()
        await begun(engine, clock)
        await resting.crash(engine)
        with pytest.raises(InvalidStateError, match='"e" of workflow "w" is sleeping, but no process runs it'):
            await resting.boot().wait("e")

    asyncio.run(main())


def test_what_ends_while_it_is_looked_at_has_ended(resting, clock, monkeypatch):
    async def main():
        engine = resting.boot()
        await begun(engine, clock)
        await resting.crash(engine)
        other = resting.boot()

        async def ends_meanwhile(record):
            await other.cancel("e")
            return False

        monkeypatch.setattr(other._leases, "is_alive_elsewhere", ends_meanwhile)
        assert (await clock.finish(other.wait("e"))).status == "cancelled"

    asyncio.run(main())


def test_who_waits_where_it_ran_is_given_what_comes_of_it_elsewhere(resting, clock):
    async def main():
        _, waiting, other = await taken_from_those_who_wait(resting, clock)
        assert await other.recover() == ["e"]
        assert [(await clock.finish(each)).output for each in waiting] == ["done"] * 3
        assert [type(event).__name__ for event in await other.history("e")].count("StepCompleted") == 1

    asyncio.run(main())


def test_who_waits_where_it_ran_goes_on_with_it_when_its_new_process_dies(machine, clock):
    @machine.define("w")
    async def w(ctx):
        await ctx.sleep("rest", 10_000)
        await ctx.step("s", lambda: None)
        if machine.engines[-1].owner.owner_id not in machine.dead:
            await asyncio.get_running_loop().create_future()
        return "done"

    async def main():
        _, waiting, other = await taken_from_those_who_wait(machine, clock)
        assert await other.recover() == ["e"]
        await clock.advance(20_000)
        assert not any(each.done() for each in waiting)
        await machine.crash(other)
        assert [(await clock.finish(each)).output for each in waiting] == ["done"] * 3

    asyncio.run(main())


def test_a_closed_engine_waits_for_nobody(resting, clock):
    async def main():
        engine, waiting, other = await taken_from_those_who_wait(resting, clock)
        await other.recover()
        await clock.settle()
        engine._closed = True
        await clock.advance(10_000)
        for each in waiting:
            with pytest.raises(LeaseLostError) as caught:
                await each
            assert str(caught.value) == 'workflow "w", execution "e": another process has taken it over'

    asyncio.run(main())


def test_a_sleeper_is_waited_for_where_it_was_recovered(resting, clock):
    async def main():
        engine = resting.boot()
        await begun(engine, clock)
        again = await resting.reboot(engine)
        assert (await clock.finish(again.wait("e"))).output == "done"

    asyncio.run(main())


def test_an_error_about_another_execution_is_an_ordinary_error(machine, clock):
    @machine.define("w")
    async def w(ctx):
        await ctx.sleep("rest", 10)
        raise LeaseLostError("theirs", "other")

    async def main():
        engine = machine.boot()
        starting = asyncio.ensure_future(engine.start("w", "e"))
        with pytest.raises(LeaseLostError, match="theirs"):
            await clock.finish(starting)
        assert (await engine.wait("e")).status == "failed"

    asyncio.run(main())


@pytest.mark.parametrize("ask", ["wait", "start", "start_and_wait"])
def test_what_another_process_runs_is_looked_at_again_and_again(resting, clock, ask):
    async def main():
        await begun(resting.boot(), clock)
        other = resting.boot(poll_interval_ms=4_000)
        asked = other.wait("e") if ask == "wait" else getattr(other, ask)("w", "e")
        assert (await clock.finish(asked)).output == "done"
        assert clock.elapsed_ms == 12_000

    asyncio.run(main())


@pytest.mark.parametrize("execution_id", ["", 5, "a/b" * 200])
def test_what_is_no_id_is_not_waited_for(machine, execution_id):
    with pytest.raises(ValidationError):
        asyncio.run(machine.boot().wait(execution_id))


def test_a_start_from_elsewhere_raises_what_ended_the_execution_and_a_later_one_does_not(machine, clock):
    def refuse():
        raise NonRetryableError("no")

    @machine.define("w")
    async def w(ctx):
        await ctx.sleep("rest", 10_000)
        await ctx.step("s", refuse)

    async def main():
        await begun(machine.boot(), clock)
        other = machine.boot()
        starting = asyncio.ensure_future(other.start("w", "e"))
        with pytest.raises(WorkflowError, match="NonRetryableError: no"):
            await clock.finish(starting)
        assert (await other.start("w", "e")).status == "failed"

    asyncio.run(main())


def test_who_starts_what_another_process_takes_over_at_the_same_moment_waits_for_that(resting, clock):
    async def main():
        engine = resting.boot()
        await begun(engine, clock)
        await resting.crash(engine)
        faster, slower = resting.boot(), resting.boot()
        take_over = slower.bare_store.execution_recovered

        async def late(*arguments):
            await faster.recover()
            return await take_over(*arguments)

        slower.bare_store.execution_recovered = late
        assert (await clock.finish(slower.start("w", "e"))).output == "done"
        assert slower.running() == []
        kinds = [type(event).__name__ for event in await slower.history("e")]
        assert kinds.count("ExecutionRecovered") == 1

    asyncio.run(main())
