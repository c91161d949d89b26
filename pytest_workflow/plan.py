"""Fault plans as data: rules of where and what, in JSON and back.

A plan names places by what happens there (a step, an attempt, a durable point and its n-th time), never by a running
number, so it survives edits elsewhere in the workflow. `pytest_workflow.faults` carries plans out.
"""

from __future__ import annotations

import builtins
import importlib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import pydantic
import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictBool, StrictFloat, StrictInt

from workflow_core.database.store import DURABLE_POINTS
from workflow_core.errors import ValidationError
from workflow_core.models import CircuitStatus
from workflow_core.timeouts import LONGEST_MS

__all__ = [
    "PLAN_VERSION",
    "STORAGE_ERRORS",
    "CircuitForced",
    "ClockJump",
    "CorruptResult",
    "Crash",
    "Custom",
    "Delay",
    "Fault",
    "FaultPlan",
    "FaultRule",
    "Panic",
    "Raise",
    "Return",
    "StorageFailure",
    "TimeOut",
    "When",
    "Where",
    "imported",
]

PLAN_VERSION = 1
"""The version of the JSON form that this module writes; it reads no other."""

STORAGE_ERRORS: tuple[str, ...] = ("database is locked", "disk I/O error", "database or disk is full")
"""What SQLite says when a database cannot be written; see https://www.sqlite.org/rescode.html."""

When: TypeAlias = Literal["before", "after"]
"""Before a durable point's transaction, or after its commit."""


class _Data(BaseModel):
    """A frozen model that knows all of its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Where(_Data):
    """Where a fault strikes: an attempt of a step, or with ``point`` a durable point.

    Attributes:
        workflow: Workflow name, or a glob.
        step: Step id, or a glob; ``None`` for any place, also those that belong to no step.
        attempts: Which runs of the step in one execution, counted from 1 over all attempts and restarts; ``None`` for
            all. Durable points are counted by ``nth``.
        point: Durable point, one of `workflow_core.database.store.DURABLE_POINTS`; ``None`` for the step's attempt.
        nth: Which of the places that match otherwise, over the whole test, counted from 1; ``None`` for all.
        not_before_ms: Only when at least this much virtual time has passed since the test began, in milliseconds.
    """

    workflow: str = Field(default="*", min_length=1)
    step: str | None = Field(default=None, min_length=1)
    attempts: tuple[StrictInt, ...] | None = None
    point: str | None = None
    nth: StrictInt | None = Field(default=None, ge=1)
    not_before_ms: StrictFloat | None = Field(default=None, ge=0, allow_inf_nan=False)

    @pydantic.field_validator("attempts")
    @classmethod
    def _counted_from_one(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or min(value) < 1):
            raise ValueError(f"attempts are counted from 1, and there is at least one; got {list(value)!r}")
        return None if value is None else tuple(sorted(set(value)))

    @pydantic.field_validator("point")
    @classmethod
    def _known_point(cls, value: str | None) -> str | None:
        if value is not None and value not in DURABLE_POINTS:
            raise ValueError(f"there is no durable point {value!r}; there are: {', '.join(DURABLE_POINTS)}")
        return value

    @pydantic.model_validator(mode="after")
    def _one_way_of_counting(self) -> Where:
        if self.point is not None and self.attempts is not None:
            raise ValueError("a durable point has no attempts: count it by nth")
        if self.point is None and self.step is None:
            raise ValueError("name a step or a durable point; step '*' means every step")
        return self


class _Fault(_Data):
    """What happens at a place.

    Attributes:
        at_points: Whether it can strike at durable points.
        at_attempts: Whether it can strike attempts of steps.
    """

    at_points: ClassVar[bool] = False
    at_attempts: ClassVar[bool] = True


class Raise(_Fault):
    """The attempt raises an error instead of running.

    Attributes:
        error: Import path of the class, such as ``"builtins:ConnectionError"`` or ``"shop.errors:NetworkError"``.
        args: What it is called with.
    """

    kind: Literal["raise"] = "raise"
    error: str
    args: tuple[JsonValue, ...] = ()

    @pydantic.field_validator("error")
    @classmethod
    def _import_path(cls, value: str) -> str:
        if ":" not in value and isinstance(getattr(builtins, value, None), type):
            value = f"builtins:{value}"
        module, _, name = value.partition(":")
        if not (name and all(module.split("."))):
            raise ValueError(f'{value!r} is no import path of an error class; write "package.module:ClassName"')
        return value


class Panic(_Fault):
    """The attempt panics.

    Attributes:
        message: A text with a panic indicator, such as ``"out of memory"``.
    """

    kind: Literal["panic"] = "panic"
    message: str = "out of memory"


class Return(_Fault):
    """The step returns a value without running.

    Attributes:
        value: The value, in JSON.
    """

    kind: Literal["return"] = "return"
    value: JsonValue = None


class Delay(_Fault):
    """The attempt takes longer.

    Attributes:
        ms: How much, in virtual milliseconds.
    """

    kind: Literal["delay"] = "delay"
    ms: StrictFloat = Field(ge=0, le=LONGEST_MS, allow_inf_nan=False)


class TimeOut(_Fault):
    """The attempt hangs: its ``timeout_ms`` runs out; without one it raises ``TimeoutError`` after a virtual hour."""

    kind: Literal["timeout"] = "timeout"


class CircuitForced(_Fault):
    """The step finds its circuit in another status.

    Attributes:
        status: ``open``, ``half_open`` or ``closed``.
    """

    kind: Literal["circuit"] = "circuit"
    status: CircuitStatus = "open"


class CorruptResult(_Fault):
    """The stored result of the step is damaged after its commit, as by a bad disk or a careless hand.

    Attributes:
        text: What is stored instead.
    """

    at_points: ClassVar[bool] = True
    at_attempts: ClassVar[bool] = False
    kind: Literal["corrupt"] = "corrupt"
    text: str = '{"corrupt'


class StorageFailure(_Fault):
    """The database refuses a durable point; nothing of it is written.

    Attributes:
        message: What SQLite says, such as ``"database is locked"``.
    """

    at_points: ClassVar[bool] = True
    at_attempts: ClassVar[bool] = False
    kind: Literal["storage"] = "storage"
    message: str = Field(default=STORAGE_ERRORS[0], min_length=1)


class Crash(_Fault):
    """The process dies at a durable point; a new one opens the surviving database and goes on.

    Attributes:
        when: Before the transaction, or after its commit.
    """

    at_points: ClassVar[bool] = True
    at_attempts: ClassVar[bool] = False
    kind: Literal["crash"] = "crash"
    when: When = "after"


class ClockJump(_Fault):
    """The wall clock is moved, as by a time server, a suspended machine or a careless hand.

    Attributes:
        ms: How far, in milliseconds; negative is backwards.
    """

    at_points: ClassVar[bool] = True
    kind: Literal["clock_jump"] = "clock_jump"
    ms: StrictFloat = Field(ge=-LONGEST_MS, le=LONGEST_MS, allow_inf_nan=False)


class Custom(_Fault):
    """A fault that a plugin carries out, through the hook ``pytest_workflow_fault``.

    Attributes:
        name: Which one.
        data: Its details, in JSON.
    """

    kind: Literal["custom"] = "custom"
    name: str = Field(min_length=1)
    data: JsonValue = None


Fault: TypeAlias = (
    Raise
    | Panic
    | Return
    | Delay
    | TimeOut
    | CircuitForced
    | CorruptResult
    | StorageFailure
    | Crash
    | ClockJump
    | Custom
)


class FaultRule(_Data):
    """One fault, and where it strikes.

    Attributes:
        where: The place.
        what: The fault.
        strict: Whether a test fails in which the rule never struck.
    """

    where: Where
    what: Annotated[Fault, Field(discriminator="kind")]
    strict: StrictBool = True

    @pydantic.model_validator(mode="after")
    def _fault_fits_place(self) -> FaultRule:
        kind = self.what.kind
        if self.where.point is not None and not self.what.at_points:
            raise ValueError(f'"{kind}" strikes attempts of steps: leave point out')
        if self.where.point is None and not self.what.at_attempts:
            raise ValueError(f'"{kind}" strikes durable points: name one, such as point: "step_completed"')
        if isinstance(self.what, CorruptResult) and self.where.point not in {"step_completed", "step_skipped"}:
            raise ValueError('"corrupt" strikes where results are stored: point "step_completed" or "step_skipped"')
        return self


class FaultPlan(_Data):
    """A set of faults, to keep in a file and to replay.

    Attributes:
        version: Of the form; 1.
        rules: The faults. Of several that strike one attempt, the first is the innermost.
    """

    version: Literal[1] = 1
    rules: tuple[FaultRule, ...] = ()

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "fault plan") -> FaultPlan:
        """Read a plan.

        Args:
            text: JSON.
            source: What it comes from, for the error message.

        Raises:
            ValidationError: It is no plan; the message names each mistake by its place.
        """
        try:
            return cls.model_validate_json(text)
        except pydantic.ValidationError as error:
            raise ValidationError.from_pydantic(source, error) from None

    @classmethod
    def load(cls, path: str | Path) -> FaultPlan:
        """Read a plan from a file.

        Raises:
            ValidationError: The file cannot be read, or holds no plan.
        """
        try:
            text = Path(path).read_bytes()
        except (OSError, ValueError) as error:  # a name may hold what no path may
            reason = getattr(error, "strerror", None) or error
            raise ValidationError(f"The fault plan {path!s:.200} cannot be read: {reason}") from None
        return cls.from_json(text, f"fault plan {path}")

    def to_json(self, *, indent: int | None = None) -> str:
        """Write the plan; what has its default value is left out."""
        rules = [
            {
                "where": rule.where.model_dump(exclude_defaults=True),
                "what": {"kind": rule.what.kind, **rule.what.model_dump(mode="json", exclude_defaults=True)},
                **({} if rule.strict else {"strict": False}),
            }
            for rule in self.rules
        ]
        data = {"version": self.version, "rules": rules}
        return pydantic_core.to_json(data, indent=indent, inf_nan_mode="constants").decode()

    def save(self, path: str | Path) -> None:
        """Write the plan to a file."""
        Path(path).write_text(self.to_json(indent=2) + "\n", encoding="utf-8")

    def __add__(self, other: FaultPlan) -> FaultPlan:
        """Return a plan with the rules of both."""
        return FaultPlan(rules=(*self.rules, *other.rules))


def imported(path: str) -> type[BaseException]:
    """Return the error class that an import path names; its module is imported, and nothing is called.

    Raises:
        ValidationError: There is no such class, or it is no error class.
    """
    module_name, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a module may do anything when it is imported
        raise ValidationError(f'The error class "{path}" cannot be imported: {error!r}') from None
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        raise ValidationError(f'"{path}" is no error class')
    return found
