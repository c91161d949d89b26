"""Values survive storing exactly, or are refused."""

import dataclasses
import datetime as dt
import enum
import io
import itertools
import json
import struct
import zoneinfo
from decimal import Decimal
from typing import Annotated, TypedDict

import pydantic
import pytest
from freezegun.api import FakeDate, FakeDatetime
from hypothesis import given
from hypothesis import strategies as st

from workflow_core import Serializer, ValidationError
from workflow_core.serialization import MAX_DEPTH, Codec, ReturnType, return_type_of, same_json


class Shade(enum.Enum):
    DARK = "dark"
    LIGHT = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Point:
    x: int
    y: float


@dataclasses.dataclass(eq=False)
class Blob:
    items: list[int]


class Row(TypedDict):
    name: str


text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    text,
    st.binary(),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.dates(),
    st.datetimes(timezones=st.one_of(st.none(), st.just(dt.UTC), st.timezones())),
    st.times(),
    st.timedeltas(),
    st.sampled_from(Shade),
    st.sampled_from([Access.READ, Access.READ | Access.WRITE, Access(0)]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(text, inner, max_size=4),
        st.dictionaries(st.just("$type"), inner, max_size=1),
        st.tuples(inner, inner),
        st.frozensets(scalars, max_size=4),
        st.sets(st.integers(), max_size=4),
    ),
    max_leaves=12,
)


def same(left, right):
    """Equal, and of the same types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


@given(values)
def test_every_storable_value_comes_back_as_it_was(value):
    codec = Codec()
    raw, read_back = codec.encode(value, "a value")
    assert same(read_back, value)
    assert same(codec.decode(raw), value)


@given(values)
def test_storing_is_repeatable(value):
    codec = Codec()
    once = codec.encode(value, "a value")[0]
    assert codec.encode(codec.decode(once), "a value")[0] == once


@given(values)
def test_what_is_read_back_shares_no_container_with_what_was_given(value):
    def containers(part):
        if isinstance(part, dict):
            yield id(part)
            for item in part.values():
                yield from containers(item)
        elif isinstance(part, list):
            yield id(part)
            for item in part:
                yield from containers(item)

    _, read_back = Codec().encode(value, "a value")
    assert set(containers(value)).isdisjoint(containers(read_back))


def unknown_zone():
    """Return a zone that this system cannot find by its name."""
    file = b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, 0, 1, 4) + bytes(6) + b"UTC\0"
    return zoneinfo.ZoneInfo.from_file(io.BytesIO(file), key="Nowhere/City")


class Celsius(float):
    pass


class Stamp(dt.datetime):
    pass


class Day(dt.date):
    pass


class Noon(dt.time):
    pass


class Span(dt.timedelta):
    pass


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        ({1: "a"}, "keys are strings"),
        ({"a": {"b": [object()]}}, r"a\.b\[0\] is an object"),
        ("\udc00", "surrogate"),
        (Celsius(3.5), "Celsius"),
        (Stamp(2026, 1, 1), "Stamp"),
        (Day(2026, 1, 1), "Day"),
        (Noon(12), "Noon"),
        (Span(1), "Span"),
        (dt.datetime(2026, 1, 1, tzinfo=unknown_zone()), "Nowhere/City"),
        (bytearray(b"x"), "bytearray"),
        (Point(1, 2.0), "declare the type"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_what_would_not_come_back_is_refused(value, reason):
    with pytest.raises(ValidationError, match=reason) as caught:
        Codec().encode(value, 'the result of step "s"')
    assert 'the result of step "s"' in str(caught.value)
    assert caught.value.errors


def test_the_classes_of_freezegun_stand_for_the_real_ones():
    moment = FakeDatetime(2026, 1, 1, tzinfo=dt.UTC)
    assert Codec().encode([moment, FakeDate(2026, 1, 1)], "it")[1] == [moment, dt.date(2026, 1, 1)]


def test_cycles_and_depth_are_told_apart():
    cycle = {"a": []}
    cycle["a"].append(cycle)
    with pytest.raises(ValidationError, match="refers to itself"):
        Codec().encode(cycle, "it")
    deep = []
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(ValidationError, match="nested deeper"):
        Codec().encode(deep, "it")
    assert Codec().encode(deep[0], "it")[1] == deep[0]


def test_an_enumeration_that_cannot_be_found_again_is_refused():
    class Local(enum.Enum):
        ONE = 1

    with pytest.raises(ValidationError, match="top level"):
        Codec().encode(Local.ONE, "it")


def test_stored_text_never_imports_a_module():
    with pytest.raises(ValidationError, match="not loaded"):
        Codec().decode('{"$type":"enum","class":"antigravity:Fly","name":"UP"}')


@pytest.mark.parametrize("declared", [Point, list[Point], dict[str, Point], Point | None])
def test_declared_types_come_back(declared):
    value = {Point: Point(1, 2.0), Point | None: Point(1, 2.0)}.get(declared) or (
        [Point(1, 2.0)] if declared == list[Point] else {"a": Point(1, 2.0)}
    )
    codec = Codec()
    raw, read_back = codec.encode(value, "it", ReturnType(None, declared))
    assert read_back == value
    assert codec.decode(raw, ReturnType(None, declared)) == value
    assert "Point" not in str(codec.decode(raw))


def test_an_annotation_that_cannot_be_hashed_is_a_declared_type():
    class Odd:
        pass

    def known() -> Annotated[Point, ["remark"]]: ...
    def unknown() -> Annotated[Odd, ["remark"]]: ...

    codec = Codec()
    text, _ = codec.encode(Point(1, 2), "the result", ReturnType(known))
    assert codec.decode(text, ReturnType(known)) == Point(1, 2)
    with pytest.raises(ValidationError, match="JSON cannot express it"):
        codec.encode(Odd(), "the result", ReturnType(unknown))


def test_a_declared_type_without_equality_is_compared_by_its_content():
    raw, read_back = Codec().encode(Blob([1]), "it", ReturnType(None, Blob))
    assert read_back.items == [1]
    assert '"items":[1]' in raw


class Loose(pydantic.BaseModel):
    anything: object


def test_a_declared_type_that_loses_something_is_refused():
    with pytest.raises(ValidationError, match="would come back"):
        Codec().encode(Loose(anything={1, 2}), "it", ReturnType(None, Loose))


def test_a_stored_value_that_no_longer_fits_its_type_is_an_error():
    raw, _ = Codec().encode(Point(1, 2.0), "it", ReturnType(None, Point))
    with pytest.raises(ValidationError, match="stored value"):
        Codec().decode(raw.replace('"x":1', '"x":"one"'), ReturnType(None, Point))


def refuse(value):
    raise LookupError("no such colour")


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (f'{{"$type":"enum","class":"{__name__}:Shade","name":"GREY"}}', "GREY"),
        (f'{{"$type":"enum","class":"{__name__}:Shade","value":7}}', "7 is not a valid Shade"),
        (f'[{{"$type":"enum","class":"{__name__}:Shade.DARK","name":"DARK"}}]', "not loaded"),
        ('{"$type":"datetime"}', "KeyError"),
        ('{"$type":"datetime","value":"yesterday"}', "yesterday"),
        ('{"$type":"datetime","value":"2026-01-01T00:00:00","zone":"Nowhere/City"}', "Nowhere/City"),
        ('{"$type":"timedelta","value":["a"]}', "TypeError"),
        ('{"$type":"decimal","value":"x"}', "InvalidOperation"),
        ('{"$type":"tuple","value":5}', "TypeError"),
        ('{"$type":["tuple"],"value":[]}', "TypeError"),
        ('{"$type":"colour","value":"red"}', "no such colour"),
        ('{"$type":"colour"', "EOF"),
        ("", "EOF"),
    ],
)
def test_what_cannot_be_read_any_more_is_one_clear_error_and_can_still_be_shown(stored, reason):
    codec = Codec([Serializer("colour", complex, str, refuse)])
    with pytest.raises(ValidationError, match=reason) as caught:
        codec.decode(stored, None, 'the result of step "s"')
    assert 'the result of step "s"' in str(caught.value)
    try:
        shown = json.loads(stored)
    except ValueError:
        shown = stored
    assert codec.decode_for_display(stored) == shown


@dataclasses.dataclass
class Narrowing:
    x: int

    def __post_init__(self):
        if self.x > 5:
            raise TypeError("too wide")


def test_the_error_about_a_value_that_does_not_fit_names_its_declared_type():
    stored = '{"$type":"declared","value":{"x":7}}'
    for declared, name in ((Narrowing, "Narrowing"), (list[Narrowing], r"list\[.*Narrowing\]")):
        with pytest.raises(ValidationError, match=f"as {name} from"):
            Codec().decode(stored, ReturnType(None, declared))


def test_the_size_limit_counts_bytes():
    codec = Codec(max_bytes=10)
    codec.encode("é" * 4, "it")
    with pytest.raises(ValidationError, match="max_result_bytes"):
        codec.encode("é" * 5, "it")


def test_further_types_by_a_serializer():
    codec = Codec([Serializer("complex", complex, lambda value: [value.real, value.imag], lambda pair: complex(*pair))])
    raw, read_back = codec.encode({"z": 1 + 2j}, "it")
    assert read_back == codec.decode(raw) == {"z": 1 + 2j}
    with pytest.raises(ValidationError, match="no serializer"):
        Codec().decode(raw)
    with pytest.raises(ValidationError, match="taken"):
        Codec([Serializer("uuid", complex, str, complex)])


def test_return_annotations():
    async def asynchronous() -> Point: ...

    def plain() -> list[Decimal]: ...

    def silent(): ...

    def broken() -> "Nowhere":  # noqa: F821
        ...

    assert return_type_of(asynchronous) is Point
    assert return_type_of(plain) == list[Decimal]
    assert return_type_of(silent) is None
    assert return_type_of(broken) is None
    assert return_type_of(lambda: 1) is None


def test_same_json_ignores_the_order_of_keys():
    assert same_json('{"a":1,"b":2}', '{"b":2,"a":1}')
    assert not same_json('{"a":1}', None)
    assert same_json(None, None)


@pytest.mark.parametrize(
    ("left", "right"),
    [("true", "1"), ("1", "1.0"), ("0", "false"), ("null", "0"), ("[]", "{}"), ('{"a":1}', '{"a":true}')],
)
def test_values_of_different_types_are_not_the_same(left, right):
    assert not same_json(left, right)
    assert not same_json(f"[{left}]", f"[{right}]")


class Basket(pydantic.BaseModel):
    tags: set[str] = set()
    lines: list[str] = []
    number: int = pydantic.Field(default_factory=itertools.count().__next__)


@dataclasses.dataclass
class Parcel:
    basket: Basket
    sent: dt.date


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ({"a": {"y", "x"}, "b": 1}, {"b": 1, "a": {"x", "y"}}, True),
        (Basket(), Basket(), True),
        (Basket(tags={"a", "b"}), Basket(tags={"b", "a"}), True),
        (Basket(), Basket(number=7), False),
        (Parcel(Basket(), dt.date.min), Parcel(Basket(), dt.date.min), True),
        (Parcel(Basket(), dt.date.min), Parcel(Basket(lines=["tea"]), dt.date.min), False),
        (Basket(), {"tags": set(), "lines": []}, False),
        (1, True, False),
        (1, 1.0, False),
        ([1], (1,), False),
    ],
)
def test_fingerprints_are_of_what_was_given(left, right, same):
    assert (Codec().fingerprint(left) == Codec().fingerprint(right)) is same


def test_a_default_that_was_changed_in_place_counts():
    basket = Basket()
    basket.lines.append("tea")
    assert Codec().fingerprint(basket) != Codec().fingerprint(Basket())


def test_what_cannot_be_compared_has_no_fingerprint():
    assert Codec().fingerprint({"a": object()}) is None
    assert Codec().fingerprint(float("nan")) is None


def test_numbers_that_no_reader_of_json_takes_are_refused():
    codec = Codec()
    for digits in (4_200, 4_290):
        raw, back = codec.encode([10**digits], "it")
        assert codec.decode(raw) == back == [10**digits]
    for digits in (4_310, 100_000):
        with pytest.raises(ValidationError, match="Cannot store it"):
            codec.encode([10**digits], "it")
