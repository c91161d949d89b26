"""Workflow coverage as one page of HTML, without scripts and without anything from elsewhere."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from pytest_workflow.coverage_report import (
    HEADINGS,
    LEGEND,
    columns,
    has_handlers,
    never_entered,
    never_failed,
    plain,
    shown_step,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_workflow.coverage import RunCoverage, Tests, WorkflowCoverage

__all__ = ["page"]

_STYLE: Final = """
:root { color-scheme: light dark; --text: #1b1f24; --back: #fff; --line: #d0d7de; --soft: #57606a; --head: #f6f8fa;
  --yes: #0a5c2b; --yes-back: #dcf5e3; --no: #8e1519; --no-back: #fde4e3; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --back: #0d1117; --line: #30363d; --soft: #9198a1; --head: #161b22;
    --yes: #7ee2a0; --yes-back: #0f2a1a; --no: #ffa198; --no-back: #3a1518; }
}
body { margin: 0 auto; max-width: 90rem; padding: 1.5rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
p { max-width: 50rem; } .soft { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { border: 1px solid var(--line); padding: .3rem .6rem; text-align: center; }
thead th { background: var(--head); }
tbody th { font-weight: 600; text-align: left; } tbody th.handler { font-weight: 400; padding-left: 1.8rem; }
td.yes { background: var(--yes-back); color: var(--yes); } td.no { background: var(--no-back); color: var(--no); }
td.na { color: var(--soft); } td.yes span { border-bottom: 1px dotted; cursor: help; }
a { color: inherit; }
"""

_SHOWN_TESTS: Final = 20
"""A cell's tooltip names this many tests at most."""


def page(coverage: RunCoverage) -> str:
    """Return the page.

    Args:
        coverage: What was seen.
    """
    return "\n".join(_page(coverage)) + "\n"


def _page(coverage: RunCoverage) -> Iterator[str]:
    share = coverage.share
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Workflow coverage: {share.shown}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>"
    yield f"<h1>Workflow coverage: {share.shown}</h1>"
    yield f"<p>{share.covered} of {share.total} things that can happen to steps and handlers were made to happen by a "
    yield f'test.</p>\n<p class="soft">Cells tell {escape(LEGEND)}.</p>'
    yield from _summary(coverage)
    for number, (name, workflow) in enumerate(coverage):
        yield f'<section aria-labelledby="w{number}">\n<h2 id="w{number}">{_text(name)}: {workflow.share.shown}</h2>'
        yield from _workflow(name, workflow)
        yield "</section>"
    yield "</main>\n</body>\n</html>"


def _text(text: str) -> str:
    return escape(plain(text))


def _summary(coverage: RunCoverage) -> Iterator[str]:
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("workflow", "tests", "covered", "share"))
    yield f'<div class="scroll"><table>\n<caption>All workflows</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>'
    for number, (name, workflow) in enumerate(coverage):
        share = workflow.share
        cells = (
            f"{_cell(workflow.tests)}<td>{share.covered} of {share.total}</td><td>{share.shown}</td>"
            if workflow.tests
            else f"{_cell(workflow.tests)}{_cell(None)}<td>{share.shown}</td>"
        )
        yield f'<tr><th scope="row"><a href="#w{number}">{_text(name)}</a></th>{cells}</tr>'
    yield "</tbody></table></div>"


def _workflow(name: str, workflow: WorkflowCoverage) -> Iterator[str]:
    if not workflow.tests:
        yield "<p>No test ran this workflow, so its steps are not known.</p>"
        return
    if not workflow.steps:
        yield "<p>It has no step.</p>"
        return
    shown = columns(workflow)
    with_handlers = has_handlers(workflow)
    heads = ["step", *(HEADINGS[outcome] for outcome in shown), *(["entered"] if with_handlers else [])]
    row = "".join(f'<th scope="col">{head}</th>' for head in heads)
    yield f'<div class="scroll"><table>\n<caption>Steps and handlers of {_text(name)}</caption>'
    yield f"<thead><tr>{row}</tr></thead>\n<tbody>"
    for step_id, step in workflow.steps.items():
        cells = "".join(_cell(step.outcomes.get(outcome)) for outcome in shown)
        last = _cell(None) if with_handlers else ""
        yield f'<tr><th scope="row">{escape(shown_step(step_id, step))}</th>{cells}{last}</tr>'
        for handler, tests in step.handlers.items():
            cells = _cell(None) * len(shown) + _cell(tests)
            yield f'<tr><th scope="row" class="handler">{_text(handler)}</th>{cells}</tr>'
    yield "</tbody></table></div>"
    for title, names in (
        ("No test made these steps fail", never_failed(workflow)),
        ("No test entered these handlers", never_entered(workflow)),
    ):
        if names:
            yield f"<p>{title}: {escape(', '.join(names))}.</p>"


def _cell(tests: Tests | None) -> str:
    if tests is None:
        return '<td class="na">-</td>'
    if not tests:
        return '<td class="no">never</td>'
    names = sorted(tests)
    further = [f"and {len(names) - _SHOWN_TESTS} more"] if len(names) > _SHOWN_TESTS else []
    tip = "&#10;".join(_text(name) for name in [*names[:_SHOWN_TESTS], *further])
    return f'<td class="yes"><span title="{tip}">{len(names)}</span></td>'
