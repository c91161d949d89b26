"""Runs of pytest in processes of their own."""

from __future__ import annotations

import os
import subprocess
from importlib import import_module
from typing import TYPE_CHECKING

import hypothesis  # noqa: F401 - see `imported`
import pytest

from tests.nursery import IMPORTED
from tests.shared_definitions import scoped

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.nursery import Nursery

UNUSED = ("hypothesispytest", "anyio", "benchmark", "platformdirs", "pytest_cov", "schemathesis", "syrupy", "timeout")
"""Plugins that cost a process seconds to import; a test that is about one of them says that it is ``needed``."""

WITHIN = [
    import_module(name)
    for name in (
        "pytest_workflow.entry",
        "pytest_asyncio.plugin",
        "anyio.pytest_plugin",
        "_hypothesis_pytestplugin",
        "syrupy",
    )
]
"""The plugins of runs within a process; to look for installed ones in each of the many runs would take longer than most
of their tests."""

LOOP_SCOPE = "asyncio_default_fixture_loop_scope=function"  # pytest-asyncio warns where nobody has chosen


@pytest.fixture(scope="session")
def plugins_nursery(nursery: Nursery):
    """Give birth to processes of pytest with the plugins that most of them load."""
    return nursery.know("pytest_asyncio.plugin", "xdist.plugin", "xdist.looponfail")


@pytest.fixture
def run_apart(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, plugins_nursery: Nursery):
    """Run pytest in a subprocess that measures no coverage and inherits no options."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def popen(command, stdout, stderr, **_):
        more = {"PYTHONPATH": os.pathsep.join(filter(None, [str(pytester.path), os.environ.get("PYTHONPATH")]))}
        return plugins_nursery.popen(
            command, env=os.environ | more, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )

    monkeypatch.setattr(pytester, "popen", popen)

    def run(*arguments: str, needed: Collection[str] = ()) -> pytest.RunResult:
        absent = ["cacheprovider", "randomly", *(name for name in UNUSED if name not in needed)]
        without = [f"-pno:{name}" for name in absent]
        return pytester.runpytest_subprocess(*without, "-o", LOOP_SCOPE, *arguments, timeout=60)

    return run


@pytest.fixture(scope="session")
def imported() -> None:
    """Import what runs within this process use: pytester forgets what they import, and each would import it again."""
    for name in IMPORTED:
        import_module(name)


@pytest.fixture
def run_within(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, imported: None):
    """Run pytest in this process, in file order; workflows that it defines for the whole process go with the test."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(*arguments: str) -> pytest.RunResult:
        with monkeypatch.context() as alone:
            alone.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
            return pytester.runpytest_inprocess(
                *("-p", "no:cacheprovider", "-o", LOOP_SCOPE), *arguments, plugins=list(WITHIN)
            )

    with scoped():
        yield run
