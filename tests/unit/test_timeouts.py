"""Time-outs on the engine's clock: what they end, and what they leave alone."""

import asyncio

import pytest

from workflow_core import ValidationError
from workflow_core.timeouts import LONGEST_MS, Timeout, validate_timeout


def run(clock, block, delay_ms=1_000):
    async def main():
        timeout = Timeout(clock, delay_ms)
        assert not timeout.expired

        async def limited():
            async with timeout:
                return await block()

        task = asyncio.ensure_future(limited())
        try:
            return await clock.finish(task), timeout
        except BaseException as error:
            return error, timeout

    return asyncio.run(main())


def test_a_block_that_takes_too_long_is_cancelled(clock):
    error, timeout = run(clock, lambda: clock.sleep(2_000))
    assert isinstance(error, TimeoutError)
    assert isinstance(error.__cause__, asyncio.CancelledError)
    assert (timeout.expired, clock.elapsed_ms) == (True, 1_000)


def test_a_block_that_ends_in_time_leaves_no_timer(clock):
    result, timeout = run(clock, lambda: clock.sleep(999))
    assert (result, timeout.expired, clock.elapsed_ms) == (None, False, 999)
    assert all(timer.cancelled for timer in clock.timers)


def test_a_time_that_is_over_already_ends_at_the_first_wait(clock):
    error, _ = run(clock, lambda: clock.sleep(1), delay_ms=-5)
    assert isinstance(error, TimeoutError)
    assert clock.elapsed_ms == 0


def test_what_a_block_raises_when_its_time_is_over_passes_on(clock):
    async def block():
        try:
            await clock.sleep(2_000)
        finally:
            raise ValueError("no")

    error, timeout = run(clock, block)
    assert isinstance(error, ValueError)
    assert timeout.expired


def test_a_block_that_survives_its_cancellation_has_a_result_and_its_task_goes_on(clock):
    async def block():
        try:
            await clock.sleep(2_000)
        except asyncio.CancelledError:
            return "saved"

    async def main():
        async with Timeout(clock, 1_000):
            result = await block()
        assert asyncio.current_task().cancelling() == 0
        return result

    async def finished():
        return await clock.finish(main())

    assert asyncio.run(finished()) == "saved"


@pytest.mark.parametrize("first", ["cancelled", "expired"])
def test_a_cancellation_from_outside_is_no_time_out(clock, first):
    async def main():
        timeout = Timeout(clock, 1_000)

        async def limited():
            async with timeout:
                await asyncio.Event().wait()

        task = asyncio.ensure_future(limited())
        await clock.settle()
        if first == "expired":
            timeout._expire()
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled(), task.cancelling()

    assert asyncio.run(main()) == (True, 1)


def test_a_cancellation_that_was_there_before_is_not_taken_for_that_of_the_time_out(clock):
    async def main():
        task = asyncio.current_task()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)

        async def limited():
            async with Timeout(clock, 1_000) as timeout:
                timeout._expire()
                await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            await limited()
        return task.cancelling()

    assert asyncio.run(main()) == 1


@pytest.mark.parametrize("timeout_ms", [0, -1, LONGEST_MS + 1, True, "5", float("nan")], ids=repr)
def test_what_is_no_time_out_is_shown(timeout_ms):
    with pytest.raises(ValidationError) as caught:
        validate_timeout("A step", timeout_ms)
    assert str(caught.value) == (
        f"A step: timeout_ms must be a positive number of milliseconds, at most 3162240000000, not {timeout_ms!r}"
    )


@pytest.mark.parametrize("timeout_ms", [None, 0.5, 1, LONGEST_MS], ids=repr)
def test_what_is_a_time_out(timeout_ms):
    validate_timeout("A step", timeout_ms)
