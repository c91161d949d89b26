"""Every error that the engine raises, under one base class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pydantic
    from pydantic_core import ErrorDetails

__all__ = [
    "error_text",
    "printable",
    "shown",
    "WorkflowCoreError",
    "ValidationError",
    "UnstorableResultError",
    "WorkflowNotFoundError",
    "ExecutionNotFoundError",
    "ExecutionConflictError",
    "InvalidStateError",
    "StepConflictError",
    "StepFailure",
    "WorkflowError",
    "PanicError",
    "StepTimeoutError",
    "WorkflowTimeoutError",
    "CircuitOpenError",
    "StepInterruptedError",
    "ExecutionInterruptedError",
    "NonRetryableError",
    "RetryLaterError",
    "ConfigurationError",
    "MissingConfigurationError",
    "RecordedError",
    "LeaseLostError",
    "StorageError",
    "StorageReason",
    "SchemaVersionError",
    "WorkflowRedefinedWarning",
]


def error_text(error: object) -> str:
    """Return the message of an error, or the text of a part of it, so that it can be stored.

    Surrogates that stand alone, as in the names of files that are not UTF-8, are escaped: neither SQLite nor JSON takes
    them. Of an object whose own ``__str__`` fails, the text says so.
    """
    try:
        return printable(str(error))
    except Exception:  # noqa: BLE001 - another's class may fail in any way
        return f"(the text of this {type(error).__name__} cannot be read)"


def printable(text: str) -> str:
    """Return a text with the surrogates that stand alone escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shown(value: object, longest: int = 100) -> str:
    """Return a value as an error message shows it: in short, printable, and whatever its ``__repr__`` does.

    Args:
        value: Anything.
        longest: How many characters are shown.
    """
    try:
        text = repr(value[:longest] if isinstance(value, (str, bytes)) else value)
    except Exception:  # noqa: BLE001 - another's class may fail in any way, and numbers have a limit of digits
        text = f"a value of type {type(value).__name__} that cannot be shown"
    return printable(text)[:longest]


class WorkflowCoreError(Exception):
    """Base class of every error that the engine raises by itself."""


class ValidationError(WorkflowCoreError, ValueError):
    """An argument, configuration, input or result is not acceptable; nothing was written for a refused argument.

    Attributes:
        errors: The mistakes in pydantic's form, one dictionary each, with ``loc``, ``msg`` and ``type``. There is at
            least one, which is the message itself where the mistake has no place.
    """

    def __init__(self, message: str, errors: Sequence[ErrorDetails] = ()) -> None:
        super().__init__(message)
        self.errors: list[ErrorDetails] = list(errors) or [
            {"type": "value_error", "loc": (), "msg": message, "input": None}
        ]

    @classmethod
    def from_pydantic(cls, what: str, error: pydantic.ValidationError, *, with_input: bool = True) -> ValidationError:
        """Turn pydantic's error into ours, with the path of each mistake in the message.

        Args:
            what: What was being validated, for example ``"retry configuration"``.
            error: The error that pydantic raised.
            with_input: Whether `errors` holds what was given; not where that may be a secret.
        """
        details = error.errors(include_url=False, include_input=with_input)
        lines = [f"{'.'.join(str(part) for part in item['loc']) or 'value'}: {item['msg']}" for item in details]
        return cls(f"Invalid {what}: " + "; ".join(lines), details)


class UnstorableResultError(ValidationError):
    """A step's handler returned a value that would not come back equal, so the step failed; it is not retried."""


class WorkflowNotFoundError(WorkflowCoreError, LookupError):
    """No workflow of this name is defined in this process."""


class ExecutionNotFoundError(WorkflowCoreError, LookupError):
    """The store holds no execution of this id."""


class ExecutionConflictError(WorkflowCoreError):
    """An execution id is in use for another workflow or for another input."""


class InvalidStateError(WorkflowCoreError):
    """The execution's status does not allow what was asked for."""


class StepConflictError(WorkflowCoreError):
    """One step id was started twice at the same time in one execution."""


class StepFailure(WorkflowCoreError):  # noqa: N818 - a base class; its subclasses end in Error
    """What a step that ended an execution has in common, be it by failing or by a panic.

    Attributes:
        step_id: The step that failed; ``None`` when the workflow's own code raised.
        attempt: The attempt that failed, counted from 1.
        original_error: The error that the step raised.
    """

    def __init__(
        self, message: str, step_id: str | None = None, attempt: int = 1, original_error: BaseException | None = None
    ) -> None:
        super().__init__(message)
        self.step_id = step_id
        self.attempt = attempt
        self.original_error = original_error


class WorkflowError(StepFailure):
    """A step used up its attempts, so the execution failed."""


class PanicError(StepFailure):
    """A system-level error, or an unexpected one outside every step: the execution needs a restart.

    Attributes:
        indicator: What was recognised as a panic, such as ``"out of memory"`` or an error's class name.
    """

    def __init__(
        self,
        message: str,
        step_id: str | None = None,
        attempt: int = 1,
        original_error: BaseException | None = None,
        indicator: str | None = None,
    ) -> None:
        super().__init__(message, step_id, attempt, original_error)
        self.indicator = indicator


class StepTimeoutError(WorkflowCoreError, TimeoutError):
    """One attempt of a step took longer than its ``timeout_ms``."""


class WorkflowTimeoutError(WorkflowCoreError, TimeoutError):
    """An execution took longer than the ``timeout_ms`` it was started with."""


class CircuitOpenError(WorkflowCoreError):
    """The step's circuit breaker is open and the step has no ``on_open`` handler."""


class StepInterruptedError(WorkflowCoreError):
    """The process ended during an attempt, and no attempt is left."""


class ExecutionInterruptedError(WorkflowCoreError):
    """The process ended again and again while the execution's own code, outside of its steps' attempts, ran."""


class NonRetryableError(WorkflowCoreError):
    """Raise this, or a subclass, in a step to fail it at once: no further attempt is made."""


class RetryLaterError(WorkflowCoreError):
    """Raise this, or a subclass, in a step whose next attempt has to wait at least so long.

    The wait is the longer one of this and of the back-off, and ``RetryConfig.max_backoff_ms`` does not shorten it.

    Attributes:
        retry_after_ms: Milliseconds, as a service asks for by ``Retry-After``.
    """

    def __init__(self, message: str, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class ConfigurationError(NonRetryableError):
    """A workflow's ``config.json`` is wrong, or an environment variable that it names is not set.

    A step that meets it fails at once; correct the configuration and restart the execution.
    """


class MissingConfigurationError(ConfigurationError, KeyError):
    """A variable or a secret that a workflow asked for is not configured."""

    __str__ = Exception.__str__  # that of KeyError shows the message as a literal


class RecordedError(WorkflowCoreError):
    """Stands for an error of an earlier process whose own class cannot be built again.

    Attributes:
        error_type: The class name of the error as it was recorded.
        class_paths: Its class and the bases of that, the most specific first, each as ``module:name``. By these, and
            not by its own class, ``on_error`` and ``non_retryable`` recognise it.
    """

    def __init__(self, error_type: str, message: str, class_paths: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.class_paths = list(class_paths)


class LeaseLostError(WorkflowCoreError):
    """Another process has taken this execution over, or ended it: this one may no longer write.

    Attributes:
        execution_id: The execution; ``None`` for an error that no store raised.
    """

    def __init__(self, message: str, execution_id: str | None = None) -> None:
        super().__init__(message)
        self.execution_id = execution_id


StorageReason: TypeAlias = Literal[
    "full", "locked", "io", "read_only", "unavailable", "damaged", "closed", "schema", "other"
]
"""Why a database cannot be used; see `StorageError.reason`."""

_TRANSIENT: Final[frozenset[StorageReason]] = frozenset({"full", "locked", "io", "read_only", "unavailable"})


class StorageError(WorkflowCoreError):
    """The database could not be read or written; the message names the file and the reason.

    Attributes:
        location: Where the database lies; ``None`` for an error that no store raised.
        reason: ``"full"``: no room on the disk; ``"locked"``: another program holds a lock; ``"io"``: the disk reported
            an error; ``"read_only"``: this process may not write there; ``"unavailable"``: the server of the database
            cannot be reached, stops, or takes no more connections; ``"damaged"``: the file is not a database any more;
            ``"schema"``: it is one of a newer version, or of another program; ``"closed"``: the store was closed;
            ``"other"``: anything else.
    """

    def __init__(self, message: str, location: str | None = None, reason: StorageReason = "other") -> None:
        super().__init__(message)
        self.location = location
        self.reason: StorageReason = reason

    @property
    def is_transient(self) -> bool:
        """Whether the same database may work again later: executions wait for that, and go on by themselves."""
        return self.reason in _TRANSIENT


class SchemaVersionError(StorageError):
    """The database was written by a newer version of this library, or by another program."""

    def __init__(self, message: str, location: str | None = None, reason: StorageReason = "schema") -> None:
        super().__init__(message, location, reason)


class WorkflowRedefinedWarning(UserWarning):
    """A workflow name was defined again with another handler; the newer one is in force."""
