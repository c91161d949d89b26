"""What is recorded and told of the attempts of steps, and what of it outlives a crash."""

import asyncio
import contextlib
import dataclasses
import sqlite3

import pytest

from tests.unit.watching import Watcher, broken, cancel_something_inside, run
from workflow_core import (
    CircuitBreakerConfig,
    PanicError,
    StepConflictError,
    StepTimeoutError,
    UnstorableResultError,
    ValidationError,
    WorkflowError,
    hookimpl,
)
from workflow_core.events import StepCompleted, StepFailed, StepInterrupted, StepRetrying, StepStarted

CIRCUIT = CircuitBreakerConfig(failure_threshold=1, reset_timeout_ms=1_000)


@pytest.fixture(params=["sqlite", "directory"])
def store_kind(request):
    return request.param


@dataclasses.dataclass
class Price:
    amount: int
    currency: str


def test_what_is_told_is_what_the_history_tells_also_after_a_crash(machine, clock):
    async def flow(ctx):
        async def flaky():
            if ctx.attempt == 1:
                raise ValueError("no")

        async def hangs_once():
            if ctx.attempt == 1:
                await asyncio.Event().wait()

        await ctx.step("flaky", flaky).with_circuit_breaker(1, 1_000)
        await ctx.step("handled", broken).on_error({ValueError: lambda error, ctx: "handled"})
        await ctx.step("skipped", broken).with_circuit_breaker(1, on_open=lambda _: "queued")
        await ctx.step("hung", hangs_once)
        await ctx.sleep("nap", 100)
        await ctx.step("lost", broken).with_retry(max_attempts=1)

    async def main():
        engine = machine.boot(plugins=[before])
        await engine.set_circuit("w", "skipped", "open", CIRCUIT.model_copy(update={"reset_timeout_ms": 60_000}))
        await engine.start("w", "e", detach=True)
        await clock.advance(2_000)
        await machine.crash(engine)
        machine.engines.clear()
        again = machine.boot(plugins=[after])
        await again.recover()
        await clock.finish(again.wait("e"))
        return await again.history("e")

    before, after = Watcher(), Watcher()
    machine.define("w", panic_config={"enable_auto_restart": False})(flow)
    history = [(type(event), dataclasses.asdict(event)) for event in asyncio.run(main())]
    told = [(type(event), dataclasses.asdict(event)) for event in (*before.events, *after.events)]
    assert sorted(told, key=lambda event: event[1]["seq"]) == history
    assert [event.attempt for event in before.all(StepRetrying)] == [1]
    assert [(event.step_id, event.attempt) for event in after.all(StepFailed)] == [("lost", 1)]
    handled = [(event.step_id, event.handled_by) for event in before.all(StepCompleted) if event.handled_by]
    assert handled == [("handled", "on_error:ValueError")]
    (interrupted,), started = after.all(StepInterrupted), after.all(StepStarted)[0]
    assert (interrupted.attempt, started.attempt, started.seq) == (1, 2, interrupted.seq + 1)


@pytest.mark.parametrize("ends", [lambda: "done", broken], ids=["completed", "failed"])
def test_an_execution_sleeps_while_nothing_but_sleeps_goes_on_in_it(machine, clock, ends):
    """Also if it is told by the rows alone, and while one of two steps goes on."""
    gates = {}

    async def flow(ctx):
        async def waits(name):
            gates[name] = asyncio.Event()
            await gates[name].wait()
            return ends() if not asyncio.iscoroutinefunction(ends) else await ends()

        async def later(name, moment_ms):
            await ctx.sleep(f"before {name}", moment_ms)
            await ctx.step(name, lambda: waits(name)).with_retry(backoff_ms=50_000)

        await asyncio.gather(ctx.sleep("long", 90_000), later("one", 1_000), later("two", 2_000))

    async def statuses(engine):
        (stored,) = await engine.list_executions()
        return stored.status, (await engine.get_status("e")).status

    async def main():
        engine = machine.boot()
        seen = []
        await engine.start("w", "e", detach=True)
        for step in (lambda: clock.advance(10), lambda: clock.advance(1_000), lambda: clock.advance(1_000)):
            await step()
            seen.append(await statuses(engine))
        for name in ("one", "two"):
            gates[name].set()
            await clock.settle()
            seen.append(await statuses(engine))
        return seen

    machine.define("w")(flow)
    asleep, awake = ("sleeping", "sleeping"), ("running", "running")
    assert asyncio.run(main()) == [asleep, awake, awake, awake, asleep]


def test_a_handler_sees_how_its_step_stands(machine, clock):
    seen = {}

    async def flow(ctx):
        async def look(name):
            seen[name] = (await engine.get_status("e")).steps[name]
            return ctx.attempt

        step = ctx.step("failed", broken).with_retry(backoff_ms=0)
        attempt = await step.on_error({ValueError: lambda error, ctx: look("failed")})
        await ctx.step("open", broken).with_circuit_breaker(1, on_open=lambda _: look("open"))
        return attempt

    machine.define("w")(flow)
    engine = machine.boot()
    asyncio.run(engine.set_circuit("w", "open", "open", CIRCUIT))
    result = asyncio.run(clock.finish(engine.start_and_wait("w", "e")))
    assert result.output == 1
    assert (seen["failed"].status, seen["failed"].attempt) == ("running", 1)
    assert (seen["failed"].error.type, seen["failed"].error.step_id) == ("ValueError", "failed")
    assert (seen["open"].status, seen["open"].error.message) == ("pending", "the circuit is open")
    assert result.steps["failed"].error is None


def test_a_handler_knows_the_attempt_that_it_answers(machine):
    async def flow(ctx):
        def answer(error, ctx):
            if ctx.attempt < 2:
                raise error
            return ctx.attempt

        return await ctx.step("s", broken).with_retry(backoff_ms=0).catch(answer)

    assert run(machine, flow).output == 2


def test_a_step_whose_answer_to_an_open_circuit_failed_is_tried_again(machine, clock):
    async def flow(ctx):
        def refuse(_):
            raise ValueError("no queue")

        step = ctx.step("s", lambda: "paid").with_retry(backoff_ms=2_000)
        return await step.with_circuit_breaker(1, 1_000, on_open=refuse)

    machine.define("w")(flow)
    engine = machine.boot()
    asyncio.run(engine.set_circuit("w", "s", "open", CIRCUIT))
    result = asyncio.run(clock.finish(engine.start_and_wait("w", "e")))
    assert (result.output, result.steps["s"].attempt, clock.elapsed_ms) == ("paid", 2, 2_000)


def test_who_forces_a_circuit_is_told_the_attempt(machine):
    class Forcing:
        def __init__(self):
            self.attempts = []

        @hookimpl
        def force_circuit(self, attempt):
            self.attempts.append((attempt.step_id, attempt.attempt))
            return "closed"

    async def flow(ctx):
        await ctx.step("s", broken).with_retry(max_attempts=2, backoff_ms=0).with_circuit_breaker(5)

    forcing = Forcing()
    run(machine, flow, machine.boot(plugins=[forcing]))
    assert forcing.attempts == [("s", 1), ("s", 2)]


@pytest.mark.parametrize("kept", [True, False])
def test_steps_that_failed_before_a_crash_fail_again_each_with_its_own_error(machine, clock, kept):
    """Also if a later version would try them once more; if the rows of the errors are gone, with the step's message."""
    seen, attempts = [], [2, 2, 3, 3]

    async def flow(ctx):
        async def fail(text):
            raise ValueError(text)

        for name in ("one", "two"):
            step = ctx.step(name, lambda name=name: fail(f"no {name}"))
            with pytest.raises(WorkflowError) as caught:
                await step.with_retry(max_attempts=attempts.pop(0), backoff_ms=0)
            seen.append(caught.value)
        await ctx.sleep("nap", 1_000)

    async def main():
        engine = machine.boot()
        await engine.start("w", "e", detach=True)
        await clock.advance(10)
        await machine.crash(engine)
        engine = machine.boot()
        if not kept:
            with contextlib.closing(sqlite3.connect(next(machine.path.parent.rglob("w*.db")))) as database, database:
                database.execute("DELETE FROM step_errors")
        await engine.recover()
        return await clock.finish(engine.wait("e"))

    machine.define("w")(flow)
    assert asyncio.run(main()).status == "completed"
    before, again = seen[:2], seen[2:]
    assert [(error.step_id, error.attempt) for error in again] == [("one", 2), ("two", 2)]
    assert [error.__cause__ for error in again] == [error.original_error for error in again]
    if kept:
        assert [str(error) for error in again] == [str(error) for error in before]
    else:
        originals = [error.original_error for error in again]
        assert [(str(error), error.step_id, error.attempt) for error in originals] == [
            ("no one", "one", 2),
            ("no two", "two", 2),
        ]


def test_a_last_attempt_that_a_crash_cut_off_fails_the_step_and_does_not_count_on_the_circuit(machine, clock):
    async def flow(ctx):
        await ctx.step("s", asyncio.Event().wait).with_retry(max_attempts=1).with_circuit_breaker(1)

    async def main():
        engine = machine.boot()
        await engine.start("w", "e", detach=True)
        await clock.settle()
        engine = await machine.reboot(engine)
        result = await clock.finish(engine.wait("e"))
        return result, await engine.store.load_circuits("w")

    machine.define("w")(flow)
    result, circuits = asyncio.run(main())
    assert result.steps["s"].error.message == (
        'workflow "w", execution "e": the process ended during attempt 1 of step "s", and 1 attempts are all there are'
    )
    assert all(circuit.status == "closed" and not circuit.failures for circuit in circuits.values())


def test_an_attempt_that_takes_too_long_says_which_and_how_long(machine):
    seen = []

    async def flow(ctx):
        with pytest.raises(WorkflowError) as caught:
            await ctx.step("s", asyncio.Event().wait, timeout_ms=50).with_retry(max_attempts=2, backoff_ms=0)
        seen.append(caught.value.original_error)

    run(machine, flow)
    assert isinstance(seen[0], StepTimeoutError)
    assert str(seen[0]) == (
        'workflow "w", execution "e": attempt 2 of step "s" took longer than its timeout_ms of 50 ms'
    )


def test_a_panic_of_an_inner_step_is_no_failed_attempt_of_the_outer_one(machine):
    async def flow(ctx):
        def full():
            raise MemoryError("full")

        async def outer():
            await ctx.step("inner", full)

        await ctx.step("outer", outer)

    watcher = Watcher()
    result = run(machine, flow, machine.boot(plugins=[watcher]), panic_config={"enable_auto_restart": False})
    assert result.status == "panicked"
    assert [event.step_id for event in watcher.all(StepFailed)] == ["inner"]


def test_a_panic_that_a_step_raises_by_itself_is_a_failed_attempt_of_it(machine):
    async def flow(ctx):
        def give_up():
            raise PanicError("the disk is gone")

        await ctx.step("s", give_up)

    watcher = Watcher()
    result = run(machine, flow, machine.boot(plugins=[watcher]), panic_config={"enable_auto_restart": False})
    assert (result.status, result.steps["s"].status) == ("panicked", "failed")
    assert [event.step_id for event in watcher.all(StepFailed)] == ["s"]


def test_a_result_is_read_as_what_the_step_says_it_returns(machine):
    seen = []

    async def flow(ctx):
        seen.append(await ctx.step("day", lambda: Price(5, "EUR"), returns=Price))
        await ctx.sleep("nap", 1_000)

    machine.define("w")(flow)
    asyncio.run(machine.interrupted(10))
    assert seen == [Price(5, "EUR")] * 2


def test_a_second_attempt_has_no_error_yet(machine):
    seen = []

    async def flow(ctx):
        async def look():
            if ctx.attempt == 1:
                raise ValueError("no")
            seen.append((await engine.get_status("e")).steps["s"])

        await ctx.step("s", look).with_retry(backoff_ms=5)

    engine = machine.boot()
    run(machine, flow, engine)
    assert (seen[0].status, seen[0].attempt, seen[0].error) == ("running", 2, None)


def test_a_handler_that_fails_passes_its_error_on_to_catch(machine):
    async def flow(ctx):
        def fail(error, ctx):
            raise KeyError(str(error))

        return await ctx.step("s", broken).on_error({ValueError: fail}).catch(lambda error, ctx: repr(error))

    watcher = Watcher()
    assert run(machine, flow, machine.boot(plugins=[watcher])).output == "KeyError('no')"
    assert [event.handled_by for event in watcher.all(StepCompleted)] == ["catch"]


def test_a_probe_that_fails_opens_the_circuit_anew(machine, clock):
    calls = []

    async def flow(ctx):
        def pay():
            calls.append(clock.elapsed_ms)
            raise ValueError("no")

        await (
            ctx.step("s", pay)
            .with_retry(max_attempts=5, backoff_ms=1_000, exponential_backoff=False)
            .with_circuit_breaker(1, 2_000)
        )

    run(machine, flow)
    assert calls == [0, 2_000, 4_000]


@pytest.mark.parametrize(
    ("step_id", "message"),
    [
        (5, "A step id must be a non-empty string, not 5"),
        (" ", "A step id must be a non-empty string, not ' '"),
    ],
)
def test_what_is_no_step_id_is_shown(machine, step_id, message):
    async def flow(ctx):
        with pytest.raises(ValidationError) as caught:
            ctx.step(step_id, lambda: 1)
        return str(caught.value)

    assert run(machine, flow).output == message


def test_the_longest_step_id(machine):
    async def flow(ctx):
        return await ctx.step("x" * 255, lambda: 1)

    assert run(machine, flow).output == 1


def test_a_secret_is_no_step_id(machine):
    async def flow(ctx):
        with pytest.raises(ValidationError, match=r"the id of a step.* KEY"):
            ctx.step("for sesame-open-5", lambda: 1)

    engine = machine.boot()
    engine.codec.secrets.learn("KEY", "sesame-open-5")
    assert run(machine, flow, engine).status == "completed"


MISTAKES = {
    "handler": (lambda ctx: ctx.step("s", 5), 'Step "s": the handler must be a function without arguments, not 5'),
    "on_error": (
        lambda ctx: ctx.step("s", broken).on_error(5),
        'Step "s": on_error takes a dictionary, not 5',
    ),
    "key": (
        lambda ctx: ctx.step("s", broken).on_error({5: broken}),
        'Step "s": on_error takes error classes, class names and "default", not 5',
    ),
    "value": (
        lambda ctx: ctx.step("s", broken).on_error({"default": 5}),
        "Step \"s\": the on_error handler for 'default' is not callable",
    ),
    "catch": (lambda ctx: ctx.step("s", broken).catch(5), 'Step "s": the catch handler is not callable'),
    "on_open": (
        lambda ctx: ctx.step("s", broken).with_circuit_breaker(1, on_open=5),
        'Step "s": on_open is not callable',
    ),
    "arguments of on_error": (
        lambda ctx: ctx.step("s", broken).on_error({"default": broken}),
        (
            "Step \"s\": the on_error handler for 'default' is called with the error and the context; "
            f"{broken!r} cannot be called like that"
        ),
    ),
    "arguments of catch": (
        lambda ctx: ctx.step("s", broken).catch(broken),
        f'Step "s": the catch handler is called with the error and the context; {broken!r} cannot be called like that',
    ),
    "arguments of on_open": (
        lambda ctx: ctx.step("s", broken).with_circuit_breaker(1, on_open=broken),
        f'Step "s": the on_open handler is called with the context; {broken!r} cannot be called like that',
    ),
}


@pytest.mark.filterwarnings("ignore:.*was never awaited")
@pytest.mark.parametrize(("mistake", "message"), MISTAKES.values(), ids=MISTAKES)
def test_what_a_step_does_not_take_is_shown(machine, mistake, message):
    async def flow(ctx):
        with pytest.raises(ValidationError) as caught:
            mistake(ctx)
        return str(caught.value)

    assert run(machine, flow).output == message


def test_the_id_of_a_sleep_is_no_id_of_a_step(machine):
    async def flow(ctx):
        await ctx.sleep("nap", 1)
        with pytest.raises(StepConflictError) as caught:
            await ctx.step("nap", lambda: 1)
        return str(caught.value)

    assert run(machine, flow).output == (
        'workflow "w", execution "e": "nap" is the id of a sleep already; give the step another id'
    )


def test_an_execution_sleeps_after_a_step_that_was_skipped(machine, clock):
    async def flow(ctx):
        await ctx.step("s", broken).with_circuit_breaker(1, on_open=lambda _: "queued")
        await ctx.sleep("nap", 1_000)

    async def main():
        await engine.set_circuit("w", "s", "open", CIRCUIT)
        await engine.start("w", "e", detach=True)
        await clock.settle()
        return (await engine.get_status("e")).status

    machine.define("w")(flow)
    engine = machine.boot()
    assert asyncio.run(main()) == "sleeping"


def test_a_cancellation_of_something_inside_names_the_step_and_its_cause(machine):
    seen = []

    async def flow(ctx):
        with pytest.raises(WorkflowError) as caught:
            await ctx.step("s", cancel_something_inside).with_retry(max_attempts=1)
        seen.append(caught.value.original_error)

    run(machine, flow)
    assert str(seen[0]) == 'workflow "w", execution "e": something that step "s" awaited was cancelled'
    assert isinstance(seen[0].__cause__, asyncio.CancelledError)


def test_a_result_that_cannot_be_stored_tells_all_mistakes(machine):
    seen = []

    async def flow(ctx):
        with pytest.raises(UnstorableResultError) as caught:
            await ctx.step("s", object)
        seen.append(caught.value)

    run(machine, flow)
    assert str(seen[0]).startswith('Cannot store the result of step "s" (workflow "w", execution "e")')
    assert [mistake["type"] for mistake in seen[0].errors] == ["serialization"]


def test_a_circuit_lets_a_probe_through_after_a_minute(machine, clock):
    calls = []

    async def flow(ctx):
        await ctx.step("s", lambda: calls.append(clock.elapsed_ms) or 1 / 0).with_circuit_breaker(1)

    async def main():
        for execution_id, wait_ms in (("opens", 59_999), ("too early", 1), ("in time", 0)):
            await clock.finish(engine.start_and_wait("w", execution_id.replace(" ", "-")))
            await clock.advance(wait_ms)

    machine.define("w", retry_config={"max_attempts": 1})(flow)
    engine = machine.boot()
    asyncio.run(main())
    assert calls == [0, 60_000]


def test_a_step_that_nobody_awaits_is_told_of(machine):
    async def flow(ctx):
        ctx.step("s", broken)

    with pytest.warns(RuntimeWarning) as caught:
        run(machine, flow)
    assert [str(warning.message) for warning in caught] == [
        'step "s" of workflow "w", execution "e" was never awaited, so it did not run; write await before it'
    ]
