"""The documentation is true: its code runs, its links lead somewhere, and nothing public is missing from it."""

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import pytest

import pytest_workflow
import workflow_core
from tests.docs.sessions import Session, blocks, is_session, parts
from workflow_core import WorkflowEngine
from workflow_core.database.postgres.store import PostgresStore
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.hookspecs import WorkflowHooks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLUGINS = {
    "hypothesis": "_hypothesis_pytestplugin",
    "pytest.mark.asyncio": "pytest_asyncio.plugin",
    "pytest.mark.anyio": "anyio.pytest_plugin",
    "workflow_snapshot": "syrupy",
    " -n 2": "xdist.plugin",
}
"""The plugins that a page needs besides the harness, by a word of it. Others would cost each process up to seconds."""
LOOP_SCOPE = "asyncio_default_fixture_loop_scope=function"  # pytest-asyncio warns where nobody has chosen
ON_POSTGRES = {"postgres.md", "workers.md"}
FRAMEWORKS = ("fastapi", "flask", "django")
MORE_PAGES = [ROOT / ".github/CONTRIBUTING.md", ROOT / "changelog.d/README.md", ROOT / "examples/README.md"]
"""Pages without code to run, the links of which are checked as well."""
LINK = re.compile(r"\[[^\]]+\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def text_of(page):
    return page.read_text(encoding="utf-8")


def name_of(page):
    return str(page.relative_to(ROOT))


def everything():
    return "\n".join(map(text_of, PAGES))


def pytest_of(text):
    """Return the environment in which pytest runs with what a page needs."""
    needed = ["pytest_workflow.entry", *(plugin for word, plugin in PLUGINS.items() if word in text)]
    options = ["-pno:cacheprovider", *(f"-p{plugin}" for plugin in needed)]
    if "pytest_asyncio.plugin" in needed:
        options += ["-oasyncio_mode=strict", f"-o{LOOP_SCOPE}"]
    return {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": " ".join(options)}


def run_pytest(nursery, *arguments, environment=MappingProxyType({})):
    """Run pytest in the current folder, in a process of its own: what it imports must not be forgotten here."""
    everything_else = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    return nursery.run([sys.executable, "-m", "pytest", *arguments], env=everything_else | environment, timeout=100)


def left_alone(text):
    """Return the files of a page that nobody but who runs them would run: a program, or what no other block imports."""
    found = [(name, content) for name, language, content in blocks(text) if language == "python"]
    modules = {name for name, _ in found if name and not re.match(r"test_|conftest\.", Path(name).name)}
    programs = {name for name, content in found if name and '__name__ == "__main__"' in content}
    return sorted(
        name
        for name in modules
        if name in programs
        or not any(
            re.search(rf"\b(import|from) {Path(name).stem}\b", content) for other, content in found if other != name
        )
    )


def needs(text):
    """Skip a page about a framework that is not installed."""
    for name in FRAMEWORKS:
        if re.search(rf"^(from|import) {name}\b", text, re.MULTILINE) and not find_spec(name):
            message = f"{name} is not installed; the extra [dev] has it"
            pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python\n" in text_of(page) and not is_session(text_of(page))], ids=name_of
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, request, opened, nursery):
    text = text_of(page)
    needs(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKFLOW_DIR", str(tmp_path / "state"))
    if page.name in ON_POSTGRES:
        monkeypatch.setenv("WORKFLOW_DATABASE_URL", request.getfixturevalue("postgres_url"))
        monkeypatch.setenv("WORKFLOW_DATABASE_SCHEMA", request.getfixturevalue("postgres_schema"))
    tests = 0
    script = []
    for number, (name, language, content) in enumerate(blocks(text)):
        is_test = language == "python" and "def test_" in content
        tests += is_test
        if name or is_test:
            (tmp_path / (name or f"test_block_{number}.py")).write_text(content, encoding="utf-8")
        elif language == "python":
            script.append(content)
    for _ in range(2 if script else 0):  # a page that left something behind would not run again
        exec(compile("\n".join(script), str(page), "exec"), {"__name__": "page"})  # noqa: S102 - our own documentation
    for name in left_alone(text) if page.name not in ON_POSTGRES else ():  # those have tests of their own
        run = nursery.run([sys.executable, name])
        assert run.returncode == 0, run.stderr
    if tests:
        update = ["--snapshot-update"] if page.name == "snapshots.md" else []
        run = run_pytest(nursery, "-q", *update, environment=pytest_of(text))
        assert run.returncode == 0, run.stdout


def sql(page):
    """Return the blocks of SQL of a page."""
    return [content for _, language, content in blocks(text_of(ROOT / "docs" / page)) if language == "sql"]


def test_the_sql_of_the_pages_runs(postgres_url, postgres_schema, tmp_path):
    """What is read by SQL is read of the tables as they are; what sets up a whole server is not tried."""
    import psycopg

    (events,), (failed, *of_roles), (of_servers, *more) = sql("storage.md"), sql("postgres.md"), sql("scaling.md")
    assert {page.name for page in PAGES if "```sql\n" in text_of(page)} == {"storage.md", "postgres.md", "scaling.md"}
    assert "ALTER SYSTEM" in of_servers
    database = WorkflowEngine(SQLiteStore(tmp_path / "order.db"))
    database.define("order", lambda ctx: ctx.step("charge", lambda: 1))
    database.run("order", "order-1001")
    database.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "order.db")) as connection:
        assert connection.execute(events).fetchall()[-1][2] == "ExecutionCompleted"
    engine = WorkflowEngine(PostgresStore(postgres_url, schema=postgres_schema))
    engine.define("greeting", lambda ctx: None)
    engine.run("greeting", "g-1", {"name": "ada"})
    engine.close()
    with psycopg.connect(postgres_url) as connection:
        connection.execute(f"UPDATE {postgres_schema}.executions SET status = 'failed'")
        found = connection.execute(failed.replace("workflow.", f"{postgres_schema}.")).fetchall()
        assert found == [("g-1", "ada", 0)]
        connection.execute("CREATE ROLE app")
        for statements in (*of_roles, *more):
            connection.execute(statements)
        connection.rollback()


def test_the_example_on_postgresql_is_all_that_it_takes(tmp_path, monkeypatch, postgres_url, postgres_schema, nursery):
    monkeypatch.setenv("WORKFLOW_DATABASE_URL", postgres_url)
    monkeypatch.setenv("WORKFLOW_DATABASE_SCHEMA", postgres_schema)
    saved = {name: content for name, _, content in blocks(text_of(ROOT / "docs" / "postgres.md"))}
    (tmp_path / "shop.py").write_text(saved["shop.py"], encoding="utf-8")
    for command in (["shop.py"], ["shop.py"], ["-m", "workflow_core.cli", "status", "greeting-1", "--quiet"]):
        run = nursery.run([sys.executable, *command], cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        assert run.stdout.rstrip("\n") in {"Hello, Ada!", "completed"}
    assert {path.name for path in tmp_path.iterdir()} == {"shop.py"}


def test_the_example_with_a_worker_is_all_that_it_takes(tmp_path, monkeypatch, postgres_url, postgres_schema, nursery):
    monkeypatch.setenv("WORKFLOW_DATABASE_URL", postgres_url)
    monkeypatch.setenv("WORKFLOW_DATABASE_SCHEMA", postgres_schema)
    saved = {name: content for name, _, content in blocks(text_of(ROOT / "docs" / "workers.md"))}
    for name in ("shop.py", "invoices.py"):
        (tmp_path / name).write_text(saved[name], encoding="utf-8")
    cli = [sys.executable, "-m", "workflow_core.cli"]

    def output(*command):
        run = nursery.run(command, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        return run.stdout

    worker = [*cli, "worker", "--app", "shop", "--concurrency", "50", "--queue", "default", "--rest", "50"]
    tuning = ["--poll", "100", "--heartbeat", "1000", "--grace", "1000"]
    with nursery.popen([*worker, *tuning], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline().startswith('Working on the workflow "greeting" from queue default')
            assert output(sys.executable, "shop.py") == "Hello, Ada!\n"
            start = [*cli, "start", "greeting", "--app", "shop", "--execution-id", "greeting-2"]
            told = output(*start, "--input", '{"name": "bob"}', "--queue", "default", "--priority", "3")
            assert 'Execution "greeting-2" is queued for the workers of queue "default"' in told
            assert output(*cli, "status", "greeting-2", "--follow", "--quiet") == "completed\n"
            assert output(sys.executable, "-c", "import invoices; print(invoices.limits.concurrency)") == "20\n"
            status = output(*cli, "cluster", "status")
            assert "0 of 50" in status
            assert "default" in status
        finally:
            process.terminate()
        assert process.wait(30) == 0
        assert process.stdout.read().startswith("Stopping: nothing new is begun, and what runs has 1 s to end")


def test_the_example_of_a_limit_that_workflows_share_runs(
    tmp_path, monkeypatch, postgres_url, postgres_schema, nursery
):
    monkeypatch.setenv("WORKFLOW_DATABASE_URL", postgres_url)
    monkeypatch.setenv("WORKFLOW_DATABASE_SCHEMA", postgres_schema)
    saved = {name: content for name, _, content in blocks(text_of(ROOT / "docs" / "workers.md"))}
    (tmp_path / "payments.py").write_text(saved["payments.py"], encoding="utf-8")
    cli = [sys.executable, "-m", "workflow_core.cli", "--app", "payments", "--quiet"]
    with nursery.popen([*cli, "worker", "--queue", "payments", "--queue", "default"], cwd=tmp_path) as worker:
        try:
            start = [*cli, "start", "order", "--execution-id", "order-1", "--queue", "default"]
            nursery.run([*start, "--input", '{"customer": "ada", "amount": 3}'], cwd=tmp_path, check=True)
            followed = nursery.run([*cli, "status", "order-1", "--follow"], cwd=tmp_path)
            assert followed.stdout == "completed\n", followed.stderr
        finally:
            worker.terminate()
        assert worker.wait(30) == 0


@pytest.mark.skipif(os.name != "posix", reason="the commands are those of a POSIX shell")
@pytest.mark.parametrize(
    ("page", "part"),
    [(page, part) for page in PAGES if is_session(text_of(page)) for part in range(len(parts(text_of(page))))],
    ids=lambda value: name_of(value) if isinstance(value, Path) else str(value),
)
def test_a_session_runs_and_prints_what_it_says(page, part, tmp_path, nursery):
    text = text_of(page)
    needs(text)
    session = Session(tmp_path, pytest_of(text), nursery)
    *before, now = parts(text)[: part + 1]
    session.save("".join(before))
    session.follow(now)


def prose(page):
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """Return what can stand after the # of a link to a page: its headings in small letters, with hyphens."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture
def opened(monkeypatch):
    """Close what the code of a page leaves open, as the end of its process would."""
    connections, connect = [], sqlite3.connect

    def connecting(*arguments, **options):
        connections.append(connect(*arguments, **options))
        return connections[-1]

    monkeypatch.setattr(sqlite3, "connect", connecting)
    yield
    for connection in connections:
        with contextlib.suppress(sqlite3.ProgrammingError):  # another thread's, which has closed it itself
            connection.close()


@pytest.mark.parametrize("page", [*PAGES, *MORE_PAGES], ids=name_of)
def test_links_lead_somewhere(page):
    for found in LINK.finditer(prose(page)):
        target = page.parent / found[1] if found[1] else page
        assert target.exists(), found[0]
        assert not found[2] or found[2] in anchors(target), found[0]


def test_every_guarantee_is_shown_by_a_test_that_exists():
    text = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| (?!promise\b)", line)]
    assert len(rows) > 10
    for row in rows:
        shown_by = row.rstrip("| ").rpartition(" | ")[2]
        tests = re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", shown_by)
        assert tests, f"no test shows this: {row}"
        for name, path in tests:
            source = (ROOT / path).read_text(encoding="utf-8")
            assert re.search(rf"^ *(async )?def {name}\(", source, re.MULTILINE), f"{path} has no {name}"


def test_every_hook_is_documented():
    text = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    for name in vars(WorkflowHooks):
        if not name.startswith("_"):
            assert f"`{name}(" in text, name


def test_every_column_is_documented(workflow_db):
    text = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    tables = {"executions": "executions", "circuit_breakers": "circuit_breaker_state"}
    for method in ("executions", "steps", "step_errors", "step_events", "circuit_breakers"):
        found = re.search(rf"^\| `{method}\(\w*\)` \| (.*) \|$", text, re.MULTILINE)
        cursor = workflow_db.connection.execute(f"SELECT * FROM {tables.get(method, method)}")
        assert re.findall(r"`(\w+)`", found.group(1)) == [column[0] for column in cursor.description]


def test_every_public_name_is_documented():
    text = everything()
    missing = [
        name for name in {*workflow_core.__all__, *pytest_workflow.__all__} if not re.search(rf"\b{name}\b", text)
    ]
    assert not missing
