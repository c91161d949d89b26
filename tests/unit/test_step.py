"""Attempts, handlers, retries and circuits of one step, also across crashes."""

import asyncio
import math

import pytest

from tests.unit.conftest import every_store_kind
from tests.unit.watching import cancel_something_inside, run
from workflow_core import (
    NonRetryableError,
    RecordedError,
    RetryConfig,
    StepInterruptedError,
    ValidationError,
    WorkflowError,
)
from workflow_core.retry import is_retryable

store_kind = every_store_kind


def test_a_completed_step_runs_once_in_one_run(machine):
    calls = []

    async def flow(ctx):
        first = await ctx.step("s", lambda: calls.append("one") or {"n": 1})
        first["n"] = 99
        return await ctx.step("s", lambda: calls.append("two"))

    assert run(machine, flow).output == {"n": 1}
    assert calls == ["one"]


def test_a_result_does_not_change_with_the_object_that_the_handler_keeps(machine, clock):
    seen = []

    async def flow(ctx):
        items = []

        async def add(item):
            items.append(item)
            return items

        first = await ctx.step("first", lambda: add(1))
        second = await ctx.step("second", lambda: add(2))
        seen.append((list(first), list(second)))
        await ctx.sleep("rest", 1_000)

    machine.define("w")(flow)

    async def main():
        engine = machine.boot()
        await engine.start("w", "e", detach=True)
        await clock.settle()
        engine = await machine.reboot(engine)
        await clock.finish(engine.wait("e"))

    asyncio.run(main())
    assert seen == [([1], [1, 2])] * 2


def test_the_input_is_not_the_caller_s_own_object(machine):
    async def flow(ctx):
        ctx.input["seen"].append(ctx.execution_id)

    given = {"seen": []}
    run(machine, flow, input=given)
    assert given == {"seen": []}


def test_an_inner_step_of_a_handler_runs_once_over_all_attempts(machine):
    calls = []

    async def flow(ctx):
        async def broken():
            raise ValueError("no")

        async def handle(error, ctx):
            await ctx.step("inner", lambda: calls.append(ctx.attempt))
            raise error

        await ctx.step("outer", broken).on_error({ValueError: handle})

    result = run(machine, flow)
    assert result.status == "failed"
    assert result.steps["outer"].attempt == 3
    assert calls == [1]


def test_the_attempt_of_the_outer_step_is_back_after_an_inner_one(machine):
    async def flow(ctx):
        seen = []

        async def flaky():
            if ctx.attempt < 3:
                raise ValueError
            seen.append(ctx.attempt)
            seen.append(await ctx.step("inner", lambda: ctx.attempt))
            seen.append(ctx.attempt)

        await ctx.step("outer", flaky)
        return [*seen, ctx.attempt]

    assert run(machine, flow).output == [3, 1, 3, 1]


@pytest.mark.parametrize(
    ("config", "elapsed"),
    [
        ({"max_attempts": 4}, 1_000 + 2_000 + 4_000),
        ({"max_attempts": 4, "exponential_backoff": False}, 3_000),
        ({"max_attempts": 4, "max_backoff_ms": 1_500}, 1_000 + 1_500 + 1_500),
    ],
    ids=["exponential", "constant", "capped"],
)
def test_the_waits_between_attempts(machine, clock, config, elapsed):
    async def flow(ctx):
        async def broken():
            raise ValueError("no")

        await ctx.step("s", broken)

    assert run(machine, flow, retry_config=config).steps["s"].attempt == 4
    assert clock.elapsed_ms == elapsed


def test_with_retry_changes_only_what_it_names(machine, clock):
    async def flow(ctx):
        async def broken():
            raise ValueError("no")

        await ctx.step("s", broken).with_retry(max_attempts=2)

    run(machine, flow, retry_config=RetryConfig(max_attempts=5, backoff_ms=70))
    assert clock.elapsed_ms == 70


def test_the_back_off_is_durable(machine, clock):
    async def flow(ctx):
        async def flaky():
            if ctx.attempt == 1:
                raise ValueError("no")
            return ctx.attempt

        return await ctx.step("s", flaky).with_retry(backoff_ms=10_000)

    machine.define("w")(flow)

    assert asyncio.run(machine.interrupted(4_000)).output == 2
    assert clock.elapsed_ms == 10_000


def test_every_crash_uses_an_attempt(machine, clock):
    runs = []

    async def flow(ctx):
        async def hang():
            runs.append(ctx.attempt)
            await asyncio.Event().wait()

        await ctx.step("s", hang)

    machine.define("w")(flow)

    async def main():
        engine = machine.boot()
        await engine.start("w", "e", detach=True)
        for _ in range(3):
            await clock.settle()
            engine = await machine.reboot(engine)
        return await clock.finish(engine.wait("e"))

    result = asyncio.run(main())
    assert runs == [1, 2, 3]
    assert (result.status, result.error.type) == ("failed", "StepInterruptedError")


def test_a_handler_in_flight_is_entered_again_with_the_error(machine, clock):
    class DeclinedError(Exception):
        def __init__(self, message, code):
            super().__init__(message)
            self.code = code

    seen, attempts = [], []

    async def flow(ctx):
        async def charge():
            attempts.append(ctx.attempt)
            raise DeclinedError("declined", 402)

        async def handle(error, ctx):
            seen.append((type(error), str(error), error.code, ctx.attempt))
            await ctx.sleep("think", 1_000)
            return error.code

        return await ctx.step("charge", charge).on_error({DeclinedError: handle})

    machine.define("w")(flow)

    assert asyncio.run(machine.interrupted(400)).output == 402
    assert seen == [(DeclinedError, "declined", 402, 1)] * 2
    assert attempts == [1]
    assert clock.elapsed_ms == 1_000


def test_a_non_retryable_error_that_cannot_be_built_again_stays_non_retryable(machine, clock):
    class FinalError(NonRetryableError):
        def __init__(self, *, reason):
            super().__init__(reason)
            self.reason = reason
            self.cannot_be_stored = object()

    seen, attempts = [], []

    async def flow(ctx):
        async def work():
            attempts.append(ctx.attempt)
            raise FinalError(reason="closed")

        async def handle(error, ctx):
            seen.append(type(error))
            await ctx.sleep("think", 1_000)
            raise error

        await ctx.step("s", work).catch(handle)

    machine.define("w")(flow)

    assert asyncio.run(machine.interrupted(400)).status == "failed"
    assert seen == [FinalError, RecordedError]
    assert attempts == [1]


def test_a_recorded_error_answers_to_the_names_of_its_bases():
    recorded = RecordedError(
        "FinalError", "closed", ["shop:FinalError", "workflow_core.errors:NonRetryableError", "builtins:Exception"]
    )
    assert not is_retryable(RetryConfig(), recorded)
    assert not is_retryable(RetryConfig(non_retryable=("FinalError",)), RecordedError("FinalError", "closed"))


@pytest.mark.parametrize("place", ["step", "on_error", "catch", "on_open"])
def test_a_cancellation_of_something_inside_is_an_error_of_the_step(machine, place):
    async def flow(ctx):
        async def broken():
            raise ValueError("no")

        step = ctx.step("s", cancel_something_inside if place == "step" else broken).with_retry(max_attempts=1)
        if place == "on_error":
            step.on_error({"default": lambda error, ctx: cancel_something_inside()})
        elif place == "catch":
            step.catch(lambda error, ctx: cancel_something_inside())
        elif place == "on_open":
            step.with_circuit_breaker(1, on_open=lambda ctx: cancel_something_inside())
            await ctx.step("trip", lambda: trip(ctx))
        with pytest.raises(WorkflowError) as caught:
            await step
        assert isinstance(caught.value.original_error, StepInterruptedError)
        return "went on"

    async def trip(ctx):
        from workflow_core import CircuitBreakerConfig

        config = CircuitBreakerConfig(failure_threshold=1)
        await ctx._execution.engine.set_circuit("w", "s", "open", config)

    assert run(machine, flow).output == "went on"


def test_a_plain_function_may_raise_stop_iteration_in_its_thread(machine):
    from workflow_core import Settings, WorkflowEngine
    from workflow_core.database.sqlite import SQLiteStore

    engine = WorkflowEngine(SQLiteStore(), settings=Settings(sync_handlers="thread"))

    @engine.define("w")
    async def flow(ctx):
        await ctx.step("s", lambda: next(iter([]))).with_retry(max_attempts=1)

    async def main():
        return await asyncio.wait_for(engine.start_and_wait("w"), 5)

    result = asyncio.run(main())
    assert (result.status, result.error.type) == ("failed", "RuntimeError")
    engine.close()


@pytest.mark.parametrize("timeout_ms", ["x", [], True, 0, -1, math.nan, math.inf, 1e300], ids=repr)
def test_what_is_no_time_out(machine, timeout_ms):
    async def flow(ctx):
        with pytest.raises(ValidationError, match="timeout_ms"):
            ctx.step("s", lambda: 1, timeout_ms=timeout_ms)

    engine = machine.boot()
    assert run(machine, flow, engine).status == "completed"
    with pytest.raises(ValidationError, match="timeout_ms"):
        asyncio.run(engine.start("w", "f", timeout_ms=timeout_ms))
    assert asyncio.run(engine.store.load_execution("f")) is None


def test_a_step_that_takes_too_long_is_a_failed_attempt(machine, clock):
    async def flow(ctx):
        async def slow():
            if ctx.attempt == 1:
                await clock.sleep(60_000)
            return ctx.attempt

        return await ctx.step("s", slow, timeout_ms=500).with_retry(backoff_ms=0)

    assert run(machine, flow).output == 2
    assert clock.elapsed_ms == 500


@pytest.mark.parametrize("step_id", ["", " ", "a\nb", "x" * 256, None, 5], ids=repr)
def test_what_is_no_step_id(machine, step_id):
    async def flow(ctx):
        with pytest.raises(ValidationError, match="step id"):
            ctx.step(step_id, lambda: 1)
        with pytest.raises(ValidationError, match="step id"):
            await ctx.sleep(step_id, 1)

    assert run(machine, flow).status == "completed"


def test_what_a_builder_refuses(machine):
    async def flow(ctx):
        step = ctx.step("s", lambda: 1)
        with pytest.raises(ValidationError, match="handler"):
            ctx.step("s", "not a function")
        with pytest.raises(ValidationError, match="on_error takes"):
            step.on_error({5: lambda error, ctx: None})
        with pytest.raises(ValidationError, match="not callable"):
            step.on_error({ValueError: None})
        with pytest.raises(ValidationError, match="not callable"):
            step.catch(None)
        with pytest.raises(ValidationError, match="not callable"):
            step.with_circuit_breaker(1, on_open=5)
        with pytest.raises(ValidationError, match="failure_threshold"):
            step.with_circuit_breaker(0)
        with pytest.raises(ValidationError, match="max_attempts"):
            step.with_retry(max_attempts=0)
        for handler in (lambda: None, lambda error: None, lambda error, ctx, other: None):
            with pytest.raises(ValidationError, match="the catch handler is called with the error and the context"):
                step.catch(handler)
            with pytest.raises(ValidationError, match=r"the on_error handler for .* is called with the error and the"):
                step.on_error({ValueError: handler})
        with pytest.raises(ValidationError, match="the on_open handler is called with the context"):
            step.with_circuit_breaker(1, on_open=lambda: None)
        with pytest.raises(ValidationError, match=r"as in ctx\.sleep\(.pause., 1000\)"):
            await ctx.sleep(1000)
        step.catch(lambda error, ctx=None: None).catch(lambda *anything: None).catch(max)
        await step

    assert run(machine, flow).status == "completed"


def test_one_probe_over_all_executions_and_processes(machine, clock):
    calls = []

    async def flow(ctx):
        async def call():
            calls.append(ctx.execution_id)
            if ctx.input == "fail":
                raise ValueError("down")
            await clock.sleep(1_000)
            return "up"

        return (
            await ctx.step("call", call)
            .with_retry(max_attempts=1)
            .with_circuit_breaker(1, 10_000, on_open=lambda ctx: "queued")
        )

    machine.define("w")(flow)

    async def main():
        one, two = machine.boot(), machine.boot()
        await clock.finish(one.start_and_wait("w", "first", "fail"))
        assert (await clock.finish(two.start("w", "early", "ok"))).output == "queued"
        await clock.advance(10_000)
        both = asyncio.gather(one.start("w", "a", "ok"), two.start("w", "b", "ok"))
        results = await clock.finish(both)
        after = await clock.finish(two.start("w", "after", "ok"))
        return [result.output for result in results], after.output

    outputs, after = asyncio.run(main())
    assert sorted(outputs) == ["queued", "up"]  # a database that answers over a socket decides who is first
    assert after == "up"
    assert calls == ["first", "ab"[outputs.index("up")], "after"]


def test_a_skipped_step_is_memoized_although_the_circuit_closes(machine, clock):
    calls = []

    async def flow(ctx):
        step = ctx.step("pay", lambda: calls.append("paid"))
        value = await step.with_circuit_breaker(1, 1_000, on_open=lambda ctx: calls.append("queued") or "queued")
        await ctx.sleep("rest", 60_000)
        return value

    machine.define("w")(flow)

    async def main():
        from workflow_core import CircuitBreakerConfig

        engine = machine.boot()
        await engine.set_circuit("w", "pay", "open", CircuitBreakerConfig(failure_threshold=1))
        await engine.start("w", "e", detach=True)
        await clock.advance(30_000)
        engine = await machine.reboot(engine)
        return await clock.finish(engine.wait("e"))

    result = asyncio.run(main())
    assert (result.output, result.steps["pay"].status) == ("queued", "skipped")
    assert calls == ["queued"]
