"""Errors to rows and back: what a handler is given after a crash must look like what it was given before.

An error is stored as its classes, its arguments and its attributes, each as far as it can be stored, and built again
from these by the classes that Python itself defines: no code of the error's own class runs, because that class need
not take the arguments that it passed on.
"""

from __future__ import annotations

import re
import traceback
from typing import TYPE_CHECKING, Any, cast

import pydantic_core

from workflow_core.database.store import ErrorRecord
from workflow_core.errors import PanicError, RecordedError, StepFailure, error_text, printable
from workflow_core.models import ErrorInfo
from workflow_core.serialization import class_path, find_class

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from workflow_core.serialization import Codec

__all__ = ["classes_of", "error_info", "error_name", "record_error", "rebuild_error", "type_names"]

_DEEPEST = 8
"""Errors inside an error are described so far down; one may hold itself."""


def error_name(error: BaseException) -> str:
    """Return the class name under which an error is recorded."""
    return error.error_type if isinstance(error, RecordedError) else type(error).__name__


def classes_of(error: BaseException, known_classes: Iterable[type] = ()) -> list[tuple[type | None, str]]:
    """Return the classes that an error answers to, each with its name, the most specific first.

    Args:
        error: The error; one that stands for another answers to that one's classes, not to its own.
        known_classes: Where the classes of such an error are looked for; one that is not among them is ``None``.
    """
    if not isinstance(error, RecordedError):
        return [(cls, cls.__name__) for cls in type(error).__mro__]
    known = {class_path(cls): cls for cls in known_classes}
    bases = [(known.get(path), re.split("[.:]", path)[-1]) for path in error.class_paths]
    return [(bases[0][0] if bases else None, error.error_type), *bases[1:]]


def type_names(error: BaseException) -> list[str]:
    """Return the class names that an error answers to, the most specific first."""
    return [name for _, name in classes_of(error)]


def record_error(
    error: BaseException, attempt: int, timestamp: int, codec: Codec, indicator: str | None = None
) -> ErrorRecord:
    """Describe an error so that it can be stored.

    Args:
        error: The error.
        attempt: The attempt that raised it.
        timestamp: When, in milliseconds since 1970.
        codec: Stores the error's arguments and attributes, as far as they can be stored, and knows the secrets that
            are masked in all that is.
        indicator: What makes it a panic, if it is one; what it was raised from is not stored, so this must be.
    """
    parts = _parts(error, codec)
    if indicator is not None:
        parts["panic"] = indicator
    redact = codec.secrets.redact
    return ErrorRecord(
        error_type=redact(error_name(error)),
        error_message=redact(error_text(error)),
        error_stack=redact(_stack(error)),
        error_data=pydantic_core.to_json(codec.secrets.redact_all(parts)).decode(),
        attempt=attempt,
        timestamp=timestamp,
    )


def error_info(error: BaseException, codec: Codec) -> ErrorInfo:
    """Describe an error that ended an execution, with secrets masked."""
    failure = error if isinstance(error, StepFailure) else None
    cause = error
    while isinstance(cause, StepFailure) and cause.original_error is not None:
        cause = cause.original_error
    redact = codec.secrets.redact
    indicator = error.indicator if isinstance(error, PanicError) else None
    return ErrorInfo(
        type=redact(error_name(cause)),
        message=redact(error_text(cause)),
        step_id=failure.step_id if failure is not None else None,
        attempt=failure.attempt if failure is not None else None,
        indicator=None if indicator is None else redact(indicator),
    )


def _stack(error: BaseException) -> str:
    try:
        lines = traceback.format_exception(error)
    except Exception:  # noqa: BLE001 - it asks the error for all that it has, which another's class may refuse
        lines = [*traceback.format_tb(error.__traceback__), f"{error_name(error)}: {error_text(error)}\n"]
    return printable("".join(lines))


def _parts(error: BaseException, codec: Codec, depth: int = 0) -> dict[str, object]:
    if isinstance(error, RecordedError):
        return {"classes": error.class_paths}
    parts: dict[str, object] = {"classes": [class_path(cls) for cls in type(error).__mro__]}
    if depth <= _DEEPEST:
        args, attributes = _taken_apart(error)
        named = {printable(name): _item(value, codec, depth) for name, value in attributes.items()}
        parts["args"] = [_item(arg, codec, depth) or _text_item(arg) for arg in args]
        parts["attributes"] = {name: item for name, item in named.items() if item is not None}
    return parts


def _builtin_base(cls: type[BaseException]) -> type[BaseException]:
    """Return the class whose memory layout the errors of a class have, of those that Python itself defines."""
    base: Any = cls
    while base.__module__ != "builtins":
        base = base.__base__
    return cast("type[BaseException]", base)


def _taken_apart(error: BaseException) -> tuple[tuple[object, ...], dict[str, object]]:
    """Return the arguments that make the error again, and what it has besides, both as Python itself tells them."""
    _, args, *rest = cast("tuple[Any, ...]", _builtin_base(type(error)).__reduce__(error))
    return args, {name: value for name, value in (rest[0] if rest else {}).items() if isinstance(name, str)}


def _item(value: object, codec: Codec, depth: int) -> dict[str, object] | None:
    """Describe an argument or attribute; return ``None`` if it cannot be stored."""
    try:
        if isinstance(value, BaseException):
            return {"error": _inner(value, codec, depth)}
        if isinstance(value, (list, tuple)) and value and all(isinstance(item, BaseException) for item in value):
            return {"errors": [_inner(item, codec, depth) for item in value]}
        return {"value": codec.encode(value, "a part of an error", secrets_allowed=True)[0]}
    except Exception:  # noqa: BLE001 - it is refused, or fails when it is asked what it is
        return None


def _inner(error: BaseException, codec: Codec, depth: int) -> dict[str, object]:
    return {"type": error_name(error), "message": error_text(error), **_parts(error, codec, depth + 1)}


def _text_item(arg: object) -> dict[str, object]:
    """Describe the text that stands in for an argument: there must be one, and an error's message is made of it."""
    return {"value": pydantic_core.to_json(error_text(arg)).decode()}


def rebuild_error(record: ErrorRecord, step_id: str, known_classes: Iterable[type], codec: Codec) -> Exception:
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
    known = {class_path(cls): cls for cls in known_classes}
    error = _built({"type": record.error_type, "message": record.error_message, **parts}, known, codec)
    if "panic" not in parts:
        return error
    panic = PanicError(record.error_message, step_id, record.attempt, error, parts["panic"])
    panic.__cause__ = error
    return panic


def _built(parts: dict[str, Any], known: Mapping[str, type], codec: Codec) -> Exception:
    paths: list[str] = parts.get("classes", [])
    cls = (known.get(paths[0]) or find_class(paths[0])) if paths else None
    if isinstance(cls, type) and issubclass(cls, Exception) and "args" in parts:
        try:
            return _put_together(cls, parts, known, codec)
        except Exception:  # noqa: BLE001, S110 - another's class may refuse in any way; the record itself remains
            pass
    return RecordedError(parts["type"], parts["message"], paths)


def _put_together(cls: type[Exception], parts: dict[str, Any], known: Mapping[str, type], codec: Codec) -> Exception:
    def read(item: dict[str, Any]) -> object:
        if "error" in item:
            return _built(item["error"], known, codec)
        if "errors" in item:
            return [_built(inner, known, codec) for inner in item["errors"]]
        return codec.decode(item["value"])

    base: Any = _builtin_base(cls)
    args = [read(item) for item in parts["args"]]
    error: Exception = base.__new__(cls, *args)
    base.__init__(error, *args)
    for name, item in parts["attributes"].items():
        object.__setattr__(error, name, read(item))
    return error
