"""The workflows of the server that the browser tests look at; `gates` let a test decide when they go on."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel

from workflow_core import Workflow, WorkflowContext


class NetworkError(Exception):
    pass


class Item(BaseModel):
    sku: str
    quantity: int = 1


class Order(BaseModel):
    customer: str
    items: list[Item]


HOSTILE = (
    "<img src=x onerror=\"document.title='pwned'\">",
    "</script><script>document.title='pwned'</script>",
    "javascript:document.title='pwned'",
    "\u202egnp.exe\u202c",
    "{{7*7}}{% raw %}${7*7}",
    "'\"><svg onload=document.title='pwned'>",
    "x" * 10_000,
)


@Workflow.define(
    "order",
    retry_config={"max_attempts": 4, "backoff_ms": 60, "exponential_backoff": False},
    panic_config={"restart_delay_ms": 1_000},
)
async def order(ctx: WorkflowContext[Order]) -> dict[str, Any]:
    """Takes an order: payment, parcel, receipt."""

    async def charge() -> dict[str, Any]:
        if ctx.attempt < 3:
            raise NetworkError("503: the payment service is busy")
        return {"transaction": "tx-1", "amount": 42.5, "currency": "EUR", "captured": True, "note": None}

    payment = await ctx.step("charge", charge)
    await ctx.sleep("settle", 150)
    parcel = await ctx.step("pack", lambda: f"parcel-{ctx.execution_id}")
    return {"payment": payment, "parcel": parcel, "lines": [item.sku for item in ctx.input.items]}


@Workflow.define(
    "journey", retry_config={"max_attempts": 2, "backoff_ms": 700}, panic_config={"restart_delay_ms": 1_000}
)
async def journey(ctx: WorkflowContext[Any]) -> str:
    """Tries twice, sleeps, and runs out of memory once: slowly enough to be watched."""

    async def reach() -> str:
        if ctx.attempt == 1:
            raise NetworkError("no answer")
        return "reached"

    async def load() -> str:
        if ctx.restart_attempt == 1:
            raise MemoryError("out of memory")
        return "loaded"

    await ctx.step("reach", reach)
    await ctx.sleep("rest", 700)
    return await ctx.step("load", load)


@Workflow.define("patient")
async def patient(ctx: WorkflowContext[Any]) -> str:
    """Sleeps for a minute."""
    await ctx.step("begin", lambda: "begun")
    await ctx.sleep("night", 60_000)
    return "awake"


@Workflow.define("hopeless", retry_config={"max_attempts": 2, "backoff_ms": 20})
async def hopeless(ctx: WorkflowContext[Any]) -> None:
    """Fails at its second step, until it is restarted."""
    await ctx.step("prepare", lambda: [1, 2, 3])

    async def deliver() -> str:
        if ctx.restart_attempt > 1:
            return "delivered at last"
        raise NetworkError(str((ctx.input or {}).get("message", "no route to the warehouse")))

    await ctx.step("deliver", deliver)


@Workflow.define("guarded", retry_config={"max_attempts": 2, "backoff_ms": 10})
async def guarded(ctx: WorkflowContext[Any]) -> str:
    """Has a circuit breaker that opens."""

    async def call() -> str:
        raise NetworkError("connection refused")

    return (
        await ctx.step("call", call).with_circuit_breaker(2, reset_timeout_ms=600_000).catch(lambda error, ctx: "later")
    )


@Workflow.define("hostile", retry_config={"max_attempts": 1})
async def hostile(ctx: WorkflowContext[Any]) -> Any:
    """Takes names, results and errors that would like to be HTML."""
    for text in (text for text in HOSTILE if text.isprintable() and len(text) < 200):
        await ctx.step(f"step {text}", lambda text=text: {text: [text, {"deep": text}]})
    await ctx.step("long", lambda: HOSTILE[-1])
    ctx.logger.warning("%s%s", HOSTILE[0], HOSTILE[3])

    async def fail() -> None:
        raise NetworkError("\n".join(HOSTILE))

    await ctx.step("fail " + HOSTILE[0], fail)


@Workflow.define("many")
async def many(ctx: WorkflowContext[Any]) -> int:
    """Has many steps."""
    for number in range(int((ctx.input or {}).get("steps", 300))):
        await ctx.step(f"step-{number}", lambda number=number: number)
    return 0


@Workflow.define("waiting")
async def waiting(ctx: WorkflowContext[Any]) -> str:
    """Waits in a step until it is cancelled."""

    async def wait() -> str:
        await asyncio.sleep(600)
        return "never"

    return await ctx.step("wait", wait)
