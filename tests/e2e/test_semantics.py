"""What a workflow, a step, a sleep, a circuit and a panic mean: one test for each rule of the design."""

import asyncio
import dataclasses
import decimal
import enum
import math
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as dtime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pydantic
import pytest

from pytest_workflow import CircuitClosed, CircuitHalfOpened, StepCompleted
from workflow_core import (
    CircuitOpenError,
    ExecutionConflictError,
    ExecutionNotFoundError,
    InvalidStateError,
    NonRetryableError,
    RetryConfig,
    ValidationError,
    Workflow,
    WorkflowContext,
    WorkflowError,
    WorkflowNotFoundError,
)


class Color(enum.Enum):
    RED = 1


class P(pydantic.BaseModel):
    a: int
    when: datetime


@dataclasses.dataclass
class D:
    x: int
    y: list[int]


class NT(NamedTuple):
    a: int
    b: str


@pytest.mark.parametrize(
    "v",
    [
        None,
        1,
        1.5,
        "x",
        True,
        [1, [2]],
        {"a": {"b": None}},
        datetime(2025, 5, 6, 7, 8, 9, 123456, tzinfo=UTC),
        datetime(2025, 5, 6, 7, 8, 9),
        datetime(2025, 3, 30, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        date(2025, 5, 6),
        dtime(1, 2, 3),
        dtime(1, 2, tzinfo=timezone(timedelta(hours=2))),
        timedelta(days=-1, microseconds=5),
        uuid.UUID("12345678-1234-5678-1234-567812345678"),
        decimal.Decimal("1.10"),
        b"\xff\x00",
        {1, 2},
        frozenset({"a"}),
        (1, (2, 3)),
        Color.RED,
        {"$type": "x"},
        {"$type": {"$type": 1}},
        2**70,
        -0.0,
        "\u2028\x00é",
    ],
    ids=lambda value: type(value).__name__,
)
def test_roundtrip(workflow, v):
    seen = []

    @Workflow.define("w")
    async def w(ctx):
        r = await ctx.step("s", lambda: v)
        seen.append(r)
        if ctx.restart_attempt == 1:
            raise MemoryError
        return r

    r = workflow.run("w", input={"v": v})
    assert r.status == "completed"
    assert seen == [v, v] and type(seen[0]) is type(seen[1]) is type(v)
    assert r.input == {"v": v}


class Opaque:
    pass


circ = []
circ.append(circ)
deep = []
for _ in range(200):
    deep = [deep]


@pytest.mark.parametrize(
    "v",
    [
        Opaque(),
        math.nan,
        math.inf,
        {1: 2},
        circ,
        deep,
        "\ud800",
        lambda: 1,
        P(a=1, when=datetime(2025, 5, 6, 7, 8, 9)),
        D(1, [2]),
        NT(1, "b"),
        [NT(1, "b")],
    ],
    ids=lambda value: type(value).__name__,
)
def test_refused(workflow, workflow_db, v):
    @Workflow.define("w")
    async def w(ctx):
        async def h():
            return v

        try:
            await ctx.step("s", h)
        except ValidationError:
            return "refused"

    r = workflow.run("w", "e")
    assert r.output == "refused", r
    assert r.steps["s"].status == "failed" and r.steps["s"].error.type == "UnstorableResultError"
    assert len(workflow_db.step_errors("e")) == 1


def test_typed(workflow):
    p = P(a=1, when=datetime(2020, 1, 1))
    d = D(1, [2])
    n = NT(1, "z")
    got = []

    @Workflow.define("w")
    async def w(ctx):
        async def hp() -> P:
            return p

        def hd() -> list[D]:
            return [d]

        got.append((await ctx.step("p", hp), await ctx.step("d", hd), await ctx.step("n", lambda: n, returns=NT)))
        if ctx.restart_attempt == 1:
            raise MemoryError

    r = workflow.run("w")
    assert r.status == "completed", r
    assert got[0] == got[1] == (p, [d], n)


def test_parallel_attempts(workflow):
    seen = []

    @Workflow.define("w")
    async def w(ctx):
        def mk(i):
            async def h():
                a = ctx.attempt
                await asyncio.sleep(1)
                assert ctx.attempt == a
                seen.append((i, a))
                if a <= i:
                    raise ValueError(i)
                return a

            return h

        return await asyncio.gather(*[ctx.step(f"s{i}", mk(i)) for i in range(3)])

    r = workflow.run("w")
    assert r.output == [1, 2, 3], r


def test_conflict(workflow):
    @Workflow.define("w")
    async def w(ctx):
        async def h():
            await asyncio.sleep(1)

        await asyncio.gather(ctx.step("a", h), ctx.step("a", h))

    r = workflow.run("w")
    assert r.status == "failed" and r.error.type == "StepConflictError", r


def test_taskgroup(workflow):
    @Workflow.define("w")
    async def w(ctx):
        async def bad():
            raise ValueError("x")

        async def ok():
            await asyncio.sleep(100)

        async with asyncio.TaskGroup() as tg:
            tg.create_task(ctx.step("a", bad).execute())
            tg.create_task(ctx.step("b", ok).execute())

    r = workflow.run("w")
    assert r.status == "failed" and r.error.type == "ValueError", r


def test_swallowed_panic(workflow):
    @Workflow.define("w")
    async def w(ctx):
        async def bad():
            raise MemoryError("x")

        try:
            await ctx.step("a", bad)
        except Exception:
            pass
        try:
            await ctx.step("b", lambda: 1)
        except Exception:
            pass

    r = workflow.run("w", panic_config={"enable_auto_restart": False})
    assert r.status == "panicked"
    assert "b" not in r.steps
    with pytest.raises(InvalidStateError):
        workflow.resume(r.execution_id)
    r = workflow.restart(r.execution_id)
    assert r.status == "panicked" and r.restart_attempt == 2


def test_max_restarts(workflow, workflow_clock):
    @Workflow.define("w")
    async def w(ctx):
        raise RuntimeError("weird")

    r = workflow.run("w")
    assert r.status == "failed" and r.restart_attempt == 4
    h = workflow.history(r)
    h.assert_restarts(3)
    h.assert_panicked("unexpected")
    assert [s.ms for s in workflow_clock.sleeps] == [5000] * 3
    r2 = workflow.restart(r.execution_id)
    assert r2.restart_attempt == 5 and r2.status == "failed"


def test_circuit(workflow, workflow_db):
    calls = []

    @Workflow.define("w")
    async def w(ctx):
        async def bad():
            calls.append(ctx.execution_id)
            if ctx.input:
                return "fine"
            raise ValueError("down")

        return await ctx.step("p", bad).with_circuit_breaker(
            failure_threshold=2, reset_timeout_ms=60_000, on_open=lambda c: "queued"
        )

    r = workflow.run("w", "a")
    assert r.output == "queued"
    assert r.steps["p"].status == "skipped"
    assert len(calls) == 2
    r = workflow.run("w", "b")
    assert r.output == "queued" and len(calls) == 2
    assert workflow_db.circuit_breakers()[0]["is_open"] == 1


def test_probe(workflow, workflow_db, workflow_clock):
    @Workflow.define("w")
    async def w(ctx):
        async def bad():
            await asyncio.sleep(5)
            if ctx.input:
                return "fine"
            raise ValueError("down")

        return (
            await ctx.step("p", bad)
            .with_circuit_breaker(failure_threshold=2, reset_timeout_ms=60_000, on_open=lambda c: "queued")
            .with_retry(max_attempts=2)
        )

    workflow.run("w", "a")
    workflow_clock.advance(61_000)
    workflow.run("w", "b1", True, detach=True)
    workflow.run("w", "b2", True, detach=True)
    assert [workflow.wait("b1").output, workflow.wait("b2").output] == ["fine", "queued"]
    assert workflow.history("b1").of("p") == [CircuitHalfOpened(), StepCompleted(), CircuitClosed()]


def test_circuit_error(workflow, workflow_faults):
    @Workflow.define("w")
    async def w(ctx):
        return (
            await ctx.step("p", lambda: 1).with_circuit_breaker(3).on_error({CircuitOpenError: lambda e, c: "handled"})
        )

    workflow_faults.open_circuit("p")
    r = workflow.run("w")
    assert r.output == "handled"
    workflow.history(r).assert_circuit_opened("p")


def test_timeout(workflow):
    @Workflow.define("w")
    async def w(ctx):
        async def slow():
            await asyncio.sleep(10)

        await ctx.step("a", slow, timeout_ms=500).with_retry(max_attempts=2, backoff_ms=10)

    r = workflow.run("w")
    assert r.error.type == "StepTimeoutError"
    workflow.history(r).assert_attempts("a", 2)

    @Workflow.define("w2")
    async def w2(ctx):
        await ctx.sleep("z", 100_000)

    r = workflow.run("w2", timeout_ms=5000)
    assert r.status == "failed" and r.error.type == "WorkflowTimeoutError", r


def test_nonretry(workflow):
    @Workflow.define("w")
    async def w(ctx):
        async def bad():
            raise NonRetryableError("x")

        await ctx.step("a", bad)

    r = workflow.run("w")
    assert r.status == "failed"
    workflow.history(r).assert_attempts("a", 1)

    @Workflow.define("w2")
    async def w2(ctx):
        async def bad():
            raise KeyError("x")

        await ctx.step("a", bad)

    r = workflow.run("w2", retry_config=RetryConfig(non_retryable=(LookupError,)))
    workflow.history(r).assert_attempts("a", 1)


def test_handler_crash(workflow, workflow_clock):
    class NetErr(Exception):
        def __init__(self, m, code):
            super().__init__(m)
            self.code = code

    seen = []
    runs = []

    @Workflow.define("w")
    async def w(ctx):
        async def bad():
            runs.append(ctx.attempt)
            raise NetErr("x", 503)

        async def handle(e, c):
            seen.append((type(e), e.code, c.attempt))
            await c.sleep("back", 10_000)
            return e.code

        return await ctx.step("a", bad).on_error({NetErr: handle})

    workflow.run("w", "e", detach=True)
    workflow_clock.advance(4000)
    workflow.reopen()
    r = workflow.wait("e")
    assert r.output == 503 and runs == [1] and seen == [(NetErr, 503, 1)] * 2
    assert workflow_clock.now() - workflow_clock.start == timedelta(seconds=10)


def test_crash_attempts(workflow, workflow_clock):
    runs = []

    @Workflow.define("w")
    async def w(ctx):
        async def slow():
            runs.append(ctx.attempt)
            await asyncio.sleep(100)

        await ctx.step("a", slow)

    workflow.run("w", "e", detach=True)
    workflow_clock.advance(1000)
    for _ in range(3):
        workflow.reopen()
        workflow_clock.advance(1000)
    r = workflow.wait("e")
    assert r.status == "failed" and runs == [1, 2, 3]
    assert r.error.type == "StepInterruptedError"


def test_cancel(workflow, workflow_clock):
    done = []

    @Workflow.define("w")
    async def w(ctx):
        async def slow():
            try:
                await asyncio.sleep(1000)
            finally:
                done.append(1)

        await ctx.step("a", slow)

    workflow.run("w", "e", detach=True)
    workflow_clock.advance(10)
    r = workflow.cancel("e")
    assert r.status == "cancelled" and done == [1], r
    assert workflow.wait("e").status == "cancelled"
    with pytest.raises(InvalidStateError):
        workflow.cancel("e")


def test_conflicts(workflow):
    @Workflow.define("w")
    async def w(ctx):
        return 1

    workflow.run("w", "e", {"a": 1, "b": 2})
    assert workflow.run("w", "e", {"b": 2, "a": 1}).output == 1
    with pytest.raises(ExecutionConflictError):
        workflow.run("w", "e", {"a": 2})

    @Workflow.define("w2")
    async def w2(ctx):
        return 1

    with pytest.raises(ExecutionConflictError):
        workflow.run("w2", "e", {"a": 1, "b": 2})
    for bad in ["", "a b", "../x", "x" * 256, 5, "é"]:
        with pytest.raises(ValidationError):
            workflow.run("w", bad)
    for bad in ["", "..", "a/b", ".x", "x" * 129, None, "a\x00"]:
        with pytest.raises(ValidationError):
            Workflow.define(bad, w)
    with pytest.raises(ValidationError):
        Workflow.define("ok", None)
    with pytest.raises(ValidationError):
        workflow.run("w", retry_config={"max_attempts": 0})
    with pytest.raises(ValidationError):
        RetryConfig(max_attempts=15)
    with pytest.raises(ValidationError):
        workflow.run("")
    with pytest.raises(WorkflowNotFoundError):
        workflow.run("nope")
    with pytest.raises(ExecutionNotFoundError):
        workflow.status("nope")
    with pytest.raises(ValidationError):
        workflow.run("w", input=object())


def test_input_model(workflow):
    class Order(pydantic.BaseModel):
        n: int

    async def h(ctx: WorkflowContext[Order]) -> Order:
        assert isinstance(ctx.input, Order)
        return ctx.input

    h.__annotations__ = {"ctx": WorkflowContext[Order], "return": Order}
    Workflow.define("w", h)
    with pytest.raises(ValidationError) as e:
        workflow.run("w", input={"n": "x"})
    assert e.value.errors
    r = workflow.run("w", "e", {"n": "5"})
    assert r.output == Order(n=5)
    assert workflow.run("w", "e", Order(n=5)).output == Order(n=5)


def test_sleep_status_parallel(workflow, workflow_clock):
    @Workflow.define("w")
    async def w(ctx):
        async def slow():
            await asyncio.sleep(5)

        await asyncio.gather(ctx.step("a", slow), ctx.sleep("z", 10_000))

    workflow.run("w", "e", detach=True)
    workflow_clock.advance(1000)
    assert workflow.status("e").status == "running"
    workflow_clock.advance(5000)
    assert workflow.status("e").status == "sleeping"
    workflow_clock.advance(5000)
    assert workflow.status("e").status == "completed"


def test_bad_sleep(workflow):
    @Workflow.define("w")
    async def w(ctx):
        await ctx.sleep("z", ctx.input)

    for v in (-1, 400_000, "x", None, True):
        r = workflow.run("w", input=v)
        assert r.status == "failed" and r.error.type == "ValidationError", (v, r)


def test_memo_mutation(workflow):
    @Workflow.define("w")
    async def w(ctx):
        a = await ctx.step("a", lambda: {"x": 1})
        a["x"] = 2
        return await ctx.step("a", lambda: 1 / 0)

    assert workflow.run("w").output == {"x": 1}


def test_handlers_order(workflow):
    class A(Exception):
        pass

    class B(A):
        pass

    @Workflow.define("w")
    async def w(ctx):
        async def bad():
            raise B("b")

        return [
            await ctx.step("1", bad).on_error(
                {A: lambda e, c: "A", "B": lambda e, c: "B", "default": lambda e, c: "d"}
            ),
            await ctx.step("2", bad).on_error({"Exception": lambda e, c: "E", A: lambda e, c: "A"}),
            await ctx.step("3", bad).on_error({"default": lambda e, c: 1 / 0}).catch(lambda e, c: type(e).__name__),
        ]

    assert workflow.run("w").output == ["B", "A", "ZeroDivisionError"]


def test_start_raises(workflow):
    @Workflow.define("w")
    async def w(ctx):
        async def bad():
            raise ValueError("b")

        await ctx.step("a", bad)

    async def main():
        with pytest.raises(WorkflowError) as e:
            await Workflow.start("w", "e")
        assert e.value.step_id == "a" and e.value.attempt == 3 and isinstance(e.value.original_error, ValueError)
        r = await Workflow.start("w", "e")
        assert r.status == "failed"
        with pytest.raises(WorkflowError):
            r.raise_for_status()

    workflow._complete(main())


def test_db_times(workflow, workflow_db, workflow_faults):
    workflow_faults.panic("a", attempts=[1])
    workflow_faults.fail("a", ValueError, attempts=[2])

    @Workflow.define("w")
    async def w(ctx):
        await ctx.step("a", lambda: 1)
        await ctx.sleep("z", 5)

    workflow.run("w", "e")
    for t in ("executions", "steps", "step_events"):
        for row in workflow_db.query(f"select * from {t}"):
            for k, v in row.items():
                if k.endswith("_at") or k == "at":
                    assert v is None or (isinstance(v, str) and v.startswith("2025-01-01")) or isinstance(v, int), (
                        t,
                        k,
                        v,
                    )
    assert [r["seq"] for r in workflow_db.step_events("e")] == list(range(1, len(workflow_db.step_events("e")) + 1))


def test_a_result_equals_its_stored_form(workflow):
    @Workflow.define("w")
    async def w(ctx):
        await ctx.sleep("z", 10)
        return await ctx.step("a", lambda: {"x": (1, 2)})

    result = workflow.run("w", "e")
    assert workflow.run("w", "e") == result
    assert workflow.status("e") == result


def test_the_error_of_an_execution_is_the_root_cause(workflow):
    @Workflow.define("w")
    async def w(ctx):
        async def bad():
            raise KeyError("outer")

        async def handle(error, ctx):
            async def worse():
                raise LookupError("the root")

            await ctx.step("inner", worse)

        await ctx.step("outer", bad).catch(handle).with_retry(max_attempts=1)

    result = workflow.run("w", retry_config={"max_attempts": 1})
    assert (result.error.type, result.error.message, result.error.step_id) == ("LookupError", "the root", "outer")


def test_an_error_without_a_readable_text_is_recorded_all_the_same(workflow):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    @Workflow.define("w")
    async def w(ctx):
        async def bad():
            raise Mute

        await ctx.step("a", bad).with_retry(max_attempts=1)

    result = workflow.run("w")
    assert result.status == "failed"
    assert result.error.type == "Mute"
    assert "cannot be read" in result.error.message
