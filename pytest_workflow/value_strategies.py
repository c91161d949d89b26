"""Strategies of Hypothesis for the values of an annotation, as pydantic validates it: models, constraints, nesting."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import math
import types
import typing
import uuid
from collections import abc
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pydantic
import typing_extensions
from hypothesis import reject
from hypothesis import strategies as st

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = ["values"]

_UNIONS = (typing.Union, types.UnionType)
_ANNOTATIONS = frozenset({typing_extensions.Required, typing_extensions.NotRequired, typing_extensions.ReadOnly})
_ANNOTATIONS_OF_3_11 = frozenset({typing.Required, typing.NotRequired})
_LISTS = (list, abc.Sequence, abc.Iterable, abc.Collection, abc.MutableSequence)
_DICTS = (dict, abc.Mapping, abc.MutableMapping)
_FIRST, _LAST = dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1)  # noqa: DTZ001 - Hypothesis wants bounds naive
_PAST, _FUTURE = dt.datetime(2000, 1, 1), dt.datetime(2100, 1, 1)  # noqa: DTZ001 - same
_ZONES = (
    dt.UTC,
    dt.timezone(dt.timedelta(hours=5, minutes=30)),
    dt.timezone(dt.timedelta(hours=-8)),
)
_LIMIT = 10**9
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-_LIMIT, _LIMIT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def values(
    annotation: Any,  # noqa: ANN401 - whatever pydantic takes
    known: Mapping[object, SearchStrategy[object]],
) -> SearchStrategy[object]:
    """Return a strategy of values of an annotation, each as pydantic returns it when it validates.

    Args:
        annotation: A type, or whatever else pydantic takes for one.
        known: Strategies for types that are to be made in another way.
    """
    adapter: pydantic.TypeAdapter[object] = pydantic.TypeAdapter(annotation)

    def validated(raw: object) -> object:
        try:
            return adapter.validate_python(raw)
        except pydantic.ValidationError:
            return reject()  # a validator of the user's that no constraint tells of

    return _Values(known).of(annotation).map(validated)


@dataclasses.dataclass(slots=True)
class _Bounds:
    """The constraints that the metadata of an annotation sets."""

    ge: Any = None
    gt: Any = None
    le: Any = None
    lt: Any = None
    multiple_of: Any = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: Any = None
    max_digits: int | None = None
    decimal_places: int | None = None

    def take(self, metadata: Iterable[object]) -> _Bounds:
        """Add what metadata says: pydantic's own, that of `annotated_types`, and fields."""
        for each in metadata:
            if isinstance(each, pydantic.fields.FieldInfo):
                self.take(each.metadata)
            elif isinstance(each, Iterable) and not isinstance(each, str):
                self.take(each)
            else:
                for field in dataclasses.fields(self):
                    value = getattr(each, field.name, None)
                    if value is not None:
                        setattr(self, field.name, value)
        return self

    @property
    def low(self) -> Any:  # noqa: ANN401 - of the type that is bounded
        return self.gt if self.ge is None else self.ge

    @property
    def high(self) -> Any:  # noqa: ANN401 - of the type that is bounded
        return self.lt if self.le is None else self.le

    def sizes(self) -> dict[str, Any]:
        """Return the arguments of a strategy of collections."""
        return {"min_size": self.min_length or 0, "max_size": self.max_length}


class _Values:
    """Makes strategies, each model's once, so that models may nest themselves."""

    def __init__(self, known: Mapping[object, SearchStrategy[object]]) -> None:
        self._known = known
        self._records: dict[object, SearchStrategy[Any]] = {}

    def of(self, annotation: Any, metadata: Iterable[object] = ()) -> SearchStrategy[Any]:  # noqa: ANN401
        """Return a strategy of what pydantic takes for a value of an annotation."""
        if isinstance(annotation, abc.Hashable) and annotation in self._known:
            return self._known[annotation]
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is typing.Annotated:
            if annotation.__origin__ in self._known:
                return self._known[annotation.__origin__]
            return self.of(arguments[0], (*metadata, *arguments[1:]))
        if origin in _ANNOTATIONS or origin in _ANNOTATIONS_OF_3_11:
            return self.of(arguments[0], metadata)
        if isinstance(annotation, typing_extensions.TypeAliasType) or type(annotation).__name__ == "TypeAliasType":
            return self.of(annotation.__value__, metadata)
        if isinstance(annotation, typing.NewType):
            return self.of(annotation.__supertype__, metadata)
        if isinstance(annotation, TypeVar):
            return self.of(annotation.__bound__ or Any, metadata)
        if origin in _UNIONS:
            simplest_first = sorted(arguments, key=lambda each: each is not types.NoneType)
            return st.one_of(*(self.of(each, metadata) for each in simplest_first))
        if origin is Literal:
            return st.sampled_from(arguments)
        bounds = _Bounds().take(metadata)
        collection = self._collection(origin or annotation, arguments, bounds)
        return collection if collection is not None else self._class(annotation, bounds)

    def _collection(self, origin: object, arguments: tuple[Any, ...], bounds: _Bounds) -> SearchStrategy[Any] | None:
        item = arguments[0] if arguments else Any
        if origin is tuple:
            if arguments and arguments[-1] is not Ellipsis:
                return st.tuples(*map(self.of, arguments))
            return st.lists(self.of(item), **bounds.sizes()).map(tuple)
        if origin in _LISTS:
            return st.lists(self.of(item), **bounds.sizes())
        if origin in {set, frozenset, abc.Set, abc.MutableSet}:
            unique = self.of(item) if arguments else st.integers(-_LIMIT, _LIMIT)
            return st.frozensets(unique, **bounds.sizes()).map(frozenset if origin is frozenset else set)
        if origin in _DICTS:
            key, value = arguments or (str, Any)
            return st.dictionaries(self.of(key), self.of(value), **bounds.sizes())
        return None

    def _class(self, annotation: Any, bounds: _Bounds) -> SearchStrategy[Any]:  # noqa: ANN401
        if annotation is None or annotation is types.NoneType:
            return st.none()
        if annotation is Any or annotation is object:
            return _JSON
        model = typing.get_origin(annotation) or annotation
        if not isinstance(model, type):
            return st.from_type(annotation)
        if issubclass(model, enum.Enum):
            return st.sampled_from(list(model))
        if _is_record(model):
            if annotation not in self._records:
                self._records[annotation] = st.deferred(lambda: self._record(model))
            return self._records[annotation]
        return _scalar(model, bounds)

    def _record(self, model: Any) -> SearchStrategy[Any]:  # noqa: ANN401 - any kind of record
        if issubclass(model, pydantic.RootModel):
            root = model.model_fields["root"]
            return self.of(root.annotation, root.metadata)
        required: dict[str, SearchStrategy[Any]] = {}
        optional: dict[str, SearchStrategy[Any]] = {}
        if issubclass(model, pydantic.BaseModel):
            for name, field in model.model_fields.items():
                # A tag is given always: the models of a union are told apart by it.
                given = field.is_required() or typing.get_origin(field.annotation) is Literal
                (required if given else optional)[_key(name, field)] = self.of(field.annotation, field.metadata)
            return st.fixed_dictionaries(required, optional=optional)
        hints = typing_extensions.get_type_hints(model, include_extras=True)
        for name, (declared, given) in _members(model, hints).items():
            (required if given else optional)[name] = self.of(declared)
        made = st.fixed_dictionaries(required, optional=optional)
        return made.map(lambda raw: model(**raw)) if issubclass(model, tuple) else made


def _is_record(model: type) -> bool:
    return (
        issubclass(model, pydantic.BaseModel)
        or dataclasses.is_dataclass(model)
        or typing_extensions.is_typeddict(model)
        or (issubclass(model, tuple) and hasattr(model, "_fields"))
    )


def _members(model: Any, hints: Mapping[str, object]) -> dict[str, tuple[object, bool]]:  # noqa: ANN401
    """Return the members of a dataclass, a ``TypedDict`` or a named tuple: each one's type, and whether it must be."""
    if dataclasses.is_dataclass(model):
        fields = [field for field in dataclasses.fields(model) if field.init]
        none = dataclasses.MISSING
        return {each.name: (hints[each.name], each.default is none and each.default_factory is none) for each in fields}
    if typing_extensions.is_typeddict(model):
        return {name: (declared, name in model.__required_keys__) for name, declared in hints.items()}
    return {name: (hints[name], name not in model._field_defaults) for name in model._fields}


def _key(name: str, field: pydantic.fields.FieldInfo) -> str:
    """Return the name by which a field is validated."""
    alias = field.validation_alias or field.alias
    if isinstance(alias, pydantic.AliasChoices):
        alias = next((each for each in alias.choices if isinstance(each, str)), None)
    return alias if isinstance(alias, str) else name


def _scalar(cls: type, bounds: _Bounds) -> SearchStrategy[Any]:
    if issubclass(cls, bool):
        return st.booleans()
    if issubclass(cls, int):
        return _integers(bounds)
    if issubclass(cls, float):
        return _floats(bounds)
    if issubclass(cls, Decimal):
        return _decimals(bounds)
    if issubclass(cls, str):
        return _texts(bounds)
    if issubclass(cls, bytes):
        return st.binary(**bounds.sizes())
    if issubclass(cls, uuid.UUID):
        return st.uuids()
    if issubclass(cls, dt.timedelta):
        low, high = bounds.low, bounds.high
        most = dt.timedelta(days=10_000)
        return st.timedeltas(-most if low is None else low, most if high is None else high)
    return _moments(cls, bounds)


def _integers(bounds: _Bounds) -> SearchStrategy[int]:
    low = math.floor(bounds.gt) + 1 if bounds.gt is not None else None
    low = math.ceil(bounds.ge) if bounds.ge is not None else low
    high = math.ceil(bounds.lt) - 1 if bounds.lt is not None else None
    high = math.floor(bounds.le) if bounds.le is not None else high
    step = bounds.multiple_of or 1
    counts = st.integers(None if low is None else -(-low // step), None if high is None else high // step)
    return counts.map(lambda count: count * step)


def _floats(bounds: _Bounds) -> SearchStrategy[float]:
    if bounds.multiple_of is not None:
        step = Fraction(str(bounds.multiple_of))
        low = -_LIMIT if bounds.low is None else math.ceil(Fraction(str(bounds.low)) / step)
        high = _LIMIT if bounds.high is None else math.floor(Fraction(str(bounds.high)) / step)
        return st.integers(low, high).map(lambda count: float(count * step))
    return st.floats(
        None if bounds.low is None else float(bounds.low),
        None if bounds.high is None else float(bounds.high),
        exclude_min=bounds.ge is None and bounds.gt is not None,
        exclude_max=bounds.le is None and bounds.lt is not None,
        allow_nan=False,
        allow_infinity=False,
    )


def _decimals(bounds: _Bounds) -> SearchStrategy[Decimal]:
    places = 2 if bounds.decimal_places is None else bounds.decimal_places
    most = Decimal(_LIMIT) if bounds.max_digits is None else Decimal(10) ** (bounds.max_digits - places) - 1
    low = -most if bounds.low is None else Decimal(str(bounds.low))
    high = most if bounds.high is None else Decimal(str(bounds.high))
    return st.decimals(low, high, places=places, allow_nan=False, allow_infinity=False)


def _texts(bounds: _Bounds) -> SearchStrategy[str]:
    if bounds.pattern is None:
        return st.text(**bounds.sizes())
    least, most = bounds.min_length or 0, math.inf if bounds.max_length is None else bounds.max_length
    return st.from_regex(bounds.pattern, fullmatch=True).filter(lambda text: least <= len(text) <= most)


def _moments(cls: type, bounds: _Bounds) -> SearchStrategy[Any]:
    """Return a strategy of dates and times, aware ones where nothing says otherwise; of any other class, its own."""
    name = cls.__name__
    first = _FUTURE if name.startswith("Future") else _FIRST
    last = _PAST if name.startswith("Past") else _LAST
    if issubclass(cls, dt.datetime) or name in {"AwareDatetime", "NaiveDatetime", "PastDatetime", "FutureDatetime"}:
        zoned = [each for each in (bounds.low, bounds.high) if each is not None and each.tzinfo is not None]
        naive = name == "NaiveDatetime" or (not zoned and (bounds.low or bounds.high) is not None)
        low = first if bounds.low is None else _naive(bounds.low)
        high = last if bounds.high is None else _naive(bounds.high)
        zones = st.none() if naive else st.just(dt.UTC) if zoned else st.sampled_from(_ZONES)
        return st.datetimes(low, high, timezones=zones)
    if issubclass(cls, dt.date) or name in {"PastDate", "FutureDate"}:
        return st.dates(bounds.low or first.date(), bounds.high or last.date())
    if issubclass(cls, dt.time):
        return st.times(bounds.low or dt.time.min, bounds.high or dt.time.max)
    return st.from_type(cls)


def _naive(moment: dt.datetime) -> dt.datetime:
    return moment if moment.tzinfo is None else moment.astimezone(dt.UTC).replace(tzinfo=None)
