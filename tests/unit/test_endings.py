"""How executions end: what whoever waits is told, what observers see, and what is stored, are the same."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import pytest

from tests.unit.watching import Watcher
from workflow_core import (
    ErrorInfo,
    NonRetryableError,
    PanicError,
    Settings,
    StepConflictError,
    WorkflowContext,
    WorkflowEngine,
    WorkflowError,
    WorkflowTimeoutError,
    hookimpl,
)
from workflow_core.clock import to_epoch_ms
from workflow_core.database.store import ABANDONED
from workflow_core.errors import error_text


@dataclass
class Order:
    lines: list[str]


async def refuse():
    raise NonRetryableError("no")


async def completes(ctx):
    await ctx.step("one", lambda: {"a": 1})
    await ctx.sleep("rest", 20)
    return ["done"]


async def fails(ctx):
    await ctx.step("one", lambda: 1)
    await ctx.sleep("rest", 20)
    await ctx.step("bad", refuse)


async def fails_with_a_group(ctx):
    await ctx.sleep("rest", 20)

    async def branch(step):
        await step

    async with asyncio.TaskGroup() as group:
        group.create_task(branch(ctx.step("one", refuse)))
        group.create_task(branch(ctx.step("other", refuse)))


async def leaves_steps_behind(ctx):
    left = ctx.step("left", lambda: asyncio.Event().wait()), ctx.sleep("nap", 60_000)
    tasks = [asyncio.ensure_future(each) for each in left]
    await ctx.sleep("rest", 20)
    if ctx.input == "fails":
        await ctx.step("bad", refuse)
    return len(tasks)


async def panics_outside_of_steps(ctx):
    await ctx.sleep("rest", 20)
    raise RuntimeError("out of order")


async def panics_in_a_step(ctx):
    await ctx.sleep("rest", 20)

    def full():
        if ctx.attempt == 1:
            raise ValueError("not yet")
        raise MemoryError("full")

    await ctx.step("s", full).with_retry(max_attempts=2, backoff_ms=5)


async def panics_once(ctx):
    await ctx.step("kept", lambda: ctx.restart_attempt)
    await ctx.sleep("rest", 20)
    if ctx.restart_attempt == 1:
        raise MemoryError("full")
    return await ctx.step("s", lambda: ctx.restart_attempt)


ENDINGS = {
    "completed": (completes, None, {}),
    "failed": (fails, None, {}),
    "failed in a group": (fails_with_a_group, None, {}),
    "completed with steps left behind": (leaves_steps_behind, None, {}),
    "failed with steps left behind": (leaves_steps_behind, "fails", {}),
    "panicked outside of steps": (panics_outside_of_steps, None, {"enable_auto_restart": False}),
    "panicked in a step": (panics_in_a_step, None, {"enable_auto_restart": False}),
    "completed after a restart": (panics_once, None, {"restart_delay_ms": 1_000}),
    "failed after a restart": (panics_outside_of_steps, None, {"max_restart_attempts": 1, "restart_delay_ms": 1_000}),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_all_are_told_what_is_stored(machine, clock, ending):
    flow, given, panics = ENDINGS[ending]
    machine.define("w", panic_config=panics)(flow)
    watcher = Watcher()

    async def scenario():
        engine = machine.boot([watcher])
        await engine.start("w", "e", given, detach=True)
        told = await clock.finish(engine.wait("e"))
        other = machine.boot()
        assert told == await other.get_status("e")
        (summary,) = await other.list_executions()
        assert (summary.status, summary.error) == (told.status, told.error and str(told.error))
        history = await other.history("e")
        assert [event.seq for event in history] == list(range(1, len(history) + 1))
        assert sorted(watcher.events, key=lambda event: event.seq) == history
        return told

    assert asyncio.run(scenario()).status == ending.split()[0]


def end(machine, flow, timeout_ms=None, **panics):
    machine.define("w", panic_config=panics)(flow)
    return asyncio.run(machine.clock.finish(machine.boot().start_and_wait("w", "e", timeout_ms=timeout_ms)))


def test_the_first_of_a_group_of_failed_steps_is_what_ended_the_execution(machine):
    error = end(machine, fails_with_a_group).error
    assert (error.type, error.message, error.step_id) == ("NonRetryableError", "no", "one")


def test_a_step_that_was_left_behind_says_so(machine):
    left = end(machine, leaves_steps_behind).steps["left"]
    assert (left.step_id, left.status, left.error) == ("left", "failed", ErrorInfo(type="Error", message=ABANDONED))


def test_a_group_with_an_error_of_the_user_s_own_is_a_panic(machine):
    async def flow(ctx):
        raise ExceptionGroup("both", [WorkflowError("ours"), ExceptionGroup("inner", [ValueError("theirs")])])

    result = end(machine, flow, enable_auto_restart=False)
    assert (result.status, result.error.type) == ("panicked", "ExceptionGroup")
    assert (result.error.message, result.error.indicator) == ("both (2 sub-exceptions)", "unexpected error")


def test_a_panic_outside_of_steps_says_what_it_was(machine):
    async def flow(ctx):
        raise MemoryError("full")

    async def start():
        machine.define("w", panic_config={"enable_auto_restart": False})(flow)
        await machine.boot().start("w", "e")

    with pytest.raises(PanicError) as caught:
        asyncio.run(start())
    assert error_text(caught.value) == 'workflow "w", execution "e": it panicked (MemoryError): MemoryError: full'
    assert (caught.value.indicator, caught.value.attempt, caught.value.step_id) == ("MemoryError", 1, None)
    assert isinstance(caught.value.__cause__, MemoryError)


@pytest.mark.parametrize(("allowed", "runs"), [(1, 2), (2, 3)])
def test_an_execution_is_restarted_as_often_as_it_may_be(machine, allowed, runs):
    seen = []

    async def flow(ctx):
        seen.append(ctx.restart_attempt)
        raise MemoryError

    result = end(machine, flow, max_restart_attempts=allowed, restart_delay_ms=1_000)
    assert (result.status, result.restart_attempt, seen) == ("failed", runs, list(range(1, runs + 1)))
    assert machine.clock.elapsed_ms == 1_000 * allowed


def test_a_restart_by_hand_begins_the_time_anew_and_keeps_what_is_completed(machine, clock):
    async def scenario():
        @machine.define("w", retry_config={"max_attempts": 1})
        async def flow(ctx):
            await ctx.step("kept", lambda: ctx.restart_attempt)
            await ctx.step("tried", lambda: 1 / (ctx.restart_attempt - 1))
            await ctx.sleep("rest", 60)

        engine = machine.boot([watcher])
        begun = asyncio.ensure_future(engine.start_and_wait("w", "e", timeout_ms=100))
        assert (await clock.finish(begun)).status == "failed"
        await clock.advance(70)
        told = await clock.finish(engine.restart("e"))
        other = machine.boot()
        assert told == await other.get_status("e")
        assert watcher.events == await other.history("e")
        return told

    watcher = Watcher()
    told = asyncio.run(scenario())
    assert (told.status, told.restart_attempt, told.error) == ("completed", 2, None)
    assert (told.steps["kept"].result, told.steps["tried"].attempt) == (1, 1)


def test_two_steps_of_one_id_at_the_same_time_are_told_apart(machine):
    go_on = asyncio.Event()

    async def flow(ctx):
        other = asyncio.ensure_future(ctx.step("s", go_on.wait))
        await asyncio.sleep(0)
        with pytest.raises(StepConflictError) as caught:
            await ctx.step("s", lambda: 1)
        go_on.set()
        await other
        return str(caught.value)

    assert end(machine, flow).output == (
        'workflow "w", execution "e": step "s" is already running in another task; steps that run at the same time '
        "need different ids"
    )


@pytest.mark.parametrize("timeout_ms", [None, 60_000])
def test_a_time_out_of_the_user_s_own_is_not_taken_for_that_of_the_execution(machine, timeout_ms):
    async def flow(ctx):
        raise TimeoutError("mine")

    result = end(machine, flow, timeout_ms=timeout_ms, enable_auto_restart=False)
    assert (result.status, result.error.type, result.error.message) == ("panicked", "TimeoutError", "mine")


@pytest.mark.parametrize("waits", ["in a sleep", "outside of steps", "between steps"])
def test_an_execution_that_takes_too_long_says_so(machine, waits):
    async def flow(ctx):
        if waits == "in a sleep":
            await ctx.sleep("rest", 1_000)
        elif waits == "outside of steps":
            await asyncio.Event().wait()
        machine.clock.time += timedelta(milliseconds=100)
        await ctx.step("too late", lambda: 1)

    result = end(machine, flow, timeout_ms=100)
    assert result.status == "failed"
    assert result.error.message == 'workflow "w", execution "e": it took longer than the timeout_ms it was started with'
    assert machine.clock.elapsed_ms == 100
    assert "too late" not in result.steps


def test_an_execution_that_takes_too_long_cannot_ignore_it(machine):
    async def flow(ctx):
        machine.clock.time += timedelta(milliseconds=100)
        try:
            await ctx.step("too late", lambda: 1)
        except WorkflowTimeoutError:
            return "saved"

    assert end(machine, flow, timeout_ms=100).error.type == "WorkflowTimeoutError"


def test_a_time_out_that_comes_just_after_the_end_changes_nothing(machine):
    async def flow(ctx):
        await ctx.sleep("rest", 99)
        return "done"

    assert end(machine, flow, timeout_ms=100).output == "done"


def test_an_execution_on_a_clock_that_is_behind_goes_on_from_the_latest_moment_of_its_history(machine, clock):
    @machine.define("w")
    async def flow(ctx):
        await ctx.sleep("rest", 1_000)
        return await ctx.step("s", lambda: "done")

    async def scenario():
        engine = machine.boot()
        await engine.start("w", "e", detach=True)
        await clock.advance(10)
        begun = clock.now()
        await machine.crash(engine)
        clock.time -= timedelta(milliseconds=500)
        engine = machine.boot()
        await engine.recover()
        assert (await clock.finish(engine.wait("e"))).output == "done"
        moments = [event.at for event in await engine.history("e")]
        assert moments == sorted(moments)
        return begun, moments

    begun, moments = asyncio.run(scenario())
    assert moments[2] == begun - timedelta(milliseconds=10)  # the latest one before the recovery
    assert moments[-1] == clock.now()


@pytest.mark.parametrize("crashes", [False, True])
def test_what_was_restarted_by_hand_has_no_end_any_more_and_its_time_holds(machine, clock, crashes):
    @machine.define("w")
    async def flow(ctx):
        await ctx.sleep("rest", 1_000)

    async def scenario():
        engine = machine.boot()
        failed = await clock.finish(engine.start_and_wait("w", "e", timeout_ms=100))
        assert failed.completed_at == clock.now()
        again = await engine.restart("e", detach=True)
        assert (again.completed_at, again.error, again.restart_attempt) == (None, None, 2)
        await clock.advance(10)
        if crashes:
            engine = await machine.reboot(engine)
        assert (await clock.finish(engine.wait("e"))).error.type == "WorkflowTimeoutError"
        assert clock.elapsed_ms == 200

    asyncio.run(scenario())


def test_runs_know_that_the_execution_had_failed_before(machine, clock):
    seen = []

    class Runs:
        @hookimpl
        def wrap_run(self, run):
            seen.append((run.restart_attempt, run.has_failed, run.began_at))

    @machine.define("w")
    async def flow(ctx):
        await ctx.sleep("rest", 10)
        if ctx.restart_attempt == 1:
            await ctx.step("s", refuse)
        if ctx.restart_attempt == 2:
            raise MemoryError

    async def scenario():
        engine = machine.boot([Runs()])
        await clock.finish(engine.start_and_wait("w", "e"))
        await clock.advance(5)
        await engine.restart("e", detach=True)
        await clock.finish(engine.wait("e"))

    asyncio.run(scenario())
    begun = clock.start
    assert seen == [
        (1, False, begun),
        (2, True, begun + timedelta(milliseconds=15)),
        (3, True, begun + timedelta(milliseconds=5_015)),
    ]


def test_each_run_is_given_the_input_as_it_was_stored(machine, clock):
    seen = []

    async def flow(ctx: WorkflowContext[Order]):
        seen.append((type(ctx.input).__name__, list(ctx.input.lines)))
        ctx.input.lines.append("changed")
        if ctx.restart_attempt == 1:
            raise MemoryError

    machine.define("w")(flow)
    given = Order(["one"])
    asyncio.run(clock.finish(machine.boot().start_and_wait("w", "e", given)))
    assert seen == [("Order", ["one"])] * 2


def test_who_restarts_an_execution_that_another_process_ran_has_a_lease_on_it(machine, clock):
    @machine.define("w")
    async def flow(ctx):
        await ctx.step("s", refuse if len(machine.engines) == 1 else lambda: asyncio.Event().wait())

    async def scenario():
        await clock.finish(machine.boot().start_and_wait("w", "e"))
        settings = Settings(sync_handlers="inline", lease_ms=3_000)
        engine = WorkflowEngine(machine.make_store(), clock, settings=settings, process_probe=machine)
        machine.engines.append(engine)
        engine.define("w", flow)
        await engine.restart("e", detach=True)
        _, expires_at = await engine.bare_store.load_owner(engine.owner.owner_id)
        assert expires_at == to_epoch_ms(clock.now()) + 3_000
        await engine.aclose()

    asyncio.run(scenario())


def test_what_is_told_has_its_declared_type(machine, clock):
    @machine.define("w")
    async def flow(ctx: WorkflowContext[Order]) -> Order:
        await clock.sleep(5)
        await ctx.step("s", lambda: Order(["step"]), returns=Order)
        return Order([*ctx.input.lines, "two"])

    async def scenario():
        engine = machine.boot()
        result = await clock.finish(engine.start_and_wait("w", "e", Order(["one"])))
        assert (result.input, result.output) == (Order(["one"]), Order(["one", "two"]))
        step = result.steps["s"]
        begun = clock.start + timedelta(milliseconds=5)
        assert (step.result, step.started_at, step.completed_at) == ({"lines": ["step"]}, begun, begun)
        assert result == await machine.boot().get_status("e")
        machine.definitions.clear()
        known_to_nobody = await machine.boot().get_status("e")
        assert (known_to_nobody.input, known_to_nobody.output) == ({"lines": ["one"]}, {"lines": ["one", "two"]})

    asyncio.run(scenario())
