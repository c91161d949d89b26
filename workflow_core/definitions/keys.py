"""How documents and the configurations of executors name their fields: in camelCase, or as it is in Python."""

from __future__ import annotations

from typing import Final

from pydantic import ConfigDict
from pydantic.alias_generators import to_camel

__all__ = ["KEYS"]

KEYS: Final = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)
"""The configuration of a model that is read from a document."""
