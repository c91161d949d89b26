"""What holds for every module of both packages."""

import ast
import re
from pathlib import Path

import pytest_workflow
import workflow_core

PACKAGES = [Path(package.__file__).parent for package in (workflow_core, pytest_workflow)]
MODULES = {
    path.relative_to(package.parent).as_posix(): path
    for package in PACKAGES
    for path in package.rglob("*")
    if path.suffix in {".py", ".html", ".js", ".css"}
}
MOST_LINES = 400
LONGER = {
    "workflow_core/database/store.py": "protocols: one method and its docstring for each durable point, and no code",
    "workflow_core/engine.py": "the engine's public face: half of its lines are docstrings of methods that hand on",
    "workflow_core/execution.py": "one execution in memory: what its handler, its steps and its engine share",
    "workflow_core/database/postgres/executions.py": "the durable points of executions on PostgreSQL, with their SQL",
}
"""The modules that are longer than `MOST_LINES`, and why each of them is still one subject."""


def lines(path):
    return path.read_text(encoding="utf-8").count("\n")


def test_a_module_is_short_or_says_why_not():
    long = sorted(name for name, path in MODULES.items() if lines(path) > MOST_LINES)
    assert len(MODULES) > 300
    assert long == sorted(LONGER), "split what is too long for one subject, or give a reason; strike what is not needed"


def test_no_statement_numbers_its_parameters():
    """Python 3.12.0 to 3.12.3 takes ``?1`` for a name, and warns of each value that is given by its position."""
    number = re.compile(r"[=(, ]\?\d")
    texts = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items() if path.suffix == ".py"}
    numbered = [
        f"{name}:{node.lineno}"
        for name, text in texts.items()
        if number.search(text)  # few have it, in a comment or a pattern
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and number.search(node.value)
    ]
    assert not numbered, "write ? and give the value as often as it is used"
