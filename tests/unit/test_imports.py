"""Production does not need pytest."""

import importlib.metadata
import os
import subprocess
import sys
from unittest.mock import patch

import pytest

import workflow_core

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"pytest", "_pytest", "freezegun", "tabulate", "pytest_workflow"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Block())
"""

RUN = """
import asyncio
from workflow_core import Workflow, WorkflowEngine
from workflow_core.database.sqlite import SQLiteStore
engine = WorkflowEngine(SQLiteStore())
@engine.define("w")
async def flow(ctx):
    async def flaky():
        if ctx.attempt < 2:
            raise ValueError
        return ctx.attempt
    await ctx.sleep("pause", 1)
    return await ctx.step("s", flaky).with_retry(backoff_ms=1)
print(engine.run("w").output)
"""


def run(script):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)


def test_the_core_runs_with_the_test_packages_absent():
    done = run(BLOCK + RUN)
    assert done.stdout == "2\n", done.stderr


def test_importing_the_core_loads_no_test_package():
    done = run(
        "import sys, workflow_core\n"
        "workflow_core.WorkflowEngine\n"
        "unwanted = 'opentelemetry', 'pytest', 'freezegun', 'tabulate', 'pytest_workflow'\n"
        "print([name for name in unwanted if name in sys.modules])"
    )
    assert done.stdout == "[]\n", done.stderr


def test_definitions_need_no_extra_until_one_is_used():
    block = BLOCK.replace('"pytest",', '"pytest", "httpx", "yaml",', 1)
    done = run(
        block + "import workflow_core, sys\n"
        "assert 'workflow_core.definitions' not in sys.modules\n"
        "from workflow_core import WorkflowEngine\n"
        "from workflow_core.database.sqlite import SQLiteStore\n"
        "engine = WorkflowEngine(SQLiteStore())\n"
        "step = {'id': 'a', 'type': 'log'}\n"
        "engine.define_declarative({'name': 'w', 'steps': [step], 'output': '${steps.a.logged}'})\n"
        "print(engine.run('w').output)\n"
        "step = {'id': 'a', 'type': 'http', 'config': {'url': 'http://x'}}\n"
        "try: engine.define_declarative({'name': 'w', 'steps': [step]})\n"
        "except ValueError as error: print(error)"
    )
    assert done.stdout.startswith("True\n"), done.stderr
    assert 'pip install "pytest-workflow-core[http]"' in done.stdout


def test_telemetry_without_opentelemetry_says_what_to_install():
    block = BLOCK.replace('"pytest",', '"pytest", "opentelemetry",', 1)
    done = run(block + RUN + "try: import workflow_core.telemetry\nexcept ModuleNotFoundError as error: print(error)")
    assert done.stdout == (
        '2\nworkflow_core.telemetry needs OpenTelemetry: pip install "pytest-workflow-core[otel]"\n'
    ), done.stderr


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a privilege on Windows")
def test_the_core_runs_in_an_environment_with_nothing_but_what_it_requires(tmp_path):
    """A clean environment that sees only the required distributions."""
    needed = ["pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection", "pluggy"]
    probe = "import importlib.util; " + "; ".join(
        f"print(importlib.util.find_spec({name!r}).origin)" for name in [*needed, "workflow_core"]
    )
    origins = run(probe).stdout.splitlines()
    assert len(origins) == len(needed) + 1
    site = tmp_path / "site"
    site.mkdir()
    for name, origin in zip([*needed, "workflow_core"], origins, strict=True):
        is_package = origin.endswith("__init__.py")
        source = origin.removesuffix("/__init__.py") if is_package else origin
        (site / (name if is_package else f"{name}.py")).symlink_to(source)
    script = f"import sys; sys.path.insert(0, {str(site)!r})\n" + RUN
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "2\n", done.stderr


@pytest.mark.parametrize("package", ["workflow_core", "pytest_workflow"])
def test_every_public_name_exists(package):
    done = run(f"import {package} as package\nfor name in package.__all__: getattr(package, name)\nprint('all')")
    assert done.stdout == "all\n", done.stderr


HEAVY = {"pydantic", "sqlite3", "asyncio", "yaml", "httpx", "psycopg", "fastapi", "jinja2", "rich", "uvicorn", "click"}


@pytest.mark.parametrize(
    ("program", "allowed"),
    [
        ("import workflow_core", set()),
        ("from workflow_core import Workflow; Workflow", {"pydantic", "sqlite3", "asyncio"}),
        ("from workflow_core.cli import main; main(['--help'])", {"click"}),
        (
            "from workflow_core.cli import main; main(['status', '--help'])",
            {"click", "rich", "pydantic", "sqlite3", "asyncio"},
        ),
        ("from workflow_core.cli import main; main(['serve', '--help'])", {"click"}),
    ],
)
def test_a_start_imports_no_more_than_it_needs(program, allowed):
    unwanted = [*sorted(HEAVY - allowed), "workflow_core.definitions", "workflow_core.engine"]
    script = f"import sys\n{program}\nprint([name for name in {unwanted} if name in sys.modules], file=sys.stderr)"
    done = run(script)
    assert done.stderr == "[]\n"


def test_every_public_name_is_listed_once_and_shown():
    import workflow_core

    names = workflow_core.__all__
    assert len(names) == len({*names})
    with patch.dict(sys.modules):
        sys.modules.pop("freezegun", None)
        assert {*names} <= {*dir(workflow_core)}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        workflow_core.nothing  # noqa: B018 - reading it is the test


def test_the_version_is_that_of_the_distribution():
    assert workflow_core.__version__ == importlib.metadata.version("pytest-workflow-core")
