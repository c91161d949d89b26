"""Clients of the shop, on virtual time."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import httpx
import pytest

from examples.over_http.workflow import make_shop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pytest_workflow import WorkflowHarness, WorkflowSpy

ORDERS = "/workflows/api/workflows/order-over-http/executions"


@contextlib.asynccontextmanager
async def client_of(workflow: WorkflowHarness) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of the application, whose orders the engine of the test runs."""
    shop = make_shop(workflow.engine)
    transport = httpx.ASGITransport(shop)
    async with (
        shop.router.lifespan_context(shop),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


@pytest.mark.asyncio
async def test_an_order_is_shipped_once_however_often_it_is_sent(
    workflow: WorkflowHarness, workflow_spy: WorkflowSpy
) -> None:
    async with client_of(workflow) as client:
        for _ in range(3):
            body = {"execution_id": "order-1001", "input": {"item": "book", "amount": 2}}
            answer = await client.post(ORDERS, json=body)
            assert answer.status_code == 202
        where = answer.headers["location"]
        stream = await client.get(f"{where}/events?until_rest=true")  # a minute, which takes no time
        assert stream.text.count("ExecutionCompleted") == 1
        shipped = (await client.get(where)).json()["output"]
        assert shipped == {"item": "book", "amount": 2, "payment": "tx-order-1001"}
    workflow_spy.assert_called("ship", times=1)


@pytest.mark.asyncio
async def test_what_is_wrong_with_an_order_is_told_with_its_place(workflow: WorkflowHarness) -> None:
    async with client_of(workflow) as client:
        answer = await client.post(ORDERS, json={"input": {"item": "book", "amount": "many"}})
        assert answer.status_code == 422
        assert [mistake["loc"] for mistake in answer.json()["errors"]] == [["amount"]]
