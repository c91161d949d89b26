"""What an executor may return instead of a bare value: `Success` or `Failure`, to be told apart by ``match``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeAlias

from typing_extensions import TypeVar

__all__ = ["Failure", "Result", "Success"]

ValueT_co = TypeVar("ValueT_co", covariant=True, default=object)
ErrorT_co = TypeVar("ErrorT_co", covariant=True, bound="Exception | str", default="Exception | str")


@dataclass(frozen=True, slots=True)
class Success(Generic[ValueT_co]):
    """A step succeeded.

    Attributes:
        value: The step's result.
    """

    value: ValueT_co


@dataclass(frozen=True, slots=True)
class Failure(Generic[ErrorT_co]):
    """An attempt failed, as if the executor had raised.

    Attributes:
        error: The error, or its message.
        retryable: Whether another attempt may be made; ``False`` fails the step at once.
    """

    error: ErrorT_co
    retryable: bool = True


Result: TypeAlias = Success[ValueT_co] | Failure[ErrorT_co]
"""``Result[Order, PaymentError]``: what an executor returns that expects some failures and does not raise them."""
