"""The documentation site builds without a warning: no broken link, no page that nothing leads to."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="needs the extra [docs]")
    arguments = ["--quiet", "--builder", "html", "--fail-on-warning", "--keep-going"]
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", *arguments, "--doctree-dir", tmp_path / "doctrees", "docs", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "WorkflowEngine" in (tmp_path / "site" / "api" / "workflow_core.html").read_text(encoding="utf-8")
