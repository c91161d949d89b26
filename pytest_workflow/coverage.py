"""What the tests of a run made happen to steps and their handlers: a model that merges, groups and becomes JSON."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["OUTCOMES", "Outcome", "RunCoverage", "Share", "StepCoverage", "Tests", "WorkflowCoverage"]

Outcome: TypeAlias = Literal[
    "failed",
    "retried",
    "exhausted",
    "panicked",
    "circuit_open",
    "crashed_before",
    "crashed_after",
    "timed_out",
    "slept",
]

OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)
"""What can happen to a step or a sleep.

``failed``: an attempt ended with an error. ``retried``: a later attempt succeeded. ``exhausted``: the step failed for
good. ``panicked``: it made the execution panic. ``circuit_open``: it met its open circuit. ``crashed_before`` and
``crashed_after``: the process died when the step was begun and had no result yet, or when its result was stored; an
engine went on with the execution. ``timed_out``: an attempt took longer than ``timeout_ms``. ``slept``: a sleep passed.
"""

Tests: TypeAlias = set[str]
"""The node ids of the tests that made something happen; empty if none did."""

_DIGITS = re.compile(r"([0-9]+)")


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole: how many things were tested, of how many there are."""

    covered: int = 0
    total: int = 0

    def __add__(self, other: Share) -> Share:
        return Share(self.covered + other.covered, self.total + other.total)

    @property
    def percent(self) -> float:
        """The share in percent; nothing of nothing is all of it."""
        return 100 * self.covered / self.total if self.total else 100.0

    @property
    def shown(self) -> str:
        """The share as text, rounded down, so that ``100%`` is said of the whole alone."""
        tenths = 1_000 * self.covered // self.total if self.total else 1_000
        return f"{tenths // 10}%" if tenths % 10 == 0 else f"{tenths // 10}.{tenths % 10}%"

    @classmethod
    def of(cls, cells: Iterable[Tests]) -> Share:
        """Count the cells that have a test."""
        tested = [bool(tests) for tests in cells]
        return cls(sum(tested), len(tested))


@dataclass(slots=True)
class StepCoverage:
    """What was seen of one step or sleep, or of a group of them.

    Attributes:
        outcomes: The tests of each outcome that can happen to it; what cannot happen has no entry.
        handlers: The tests that entered each of its handlers.
        ids: How many step ids this stands for.
    """

    outcomes: dict[Outcome, Tests] = field(default_factory=dict)
    handlers: dict[str, Tests] = field(default_factory=dict)
    ids: int = 1

    def can(self, outcomes: Iterable[Outcome], handlers: Iterable[str] = ()) -> None:
        """Note what can happen to it."""
        for outcome in outcomes:
            self.outcomes.setdefault(outcome, set())
        for handler in handlers:
            self.handlers.setdefault(handler, set())

    def add(self, other: StepCoverage) -> None:
        """Add what was seen elsewhere."""
        for outcome, tests in other.outcomes.items():
            self.outcomes.setdefault(outcome, set()).update(tests)
        for handler, tests in other.handlers.items():
            self.handlers.setdefault(handler, set()).update(tests)

    @property
    def share(self) -> Share:
        """The outcomes and handlers that some test made happen."""
        return Share.of((*self.outcomes.values(), *self.handlers.values()))


@dataclass(slots=True)
class WorkflowCoverage:
    """What was seen of one workflow.

    Attributes:
        tests: The tests that ran it.
        steps: Its steps and sleeps by id, in the order they were met.
    """

    tests: Tests = field(default_factory=set)
    steps: dict[str, StepCoverage] = field(default_factory=dict)

    def step(self, step_id: str) -> StepCoverage:
        """Return what was seen of a step, to be added to."""
        return self.steps.setdefault(step_id, StepCoverage())

    def add(self, other: WorkflowCoverage) -> None:
        """Add what was seen elsewhere."""
        self.tests.update(other.tests)
        for step_id, step in other.steps.items():
            self.step(step_id).add(step)

    def grouped(self) -> WorkflowCoverage:
        """Return the same with one entry for all step ids that differ in digits alone, named as ``item-*``."""
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for step_id in self.steps:
            alike[_DIGITS.sub("0", step_id)].append(step_id)
        result = WorkflowCoverage(self.tests)
        for step_ids in alike.values():
            group = StepCoverage(ids=len(step_ids))
            for step_id in step_ids:
                group.add(self.steps[step_id])
            result.steps[_common_name(step_ids)] = group
        return result

    @property
    def share(self) -> Share:
        """The share of what is known of it; a workflow that no test ran counts as one thing that is missing."""
        if not self.tests:
            return Share(0, 1)
        return sum((step.share for step in self.steps.values()), Share())


def _common_name(step_ids: list[str]) -> str:
    parts = zip(*(_DIGITS.split(step_id) for step_id in step_ids), strict=True)
    return "".join(same[0] if len(set(same)) == 1 else "*" for same in parts)


class RunCoverage:
    """What was seen in a whole run of pytest, or in a part of it."""

    def __init__(self) -> None:
        self.workflows: dict[str, WorkflowCoverage] = {}

    def workflow(self, name: str) -> WorkflowCoverage:
        """Return what was seen of a workflow, to be added to; asking for it makes it known."""
        return self.workflows.setdefault(name, WorkflowCoverage())

    def __iter__(self) -> Iterator[tuple[str, WorkflowCoverage]]:
        return iter(sorted(self.workflows.items()))

    def add(self, other: RunCoverage) -> None:
        """Add what was seen elsewhere; adding the same twice changes nothing."""
        for name, workflow in other.workflows.items():
            self.workflow(name).add(workflow)

    def only(self, patterns: Iterable[str]) -> RunCoverage:
        """Return the same for the workflows whose names match one of the globs."""
        patterns = tuple(patterns)
        result = RunCoverage()
        result.workflows = {
            name: workflow
            for name, workflow in self.workflows.items()
            if any(fnmatchcase(name, pattern) for pattern in patterns)
        }
        return result

    def grouped(self) -> RunCoverage:
        """Return the same with dynamic step ids grouped, see `WorkflowCoverage.grouped`."""
        result = RunCoverage()
        result.workflows = {name: workflow.grouped() for name, workflow in self.workflows.items()}
        return result

    @property
    def share(self) -> Share:
        """The share over all workflows, in which each outcome and handler counts the same."""
        return sum((workflow.share for workflow in self.workflows.values()), Share())

    # JSON ------------------------------------------------------------------------------------------------------------

    def to_json(self, indent: int | None = None) -> str:
        """Return everything as JSON in ASCII, with the shares, which are derived, beside the data."""
        document = {
            "format": 1,
            **_shown_share(self.share),
            "workflows": {
                name: {
                    **_shown_share(workflow.share),
                    "tests": sorted(workflow.tests),
                    "steps": {
                        step_id: {
                            "ids": step.ids,
                            "outcomes": {name: sorted(tests) for name, tests in step.outcomes.items()},
                            "handlers": {name: sorted(tests) for name, tests in step.handlers.items()},
                        }
                        for step_id, step in workflow.steps.items()
                    },
                }
                for name, workflow in self
            },
        }
        return json.dumps(document, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> RunCoverage:
        """Return what `to_json` wrote.

        Raises:
            ValueError: It is something else.
        """
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("format") != 1:
            raise ValueError("this is not workflow coverage of format 1")
        result = cls()
        for name, workflow in document["workflows"].items():
            known = result.workflow(name)
            known.tests = set(workflow["tests"])
            for step_id, step in workflow["steps"].items():
                known.steps[step_id] = StepCoverage(
                    {name: set(tests) for name, tests in step["outcomes"].items()},
                    {name: set(tests) for name, tests in step["handlers"].items()},
                    step["ids"],
                )
        return result


def _shown_share(share: Share) -> dict[str, int | float]:
    return {"covered": share.covered, "total": share.total, "percent": round(share.percent, 2)}
