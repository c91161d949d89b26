"""Values to stored JSON and back, exactly or not at all.

Plain JSON stays plain JSON. A value that JSON has no type for becomes an object ``{"$type": name, "value": ...}``;
models, dataclasses and named tuples are stored by the type they are declared with. A value that would not come back
equal is refused on the way in, so that a replay can never see something else than the first run did.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import math
import sys
import types
import typing
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Generic, TypeAlias, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
import pydantic_core

from workflow_core.errors import ValidationError, error_text, shown
from workflow_core.secrets import Secrets

__all__ = ["MAX_DEPTH", "ReturnType", "Serializer", "Codec", "find_class", "return_type_of", "same_json"]

_T = TypeVar("_T")

MAX_DEPTH = 100
"""Containers nested deeper than this are refused: readers of JSON give up not far beyond."""

_LONG_TEXT = 1_000
"""A shorter text is not worth counting before it is encoded."""

_LONGEST_NUMBER = 4_000
"""A shorter text cannot hold a number of too many digits for readers of JSON; a longer one is read back first."""

_ADVICE = "declare the type (annotate the handler's return type, or pass returns=...) or return plain data"
_TAG = "$type"
_DECLARED = "declared"
_GIVEN = "given"

_Json: TypeAlias = bool | int | float | str | list["_Json"] | dict[str, "_Json"] | None

_CONSTANTS = (str, int, float, type(None), bytes, UUID, Decimal, date, time, timedelta, enum.Enum)
_PLAIN_SCALARS: frozenset[type] = frozenset({str, int, bool, type(None)})
_OF_FIXED_SIZE: frozenset[type] = frozenset({int, bool, type(None)})
"""What is stored as it is, and needs no place in a message."""

_FIXED_ZONES = (timezone,)
_A_MOMENT = datetime.min.replace(tzinfo=UTC)
_A_DAY = date.min


class ReturnType:
    """The declared type of a handler's result, looked up only when a value needs it."""

    __slots__ = ("_declared", "_handler")

    def __init__(self, handler: Callable[..., object] | None, declared: object = None) -> None:
        self._handler = handler
        self._declared = declared

    def __str__(self) -> str:
        declared = self._resolved()
        if declared is None:
            return "plain data"
        return declared.__qualname__ if isinstance(declared, type) else repr(declared)

    def _resolved(self) -> object:
        if self._declared is None and self._handler is not None:
            self._declared = return_type_of(self._handler)
            self._handler = None
        return self._declared

    @property
    def declared(self) -> object:
        """The type as it was declared; ``None`` if nothing usable is."""
        return self._resolved()

    def adapter(self) -> pydantic.TypeAdapter[Any] | None:
        """Return pydantic's adapter for the declared type, or ``None`` if nothing usable is declared."""
        declared = self._resolved()
        return None if declared is None else _adapter_for(declared)


def return_type_of(handler: Callable[..., object]) -> object | None:
    """Return what a handler's annotation says it returns, awaitables unwrapped; ``None`` if it says nothing usable."""
    function: Any = handler
    while isinstance(function, functools.partial):
        function = function.func
    if not isinstance(function, (types.FunctionType, types.MethodType, types.BuiltinFunctionType)):
        function = type(function).__call__
    if not getattr(function, "__annotations__", None):
        return None
    try:
        annotation = typing.get_type_hints(function, include_extras=True).get("return")
    except Exception:  # noqa: BLE001 - evaluating another's annotation can raise anything; then none is known
        return None
    if typing.get_origin(annotation) in {Awaitable, Coroutine}:
        annotation = typing.get_args(annotation)[-1]
    return None if annotation in {None, type(None), Any, object} else annotation


@functools.lru_cache(maxsize=512)
def _cached_adapter(declared: Any) -> pydantic.TypeAdapter[Any] | None:  # noqa: ANN401 - an annotation
    try:
        return pydantic.TypeAdapter(declared)
    except pydantic.errors.PydanticUserError:
        return None


def _adapter_for(declared: Any) -> pydantic.TypeAdapter[Any] | None:  # noqa: ANN401 - an annotation
    try:
        return _cached_adapter(declared)
    except TypeError:  # an unhashable annotation
        return pydantic.TypeAdapter(declared)


class _NotPlainError(Exception):
    """A value that only a declared type can store."""

    def __init__(self, value: object, path: str) -> None:
        super().__init__(path)
        self.value = value
        self.path = path


class _RefusedError(Exception):
    """A value that cannot be stored at all."""


class _TooLargeError(Exception):
    """A value whose text would be longer than is acceptable."""


@dataclass(frozen=True, slots=True)
class Serializer(Generic[_T]):
    """How one more type is stored; a plugin offers it through the hook ``serializers``.

    Attributes:
        name: The tag that marks stored values; it must never change.
        type: The class, matched exactly.
        to_json: Turns a value into JSON's types.
        from_json: Turns those back into an equal value.
    """

    name: str
    type: type[_T]
    to_json: Callable[[_T], object]
    from_json: Callable[[Any], _T]


class _Encoder:
    """Turns one value into JSON's types, and remembers whether a tag was needed."""

    __slots__ = ("_bytes_left", "_serializers", "tagged")

    def __init__(self, serializers: Mapping[type, Serializer[Any]], max_bytes: int | None = None) -> None:
        self._serializers = serializers
        self._bytes_left = sys.maxsize if max_bytes is None else max_bytes
        self.tagged = False

    def _spend(self, least_bytes: int) -> None:
        """Count what a part will take at least, so that what is too large is refused before it is copied."""
        self._bytes_left -= least_bytes
        if self._bytes_left < 0:
            raise _TooLargeError

    def encode(self, value: Any, path: str = "", depth: int = 0) -> _Json:  # noqa: ANN401 - any value
        cls = type(value)
        plain: _Json = value
        if cls in _PLAIN_SCALARS:
            if cls is str and len(value) > _LONG_TEXT:
                self._spend(len(value))
            return plain
        if cls is dict:
            return self._encode_dict(value, path, depth)
        if cls is list:
            if depth > MAX_DEPTH:
                raise _too_deep(value, path)
            self._spend(2 * len(value))
            return [self.encode(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
        if cls is float:
            if not math.isfinite(value):
                raise _RefusedError(f"{path or 'the value'} is {value}, which JSON cannot hold")
            return plain
        return self._encode_tagged(value, path, depth)

    def _encode_dict(self, value: dict[object, Any], path: str, depth: int) -> _Json:
        if depth > MAX_DEPTH:
            raise _too_deep(value, path)
        self._spend(5 * len(value))
        encoded: dict[str, _Json] = {}
        for key, item in value.items():
            if type(key) is not str:
                raise _RefusedError(
                    f"{path or 'the value'} has the key {shown(key)}; JSON's keys are strings, so it would change"
                )
            cls = type(item)
            if cls in _OF_FIXED_SIZE or (cls is str and len(item) <= _LONG_TEXT):
                encoded[key] = item  # as `encode` would return it, without a call and a path
            else:
                encoded[key] = self.encode(item, f"{path}.{key}" if path else key, depth + 1)
        if _TAG in encoded:
            self.tagged = True
            return {_TAG: "dict", "value": encoded}
        return encoded

    def _encode_tagged(self, value: Any, path: str, depth: int) -> _Json:  # noqa: ANN401, C901 - one line for each type
        self.tagged = True
        serializer = self._serializers.get(type(value))
        if serializer is not None:
            return {_TAG: serializer.name, "value": self.encode(serializer.to_json(value), path, depth + 1)}
        if isinstance(value, enum.Enum):
            return _encode_enum(value, path)
        cls = type(value)
        if isinstance(value, datetime) and _stands_for(cls, _A_MOMENT):
            return {_TAG: "datetime", "value": value.isoformat(), **_encode_zone(value, path)}
        if isinstance(value, date) and _stands_for(cls, _A_DAY):
            return {_TAG: "date", "value": value.isoformat()}
        if cls is time:
            return _encode_time(value, path)
        if cls is timedelta:
            return {_TAG: "timedelta", "value": [value.days, value.seconds, value.microseconds]}
        if cls is UUID or cls is Decimal:
            return {_TAG: cls.__name__.lower(), "value": str(value)}
        if cls is bytes:
            self._spend(len(value))
            return {_TAG: "bytes", "value": base64.b64encode(value).decode("ascii")}
        if cls is tuple or cls is set or cls is frozenset:
            if depth > MAX_DEPTH:
                raise _too_deep(value, path)
            self._spend(2 * len(value))
            items = [self.encode(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
            if cls is not tuple:
                items.sort(key=pydantic_core.to_json)
            return {_TAG: cls.__name__, "value": items}
        raise _NotPlainError(value, path)


def _too_deep(value: object, path: str) -> _RefusedError:
    reason = "refers to itself" if _is_circular(value) else f"is nested deeper than {MAX_DEPTH} levels"
    return _RefusedError(f"{(path[:60] + '…') if path else 'the value'} {reason}")


class _GivenEncoder(_Encoder):
    """Takes models and dataclasses apart as well: what it makes is compared, and never read back."""

    __slots__ = ()

    def _encode_tagged(self, value: Any, path: str, depth: int) -> _Json:  # noqa: ANN401 - any value
        if isinstance(value, pydantic.BaseModel):
            fields = {name: getattr(value, name) for name in type(value).model_fields} | (value.model_extra or {})
            for name in fields.keys() - value.model_fields_set:
                # such a default may be new each time, as an id is; any other may have been changed in place since
                if isinstance(fields[name], _CONSTANTS):
                    del fields[name]
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        else:
            return super()._encode_tagged(value, path, depth)
        cls = type(value)
        return {_TAG: f"{cls.__module__}:{cls.__qualname__}", "value": self.encode(fields, path, depth)}


def _is_circular(value: object) -> bool:
    """Tell whether following first children from a deep place comes back to it."""
    path, above = {id(value)}, [(id(value), iter(_children(value)))]
    for _ in range(10_000):
        if not above:
            return False
        parent, children = above[-1]
        child = next(children, _NO_CHILD)
        if child is _NO_CHILD:
            above.pop()
            path.remove(parent)
        elif id(child) in path:
            return True
        elif isinstance(child, (dict, list, tuple, set, frozenset)):
            path.add(id(child))
            above.append((id(child), iter(_children(child))))
    return False


_NO_CHILD = object()


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple, set, frozenset)) else ()


def _class_path(cls: type, path: str) -> str:
    if find_class(f"{cls.__module__}:{cls.__qualname__}") is not cls:
        raise _RefusedError(
            f"{path or 'the value'} is a {cls.__qualname__}, which cannot be found again as an attribute of the module "
            f'"{cls.__module__}"; define it at the top level of a module'
        )
    return f"{cls.__module__}:{cls.__qualname__}"


def find_class(class_path: str) -> object | None:
    """Look a class up among the modules that are loaded already: stored text never causes an import."""
    module_name, _, qualname = class_path.partition(":")
    found: object = sys.modules.get(module_name)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _encode_enum(value: enum.Enum, path: str) -> _Json:
    cls = type(value)
    encoded: dict[str, _Json] = {_TAG: "enum", "class": _class_path(cls, path)}
    if value.name is not None and cls.__members__.get(value.name) is value:
        return {**encoded, "name": value.name}
    return {**encoded, "value": _Encoder({}).encode(value.value, path)}


def _encode_zone(value: datetime | time, path: str) -> dict[str, _Json]:
    extra: dict[str, _Json] = {"fold": 1} if value.fold else {}
    zone = value.tzinfo
    if zone is None or isinstance(zone, _FIXED_ZONES):
        return extra
    if isinstance(zone, ZoneInfo) and zone.key:
        return {**extra, "zone": zone.key}
    raise _RefusedError(
        f"{path or 'the value'} has a time zone of class {type(zone).__qualname__}; use datetime.timezone or zoneinfo"
    )


def _stands_for(cls: type, example: object) -> bool:
    """Tell whether a class is that of ``example``, or counts it as an instance, as freezegun's do in tests."""
    return isinstance(example, cls)


def _encode_time(value: time, path: str) -> _Json:
    return {_TAG: "time", "value": value.replace(tzinfo=None).isoformat(), **_encode_time_zone(value, path)}


def _encode_time_zone(value: time, path: str) -> dict[str, _Json]:
    extra = _encode_zone(value, path)
    offset = value.utcoffset()
    if offset is not None and "zone" not in extra:
        extra["offset"] = [offset.days, offset.seconds, offset.microseconds]
    return extra


def _decode_datetime(encoded: dict[str, Any]) -> datetime:
    moment = datetime.fromisoformat(encoded["value"])
    if "zone" in encoded:
        moment = moment.replace(tzinfo=ZoneInfo(encoded["zone"]))
    elif moment.tzinfo is not None and moment.utcoffset() == timedelta(0):
        moment = moment.replace(tzinfo=UTC)
    return moment.replace(fold=encoded.get("fold", 0))


def _decode_time(encoded: dict[str, Any]) -> time:
    moment = time.fromisoformat(encoded["value"]).replace(fold=encoded.get("fold", 0))
    if "zone" in encoded:
        return moment.replace(tzinfo=ZoneInfo(encoded["zone"]))
    if "offset" in encoded:
        days, seconds, microseconds = encoded["offset"]
        offset = timedelta(days, seconds, microseconds)
        return moment.replace(tzinfo=timezone(offset) if offset else UTC)
    return moment


def _decode_enum(encoded: dict[str, Any]) -> object:
    cls = find_class(encoded["class"])
    if not (isinstance(cls, type) and issubclass(cls, enum.Enum)):
        raise ValidationError(
            f"A stored value is a member of the enumeration {encoded['class']}, which is not loaded; "
            "import the module that defines it before reading"
        )
    return cls[encoded["name"]] if "name" in encoded else cls(_PLAIN_CODEC.from_json(encoded["value"]))


_SCALAR_DECODERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "datetime": _decode_datetime,
    "date": lambda encoded: date.fromisoformat(encoded["value"]),
    "time": _decode_time,
    "timedelta": lambda encoded: timedelta(*encoded["value"]),
    "uuid": lambda encoded: UUID(encoded["value"]),
    "decimal": lambda encoded: Decimal(encoded["value"]),
    "bytes": lambda encoded: base64.b64decode(encoded["value"]),
    "enum": _decode_enum,
    _DECLARED: lambda encoded: encoded["value"],
}

_CONTAINERS: dict[str, Callable[[Iterable[object]], object]] = {"tuple": tuple, "set": set, "frozenset": frozenset}


class Codec:
    """Turns values into stored text and back.

    Args:
        serializers: How further types are stored.
        max_bytes: Longest acceptable text, in bytes; ``None`` sets no limit.
        secrets: What may not stand in a stored text.

    Raises:
        ValidationError: Two serializers share a name, or one takes a name of the built-in tags.
    """

    def __init__(
        self,
        serializers: Iterable[Serializer[Any]] = (),
        max_bytes: int | None = None,
        secrets: Secrets | None = None,
    ) -> None:
        self.secrets = secrets or Secrets()
        self._max_bytes = max_bytes
        self._by_type: dict[type, Serializer[Any]] = {}
        self._by_name: dict[str, Serializer[Any]] = {}
        for serializer in serializers:
            if serializer.name in {*_SCALAR_DECODERS, *_CONTAINERS, "dict", *self._by_name}:
                raise ValidationError(f'The serializer name "{serializer.name}" is taken; choose another one')
            self._by_type[serializer.type] = serializer
            self._by_name[serializer.name] = serializer

    def encode(
        self,
        value: object,
        what: str | Callable[[], str],
        returns: ReturnType | None = None,
        fingerprint: str | None = None,
        *,
        advice: str = _ADVICE,
        secrets_allowed: bool = False,
    ) -> tuple[str | None, Any]:
        """Turn a value into the JSON text that is stored.

        Args:
            value: The value.
            what: What the value is, for the error message (``'the result of step "charge"'``), or a function that
                tells it.
            returns: The declared type, for values that JSON and the tags cannot express.
            fingerprint: What such a value was made from, for `same_json`.
            advice: How to declare a type where none is declared.
            secrets_allowed: Whether the caller sees to secrets in the text himself.

        Returns:
            The text (``None`` for ``None``) and the value that reading it back gives.

        Raises:
            ValidationError: The value would not come back equal, is too large, or holds a secret.
        """
        if value is None:
            return None, None
        encoder = _Encoder(self._by_type, self._max_bytes)
        try:
            plain = encoder.encode(value)
            raw = pydantic_core.to_json(plain)
        except _NotPlainError as reason:
            raw, value = _encode_declared(value, what, returns, reason, fingerprint, advice)
        except _RefusedError as reason:
            raise _refusal(what, str(reason)) from None
        except _TooLargeError:
            raise self._too_large(what, "larger than what is stored") from None
        except (pydantic_core.PydanticSerializationError, UnicodeEncodeError) as error:
            raise _refusal(what, str(error)) from None
        else:
            # what was encoded is a copy already: a result must not change with the object that the handler keeps
            value = self._read_back(raw, what) if encoder.tagged or len(raw) > _LONGEST_NUMBER else plain
        if self._max_bytes is not None and len(raw) > self._max_bytes:
            raise self._too_large(what, f"{len(raw):,} bytes of JSON")
        text = raw.decode()
        if self.secrets.known and not secrets_allowed:
            self.refuse_secrets(text, what)
        return text, value

    def refuse_secrets(self, text: str, what: str | Callable[[], str]) -> None:
        """Refuse a text that is to be stored as it is and holds a secret.

        Raises:
            ValidationError: It does; the message names the secret, and shows neither it nor the text.
        """
        name = self.secrets.name_in(text)
        if name is not None:
            raise _refusal(
                what,
                f"it contains the secret {name}, and what is stored can be read by whoever reads the database; leave "
                "it out, and read it from ctx.config.secrets where it is needed",
            )

    def fingerprint(self, value: object) -> str | None:
        """Return a digest of a value as its maker gave it, or ``None`` if it holds what cannot be compared.

        Only the same value, of the same types, has the same digest; the order of keys and sets, and the defaults that a
        model filled in, do not count.
        """
        try:
            text = _canonical(_GivenEncoder(self._by_type).encode(value))
        except Exception:  # noqa: BLE001 - nothing is validated yet, and what others wrote may refuse in any way
            return None
        return hashlib.sha256(text.encode()).hexdigest()

    def _too_large(self, what: str | Callable[[], str], size: str) -> ValidationError:
        return _refusal(
            what,
            f"it is {size} and the limit is {self._max_bytes:,}; store the data elsewhere and return a reference to "
            "it, or raise Settings.max_result_bytes",
        )

    def _read_back(self, raw: bytes, what: str | Callable[[], str]) -> object:
        try:
            return self.from_json(pydantic_core.from_json(raw))
        except (ValueError, LookupError) as error:
            raise _refusal(what, f"it could not be read back: {error}") from None

    def decode(
        self,
        text: str | None,
        returns: ReturnType | None = None,
        what: str | Callable[[], str] = "a stored value",
    ) -> Any:  # noqa: ANN401 - what was stored
        """Read a stored value.

        Args:
            text: The stored text.
            returns: The declared type of the value; without it, declared types appear in their JSON form.
            what: What the value is, for the error message, or a function that tells it.

        Raises:
            ValidationError: The text is damaged, or the value does not fit its type (any more), or that is not loaded.
        """
        if text is None:
            return None
        try:
            data = pydantic_core.from_json(text)
            if _TAG not in text:
                return data  # plain JSON, which most values are
            if type(data) is dict and data.get(_TAG) == _DECLARED and returns is not None:
                adapter = returns.adapter()
                if adapter is not None:
                    return adapter.validate_json(pydantic_core.to_json(data["value"]))
            return self.from_json(data)
        except Exception as error:  # classes and serializers of others may refuse in any way
            raise _unreadable(text, returns, what, error) from error

    def decode_for_display(self, text: str | None) -> Any:  # noqa: ANN401 - what was stored
        """Read a stored value for people: what cannot be built here is shown as it is stored, as JSON if it is JSON."""
        try:
            return self.decode(text)
        except ValidationError:
            try:
                return pydantic_core.from_json(text or "")
            except ValueError:
                return text

    def from_json(self, value: Any) -> Any:  # noqa: ANN401 - JSON of any shape
        """Turn parsed JSON with tags into the value it stands for."""
        if type(value) is dict:
            tag = value.get(_TAG)
            if tag is None:
                return {key: self.from_json(item) for key, item in value.items()}
            return self._from_tagged(tag, value)
        if type(value) is list:
            return [self.from_json(item) for item in value]
        return value

    def _from_tagged(self, tag: str, encoded: dict[str, Any]) -> object:
        if tag == "dict":
            return {key: self.from_json(item) for key, item in encoded["value"].items()}
        if tag in _CONTAINERS:
            return _CONTAINERS[tag](self.from_json(item) for item in encoded["value"])
        if tag in self._by_name:
            return self._by_name[tag].from_json(self.from_json(encoded["value"]))
        if tag not in _SCALAR_DECODERS:
            raise ValidationError(
                f'A stored value has the type "{tag}", which no serializer of this engine knows; register the plugin '
                "that stored it"
            )
        return _SCALAR_DECODERS[tag](encoded)


_PLAIN_CODEC = Codec()


def _with_article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _refusal(what: str | Callable[[], str], reason: str) -> ValidationError:
    return ValidationError(
        f"Cannot store {what if isinstance(what, str) else what()}: {reason}",
        [{"type": "serialization", "loc": ("value",), "msg": reason, "input": None}],
    )


def _unreadable(
    text: str, returns: ReturnType | None, what: str | Callable[[], str], error: Exception
) -> ValidationError:
    name = what if isinstance(what, str) else what()
    as_type = f" as {returns}" if returns is not None else ""
    if isinstance(error, pydantic.ValidationError):
        return ValidationError.from_pydantic(f"{name}, read{as_type} from {text:.200}", error)
    reason = error_text(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error_text(error)}"
    return ValidationError(f"Cannot read {name}{as_type} from {text:.200}: {reason}")


def _encode_declared(
    value: object,
    what: str | Callable[[], str],
    returns: ReturnType | None,
    reason: _NotPlainError,
    fingerprint: str | None,
    advice: str,
) -> tuple[bytes, object]:
    found = f"{reason.path or 'the value'} is {_with_article(type(reason.value).__qualname__)}"
    if inspect.isawaitable(reason.value):
        if inspect.iscoroutine(reason.value):
            reason.value.close()  # said once is enough: Python would warn of it as well, at some later time
        raise _refusal(what, f"{found} that was never awaited; write await before it")
    adapter = returns.adapter() if returns is not None else None
    if adapter is None:
        raise _refusal(what, f"{found}; JSON cannot express it, so {advice}") from None
    try:
        raw = adapter.dump_json(value, by_alias=True, round_trip=True, warnings=False)
        back = adapter.validate_json(raw)
        equal = back == value
        if not equal and type(value).__eq__ is object.__eq__:
            equal = adapter.dump_json(back, by_alias=True, round_trip=True, warnings=False) == raw
    except (pydantic.ValidationError, pydantic_core.PydanticSerializationError, ValueError) as error:
        raise _refusal(what, f"it does not fit its declared type: {error}") from None
    if type(back) is not type(value) or not equal:
        raise _refusal(what, f"it would come back as {back!r:.200} instead of {value!r:.200}") from None
    given = f'"{_GIVEN}":"{fingerprint}",' if fingerprint is not None else ""
    return b'{"%s":"%s",%s"value":%s}' % (_TAG.encode(), _DECLARED.encode(), given.encode(), raw), back


def same_json(left: str | None, right: str | None) -> bool:
    """Tell whether two stored texts hold the same value, of the same types; the order of keys does not matter.

    Values of declared types are the same as well if they were made from the same, whatever defaults were filled in.
    """
    if left == right:
        return True
    try:
        values = [pydantic_core.from_json(text or "null") for text in (left, right)]
    except ValueError:  # what is stored was damaged
        return False
    fingerprints = [
        value.pop(_GIVEN, None) if type(value) is dict and value.get(_TAG) == _DECLARED else None for value in values
    ]
    if fingerprints[0] is not None and fingerprints[0] == fingerprints[1]:
        return True
    return _canonical(values[0]) == _canonical(values[1])


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
