"""What an order, its simulation and its outcome look like."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field


class Item(BaseModel):
    """One line of an order."""

    model_config = ConfigDict(extra="forbid")

    product_id: str = Field(min_length=1)
    quantity: int = Field(ge=1)
    price: Decimal = Field(gt=0)


class Simulation(BaseModel):
    """How the simulated services behave for this order; everything works by default."""

    model_config = ConfigDict(extra="forbid")

    out_of_stock: list[str] = []
    alternatives: dict[str, str] = {}
    declined_methods: list[str] = []
    failing_reservations: int = Field(default=0, ge=0)
    carrier_outages: int = Field(default=0, ge=0)
    failing_notifications: int = Field(default=0, ge=0)


class Order(BaseModel):
    """An order as the JSON file holds it."""

    model_config = ConfigDict(extra="forbid")

    order_id: str = Field(pattern=r"^[A-Za-z0-9._:-]{1,200}$")
    customer_id: str = Field(min_length=1)
    items: list[Item] = Field(min_length=1)
    simulation: Simulation = Simulation()

    @property
    def total(self) -> Decimal:
        """The amount to pay."""
        return sum((item.price * item.quantity for item in self.items), Decimal(0))


class Payment(BaseModel):
    """A payment that went through, or one that waits for the payment service."""

    transaction_id: str | None
    method: str


class Shipment(BaseModel):
    """A parcel with a label, or one that a person has to send."""

    tracking_number: str
    manual: bool = False


class Outcome(BaseModel):
    """What became of an order; one whose payment is queued is not shipped yet."""

    order_id: str
    payment: Payment
    shipment: Shipment | None = None
    confirmed: bool = False
