"""What the unit tests share: a clock that moves when it is told to, and processes that die when they are told to."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest

from tests.unit.dispatch_cluster import Cluster
from workflow_core import Settings, WorkflowEngine, outside
from workflow_core.database.directory import DirectoryStore
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.definitions import executors
from workflow_core.ownership import Owner


class FakeTimer:
    def __init__(self, when, callback):
        self.when, self.callback, self.cancelled = when, callback, False

    def cancel(self):
        self.cancelled = True


class FakeClock:
    """A `workflow_core.clock.Clock` that stands still until a test moves it."""

    def __init__(self):
        self.start = self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.timers = []

    @property
    def elapsed_ms(self):
        return (self.time - self.start) / timedelta(milliseconds=1)

    def now(self):
        return self.time

    def monotonic(self):
        return (self.time - self.start).total_seconds()

    async def sleep(self, delay_ms):
        done = asyncio.get_running_loop().create_future()
        self.call_at(self.time + timedelta(milliseconds=delay_ms), lambda: done.done() or done.set_result(None))
        await done

    def call_at(self, when, callback):
        timer = FakeTimer(when, callback)
        self.timers.append(timer)
        return timer

    def call_later(self, delay_ms, callback):
        return self.call_at(self.time + timedelta(milliseconds=delay_ms), callback)

    async def settle(self):
        """Let everything run that needs no time; what a database server does is waited for."""
        loop, quiet = asyncio.get_running_loop(), 0
        while quiet < 50:
            await asyncio.sleep(0)
            quiet = quiet + 1 if outside.is_going_on(loop) is None else 0

    async def advance(self, milliseconds):
        """Move the time on, from one timer to the next."""
        end = self.time + timedelta(milliseconds=milliseconds)
        await self.settle()
        while (timer := self._next()) is not None and timer.when <= end:
            await self._fire(timer)
        self.time = end

    async def finish(self, awaitable, limit_ms=10_000_000):
        """Move the time on until ``awaitable`` is done, and return its result."""
        task = asyncio.ensure_future(awaitable)
        await self.settle()
        while not task.done():
            timer = self._next()
            assert timer is not None, "it waits for something that is not the clock"
            await self._fire(timer)
            assert self.elapsed_ms < limit_ms, "it takes too long"
        return await task

    def _next(self):
        return min((timer for timer in self.timers if not timer.cancelled), key=lambda timer: timer.when, default=None)

    async def _fire(self, timer):
        self.timers.remove(timer)
        self.time = max(self.time, timer.when)
        timer.callback()
        await self.settle()


async def sql(store, statement):
    """Run a statement on the tables of a store of any kind; return the rows. ``{s}.`` stands for the schema."""
    if isinstance(store, SQLiteStore) or hasattr(store, "connection"):
        return store.connection.execute(statement.replace("{s}.", "")).fetchall()

    async def run(connection):
        cursor = await connection.execute(store.sql(statement))
        return [] if cursor.description is None else await cursor.fetchall()

    return await store.together(run)


class Machine:
    """A machine with one database, one clock, and processes that can die: each engine is one process.

    ``make_store`` opens the database, once for each engine; ``path`` is its file, if it is SQLite's.

    Engines are made by `boot`. `crash` kills the latest one the way a power switch would: its store is closed first, so
    nothing is written on the way out, and the probe says from then on that its process has ended.
    """

    def __init__(self, make_store, clock, path):
        self.make_store, self.clock, self.path = make_store, clock, path
        self.dead, self.engines, self.definitions = set(), [], {}
        self.pids = itertools.count(1)

    def make_owner(self):
        return Owner("machine", next(self.pids), "0")

    def has_ended(self, owner):
        return owner.owner_id in self.dead

    def define(self, name, **options):
        def add(handler):
            self.definitions[name] = (handler, options)
            for engine in self.engines:
                engine.define(name, handler, **options)
            return handler

        return add

    def boot(self, plugins=(), **settings):
        settings = Settings(sync_handlers="inline", lease_ms=None, **settings)
        engine = WorkflowEngine(self.make_store(), self.clock, plugins, settings, self)
        for name, (handler, options) in self.definitions.items():
            engine.define(name, handler, **options)
        self.engines.append(engine)
        return engine

    async def crash(self, engine):
        self.dead.add(engine.owner.owner_id)
        await asyncio.gather(*engine.abandon(), return_exceptions=True)

    async def interrupted(self, milliseconds):
        """Start ``w``, let its process die after a while, and return what it comes to in the next one."""
        engine = self.boot()
        await engine.start("w", "e", detach=True)
        await self.clock.advance(milliseconds)
        engine = await self.reboot(engine)
        return await self.clock.finish(engine.wait("e"))

    async def reboot(self, engine):
        """Crash, and recover in a new process."""
        await self.crash(engine)
        again = self.boot()
        await again.recover()
        return again

    def close(self):
        for engine in self.engines:
            engine.close()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make_sqlite_store(tmp_path):
    """Give a function that opens a store, each one on the same file; they are closed after the test."""
    stores = []

    def make(name="w.db"):
        stores.append(SQLiteStore(tmp_path / name))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store_kind():
    """The database of the tests; a module whose tests are for all has ``store_kind = every_store_kind``."""
    return "sqlite"


@pytest.fixture(params=["sqlite", "postgres"])
def every_store_kind(request):
    return request.param


@pytest.fixture
def make_directory_store(tmp_path):
    """Give a function that opens a store, each one on the same runtime directory; they are closed after the test."""
    stores = []

    def make():
        stores.append(DirectoryStore(tmp_path / "state"))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def make_store(request, store_kind):
    """Give a function that opens a store, each one on the same database."""
    return request.getfixturevalue(f"make_{store_kind}_store")


@pytest.fixture
def machine(make_store, clock, tmp_path):
    machine = Machine(make_store, clock, tmp_path / "w.db")
    yield machine
    machine.close()


@pytest.fixture
def own_executors(monkeypatch):
    """Forget, after the test, the executors that it registers."""
    executors.known_types()
    monkeypatch.setattr(executors, "_executors", dict(executors._executors))


@pytest.fixture
def run_cluster(make_postgres_store, postgres_queue):
    def run(scenario, limits=None):
        asyncio.run(scenario(Cluster(make_postgres_store(), limits)))

    return run
