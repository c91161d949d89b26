"""The fixture `workflow_spy`: the calls of steps, what they captured, and what came of them."""

from __future__ import annotations

import asyncio
import functools
import re
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import FrozenInstanceError, dataclass
from datetime import timedelta
from typing import NamedTuple

import pytest
from pydantic import BaseModel

from pytest_workflow.capture import captured_values, copied
from workflow_core import hookimpl

pytest_plugins = ["pytester"]


def charge(amount, currency="EUR"):
    return f"{amount} {currency}"


@pytest.fixture
def shop(workflow):
    @workflow.define("shop")
    async def shop(ctx):
        order = {"id": ctx.execution_id, "items": ["tea"]}
        paid = await ctx.step("charge", functools.partial(charge, 5))
        order["items"].append("cup")
        await ctx.step("ship", lambda: order["items"])
        return paid


def test_what_is_recorded(workflow, workflow_spy, workflow_faults, workflow_clock, shop):
    workflow_faults.delay("ship", 500)
    workflow.run("shop", "o-1")
    charged, shipped = workflow_spy.calls
    assert (charged.execution_id, charged.workflow, charged.step_id) == ("o-1", "shop", "charge")
    assert (charged.attempt, charged.restart_attempt) == (1, 1)
    assert (charged.result, charged.error, charged.doubled) == ("5 EUR", None, False)
    assert charged.arguments == {"amount": 5, "currency": "EUR"}
    assert (shipped.started_at, shipped.ended_at) == (workflow_clock.start, workflow_clock.now())
    assert shipped.ended_at - shipped.started_at == timedelta(seconds=0.5)
    with pytest.raises(FrozenInstanceError):
        charged.result = "other"
    with pytest.raises(TypeError):
        charged.arguments["amount"] = 6


def test_values_are_those_of_the_moment_of_the_call(workflow, workflow_spy):
    basket = ["tea"]

    @workflow.define("growing")
    async def growing(ctx):
        await ctx.step("before", lambda: basket)
        basket.append("cup")
        await ctx.step("after", lambda: basket)

    workflow.run("growing")
    assert [call.arguments["basket"] for call in workflow_spy.calls] == [["tea"], ["tea", "cup"]]
    assert [call.result for call in workflow_spy.calls] == [["tea"], ["tea", "cup"]]


def test_attempts_restarts_and_errors(workflow, workflow_spy, workflow_faults):
    failures = iter([ValueError("no"), MemoryError(), None])

    def body():
        if (error := next(failures)) is not None:
            raise error

    workflow.define("w", lambda ctx: ctx.step("a", body))
    workflow.run("w")
    assert [(call.attempt, call.restart_attempt, type(call.error)) for call in workflow_spy.calls] == [
        (1, 1, ValueError),
        (2, 1, MemoryError),
        (1, 2, type(None)),
    ]
    assert {call.doubled for call in workflow_spy.calls} == {False}


def test_faults_and_doubles(workflow, workflow_faults, workflow_spy, shop):
    workflow_faults.fail("charge", ConnectionError("503"), attempts=[1])
    workflow_faults.delay("charge", 100, attempts=[2])
    workflow_faults.calls("ship", lambda: ["double"])
    workflow.run("shop")
    assert [(call.step_id, call.doubled, call.result) for call in workflow_spy.calls] == [
        ("charge", True, None),
        ("charge", False, "5 EUR"),
        ("ship", True, ["double"]),
    ]
    assert str(workflow_spy.calls[0].error) == "503"
    assert workflow_spy.calls[0].arguments == {"amount": 5, "currency": "EUR"}


def test_faults_made_before_the_spy(pytester, run_within):
    pytester.makepyfile(
        """
        def test_it(workflow, workflow_faults, request):
            workflow_faults.returns("a", 1)
            spy = request.getfixturevalue("workflow_spy")
            workflow.define("w", lambda ctx: ctx.step("a", lambda: 2))
            workflow.run("w")
            assert [(call.result, call.doubled) for call in spy.calls] == [(1, True)]
        """
    )
    run_within().assert_outcomes(passed=1)


def test_doubles_of_a_plugin(workflow, workflow_spy, shop):
    class Answers:
        @hookimpl
        def wrap_attempt(self, attempt):
            async def answer():
                return "plugin"

            return (lambda call: answer) if attempt.step_id == "charge" else None

    workflow.engine.register(Answers())
    workflow.run("shop")
    assert [(call.result, call.doubled) for call in workflow_spy.calls] == [
        ("plugin", True),
        (["tea", "cup"], False),
    ]


def test_a_call_that_runs(workflow, workflow_spy, workflow_clock):
    async def slow():
        await asyncio.sleep(60)
        return "done"

    workflow.define("w", lambda ctx: ctx.step("slow", slow))
    workflow.run("w", "x", detach=True)
    workflow_clock.advance(1)
    (running,) = workflow_spy.calls
    assert (running.ended_at, running.result, running.doubled) == (None, None, False)
    assert "(running)" in str(workflow_spy)
    workflow.wait("x")
    assert running.ended_at is None
    assert workflow_spy.calls[0].result == "done"


def test_a_call_that_a_time_out_ended(workflow, workflow_spy):
    workflow.define("w", lambda ctx: ctx.step("slow", lambda: asyncio.sleep(60), timeout_ms=1_000))
    workflow.run("w", retry_config={"max_attempts": 1})
    (call,) = workflow_spy.calls
    assert isinstance(call.error, asyncio.CancelledError)
    assert call.ended_at - call.started_at == timedelta(seconds=1)


def test_it_goes_on_spying_in_the_next_process(workflow, workflow_spy, shop):
    workflow.run("shop", "o-1", until="charge")
    workflow.reopen()
    workflow.wait("o-1")
    workflow_spy.assert_called("charge", times=1)
    workflow_spy.assert_called("ship", times=1)


def test_parallel_steps_and_threads(workflow, workflow_spy):
    @workflow.define("parallel")
    async def parallel(ctx):
        await asyncio.gather(*(ctx.step(f"s-{n}", functools.partial(asyncio.sleep, n, n)) for n in (3, 2, 1)))
        await ctx.step("thread", lambda: asyncio.to_thread(threading.get_ident))

    workflow.run("parallel")
    assert workflow_spy.step_ids == ["s-3", "s-2", "s-1", "thread"]
    assert [call.result for call in workflow_spy.of("s-*")] == [3, 2, 1]


def test_a_skipped_step_is_not_called(workflow, workflow_spy, workflow_faults):
    workflow.define(
        "w", lambda ctx: ctx.step("a", lambda: 1).with_circuit_breaker(1, 60_000, on_open=lambda ctx: "later")
    )
    workflow_faults.open_circuit("a")
    assert workflow.run("w").output == "later"
    workflow_spy.assert_not_called("a")


def test_an_engine_that_nobody_spies_on_wraps_nothing(workflow, shop):
    assert not workflow.engine.extensions.wraps_attempts


# Asking --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_orders(workflow, workflow_spy, workflow_faults, shop):
    workflow_faults.fail("charge", ConnectionError("503"), occurrence=1)
    workflow.run("shop", "o-1")
    workflow.run("shop", "o-2")
    return workflow_spy


def test_parts(two_orders):
    spy = two_orders
    assert spy.calls.step_ids == spy.step_ids == ["charge", "charge", "ship", "charge", "ship"]
    assert spy.of("ch*").step_ids == ["charge"] * 3
    assert spy.of(execution_id="o-2").step_ids == ["charge", "ship"]
    assert len(spy.of("ship", workflow="shop", execution_id="o-1")) == 1
    assert len(spy.of(workflow="other")) == 0
    assert [spy.count(), spy.count("charge"), spy.count("*r*"), spy.count("nothing")] == [5, 3, 3, 0]
    assert spy.calls[-1].execution_id == "o-2"


def test_clear(two_orders):
    calls = two_orders.calls
    two_orders.clear()
    assert (len(two_orders), len(calls)) == (0, 5)
    assert str(two_orders) == "(no calls)"


def test_assertions_that_hold(two_orders):
    spy = two_orders
    spy.assert_called("charge")
    spy.assert_called("charge", 3)
    spy.assert_called("*", times=5)
    spy.assert_called("nothing", times=0)
    spy.assert_not_called("nothing")
    spy.assert_called_with("charge")
    spy.assert_called_with("charge", amount=5)
    spy.assert_called_with("charge", amount=pytest.approx(5.0), currency="EUR")
    spy.assert_called_with("sh*", order={"id": "o-2", "items": ["tea", "cup"]})
    spy.assert_order("charge", "ship", "charge")
    spy.assert_order(("o-1", "charge"), ("o-1", "ship"), ("o-2", "*"))
    spy.of(execution_id="o-2").assert_called("charge", times=1)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda spy: spy.assert_called("refund"), 'step "refund" was never called'),
        (lambda spy: spy.assert_called("ship", 1), 'step "ship" was called 2 times, not once'),
        (lambda spy: spy.assert_called("ship", times=3), 'step "ship" was called 2 times, not 3 times'),
        (lambda spy: spy.assert_not_called("ship"), 'step "ship" was called 2 times'),
        (lambda spy: spy.assert_called_with("refund", amount=5), 'step "refund" was never called'),
        (lambda spy: spy.assert_called_with("charge", amount=6), 'step "charge" was never called with amount=6'),
        (lambda spy: spy.assert_order("ship", "refund"), "'refund' was not called after ['ship']"),
        (lambda spy: spy.assert_order("refund"), "'refund' was not called"),
        (lambda spy: spy.assert_order(("o-2", "ship"), ("o-1", "ship")), "('o-1', 'ship') was not called after"),
    ],
)
def test_assertions_that_fail(two_orders, ask, message):
    with pytest.raises(AssertionError) as raised:
        ask(two_orders)
    lines = str(raised.value).splitlines()
    assert lines[0].startswith(message)
    assert "calls of steps" in lines
    assert sum("o-1" in line or "o-2" in line for line in lines[-5:]) == 5


def test_how_a_call_differs(two_orders):
    with pytest.raises(AssertionError) as raised:
        two_orders.of(execution_id="o-2").assert_called_with("charge", amount=6, currency="EUR", tip=1)
    assert str(raised.value).splitlines()[:3] == [
        "step \"charge\" was never called with amount=6, currency='EUR', tip=1",
        '  call 1: amount was 5, not 6; it captured no "tip", but amount, currency',
        'calls of steps, execution "o-2"',
    ]


def test_the_table(two_orders):
    rows = [line.split(None, 5) for line in str(two_orders).splitlines()[2:]]
    assert rows[0][:5] == ["1", "+0.000s", "o-1", "charge", "1"]
    assert re.split("  +", rows[0][5]) == ["amount=5, currency='EUR'", "raised ConnectionError('503') (double)"]
    assert rows[1][5].endswith("'5 EUR'")


def test_the_table_stands_any_value(workflow, workflow_spy):
    class Hostile:
        def __repr__(self):
            raise RuntimeError("no")

    hostile, text = Hostile(), "\x1b[31m" + "long " * 100

    def body(first=hostile, second=text): ...

    workflow.define("w", lambda ctx: ctx.step("a", body))
    workflow.run("w")
    assert "\x1b" not in str(workflow_spy)
    assert "Hostile" in str(workflow_spy)
    assert max(len(line) for line in str(workflow_spy).splitlines()) < 250


# What a function captured --------------------------------------------------------------------------------------------


class Service:
    def send(self, to, *more, subject="hello", **headers):
        """Never called."""

    def __call__(self, retries=3):
        """Never called."""

    @classmethod
    def make(cls, size=1):
        """Never called."""


def late():
    def body():
        return value

    yield body
    value = 1
    yield body


def annotated(amount: "OnlyForTypeCheckers", *, tip: "Missing" = 0): ...  # noqa: F821, UP037


@pytest.mark.parametrize(
    ("function", "values"),
    [
        (lambda: 1, {}),
        (lambda a=1, *, b=2: 1, {"a": 1, "b": 2}),
        (functools.partial(charge, 5), {"amount": 5, "currency": "EUR"}),
        (functools.partial(charge, currency="USD", amount=1), {"amount": 1, "currency": "USD"}),
        (functools.partial(functools.partial(charge, 5), "USD"), {"amount": 5, "currency": "USD"}),
        (
            functools.partial(Service().send, "ada", "bob", x=1),
            {"to": "ada", "subject": "hello", "x": 1, "more": ("bob",)},
        ),
        (Service(), {"retries": 3}),
        (Service.make, {"size": 1}),
        (functools.partial(Service(), retries=1), {"retries": 1}),
        (functools.partial(print, 1, sep=""), {"args": (1,), "sep": ""}),
        (dict, {}),
        (functools.partial(annotated, 1), {"amount": 1, "tip": 0}),
        (next(late()), {}),
    ],
)
def test_captured_values(function, values):
    assert captured_values(function) == values


def test_a_closure_variable_that_gets_its_value_later():
    bodies = late()
    next(bodies)
    assert captured_values(next(bodies)) == {"value": 1}


def test_arguments_count_before_closure_variables():
    name = "outer"
    decorated = functools.wraps(charge)(lambda *args, **kwargs: name)
    assert captured_values(functools.partial(decorated, 1, amount=2)) == {"name": "outer", "args": (1,), "amount": 2}


@dataclass(frozen=True)
class Line:
    items: list


class Order(BaseModel):
    lines: list


class Pair(NamedTuple):
    left: list
    right: int


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ([1], lambda value: value.append(2)),
        ({"a": [1]}, lambda value: value["a"].append(2)),
        (([1],), lambda value: value[0].append(2)),
        (Pair([1], 2), lambda value: value.left.append(2)),
        ({1}, lambda value: value.add(2)),
        (bytearray(b"a"), lambda value: value.extend(b"b")),
        (deque([[1]], maxlen=3), lambda value: value[0].append(2)),
        (OrderedDict(a=[1]), lambda value: value["a"].append(2)),
        (defaultdict(list, a=[1]), lambda value: value["a"].append(2)),
        (Counter("aa"), lambda value: value.update("a")),
        (Line([1]), lambda value: value.items.append(2)),
        (Order(lines=[1]), lambda value: value.lines.append(2)),
    ],
)
def test_copies(value, change):
    copy = copied(value)
    assert copy == value
    assert type(copy) is type(value)
    change(value)
    assert copy != value


def test_what_is_not_copied():
    class Refuses:
        def __copy__(self):
            raise RuntimeError("no")

        __deepcopy__ = __copy__

    @dataclass
    class AlsoRefuses(Refuses):
        number: int = 1

    for value in (Refuses(), AlsoRefuses(), threading.Lock(), Line, charge):
        assert copied(value) is value
    connection = threading.Lock()
    assert copied([connection])[0] is connection


def test_what_contains_itself():
    value = [1]
    value.append(value)
    copy = copied(value)
    assert copy is not value
    assert copy[1] is copy
