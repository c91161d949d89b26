"""In which order the steps of a declarative workflow run, and which of them need which."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["CycleError", "Needs", "Order", "ancestors", "order_of"]

Needs: TypeAlias = Mapping[str, Sequence[str]]
"""The steps that each step needs."""


class CycleError(ValueError):
    """Steps wait for each other.

    Attributes:
        cycle: Their ids, the first one again at the end.
    """

    def __init__(self, cycle: Sequence[str]) -> None:
        super().__init__(" → ".join(cycle))
        self.cycle = list(cycle)


@dataclass(frozen=True, slots=True)
class Order:
    """When a step may begin.

    Attributes:
        waits_for: The steps that have to end before each step begins, be it well or not.
        needs: The steps that have to succeed, or the step is skipped.
    """

    waits_for: Needs
    needs: Needs


def order_of(step_ids: Sequence[str], dependencies: Needs | None, references: Needs) -> Order:
    """Return the order of a document's steps.

    Args:
        step_ids: The steps as the document lists them.
        dependencies: What the document says; ``None`` if it says nothing, for any step: then the steps run one after
            the other, and a step needs those whose results it reads.
        references: The steps whose results each step reads.

    Raises:
        CycleError: Steps wait for each other.
    """
    if dependencies is None:
        following = zip(step_ids, ((), *((step_id,) for step_id in step_ids)), strict=False)
        return Order(dict(following), {step_id: references.get(step_id, ()) for step_id in step_ids})
    sorter = graphlib.TopologicalSorter(dependencies)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        raise CycleError(error.args[1]) from None
    return Order(dependencies, dependencies)


def ancestors(step_id: str, needs: Needs) -> set[str]:
    """Return the steps that a step waits for, directly or through others."""
    found: set[str] = set()
    pending = list(needs.get(step_id, ()))
    while pending:
        current = pending.pop()
        if current not in found:
            found.add(current)
            pending.extend(needs.get(current, ()))
    return found
