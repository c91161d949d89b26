"""The foreign distribution pytest-workflow, which installs a package of the same name."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_workflow
from tests.plugin.conftest import UNUSED

ERROR = "ERROR: pytest-workflow-core and pytest-workflow are both installed, and both install a package pytest_workflow"

THEIR_PLUGIN = """
import pytest

def pytest_addoption(parser):
    parser.addoption("--keep-workflow-wd", action="store_true")

def pytest_collect_file(file_path, parent):
    return None
"""


def make_distribution(directory: Path, name: str, entry: str) -> None:
    info = directory / f"{name.replace('-', '_')}-2.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.1.0\n")
    (info / "entry_points.txt").write_text(f"[pytest11]\n{entry}\n")


@pytest.fixture
def site(tmp_path):
    """A directory like site-packages, with a copy of our package and both distributions."""
    directory = tmp_path / "site"
    directory.mkdir()
    shutil.copytree(Path(pytest_workflow.__file__).parent, directory / "pytest_workflow")
    make_distribution(directory, "pytest-workflow-core", "workflow_core = pytest_workflow.entry")
    make_distribution(directory, "pytest-workflow", "pytest-workflow = pytest_workflow.plugin")
    return directory


WITHOUT = [f"-pno:{name}" for name in UNUSED]


def run_pytest(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (site.parent / "test_it.py").write_text("def test_it(): ...\n")
    libraries = [str(Path(importlib.metadata.distribution(name).locate_file(""))) for name in ("pytest", "pluggy")]
    # Only this order of directories is like an installation: an editable one of ours must not come first.
    program = (
        f"import sys; sys.path[:0] = {[str(site), *libraries]!r}; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", program, "-p", "no:cacheprovider", *WITHOUT, *arguments],
        cwd=site.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def check(finished: subprocess.CompletedProcess[str]) -> None:
    shown = finished.stdout + finished.stderr
    assert shown.count(ERROR) == 1
    assert "pip uninstall pytest-workflow pytest-workflow-core" in shown
    assert "Traceback (most recent call last)" not in shown
    assert "INTERNALERROR" not in shown
    assert finished.returncode == pytest.ExitCode.USAGE_ERROR


def test_our_files_intact(site):
    check(run_pytest(site))


def test_their_plugin_in_our_directory(site):
    (site / "pytest_workflow" / "plugin.py").write_text(THEIR_PLUGIN)
    check(run_pytest(site))


def test_their_plugin_and_their_package(site):
    (site / "pytest_workflow" / "plugin.py").write_text(THEIR_PLUGIN)
    (site / "pytest_workflow" / "__init__.py").write_text("# theirs\n")
    check(run_pytest(site))


@pytest.mark.parametrize("arguments", [["--help"], ["--collect-only"], ["-n", "1"]])
def test_whatever_is_asked(site, arguments):
    check(run_pytest(site, *arguments))


def test_without_theirs_all_is_well(site):
    shutil.rmtree(site / "pytest_workflow-2.1.0.dist-info")
    assert run_pytest(site).returncode == pytest.ExitCode.OK


@pytest.mark.parametrize("autoload", [True, False])
@pytest.mark.parametrize("name", ["pytest_workflow.plugin", "workflow_core"])
def test_the_plugin_can_be_named(site, monkeypatch, name, autoload):
    shutil.rmtree(site / "pytest_workflow-2.1.0.dist-info")
    if not autoload:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    finished = run_pytest(site, "-p", name, "--markers")
    assert finished.stdout.count("@pytest.mark.workflow_store(kind)") == 1
    assert finished.returncode == pytest.ExitCode.OK
