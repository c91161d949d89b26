"""One execution: sleeps, panics, restarts, what ends it, and what a new process makes of it."""

import asyncio
import enum
import gc

import pytest

from tests.unit.conftest import every_store_kind, sql
from tests.unit.watching import cancel_something_inside, run
from workflow_core import InvalidStateError, PanicError, ValidationError, hookimpl
from workflow_core.failures import rebuild_error, record_error
from workflow_core.panic import find_panic_indicator
from workflow_core.serialization import Codec

store_kind = every_store_kind


def test_the_rest_of_a_sleep_is_slept_after_each_crash(machine, clock):
    async def flow(ctx):
        await ctx.sleep("rest", 10_000)

    machine.define("w")(flow)

    async def main():
        engine = machine.boot()
        await engine.start("w", "e", detach=True)
        for _ in range(3):
            await clock.advance(3_000)
            assert (await engine.get_status("e")).status == "sleeping"
            engine = await machine.reboot(engine)
        return await clock.finish(engine.wait("e"))

    assert asyncio.run(main()).status == "completed"
    assert clock.elapsed_ms == 10_000


def test_a_sleep_that_became_due_while_nobody_ran_is_over_at_once(machine, clock):
    async def flow(ctx):
        await ctx.sleep("rest", 10_000)

    machine.define("w")(flow)

    async def main():
        engine = machine.boot()
        await engine.start("w", "e", detach=True)
        await clock.advance(1_000)
        await machine.crash(engine)
        await clock.advance(99_000)
        return await clock.finish(machine.boot().resume("e"))

    assert asyncio.run(main()).status == "completed"
    assert clock.elapsed_ms == 100_000


def test_resume_sleeps_the_rest(machine, clock):
    async def flow(ctx):
        await ctx.sleep("rest", 10_000)

    machine.define("w")(flow)

    async def main():
        engine = machine.boot()
        await engine.start("w", "e", detach=True)
        await clock.advance(4_000)
        await machine.crash(engine)
        return await clock.finish(machine.boot().resume("e"))

    assert asyncio.run(main()).status == "completed"
    assert clock.elapsed_ms == 10_000


def test_a_task_that_is_left_behind_cannot_begin_steps(machine):
    left = []

    async def flow(ctx):
        async def late(go_on):
            await go_on.wait()
            await ctx.step("late", lambda: 1)

        async def later(go_on):
            await go_on.wait()
            await ctx.sleep("later", 1)

        go_on = asyncio.Event()
        left.extend([go_on, asyncio.ensure_future(late(go_on)), asyncio.ensure_future(later(go_on))])
        return "done"

    machine.define("w")(flow)

    async def main():
        engine = machine.boot()
        await engine.start("w", "e")
        left[0].set()
        ended = await asyncio.gather(*left[1:], return_exceptions=True)
        return ended, await engine.get_status("e"), await sql(engine.bare_store, "SELECT * FROM {s}.steps")

    ended, result, rows = asyncio.run(main())
    assert [type(error) for error in ended] == [InvalidStateError, InvalidStateError]
    assert str(ended[0]) == (
        'workflow "w", execution "e": its handler has ended, so no step can begin; await all tasks that run steps in '
        "the handler"
    )
    assert (result.output, rows) == ("done", [])


def test_a_task_left_behind_by_a_panicked_run_cannot_write_into_the_next(machine, clock):
    left = []

    async def flow(ctx):
        if ctx.restart_attempt == 2:
            await ctx.sleep("rest", 1_000)
            return "recovered"

        async def late():
            await clock.sleep(5_500)
            await ctx.step("late", lambda: 1)

        left.append(asyncio.ensure_future(late()))
        await ctx.sleep("settle", 1)
        raise RuntimeError("unforeseen")

    machine.define("w")(flow)

    async def main():
        engine = machine.boot()
        result = await clock.finish(engine.start_and_wait("w", "e"))
        return result, await asyncio.gather(*left, return_exceptions=True)

    result, (error,) = asyncio.run(main())
    assert isinstance(error, InvalidStateError)
    assert (result.output, sorted(result.steps)) == ("recovered", ["rest", "settle"])


def test_a_cancellation_inside_the_body_is_an_unexpected_error(machine):
    async def flow(ctx):
        await cancel_something_inside()

    result = run(machine, flow, panic_config={"enable_auto_restart": False})
    assert (result.status, result.error.type, result.error.indicator) == (
        "panicked",
        "CancelledError",
        "unexpected error",
    )


def test_restarts_come_after_their_delay_and_end(machine, clock):
    runs = []

    async def flow(ctx):
        runs.append((ctx.restart_attempt, clock.elapsed_ms))
        await ctx.step("kept", lambda: runs.append("kept"))
        raise RuntimeError("unforeseen")

    result = run(machine, flow, panic_config={"max_restart_attempts": 2, "restart_delay_ms": 3_000})
    assert runs == [(1, 0.0), "kept", (2, 3_000.0), (3, 6_000.0)]
    assert (result.status, result.restart_attempt) == ("failed", 3)


def test_a_due_restart_survives_the_process(machine, clock):
    async def flow(ctx):
        if ctx.restart_attempt == 1:
            raise MemoryError
        return ctx.restart_attempt

    machine.define("w")(flow)

    async def main():
        engine = machine.boot()
        with pytest.raises(PanicError, match="MemoryError"):
            await engine.start("w", "e")
        await clock.advance(2_000)
        engine = await machine.reboot(engine)
        return await clock.finish(engine.wait("e"))

    assert asyncio.run(main()).output == 2
    assert clock.elapsed_ms == 5_000


def test_restart_takes_a_panicked_execution_at_once_and_refuses_others(machine, clock):
    async def flow(ctx):
        if ctx.restart_attempt == 1:
            raise MemoryError
        return "fine"

    machine.define("w")(flow)

    async def main():
        engine = machine.boot()
        with pytest.raises(PanicError):
            await engine.start("w", "e")
        result = await engine.restart("e")
        with pytest.raises(InvalidStateError, match="completed"):
            await engine.restart("e")
        return result

    assert asyncio.run(main()).output == "fine"
    assert clock.elapsed_ms == 0


def test_a_time_out_of_the_whole_execution_counts_over_crashes(machine, clock):
    async def flow(ctx):
        await ctx.sleep("rest", 60_000)

    machine.define("w")(flow)

    async def main():
        engine = machine.boot()
        await engine.start("w", "e", timeout_ms=10_000, detach=True)
        await clock.advance(6_000)
        engine = await machine.reboot(engine)
        return await clock.finish(engine.wait("e"))

    result = asyncio.run(main())
    assert (result.status, result.error.type) == ("failed", "WorkflowTimeoutError")
    assert clock.elapsed_ms == 10_000


class OutOfRoomError(MemoryError):
    pass


def panics():
    class LocalError(MemoryError):
        pass

    wrapped = ValueError("wrapped")
    wrapped.__cause__ = MemoryError("root")
    return [
        RuntimeError("Out of memory"),
        OutOfRoomError("x"),
        LocalError("x"),
        wrapped,
        ExceptionGroup("both", [ValueError("a"), MemoryError("b")]),
        PanicError("by hand", indicator="by hand"),
    ]


@pytest.mark.parametrize("number", range(6))
def test_a_panic_is_one_still_when_it_is_read_back(number):
    error = panics()[number]
    indicator = error.indicator if isinstance(error, PanicError) else find_panic_indicator(error)
    codec = Codec()
    back = rebuild_error(record_error(error, 2, 0, codec, indicator), "s", [], codec)
    assert isinstance(back, PanicError)
    assert (back.indicator, back.step_id, back.attempt, str(back)) == (indicator, "s", 2, str(error))


@pytest.mark.parametrize("point", ["step_failed", "execution_panicked"])
def test_a_crash_while_a_panic_is_recorded_changes_nothing(machine, clock, point):
    """The panic is in the cause, which is not stored; the record must remember it all the same."""

    class Killer:
        def __init__(self):
            self.armed = True

        @hookimpl
        def before_durable_point(self, point):
            if self.armed and point.name == wanted:
                self.armed = False
                engine = machine.engines[-1]
                machine.dead.add(engine.owner.owner_id)
                engine.abandon()

    wanted, ran = point, []

    async def flow(ctx):
        async def work():
            ran.append(ctx.attempt)
            if ctx.restart_attempt == 2:
                return "recovered"
            raise ValueError("wrapped") from MemoryError("root")

        return await ctx.step("s", work)

    machine.define("w")(flow)

    async def main():
        engine = machine.boot(plugins=[Killer()])
        await engine.start("w", "e", detach=True)
        await clock.settle()
        engine = machine.boot()
        assert await engine.recover() == ["e"]
        return await clock.finish(engine.wait("e")), await engine.history("e")

    result, history = asyncio.run(main())
    assert (result.output, result.restart_attempt) == ("recovered", 2)
    assert ran == [1, 1]
    (panicked,) = [event for event in history if type(event).__name__ == "ExecutionPanicked"]
    assert (panicked.indicator, panicked.error, panicked.step_id) == ("MemoryError", "ValueError", "s")


def test_sys_exit_in_a_step_leaves_the_attempt_used(machine, caplog):
    async def flow(ctx):
        async def leave():
            raise SystemExit(3)

        await ctx.step("s", leave)

    machine.define("w")(flow)
    engine = machine.boot()
    with pytest.raises(SystemExit):
        asyncio.run(engine.start("w", "e"))
    assert asyncio.run(sql(machine.make_store(), "SELECT status, attempt FROM {s}.steps")) == [("running", 1)]
    machine.engines.clear()
    gc.collect()
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("place", ["step", "body"])
def test_a_message_with_a_lone_surrogate_ends_the_execution_like_any_other(machine, place):
    """Such as the name of a file in another encoding than this system's."""

    async def flow(ctx):
        async def read():
            raise ValueError("cannot read " + b"caf\xe9.csv".decode("utf-8", "surrogateescape"))

        if place == "step":
            await ctx.step("s", read).with_retry(max_attempts=1)
        await read()

    result = run(machine, flow, panic_config={"enable_auto_restart": False})
    assert result.status == ("failed" if place == "step" else "panicked")
    assert result.error.message == "cannot read caf\\udce9.csv"
    assert result.model_dump_json()


class Shade(enum.Enum):
    DARK = "dark"


def test_a_value_that_a_new_release_cannot_read_is_shown_as_it_is_stored(machine):
    async def flow(ctx):
        await ctx.step("s", lambda: Shade.DARK)
        return Shade.DARK

    result = run(machine, flow, input=[Shade.DARK])
    assert (result.input, result.output, result.steps["s"].result) == ([Shade.DARK], Shade.DARK, Shade.DARK)
    engine = machine.boot()
    for statement in (
        "UPDATE {s}.steps SET result_data = replace(result_data, 'DARK', 'GREY')",
        "UPDATE {s}.executions SET status = 'running', input_data = replace(input_data, 'DARK', 'GREY')",
        "UPDATE {s}.executions SET output_data = '{'",
    ):
        asyncio.run(sql(engine.bare_store, statement))
    stored = {"$type": "enum", "class": f"{__name__}:Shade", "name": "GREY"}
    shown = asyncio.run(engine.get_status("e"))
    assert (shown.input, shown.output, shown.steps["s"].result) == ([stored], "{", stored)
    with pytest.raises(ValidationError, match=r'Cannot read the input of execution "e".*GREY'):
        asyncio.run(engine.resume("e"))


def test_a_step_s_result_that_a_new_release_cannot_read_fails_the_execution(machine):
    async def flow(ctx):
        await ctx.step("s", lambda: Shade.DARK)

    run(machine, flow)
    engine = machine.boot()
    change = "UPDATE {s}.steps SET result_data = replace(result_data, 'DARK', 'GREY')"
    asyncio.run(sql(engine.bare_store, change))
    asyncio.run(sql(engine.bare_store, "UPDATE {s}.executions SET status = 'failed'"))
    with pytest.raises(ValidationError, match=r'Cannot read the result of step "s".*GREY'):
        asyncio.run(engine.restart("e"))
    assert asyncio.run(engine.get_status("e")).status == "failed"
