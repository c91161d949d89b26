"""What each kind of fault does and where, from a plan and from the call that makes the same rule."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from pytest_workflow import (
    CircuitClosed,
    CircuitHalfOpened,
    ExecutionRecovered,
    StepCompleted,
    StepFailed,
    StepInterrupted,
    StepRetrying,
)
from pytest_workflow.plan import (
    STORAGE_ERRORS,
    CircuitForced,
    ClockJump,
    FaultPlan,
    FaultRule,
    Return,
    Where,
)
from workflow_core import StorageError


class PaymentError(Exception):
    """A class that a plan can name."""


class Shop:
    """Runs the workflow "shop", and knows what came of it."""

    def __init__(self, workflow, clock, db):
        self.workflow, self.clock, self.db = workflow, clock, db
        self.ran = []

        @workflow.define("shop")
        async def shop(ctx):
            charged = (
                await ctx.step("charge", lambda: self.ran.append("charge") or "charged", timeout_ms=5_000)
                .with_circuit_breaker(3, 60_000, on_open=lambda ctx: "queued")
                .with_retry(backoff_ms=1_000)
            )
            return [charged, await ctx.step("ship", lambda: self.ran.append("ship") or "shipped")]

    def run(self, execution_id="s-1"):
        return self.workflow.run("shop", execution_id)

    @property
    def history(self):
        return self.workflow.history("s-1")

    def row(self, step_id):
        (row,) = (row for row in self.db.steps("s-1") if row["step_id"] == step_id)
        return row

    @property
    def jumped(self):
        return self.clock.now() - self.clock.start - timedelta(seconds=self.clock.monotonic())


@pytest.fixture
def shop(workflow, workflow_clock, workflow_db):
    return Shop(workflow, workflow_clock, workflow_db)


# Every kind, from a plan and from its call ---------------------------------------------------------------------------


@dataclass
class Kind:
    """One kind of fault.

    Attributes:
        where: As JSON.
        what: As JSON.
        call: The call that makes the same rule.
        seen: Tells, of a shop, whether it struck.
    """

    where: dict[str, Any]
    what: dict[str, Any]
    call: Any
    seen: Any


def runs(check):
    def seen(shop):
        result = shop.run()
        assert result.status == "completed"
        check(shop, result)

    return seen


def refused(shop):
    with pytest.raises(StorageError, match="disk I/O error"):
        shop.run()
    assert shop.row("ship")["result_data"] is None
    assert shop.workflow.resume("s-1").output == ["charged", "shipped"]
    assert shop.ran == ["charge", "ship", "ship"]


def expect(**expected):
    """Check the result's output, the bodies that ran, virtual seconds, the jump of the wall clock, or a history."""

    def check(shop, result):
        found = {
            "output": lambda: result.output,
            "ran": lambda: shop.ran,
            "seconds": shop.clock.monotonic,
            "jumped": lambda: shop.jumped,
            "ship": lambda: shop.history.of("ship"),
            "charge": lambda: shop.history.of("charge"),
            "recovered": lambda: len(shop.history.only(ExecutionRecovered)),
        }
        for name, value in expected.items():
            assert found[name]() == value, name

    return runs(check)


def panicked(shop, result):
    shop.history.assert_panicked("segmentation fault")
    shop.history.assert_restarts(1)


def damaged(shop, result):
    assert shop.row("charge")["result_data"] == '{"corrupt'


SHIP, CHARGE = {"step": "ship", "attempts": [1]}, {"step": "charge", "attempts": [1]}
AT_SHIP = {"point": "step_completed", "step": "ship", "nth": 1}

KINDS = {
    "raise": Kind(
        SHIP,
        {"kind": "raise", "error": "builtins:ConnectionError", "args": ["503"]},
        lambda faults: faults.fail("ship", ConnectionError("503"), attempts=[1]),
        expect(ship=[StepFailed(error="ConnectionError", message="503"), StepRetrying, StepCompleted]),
    ),
    "raise_message": Kind(
        {"step": "ship", "attempts": [1]},
        {"kind": "raise", "error": "builtins:RuntimeError", "args": ["gone"]},
        lambda faults: faults.fail("ship", "gone", [1]),
        expect(ship=[StepFailed(error="RuntimeError", message="gone"), StepRetrying, StepCompleted]),
    ),
    "raise_class": Kind(
        SHIP,
        {"kind": "raise", "error": f"{__name__}:PaymentError"},
        lambda faults: faults.fail("ship", PaymentError, attempts=[1]),
        expect(ship=[StepFailed(error="PaymentError", message=""), StepRetrying, StepCompleted]),
    ),
    "panic": Kind(
        SHIP,
        {"kind": "panic", "message": "segmentation fault"},
        lambda faults: faults.panic("ship", "segmentation fault"),
        runs(panicked),
    ),
    "return": Kind(
        {"step": "ship"},
        {"kind": "return", "value": {"a": [1, None]}},
        lambda faults: faults.returns("ship", {"a": [1, None]}),
        expect(output=["charged", {"a": [1, None]}], ran=["charge"]),
    ),
    "delay": Kind(
        {"step": "*"},
        {"kind": "delay", "ms": 1_250},
        lambda faults: faults.delay("*", 1_250),
        expect(seconds=2.5, ran=["charge", "ship"]),
    ),
    "timeout": Kind(
        CHARGE,
        {"kind": "timeout"},
        lambda faults: faults.timeout("charge", [1]),
        expect(seconds=6, charge=[StepFailed(error="StepTimeoutError"), StepRetrying, StepCompleted]),
    ),
    "timeout_without_one": Kind(
        SHIP,
        {"kind": "timeout"},
        lambda faults: faults.timeout("ship", {1}),
        expect(seconds=3_601, ship=[StepFailed(error="TimeoutError"), StepRetrying, StepCompleted]),
    ),
    "circuit": Kind(
        {"step": "charge", "nth": 1},
        {"kind": "circuit"},
        lambda faults: faults.open_circuit("charge"),
        expect(output=["queued", "shipped"]),
    ),
    "half_open": Kind(
        {"step": "charge", "nth": 1},
        {"kind": "circuit", "status": "half_open"},
        lambda faults: faults.half_open_circuit("charge"),
        expect(charge=[CircuitHalfOpened(), StepCompleted(), CircuitClosed()]),
    ),
    "crash": Kind(
        AT_SHIP,
        {"kind": "crash"},
        lambda faults: faults.crash("step_completed", "ship"),
        expect(ran=["charge", "ship"], recovered=1, ship=[StepCompleted(attempt=1)]),
    ),
    "crash_before": Kind(
        AT_SHIP,
        {"kind": "crash", "when": "before"},
        lambda faults: faults.crash("step_completed", "ship", "before"),
        expect(
            ran=["charge", "ship", "ship"], recovered=1, ship=[StepInterrupted(attempt=1), StepCompleted(attempt=2)]
        ),
    ),
    "crash_between_steps": Kind(
        {"point": "execution_completed", "nth": 1},
        {"kind": "crash", "when": "before"},
        lambda faults: faults.crash("execution_completed", when="before"),
        expect(ran=["charge", "ship"], recovered=1),
    ),
    "storage": Kind(
        AT_SHIP,
        {"kind": "storage", "message": "disk I/O error"},
        lambda faults: faults.storage_error("step_completed", "disk I/O error", "ship"),
        refused,
    ),
    "corrupt": Kind(
        {"point": "step_completed", "step": "charge", "nth": 1},
        {"kind": "corrupt"},
        lambda faults: faults.corrupt_result("charge"),
        runs(damaged),
    ),
    "clock_jump": Kind(
        {"step": "ship", "nth": 1},
        {"kind": "clock_jump", "ms": -3_600_000},
        lambda faults: faults.jump_clock(-3_600_000, "ship"),
        expect(jumped=timedelta(hours=-1), ran=["charge", "ship"]),
    ),
    "clock_jump_at_a_point": Kind(
        {"point": "execution_completed", "nth": 1},
        {"kind": "clock_jump", "ms": 500},
        lambda faults: faults.jump_clock(500, point="execution_completed"),
        expect(jumped=timedelta(milliseconds=500)),
    ),
}


def plan_of(kind):
    return {"version": 1, "rules": [{"where": kind.where, "what": kind.what}]}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_fault_from_a_plan(workflow_faults, shop, kind):
    (armed,) = workflow_faults.add(FaultPlan.from_json(json.dumps(plan_of(kind))))
    kind.seen(shop)
    assert armed.fired >= 1


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_fault_from_a_call(workflow_faults, shop, kind):
    armed = kind.call(workflow_faults)
    kind.seen(shop)
    assert armed.fired >= 1


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_call_makes_the_rule_of_the_plan(workflow_faults, kind):
    workflow_faults.strict = False
    armed = kind.call(workflow_faults)
    assert armed.portable
    assert workflow_faults.plan == FaultPlan.from_json(json.dumps(plan_of(kind)))
    assert json.loads(workflow_faults.plan.to_json()) == plan_of(kind)


def test_a_single_rule_can_be_added(workflow_faults, shop):
    (armed,) = workflow_faults.add(FaultRule(where=Where(step="ship"), what=Return(value="double")))
    assert shop.run().output == ["charged", "double"]
    assert armed.description.startswith('add({"version":1,"rules":[{"where":{"step":"ship"}')


def test_a_damaged_result_meets_whoever_reads_it(workflow, workflow_faults, shop):
    workflow_faults.corrupt_result("charge", '"other')
    workflow_faults.crash("step_completed", "charge")
    result = shop.run()
    assert result.status != "completed"
    assert shop.ran == ["charge"]


@pytest.mark.parametrize("message", STORAGE_ERRORS)
def test_what_sqlite_says(workflow_faults, shop, message):
    workflow_faults.storage_error("step_started", message)
    with pytest.raises(StorageError, match=message):
        shop.run()
    assert shop.ran == []


def test_a_storage_error_each_time(workflow_faults, shop):
    workflow_faults.storage_error("step_started", occurrence=None, step_id="ship")
    for _ in range(2):
        with pytest.raises(StorageError, match="database is locked"):
            shop.run()
    assert shop.ran == ["charge"]


def test_several_crashes(workflow_faults, shop):
    workflow_faults.crash("step_started", "ship", "before", occurrence=1)
    workflow_faults.crash("step_started", "ship", occurrence=1)
    workflow_faults.crash("step_completed", "ship", "before")
    assert shop.run().output == ["charged", "shipped"]
    assert len(shop.history.only(ExecutionRecovered)) == 3


def test_damage_comes_before_a_crash_after_the_same_commit(workflow_faults, shop):
    workflow_faults.crash("step_completed", "ship")
    workflow_faults.corrupt_result("ship")
    shop.run()
    assert shop.row("ship")["result_data"] == '{"corrupt'


def test_of_several_rules_at_a_point_the_last_one_is_the_outermost(workflow_faults, shop):
    hidden = workflow_faults.jump_clock(5, point="step_started", strict=False)
    workflow_faults.storage_error("step_started")
    seen = workflow_faults.jump_clock(7, point="step_started")
    with pytest.raises(StorageError):
        shop.run()
    assert (hidden.fired, seen.fired) == (0, 1)
    assert (hidden.matched, seen.matched) == (1, 1)
    assert shop.jumped == timedelta(milliseconds=7)


def test_an_attempt_that_a_crash_cuts_off_does_not_count(workflow_faults, shop):
    first = workflow_faults.delay("ship", 1_000, attempts=[1])
    second = workflow_faults.fail("ship", "no", occurrence=2, strict=False)
    workflow_faults.crash("step_completed", "ship", "before")
    assert shop.run().output == ["charged", "shipped"]
    assert shop.clock.monotonic() == 2
    assert (first.fired, second.fired, second.matched) == (1, 0, 1)


# Where ---------------------------------------------------------------------------------------------------------------


def armed(faults, where, what=None):
    (one,) = faults.add(FaultRule(where=Where(**where), what=what or Return(value="double"), strict=False))
    return one


@pytest.mark.parametrize(
    ("where", "outputs"),
    [
        ({"step": "ship"}, [["charged", "double"]] * 3),
        ({"step": "sh?p"}, [["charged", "double"]] * 3),
        ({"step": "*"}, [["double", "double"]] * 3),
        ({"step": "[cs]h*", "nth": 4}, [["charged", "shipped"], ["charged", "double"], ["charged", "shipped"]]),
        ({"step": "ship", "nth": 2}, [["charged", "shipped"], ["charged", "double"], ["charged", "shipped"]]),
        ({"step": "ship", "attempts": [2]}, [["charged", "shipped"]] * 3),
        ({"step": "ship", "workflow": "s*"}, [["charged", "double"]] * 3),
        ({"step": "ship", "workflow": "stop"}, [["charged", "shipped"]] * 3),
        (
            {"step": "ship", "not_before_ms": 10_000},
            [["charged", "shipped"], ["charged", "double"], ["charged", "double"]],
        ),
        ({"step": "ship", "not_before_ms": 10_000, "nth": 2}, [*[["charged", "shipped"]] * 2, ["charged", "double"]]),
        ({"step": "ship", "not_before_ms": 10_001}, [*[["charged", "shipped"]] * 2, ["charged", "double"]]),
        ({"step": "ship", "not_before_ms": 0.5, "nth": 3}, [["charged", "shipped"]] * 3),
    ],
    ids=lambda given: json.dumps(given) if isinstance(given, dict) else "",
)
def test_where_a_rule_strikes(workflow_faults, shop, where, outputs):
    armed(workflow_faults, where)
    found = []
    for number in range(3):
        found.append(shop.run(f"s-{number}").output)
        shop.clock.advance(10_000)
    assert found == outputs


def test_points_of_a_workflow_and_of_any_step(workflow, workflow_faults, shop):
    workflow.define("other", lambda ctx: 1)
    rule = armed(workflow_faults, {"point": "execution_started", "workflow": "oth*"}, ClockJump(ms=1))
    steps = armed(workflow_faults, {"point": "step_completed"}, ClockJump(ms=1))
    named = armed(workflow_faults, {"point": "step_completed", "step": "s*", "nth": 2}, ClockJump(ms=1))
    stepless = armed(workflow_faults, {"point": "execution_started", "step": "*"}, ClockJump(ms=1))
    for execution_id in ("s-1", "s-2"):
        shop.run(execution_id)
        workflow.run("other")
    assert (rule.fired, steps.fired, named.fired, stepless.fired) == (2, 4, 1, 0)


def test_attempts_of_a_circuit_rule_are_those_to_come(workflow_faults, shop):
    workflow_faults.fail("charge", "no", attempts=[1])
    rule = armed(workflow_faults, {"step": "charge", "attempts": [2]}, CircuitForced(status="open"))
    assert shop.run().output == ["queued", "shipped"]
    assert rule.fired == 1
