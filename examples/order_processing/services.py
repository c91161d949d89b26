"""The outside world of the order workflow, simulated: every effect is a line in an outbox file.

The outbox survives the process, so it is the witness of what really happened, and how often. How a service behaves is
told by the order's own ``simulation`` section, so a demo does the same each time.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    from examples.order_processing.models import Item, Order

Detail: TypeAlias = "str | int | None"


class NetworkError(Exception):
    """A service did not answer."""

    def __init__(self, message: str, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


class PaymentDeclinedError(Exception):
    """The payment service refused a payment."""


class ReservationError(Exception):
    """The warehouse could not reserve the goods."""


class Services:
    """Inventory, payment, shipping, notifications and the shop's own records.

    Args:
        outbox: The file to which every effect is appended; ``None`` keeps them in memory.
    """

    def __init__(self, outbox: Path | None = None) -> None:
        self.outbox = outbox
        self._memory: list[dict[str, Detail]] = []

    def effects(self, kind: str | None = None) -> list[dict[str, Detail]]:
        """Return the effects so far, all or those of one kind."""
        if self.outbox is None:
            found = self._memory
        elif self.outbox.exists():
            found = [json.loads(line) for line in self.outbox.read_text(encoding="utf-8").splitlines()]
        else:
            found = []
        return [effect for effect in found if kind is None or effect["effect"] == kind]

    def _perform(self, effect: str, order: Order, **details: Detail) -> None:
        """Take effect, once: asked again for the same, because a process died before it noted the answer, do nothing.

        Real services offer this by an idempotency key; without one, a step may take effect twice.
        """
        entry: dict[str, Detail] = {"effect": effect, "order_id": order.order_id, **details}
        if entry not in self.effects(effect):
            self._append(entry)

    def _refuse(self, effect: str, order: Order, **details: Detail) -> None:
        """Note a call that did not succeed; each one counts."""
        self._append({"effect": effect, "order_id": order.order_id, **details})

    def _append(self, entry: dict[str, Detail]) -> None:
        if self.outbox is None:
            self._memory.append(entry)
            return
        self.outbox.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.outbox.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _times(self, effect: str, order: Order) -> int:
        return sum(entry["order_id"] == order.order_id for entry in self.effects(effect))

    # Inventory

    def in_stock(self, order: Order, item: Item) -> bool:
        """Tell whether the warehouse has enough of an item."""
        return item.product_id not in order.simulation.out_of_stock

    def find_alternatives(self, order: Order) -> dict[str, str]:
        """Return what could be sent instead of the missing items."""
        missing = order.simulation.out_of_stock
        return {
            product: order.simulation.alternatives[product]
            for product in missing
            if product in order.simulation.alternatives
        }

    async def reserve(self, order: Order, item: Item) -> str:
        """Reserve an item and return the reservation's number."""
        if self._times("reservation-failed", order) < order.simulation.failing_reservations:
            self._refuse("reservation-failed", order, product=item.product_id)
            raise ReservationError(f"the warehouse lost {item.product_id}")
        self._perform("reserve", order, product=item.product_id, quantity=item.quantity)
        return f"RES-{order.order_id}-{item.product_id}"

    # Payment

    async def charge(self, order: Order, method: str) -> str:
        """Take the money and return the transaction's number."""
        if method in order.simulation.declined_methods:
            self._refuse("charge-declined", order, method=method)
            raise PaymentDeclinedError(f"{method} was declined")
        self._perform("charge", order, method=method, amount=str(order.total))
        return f"TX-{order.order_id}-{method}"

    def alternative_methods(self, order: Order) -> list[str]:
        """Return the customer's other ways to pay."""
        del order
        return ["wallet", "invoice"]

    async def queue_payment(self, order: Order) -> None:
        """Leave the payment for later."""
        self._perform("queue-payment", order, amount=str(order.total))

    async def refund(self, order: Order, transaction_id: str | None) -> None:
        """Give the money back."""
        self._perform("refund", order, transaction_id=transaction_id)

    # Shipping

    async def create_label(self, order: Order) -> str:
        """Buy a shipping label and return its tracking number."""
        if self._times("carrier-outage", order) < order.simulation.carrier_outages:
            self._refuse("carrier-outage", order)
            raise NetworkError("the carrier's API is unavailable", 503)
        self._perform("label", order)
        return f"TRACK-{order.order_id}"

    async def create_manual_task(self, order: Order, reason: str) -> None:
        """Ask a person to send the parcel."""
        self._perform("manual-shipping-task", order, reason=reason)

    # The customer and the shop

    async def notify(self, order: Order, kind: str) -> None:
        """Send the customer a message."""
        if self._times("notification-failed", order) < order.simulation.failing_notifications:
            self._refuse("notification-failed", order, kind=kind)
            raise NetworkError("the mail server is unavailable", 421)
        self._perform("notify", order, kind=kind, customer=order.customer_id)

    async def follow_up(self, order: Order, reason: str) -> None:
        """Note something for the support team."""
        self._perform("follow-up", order, reason=reason)

    async def set_status(self, order: Order, status: str) -> None:
        """Write the order's status into the shop's own records."""
        self._perform("status", order, status=status)
