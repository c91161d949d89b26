"""What somebody waits for: whoever waits gets it, and who is cancelled takes it from nobody."""

import asyncio
import traceback

import pytest

from workflow_core.outcome import Outcome


async def started(outcome):
    """Return a task that waits."""
    task = asyncio.create_task(outcome.wait())
    await asyncio.sleep(0)
    return task


def test_all_who_wait_and_who_come_later_get_it():
    async def scenario():
        outcome = Outcome()
        tasks = [await started(outcome), await started(outcome)]
        outcome.settle("done")
        outcome.settle("later")
        assert [await task for task in tasks] == ["done", "done"]
        assert await outcome.wait() == "done"
        assert outcome.is_settled
        assert outcome.error is None

    asyncio.run(scenario())


def test_who_is_cancelled_takes_it_from_nobody():
    async def scenario():
        outcome = Outcome()
        first, second = await started(outcome), await started(outcome)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not outcome.is_settled
        assert len(outcome._waiters) == 1, "one who asks again and again leaves nothing behind"
        outcome.settle(1)
        assert await second == 1

    asyncio.run(scenario())


def test_who_is_cancelled_as_it_is_settled_is_cancelled():
    async def scenario():
        outcome = Outcome()
        task = await started(outcome)
        outcome.settle(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_an_error_reaches_each_with_its_own_frames_alone():
    async def scenario():
        outcome = Outcome()
        waiting = await started(outcome)
        error = ValueError("broken")
        outcome.settle(error)
        assert outcome.error is error
        lengths = []
        for attempt in (waiting, outcome.wait(), outcome.wait()):
            with pytest.raises(ValueError, match="broken") as caught:
                await attempt
            assert caught.value is error
            lengths.append(len(traceback.extract_tb(error.__traceback__)))
        assert lengths[1] == lengths[2]

    asyncio.run(scenario())


def test_callbacks_come_before_who_waits():
    async def scenario():
        order = []
        outcome = Outcome()
        outcome.when_settled(lambda settled: order.append(settled.error))
        task = await started(outcome)
        task.add_done_callback(lambda _: order.append("waiter"))
        outcome.settle(None)
        assert order == [None]
        await task
        await asyncio.sleep(0)
        assert order == [None, "waiter"]

    asyncio.run(scenario())
