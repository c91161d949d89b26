"""Every statement of the stores finds its rows by an index, however many executions there are.

The statements are those that a run of everything really executes; that none is forgotten is seen by their texts in the
modules' source.
"""

import ast
import asyncio
import contextlib
import inspect
import re
from datetime import timedelta

import pytest

from workflow_core import NonRetryableError, Settings, WorkflowCoreError, WorkflowEngine
from workflow_core.database import connection as connection_module
from workflow_core.database import directory, listing, registry, removal, sqlite
from workflow_core.database.directory import DirectoryStore
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.models import CircuitBreakerConfig

from .conftest import FakeClock

READS_ALL = {
    "SELECT workflow_name, status, count(*) FROM executions": "counting reads the whole index, and no row",
    "SELECT workflow_name, 'active', min(started_at)": "the list of a file's workflows counts, and reads no row either",
}
"""Statements that may walk through all executions, and why."""

GROWING = r"\bSCAN (executions|steps|step_errors|event_log|execution_index|e|s)\b"
"""A walk through a table that grows with the number of executions."""

FILE_ALONE = (
    "execution_started",
    "logs_removed",
    "removal_finished",
    "workflow_defined",
    "workflows_with_executions",
)
"""Methods that the directory has its own of, for all workflows."""

FILTER, WIDE = "status = ", "idx_executions_started_at"
"""Who asks for a status must not walk along all executions in the order of their time."""

VERB = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")


class Probe:
    def __init__(self):
        self.dead = set()

    def make_owner(self):
        from workflow_core.ownership import Owner

        return Owner("machine", 1, "0")

    def has_ended(self, owner):
        return owner.owner_id in self.dead


def define(engine, outage):  # noqa: C901 - one branch for each thing that can happen
    def remote():
        if outage:
            raise ConnectionError("503")
        return "there"

    def refuse():
        raise NonRetryableError("no")

    def panic():
        raise MemoryError

    @engine.define("all", retry_config={"max_attempts": 2, "backoff_ms": 1_000})
    async def everything(ctx):
        kind = ctx.input
        await ctx.step("first", lambda: kind)
        if kind == "retries":
            await ctx.step("remote", remote)
        elif kind == "opens":
            await ctx.step("guarded", remote).with_circuit_breaker(1, 1_000).with_retry(max_attempts=1)
        elif kind == "skips":
            await ctx.step("guarded", remote).with_circuit_breaker(1, 1_000, lambda _: "queued")
        elif kind == "sleeps":
            await ctx.sleep("nap", 60_000)
        elif kind == "fails":
            await ctx.step("refuse", refuse)
        elif kind == "panics":
            await ctx.step("panic", panic)
        elif kind == "leaves":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ctx.step("hang", asyncio.Event().wait).execute(), 0)
        elif kind == "hangs" and outage:
            await ctx.step("hang", asyncio.Event().wait)
        return kind


async def die_twice(make_engine, clock, outage):
    """Let two processes die one after the other, the second in the middle of what the first has left."""
    outage.append(True)
    for number in range(2):
        engine = make_engine()
        define(engine, outage)
        await engine.recover()
        if number == 0:
            await engine.start("all", "cut", "hangs", detach=True)
            await engine.start("all", "naps", "sleeps", detach=True)
        await clock.settle()
        if number == 1:
            assert (await engine.store.workflow("all").load_recoveries("all", "naps")).moments
        engine._probe.dead.add(engine.owner.owner_id)
        await asyncio.gather(*engine.abandon(), return_exceptions=True)


async def run_everything(make_engine, clock):
    """Use every method of a store, with all that can happen in them."""
    outage = [True]
    engine = make_engine()
    define(engine, outage)
    await engine.start("all", "plain", "plain", timeout_ms=60_000_000)
    await engine.start("all", "plain", "plain", timeout_ms=60_000_000)
    for kind in ("retries", "opens", "skips", "sleeps", "fails", "panics", "leaves", "hangs"):
        for number in (1, 2):
            with contextlib.suppress(WorkflowCoreError):
                await engine.start("all", f"{kind}-{number}", kind, detach=True)
            await clock.settle()
    await clock.advance(2_000)
    outage.clear()
    await engine.start("all", "probes", "skips")
    await engine.cancel("sleeps-1")
    await clock.advance(20_000)
    with contextlib.suppress(WorkflowCoreError):
        await engine.restart("fails-1")
    with contextlib.suppress(WorkflowCoreError):
        await engine.start("all", "panics-3", "panics", panic_config={"enable_auto_restart": False})
    await engine.set_circuit("all", "guarded", "open", CircuitBreakerConfig(failure_threshold=1))
    await engine.start("all", "lasts", "sleeps", detach=True)
    await clock.settle()
    other = make_engine()
    with contextlib.suppress(WorkflowCoreError):
        await other.resume("lasts")
    other.close()
    await engine.aclose()

    await die_twice(make_engine, clock, outage)

    outage.clear()
    engine = make_engine(resident_sleepers=0)
    define(engine, outage)
    await engine.recover()
    await clock.settle()
    await engine._sleeping.release()
    await engine.recover()
    await clock.advance(200_000)
    await look_at_everything(engine, clock)
    await engine.aclose()


async def look_at_everything(engine, clock):
    for execution_id in ("plain", "cut", "retries-1"):
        await engine.get_status(execution_id)
        await engine.history(execution_id)
    for name in (None, "all"):
        await engine.stats(name)
        await engine.store.load_circuits(name)
        for status in (None, "completed", ["failed", "running"]):
            page = await engine.list_executions(name, status, started_after=clock.start, limit=2)
            await engine.list_executions(name, status, started_before=clock.time, before=page[-1] if page else None)
            await engine.list_executions(name, status, search="plain", limit=1)
    await engine.store.change_markers()
    await engine.store.workflow("all").change_markers()
    await engine.store.workflow("all").load_errors("all", "retries-1", "remote")
    for store in (engine.store, engine.store.workflow("all")):
        await store.list_workflows()
        await store.find_execution_ids("retries", 3)
    definition = engine.define_declarative({"name": "declared", "steps": [{"id": "a", "type": "log"}]})
    await engine.start("declared", "declared")
    assert await engine.store.workflow("declared").load_definition(definition.digest) == definition.text
    await clock.finish(engine.cleanup(0, dry_run=True, batch=3))
    await clock.finish(engine.cleanup(timedelta(0), batch=3))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run everything on a store, and return its statements with their plans, and the methods that were called."""

    def run(make_store):
        clock, probe, statements, called = FakeClock(), Probe(), {}, set()
        for cls in (SQLiteStore, DirectoryStore):
            for name, method in vars(cls).items():
                if inspect.iscoroutinefunction(method):

                    def noted(*args, _method=method, _name=f"{cls.__name__}.{name}", **kwargs):
                        called.add(_name)
                        return _method(*args, **kwargs)

                    monkeypatch.setattr(cls, name, noted)
        original = connection_module.open_database

        def traced(*args):
            connection = original(*args)

            def note(statement):
                if VERB.match(statement) and statement not in statements:
                    statements[statement] = None
                    # To take the callback away within it would free it while it runs, and crash now and then.
                    with contextlib.suppress(sqlite.sqlite3.OperationalError):  # SQLite's own, of a pragma
                        statements[statement] = [
                            row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
                        ]

            connection.set_trace_callback(note)
            return connection

        monkeypatch.setattr(connection_module, "open_database", traced)
        monkeypatch.setattr(registry, "open_database", traced)

        def make_engine(**settings):
            settings = Settings(sync_handlers="inline", **settings)
            return WorkflowEngine(make_store(tmp_path), clock, settings=settings, process_probe=probe)

        asyncio.run(run_everything(make_engine, clock))
        return statements, called

    return run


def methods(cls):
    return {f"{cls.__name__}.{name}" for name, method in vars(cls).items() if inspect.iscoroutinefunction(method)}


def texts(*modules):
    """The statements in the source of modules, each up to the first thing that is not constant."""
    for module in modules:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            first = node.values[0] if isinstance(node, ast.JoinedStr) else node
            if isinstance(first, ast.Constant) and isinstance(first.value, str) and VERB.match(first.value):
                yield re.split(r"\?", first.value)[0]


def check(statements):
    assert len(statements) > 50
    for statement, plan in statements.items():
        if not any(statement.startswith(allowed) for allowed in READS_ALL):
            walks = [line for line in plan or () if re.search(GROWING, line) or (FILTER in statement and WIDE in line)]
            assert not walks, f"{statement}\n{walks}"


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_no_statement_walks_through_all_executions(run, kind):
    expected = methods(SQLiteStore) if kind == "file" else methods(SQLiteStore) | methods(DirectoryStore)
    modules = [sqlite, listing, removal] + [directory] * (kind == "directory")
    statements, called = run(
        (lambda path: SQLiteStore(path / "w.db")) if kind == "file" else lambda path: DirectoryStore(path / "state")
    )
    check(statements)
    unused = {f"SQLiteStore.{name}" for name in FILE_ALONE} if kind == "directory" else set()
    unused.add("DirectoryStore.back_up")  # copies everything, by SQLite's own means
    assert expected - unused <= called
    forgotten = [
        text
        for text in texts(*modules)
        if not any(text in statement for statement in statements)
        and not (kind == "file" and "removed_executions" in text)
    ]
    assert not forgotten, "no plan of these statements was looked at"


def test_a_removal_finds_what_goes_with_it():
    """The plan of a DELETE does not tell of its foreign keys."""
    store = SQLiteStore()
    children = [
        (table, key[3])
        for (table,) in store.select("SELECT name FROM sqlite_master WHERE type = 'table'")
        for key in store.select(f"PRAGMA foreign_key_list({table})")
    ]
    assert len(children) == 3
    for table, column in children:
        plan = store.select(f"EXPLAIN QUERY PLAN SELECT 1 FROM {table} WHERE {column} = 'e'")
        assert "SEARCH" in plan[0][3], plan
    store.close()
