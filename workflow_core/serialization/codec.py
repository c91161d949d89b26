"""The codec of an engine: values to stored text and back, exactly or not at all."""

from __future__ import annotations

import hashlib
import inspect
import json
from typing import TYPE_CHECKING, Any

import pydantic
import pydantic_core

from workflow_core.errors import ValidationError, error_text, shown
from workflow_core.secrets import Secrets
from workflow_core.serialization.decoding import BUILTIN_TAGS, Decoder
from workflow_core.serialization.encoding import Encoder, GivenEncoder
from workflow_core.serialization.tags import (
    DECLARED,
    GIVEN,
    TAG,
    NotPlainError,
    RefusedError,
    Serializer,
    TooLargeError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from workflow_core.serialization.return_types import ReturnType

__all__ = ["Codec", "same_json"]

_LONGEST_NUMBER = 4_000
"""A shorter text cannot hold a number of too many digits for readers of JSON; a longer one is read back first."""

_ADVICE = "declare the type (annotate the handler's return type, or pass returns=...) or return plain data"


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
            if serializer.name in {*BUILTIN_TAGS, *self._by_name}:
                raise ValidationError(f'The serializer name "{serializer.name}" is taken; choose another one')
            self._by_type[serializer.type] = serializer
            self._by_name[serializer.name] = serializer
        self._decoder = Decoder(self._by_name)

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
            secrets_allowed: Whether the caller sees to secrets in the text itself.

        Returns:
            The text (``None`` for ``None``) and the value that reading it back gives.

        Raises:
            ValidationError: The value would not come back equal, is too large, or holds a secret.
        """
        if value is None:
            return None, None
        encoder = Encoder(self._by_type, self._max_bytes)
        try:
            plain = encoder.encode(value)
            raw = pydantic_core.to_json(plain)
        except NotPlainError as reason:
            raw, value = _encode_declared(value, what, returns, reason, fingerprint, advice)
        except RefusedError as reason:
            raise _refusal(what, str(reason)) from None
        except TooLargeError:
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
            text = _canonical(GivenEncoder(self._by_type).encode(value))
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
            return self._decoder.decode(pydantic_core.from_json(raw))
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
            if TAG not in text:
                return data  # plain JSON, which most values are
            if type(data) is dict and data.get(TAG) == DECLARED and returns is not None:
                adapter = returns.adapter()
                if adapter is not None:
                    return adapter.validate_json(pydantic_core.to_json(data["value"]))
            return self._decoder.decode(data)
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
    reason: NotPlainError,
    fingerprint: str | None,
    advice: str,
) -> tuple[bytes, object]:
    found = f"{reason.path or 'the value'} is {_with_article(type(reason.value).__qualname__)}"
    if inspect.isawaitable(reason.value):
        if inspect.iscoroutine(reason.value):
            reason.value.close()  # said once is enough: Python would warn of it as well, at some later time
        raise _refusal(what, f"{found} that was never awaited; write await before it") from None
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
        raise _refusal(what, f"it would come back as {shown(back, 200)} instead of {shown(value, 200)}") from None
    given = f'"{GIVEN}":"{fingerprint}",' if fingerprint is not None else ""
    return b'{"%s":"%s",%s"value":%s}' % (TAG.encode(), DECLARED.encode(), given.encode(), raw), back


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
        value.pop(GIVEN, None) if type(value) is dict and value.get(TAG) == DECLARED else None for value in values
    ]
    if fingerprints[0] is not None and fingerprints[0] == fingerprints[1]:
        return True
    return _canonical(values[0]) == _canonical(values[1])


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
