"""The mistakes of a document, gathered so that all of them are told at once, each with its path."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any, Final

import pydantic
from pydantic.alias_generators import to_camel

from workflow_core.errors import ValidationError
from workflow_core.limits import Limits
from workflow_core.models import CircuitBreakerConfig, PanicConfig, RetryConfig
from workflow_core.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import ErrorDetails

    from workflow_core.definitions.expressions import Location

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["Mistakes"]

_SETTINGS: Final = frozenset({RetryConfig, PanicConfig, CircuitBreakerConfig, Limits})
"""What documents say in camelCase, or as it is in Python."""


class Mistakes:
    """Mistakes with their places in a document."""

    def __init__(self) -> None:
        self._errors: list[ErrorDetails] = []

    def add(self, location: Location, message: str, value: object = None, kind: str = "definition") -> None:
        """Note a mistake.

        Args:
            location: Where.
            message: What is wrong, and what to do.
            value: What stands there.
            kind: Its kind, in the manner of pydantic.
        """
        self._errors.append({"type": kind, "loc": location, "msg": message, "input": value})

    def add_errors(
        self, errors: Iterable[ErrorDetails], model: type[pydantic.BaseModel], location: Location = ()
    ) -> None:
        """Note what pydantic found wrong with a part of the document.

        Args:
            errors: What it found.
            model: What that part was validated as.
            location: Where that part lies.
        """
        for error in errors:
            message = error["msg"].removeprefix("Value error, ")
            if error["type"] == "extra_forbidden":
                known = _keys(model, error["loc"][:-1])
                message = f"there is no such key{did_you_mean(error['loc'][-1], known)} (keys: {', '.join(known)})"
            elif error["type"] == "missing":
                message = "is required"
            self.add((*location, *error["loc"]), message, error.get("input"), error["type"])

    def add_pydantic(self, error: pydantic.ValidationError, model: type[pydantic.BaseModel]) -> None:
        """Note what pydantic found wrong with the whole document."""
        self.add_errors(error.errors(include_url=False), model)

    def raise_any(self, what: str) -> None:
        """Raise all mistakes as one error, if there are any.

        Args:
            what: What they were found in.
        """
        if not self._errors:
            return
        order = sorted(range(len(self._errors)), key=lambda place: _sort_key(self._errors[place]["loc"]))
        errors = [self._errors[place] for place in order]
        lines = [f"  {'.'.join(str(part) for part in error['loc']) or 'document'}: {error['msg']}" for error in errors]
        raise ValidationError("\n".join([f"Invalid {what}:", *lines]), errors)


def _sort_key(location: Location) -> tuple[tuple[int, int, str], ...]:
    return tuple((0, part, "") if isinstance(part, int) else (1, 0, part) for part in location)


def _keys(model: object, location: Location) -> list[str]:
    """Return the keys that a model accepts at a place below it, as far as its annotations tell."""
    for part in location:
        model = _at(model, part)
    models = list(_models(model))
    return [field.alias or _documented(found, name) for found in models for name, field in found.model_fields.items()]


def _documented(model: type[pydantic.BaseModel], name: str) -> str:
    """Return a key as documents write it; those of the types of steps have the names that their makers gave them."""
    return to_camel(name) if model in _SETTINGS else name


def _at(annotation: object, part: int | str) -> object:
    for model in _models(annotation):
        for name, field in model.model_fields.items():
            if part in {name, field.alias}:
                return field.annotation
    if isinstance(part, int):
        return annotation
    return None


def _models(annotation: object) -> Iterable[type[pydantic.BaseModel]]:
    """Yield the models in an annotation, those in lists and unions included."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
        return
    arguments: tuple[Any, ...] = typing.get_args(annotation)
    for argument in arguments:
        yield from _models(argument)
