"""Complex business workflow with validation: typed input, typed results, a flaky inventory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from pydantic import BaseModel, Field

from workflow_core import Workflow, WorkflowContext


class OrderItem(BaseModel):
    """One line of an order."""

    id: str
    name: str = Field(min_length=1)
    quantity: int = Field(gt=0)
    price: float = Field(gt=0)


class OrderInput(BaseModel):
    """The input; an order that does not fit is refused before anything is written."""

    order_id: UUID
    customer_id: UUID
    items: list[OrderItem] = Field(min_length=1)
    total_amount: float = Field(gt=0)


class Payment(BaseModel):
    """A payment that went through."""

    payment_id: UUID
    amount: float


class Shipment(BaseModel):
    """A parcel on its way."""

    tracking_id: str
    carrier: str
    estimated_delivery: datetime


@Workflow.define("validated-order-processing")
async def validated_order(ctx: WorkflowContext[OrderInput]) -> Shipment:
    """Reserve, wait for the payment, charge and ship."""
    order = ctx.input

    async def check_inventory() -> list[str]:
        if ctx.attempt < 2:
            raise ConnectionError("the inventory service is unavailable")
        return [item.id for item in order.items]

    async def charge() -> Payment:
        return Payment(payment_id=uuid4(), amount=order.total_amount)

    async def ship() -> Shipment:
        now = datetime.now(UTC)
        return Shipment(
            tracking_id=f"TRACK-{now:%Y%m%d%H%M%S}",
            carrier="FastShip",
            estimated_delivery=now + timedelta(days=7),
        )

    await ctx.step("check-inventory", check_inventory)
    await ctx.sleep("payment-delay", 2_000)
    await ctx.step("process-payment", charge)
    return await ctx.step("ship-order", ship)


def sample_order() -> OrderInput:
    """Return an order to try the workflow with."""
    item = OrderItem(id="item-1", name="Product A", quantity=2, price=29.99)
    return OrderInput(order_id=uuid4(), customer_id=uuid4(), items=[item], total_amount=59.98)


def main() -> None:
    """Run the example on the default engine."""
    result = Workflow.run("validated-order-processing", input=sample_order())
    print(result.status, result.output)


if __name__ == "__main__":
    main()
