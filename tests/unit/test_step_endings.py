"""How a step ends: by its handlers, by an open circuit, by a panic, and what the workflow's code sees of it."""

import asyncio
import logging

import pytest

from tests.unit.watching import Watcher, broken, run
from workflow_core import (
    CircuitBreakerConfig,
    CircuitOpenError,
    PanicError,
    RetryConfig,
    RetryLaterError,
    UnstorableResultError,
    WorkflowError,
)
from workflow_core.events import CircuitHalfOpened, StepSkipped, StepStarted

CIRCUIT = CircuitBreakerConfig(failure_threshold=1, reset_timeout_ms=1_000)


def circuit(engine):
    return asyncio.run(engine.store.load_circuits("w"))["w", "s"]


def test_a_retry_configuration_that_is_given_whole_replaces_the_execution_s(machine, clock):
    async def flow(ctx):
        await ctx.step("s", broken).with_retry(RetryConfig(max_attempts=2, backoff_ms=70))

    assert run(machine, flow, retry_config=RetryConfig(max_attempts=5)).steps["s"].attempt == 2
    assert clock.elapsed_ms == 70


def test_a_retry_configuration_that_is_given_whole_may_be_changed(machine, clock):
    async def flow(ctx):
        await ctx.step("s", broken).with_retry(RetryConfig(max_attempts=2, backoff_ms=70), max_attempts=3)

    assert run(machine, flow, retry_config=RetryConfig(max_attempts=5)).steps["s"].attempt == 3
    assert clock.elapsed_ms == 70 + 140


@pytest.mark.parametrize("has_handler", [True, False])
def test_a_step_that_died_while_its_open_circuit_was_answered_goes_on_with_the_answer(machine, clock, has_handler):
    """Though the circuit has closed meanwhile; without the handler, which a later version has not, with an attempt."""
    calls = []

    def define(on_open):
        async def flow(ctx):
            step = ctx.step("s", lambda: calls.append("paid") or "paid")
            return await (step.with_circuit_breaker(1, on_open=on_open) if on_open else step)

        machine.define("w")(flow)

    async def never(_):
        calls.append("asked")
        await asyncio.Event().wait()

    async def main():
        define(never)
        engine = machine.boot()
        await engine.set_circuit("w", "s", "open", CIRCUIT)
        await engine.start("w", "e", detach=True)
        await clock.settle()
        await engine.set_circuit("w", "s", "closed", CIRCUIT)
        await machine.crash(engine)
        machine.engines.clear()
        define((lambda _: calls.append("queued") or "queued") if has_handler else None)
        again = machine.boot()
        await again.recover()
        return await clock.finish(again.wait("e"))

    output = "queued" if has_handler else "paid"
    result = asyncio.run(main())
    assert (result.output, result.restart_attempt) == (output, 1)
    assert calls == ["asked", output]


def test_an_answer_to_an_open_circuit_that_fails_does_not_count_on_the_circuit(machine):
    async def flow(ctx):
        def on_open(_):
            raise ValueError("no queue")

        await ctx.step("s", lambda: "paid").with_retry(max_attempts=1).with_circuit_breaker(1, on_open=on_open)

    engine = machine.boot()
    asyncio.run(engine.set_circuit("w", "s", "open", CIRCUIT))
    before = circuit(engine)
    assert run(machine, flow, engine).error.message == "no queue"
    assert circuit(engine) == before


def test_an_open_circuit_that_nobody_answers_says_what_to_do_and_does_not_count(machine):
    seen = []

    async def flow(ctx):
        with pytest.raises(WorkflowError) as caught:
            await ctx.step("s", lambda: "paid").with_retry(max_attempts=1).with_circuit_breaker(1)
        seen.append(caught.value.original_error)

    engine = machine.boot()
    asyncio.run(engine.set_circuit("w", "s", "open", CIRCUIT))
    before = circuit(engine)
    run(machine, flow, engine)
    assert isinstance(seen[0], CircuitOpenError)
    assert str(seen[0]) == (
        'workflow "w", execution "e": the circuit of step "s" is open; give the step an on_open handler, or wait for '
        "its reset time-out"
    )
    assert circuit(engine) == before


def test_what_an_answer_to_an_open_circuit_logs_belongs_to_the_step(machine, caplog):
    async def flow(ctx):
        step = ctx.step("s", lambda: "paid")
        await step.with_circuit_breaker(1, on_open=lambda ctx: ctx.logger.warning("queued"))

    engine = machine.boot()
    asyncio.run(engine.set_circuit("w", "s", "open", CIRCUIT))
    with caplog.at_level(logging.WARNING):
        run(machine, flow, engine)
    (record,) = (record for record in caplog.records if record.getMessage().endswith("queued"))
    assert record.step_id == "s"


def test_events_of_a_circuit_are_dated(machine, clock):
    async def flow(ctx):
        return await ctx.step("s", lambda: "paid").with_circuit_breaker(1, 1_000)

    async def main():
        await engine.set_circuit("w", "s", "open", CIRCUIT)
        await clock.advance(1_000)
        return await clock.finish(engine.start_and_wait("w", "e"))

    watcher = Watcher()
    machine.define("w")(flow)
    engine = machine.boot(plugins=[watcher])
    assert asyncio.run(main()).output == "paid"
    assert watcher.only(CircuitHalfOpened).at == clock.now()
    assert watcher.only(CircuitHalfOpened).seq + 1 == watcher.only(StepStarted).seq


def test_a_skipped_step_is_told_with_its_attempt_and_its_moment(machine, clock):
    async def flow(ctx):
        return await ctx.step("s", lambda: "paid").with_circuit_breaker(1, on_open=lambda _: "queued")

    watcher = Watcher()
    machine.define("w")(flow)
    engine = machine.boot(plugins=[watcher])
    asyncio.run(engine.set_circuit("w", "s", "open", CIRCUIT))
    result = asyncio.run(clock.finish(engine.start_and_wait("w", "e"))).steps["s"]
    assert (result.status, result.attempt, result.completed_at, result.error) == ("skipped", 1, clock.now(), None)
    assert watcher.only(StepSkipped) == StepSkipped("s", 1, at=clock.now())


def test_a_result_that_cannot_be_stored_is_told_as_such(machine):
    async def flow(ctx):
        with pytest.raises(UnstorableResultError):
            await ctx.step("s", object)
        return "went on"

    assert run(machine, flow).output == "went on"


def test_a_panic_says_where_it_was_and_cannot_be_ignored(machine):
    seen = []

    async def flow(ctx):
        async def full():
            raise MemoryError("full")

        with pytest.raises(PanicError) as caught:
            await ctx.step("s", full)
        seen.append(caught.value)
        with pytest.raises(PanicError) as again:
            await ctx.step("t", lambda: seen.append("another step"))
        seen.append(again.value)
        return "ignored"

    result = run(machine, flow, panic_config={"enable_auto_restart": False})
    first, second = seen
    assert second is first
    assert str(first).endswith(': step "s" panicked on attempt 1 (MemoryError): MemoryError: full')
    assert (first.step_id, first.attempt, result.status) == ("s", 1, "panicked")
    assert isinstance(first.__cause__, MemoryError)


@pytest.mark.parametrize(("attempts", "words"), [(1, "after 1 attempt: "), (2, "after 2 attempts: ")])
def test_what_the_workflow_sees_of_a_step_that_failed(machine, attempts, words):
    seen = []

    async def flow(ctx):
        with pytest.raises(WorkflowError) as caught:
            await ctx.step("s", broken).with_retry(max_attempts=attempts, backoff_ms=0)
        seen.append(caught.value)

    run(machine, flow)
    (error,) = seen
    assert str(error).endswith(f': step "s" failed {words}ValueError: no')
    assert (error.step_id, error.attempt) == ("s", attempts)
    assert isinstance(error.original_error, ValueError) and error.__cause__ is error.original_error


def test_an_error_that_asks_for_a_longer_wait_gets_it(machine, clock):
    async def flow(ctx):
        async def busy():
            if ctx.attempt == 1:
                raise RetryLaterError("busy", retry_after_ms=5_000)

        await ctx.step("s", busy)

    assert run(machine, flow).status == "completed"
    assert clock.elapsed_ms == 5_000


def test_what_a_handler_fails_with_is_recorded_beside_what_it_was_called_for(machine):
    async def flow(ctx):
        def handle(error, ctx):
            raise KeyError("handler")

        await ctx.step("s", broken).with_retry(max_attempts=1).catch(handle)

    engine = machine.boot()
    assert run(machine, flow, engine).steps["s"].error.type == "KeyError"
    errors = asyncio.run(engine.store.load_errors("w", "e", "s"))
    assert [error.error_type for _, error in errors] == ["ValueError", "KeyError"]


def test_an_error_that_no_handler_is_for_is_recorded_once(machine):
    async def flow(ctx):
        await ctx.step("s", broken).with_retry(max_attempts=1)

    engine = machine.boot()
    run(machine, flow, engine)
    errors = asyncio.run(engine.store.load_errors("w", "e", "s"))
    assert [error.error_type for _, error in errors] == ["ValueError"]


def test_a_step_id_that_is_too_long_is_shown_in_short(machine):
    async def flow(ctx):
        ctx.step("x" * 300, lambda: 1)

    message = run(machine, flow).error.message
    assert message.startswith("A step id must be at most 255 printable characters; this one is ")
    assert "x" * 30 in message and "x" * 61 not in message


def test_a_time_out_that_cannot_be_names_its_step(machine):
    async def flow(ctx):
        ctx.step("s", lambda: 1, timeout_ms=-1)

    assert run(machine, flow).error.message.startswith('Step "s"')
