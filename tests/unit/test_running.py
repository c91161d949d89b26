"""What those who wait for an execution are told when it is cut off, and what the log says then."""

import asyncio
import logging

import pytest

from workflow_core import InvalidStateError, StorageError, hookimpl


@pytest.fixture
def resting(machine):
    @machine.define("w")
    async def flow(ctx):
        await ctx.sleep("rest", 10_000)
        await ctx.step("s", lambda: None)

    return machine


async def begun(engine, clock):
    """Begin an execution; return what waits for it where it runs."""
    await engine.start("w", "e", detach=True)
    waiting = asyncio.ensure_future(engine.wait("e"))
    await clock.settle()
    return waiting


def test_who_waits_for_what_is_cancelled_is_given_what_is_stored_of_it(resting, clock):
    async def scenario():
        engine = resting.boot()
        waiting = await begun(engine, clock)
        cancelled = await engine.cancel("e")
        assert cancelled.completed_at == clock.now()
        assert await waiting == cancelled

    asyncio.run(scenario())


def test_who_waits_when_the_engine_is_closed_is_told_how_to_go_on(resting, clock):
    async def scenario():
        engine = resting.boot()
        waiting = await begun(engine, clock)
        await engine.aclose()
        with pytest.raises(InvalidStateError) as caught:
            await waiting
        assert str(caught.value) == (
            'workflow "w", execution "e": the engine stopped before it ended; resume() or recover() goes on with it'
        )

    asyncio.run(scenario())


class Damage:
    """A plugin that lets no sleep end."""

    @hookimpl
    def before_durable_point(self, point):
        if point.name == "sleep_completed":
            raise StorageError("file is not a database")


@pytest.mark.parametrize("closed", [False, True])
def test_what_keeps_an_execution_from_going_on_is_logged_unless_the_engine_was_closed(resting, clock, caplog, closed):
    caplog.set_level(logging.ERROR, "workflow_core")

    async def scenario():
        engine = resting.boot([Damage()])
        waiting = await begun(engine, clock)
        if closed:
            engine.close()
        await clock.advance(10_000)
        with pytest.raises(StorageError):
            await waiting

    asyncio.run(scenario())
    told = [] if closed else ['workflow "w", execution "e" stopped and can be resumed']
    assert [record.getMessage() for record in caplog.records if record.name == "workflow_core"] == told
