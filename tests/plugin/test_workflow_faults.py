"""The fixture `workflow_faults`: faults and doubles for steps."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import pytest

from pytest_workflow import CircuitClosed, CircuitHalfOpened, StepCompleted, StepFailed, StepRetrying, StepSkipped
from workflow_core import CircuitOpenError, NonRetryableError, StorageError, UnstorableResultError, Workflow
from workflow_core.panic import PANIC_INDICATORS

pytest_plugins = ["pytester"]


class NetworkError(Exception):
    pass


@pytest.fixture
def shop(workflow):
    """Three steps that count how often they really ran."""
    ran = []

    @workflow.define("shop")
    async def shop(ctx):
        for step_id in ("charge-card", "charge-fee", "ship"):
            await ctx.step(step_id, lambda step_id=step_id: ran.append(step_id))
        return ran

    return ran


def test_fail_for_some_attempts(workflow, workflow_faults, shop):
    workflow_faults.fail("ship", NetworkError("503"), attempts=[1, 2])
    result = workflow.run("shop")
    assert workflow.history(result).of("ship") == [
        StepFailed(attempt=1, error="NetworkError", message="503"),
        StepRetrying(backoff_ms=1_000),
        StepFailed(attempt=2, error="NetworkError"),
        StepRetrying(backoff_ms=2_000),
        StepCompleted(attempt=3),
    ]
    assert shop == ["charge-card", "charge-fee", "ship"]


def test_fail_always(workflow, workflow_faults, shop):
    rule = workflow_faults.fail("ship", NetworkError)
    assert workflow.run("shop").status == "failed"
    assert rule.fired == 3
    assert "ship" not in shop


@pytest.mark.parametrize(
    ("error", "type_name", "message"),
    [
        (NetworkError("gone"), "NetworkError", "gone"),
        (NetworkError, "NetworkError", ""),
        ("gone", "RuntimeError", "gone"),
    ],
)
def test_what_a_step_can_fail_with(workflow, workflow_faults, workflow_db, shop, error, type_name, message):
    workflow_faults.fail("ship", error, attempts={1})
    workflow.run("shop", "s")
    (row,) = workflow_db.step_errors("s")
    assert (row["error_type"], row["error_message"]) == (type_name, message)


def test_an_error_that_is_never_retried(workflow, workflow_faults, shop):
    workflow_faults.fail("ship", NonRetryableError("no stock"))
    result = workflow.run("shop")
    workflow.history(result).assert_attempts("ship", 1)


def test_handlers_see_the_fault(workflow, workflow_faults):
    @workflow.define("handled")
    async def handled(ctx):
        return await ctx.step("charge", lambda: 1).on_error({NetworkError: lambda error, ctx: f"later: {error}"})

    workflow_faults.fail("charge", NetworkError("503"))
    assert workflow.run("handled").output == "later: 503"


class Picky(Exception):
    def __init__(self, code, text):
        super().__init__(code, text)


WRONG = {
    "an error": (lambda f: f.fail("a", 7), TypeError, "fail('a', 7): a step can fail with"),
    "no error": (lambda f: f.fail("a", None), TypeError, "a step can fail with"),
    "another class": (lambda f: f.fail("a", int), TypeError, "a step can fail with"),
    "arguments": (lambda f: f.fail("a", Picky), ValueError, "Picky cannot be made with arguments ()"),
    "a message": (lambda f: f.panic("a", 7), TypeError, "panic('a', 7): a step can fail with"),
    "a panic": (lambda f: f.panic("a", "out of milk"), ValueError, "PANIC_INDICATORS"),
    "a panic's class": (lambda f: f.panic("a", KeyError), ValueError, "PANIC_INDICATORS"),
    "a function": (lambda f: f.calls("a", 7), TypeError, "calls('a', 7): a step runs a function without arguments"),
    "parameters": (lambda f: f.calls("a", lambda ctx: 1), TypeError, "missing a required argument: 'ctx'"),
    "a number": (lambda f: f.delay("a", "x"), ValueError, "delay('a', 'x'): ms: Input should be a valid number"),
    "a text": (lambda f: f.delay("a", "5"), ValueError, "delay('a', '5'): ms"),
    "no number": (lambda f: f.delay("a", None), ValueError, "delay('a', None): ms"),
    "a bool": (lambda f: f.delay("a", True), ValueError, "delay('a', True): ms"),
    "negative": (lambda f: f.delay("a", -5), ValueError, "delay('a', -5): ms"),
    "nan": (lambda f: f.delay("a", float("nan")), ValueError, "delay('a', nan): ms"),
    "infinite": (lambda f: f.delay("a", float("inf")), ValueError, "delay('a', inf): ms"),
    "a jump": (lambda f: f.jump_clock(float("inf"), "a"), ValueError, "jump_clock(inf, 'a', None): ms"),
    "one attempt": (lambda f: f.fail("a", "no", 1), ValueError, "attempts is a list of runs, counted from 1"),
    "no attempt": (lambda f: f.fail("a", "no", []), ValueError, "there is at least one"),
    "a text of attempts": (lambda f: f.fail("a", "no", "12"), ValueError, "counted from 1"),
    "attempt 0": (lambda f: f.fail("a", "no", [0]), ValueError, "fail('a', 'no', attempts=[0]): attempts"),
    "attempt True": (lambda f: f.timeout("a", [True]), ValueError, "timeout('a', attempts=[True]): attempts"),
    "a text's attempt": (lambda f: f.returns("a", 1, ["1"]), ValueError, "counted from 1"),
    "occurrence 0": (lambda f: f.fail("a", "no", occurrence=0), ValueError, "occurrence=0): occurrence: Input should"),
    "occurrence -1": (lambda f: f.open_circuit("a", occurrence=-1), ValueError, "occurrence: Input should"),
    "occurrence True": (lambda f: f.fail("a", "no", occurrence=True), ValueError, "occurrence: Input should"),
    "occurrence 1.0": (lambda f: f.fail("a", "no", occurrence=1.0), ValueError, "occurrence: Input should"),
    "a workflow": (lambda f: f.fail("a", "no", workflow=7), ValueError, "workflow=7): workflow: Input should"),
    "no workflow": (lambda f: f.fail("a", "no", workflow=""), ValueError, "workflow: String should"),
    "a point": (lambda f: f.crash("step_done"), ValueError, "there is no durable point 'step_done'; there are: "),
    "when": (lambda f: f.crash("step_completed", when="later"), ValueError, "'later'): when: Input should"),
    "nowhere": (lambda f: f.jump_clock(5), TypeError, "jump_clock(5, None, None): a fault needs the id of a step"),
    "silence": (lambda f: f.storage_error("step_completed", ""), ValueError, "message: String should"),
    "no text": (lambda f: f.corrupt_result("a", 7), ValueError, "corrupt_result('a', 7): text: Input should"),
    "strictness": (lambda f: f.fail("a", "no", strict="no"), ValueError, "strict: Input should"),
}


@pytest.mark.parametrize(("call", "kind", "message"), WRONG.values(), ids=WRONG)
def test_what_a_rule_cannot_be_made_of_is_refused_at_once(workflow_faults, call, kind, message):
    with pytest.raises(kind, match=r"^workflow_faults[.]") as raised:
        call(workflow_faults)
    assert message in str(raised.value)
    assert workflow_faults.rules == []


@pytest.mark.parametrize("indicator", PANIC_INDICATORS)
def test_panic_by_every_indicator(workflow, workflow_faults, shop, indicator):
    workflow_faults.panic("ship", indicator)
    result = workflow.run("shop")
    history = workflow.history(result)
    assert (result.status, result.restart_attempt) == ("completed", 2)
    history.assert_panicked(indicator)
    history.assert_restarts(1)
    assert shop == ["charge-card", "charge-fee", "ship"]


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), SystemError("broken"), MemoryError])
def test_panic_by_a_system_error(workflow, workflow_faults, shop, error):
    workflow_faults.panic("ship", error)
    result = workflow.run("shop")
    workflow.history(result).assert_panicked("MemoryError" if error is MemoryError else type(error).__name__)


def test_panic_on_later_runs_counts_over_restarts(workflow, workflow_faults, shop):
    workflow_faults.panic("ship", attempts=[1, 2])
    result = workflow.run("shop")
    assert result.restart_attempt == 3
    workflow.history(result).assert_restarts(2)


def test_panic_for_ever(workflow, workflow_faults, shop):
    workflow_faults.panic("ship", attempts=None)
    assert workflow.run("shop", panic_config={"max_restart_attempts": 1}).status == "failed"


def test_delay(workflow, workflow_faults, workflow_clock, shop):
    workflow_faults.delay("ship", 90_000)
    before = workflow_clock.now()
    workflow.run("shop")
    assert workflow_clock.now() - before == timedelta(seconds=90)
    assert shop[-1] == "ship"


def test_a_delay_meets_the_steps_timeout(workflow, workflow_faults):
    @workflow.define("slow")
    async def slow(ctx):
        return await ctx.step("charge", lambda: ctx.attempt, timeout_ms=5_000)

    workflow_faults.delay("charge", 60_000, attempts=[1])
    result = workflow.run("slow")
    assert result.output == 2
    assert workflow.history(result).of("charge")[1] == StepFailed(attempt=1, error="StepTimeoutError")


def test_returns_stands_for_the_step(workflow, workflow_faults):
    @workflow.define("priced")
    async def priced(ctx):
        return await ctx.step("price", lambda: 1 / 0)

    workflow_faults.returns("price", {"amount": 3})
    assert workflow.run("priced").output == {"amount": 3}


def test_calls_runs_another_function(workflow, workflow_faults):
    @workflow.define("priced")
    async def priced(ctx):
        return [await ctx.step(step_id, lambda: 1 / 0) for step_id in ("plain", "async")]

    async def asynchronous():
        await asyncio.sleep(60)
        return "async"

    workflow_faults.calls("plain", lambda: "plain")
    workflow_faults.calls("async", asynchronous)
    assert workflow.run("priced").output == ["plain", "async"]


@dataclass
class Price:
    amount: int


def test_doubles_pass_through_the_real_serialiser(workflow, workflow_faults, workflow_db):
    @workflow.define("priced")
    async def priced(ctx):
        def price() -> Price:
            raise NotImplementedError

        return (await ctx.step("price", price)).amount

    workflow_faults.returns("price", Price(3))
    assert workflow.run("priced", "p").output == 3
    assert workflow_db.query("SELECT json_extract(result_data, '$.value.amount') AS a FROM steps") == [{"a": 3}]


def test_a_double_that_cannot_be_stored_fails_as_a_result_would(workflow, workflow_faults):
    @workflow.define("priced")
    async def priced(ctx):
        await ctx.step("price", lambda: 1)

    workflow_faults.returns("price", object())
    result = workflow.run("priced")
    assert (result.status, result.error.type) == ("failed", UnstorableResultError.__name__)


def test_open_circuit(workflow, workflow_faults):
    @workflow.define("guarded")
    async def guarded(ctx):
        return await ctx.step("charge", lambda: "charged").with_circuit_breaker(3, 60_000, on_open=lambda ctx: "queued")

    workflow_faults.open_circuit("charge")
    result = workflow.run("guarded")
    assert result.output == "queued"
    assert workflow.history(result).of("charge").only(StepSkipped) == [StepSkipped(attempt=1)]
    workflow.history(result).assert_never_ran("charge")
    assert workflow.run("guarded").output == "queued"  # it stays open until its reset time-out


def test_an_opened_circuit_without_on_open(workflow, workflow_faults):
    @workflow.define("guarded")
    async def guarded(ctx):
        return (
            await ctx.step("charge", lambda: "charged")
            .with_circuit_breaker(3, 60_000)
            .catch(lambda error, ctx: str(type(error)))
        )

    workflow_faults.open_circuit("charge")
    assert workflow.run("guarded").output == str(CircuitOpenError)


def test_half_open_circuit(workflow, workflow_faults, workflow_db):
    @workflow.define("guarded")
    async def guarded(ctx):
        return await ctx.step("charge", lambda: "charged").with_circuit_breaker(3, 60_000, on_open=lambda ctx: "queued")

    workflow_faults.half_open_circuit("charge")
    result = workflow.run("guarded")
    assert result.output == "charged"
    assert workflow.history(result).only(CircuitHalfOpened, CircuitClosed) == [
        CircuitHalfOpened(step_id="charge"),
        CircuitClosed,
    ]
    assert workflow_db.circuit_breakers()[0]["status"] == "closed"


def test_a_failing_probe_opens_the_circuit_again(workflow, workflow_faults, workflow_db):
    @workflow.define("guarded")
    async def guarded(ctx):
        return await ctx.step("charge", lambda: "charged").with_circuit_breaker(3, 60_000, on_open=lambda ctx: "queued")

    workflow_faults.half_open_circuit("charge")
    workflow_faults.fail("charge", "still down", attempts=[1])
    result = workflow.run("guarded")
    assert result.output == "queued"
    workflow.history(result).assert_circuit_opened("charge")


# Where a rule strikes ------------------------------------------------------------------------------------------------


def test_globs(workflow, workflow_faults, workflow_db, shop):
    workflow_faults.fail("charge-*", "no", attempts=[1])
    workflow.run("shop", "s")
    assert [row["step_id"] for row in workflow_db.step_errors("s")] == ["charge-card", "charge-fee"]


def test_occurrence_counts_over_all_steps_and_executions(workflow, workflow_faults, workflow_db, shop):
    workflow_faults.fail("charge-*", "no", occurrence=3)
    for execution_id in ("first", "second"):
        workflow.run("shop", execution_id)
    assert workflow_db.step_errors("first") == []
    assert [row["step_id"] for row in workflow_db.step_errors("second")] == ["charge-card"]


def test_workflow_narrows_a_rule(workflow, workflow_faults, shop):
    @workflow.define("other-shop")
    async def other_shop(ctx):
        await ctx.step("ship", lambda: 1)

    workflow_faults.fail("ship", "no", workflow="other-*")
    assert workflow.run("shop").status == "completed"
    assert workflow.run("other-shop").status == "failed"


def test_brackets_in_a_step_id_are_taken_as_they_stand(workflow, workflow_faults):
    @workflow.define("indexed")
    async def indexed(ctx):
        return [await ctx.step(step_id, lambda: "real") for step_id in ("item[0]", "item0", "item1", "item?")]

    workflow_faults.returns("item[0]", "double")
    workflow_faults.returns("item[1-9]*", "glob")
    workflow_faults.returns("item[?]", "literal")
    assert workflow.run("indexed").output == ["double", "real", "glob", "literal"]


def test_attempts_are_counted_from_the_start_of_the_execution(workflow, workflow_faults, workflow_db, shop):
    """A rule made while the execution is under way counts the attempts before it as well."""
    workflow_faults.fail("ship", "first", attempts=[1])
    workflow_faults.calls("charge-fee", lambda: workflow_faults.fail("ship", "second", attempts=[2]) and None)
    workflow.run("shop", "s")
    assert [row["error_message"] for row in workflow_db.step_errors("s")] == ["first", "second"]


def test_rules_work_on_after_a_reopen(workflow, workflow_faults, workflow_clock):
    @workflow.define("later")
    async def later(ctx):
        await ctx.sleep("nap", 60_000)
        return await ctx.step("charge", lambda: "charged")

    workflow_faults.returns("charge", "double")
    workflow.run("later", "l", detach=True)
    workflow_clock.advance(1_000)
    workflow.reopen()
    assert workflow.wait("l").output == "double"


def test_several_rules_for_one_step(workflow, workflow_faults, workflow_clock):
    @workflow.define("slow-and-failing")
    async def slow_and_failing(ctx):
        return await ctx.step("charge", lambda: "charged")

    workflow_faults.fail("charge", "no", attempts=[1])
    workflow_faults.delay("charge", 10_000, attempts=[1])
    assert workflow.run("slow-and-failing").output == "charged"
    assert workflow_clock.monotonic() == pytest.approx(11)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda f: f.fail("ship", "no", attempts=[1]), lambda f: f.returns("ship", 5, attempts=[1])),
        (lambda f: f.delay("ship", 9_000, attempts=[1]), lambda f: f.fail("ship", "no", attempts=[1])),
        (lambda f: f.fail("ship", "one", attempts=[1]), lambda f: f.fail("ship", "two", attempts=[1])),
        (lambda f: f.panic("ship"), lambda f: f.timeout("ship", attempts=[1])),
        (lambda f: f.jump_clock(5, "ship"), lambda f: f.calls("ship", lambda: 5)),
    ],
)
def test_a_rule_that_another_hides_has_not_struck(workflow, workflow_faults, workflow_clock, shop, first, second):
    hidden, seen = first(workflow_faults), second(workflow_faults)
    workflow.run("shop")
    assert (hidden.fired, seen.fired) == (0, 1)
    assert workflow_clock.monotonic() in {0, 1, 3601}
    assert workflow_faults.unused() == [hidden]
    workflow_faults.strict = False


def test_a_timeout_before_a_rule_is_reached_hides_it(workflow, workflow_faults):
    @workflow.define("slow")
    async def slow(ctx):
        return await ctx.step("charge", lambda: 1, timeout_ms=1_000).with_retry(max_attempts=1)

    hidden = workflow_faults.fail("charge", "no", strict=False)
    workflow_faults.delay("charge", 5_000)
    assert workflow.run("slow").error.type == "StepTimeoutError"
    assert hidden.fired == 0


@pytest.fixture
def guarded(workflow):
    @workflow.define("guarded")
    async def guarded(ctx):
        return await ctx.step("charge", lambda: "charged").with_circuit_breaker(3, 1_000, on_open=lambda ctx: "queued")

    return lambda: workflow.run("guarded").output


def test_circuit_rules_that_overlap_count_each_time(workflow, workflow_faults, workflow_clock, guarded):
    first = workflow_faults.open_circuit("charge", occurrence=1)
    third = workflow_faults.open_circuit("ch*", occurrence=3)
    outputs = []
    for _ in range(4):
        outputs.append(guarded())
        workflow_clock.advance(1_000)
    assert outputs == ["queued", "charged", "queued", "charged"]
    assert (first.matched, third.matched) == (4, 4)
    assert (first.fired, third.fired) == (1, 1)


def test_of_two_circuit_rules_the_last_one_wins(workflow, workflow_faults, guarded):
    hidden = workflow_faults.open_circuit("charge", strict=False)
    workflow_faults.half_open_circuit("charge")
    assert guarded() == "charged"
    assert hidden.fired == 0


def test_what_returns_gives_is_a_copy(workflow, workflow_faults):
    @workflow.define("changing")
    async def changing(ctx):
        items = await ctx.step("items", lambda: 1 / 0)
        items.append("more")
        return items

    given = ["one"]
    workflow_faults.returns("items", given)
    assert workflow.run("changing").output == ["one", "more"]
    assert workflow.run("changing").output == ["one", "more"]
    assert given == ["one"]


@pytest.mark.parametrize("step_id", ["", None, 7])
def test_a_rule_needs_a_step(workflow_faults, step_id):
    with pytest.raises(TypeError, match="needs the id of a step"):
        workflow_faults.delay(step_id, 1)


@pytest.mark.parametrize(
    "attempts", [(1, 2), {1, 2}, range(1, 3), {1: 0, 2: 0}, iter([1, 2])], ids=lambda given: type(given).__name__
)
def test_attempts_come_in_any_collection(workflow, workflow_faults, shop, attempts):
    rule = workflow_faults.fail("ship", "no", attempts)
    workflow.run("shop")
    assert rule.fired == 2


@pytest.mark.asyncio
async def test_in_asynchronous_tests(workflow, workflow_faults, shop):
    workflow_faults.fail("ship", "no", attempts=[1])
    assert (await Workflow.start("shop")).status == "completed"


# Rules that never strike ---------------------------------------------------------------------------------------------


def test_an_unused_rule_fails_the_test_by_name(run_within, pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def shop(workflow):
            @workflow.define("shop")
            async def shop(ctx):
                await ctx.step("ship", lambda: 1)

        def test_misspelt(shop, workflow, workflow_faults):
            workflow_faults.fail("shop", ValueError("no"))
            workflow.run("shop")

        def test_attempt_that_never_comes(shop, workflow, workflow_faults):
            workflow_faults.fail("ship", "no", attempts=[2])
            workflow.run("shop")

        def test_no_circuit(shop, workflow, workflow_faults):
            workflow_faults.open_circuit("ship")
            workflow.run("shop")

        def test_all_of_them_are_named(workflow_faults):
            workflow_faults.panic("a", "fatal error")
            workflow_faults.delay("b", 5)
            workflow_faults.returns("c", 7)
            workflow_faults.half_open_circuit("d")
            workflow_faults.fail("e", "no", {3}, workflow="w*", occurrence=2)
            workflow_faults.panic("f", attempts=None)
            workflow_faults.crash("step_completed", "g", occurrence=None)

        def test_not_strict(workflow_faults):
            workflow_faults.fail("a", "no", strict=False)

        def test_nothing_strict(workflow_faults):
            workflow_faults.strict = False
            workflow_faults.fail("a", "no")

        @pytest.mark.xfail(strict=True)
        def test_expected(workflow_faults):
            workflow_faults.fail("a", "no")

        def test_hidden(shop, workflow, workflow_faults):
            workflow_faults.fail("ship", "hidden")
            workflow_faults.returns("ship", 5)
            workflow.run("shop")

        def test_the_tests_own_failure_comes_first(workflow_faults):
            workflow_faults.fail("own", "no")
            raise ZeroDivisionError
        """
    )
    result = run_within()
    result.assert_outcomes(passed=2, failed=6, xfailed=1)
    result.stdout.fnmatch_lines(
        [
            "these faults never struck, so the test shows less than it says:",
            "  workflow_faults.fail('shop', ValueError('no'))  <- did you mean the step \"ship\"[?]",
            "  workflow_faults.fail('ship', 'no', attempts=[[]2])",
            "  workflow_faults.open_circuit('ship')",
            "  workflow_faults.panic('a', 'fatal error')",
            "  workflow_faults.delay('b', 5)",
            "  workflow_faults.returns('c', 7)",
            "  workflow_faults.half_open_circuit('d')",
            "  workflow_faults.fail('e', 'no', attempts=[[]3], workflow='w[*]', occurrence=2)",
            "  workflow_faults.panic('f', 'out of memory', attempts=None)",
            "  workflow_faults.crash('step_completed', 'g', 'after', occurrence=None)",
            "  workflow_faults.fail('ship', 'hidden')",
        ]
    )
    assert "fail('own'" not in result.stdout.str().split("short test summary")[0].replace(
        'workflow_faults.fail("own"', ""
    )


def test_a_database_that_refuses_an_inner_step_is_no_failure_of_the_outer_one(workflow, workflow_faults):
    handled = []

    @workflow.define("w")
    async def flow(ctx):
        async def outer():
            return await ctx.step("inner", lambda: "done")

        return await ctx.step("outer", outer).catch(lambda error, ctx: handled.append(error))

    workflow_faults.storage_error("step_completed", step_id="inner")
    with pytest.raises(StorageError, match="database is locked"):
        workflow.run("w")
    assert handled == []
