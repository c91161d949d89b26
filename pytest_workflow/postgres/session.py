"""Which server a test run uses, and from when to when."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from pytest_workflow.postgres.databases import PostgresDatabases

__all__ = ["URL_VARIABLE", "begin", "databases"]

URL_VARIABLE: Final = "WORKFLOW_TEST_POSTGRES_URL"

_INSTALL: Final = 'pip install "pytest-workflow-core[postgres-test]"'
_SHARED: Final = "workflow_postgres_url"
_PLUGIN: Final = "workflow_postgres"


class _Session:
    """The server of a test run; one that was started here ends here.

    Args:
        config: Of the run.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._url: str | None = os.environ.get(URL_VARIABLE) or getattr(config, "workerinput", {}).get(_SHARED)
        self._databases: PostgresDatabases | None = None
        if self._url is None and sys.platform == "win32":
            raise pytest.UsageError(f"the workflow store postgres starts no server on Windows: set {URL_VARIABLE}")
        if importlib.util.find_spec("psycopg") is None:
            raise pytest.UsageError(f"the workflow store postgres needs psycopg: {_INSTALL}")

    def url(self) -> str:
        """Return the server's URL; start one if none is named.

        Raises:
            UsageError: There is none to be started.
        """
        if self._url is None:
            from pytest_workflow.postgres.server import PostgresServer, ServerError, programs  # noqa: PLC0415

            found = programs()
            if found is None:
                raise pytest.UsageError(
                    f"the workflow store postgres needs a server: {_INSTALL}, or set {URL_VARIABLE} to the URL of a "
                    "database in which schemas may be made, postgresql://user:password@host:port/database"
                )
            try:
                server = PostgresServer(found)
                self._config.add_cleanup(server.remove)
                server.start()
            except ServerError as error:
                raise pytest.UsageError(f"{error}\nor set {URL_VARIABLE} to the URL of another server") from None
            self._url = server.url
        return self._url

    def databases(self) -> PostgresDatabases:
        """Return what gives schemas to the tests of this process.

        Raises:
            UsageError: The server cannot be used.
        """
        if self._databases is None:
            from pytest_workflow.postgres.databases import PostgresDatabases  # noqa: PLC0415 - imports psycopg
            from workflow_core.errors import WorkflowCoreError  # noqa: PLC0415 - imports the engine

            try:
                self._databases = PostgresDatabases(self.url())
            except WorkflowCoreError as error:
                raise pytest.UsageError(f"{URL_VARIABLE}: {error}") from None
            self._config.add_cleanup(self._databases.close)
        return self._databases

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:  # noqa: ANN401 - a class of pytest-xdist's
        """Let the workers of pytest-xdist share the server of the process that distributes the tests."""
        self.databases()  # a server that cannot be used is told once, and not by each worker
        node.workerinput[_SHARED] = self.url()


def begin(config: pytest.Config) -> _Session:
    """Prepare for tests on a server; one is started when it is needed.

    Raises:
        UsageError: Something is not installed.
    """
    session: _Session | None = config.pluginmanager.get_plugin(_PLUGIN)
    if session is None:
        session = _Session(config)
        config.pluginmanager.register(session, _PLUGIN)
    return session


def databases(config: pytest.Config) -> PostgresDatabases:
    """Return what gives schemas to the tests of this process.

    Raises:
        UsageError: There is no server, or it cannot be used.
    """
    return begin(config).databases()
