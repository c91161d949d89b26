"""A shop whose orders are started over HTTP: the API of workflows, mounted in an application of one's own.

python examples/over_http/workflow.py, then open http://127.0.0.1:8000/workflows/
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from fastapi import FastAPI
from pydantic import BaseModel

from workflow_core import Workflow, WorkflowContext, WorkflowEngine
from workflow_core.server import ServerSettings, create_app, lifespan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Order(BaseModel):
    """What a client orders; the description of the API says the same."""

    item: str
    amount: int = 1


@Workflow.define("order-over-http")
async def order(ctx: WorkflowContext[Order]) -> dict[str, object]:
    """Charge, wait for the settlement, ship."""
    payment = await ctx.step("charge", lambda: f"tx-{ctx.execution_id}")
    await ctx.sleep("settlement", 60_000)
    return await ctx.step("ship", lambda: {"item": ctx.input.item, "amount": ctx.input.amount, "payment": payment})


def make_shop(engine: WorkflowEngine | None = None) -> FastAPI:
    """Make the application.

    Args:
        engine: Runs the orders; without one, an engine on the runtime directory does.
    """
    workflows = create_app(engine, ServerSettings.from_environment())

    @contextlib.asynccontextmanager
    async def of_shop(app: FastAPI) -> AsyncIterator[None]:
        del app
        async with lifespan(workflows):  # recovers on entry; gives back and closes on exit
            yield

    shop = FastAPI(title="Shop", lifespan=of_shop)
    shop.mount("/workflows", workflows)

    @shop.get("/")
    async def welcome() -> dict[str, str]:
        return {"orders": "/workflows/api/workflows/order-over-http/executions", "dashboard": "/workflows/"}

    return shop


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(make_shop(), port=8_000, timeout_graceful_shutdown=5)
