"""Who owns an execution: processes that end, leases that expire, and writes by those who lost them."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from pytest_workflow import VirtualClock
from tests.unit.conftest import every_store_kind
from tests.unit.watching import Watcher
from workflow_core import CircuitBreakerConfig, PanicConfig, RetryConfig, Settings, WorkflowEngine
from workflow_core.ownership import Owner, SystemProcessProbe

store_kind = every_store_kind

PROBE = SystemProcessProbe()
CIRCUIT = CircuitBreakerConfig(failure_threshold=9, reset_timeout_ms=3_600_000)


def test_this_process_lives_and_its_predecessor_of_the_same_number_does_not():
    mine = PROBE.make_owner()
    assert (mine.pid, PROBE.has_ended(mine)) == (os.getpid(), False)
    assert PROBE.has_ended(Owner(mine.host, mine.pid, "another start")) is True


def test_each_owner_is_another_one():
    assert PROBE.make_owner().owner_id != PROBE.make_owner().owner_id


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot tell")
def test_another_process_before_and_after_its_end():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = Owner(PROBE.make_owner().host, child.pid, "")
    assert PROBE.has_ended(owner) is False
    child.communicate(b"\n")
    assert PROBE.has_ended(owner) is True


def test_another_machine_is_unknown():
    assert PROBE.has_ended(Owner("elsewhere", os.getpid(), "")) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only /proc tells")
def test_a_stopped_process():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = Owner(PROBE.make_owner().host, child.pid, "")
    assert PROBE.is_stopped(owner) is False
    child.send_signal(signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)
    assert PROBE.is_stopped(owner) is True
    child.send_signal(signal.SIGCONT)
    child.communicate(b"\n")
    assert PROBE.is_stopped(owner) is False


class Processes:
    """Two processes of this machine; the first may be stopped."""

    def __init__(self):
        self.stopped = False

    def make_owner(self):
        return Owner("here", 1, "")

    def has_ended(self, owner):
        return False

    def is_stopped(self, owner):
        return self.stopped


def test_a_wall_clock_set_forward_takes_nothing_from_a_process_that_lives(make_store):
    virtual, probe = VirtualClock(), Processes()
    one, two = (
        WorkflowEngine(
            make_store(),
            virtual,
            settings=Settings(sync_handlers="inline", lease_ms=30_000),
            process_probe=probe,
        )
        for _ in range(2)
    )

    async def flow(ctx):
        await asyncio.sleep(300)  # outside of steps: it goes on while the test looks
        return await ctx.step("s", lambda: "done")

    one.define("w", flow)
    two.define("w", flow)

    async def main():
        await one.start("w", "e", detach=True)
        await virtual.sleep(5_000)
        for _ in range(3):
            virtual.jump_wall(3_600_000)
            for _ in range(20):
                assert await two.recover() == []
                await virtual.sleep(1_000)
        virtual.jump_wall(-7_200_000)
        assert await two.recover() == []
        result = await one.wait("e")
        assert [type(event).__name__ for event in await one.history("e")].count("ExecutionRecovered") == 0
        await one.aclose()
        await two.aclose()
        return result

    try:
        assert virtual.run(main()).output == "done"
    finally:
        virtual.detach()


@pytest.mark.parametrize("stopped", [True, False])
def test_a_process_that_lives_and_renews_nothing_loses_its_executions(make_store, clock, stopped):
    probe = Processes()
    settings = Settings(sync_handlers="inline", lease_ms=30_000)
    one, two = (WorkflowEngine(make_store(), clock, settings=settings, process_probe=probe) for _ in range(2))

    async def flow(ctx):
        await ctx.sleep("rest", 120_000)

    one.define("w", flow)
    two.define("w", flow)

    async def main():
        await one.start("w", "e", detach=True)
        await clock.settle()
        one._leases.renewal.cancel()  # its event loop stands still
        probe.stopped = stopped
        await clock.advance(29_000)
        assert await two.recover() == []
        await clock.advance(2_000)
        if not stopped:
            assert await two.recover() == []  # it may be the clock
            await clock.advance(29_000)
            assert await two.recover() == []
            await clock.advance(2_000)
        assert await two.recover() == ["e"]
        await two.aclose()
        await asyncio.gather(*one.abandon(), return_exceptions=True)

    asyncio.run(main())


class Unknown:
    """A probe that cannot tell, as for processes of another machine."""

    def make_owner(self):
        return Owner("elsewhere", 1, "")

    def has_ended(self, owner):
        return None


@pytest.fixture
def two_machines(make_store, clock):
    engines = []
    for _ in range(2):
        settings = Settings(sync_handlers="inline", lease_ms=30_000)
        engine = WorkflowEngine(make_store(), clock, settings=settings, process_probe=Unknown())

        @engine.define("w")
        async def flow(ctx):
            await ctx.sleep("rest", 120_000)
            return await ctx.step("s", lambda: "done")

        engines.append(engine)
    yield engines
    for engine in engines:
        engine.close()


def test_a_lease_is_renewed_for_as_long_as_the_execution_runs(two_machines, clock):
    one, two = two_machines

    async def main():
        await one.start("w", "e", detach=True)
        for _ in range(11):
            await clock.advance(10_000)
            assert await two.recover() == []
        result = await clock.finish(one.wait("e"))
        await one.aclose()
        return result

    assert asyncio.run(main()).output == "done"
    assert clock.elapsed_ms == 120_000


def test_without_a_sign_of_life_a_lease_expires(two_machines, clock):
    one, two = two_machines

    async def main():
        await one.start("w", "e", detach=True)
        await clock.advance(1_000)
        await asyncio.gather(*one.abandon(), return_exceptions=True)
        assert await two.recover() == []
        await clock.advance(30_000)
        assert await two.recover() == ["e"]
        result = await clock.finish(two.wait("e"))
        await two.aclose()
        return result

    assert asyncio.run(main()).output == "done"
    assert clock.elapsed_ms == 120_000


def test_who_comes_back_after_losing_the_lease_writes_nothing(two_machines, clock):
    one, two = two_machines

    async def main():
        await one.start("w", "e", detach=True)
        await clock.advance(1_000)
        one._leases.renewal.cancel()  # its event loop stands still
        await clock.advance(30_000)
        assert await two.recover() == ["e"]
        lost = asyncio.ensure_future(one.wait("e"))
        result = await clock.finish(two.wait("e"))
        assert await clock.finish(lost) == result  # who waits is told what came of it there
        events = await two.history("e")
        await one.aclose()
        await two.aclose()
        return result, events

    result, events = asyncio.run(main())
    assert result.output == "done"
    assert [event.step_id for event in events if type(event).__name__ == "StepStarted"] == ["s"]


async def taken_over(machines, clock, meanwhile):
    """Let the second engine take over from the first one, whose loop stands still and goes on in between.

    ``meanwhile`` is what the first one does after its state was read and before its lease ends.
    """
    one, two = machines
    one._leases.renewal.cancel()
    await clock.advance(30_000)
    take = two.bare_store.execution_recovered

    async def while_the_other_writes(*arguments):
        await meanwhile()
        return await take(*arguments)

    two.bare_store.execution_recovered = while_the_other_writes
    assert await two.recover() == ["e"]
    result = await clock.finish(two.wait("e"))
    events = await two.history("e")
    await asyncio.gather(*one.abandon(), return_exceptions=True)
    await two.aclose()
    return result, events


def test_what_the_last_owner_writes_while_it_is_taken_over_is_not_done_again(two_machines, clock):
    one = two_machines[0]
    calls = []

    def define(engine):
        @engine.define("v")
        async def flow(ctx):
            async def body(step_id):
                calls.append((step_id, engine is one))
                if engine is one:
                    await may_end[step_id].wait()

            for step_id in ("a", "b"):
                await ctx.step(step_id, lambda step_id=step_id: body(step_id))
            return "done"

    async def main():
        await one.start("v", "e", detach=True)
        await clock.advance(1_000)

        async def meanwhile():
            may_end["a"].set()
            while ("b", True) not in calls:
                await clock.advance(1)

        return await taken_over(two_machines, clock, meanwhile)

    may_end = {"a": asyncio.Event(), "b": asyncio.Event()}
    for engine in two_machines:
        define(engine)
    result, events = asyncio.run(main())
    assert result.output == "done"
    assert calls == [("a", True), ("b", True), ("b", False)]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.at for event in events] == sorted(event.at for event in events)


def define_refused(engine, called, name):
    """Define a workflow whose step fails once, and whose circuit is answered for by the second engine alone."""

    async def unavailable():
        called.append((name, "s"))
        raise ConnectionError

    async def queued(ctx):
        called.append((name, "on_open"))
        if name == "one":
            await asyncio.Event().wait()
        return "queued"

    @engine.define("v", retry_config=RetryConfig(backoff_ms=31_000))
    async def flow(ctx):
        return await ctx.step("s", unavailable).with_circuit_breaker(9, 3_600_000, on_open=queued)


def test_a_refusal_by_the_last_owner_while_it_is_taken_over_is_seen(two_machines, clock):
    """It takes no position in the history, so nothing else tells of it."""
    one, two = two_machines
    called = []

    async def main():
        await one.start("v", "e", detach=True)
        while not called:
            await clock.advance(1)
        await one.set_circuit("v", "s", "open", CIRCUIT)

        async def meanwhile():
            while ("one", "on_open") not in called:
                await clock.advance(100)
            await two.set_circuit("v", "s", "closed", CIRCUIT)

        return await taken_over(two_machines, clock, meanwhile)

    define_refused(one, called, "one")
    define_refused(two, called, "two")
    result, events = asyncio.run(main())
    assert (result.output, result.steps["s"].attempt) == ("queued", 2)
    assert called == [("one", "s"), ("one", "on_open"), ("two", "on_open")]
    assert [event.attempt for event in events if type(event).__name__ in {"StepStarted", "StepSkipped"}] == [1, 2]


def test_an_attempt_that_was_cut_off_is_told_although_a_circuit_refuses_the_next_one(two_machines, clock):
    one, two = two_machines

    def define(engine):
        async def unavailable():
            begun.append("s")
            await asyncio.Event().wait()

        @engine.define("v")
        async def flow(ctx):
            return await ctx.step("s", unavailable).with_circuit_breaker(9, 3_600_000, on_open=lambda ctx: "queued")

    async def main():
        await one.start("v", "e", detach=True)
        while not begun:
            await clock.advance(1)
        await asyncio.gather(*one.abandon(), return_exceptions=True)
        await two.set_circuit("v", "s", "open", CIRCUIT)
        await clock.advance(30_000)
        assert await two.recover() == ["e"]
        result = await clock.finish(two.wait("e"))
        events = await two.history("e")
        await two.aclose()
        return result, events

    for engine in two_machines:
        define(engine)
    begun, watcher = [], Watcher()
    two.register(watcher)
    result, events = asyncio.run(main())
    assert result.output == "queued"
    told = [(type(event).__name__, getattr(event, "attempt", None)) for event in events if event.seq > 1]
    assert told[:4] == [("StepStarted", 1), ("ExecutionRecovered", None), ("StepInterrupted", 1), ("StepSkipped", 2)]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert watcher.events == events[2:]


def test_what_the_last_owner_writes_that_has_no_place_in_the_history_is_seen_by_who_takes_over(two_machines, clock):
    """It recorded that a step failed for good."""
    one = two_machines[0]
    being_taken, failed = asyncio.Event(), asyncio.Event()

    def define(engine):
        @engine.define("v", retry_config=RetryConfig(max_attempts=1))
        async def flow(ctx):
            def refuse():
                raise ValueError("no")

            await ctx.step("s", refuse)

    async def main():
        record = one.bare_store.step_failed

        async def late(*arguments):
            await being_taken.wait()
            await record(*arguments)
            failed.set()
            await asyncio.Event().wait()

        async def meanwhile():
            being_taken.set()
            await failed.wait()

        one.bare_store.step_failed = late
        await one.start("v", "e", detach=True)
        await clock.advance(1_000)
        return await taken_over(two_machines, clock, meanwhile)

    for engine in two_machines:
        define(engine)
    result, _ = asyncio.run(main())
    assert result.status == "failed"
    assert result.steps["s"].attempt == 1


def test_a_renewal_that_crosses_a_restart_of_its_own_stops_nothing(two_machines, clock):
    """Its answer has the fencing token of the restart after a panic, of which this process does not know yet."""
    one, _ = two_machines

    @one.define("p", panic_config=PanicConfig(enable_auto_restart=True, restart_delay_ms=15_000))
    async def flow(ctx):
        async def body():
            if ctx.restart_attempt == 1:
                raise MemoryError
            await may_end.wait()
            return ctx.restart_attempt

        return await ctx.step("s", body)

    renew, restart = one.bare_store.lease_renewed, one.bare_store.execution_restarted
    may_end, crossed, going_on = asyncio.Event(), [], []

    async def renewed(*arguments):
        if "renewal" not in crossed:
            crossed.append("renewal")
            going_on.append(asyncio.ensure_future(clock.advance(6_000)))
            while "restart" not in crossed:
                await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.01, answered.set)
        return await renew(*arguments)

    async def restarted(*arguments):
        lease = await restart(*arguments)
        crossed.append("restart")
        await answered.wait()
        return lease

    async def main():
        one.bare_store.lease_renewed, one.bare_store.execution_restarted = renewed, restarted
        await one.start("p", "e", detach=True)
        await clock.advance(12_000)
        while "restart" not in crossed:
            await asyncio.sleep(0)
        answered.set()
        may_end.set()
        result = await clock.finish(one.wait("e"))
        events = await one.history("e")
        await one.aclose()
        return result, [type(event).__name__ for event in events]

    answered = asyncio.Event()
    result, names = asyncio.run(main())
    assert (result.status, result.output) == ("completed", 2)
    assert "ExecutionRecovered" not in names
