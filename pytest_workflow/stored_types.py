"""Whether a stored value still fits the type that is declared for it today."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pydantic
import pydantic_core

if TYPE_CHECKING:
    from workflow_core.serialization import Codec, ReturnType

__all__ = ["stored_type_problem"]

_SHOWN = 300


def stored_type_problem(
    codec: Codec, stored: object, declared: ReturnType | None, *, only_read: bool = False
) -> tuple[str, str] | None:
    """Compare a stored value with a declared type.

    Args:
        codec: Reads stored values.
        stored: The stored value, as parsed JSON.
        declared: The declared type; ``None`` if none is declared.
        only_read: Whether it is enough that the engine can read it: plain JSON is read without a look at the type.

    Returns:
        What is stored and what is wrong with it, or ``None`` if it fits.
    """
    text = "null" if stored is None else pydantic_core.to_json(stored).decode()
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    try:
        value = codec.decode(None if stored is None else text, declared)
    except Exception as error:  # noqa: BLE001 - a user's type may refuse in any way
        return shown, f"{type(error).__name__}: {error}"
    adapter = declared.adapter() if declared is not None else None
    if adapter is None or only_read:
        return None
    try:
        fitting = adapter.validate_python(value)
    except pydantic.ValidationError as error:
        return shown, "; ".join(f"{'.'.join(map(str, item['loc']))} {item['msg']}".strip() for item in error.errors())
    if hasattr(fitting, "__next__") or fitting == value:  # what is declared as Iterable is not compared
        return None
    return shown, f"the engine reads {value!r:.100}, and the declared type would be {fitting!r:.100}"
