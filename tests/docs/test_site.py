"""The documentation site builds without a warning: no broken link, no page that nothing leads to."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="needs the extra [docs]")
    # The builder that writes nothing resolves every reference, too, and takes half the time.
    arguments = ["--quiet", "--builder", "dummy", "--define", "smartquotes=0", "--fail-on-warning", "--keep-going"]
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", *arguments, "--doctree-dir", tmp_path / "doctrees", "docs", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert b"Runs workflows, and keeps their state" in (tmp_path / "doctrees/api/workflow_core.doctree").read_bytes()
