"""Time: waits for moments of the wall clock, whatever is done to it, and one timer for any number of them."""

import asyncio
import contextvars
import itertools
import os
import random
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from pytest_workflow import VirtualClock
from workflow_core import SystemClock, WorkflowEngine
from workflow_core.clock import WallTimers

SECOND = timedelta(seconds=1)


class SetClock:
    """A machine's two clocks: `pass_time` moves both, `wall` can be set alone, and each timer is counted."""

    def __init__(self):
        self.wall = datetime(2026, 3, 29, tzinfo=UTC)
        self.running = 0.0
        self.timers = []
        self.armed = 0

    def now(self):
        return self.wall

    def call_later(self, delay_ms, callback):
        self.armed += 1
        timer = [self.running + delay_ms / 1_000, next(COUNT), callback, True]
        self.timers.append(timer)
        return Handle(timer)

    async def pass_time(self, seconds, wall=True):
        """Let time pass, on the wall too or, as in a machine that is suspended, there alone."""
        end = self.running + seconds
        while due := sorted(timer for timer in self.timers if timer[3] and timer[0] <= end):
            self._move(due[0][0])
            self.timers.remove(due[0])
            due[0][2]()
            await asyncio.sleep(0)
        self._move(end)

    def _move(self, running):
        self.wall += (running - self.running) * SECOND
        self.running = running


class Handle:
    def __init__(self, timer):
        self._timer = timer

    def cancel(self):
        self._timer[3] = False


COUNT = itertools.count()


@pytest.fixture
def clock():
    return SetClock()


def run(test):
    asyncio.run(test())


def test_a_timer_fires_when_the_wall_clock_shows_its_moment(clock):
    async def test():
        timers, fired = WallTimers(clock), []
        timers.call_at(clock.wall + 90 * SECOND, lambda: fired.append(clock.running))
        await clock.pass_time(89.9)
        assert fired == []
        await clock.pass_time(0.2)
        assert fired == [pytest.approx(90)]
        assert len(timers) == 0

    run(test)


def test_a_clock_set_back_lets_nothing_fire_early(clock):
    async def test():
        timers, fired = WallTimers(clock), []
        timers.call_at(clock.wall + 10 * SECOND, lambda: fired.append(clock.running))
        await clock.pass_time(9)
        clock.wall -= 3_600 * SECOND
        await clock.pass_time(3_600)
        assert fired == []
        await clock.pass_time(1.5)
        assert fired == [pytest.approx(3_610)]

    run(test)


@pytest.mark.parametrize("jump", [3_600, 90], ids=["an hour", "just beyond"])
def test_a_clock_set_forward_is_noticed_within_a_second(clock, jump):
    async def test():
        timers, fired = WallTimers(clock), []
        timers.call_at(clock.wall + 80 * SECOND, lambda: fired.append(clock.running))
        await clock.pass_time(5.3)
        clock.wall += jump * SECOND  # as after a suspension, in which the loop's own time stood still
        await clock.pass_time(1.0)
        assert len(fired) == 1
        assert 5.3 < fired[0] <= 6.3

    run(test)


def test_ten_thousand_waits_cost_one_timer(clock):
    async def test():
        timers, fired = WallTimers(clock), []
        order = [(number * 7_919) % 10_000 for number in range(10_000)]
        begun = clock.wall
        for number in order:
            timers.call_at(begun + 100 * SECOND + number * timedelta(milliseconds=1), lambda n=number: fired.append(n))
        assert len([timer for timer in clock.timers if timer[3]]) == 1
        clock.armed = 0
        await clock.pass_time(99)
        assert clock.armed <= 100
        clock.wall += 60 * SECOND
        await clock.pass_time(1)
        await asyncio.sleep(0)
        assert fired == sorted(order)
        assert not [timer for timer in clock.timers if timer[3]]

    run(test)


def test_cancelled_timers_neither_fire_nor_stay(clock):
    async def test():
        timers, fired = WallTimers(clock), []
        begun = clock.wall
        kept = timers.call_at(begun + 5 * SECOND, lambda: fired.append("kept"))
        for number in range(1_000):
            timers.call_at(begun + (number + 1) * SECOND, lambda: fired.append("cancelled")).cancel()
        assert len(timers) == 1
        assert len(timers._heap) < 200
        await clock.pass_time(6)
        assert fired == ["kept"]
        kept.cancel()
        assert len(timers) == 0
        assert not [timer for timer in clock.timers if timer[3]]

    run(test)


def test_a_timer_can_be_cancelled_by_another_that_is_due_with_it(clock):
    async def test():
        timers, fired = WallTimers(clock), []
        when = clock.wall + SECOND
        timers.call_at(when, lambda: (fired.append("first"), second.cancel(), second.cancel()))
        second = timers.call_at(when, lambda: fired.append("second"))
        await clock.pass_time(2)
        assert fired == ["first"]
        timers.call_at(clock.wall + SECOND, lambda: fired.append("third"))
        await clock.pass_time(2)
        assert fired == ["first", "third"]

    run(test)


def test_timers_of_random_times_and_cancellations_fire_in_order(clock):
    async def test():
        moments = random.Random(5)
        timers, fired, expected = WallTimers(clock), [], []
        for number in range(500):
            when = clock.wall + moments.uniform(0, 50) * SECOND
            handle = timers.call_at(when, lambda n=number: fired.append(n))
            if moments.random() < 0.5:
                handle.cancel()
            else:
                expected.append((when, number))
            await clock.pass_time(moments.uniform(0, 0.1))
        await clock.pass_time(60)
        assert fired == [number for _, number in sorted(expected)]

    run(test)


def test_a_callback_runs_in_the_context_of_its_call(clock):
    variable = contextvars.ContextVar("variable", default="none")

    async def test():
        timers, found = WallTimers(clock), []
        variable.set("set")
        timers.call_at(clock.wall + SECOND, lambda: found.append(variable.get()))
        variable.set("set later")
        await clock.pass_time(2)
        await asyncio.sleep(0)
        assert found == ["set"]

    run(test)


def test_the_clock_of_the_machine():
    clock = SystemClock()

    async def test():
        fired = asyncio.get_running_loop().create_future()
        when = clock.now() + timedelta(milliseconds=20)
        clock.call_at(when, lambda: fired.set_result(clock.now()))
        assert await fired >= when
        clock.call_at(clock.now() - SECOND, fired.cancel).cancel()

    for _ in range(3):
        run(test)
    assert len(clock._timers) == 1  # that of the latest event loop, not one for each that was closed


def test_a_durable_sleep_follows_the_wall_clock():
    virtual = VirtualClock()
    engine = WorkflowEngine(clock=virtual)

    async def jumped(by):
        woken = []
        virtual.call_at(virtual.now() + 60 * SECOND, lambda: woken.append(virtual.monotonic()))
        begun = virtual.monotonic()
        await virtual.sleep(10_000)
        virtual.jump_wall(by)
        await virtual.sleep(3_700_000)
        return woken[0] - begun

    try:
        assert virtual.run(jumped(3_600 * SECOND)) == pytest.approx(10)
        assert virtual.run(jumped(-30 * SECOND)) == pytest.approx(90)
    finally:
        virtual.detach()
        engine.close()


ZONES = """
import asyncio, os, sys, time
from datetime import timedelta
from workflow_core import Settings, WorkflowEngine
from workflow_core.database.sqlite import SQLiteStore

engine = WorkflowEngine(SQLiteStore(), settings=Settings(sync_handlers="inline"))

@engine.define("w")
async def w(ctx):
    os.environ["TZ"] = "Pacific/Kiritimati"
    time.tzset()
    await ctx.sleep("rest", 30)
    os.environ["TZ"] = "America/St_Johns"
    time.tzset()
    return await ctx.step("s", engine.clock.now)

result = engine.run("w", "e")
events = asyncio.run(engine.history("e"))
moments = [event.at for event in events] + [result.output, result.started_at, result.completed_at]
assert all(moment.utcoffset() == timedelta(0) for moment in moments), moments
assert [event.at for event in events] == sorted(event.at for event in events)
sleep = engine.store.select("SELECT wake_time, completed_at FROM steps WHERE kind = 'sleep'")[0]
print((events[-1].at - events[0].at).total_seconds() < 10, sleep[1].endswith("+00:00"))
"""


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="Windows has no tzset")
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/St_Johns"])
def test_time_zones_do_not_matter(zone):
    child = subprocess.run(
        [sys.executable, "-c", ZONES],
        check=False,
        env={**os.environ, "TZ": zone},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.stdout.split() == ["True", "True"], child.stderr
