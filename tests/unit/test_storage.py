"""Which store an engine has, and that nothing shows the password of its database."""

import asyncio
import logging
import subprocess
import sys

import pytest

from workflow_core import Settings, StorageError, ValidationError, WorkflowEngine
from workflow_core.database.directory import DirectoryStore
from workflow_core.storage import make_store

SECRET = "s3cr%25t-pa5sw0rd"  # noqa: S105
PLAIN = "s3cr%t-pa5sw0rd"
URL = f"postgresql://app:{SECRET}@127.0.0.1:1/shop?sslpassword={SECRET}"

pytest.importorskip("psycopg", reason="psycopg is not installed")


def hides(text):
    return SECRET not in text and PLAIN not in text


@pytest.fixture
def no_environment(monkeypatch):
    for name in ("WORKFLOW_DATABASE_URL", "WORKFLOW_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_environment")
def test_a_url_is_all_that_it_takes(tmp_path, monkeypatch):
    from workflow_core.database.postgres.store import PostgresStore

    engine = WorkflowEngine(settings=Settings(database_url=URL, database_schema="flows"))
    assert isinstance(engine.bare_store, PostgresStore)
    assert engine.bare_store.location("w") == 'postgresql://app@127.0.0.1:1/shop, schema "flows"'
    assert engine.log_files is None
    monkeypatch.setenv("WORKFLOW_DATABASE_URL", URL)
    assert isinstance(WorkflowEngine().bare_store, PostgresStore)
    assert isinstance(WorkflowEngine(settings=Settings(directory=tmp_path)).bare_store, DirectoryStore)
    both = WorkflowEngine(settings=Settings(directory=tmp_path, database_url=URL))
    assert isinstance(both.bare_store, PostgresStore)
    assert both.configurations.where("w") == str(tmp_path / "workflows" / "w" / "config.json")
    monkeypatch.setenv("WORKFLOW_DATABASE_URL", "")
    assert isinstance(WorkflowEngine(settings=Settings(directory=tmp_path)).bare_store, DirectoryStore)


@pytest.mark.usefixtures("no_environment")
def test_no_text_has_the_password(caplog):
    settings = Settings(database_url=URL, storage_patience_ms=0)
    engine = WorkflowEngine(settings=settings)
    texts = [repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())]
    texts += [repr(engine), repr(engine.bare_store), engine.bare_store.location(), repr(vars(engine.bare_store))]
    engine.define("w", lambda ctx: None)
    with caplog.at_level(logging.DEBUG), pytest.raises(StorageError) as caught:
        asyncio.run(engine.start("w"))
    error = caught.value
    while error is not None:
        texts += [str(error), repr(error), repr(error.__dict__)]
        error = error.__cause__ or error.__context__
    assert caught.value.reason == "unavailable"
    assert all(hides(text) for text in [*texts, caplog.text])


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://app:{PLAIN}@db/shop",
        f"postgresql://app:{PLAIN}@db/shop",  # a % that is not escaped
        f"postgresql://app:x@db/shop?pasword={PLAIN}",
        f"postgresql://app:x@[db/shop?password={SECRET}",
        f"postgresql://app:1/{SECRET}@db/shop",  # what libpq takes for a port and a database
        f"postgresql://app:{SECRET}/x@db/shop",
        f"postgresql://app:x@{SECRET}@db/shop",
        f"postgresql://app@db:{SECRET}/shop",
    ],
)
def test_a_url_that_cannot_be_read_is_not_shown(url):
    with pytest.raises(ValidationError, match="not shown") as caught:
        WorkflowEngine(settings=Settings(database_url=url))
    assert hides(str(caught.value)) and hides(repr(caught.value.errors))
    assert caught.value.__cause__ is None and (caught.value.__suppress_context__ or caught.value.__context__ is None)


@pytest.mark.parametrize("schema", ["", "1a", 'a"; DROP SCHEMA x; --', "a b", "x" * 64, "ä"])
def test_a_schema_is_a_plain_name(schema):
    from workflow_core.database.postgres.store import PostgresStore

    with pytest.raises(ValidationError, match="schema"):
        Settings(database_url=URL, database_schema=schema)
    with pytest.raises(ValidationError, match="schema"):
        PostgresStore(URL, schema=schema)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://", "postgresql:///"),
        ("postgres://u@/d?host=/run/postgresql&port=5433", "postgresql://u@/d?host=/run/postgresql&port=5433"),
        ("postgresql://u:p@a:1,b:2/d", "postgresql://u@a:1,b:2/d"),
        ("postgresql://u:p@a,b/d", "postgresql://u@a,b/d"),
        ("postgresql://[::1]:5432/d", "postgresql://[::1]:5432/d"),
    ],
)
def test_what_is_shown_of_a_url(url, shown):
    from workflow_core.database.postgres.store import PostgresStore

    assert PostgresStore(url).location() == f'{shown}, schema "workflow"'


def test_without_psycopg_the_error_names_the_extra():
    script = (
        "import sys\n"
        "sys.modules['psycopg'] = None\n"
        "from workflow_core import Settings, WorkflowEngine\n"
        "try: WorkflowEngine(settings=Settings(database_url='postgresql://app:secret@db/shop'))\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert 'pip install "pytest-workflow-core[postgres]"' in done.stdout, done.stderr
    assert "secret" not in done.stdout


def test_an_engine_on_sqlite_imports_nothing_of_postgresql():
    script = (
        "import sys, workflow_core\n"
        "from workflow_core.database.sqlite import SQLiteStore\n"
        "workflow_core.WorkflowEngine(SQLiteStore()).close()\n"
        "print([name for name in sys.modules if 'psycopg' in name or 'postgres' in name])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("prepares", [True, False])
def test_statements_are_not_prepared_where_a_pooler_cannot_keep_them(monkeypatch, prepares):
    from workflow_core.database.postgres import store

    asked = {}
    monkeypatch.setattr(store, "PostgresStore", lambda url, **options: asked.update(options))
    make_store(Settings(database_url=URL, database_prepares=prepares))
    assert asked["prepares"] is prepares
