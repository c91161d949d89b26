"""Strategies of inputs: every value is valid, every constraint is met, and what is declared is reached."""

import dataclasses
import enum
import sys
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypeVar
from uuid import UUID

import pydantic
import pytest
from annotated_types import Interval, Len
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FutureDate, NaiveDatetime, RootModel, conlist, constr
from typing_extensions import TypedDict

from pytest_workflow.strategies import fresh_workflow, inputs
from pytest_workflow.value_strategies import values
from workflow_core import ValidationError, Workflow, WorkflowContext

QUICK = settings(
    deadline=None, database=None, max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
REACH = settings(QUICK, max_examples=2_000, phases=[Phase.generate])


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Address(BaseModel):
    street: str = Field(min_length=1, max_length=20)
    zip: str = Field(pattern=r"^\d{5}$")


class Card(BaseModel):
    kind: Literal["card"] = "card"
    number: str = Field(pattern="^[0-9]{4}$")


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"


class Line(BaseModel):
    model_config = ConfigDict(strict=True)
    item: str = Field(alias="itemName", min_length=1)
    count: int = Field(ge=1, lt=10)
    price: Decimal = Field(gt=0, max_digits=6, decimal_places=2)


class Order(BaseModel):
    id: UUID
    lines: list[Line] = Field(min_length=1, max_length=3)
    address: Address | None = None
    size: Size
    payment: Annotated[Card | Cash, Field(discriminator="kind")]
    at: datetime
    due: timedelta = Field(ge=timedelta(0), le=timedelta(days=3))
    ratio: float = Field(gt=0, lt=1)
    dozens: int = Field(multiple_of=12, ge=5, le=50)
    tags: dict[str, int] = Field(default_factory=dict, max_length=2)


class Node(BaseModel):
    name: str
    children: list["Node"] = Field(default=[], max_length=2)


class Even(BaseModel):
    number: int

    @pydantic.field_validator("number")
    @classmethod
    def even(cls, value):
        if value % 2:
            raise ValueError("odd")
        return value


T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    items: list[T]


class Ids(RootModel[list[int]]):
    pass


@dataclasses.dataclass
class Point:
    x: Annotated[int, Field(ge=0)]
    y: int = 0


class Options(TypedDict):
    fast: bool
    note: NotRequired[str]


class Pair(NamedTuple):
    left: int
    right: str = "r"


UserId = NewType("UserId", int)

ANNOTATIONS = [
    *(Order, Node, Even, Page[int], Ids, Point, Options, Pair, UserId, Size, Any, None, bool, date, time),
    *(AwareDatetime, NaiveDatetime, FutureDate, list, dict, set[int], frozenset[str], tuple[int, ...], tuple[int, str]),
    *(int | None, Literal["a", 1], list[Annotated[int, Interval(ge=3, lt=6)]], Annotated[list[str], Len(1, 2)]),
    *(
        constr(min_length=2, max_length=4, pattern="^[a-z]+$"),
        conlist(int, min_length=2),
        Annotated[float, Field(multiple_of=0.1)],
    ),
    *(Annotated[datetime, Field(ge=datetime(2025, 1, 1, tzinfo=UTC))], Annotated[date, Field(le=date(2020, 1, 1))]),
    *(
        Annotated[Decimal, Field(ge=0, le=1)],
        Annotated[int, Field(gt=1, lt=4)],
        Annotated[bytes, Len(1, 2)],
        Annotated[str, Field(max_length=1)],
    ),
]


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
def test_every_value_is_valid(annotation):
    adapter = pydantic.TypeAdapter(annotation)

    @QUICK
    @given(values(annotation, {}))
    def check(value):
        assert adapter.validate_python(adapter.dump_python(value, by_alias=True)) == value

    check()


@QUICK
@given(values(Order, {}))
def test_constraints_are_met(order):
    assert order.at.tzinfo is not None
    assert 1 <= len(order.lines) <= 3 and all(0 < line.price <= 9999.99 for line in order.lines)
    assert order.dozens in {12, 24, 36, 48}
    assert 0 < order.ratio < 1


@pytest.mark.parametrize(
    "condition",
    [
        lambda order: order.address is not None,
        lambda order: order.payment.kind == "cash",
        lambda order: order.size is Size.LARGE,
        lambda order: len(order.lines) == 3,
        lambda order: order.lines[0].count == 9,
        lambda order: order.at.utcoffset() != timedelta(0),
    ],
)
def test_what_is_declared_is_reached(condition):
    assert condition(find(values(Order, {}), condition, settings=REACH))


def test_the_simplest_value():
    simplest = find(values(Line, {}), lambda _: True, settings=QUICK)
    assert (simplest.item, simplest.count) == ("0", 1)
    assert find(values(int | None, {}), lambda _: True, settings=QUICK) is None
    assert find(values(Node, {}), lambda node: node.children, settings=QUICK) == Node(name="", children=[Node(name="")])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the statement type is of 3.12")
def test_type_aliases():
    names = {}
    exec("type Small = int", names)  # noqa: S102 - its syntax is not 3.11's
    assert find(values(names["Small"], {}), lambda _: True, settings=QUICK) == 0


@Workflow.define("fed-order")
async def order_workflow(ctx: WorkflowContext[Order]) -> str:
    return await ctx.step("name", lambda: str(ctx.input.id))


@Workflow.define("fed-anything")
async def anything(ctx):
    return None


@QUICK
@given(inputs("fed-order"))
def test_the_workflow_takes_them(given_input):
    with fresh_workflow() as workflow:
        result = workflow.run("fed-order", "o-1", given_input)
        assert result.output == str(given_input.id)
        workflow.reopen()
        assert workflow.status("o-1").input == given_input


def test_types_of_ones_own():
    strategy = inputs(
        "fed-order", types={Address: st.just(Address(street="Main", zip="12345")), UUID: st.just(UUID(int=7))}
    )
    found = find(strategy, lambda order: order.address is not None, settings=REACH)
    assert (found.address.street, found.id) == ("Main", UUID(int=7))


def test_a_workflow_without_a_type():
    with pytest.raises(ValidationError, match="does not declare the type of its input: annotate its context"):
        find(inputs("fed-anything"), lambda _: True, settings=QUICK)
