"""The events that make up an execution's history: frozen, typed, with the time of the engine's clock.

A field that was not given is unset, and compares equal to anything: ``StepFailed(attempt=1) == event`` compares the
attempt alone. The engine sets every field of the events that it makes.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - resolved at run time by dataclass users
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from workflow_core.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

__all__ = [
    "UNSET",
    "Event",
    "ExecutionEvent",
    "StepEvent",
    "ExecutionStarted",
    "ExecutionRecovered",
    "ExecutionCompleted",
    "ExecutionFailed",
    "ExecutionPanicked",
    "ExecutionRestarted",
    "ExecutionCancelled",
    "StepStarted",
    "StepFailed",
    "StepRetrying",
    "StepCompleted",
    "StepSkipped",
    "StepInterrupted",
    "SleepStarted",
    "SleepCompleted",
    "CircuitOpened",
    "CircuitHalfOpened",
    "CircuitClosed",
    "EVENT_TYPES",
    "event_from_row",
]


@final
class _Unset:
    """The value of a field that nobody named."""

    _instance: ClassVar[_Unset | None] = None

    def __new__(cls) -> _Unset:
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET: Final[Any] = _Unset()

EVENT_TYPES: dict[str, type[Event]] = {}


@dataclass(frozen=True, eq=False, repr=False)
class Event:
    """One thing that happened to an execution.

    Attributes:
        at: When, by the engine's clock; aware, UTC.
        seq: Position in the execution's history, counted from 1.
        execution_id: The execution it happened to.
        workflow_name: The workflow that the execution runs.
    """

    at: datetime = dataclasses.field(default=UNSET, kw_only=True)
    seq: int = dataclasses.field(default=UNSET, kw_only=True)
    execution_id: str = dataclasses.field(default=UNSET, kw_only=True)
    workflow_name: str = dataclasses.field(default=UNSET, kw_only=True)

    envelope: ClassVar[frozenset[str]] = frozenset({"at", "seq", "execution_id", "workflow_name"})

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        EVENT_TYPES[cls.__name__] = cls

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        for name in self.field_names():
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not UNSET and theirs is not UNSET and mine != theirs:
                return False
        return True

    __hash__ = None  # type: ignore[assignment]  # equality with unset fields is not transitive

    def __repr__(self) -> str:
        fields = self.named_fields()
        shown = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        return f"{type(self).__name__}({shown})"

    def stamped(self, seq: int, at: datetime, execution_id: str, workflow_name: str) -> Self:
        """Return this event with its place: the same as `dataclasses.replace`, and several times as fast."""
        event = object.__new__(type(self))
        vars(event).update(vars(self), seq=seq, at=at, execution_id=execution_id, workflow_name=workflow_name)
        return event

    @classmethod
    @functools.cache
    def field_names(cls) -> tuple[str, ...]:
        """Return the names of all fields."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    @functools.cache
    def own_field_names(cls) -> tuple[str, ...]:
        """Return the names of the fields without the envelope."""
        return tuple(name for name in cls.field_names() if name not in cls.envelope)

    def named_fields(self) -> dict[str, object]:
        """Return what is particular to this event: its set fields without the envelope and without ``None``."""
        return {
            name: value
            for name in self.own_field_names()
            if (value := getattr(self, name)) is not UNSET and value is not None
        }


class ExecutionEvent(Event):
    """Base of the events of an execution as a whole."""


@dataclass(frozen=True, eq=False, repr=False)
class StepEvent(Event):
    """Base of the events of one step."""

    step_id: str = UNSET


@dataclass(frozen=True, eq=False, repr=False)
class ExecutionStarted(ExecutionEvent):
    """The execution was recorded and begins."""


@dataclass(frozen=True, eq=False, repr=False)
class ExecutionRecovered(ExecutionEvent):
    """An engine took over an execution whose process was gone."""


@dataclass(frozen=True, eq=False, repr=False)
class ExecutionCompleted(ExecutionEvent):
    """The handler returned."""


@dataclass(frozen=True, eq=False, repr=False)
class ExecutionFailed(ExecutionEvent):
    """The execution failed for good.

    Attributes:
        error: Class name of the error.
        message: Its text.
    """

    error: str = UNSET
    message: str = UNSET


@dataclass(frozen=True, eq=False, repr=False)
class ExecutionPanicked(ExecutionEvent):
    """The execution panicked.

    Attributes:
        indicator: What was recognised as a panic.
        error: Class name of the error.
        message: Its text.
        step_id: The step that panicked, if one did.
        restart_delay_ms: Wait until the automatic restart in milliseconds; ``None`` when there is none.
    """

    indicator: str | None = UNSET
    error: str = UNSET
    message: str = UNSET
    step_id: str | None = UNSET
    restart_delay_ms: int | None = UNSET


@dataclass(frozen=True, eq=False, repr=False)
class ExecutionRestarted(ExecutionEvent):
    """The execution runs again after a panic or a failure.

    Attributes:
        restart_attempt: 2 for the first restart, and so on.
    """

    restart_attempt: int = UNSET


@dataclass(frozen=True, eq=False, repr=False)
class ExecutionCancelled(ExecutionEvent):
    """The execution was cancelled."""


@dataclass(frozen=True, eq=False, repr=False)
class StepStarted(StepEvent):
    """An attempt of a step begins."""

    attempt: int = UNSET


@dataclass(frozen=True, eq=False, repr=False)
class StepFailed(StepEvent):
    """An attempt of a step raised an error.

    Attributes:
        attempt: The attempt, counted from 1.
        error: Class name of the error.
        message: Its text.
    """

    attempt: int = UNSET
    error: str = UNSET
    message: str = UNSET


@dataclass(frozen=True, eq=False, repr=False)
class StepRetrying(StepEvent):
    """A step waits for its next attempt.

    Attributes:
        attempt: The attempt that failed.
        backoff_ms: The wait, in milliseconds.
    """

    attempt: int = UNSET
    backoff_ms: int = UNSET


@dataclass(frozen=True, eq=False, repr=False)
class StepCompleted(StepEvent):
    """A step has its result.

    Attributes:
        attempt: The attempt that brought it.
        handled_by: The handler that supplied it, such as ``"on_error:NetworkError"`` or ``"catch"``, if one did.
    """

    attempt: int = UNSET
    handled_by: str | None = UNSET


@dataclass(frozen=True, eq=False, repr=False)
class StepSkipped(StepEvent):
    """A step was passed over: its circuit was open, or the workflow skipped it without an attempt (attempt 0)."""

    attempt: int = UNSET


@dataclass(frozen=True, eq=False, repr=False)
class StepInterrupted(StepEvent):
    """The process ended during an attempt; the attempt counts as used."""

    attempt: int = UNSET


@dataclass(frozen=True, eq=False, repr=False)
class SleepStarted(StepEvent):
    """A durable sleep begins.

    Attributes:
        duration_ms: Its length, in milliseconds.
    """

    duration_ms: int = UNSET


@dataclass(frozen=True, eq=False, repr=False)
class SleepCompleted(StepEvent):
    """A durable sleep is over."""


@dataclass(frozen=True, eq=False, repr=False)
class CircuitOpened(StepEvent):
    """A step's circuit opened.

    Attributes:
        failures: Consecutive failures that opened it.
    """

    failures: int = UNSET


@dataclass(frozen=True, eq=False, repr=False)
class CircuitHalfOpened(StepEvent):
    """A step's circuit lets this execution probe."""


@dataclass(frozen=True, eq=False, repr=False)
class CircuitClosed(StepEvent):
    """A probe succeeded: the step's circuit is closed again."""


def event_from_row(
    type_name: str,
    *,
    seq: int,
    at: datetime,
    execution_id: str,
    workflow_name: str,
    step_id: str | None,
    attempt: int | None,
    data: Mapping[str, object],
) -> Event:
    """Build the event that a stored row stands for; fields the row does not hold are ``None``.

    Raises:
        StorageError: There are no events of this type: another program wrote the row, or it is damaged.
    """
    cls = EVENT_TYPES.get(type_name)
    if cls is None:
        raise StorageError(
            f'The history of execution "{execution_id}" holds an event of the unknown type {type_name!r}, at position '
            f"{seq}: another program wrote it, or it is damaged"
        )
    known: dict[str, object] = {"step_id": step_id, "attempt": attempt, **data}
    named = {name: known.get(name) for name in cls.own_field_names()}
    return cls(at=at, seq=seq, execution_id=execution_id, workflow_name=workflow_name, **named)
