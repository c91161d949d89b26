"""How many executions of a workflow may run, and begin, at the same time when workers run them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Self

import pydantic

from workflow_core.errors import ValidationError, shown
from workflow_core.models import Model, WholeNumber
from workflow_core.timeouts import LONGEST_MS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Limits", "checked_key", "limits_of"]

_LONGEST_KEY = 255
_SURROGATE = re.compile("[\ud800-\udfff]")
"""Halves of characters, which no database stores."""


class Limits(Model):
    """Limits of a workflow, over all workers of a database together.

    They are kept by the database, so they hold whatever number of workers there is, and whichever of them dies.
    Executions that have to wait are begun by priority, and among equals in the order in which they were enqueued.

    Attributes:
        concurrency: How many executions may run at once.
        concurrency_per_key: How many executions with the same key may run at once.
        starts: How many executions may begin within any ``period_ms``.
        starts_per_key: How many executions with the same key may begin within any ``period_ms``.
        period_ms: The length of that period, in milliseconds.
        key: Where in the input the key is, with dots: ``"customer.id"``. Without it, or where the input has nothing
            there, an execution has the key that ``enqueue`` was given, or none.
        held_while_waiting: Whether an execution that sleeps, backs off or waits for its restart counts as one that
            runs. ``False`` lets others run meanwhile, and makes it queue up again afterwards.
    """

    concurrency: WholeNumber | None = pydantic.Field(default=None, ge=1, le=1_000_000)
    concurrency_per_key: WholeNumber | None = pydantic.Field(default=None, ge=1, le=1_000_000)
    starts: WholeNumber | None = pydantic.Field(default=None, ge=1, le=1_000_000)
    starts_per_key: WholeNumber | None = pydantic.Field(default=None, ge=1, le=1_000_000)
    period_ms: WholeNumber = pydantic.Field(default=1_000, ge=1, le=LONGEST_MS)
    key: str | None = pydantic.Field(default=None, min_length=1, max_length=_LONGEST_KEY)
    held_while_waiting: pydantic.StrictBool = True

    @pydantic.field_validator("key")
    @classmethod
    def _names_a_place(cls, key: str | None) -> str | None:
        if key is not None and not all(key.split(".")):
            raise ValueError('it must be names with dots between them, such as "customer.id"')
        return key

    @pydantic.model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.concurrency is self.concurrency_per_key is self.starts is self.starts_per_key is None:
            raise ValueError("it limits nothing; give it a number for concurrency or starts, in all or per key")
        return self

    def key_of(self, value: object, given: str | None) -> str | None:
        """Return the key of an execution.

        Args:
            value: Its input, as JSON has it.
            given: The key that was given for it, which goes before.

        Raises:
            ValidationError: What lies where the key should be is no text, number or truth value.
        """
        if given is not None or self.key is None:
            return given
        for name in self.key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is None:
            return None
        if not isinstance(value, (str, int, float)):
            raise ValidationError(
                f'The key of limits, "{self.key}" of the input, must be a text or a number, not {shown(value)}'
            )
        return checked_key(str(value))


def checked_key(key: str) -> str:
    """Return a key of limits.

    Raises:
        ValidationError: It is not acceptable.
    """
    if not isinstance(key, str) or not key or len(key) > _LONGEST_KEY or "\0" in key or _SURROGATE.search(key):
        raise ValidationError(f"A key of limits must be a text of 1 to {_LONGEST_KEY} characters, not {shown(key)}")
    return key


def limits_of(given: Limits | Mapping[str, Any] | None) -> Limits | None:
    """Return limits given as a model, as a dictionary, or not at all.

    Raises:
        ValidationError: It is something else, or a value is out of range.
    """
    if given is None or isinstance(given, Limits):
        return given
    if isinstance(given, dict) and all(isinstance(key, str) for key in given):
        return Limits(**given)
    raise ValidationError(f"Expected Limits or a dictionary of its fields, not {shown(given)}")
