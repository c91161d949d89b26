"""Runs the suite against what is published: the wheel, installed, beside the tests of the source distribution.

    python tests/wheel.py [options of pytest]

needs the package ``build``. Both distributions are built; the wheel is installed in a new virtual environment; the
source distribution is unpacked without the packages, so that nothing but the wheel can be imported; and the suite runs
there. So a file that is missing from either of them is noticed.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "dist" / "wheel-test"
PACKAGES = ("workflow_core", "pytest_workflow")
ORIGINS = f"import {', '.join(PACKAGES)}; print({', '.join(f'{name}.__file__' for name in PACKAGES)}, sep='\\n')"


def build() -> tuple[Path, Path]:
    """Build both distributions anew; return the wheel and the source distribution."""
    shutil.rmtree(PLACE, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "build", "--outdir", PLACE, ROOT], check=True)
    (wheel,), (source,) = PLACE.glob("*.whl"), PLACE.glob("*.tar.gz")
    return wheel, source


def install(wheel: Path) -> Path:
    """Install the wheel with the development tools in a new environment; return its Python."""
    environment = PLACE / "venv"
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, f"{wheel}[dev]"], check=True)
    return python


def unpack(source: Path) -> Path:
    """Unpack the source distribution; return where its tests lie, without the packages."""
    with tarfile.open(source) as archive:
        archive.extractall(PLACE, filter="data")
    project = PLACE / source.name.removesuffix(".tar.gz")
    for package in PACKAGES:
        shutil.rmtree(project / package)
    return project


def main(options: list[str]) -> int:
    """Build, install, and run the suite; return pytest's exit code."""
    wheel, source = build()
    python, project = install(wheel), unpack(source)
    said = subprocess.run([python, "-c", ORIGINS], cwd=project, check=True, capture_output=True, text=True).stdout
    for origin in said.splitlines():
        if PLACE / "venv" not in Path(origin).parents:
            sys.exit(f"{origin} is not in the environment of the wheel: take PYTHONPATH away")
    print(f"The suite runs against {wheel.name}", flush=True)
    return subprocess.run([python, "-m", "pytest", *options], cwd=project, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["-n", "auto"]))
