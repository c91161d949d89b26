"""Errors to rows and back: what a handler is given after a crash must look like what it was given before."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import pydantic_core

from workflow_core.database.store import ErrorRecord
from workflow_core.errors import PanicError, RecordedError, ValidationError, error_text, printable
from workflow_core.serialization import find_class

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workflow_core.serialization import Codec

__all__ = ["error_name", "record_error", "rebuild_error", "type_names"]


def error_name(error: BaseException) -> str:
    """Return the class name under which an error is recorded."""
    return error.error_type if isinstance(error, RecordedError) else type(error).__name__


def type_names(error: BaseException) -> list[str]:
    """Return the class names that an error answers to, the most specific first."""
    if isinstance(error, RecordedError):
        return [error.error_type, *getattr(error, "base_types", ())]
    return [cls.__name__ for cls in type(error).__mro__]


def _class_path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def record_error(
    error: BaseException, attempt: int, timestamp: int, codec: Codec, indicator: str | None = None
) -> ErrorRecord:
    """Describe an error so that it can be stored.

    Args:
        error: The error.
        attempt: The attempt that raised it.
        timestamp: When, in milliseconds since 1970.
        codec: Stores the error's arguments and attributes, as far as they can be stored.
        indicator: What makes it a panic, if it is one; what it was raised from is not stored, so this must be.
    """
    parts: dict[str, object] = {
        "class": _class_path(type(error)),
        "bases": [cls.__name__ for cls in type(error).__mro__[1:]],
    }
    if indicator is not None:
        parts["panic"] = indicator
    try:
        parts["args"] = codec.encode(list(error.args), "the arguments of an error")[0]
        parts["state"] = codec.encode(dict(error.__dict__), "the attributes of an error")[0]
    except ValidationError:
        parts.pop("args", None)
    return ErrorRecord(
        error_type=error_name(error),
        error_message=error_text(error),
        error_stack=printable("".join(traceback.format_exception(error))),
        error_data=pydantic_core.to_json(parts).decode(),
        attempt=attempt,
        timestamp=timestamp,
    )


def rebuild_error(
    record: ErrorRecord, step_id: str, known_classes: Iterable[type[BaseException]], codec: Codec
) -> Exception:
    """Build the error that a record stands for.

    Args:
        record: The record.
        step_id: The step that met the error.
        known_classes: Classes to recognise besides those in loaded modules, such as the keys of ``on_error``.
        codec: Reads the arguments and attributes.

    Returns:
        An error of the recorded class, or a `RecordedError` if that cannot be built; of a panic, a `PanicError` with
        that as its original error.
    """
    parts: dict[str, Any] = pydantic_core.from_json(record.error_data or "{}")
    error = _rebuilt(record, parts, known_classes, codec)
    if "panic" not in parts:
        return error
    panic = PanicError(record.error_message, step_id, record.attempt, error, parts["panic"])
    panic.__cause__ = error
    return panic


def _rebuilt(
    record: ErrorRecord, parts: dict[str, Any], known_classes: Iterable[type[BaseException]], codec: Codec
) -> Exception:
    path = str(parts.get("class", ""))
    by_path = {_class_path(cls): cls for cls in known_classes}
    cls = by_path.get(path) or find_class(path)
    if isinstance(cls, type) and issubclass(cls, Exception) and "args" in parts:
        try:
            args = codec.decode(parts["args"]) or []
            error = cls.__new__(cls, *args)
            error.args = tuple(args)
            error.__dict__.update(codec.decode(parts["state"]) or {})
        except Exception:  # noqa: BLE001, S110 - another's class may refuse in any way; the record itself remains
            pass
        else:
            return error
    recorded = RecordedError(record.error_type, record.error_message)
    recorded.base_types = list(parts.get("bases", ()))  # type: ignore[attr-defined]
    return recorded
