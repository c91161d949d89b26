"""The report as one HTML page that needs nothing else: no network, no other file, and no data in its script."""

from __future__ import annotations

from collections import Counter
from importlib import resources
from typing import TYPE_CHECKING

from pytest_workflow.report.model import OUTCOMES
from pytest_workflow.report.sections import OUTCOME_SIGNS, test_section
from workflow_core.report.markup import Markup, join, tag
from workflow_core.report.page import key, page, written
from workflow_core.report.scale import duration_text
from workflow_core.report.sections import badge, count, seconds_text

if TYPE_CHECKING:
    from pytest_workflow.report.model import Report

__all__ = ["render"]

_EXAMPLE = """\
def test_the_greeting_survives_the_pause(workflow):
    result = workflow.run("greeting", "g-1", {"name": "ada"})
    assert result.status == "completed"
"""


def render(report: Report) -> str:
    """Return the page."""
    script = resources.files(__package__).joinpath("assets", "page.js").read_text(encoding="utf-8")
    return page(
        f"Workflow report: {report.title}",
        tag("a", "Skip to the tests", href="#tests", class_="skip"),
        _header(report),
        _main(report),
        script=script,
    )


# The top -------------------------------------------------------------------------------------------------------------


def _header(report: Report) -> Markup:
    versions = ", ".join(f"{name} {version}" for name, version in report.environment.items())
    return tag(
        "header",
        tag("h1", tag("span", "Workflow report", class_="kind"), " ", report.title),
        tag("p", written(report.written_at), f", {versions}", class_="written"),
        _summary(report) if report.tests else Markup(),
    )


def _summary(report: Report) -> Markup:
    outcomes = Counter(test.outcome for test in report.tests)
    executions = [execution for test in report.tests for execution in test.record.executions]
    statuses = Counter(execution.status for execution in executions)
    virtual_ms = sum(test.record.virtual_ms for test in report.tests)
    real = sum(test.seconds for test in report.tests)
    faster = virtual_ms / 1_000 / real if real > 0 else 0.0
    ran = f"of {report.other_tests + len(report.tests):,} tests in the run" if report.other_tests else ""
    figures = (
        (
            "Workflow tests",
            f"{len(report.tests):,}",
            join(*(tag("li", count_of(outcomes[kind], kind)) for kind in OUTCOMES if outcomes[kind])),
            ran,
        ),
        (
            "Executions",
            f"{len(executions):,}",
            join(*(tag("li", count_of(number, status)) for status, number in statuses.most_common())),
            "",
        ),
        (
            "Virtual time lived",
            duration_text(round(virtual_ms)),
            Markup(),
            f"{faster:,.0f} times as fast as real time" if faster >= 1 else "",
        ),
        (
            "Real time",
            seconds_text(real),
            Markup(),
            f"in a run of {seconds_text(report.seconds)}",
        ),
    )
    return tag(
        "dl",
        *(
            tag(
                "div",
                tag("dt", name),
                tag("dd", value, class_="figure"),
                tag("dd", tag("ul", parts)) if parts else Markup(),
                tag("dd", note, class_="aside") if note else Markup(),
            )
            for name, value, parts, note in figures
        ),
        class_="summary",
    )


def count_of(number: int, kind: str) -> Markup:
    """Return how many there are of one kind."""
    return join(f"{number:,} ", tag("span", kind, class_=f"word is-{kind}"))


# The tests -----------------------------------------------------------------------------------------------------------


def _main(report: Report) -> Markup:
    if not report.tests:
        return tag("main", _nothing(report), id="tests", tabindex="-1")
    sections = [test_section(test, number) for number, test in enumerate(report.tests, start=1)]
    return tag(
        "main",
        _filter(report),
        key("Time is virtual, and many events share one instant, so "),
        tag("h2", "Tests"),
        *sections,
        tag("p", "No test fits the filter.", id="none", hidden=True),
        id="tests",
        tabindex="-1",
    )


def _nothing(report: Report) -> Markup:
    ran = f"{count(report.other_tests, 'test')} ran, but none took" if report.other_tests else "No test ran that took"
    return tag(
        "section",
        tag("h2", "No workflow tests ran"),
        tag(
            "p",
            f"{ran} a workflow fixture. A test appears here when it takes the fixture ",
            tag("code", "workflow"),
            ":",
        ),
        tag("pre", _EXAMPLE),
        tag("p", "Was the run narrowed by a path, by -k or by -m? Then run it again without."),
        class_="nothing",
    )


def _filter(report: Report) -> Markup:
    present = Counter(test.outcome for test in report.tests)
    boxes = [
        tag(
            "label",
            tag("input", type="checkbox", name="outcome", value=kind, checked=True),
            " ",
            badge(kind, OUTCOME_SIGNS[kind]),
            f" {present[kind]:,}",
        )
        for kind in OUTCOMES
        if present[kind]
    ]
    return tag(
        "form",
        tag(
            "label",
            tag("span", "Filter by test, workflow or step"),
            tag("input", type="search", id="text", autocomplete="off", spellcheck="false"),
            class_="text",
        ),
        tag("fieldset", tag("legend", "Outcomes"), *boxes),
        tag(
            "div",
            tag("button", "Expand all", type="button", id="expand"),
            tag("button", "Collapse all", type="button", id="collapse"),
            class_="buttons",
        ),
        tag("p", count(len(report.tests), "test"), id="shown", role="status"),
        tag("p", *_keys(), class_="keys"),
        id="filter",
        hidden=True,
        role="search",
        aria_label="Tests",
    )


def _keys() -> list[Markup]:
    keys = (("/", "filter"), ("j", "next test"), ("k", "previous test"))
    return [join(tag("kbd", key), f" {text} ") for key, text in keys]
