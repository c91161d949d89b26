"""Describing one step of an execution: its function, its handlers, its retries and its circuit."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeAlias, TypeVar

from workflow_core.attempts import StepRun
from workflow_core.database.cancellation import late_cancellations, meet_late_cancellation
from workflow_core.definition import configured
from workflow_core.errors import (
    StepConflictError,
    ValidationError,
    shown,
)
from workflow_core.models import CircuitBreakerConfig, RetryConfig
from workflow_core.serialization import ReturnType
from workflow_core.signatures import takes
from workflow_core.timeouts import validate_timeout

if TYPE_CHECKING:
    from types import FrameType

    from workflow_core.context import WorkflowContext
    from workflow_core.execution import Execution

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["StepBuilder", "ErrorHandler", "OpenHandler", "validate_step_id"]

ResultT = TypeVar("ResultT")
ParametersT = ParamSpec("ParametersT")

ErrorHandler: TypeAlias = Callable[[Any, "WorkflowContext[Any]"], object]
"""Takes the error and the context; returns the step's value, or an awaitable of it, or raises."""

OpenHandler: TypeAlias = Callable[["WorkflowContext[Any]"], object]
"""Takes the context; returns the value of a step whose circuit is open, or an awaitable of it."""

_LONGEST_STEP_ID = 255


def validate_step_id(step_id: object) -> str:
    """Return what names a step, as a plain string.

    Raises:
        ValidationError: It is not a string of 1 to 255 printable characters.
    """
    if not isinstance(step_id, str):
        raise ValidationError(f"A step id must be a non-empty string, not {shown(step_id)}")
    plain = str.__str__(step_id)
    if not plain.strip():
        raise ValidationError(f"A step id must be a non-empty string, not {shown(plain)}")
    if len(plain) > _LONGEST_STEP_ID or not plain.isprintable():
        raise ValidationError(
            f"A step id must be at most {_LONGEST_STEP_ID} printable characters; this one is {shown(plain, 60)}"
        )
    return plain


def _not_forgotten_if_refused(
    method: Callable[Concatenate[StepBuilder[ResultT], ParametersT], StepBuilder[ResultT]],
) -> Callable[Concatenate[StepBuilder[ResultT], ParametersT], StepBuilder[ResultT]]:
    # A step that is refused raises, so whoever described it knows that it does not run: nobody forgot its ``await``.
    @functools.wraps(method)
    def refusing(
        self: StepBuilder[ResultT], /, *args: ParametersT.args, **kwargs: ParametersT.kwargs
    ) -> StepBuilder[ResultT]:
        try:
            return method(self, *args, **kwargs)
        except ValidationError:
            self._execution.not_begun.pop(self, None)
            raise

    return refusing


class StepBuilder(Generic[ResultT]):
    """A step with its handlers; await it, or await ``execute()``, to run it."""

    __slots__ = (
        "_catch",
        "_circuit",
        "_execution",
        "_handler",
        "_on_error",
        "_on_open",
        "_retry",
        "_returns",
        "_timeout_ms",
        "step_id",
    )

    def __init__(
        self,
        execution: Execution,
        step_id: str,
        handler: Callable[[], object],
        returns: object = None,
        timeout_ms: float | None = None,
    ) -> None:
        if type(step_id) is not str or step_id not in execution.steps:  # else it was acceptable before
            step_id = validate_step_id(step_id)
        if not callable(handler):
            raise ValidationError(
                f'Step "{step_id}": the handler must be a function without arguments, not {shown(handler)}'
            )
        if timeout_ms is not None:
            validate_timeout(f'Step "{step_id}"', timeout_ms)
        if execution.codec.secrets.known:
            execution.codec.refuse_secrets(step_id, "the id of a step")
        self.step_id = step_id
        self._execution = execution
        self._handler = handler
        self._returns = ReturnType(handler, returns)
        self._timeout_ms = timeout_ms
        self._retry: RetryConfig | None = None
        self._circuit: CircuitBreakerConfig | None = None
        self._on_open: OpenHandler | None = None
        self._on_error: dict[type[BaseException] | str, ErrorHandler] = {}
        self._catch: ErrorHandler | None = None
        execution.not_begun[self] = _place_of(sys._getframe(2)) if execution.locates_steps else ""

    def __repr__(self) -> str:
        return f'<step "{self.step_id}" of {self._execution}; await it to run it>'

    @_not_forgotten_if_refused
    def on_error(self, handlers: Mapping[Any, ErrorHandler]) -> StepBuilder[ResultT]:
        """Handle errors by their class.

        Args:
            handlers: Handlers by error class, by class name, or ``"default"``. The entry for the most specific class of
                the error is called with the error and the context. What it returns completes the step; what it raises
                passes on.

        Raises:
            ValidationError: A key is neither an error class nor a string, or a value is no function of two arguments.
        """
        if not isinstance(handlers, Mapping):
            raise ValidationError(f'Step "{self.step_id}": on_error takes a dictionary, not {shown(handlers)}')
        for key, handler in dict(handlers).items():
            if not (isinstance(key, str) or (isinstance(key, type) and issubclass(key, BaseException))):
                raise ValidationError(
                    f'Step "{self.step_id}": on_error takes error classes, class names and "default", not {shown(key)}'
                )
            if not callable(handler):
                raise ValidationError(f'Step "{self.step_id}": the on_error handler for {shown(key)} is not callable')
            self._check_arguments(f"on_error handler for {key!r}", handler, "error", "context")
            self._on_error[key] = handler
        return self

    @_not_forgotten_if_refused
    def catch(self, handler: ErrorHandler) -> StepBuilder[ResultT]:
        """Handle every error that ``on_error`` did not.

        Args:
            handler: Called with the error and the context, like those of ``on_error``.

        Raises:
            ValidationError: It is no function of two arguments.
        """
        if not callable(handler):
            raise ValidationError(f'Step "{self.step_id}": the catch handler is not callable')
        self._check_arguments("catch handler", handler, "error", "context")
        self._catch = handler
        return self

    @_not_forgotten_if_refused
    def with_circuit_breaker(
        self, failure_threshold: int, reset_timeout_ms: int = 60_000, on_open: OpenHandler | None = None
    ) -> StepBuilder[ResultT]:
        """Stop calling a service that fails; the count is shared by all executions of the workflow.

        Args:
            failure_threshold: Consecutive failures that open the circuit.
            reset_timeout_ms: Time until an open circuit lets one probe through, in milliseconds.
            on_open: Called with the context while the circuit is open; the step is then skipped with what it returns.
                Without it the step meets a `CircuitOpenError`.

        Raises:
            ValidationError: A number is out of range, or ``on_open`` is no function of one argument.
        """
        if on_open is not None:
            if not callable(on_open):
                raise ValidationError(f'Step "{self.step_id}": on_open is not callable')
            self._check_arguments("on_open handler", on_open, "context")
        self._circuit = CircuitBreakerConfig(failure_threshold=failure_threshold, reset_timeout_ms=reset_timeout_ms)
        self._on_open = on_open
        return self

    @_not_forgotten_if_refused
    def with_retry(self, config: RetryConfig | None = None, /, **changes: Any) -> StepBuilder[ResultT]:  # noqa: ANN401
        """Retry this step differently from the rest of the execution.

        Args:
            config: The whole configuration; without it the execution's is taken.
            **changes: Fields of `RetryConfig` to change, such as ``max_attempts=5``.

        Raises:
            ValidationError: It is no configuration, or a value is out of range.
        """
        base = self._execution.retry_config if config is None else configured(RetryConfig, config)
        self._retry = RetryConfig(**{**base.model_dump(), **changes}) if changes else base
        return self

    def result_name(self) -> str:
        """Name the step's result, for error messages."""
        return f'the result of step "{self.step_id}" ({self._execution})'

    def _check_arguments(self, what: str, handler: Callable[..., object], *arguments: str) -> None:
        if not takes(handler, len(arguments)):
            raise ValidationError(
                f'Step "{self.step_id}": the {what} is called with the {" and the ".join(arguments)}; {handler!r} '
                "cannot be called like that"
            )

    async def execute(self) -> ResultT:
        """Run the step, or return its stored result if it is completed.

        Raises:
            WorkflowError: The attempts are used up.
            PanicError: The step panicked.
            StepConflictError: The same step runs already, in another task.
        """
        execution = self._execution
        execution.not_begun.pop(self, None)
        execution.check_alive()
        record = execution.steps.get(self.step_id)
        if record is not None:
            if record.kind != "step":
                raise StepConflictError(
                    f'{execution}: "{self.step_id}" is the id of a sleep already; give the step another id'
                )
            if record.status in {"completed", "skipped"}:
                value: ResultT = execution.codec.decode(record.result_data, self._returns, self.result_name)
                return value
        execution.begin_activity(self.step_id)
        run = StepRun(execution, self, record)
        try:
            result: ResultT = await execution.show(self.step_id, run.run())
        except Exception:
            if late_cancellations:
                await meet_late_cancellation()
            raise
        else:
            if late_cancellations:
                await meet_late_cancellation()
            return result
        finally:
            run.end()
            execution.end_activity(self.step_id)

    def __await__(self) -> Generator[Any, None, ResultT]:
        """Run the step: the same as ``execute()``."""
        return self.execute().__await__()


def _place_of(frame: FrameType) -> str:
    return f" (made at {frame.f_code.co_filename}:{frame.f_lineno})"
