"""The engine outside the harness: threads, event loops, ownership and the current engine."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pydantic
import pytest

from tests.unit.conftest import every_store_kind
from workflow_core import (
    ExecutionConflictError,
    InvalidStateError,
    PanicError,
    Settings,
    ValidationError,
    Workflow,
    WorkflowContext,
    WorkflowEngine,
    WorkflowError,
    WorkflowRedefinedWarning,
)
from workflow_core.current import current_engine, replaced_default
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.ownership import Owner, SystemProcessProbe

store_kind = every_store_kind


@pytest.fixture
def engine():
    engine = WorkflowEngine(SQLiteStore())
    yield engine
    engine.close()


class Processes:
    """Engines as processes that die when they are told to."""

    def __init__(self):
        self.alive = set()

    def make_owner(self):
        owner = Owner("test", len(self.alive), "0")
        self.alive.add(owner.owner_id)
        return owner

    def has_ended(self, owner):
        return owner.owner_id not in self.alive


def test_plain_functions_run_in_a_thread(engine):
    @engine.define("w")
    async def flow(ctx):
        names = [threading.current_thread().name]
        names.append(await ctx.step("s", lambda: threading.current_thread().name))
        return names

    inside, outside = engine.run("w").output
    assert inside != outside


def test_an_object_that_has_every_attribute_can_be_a_handler(engine):
    class Proxy:
        """As those of remote procedures are."""

        def __getattr__(self, name):
            return Proxy()

        def __call__(self):
            return "called"

    @engine.define("w")
    async def flow(ctx):
        return await ctx.step("s", Proxy())

    assert engine.run("w").output == "called"


def test_the_attempt_is_known_in_a_thread(engine):
    @engine.define("w")
    async def flow(ctx):
        def flaky():
            if ctx.attempt < 3:
                raise ValueError
            return ctx.attempt

        return await ctx.step("s", flaky).with_retry(backoff_ms=0)

    assert engine.run("w").output == 3


def test_a_function_that_returns_an_awaitable_is_awaited(engine):
    async def double(number):
        return number * 2

    @engine.define("w")
    async def flow(ctx):
        return await ctx.step("s", lambda: double(4))

    assert engine.run("w").output == 8


def test_one_engine_in_one_event_loop_after_another(engine):
    @engine.define("w")
    async def flow(ctx):
        return await ctx.step("s", lambda: ctx.input)

    assert [engine.run("w", f"e{n}", n).output for n in range(3)] == [0, 1, 2]


def test_run_refuses_a_running_loop(engine):
    engine.define("w", lambda ctx: None)

    async def inside():
        with pytest.raises(InvalidStateError, match="await start"):
            engine.run("w")

    asyncio.run(inside())


def test_starting_twice_at_once_joins(engine):
    calls = []

    @engine.define("w")
    async def flow(ctx):
        calls.append(1)
        await asyncio.sleep(0.01)
        return 5

    async def both():
        return await asyncio.gather(engine.start("w", "e"), engine.start("w", "e"), engine.start("w", "e"))

    results = asyncio.run(both())
    assert [result.output for result in results] == [5, 5, 5]
    assert calls == [1]


def test_a_caller_that_gives_up_does_not_stop_the_execution(engine):
    @engine.define("w")
    async def flow(ctx):
        await asyncio.sleep(0.05)
        return "done"

    async def impatient():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.start("w", "e"), 0.01)
        return await engine.wait("e")

    assert asyncio.run(impatient()).output == "done"


def test_detach_returns_the_first_snapshot(engine):
    @engine.define("w")
    async def flow(ctx):
        return await ctx.step("s", lambda: 1)

    async def main():
        snapshot = await engine.start("w", "e", detach=True)
        return snapshot, await engine.wait("e")

    snapshot, final = asyncio.run(main())
    assert (snapshot.status, snapshot.steps) == ("running", {})
    assert final.output == 1


def test_start_raises_what_ended_the_execution(engine):
    @engine.define("failing")
    async def failing(ctx):
        async def broken():
            raise ValueError("no")

        await ctx.step("s", broken).with_retry(max_attempts=1)

    @engine.define("panicking")
    async def panicking(ctx):
        raise RuntimeError("unforeseen")

    async def main():
        with pytest.raises(WorkflowError, match="after 1 attempt: ValueError: no") as failed:
            await engine.start("failing", "f")
        assert isinstance(failed.value.original_error, ValueError)
        with pytest.raises(PanicError, match="unexpected error") as panicked:
            await engine.start("panicking", "p", panic_config={"enable_auto_restart": False})
        assert isinstance(panicked.value.original_error, RuntimeError)
        assert (await engine.get_status("p")).status == "panicked"

    asyncio.run(main())


def test_two_engines_recover_each_execution_once(make_store):
    processes = Processes()
    ran = []

    def make(name):
        engine = WorkflowEngine(make_store(), process_probe=processes)

        @engine.define("w")
        async def flow(ctx):
            if name == "dead":
                await asyncio.Event().wait()
            await ctx.step("first", lambda: None)
            await ctx.step("second", lambda: ran.append((name, ctx.execution_id)))

        return engine

    dead = make("dead")

    async def begin():
        for number in range(10):
            await dead.start("w", f"e{number}", detach=True)
        dead.abandon()

    asyncio.run(begin())
    processes.alive.discard(dead.owner.owner_id)

    async def recover():
        one, two = make("one"), make("two")
        taken = await asyncio.gather(one.recover(), two.recover())
        for engine, ids in zip((one, two), taken, strict=True):
            for execution_id in ids:
                assert (await engine.wait(execution_id)).status == "completed"
            await engine.aclose()
        return taken

    taken = asyncio.run(recover())
    assert sorted(taken[0] + taken[1]) == [f"e{number}" for number in range(10)]
    assert sorted(execution_id for _, execution_id in ran) == [f"e{number}" for number in range(10)]


def test_an_engine_recovers_on_entry(make_store):
    processes = Processes()

    def make():
        engine = WorkflowEngine(make_store(), process_probe=processes)

        @engine.define("w")
        async def flow(ctx):
            return await ctx.step("s", lambda: "done")

        return engine

    dead = make()

    async def main():
        await dead.start("w", "e", detach=True)
        dead.abandon()
        processes.alive.clear()
        async with make() as engine:
            return await engine.wait("e")

    assert asyncio.run(main()).output == "done"


def test_a_live_process_keeps_its_executions(make_store):
    processes = Processes()
    one = WorkflowEngine(make_store(), process_probe=processes)
    two = WorkflowEngine(make_store(), process_probe=processes, settings=Settings(poll_interval_ms=10))

    async def main():
        go_on = asyncio.Event()

        async def flow(ctx):
            await go_on.wait()
            return "by the first"

        one.define("w", flow)
        two.define("w", flow)
        await one.start("w", "e", detach=True)
        assert await two.recover() == []
        with pytest.raises(InvalidStateError, match="another process"):
            await two.resume("e")
        joined = asyncio.ensure_future(two.start("w", "e"))
        await asyncio.sleep(0)
        go_on.set()
        result = await joined
        await one.aclose()
        await two.aclose()
        return result

    assert asyncio.run(main()).output == "by the first"


def test_a_cancellation_by_another_process_is_noticed_at_the_next_write(make_store):
    processes = Processes()
    one = WorkflowEngine(make_store(), process_probe=processes)
    two = WorkflowEngine(make_store(), process_probe=processes)

    async def main():
        go_on = asyncio.Event()

        @one.define("w")
        async def flow(ctx):
            await go_on.wait()
            await ctx.step("never", lambda: 1)

        await one.start("w", "e", detach=True)
        assert (await two.cancel("e")).status == "cancelled"
        go_on.set()
        result = await one.wait("e")
        await one.aclose()
        await two.aclose()
        return result

    result = asyncio.run(main())
    assert result.status == "cancelled"
    assert result.steps == {}


def test_the_current_engine(engine):
    other = WorkflowEngine(SQLiteStore())
    with replaced_default(engine):
        assert current_engine() is engine
        with other.activate():
            assert current_engine() is other
        Workflow.define("w", lambda ctx: "here")
        assert engine.workflow_names().count("w") == 1
        assert Workflow.run("w").output == "here"
    assert "w" not in other.definitions.names()
    other.close()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"store": "orders.db"}, r"one such as SQLiteStore\(path\), not 'orders.db'"),
        ({"clock": 5}, r"one such as SystemClock\(\), not 5"),
        ({"settings": {"max_sleep_ms": 1}}, r"are Settings\(...\), not \{"),
        ({"plugins": "audit"}, "a list of objects, not 'audit'"),
        ({"plugins": SystemProcessProbe()}, "a list of objects, not <"),
    ],
)
def test_what_an_engine_cannot_be_made_of(parts, message):
    with pytest.raises(ValidationError, match=message):
        WorkflowEngine(**parts)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda engine: asyncio.run(engine.list_executions(status=5)), "Not a status of an execution: 5"),
        (lambda engine: asyncio.run(engine.cleanup(0, 5)), "Not a status of an execution: 5"),
        (lambda engine: engine.configure("a/b"), "Not the name of a workflow: 'a/b'"),
        (lambda engine: engine.configure(None), "Not the name of a workflow: None"),
        (
            lambda engine: engine.configure("w", variables=["x"]),
            "variables: Input should be a valid dictionary",
        ),
        (lambda engine: engine.configure("w", secrets="x"), "secrets: Input should be a valid dictionary"),
        (lambda engine: engine.unregister("audit"), "no such plugin: 'audit'"),
        (lambda engine: engine.define_declarative(5), "a file or a document, not 5"),
    ],
)
def test_what_cannot_be_meant_is_refused(engine, ask, message):
    with pytest.raises(ValidationError, match=message):
        ask(engine)


def test_the_current_engine_lists_its_methods():
    assert {"define", "start", "run", "wait", "restart", "list_executions"} <= set(dir(Workflow))


def test_redefining_warns_and_replaces(engine):
    engine.define("w", lambda ctx: 1)
    with pytest.warns(WorkflowRedefinedWarning, match='"w" is defined again') as caught:
        engine.define("w", lambda ctx: 2)
    assert caught[0].filename == __file__
    assert engine.run("w").output == 2


def test_define_validates_before_it_decorates(engine):
    with pytest.raises(ValidationError, match="Invalid workflow name"):
        engine.define("no spaces")
    with pytest.raises(ValidationError, match="must be a function"):
        engine.define("w", 5)
    with pytest.raises(ValidationError, match="max_attempts"):
        engine.define("w", retry_config={"max_attempts": 0})


def test_uuid_execution_ids():
    engine = WorkflowEngine(SQLiteStore(), settings=Settings(execution_id_format="uuid"))
    engine.define("w", lambda ctx: 1)
    with pytest.raises(ValidationError, match="UUID"):
        engine.run("w", "exec-123")
    assert engine.run("w", "7f0c2d4e-7a54-4a53-9d0c-0d6f1b6f2a11").output == 1
    assert engine.run("w").output == 1
    engine.close()


def test_the_system_knows_this_process():
    probe = SystemProcessProbe()
    mine = probe.make_owner()
    assert probe.has_ended(mine) is False
    assert probe.has_ended(Owner(mine.host, mine.pid, "another start")) is True
    assert probe.has_ended(Owner(mine.host, 2**22 + 1, "0")) is (None if sys.platform == "win32" else True)
    assert probe.has_ended(Owner("another machine", mine.pid, "0")) is None


def test_a_size_limit_on_results():
    engine = WorkflowEngine(SQLiteStore(), settings=Settings(max_result_bytes=1_024))

    @engine.define("w")
    async def flow(ctx):
        return await ctx.step("s", lambda: "x" * 2_000)

    result = engine.run("w")
    assert result.status == "failed"
    assert "max_result_bytes" in result.error.message
    engine.close()


class Tagged(pydantic.BaseModel):
    tags: set[str]
    ticket: str = pydantic.Field(default_factory=lambda: str(uuid.uuid4()))
    weight: float = 1.0


async def tagged(ctx: WorkflowContext[Tagged]):
    return ctx.input.ticket


@pytest.mark.parametrize(
    "given", [{"tags": ["a", "b"]}, {"tags": {"a", "b"}}, Tagged(tags={"a", "b"})], ids=["list", "set", "model"]
)
def test_the_same_input_gives_the_stored_result_whatever_defaults_are_filled_in(engine, given):
    engine.define("w", tagged)
    first = engine.run("w", "e", given)
    assert engine.run("w", "e", Tagged(tags=given.tags) if isinstance(given, Tagged) else dict(given)) == first
    for other in ({"tags": ["a"]}, {"tags": ["a", "b"], "ticket": "t"}, Tagged(tags={"a", "b"}, ticket="t")):
        with pytest.raises(ExecutionConflictError, match="another input"):
            engine.run("w", "e", other)


def test_an_input_that_means_the_same_is_the_same(engine):
    engine.define("w", tagged)
    first = engine.run("w", "e", {"tags": ["a"], "ticket": "t", "weight": 2})
    assert engine.run("w", "e", {"tags": ["a"], "ticket": "t", "weight": 2.0}) == first
    assert engine.run("w", "e", Tagged(tags={"a"}, ticket="t", weight=2)) == first


def test_inputs_of_different_types_are_not_the_same(engine):
    engine.define("w", lambda ctx: repr(ctx.input))
    assert engine.run("w", "e", True).output == "True"
    for other in (1, 1.0, "True"):
        with pytest.raises(ExecutionConflictError, match="another input"):
            engine.run("w", "e", other)


def test_the_order_of_a_set_in_another_process_makes_no_other_input(tmp_path):
    program = f"""
from tests.unit.test_engine import *
engine = WorkflowEngine(SQLiteStore(Path({str(tmp_path / "w.db")!r})))
engine.define("w", tagged)
print(engine.run("w", "e", {{"tags": list("abcdef")}}).output)
print(engine.run("w", "f", Tagged(tags=set("abcdef"))).output)
"""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "123"
    }
    assert len(outputs) == 1


def test_an_interrupted_run_ends_with_a_keyboard_interrupt_alone(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio, os, signal\n"
        "from workflow_core import Settings, WorkflowEngine\n"
        f"engine = WorkflowEngine(settings=Settings(directory={str(tmp_path / 'state')!r}))\n"
        "@engine.define('pause')\n"
        "async def pause(ctx):\n"
        "    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)\n"
        "    await ctx.sleep('pause', 60_000)\n"
        "engine.run('pause', 'p-1')\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGINT
    lines = ended.stderr.splitlines()
    assert lines[-1] == 'KeyboardInterrupt: workflow "pause" was interrupted; it goes on when it is started again'
    frames = [line for line in lines if line.startswith("  File ")]
    assert len(frames) == 2, ended.stderr
    assert "CancelledError" not in ended.stderr
