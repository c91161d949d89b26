"""Order processing that survives declined cards, dead carriers and a dying process.

Each step runs once and its result is kept; each handler says what to do when a service fails.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta

from examples.order_processing.models import Order, Outcome, Payment, Shipment
from examples.order_processing.services import NetworkError, PaymentDeclinedError, Services
from workflow_core import NonRetryableError, Workflow, WorkflowContext, WorkflowError

services = Services()
"""What the steps talk to; `use_services` replaces it."""

LONGEST_CARRIER_WAIT = timedelta(seconds=30)
SHIPPING_ATTEMPTS = 5


def use_services(replacement: Services) -> None:
    """Let the workflow talk to other services."""
    global services  # noqa: PLW0603 - one shop, one set of services
    services = replacement


class InvalidOrderError(NonRetryableError):
    """The order cannot be processed, however often one tries."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class PaymentFailedError(NonRetryableError):
    """Every way to pay was declined."""


@Workflow.define("order-processing", description="Validate, charge, reserve, ship and confirm an order.")
async def order_processing(ctx: WorkflowContext[Order]) -> Outcome:
    """Process one order from its validation to its confirmation."""
    await validate(ctx)
    payment = await pay(ctx)
    if payment.transaction_id is None:  # nothing leaves the house before it is paid
        await ctx.step("update-order-status", lambda: services.set_status(ctx.input, "awaiting-payment"))
        return Outcome(order_id=ctx.input.order_id, payment=payment)
    await reserve(ctx, payment)
    shipment = await ship(ctx, payment)
    confirmed = await confirm(ctx)
    await ctx.step("update-order-status", lambda: services.set_status(ctx.input, "confirmed"))
    return Outcome(order_id=ctx.input.order_id, payment=payment, shipment=shipment, confirmed=confirmed)


async def validate(ctx: WorkflowContext[Order]) -> None:
    """Refuse what cannot be delivered, but tell the customer what could."""
    order = ctx.input

    async def check_order() -> dict[str, str]:
        for item in order.items:
            if not services.in_stock(order, item):
                raise InvalidOrderError(f"not enough {item.product_id} in stock", "inventory")
        return {"total": str(order.total)}

    async def offer_alternatives(error: InvalidOrderError, ctx: WorkflowContext[Order]) -> None:
        if error.field != "inventory":
            raise error

        async def find() -> dict[str, str]:
            found = services.find_alternatives(order)
            if not found:
                raise InvalidOrderError("no alternatives are available", "alternatives")
            return found

        try:
            await ctx.step("find-alternatives", find)
        except WorkflowError:
            raise error from None  # there is nothing to offer; the order fails for the reason it had
        await ctx.step("notify-alternatives", lambda: services.notify(order, "alternatives_available"))
        raise error

    await ctx.step("validate-order", check_order).on_error({InvalidOrderError: offer_alternatives})


async def pay(ctx: WorkflowContext[Order]) -> Payment:
    """Charge the card, else another method; queue the payment while the payment service is down."""
    order = ctx.input

    async def charge_card() -> Payment:
        return Payment(transaction_id=await services.charge(order, "card"), method="card")

    async def queue_payment(ctx: WorkflowContext[Order]) -> Payment:
        await ctx.step("queue-payment", lambda: services.queue_payment(order))
        await ctx.step("notify-payment-delay", lambda: services.notify(order, "payment_delayed"))
        return Payment(transaction_id=None, method="queued")

    async def try_alternatives(error: Exception, ctx: WorkflowContext[Order]) -> Payment:
        del error

        async def try_each() -> Payment:
            for method in services.alternative_methods(order):
                with contextlib.suppress(PaymentDeclinedError):
                    return Payment(transaction_id=await services.charge(order, method), method=method)
            raise PaymentFailedError("all payment methods were declined")

        return await ctx.step("try-alternative-payment", try_each)

    return await (
        ctx.step("process-payment", charge_card)
        .with_circuit_breaker(failure_threshold=5, reset_timeout_ms=60_000, on_open=queue_payment)
        .catch(try_alternatives)
        .with_retry(non_retryable=[WorkflowError])  # when the alternatives have failed too, that is final
    )


async def reserve(ctx: WorkflowContext[Order], payment: Payment) -> None:
    """Reserve the goods, or give the money back."""
    order = ctx.input

    async def reserve_items() -> list[str]:
        return [await services.reserve(order, item) for item in order.items]

    async def refund(error: Exception, ctx: WorkflowContext[Order]) -> None:
        await ctx.step("refund-payment", lambda: services.refund(order, payment.transaction_id))
        await ctx.step("notify-inventory-failure", lambda: services.notify(order, "order_failed"))
        raise NonRetryableError(f"the goods could not be reserved: {error}") from error

    await ctx.step("reserve-inventory", reserve_items).on_error({"default": refund})


async def ship(ctx: WorkflowContext[Order], payment: Payment) -> Shipment:
    """Buy a label; wait for a carrier that is down, and leave everything else to a person."""
    order = ctx.input

    async def buy_label() -> Shipment:
        return Shipment(tracking_number=await services.create_label(order))

    async def wait_for_carrier(error: NetworkError, ctx: WorkflowContext[Order]) -> Shipment:
        if ctx.attempt >= SHIPPING_ATTEMPTS:  # the order is paid for: rather by hand than not at all
            return await ship_by_hand(error, ctx)
        wait = min(timedelta(seconds=2 ** (ctx.attempt - 1)), LONGEST_CARRIER_WAIT)
        await ctx.sleep(f"shipping-retry-{ctx.attempt}", wait)
        raise error

    async def ship_by_hand(error: Exception, ctx: WorkflowContext[Order]) -> Shipment:
        reason = f"{error} (payment {payment.transaction_id})"
        await ctx.step("create-manual-shipping-task", lambda: services.create_manual_task(order, reason))
        return Shipment(tracking_number=f"MANUAL-{order.order_id}", manual=True)

    return await (
        ctx.step("create-shipping", buy_label)
        .on_error({NetworkError: wait_for_carrier, "default": ship_by_hand})
        .with_retry(max_attempts=SHIPPING_ATTEMPTS)
    )


async def confirm(ctx: WorkflowContext[Order]) -> bool:
    """Tell the customer; an order does not fail because a message could not be sent."""
    order = ctx.input

    async def send() -> bool:
        await services.notify(order, "order_confirmed")
        return True

    async def leave_to_support(error: Exception, ctx: WorkflowContext[Order]) -> bool:
        reason = f"confirmation was not sent: {error}"
        await ctx.step("log-notification-failure", lambda: services.follow_up(order, reason))
        return False

    return await ctx.step("send-confirmation", send).catch(leave_to_support)
