"""One call of a method of ``workflow_faults``: the rule that it asks for, and how it is shown in messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pydantic

from pytest_workflow.plan import Fault, FaultRule, Where
from workflow_core.errors import ValidationError

if TYPE_CHECKING:
    from types import TracebackType

    from pydantic_core import ErrorDetails

__all__ = ["FaultCall"]


@dataclass(slots=True)
class FaultCall:
    """A call of one of the methods of `WorkflowFaults`.

    Attributes:
        name: The method.
        shown: The arguments to show first.
        usual_attempts: What ``attempts`` is without being named.
        usual_occurrence: What ``occurrence`` is without being named.
    """

    name: str
    shown: tuple[object, ...]
    step_id: str | None
    attempts: Iterable[int] | None
    workflow: str
    occurrence: int | None
    strict: bool
    point: str | None = None
    usual_attempts: tuple[int, ...] | None = None
    usual_occurrence: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.attempts, Iterable) and not isinstance(self.attempts, (str, tuple)):
            self.attempts = tuple(self.attempts)

    def __str__(self) -> str:
        shown = [repr(value) for value in self.shown]
        if self.attempts != self.usual_attempts:
            attempts = self.attempts
            shown.append(f"attempts={list(attempts) if isinstance(attempts, tuple) else attempts!r}")
        if self.workflow != "*":
            shown.append(f"workflow={self.workflow!r}")
        if self.occurrence != self.usual_occurrence:
            shown.append(f"occurrence={self.occurrence!r}")
        return f"{self.name}({', '.join(shown)})"

    def rule(self, fault: Fault) -> FaultRule:
        """Return the rule that the call asks for.

        Raises:
            TypeError: It names no step.
            ValueError: The attempts are no list of numbers from 1 on.
            pydantic.ValidationError: Something else is not acceptable; see `explained`.
        """
        if (self.step_id is not None or self.point is None) and (not isinstance(self.step_id, str) or not self.step_id):
            raise TypeError(f"a fault needs the id of a step, or a glob; not {self.step_id!r}")
        attempts = self.attempts
        if attempts is not None and not (
            isinstance(attempts, tuple) and all(type(number) is int and number >= 1 for number in attempts)
        ):
            raise ValueError("attempts is a list of runs, counted from 1")
        where = Where(
            workflow=self.workflow, step=self.step_id, attempts=attempts, point=self.point, nth=self.occurrence
        )
        return FaultRule(where=where, what=fault, strict=self.strict)

    def explained(self) -> _Explained:
        """Let errors in a ``with`` block name the call.

        Raises:
            TypeError: An argument is of another kind than it must be.
            ValidationError: An argument is not acceptable.
        """
        return _Explained(self)


class _Explained:
    """Lets errors name a call; a class, because the frames of `contextlib` would stand in the test's traceback."""

    __slots__ = ("_call",)

    def __init__(self, call: FaultCall) -> None:
        self._call = call

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        if isinstance(error, pydantic.ValidationError):
            details = error.errors(include_url=False)
            mistakes = "; ".join(_in_the_calls_words(item) for item in details)
            raise ValidationError(f"workflow_faults.{self._call}: {mistakes}", details) from None
        if isinstance(error, TypeError):
            raise TypeError(f"workflow_faults.{self._call}: {error}") from None
        if isinstance(error, ValueError):
            raise ValidationError(f"workflow_faults.{self._call}: {error}") from None


def _in_the_calls_words(item: ErrorDetails) -> str:
    name = {"nth": "occurrence", "step": "step_id"}.get(str(item["loc"][0]), str(item["loc"][0])) if item["loc"] else ""
    return f"{name}: {item['msg']}" if name else item["msg"]
