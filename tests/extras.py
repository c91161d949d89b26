"""Installs the wheel with each extra alone, in a new environment each, and looks at what is there and what is said.

    python tests/extras.py [extra ...]

needs the package ``build``. The engine is imported with warnings as errors; the command, the server, PostgreSQL and the
harness work where their extra is installed, and say what to install where it is not; and pytest comes with no extra but
those for tests.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = [name for name in PROJECT["optional-dependencies"] if name != "dev"]
PLAIN = "plain"
NOWHERE = "postgresql://127.0.0.1:1/none"

FOR_TESTS = {"pytest", "postgres-test", "hypothesis", "snapshot", "power", "docs", "all"}
WITH_COMMAND = {"cli", "server", "docs", "all"}
WITH_SERVER = {"server", "docs", "all"}
WITH_POSTGRES = {"postgres", "postgres-test", "docs", "all"}
WITH_TELEMETRY = {"otel", "docs", "all"}
PERHAPS_WITH_TELEMETRY = {"server"}
"""FastAPI brings OpenTelemetry's API with it, in some of its versions."""


def build(place: Path) -> Path:
    """Build the wheel."""
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", place, ROOT], check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    return wheel


def look(place: Path, wheel: Path, extra: str) -> list[str]:
    """Install one extra, and return what is wrong with it."""
    environment = place / f"with-{extra}"  # a folder "pytest" would be found as a package of that name
    venv.create(environment, with_pip=True)
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    wanted = str(wheel) if extra == PLAIN else f"{wheel}[{extra}]"
    pip = [programs / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, wanted], check=True)
    wrong: list[str] = []

    def expect(said: str, *command: str, **environment: str) -> None:
        program, *arguments = command
        done = subprocess.run(
            [programs / program, *arguments],
            cwd=place,
            env={**os.environ, "WORKFLOW_DIR": str(place / "state"), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if said not in done.stdout + done.stderr or "Traceback" in done.stderr:
            wrong.append(f"{' '.join(command)}: {said!r} is not in\n{done.stdout}{done.stderr}")

    def install(name: str) -> str:
        return f'pip install "pytest-workflow-core[{name}]"'

    expect("imported", "python", "-W", "error", "-c", "from workflow_core import Workflow; Workflow; print('imported')")
    there = "from importlib.util import find_spec; print('pytest:', find_spec('pytest') is not None)"
    expect(f"pytest: {extra in FOR_TESTS}", "python", "-c", there)
    telemetry = "try: import workflow_core.telemetry; print('it is there')\nexcept ImportError as error: print(error)"
    if extra not in PERHAPS_WITH_TELEMETRY:
        expect("it is there" if extra in WITH_TELEMETRY else install("otel"), "python", "-c", telemetry)
    expect("Usage: workflow" if extra in WITH_COMMAND else install("cli"), "workflow", "--help")
    if extra in WITH_COMMAND:
        expect(
            "WORKFLOW_SERVER_TOKEN" if extra in WITH_SERVER else install("server"),
            "workflow",
            "serve",
            "--host",
            "192.0.2.1",
        )
        refused = "127.0.0.1" if extra in WITH_POSTGRES else install("postgres")
        expect(refused, "workflow", "list", WORKFLOW_DATABASE_URL=NOWHERE)
    if extra in FOR_TESTS:
        expect("workflow_clock", "python", "-m", "pytest", "--fixtures", "-q")
    return wrong


def main(extras: list[str]) -> int:
    """Look at each extra; return how many have something wrong."""
    failed = 0
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        wheel = build(place)
        for extra in extras:
            wrong = look(place, wheel, extra)
            failed += bool(wrong)
            print("\n".join([f"{extra}: {'wrong' if wrong else 'as it should be'}", *wrong]), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [PLAIN, *EXTRAS]))
