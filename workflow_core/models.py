"""The public data: configurations, results and statuses, validated by pydantic."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import pydantic
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from workflow_core.errors import PanicError, ValidationError, WorkflowError, WorkflowTimeoutError
from workflow_core.timeouts import LONGEST_MS

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = [
    "ExecutionStatus",
    "StepStatus",
    "CircuitStatus",
    "TERMINAL_STATUSES",
    "Model",
    "WholeNumber",
    "RetryConfig",
    "PanicConfig",
    "CircuitBreakerConfig",
    "ErrorInfo",
    "StepResult",
    "ExecutionResult",
]

ExecutionStatus: TypeAlias = Literal[
    "running", "completed", "failed", "sleeping", "panicked", "restarting", "cancelled", "queued"
]
StepStatus: TypeAlias = Literal["pending", "running", "completed", "failed", "sleeping", "retrying", "skipped"]
CircuitStatus: TypeAlias = Literal["closed", "open", "half_open"]

TERMINAL_STATUSES: frozenset[str] = frozenset({"completed", "failed", "cancelled"})


class Model(BaseModel):
    """A frozen model whose mistakes are reported as `workflow_core.ValidationError`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, /, **data: Any) -> None:  # noqa: ANN401 - pydantic's own signature
        try:
            super().__init__(**data)
        except pydantic.ValidationError as error:
            raise ValidationError.from_pydantic(type(self).__name__, error) from None

    @classmethod
    def trusted(cls, **fields: Any) -> Self:  # noqa: ANN401 - pydantic's own signature
        """Return a model of values that are known to be right, in a quarter of the time that validating them takes.

        Args:
            **fields: All fields; pydantic's own ``model_construct``, which fills in defaults, is hardly faster than
                validating.
        """
        model = cls.__new__(cls)
        object.__setattr__(model, "__dict__", fields)
        object.__setattr__(model, "__pydantic_fields_set__", set(fields))
        object.__setattr__(model, "__pydantic_extra__", None)
        object.__setattr__(model, "__pydantic_private__", None)
        return model


def _no_other_than_a_number(value: object) -> object:
    if isinstance(value, (bool, str, bytes)):
        raise ValueError(f"a number is needed, not {type(value).__name__}")  # noqa: TRY004 - pydantic's way
    return value


WholeNumber: TypeAlias = Annotated[int, pydantic.BeforeValidator(_no_other_than_a_number)]
"""An integer that was given as a number: pydantic alone would take ``True`` and ``"1"`` as well."""


class RetryConfig(Model):
    """How often, and after which waits, a failing step is tried again.

    Attributes:
        max_attempts: Attempts in all, the first one included (1 to 10).
        backoff_ms: Wait before the second attempt, in milliseconds.
        exponential_backoff: Double the wait after each further attempt; otherwise it stays the same.
        max_backoff_ms: No wait is longer than this, in milliseconds; without it, none is longer than a century.
        non_retryable: Error classes, or class names, that fail a step at once.
    """

    max_attempts: WholeNumber = Field(default=3, ge=1, le=10)
    backoff_ms: WholeNumber = Field(default=1_000, ge=0, le=LONGEST_MS)
    exponential_backoff: StrictBool = True
    max_backoff_ms: WholeNumber | None = Field(default=None, ge=0, le=LONGEST_MS)
    non_retryable: tuple[str, ...] = ()

    @pydantic.field_validator("non_retryable", mode="before")
    @classmethod
    def _class_names(cls, value: object) -> object:
        if isinstance(value, (str, type)):
            value = (value,)
        if isinstance(value, (tuple, list, set, frozenset)):
            return tuple(item.__name__ if isinstance(item, type) else item for item in value)
        return value


class PanicConfig(Model):
    """What happens after a panic.

    Attributes:
        max_restart_attempts: Automatic restarts before the execution fails (1 to 5).
        restart_delay_ms: Wait before a restart, in milliseconds (at least 1000).
        enable_auto_restart: ``False`` leaves the execution panicked until ``restart`` is called.
    """

    max_restart_attempts: WholeNumber = Field(default=3, ge=1, le=5)
    restart_delay_ms: WholeNumber = Field(default=5_000, ge=1_000, le=LONGEST_MS)
    enable_auto_restart: StrictBool = True


class CircuitBreakerConfig(Model):
    """When a step's circuit opens, and when it lets a probe through.

    Attributes:
        failure_threshold: Consecutive failures, over all executions, that open the circuit.
        reset_timeout_ms: Time until an open circuit lets one probe through, in milliseconds (at least 1000).
    """

    failure_threshold: WholeNumber = Field(ge=1)
    reset_timeout_ms: WholeNumber = Field(default=60_000, ge=1_000, le=LONGEST_MS)


class ErrorInfo(Model):
    """An error as it is stored: readable without the class that raised it.

    Attributes:
        type: Class name, such as ``"NetworkError"``.
        message: The error's own text.
        step_id: The step it came from, if any.
        attempt: The attempt it came from, if any.
        indicator: For a panic, what was recognised as one.
    """

    type: str
    message: str
    step_id: str | None = None
    attempt: int | None = None
    indicator: str | None = None

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class StepResult(Model):
    """What is known of one step.

    Attributes:
        result: The stored value; typed values (models, dataclasses) appear in their JSON form.
        error: The last error that the step met, if any.
        attempt: The latest attempt, counted from 1; 0 before the first.
    """

    step_id: str
    status: StepStatus
    result: Any = None
    error: ErrorInfo | None = None
    attempt: int = 1
    started_at: datetime | None = None
    completed_at: datetime | None = None


_fields_of, _set_fields_of = vars(BaseModel)["__dict__"].__get__, vars(BaseModel)["__dict__"].__set__


class ExecutionResult(Model):
    """What is known of one execution; datetimes are aware and in UTC."""

    execution_id: str
    workflow_name: str
    status: ExecutionStatus
    input: Any = None
    output: Any = None
    error: ErrorInfo | None = None
    started_at: datetime
    completed_at: datetime | None = None
    restart_attempt: int = 1
    steps: dict[str, StepResult] = Field(default_factory=dict)

    __slots__ = ("_make_steps",)

    @classmethod
    def with_steps_later(cls, make_steps: Callable[[], dict[str, StepResult]], **fields: Any) -> Self:  # noqa: ANN401
        """Return a trusted result whose steps are made when somebody looks at them: most callers never do.

        Args:
            make_steps: Makes them, the same whenever it is called.
            **fields: All other fields.
        """
        result = cls.trusted(**fields)
        object.__setattr__(result, "__pydantic_fields_set__", set(cls.model_fields))
        object.__setattr__(result, "_make_steps", make_steps)
        return result

    if not TYPE_CHECKING:  # these are no fields, and what is not there is still a mistake

        def __getattr__(self, name: str) -> object:
            return self.__dict__["steps"] if name == "steps" else super().__getattr__(name)

        @property
        def __dict__(self) -> dict[str, object]:
            """All fields: pydantic takes them from here to compare, to copy, to show and to dump a model."""
            fields = _fields_of(self)
            if "steps" not in fields and (make_steps := getattr(self, "_make_steps", None)) is not None:
                fields["steps"] = make_steps()
                object.__setattr__(self, "_make_steps", None)  # and let go of what it holds
            return fields

        @__dict__.setter
        def __dict__(self, fields: dict[str, object]) -> None:
            _set_fields_of(self, fields)

    def raise_for_status(self) -> ExecutionResult:
        """Return this result if the execution did not fail.

        Raises:
            PanicError: The execution panicked, and was not restarted or not often enough.
            WorkflowTimeoutError: It took longer than the ``timeout_ms`` it was started with.
            WorkflowError: It failed otherwise, or was cancelled.
        """
        if self.status not in {"failed", "panicked", "cancelled"}:
            return self
        error = self.error
        message = f'Execution "{self.execution_id}" of workflow "{self.workflow_name}" is {self.status}'
        if error is None:
            raise WorkflowError(message)
        message, attempt = f"{message}: {error}", error.attempt or 1
        if error.indicator is not None:
            raise PanicError(message, error.step_id, attempt, None, error.indicator)
        if error.type == WorkflowTimeoutError.__name__:
            raise WorkflowTimeoutError(message)
        raise WorkflowError(message, error.step_id, attempt)
