"""Which tests reach a mutant: those that run the statement that it changes, when nothing is changed.

mutmut knows which tests call a function; of a long one most of them do not come where a mutant is.
"""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING, TypeAlias

import coverage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"


class Recording:
    """Notes which test runs which lines of files of mutants, none of which is tried.

    Args:
        files: The files.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        included = [str(file.resolve()) for file in files]
        self._coverage = coverage.Coverage(data_file=None, config_file=False, include=included)
        self._coverage.start()

    def begins(self, test: str) -> None:
        """Note what runs from now on as run by a test."""
        self._coverage.switch_context(test)

    def write(self, to: Path) -> None:
        """Write, as JSON, the tests of each line of each file."""
        self._coverage.stop()
        data = self._coverage.get_data()
        found = {str(file): data.contexts_by_lineno(str(file.resolve())) for file in self._files}
        to.write_text(json.dumps(found), encoding="utf-8")


class Reach:
    """The tests that reach the mutants of a file.

    Args:
        file: The file.
        recorded: What `Recording.write` has written.
    """

    def __init__(self, file: Path, recorded: Path) -> None:
        text = file.read_text(encoding="utf-8")
        self._lines = text.splitlines()
        nodes = ast.walk(ast.parse(text))
        self._functions = {
            node.name: node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        }
        tests_of_lines = json.loads(recorded.read_text(encoding="utf-8"))[str(file)]
        self._tests = {int(line): set(tests) for line, tests in tests_of_lines.items()}

    def tests(self, name: str) -> set[str] | None:
        """Return the ids of the tests that reach a mutant; ``None`` if it is in no statement of the function."""
        mutant = self._functions[name.rpartition(".")[2]]
        original = self._functions[f"{mutant.name.rpartition('_')[0]}_orig"]
        changed = next(
            number
            for number, (before, after) in enumerate(zip(self._text(original), self._text(mutant), strict=False))
            if before != after.replace(mutant.name, original.name)
        )
        statement = _lines_of_statement(original, original.lineno + changed)
        return None if statement is None else set().union(*(self._tests.get(line, ()) for line in statement))

    def _text(self, function: Function) -> list[str]:
        return self._lines[function.lineno - 1 : function.end_lineno]


def _lines_of_statement(function: Function, line: int) -> range | None:
    """Return the lines of the innermost statement around a line, without the block below it."""
    innermost = None
    for body in function.body:
        for node in ast.walk(body):
            if isinstance(node, (ast.stmt, ast.ExceptHandler)):
                block = getattr(node, "body", None)
                end = block[0].lineno if block else (node.end_lineno or node.lineno) + 1
                if node.lineno <= line < end and (innermost is None or node.lineno >= innermost.start):
                    innermost = range(node.lineno, end)
    return innermost
