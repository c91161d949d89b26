"""The documentation is true: its code runs, its links lead somewhere, and nothing public is missing from it."""

import re
from pathlib import Path

import pytest

import pytest_workflow
import workflow_core
from workflow_core.hookspecs import WorkflowHooks

pytest_plugins = ["pytester"]

for public in workflow_core.__all__:  # pytester forgets what is imported for the first time in one of its tests
    getattr(workflow_core, public)

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SAVED = re.compile(r"`([\w.]+\.(?:yaml|json))`:\n\n^```(?:yaml|json)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PLUGINS = {"hypothesispytest": "hypothesis", "anyio": "anyio", "benchmark": "benchmark", "pytest_cov": "--cov"}
"""Plugins that cost a process seconds to import, each with the word without which a page makes no use of it."""
LINK = re.compile(r"\[[^\]]+\]\((?!https?:)([^)#]+)(#[^)]*)?\)")


def blocks(page):
    return [found.group(1) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def saved_as(page, name):
    """Return the block that a page tells to save under this name."""
    text = page.read_text(encoding="utf-8")
    return BLOCK.search(text, text.index(f"`{name}`")).group(1)


def everything():
    return "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, pytester, monkeypatch):
    monkeypatch.setenv("WORKFLOW_DIR", str(pytester.path / "state"))
    for name, content in SAVED.findall(page.read_text(encoding="utf-8")):
        (pytester.path / name).write_text(content, encoding="utf-8")
    tests = 0
    script = []
    for number, block in enumerate(blocks(page)):
        for module in ("orders", "shop"):
            if re.search(rf"^(import|from) {module}\b", block, re.MULTILINE):
                pytester.makepyfile(**{module: saved_as(page, f"{module}.py")})
        if "def test_" in block:
            tests += 1
            pytester.makepyfile(**{f"test_block_{number}": block})
        elif page.name not in {"README.md", "index.md"}:  # whose blocks are files
            script.append(block)
    for _ in range(2 if script else 0):  # a page that left something behind would not run again
        exec(compile("\n".join(script), str(page), "exec"), {"__name__": "page"})  # noqa: S102 - our own documentation
    if tests:
        update = ["--snapshot-update"] if page.name == "snapshots.md" else []
        text = page.read_text(encoding="utf-8")
        unused = [f"-pno:{name}" for name, word in PLUGINS.items() if word not in text]
        result = pytester.runpytest_subprocess(
            *("-q", "-pno:cacheprovider", "-pno:randomly", "-pno:xdist", "-o", "asyncio_mode=strict"), *unused, *update
        )
        assert result.ret == 0, result.stdout.str()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for found in LINK.finditer(page.read_text(encoding="utf-8")):
        assert (page.parent / found.group(1)).exists(), found.group(0)


def test_every_guarantee_is_shown_by_a_test_that_exists():
    text = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| (?!promise\b)", line)]
    assert len(rows) > 10
    for row in rows:
        shown_by = row.rstrip("| ").rpartition(" | ")[2]
        tests = re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", shown_by)
        assert tests, f"no test shows this: {row}"
        for name, path in tests:
            source = (ROOT / path).read_text(encoding="utf-8")
            assert re.search(rf"^ *(async )?def {name}\(", source, re.MULTILINE), f"{path} has no {name}"


def test_every_hook_is_documented():
    text = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    for name in vars(WorkflowHooks):
        if not name.startswith("_"):
            assert f"`{name}(" in text, name


def test_every_fixture_option_and_marker_is_documented(pytester):
    text = everything()
    scope = "asyncio_default_fixture_loop_scope=function"  # pytest-asyncio warns where nobody has chosen
    listed, marked, helped = (
        pytester.runpytest_inprocess(*asked, "-o", scope).stdout.str()
        for asked in (["--fixtures", "-q"], ["--markers"], ["--help"])
    )
    fixtures = re.findall(r"^(workflow\w*)\b", listed, re.MULTILINE)
    assert "workflow_faults" in fixtures
    markers = re.findall(r"pytest\.mark\.(workflow_\w+)", marked)
    options = re.findall(r"--workflow-[\w-]+", helped)
    for name in {*fixtures, *markers, *options}:
        assert name in text, name


def test_every_column_is_documented(workflow_db):
    text = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    tables = {"executions": "executions", "circuit_breakers": "circuit_breaker_state"}
    for method in ("executions", "steps", "step_errors", "step_events", "circuit_breakers"):
        found = re.search(rf"^\| `{method}\(\w*\)` \| (.*) \|$", text, re.MULTILINE)
        cursor = workflow_db.connection.execute(f"SELECT * FROM {tables.get(method, method)}")
        assert re.findall(r"`(\w+)`", found.group(1)) == [column[0] for column in cursor.description]


def test_every_public_name_is_documented():
    text = everything()
    missing = [
        name for name in {*workflow_core.__all__, *pytest_workflow.__all__} if not re.search(rf"\b{name}\b", text)
    ]
    assert not missing
