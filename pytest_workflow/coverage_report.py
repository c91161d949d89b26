"""Workflow coverage for the terminal: a table for each workflow, a summary, and what no test made fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tabulate import SEPARATING_LINE, tabulate

from pytest_workflow.coverage import OUTCOMES, Outcome, RunCoverage, Share, StepCoverage, Tests, WorkflowCoverage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "HEADINGS",
    "LEGEND",
    "has_handlers",
    "never_entered",
    "never_failed",
    "plain",
    "shown_step",
    "terminal_report",
]

HEADINGS: Final[dict[Outcome, str]] = {
    "failed": "failed",
    "retried": "retried to success",
    "exhausted": "failed for good",
    "panicked": "panicked",
    "circuit_open": "circuit open",
    "crashed_before": "crash before commit",
    "crashed_after": "crash after commit",
    "timed_out": "timed out",
    "slept": "slept",
}

LEGEND: Final = "how many tests made it happen; never: none did; -: it cannot happen"


def plain(text: str) -> str:
    """Return a name without what a terminal would obey: names of handlers may hold anything."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def shown_step(step_id: str, step: StepCoverage) -> str:
    """Name a step, or a group of them."""
    return plain(step_id) if step.ids == 1 else f"{plain(step_id)} ({step.ids} ids)"


def columns(workflow: WorkflowCoverage) -> list[Outcome]:
    """Return the outcomes that can happen to any of its steps."""
    return [outcome for outcome in OUTCOMES if any(outcome in step.outcomes for step in workflow.steps.values())]


def has_handlers(workflow: WorkflowCoverage) -> bool:
    """Tell whether the workflow has handlers."""
    return any(step.handlers for step in workflow.steps.values())


def never_failed(workflow: WorkflowCoverage) -> list[str]:
    """Return the steps that no test made fail in any way; a step whose circuit was open did fail."""
    return [
        shown_step(step_id, step)
        for step_id, step in workflow.steps.items()
        if "failed" in step.outcomes and not step.outcomes["failed"] and not step.outcomes.get("circuit_open")
    ]


def never_entered(workflow: WorkflowCoverage) -> list[str]:
    """Return the handlers that no test entered, each with its step."""
    return [
        f"{plain(handler)} of {shown_step(step_id, step)}"
        for step_id, step in workflow.steps.items()
        for handler, tests in step.handlers.items()
        if not tests
    ]


def terminal_report(coverage: RunCoverage, never: Callable[[str], str] = str) -> Iterator[str]:
    """Return the lines of the report.

    Args:
        coverage: What was seen.
        never: Paints what is missing.
    """
    ran = [(name, workflow) for name, workflow in coverage if workflow.tests]
    yield f"Cells: {LEGEND}."
    for name, workflow in ran:
        if workflow.steps:
            yield ""
            yield f"{plain(name)}: {_explained(workflow.share)}"
            yield from _table(workflow, never).splitlines()
    yield ""
    yield from _summary(coverage, never).splitlines()
    yield from _missing("step", "that no test made fail", [(name, never_failed(workflow)) for name, workflow in ran])
    yield from _missing("handler", "that no test entered", [(name, never_entered(workflow)) for name, workflow in ran])


def _explained(share: Share) -> str:
    return f"{share.shown} ({share.covered} of {share.total})"


def _table(workflow: WorkflowCoverage, never: Callable[[str], str]) -> str:
    shown = columns(workflow)

    def cell(tests: Tests | None) -> str:
        return "-" if tests is None else str(len(tests)) if tests else never("never")

    with_handlers = has_handlers(workflow)
    rows: list[list[str] | str] = []
    for step_id, step in workflow.steps.items():
        rows.append([shown_step(step_id, step), *(cell(step.outcomes.get(outcome)) for outcome in shown)])
        rows.extend(
            [f"> {plain(handler)}", *[""] * len(shown), cell(tests)] for handler, tests in step.handlers.items()
        )
    # Headings that are rows, with a word on each line, make a narrower table than tabulate's own headings.
    heads = ["step", *(HEADINGS[outcome] for outcome in shown), *(["entered"] if with_handlers else [])]
    rows[:0] = [[head.replace(" ", "\n") for head in heads], SEPARATING_LINE]
    return tabulate(rows, tablefmt="simple", disable_numparse=True)


def _summary(coverage: RunCoverage, never: Callable[[str], str]) -> str:
    rows = [
        [
            plain(name),
            str(len(workflow.tests)),
            f"{workflow.share.covered}/{workflow.share.total}",
            workflow.share.shown,
        ]
        if workflow.tests
        else [plain(name), never("never"), "-", Share(0, 1).shown]
        for name, workflow in coverage
    ]
    total = coverage.share
    rows.append(["in all", "", f"{total.covered}/{total.total}", total.shown])
    alignment = ("left", "right", "right", "right")
    return tabulate(
        rows, ["workflow", "tests", "covered", "share"], tablefmt="simple", disable_numparse=True, colalign=alignment
    )


def _missing(what: str, title: str, missing: list[tuple[str, list[str]]]) -> Iterator[str]:
    count = sum(len(names) for _, names in missing)
    if count:
        yield ""
        yield f"{count} {what}{'s' if count != 1 else ''} {title}:"
        yield from (f"  {plain(workflow)}: {', '.join(names)}" for workflow, names in missing if names)
