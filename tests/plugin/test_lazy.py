"""A run without workflow tests pays for the plugin's own four modules alone."""

from __future__ import annotations

import sys
from unittest.mock import patch

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
    import sys

    def pytest_sessionfinish():
        # Written rather than printed: nothing may come between it and the end of the session.
        with open("modules.txt", "w") as file:
            file.write("\\n".join(sorted(sys.modules)))
"""


@pytest.fixture
def modules_at_the_end(pytester, monkeypatch):
    """Run the tests in a process of their own, and return the names of the modules it had imported at its end."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(CONFTEST)

    def run(*arguments):
        result = pytester.runpytest_subprocess("-p", "pytest_workflow.entry", *arguments, timeout=60)
        assert result.ret in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
        return set((pytester.path / "modules.txt").read_text().split())

    return run


HEAVY = {"workflow_core", "pydantic", "pydantic_core", "freezegun", "sqlite3", "tabulate", "asyncio"}
if sys.version_info >= (3, 14):
    HEAVY.remove("asyncio")  # pdb, which pytest imports, imports it by itself


@pytest.mark.parametrize("arguments", [[], ["--workflow-store=file"], ["-v", "-rA"]])
def test_without_workflow_tests(pytester, modules_at_the_end, arguments):
    pytester.makepyfile(
        """
        def test_passes(tmp_path): ...

        def test_fails():
            assert [1] == [2]
        """
    )
    modules = modules_at_the_end(*arguments)
    assert {name for name in modules if name.partition(".")[0] == "pytest_workflow"} == {
        "pytest_workflow",
        "pytest_workflow.entry",
        "pytest_workflow.fixtures",
        "pytest_workflow.items",
        "pytest_workflow.options",
    }
    assert not HEAVY & modules


def test_workflow_tests_that_are_deselected(pytester, modules_at_the_end):
    pytester.makepyfile("def test_passes(): ...\n\ndef test_workflow(workflow): ...")
    assert not HEAVY & modules_at_the_end("-k", "passes")


def test_with_a_workflow_test(pytester, modules_at_the_end):
    pytester.makepyfile("def test_workflow(workflow): ...")
    assert modules_at_the_end() >= HEAVY


def test_importing_the_package_imports_nothing_else(pytester):
    script = "import sys, pytest_workflow; print(sorted(name for name in sys.modules if 'workflow' in name))"
    result = pytester.runpython_c(script)
    assert result.outlines == ["['pytest_workflow']"]


def test_every_public_name_can_be_imported():
    import pytest_workflow

    assert {name for name in pytest_workflow.__all__ if getattr(pytest_workflow, name).__name__ != name} == set()
    with patch.dict(sys.modules):
        sys.modules.pop("freezegun", None)
        assert set(pytest_workflow.__all__) <= set(dir(pytest_workflow))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pytest_workflow.nothing  # noqa: B018 - reading it is the test
