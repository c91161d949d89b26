"""What is published names the address of the forge that publishes it."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADDRESS = "https://forge.example/somebody/pytest-workflow-core"


def name_it(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tests" / "release_address.py", *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_every_link_leads_to_a_file_at_the_address(clone):
    assert name_it(ADDRESS, str(clone)).returncode == 0
    named = tomllib.loads((clone / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert set(named) == {"Source", "Documentation", "Changelog", "Issues"}
    text = (clone / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]*)\)", text)
    before = re.findall(r"\]\(([^)]*)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(targets) == len(before) > 30
    beyond = [target for target in targets if not target.startswith("#")]  # within the page they hold everywhere
    for target in [*beyond, *named.values()]:
        assert target.startswith(ADDRESS), target
        _, _, path = target.removeprefix(ADDRESS).partition("/main/")
        assert (ROOT / path).exists(), target
    assert f"({ADDRESS}/raw/main/docs/images/dashboard-execution.png)" in text


def test_it_is_named_once(clone):
    name_it(ADDRESS, str(clone))
    told = name_it(ADDRESS, str(clone))
    assert (told.returncode, "names an address already" in told.stderr) == (1, True)


@pytest.mark.parametrize("address", [[], ["forge.example/somebody"], ['https://forge.example/"x']])
def test_what_is_no_address_changes_nothing(clone, address):
    told = name_it(*address, *([str(clone)] if address else []))
    assert (told.returncode, "python tests/release_address.py" in told.stderr) == (1, True)
    assert (clone / "pyproject.toml").read_bytes() == (ROOT / "pyproject.toml").read_bytes()
