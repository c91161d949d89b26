"""What a report shows, as data: frozen models that travel as JSON from the process of a test to that of the run."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

from workflow_core.report.model import Entry, ExecutionEntry, Text

__all__ = [
    "OUTCOMES",
    "Outcome",
    "Report",
    "TestEntry",
    "WorkflowRecord",
]

Outcome: TypeAlias = Literal["failed", "error", "passed", "skipped", "xfailed", "xpassed"]

OUTCOMES: tuple[Outcome, ...] = ("failed", "error", "passed", "skipped", "xfailed", "xpassed")
"""The outcomes of tests, in the order in which a report names them."""


class WorkflowRecord(Entry):
    """What the engine of one test did.

    Attributes:
        virtual_ms: Virtual time that passed, in milliseconds.
        executions: The executions, the first started first.
        problem: Why they cannot be read, if so.
        sections: Further texts about the test, each with its title.
    """

    virtual_ms: float
    executions: tuple[ExecutionEntry, ...] = ()
    problem: Text | None = None
    sections: tuple[tuple[Text, Text], ...] = ()


class TestEntry(Entry):
    """One workflow test.

    Attributes:
        file: Its file, relative to the root directory.
        line: Its line there, counted from 0.
        outcome: How it ended, over set-up, call and tear-down.
        seconds: Real time that it took.
        failure: What pytest says about its failure.
    """

    __test__ = False

    node_id: Text
    file: Text
    line: int
    outcome: Outcome
    seconds: float
    failure: Text | None
    record: WorkflowRecord


class Report(Entry):
    """A whole report.

    Attributes:
        title: What was tested.
        written_at: When it was made; aware.
        tests: The workflow tests.
        other_tests: How many other tests ran.
        seconds: Real time of the whole run.
        environment: Versions, by name.
    """

    title: Text
    written_at: datetime
    tests: tuple[TestEntry, ...]
    other_tests: int
    seconds: float
    environment: dict[str, Text]
