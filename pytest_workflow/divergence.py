"""How a replay can differ from its record, and how that is told."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from pytest_workflow.printing import harmless

if TYPE_CHECKING:
    from pytest_workflow.observed import Ask

__all__ = ["Divergence", "DivergenceKind", "ExecutionReplay", "ReplayDivergenceError", "ReplayReport"]

DivergenceKind: TypeAlias = Literal[
    "new", "missing", "renamed", "order", "duration", "kind", "result", "input", "raises", "ending", "output",
    "undefined", "captured", "environment", "unordered",
]  # fmt: skip
"""What differs; docs/replay.md explains each."""

_KEEP = "executions that are under way meet this; let them finish on the old code, or branch on something recorded"

_ADVICE: dict[DivergenceKind, str] = {
    "new": f"ask for new steps after all recorded ones, or where no execution has passed yet; {_KEEP}",
    "missing": f"go on asking for the step where it was; {_KEEP}",
    "renamed": "keep the recorded id: the id is what a result is found by, and under a new one the step runs again",
    "order": f"ask for the steps in the recorded order; {_KEEP}",
    "duration": "a sleep that began keeps its recorded length; give a sleep of another length a new id",
    "kind": "give the step or the sleep an id of its own: one id cannot be both",
    "result": "let the declared type accept what is stored, for example by a default for a new field, or give the step "
    "a new id",
    "input": "let the declared type of the input accept what is stored, for example by a default for a new field",
    "raises": "the handler's code between steps must accept all recorded results",
    "ending": "compare the handler's code between steps with the code that made the record",
    "output": "the handler's code between steps makes something else of the same results; move what is not determined "
    "by the input and the results into a step",
    "undefined": "import the module that defines the workflow, keep its definition for old executions, or name a "
    "workflow to replay",
    "captured": "get the value in a step of its own, so that it is recorded, and hand its result on",
    "unordered": "iterate over sorted(...): the order of a set of strings differs from process to process",
    "environment": "read it in a step, so that it is recorded: another process may have another value",
}


_ADVICE_FOR_THE_SAME_CODE = (
    "the code between the steps decides this anew whenever it runs, as after a crash, and not always in the same way: "
    "let a step decide it, so that it is recorded, and go by the step's result"
)
_WIDTH = 76
_MOST_NAMES = 5
_OF_ITS_OWN = frozenset({"captured", "unordered", "environment"})


class ReplayDivergenceError(AssertionError):
    """A replay differs from its record; the message tells where, and what to do."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first difference between an execution's record and its replay.

    Attributes:
        kind: What differs.
        what: The difference in one sentence.
        recorded: What the record holds.
        replayed: What today's code does.
        step_id: The step or sleep, if it is about one.
        site: Where in today's code, as ``file:line``; empty where no line can be named.
        hints: Further lines that may explain it.
        same_code: Whether it is the code that made the record that does something else, not a later one.
    """

    kind: DivergenceKind
    what: str
    recorded: str
    replayed: str
    step_id: str | None = None
    site: str = ""
    hints: tuple[str, ...] = ()
    same_code: bool = False

    @property
    def advice(self) -> str:
        """What to do about it."""
        if self.same_code and self.kind not in _OF_ITS_OWN:
            return _ADVICE_FOR_THE_SAME_CODE
        return _ADVICE[self.kind]

    def __str__(self) -> str:
        lines = [
            f"{self.what} [{self.kind}]",
            f"  recorded:   {self.recorded}",
            f"  {'run again: ' if self.same_code else 'today:     '} {self.replayed}",
        ]
        if self.site:
            lines.append(f"  where:      {self.site}")
        lines += [f"  perhaps:    {hint}" for hint in self.hints]
        indent = " " * 14
        advice = textwrap.fill(self.advice, _WIDTH, initial_indent=indent, subsequent_indent=indent)
        return "\n".join([*lines, f"  what to do: {advice.lstrip()}"])


@dataclass(frozen=True, slots=True)
class ExecutionReplay:
    """The replay of one execution.

    Attributes:
        execution_id: The execution.
        workflow_name: Its workflow.
        status: Its status in the record.
        divergence: The first difference; ``None`` if there is none.
        asked: What today's code asked for, in this order.
        next: What today's code does next, one line each, where the record ends before the execution did.
    """

    execution_id: str
    workflow_name: str
    status: str
    divergence: Divergence | None = None
    asked: tuple[Ask, ...] = ()
    next: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the replay is like the record."""
        return self.divergence is None

    def __str__(self) -> str:
        title = f'workflow "{self.workflow_name}", execution "{self.execution_id}" ({self.status} in the record)'
        if self.divergence is not None:
            return "\n".join([title, *(f"  {line}" for line in str(self.divergence).splitlines())])
        return "\n".join([f"{title}: as recorded", *(f"  next: {line}" for line in self.next)])


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """The replays of all executions of a source.

    Attributes:
        executions: Their replays, the first started first.
    """

    executions: tuple[ExecutionReplay, ...]

    @property
    def ok(self) -> bool:
        """Whether every replay is like its record."""
        return all(execution.ok for execution in self.executions)

    @property
    def divergences(self) -> tuple[Divergence, ...]:
        """The first difference of each execution that has one."""
        return tuple(execution.divergence for execution in self.executions if execution.divergence is not None)

    def __getitem__(self, execution_id: str) -> ExecutionReplay:
        for execution in self.executions:
            if execution.execution_id == execution_id:
                return execution
        raise KeyError(execution_id)

    def __str__(self) -> str:
        differing = [execution for execution in self.executions if not execution.ok]
        title = f"{len(differing)} of {len(self.executions)} replayed executions differ from their record"
        if any(divergence.same_code for divergence in self.divergences):
            title = (
                "the workflow is not deterministic: its code between the steps does something else when it runs again"
            )
        return harmless("\n\n".join([title, *(_grouped(differing) or map(str, self.executions))]))

    def __repr__(self) -> str:
        return f"<{len(self.divergences)} of {len(self.executions)} replayed executions differ: print() tells how>"

    def raise_for_divergences(self) -> ReplayReport:
        """Return this report if every replay is like its record.

        Raises:
            ReplayDivergenceError: One is not.
        """
        __tracebackhide__ = True
        if not self.ok:
            raise ReplayDivergenceError(str(self))
        return self


def _grouped(differing: list[ExecutionReplay]) -> list[str]:
    """Return each difference once, with the executions that have it."""
    groups: dict[tuple[str, str], list[ExecutionReplay]] = {}
    for execution in differing:
        groups.setdefault((execution.workflow_name, str(execution.divergence)), []).append(execution)
    return [str(first) + _and_others(others) for first, *others in groups.values()]


def _and_others(others: list[ExecutionReplay]) -> str:
    if not others:
        return ""
    names = ", ".join(f'"{execution.execution_id}"' for execution in others[:_MOST_NAMES])
    more = ", ..." if len(others) > _MOST_NAMES else ""
    return f"\n  the same in {len(others)} more: {names}{more}"
