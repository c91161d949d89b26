"""The part of a report about one test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflow_core.report.markup import Markup, tag
from workflow_core.report.scale import duration_text
from workflow_core.report.sections import badge, count, execution_section, seconds_text, texts

if TYPE_CHECKING:
    from pytest_workflow.report.model import Outcome, TestEntry
    from workflow_core.report.model import ExecutionEntry

__all__ = ["OUTCOME_SIGNS", "test_section"]

OUTCOME_SIGNS: dict[Outcome, str] = {
    "failed": "✗",
    "error": "!",
    "passed": "✓",
    "skipped": "-",
    "xfailed": "~",
    "xpassed": "?",
}


def test_section(test: TestEntry, number: int) -> Markup:
    """Return one test.

    Args:
        test: The test.
        number: Its number on the page, from which the ids of its events are made.
    """
    record = test.record
    workflows = list(dict.fromkeys(execution.workflow_name for execution in record.executions))
    steps = dict.fromkeys(step for execution in record.executions for step in _step_ids(execution))
    path, _, name = test.node_id.partition("::")
    head = tag(
        "summary",
        badge(test.outcome, OUTCOME_SIGNS[test.outcome]),
        tag("h3", name or path, " ", tag("span", path, class_="path") if name else Markup()),
        tag("span", ", ".join(workflows), class_="workflows"),
        tag(
            "span",
            tag("span", count(len(record.executions), "execution")),
            tag("span", duration_text(record.virtual_ms), " virtual"),
            tag("span", seconds_text(test.seconds), " real"),
            class_="facts",
        ),
    )
    body: list[Markup] = []
    if test.failure:
        body.append(texts("Failure", test.failure, opened=True))
    if record.problem:
        body.append(tag("p", record.problem, class_="note"))
    body += [texts(title, text) for title, text in record.sections]
    if not record.executions and not record.problem:
        body.append(tag("p", "This test started no execution.", class_="note"))
    body += [
        execution_section(execution, f"t{number}e{place}") for place, execution in enumerate(record.executions, start=1)
    ]
    return tag(
        "details",
        head,
        tag("div", *body, class_="body"),
        class_="test",
        id=f"t{number}",
        open=test.outcome in {"failed", "error"},
        data_outcome=test.outcome,
        data_search=" ".join([test.node_id, *workflows, *steps]).casefold(),
    )


test_section.__test__ = False  # type: ignore[attr-defined]  # it is no test, whatever its name


def _step_ids(execution: ExecutionEntry) -> list[str]:
    return [event.step_id for event in execution.events if event.step_id is not None]
