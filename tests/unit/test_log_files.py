"""The log files are a projection of the histories: complete, in batches, and never in an execution's way."""

import asyncio
import json
import logging
import os
import re
import stat
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta

import pytest

from workflow_core import RetryConfig, Settings, ValidationError, WorkflowEngine
from workflow_core.database.layout import RuntimeLayout
from workflow_core.logs import event_line, parse_line
from workflow_core.settings import default_log_level


@pytest.fixture
def root(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def boot(root):
    engines = []

    def make(clock=None, **settings):
        settings = Settings(directory=root, **{"sync_handlers": "inline", "lease_ms": None, **settings})
        engines.append(WorkflowEngine(clock=clock, settings=settings))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def define(engine, name="orders"):
    @engine.define(name, retry_config=RetryConfig(backoff_ms=0))
    async def orders(ctx):
        def flaky():
            if ctx.attempt == 1:
                raise ValueError('a =\n"b"')

        await ctx.step("one", lambda: None)
        await ctx.step("flaky", flaky)
        await ctx.sleep("pause", 0)
        await ctx.step("saved", fail).catch(lambda error, ctx: 1)

    return engine


def fail():
    raise KeyError("no")


def panic():
    raise MemoryError("full")


def lines(path):
    return [parse_line(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def execution_log(root, execution_id, name="orders"):
    return RuntimeLayout(root).execution_log(name, execution_id)


def expected(engine, execution_id):
    return "".join(event_line(event) for event in asyncio.run(engine.history(execution_id)))


def test_both_files_tell_the_history(boot, root):
    engine = define(boot())
    engine.run("orders", "o-1")
    engine.run("orders", "o-2")
    texts = [execution_log(root, each).read_bytes().decode() for each in ("o-1", "o-2")]  # the ends of lines as well
    assert texts == [expected(engine, "o-1"), expected(engine, "o-2")]
    days = sorted((root / "workflows" / "orders" / "logs").glob("*.log"))
    assert sorted("".join(day.read_text("utf-8") for day in days).splitlines()) == sorted("".join(texts).splitlines())
    if os.name != "nt":
        assert {stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*.log")} == {0o600}


def test_observers_change_nothing_about_the_files(boot, root):
    from workflow_core import hookimpl

    class Observer:
        @hookimpl
        def on_event(self, event):
            pass

    engine = define(boot())
    engine.register(Observer())
    engine.run("orders", "o-1")
    assert execution_log(root, "o-1").read_text("utf-8") == expected(engine, "o-1")


def test_the_daily_log_is_in_the_order_of_time(boot, root, clock):
    async def main():
        engine = boot(clock)

        @engine.define("orders")
        async def orders(ctx):
            for number in range(3):
                await ctx.sleep(f"s-{number}", ctx.input)

        starts = [engine.start("orders", f"o-{number}", 10 + number) for number in range(2)]
        await clock.finish(asyncio.gather(*starts))

    asyncio.run(main())
    found = lines(RuntimeLayout(root).daily_log("orders", clock.time.date()))
    assert [line.at for line in found] == sorted(line.at for line in found)
    assert len({line.fields["execution"] for line in found[4:8]}) == 2


def test_an_event_stands_in_the_file_of_its_own_day(boot, root, clock):
    clock.start = clock.time = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)

    async def main():
        engine = boot(clock)

        @engine.define("orders")
        async def orders(ctx):
            await ctx.sleep("over-midnight", 2_000)

        await clock.finish(engine.start("orders", "o-1"))

    asyncio.run(main())
    layout = RuntimeLayout(root)
    before, after = (lines(layout.daily_log("orders", day)) for day in (date(2026, 12, 31), date(2027, 1, 1)))
    assert [line.fields["event"] for line in before] == ["ExecutionStarted", "SleepStarted"]
    assert [line.fields["event"] for line in after] == ["SleepCompleted", "ExecutionCompleted"]
    assert len(lines(layout.execution_log("orders", "o-1"))) == 4


def test_what_is_noted_is_written_after_200_ms(boot, root, clock):
    async def main():
        engine = boot(clock)

        @engine.define("orders")
        async def orders(ctx):
            await ctx.step("one", lambda: None)
            await ctx.sleep("long", 300_000)

        await engine.start("orders", "o-1", detach=True)
        await clock.advance(199)
        assert not execution_log(root, "o-1").exists()
        await clock.advance(1)
        assert len(lines(execution_log(root, "o-1"))) == 4
        timers = [timer for timer in clock.timers if not timer.cancelled]
        assert len(timers) == 1  # the sleep: nothing is to be written, so nothing wakes up for it
        await engine.aclose()

    asyncio.run(main())


def test_an_error_is_written_at_once(boot, root, clock):
    async def main():
        engine = boot(clock)

        @engine.define("orders")
        async def orders(ctx):
            ctx.logger.info("before")
            assert not execution_log(root, "o-1").exists()
            ctx.logger.error("now")
            assert len(lines(execution_log(root, "o-1"))) == 3
            await ctx.step("panics", panic)

        with pytest.raises(Exception, match="full"):
            await engine.start("orders", "o-1")
        assert lines(execution_log(root, "o-1"))[-1].fields["event"] == "ExecutionPanicked"
        await engine.aclose()

    asyncio.run(main())


def test_closing_writes_the_rest(boot, root, clock):
    async def main():
        engine = boot(clock)
        engine.define("orders", lambda ctx: ctx.sleep("long", 300_000))
        await engine.start("orders", "o-1", detach=True)
        await clock.settle()
        await engine.aclose()

    asyncio.run(main())
    assert [line.fields["event"] for line in lines(execution_log(root, "o-1"))] == ["ExecutionStarted", "SleepStarted"]


def test_steps_that_never_wait_are_written_in_portions(boot, root):
    engine = boot()
    sizes = []

    @engine.define("orders")
    async def orders(ctx):
        async def work():
            path = execution_log(root, "o-1")
            sizes.append(len(lines(path)) if number % 100 == 0 else 0)

        for number in range(601):
            await ctx.step(f"s-{number}", work)

    engine.run("orders", "o-1")
    assert max(sizes) == 1_000
    assert execution_log(root, "o-1").read_text("utf-8") == expected(engine, "o-1")


@pytest.mark.parametrize(
    ("settings", "events"),
    [
        ({"log_files": False}, None),
        ({"log_level": "debug"}, 14),
        ({"log_level": "warn"}, 3),
        ({"log_level": "error"}, None),
    ],
)
def test_settings_choose_what_is_written(boot, root, settings, events):
    engine = define(boot(**settings))
    engine.run("orders", "o-1")
    found = lines(execution_log(root, "o-1"))
    if events is None:
        assert found == []
    elif settings["log_level"] == "warn":
        assert {line.fields["event"] for line in found} == {"StepFailed"}
    else:
        assert len(found) == len(asyncio.run(engine.history("o-1")))
    assert asyncio.run(engine.complete_log("o-1")) == 0


@pytest.mark.parametrize(
    ("named", "level"), [("", "info"), ("DEBUG", "debug"), ("warning", "warn"), ("CRITICAL", "error"), ("???", "info")]
)
def test_the_environment_names_the_level(named, level, monkeypatch):
    monkeypatch.setenv("LOG_LEVEL", named)
    assert default_log_level() == level
    with pytest.raises(ValidationError, match="log_level"):
        Settings(log_level="loud")


# Crashes and disks that cannot be written ----------------------------------------------------------------------------


def test_a_crash_loses_no_line(boot, root, clock):
    async def main():
        first = boot(clock)

        @first.define("orders")
        async def orders(ctx):
            await ctx.step("one", lambda: None)
            await ctx.sleep("long", 1_000)

        await first.start("orders", "o-1", detach=True)
        await clock.settle()
        first._probe = None
        await asyncio.gather(*first.abandon(), return_exceptions=True)
        assert not execution_log(root, "o-1").exists()
        path = execution_log(root, "o-1")
        path.write_text("2026-01-01T00:00:00.000000Z INFO execution=o-1 seq=1 event=ExecutionStarted\n2026-01-01T0")
        second = boot(clock)
        second._leases.lives = lambda owner, expires_at: False
        second.definitions = first.definitions
        assert await second.recover() == ["o-1"]
        await clock.finish(second.wait("o-1"))
        found = [line for line in lines(path) if line is not None]
        assert sorted(line.seq for line in found) == [event.seq for event in await second.history("o-1")]
        await second.aclose()

    asyncio.run(main())


def test_the_end_that_a_crash_kept_from_being_written_is_added_on_request(boot, root):
    engine = define(boot())
    engine.run("orders", "o-1")
    path = execution_log(root, "o-1")
    text = path.read_text("utf-8")
    path.write_text("".join(text.splitlines(keepends=True)[:-2]), "utf-8")
    assert asyncio.run(engine.complete_log("o-1")) == 2
    assert path.read_text("utf-8") == text
    assert asyncio.run(engine.complete_log("o-1")) == 0


@pytest.mark.parametrize("what", ["executions/o-1.log", "daily"])
def test_a_log_that_cannot_be_written_disturbs_nothing_and_is_completed(boot, root, what, caplog):
    engine = define(boot())
    engine.run("orders", "o-0")
    layout = RuntimeLayout(root)
    days = [layout.daily_log("orders", date.today() + timedelta(days=offset)) for offset in (-1, 0, 1)]
    blocked = days if what == "daily" else [layout.log_dir("orders") / what]
    for path in blocked:
        path.unlink(missing_ok=True)
        path.mkdir()  # a directory of this name: nobody, root included, can append to it
    assert engine.run("orders", "o-1").status == "completed"
    assert engine.run("orders", "o-2").status == "completed"
    (record,) = caplog.records
    assert "cannot be written" in record.getMessage() and "the executions go on" in record.getMessage()
    for path in blocked:
        path.rmdir()
    engine.run("orders", "o-3")
    for each in ("o-1", "o-2", "o-3"):
        assert execution_log(root, each).read_text("utf-8") == expected(engine, each)


def test_a_line_that_the_disk_cut_off_does_not_spoil_the_next(boot, root, monkeypatch):
    engine = define(boot())
    write, full = os.write, []

    def half(descriptor, data):
        if full and b"event=" in data:
            if full.pop() == "refuse":
                raise OSError(28, "No space left on device")
            return write(descriptor, data[: len(data) // 2])
        return write(descriptor, data)

    engine.run("orders", "o-1")
    monkeypatch.setattr(os, "write", half)
    full += ["refuse", "half"]
    engine.run("orders", "o-2")
    engine.run("orders", "o-3")
    (daily, *_) = (root / "workflows" / "orders" / "logs").glob("*.log")
    unread = [line for line in daily.read_text("utf-8").splitlines() if line and parse_line(line) is None]
    assert len(unread) <= 1  # the one that was cut off
    for each in ("o-2", "o-3"):
        assert execution_log(root, each).read_text("utf-8") == expected(engine, each)


def test_several_processes_write_one_file(root, nursery):
    script = (
        "import sys\nfrom pathlib import Path\nfrom workflow_core import Settings, WorkflowEngine\n"
        "engine = WorkflowEngine(settings=Settings(directory=Path(sys.argv[1]), sync_handlers='inline'))\n"
        "@engine.define('orders')\n"
        "async def orders(ctx):\n"
        "    for number in range(40):\n"
        "        await ctx.step(f's-{number}', lambda: None)\n"
        "for number in range(5):\n"
        "    engine.run('orders', f'{sys.argv[2]}-{number}')\n"
        "engine.close()\n"
    )
    children = [nursery.popen([sys.executable, "-c", script, str(root), name]) for name in "ab"]
    assert [child.wait(60) for child in children] == [0, 0]
    found = [line for path in (root / "workflows" / "orders" / "logs").glob("*.log") for line in lines(path)]
    assert len(found) == 2 * 5 * 82 and None not in found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_does_not_write_its_parents_lines(boot, root, clock):
    async def main():
        engine = boot(clock)
        engine.define("orders", lambda ctx: ctx.sleep("long", 300_000))
        await engine.start("orders", "o-1", detach=True)
        await clock.settle()
        engine.log_files.forked()
        engine.log_files.flush()
        assert not execution_log(root, "o-1").exists()
        await engine.aclose()

    asyncio.run(main())


def test_a_cancellation_is_logged(boot, root, clock):
    async def main():
        engine = boot(clock)
        engine.define("orders", lambda ctx: ctx.sleep("long", 300_000))
        await engine.start("orders", "o-1", detach=True)
        await clock.settle()
        await engine.cancel("o-1")
        assert execution_log(root, "o-1").read_text("utf-8") == "".join(
            event_line(event) for event in await engine.history("o-1")
        )
        await engine.aclose()

    asyncio.run(main())


# Names of files ------------------------------------------------------------------------------------------------------

HARD_IDS = [
    "order:1", "order_1", "Order-1", "order-1", "ORDER-1", "con", "CON", "nul.x", "com1", "lpt9.log", "a" * 255,
    "a" * 254, "..", ".", "-", "a.log", "a" * 200, "com10",
]  # fmt: skip


def test_every_id_has_a_file_of_its_own_on_every_system(tmp_path):
    layout = RuntimeLayout(tmp_path)
    paths = [layout.execution_log("orders", each) for each in HARD_IDS]
    assert len({path.name.lower() for path in paths}) == len(HARD_IDS)
    for path in paths:
        assert path.parent == tmp_path / "workflows" / "orders" / "logs" / "executions"
        assert len(path.name) <= 255 and re.fullmatch(r"[A-Za-z0-9._~-]+\.log", path.name)
        assert not re.match(r"(con|prn|aux|nul|com\d|lpt\d)\.", path.name, re.IGNORECASE)


@pytest.mark.parametrize("execution_id", ["order-1001", "49b3be17-4872-4670-bd19-67fb3ffb904c", "a.b_c"])
def test_an_ordinary_id_is_the_name(tmp_path, execution_id):
    assert RuntimeLayout(tmp_path).execution_log("orders", execution_id).name == f"{execution_id}.log"


def test_hard_ids_are_logged(boot, root):
    engine = define(boot())
    for each in HARD_IDS:
        engine.run("orders", each)
        assert {line.fields["execution"] for line in lines(execution_log(root, each))} == {each}


# ctx.logger ----------------------------------------------------------------------------------------------------------


def test_the_logger_of_the_context(boot, root, caplog):
    engine = boot()

    @engine.define("orders")
    async def orders(ctx):
        ctx.logger.warning("outside %d", 1)

        def work():
            try:
                raise ValueError("inside\nit")
            except ValueError:
                ctx.logger.exception("it failed", extra={"customer": "c 1", "seq": 99})
            ctx.logger.info("two words")
            ctx.logger.debug("nobody sees %s", "this")

        await ctx.step("work", work)

    engine.run("orders", "o-1")
    outside, failed = caplog.records
    assert (outside.name, outside.getMessage()) == ("workflow_core.workflow.orders", "outside 1")
    assert (outside.execution_id, outside.workflow_name, outside.step_id) == ("o-1", "orders", None)
    assert (failed.step_id, failed.attempt, failed.customer) == ("work", 1, "c 1")
    assert failed.funcName == "work" and failed.pathname == __file__
    logged = [line for line in lines(execution_log(root, "o-1")) if line.seq is None]
    assert [(line.level, line.fields["message"]) for line in logged] == [
        ("warn", "outside 1"),
        ("error", "it failed"),
        ("info", "two words"),
    ]
    assert logged[1].fields["step"] == "work" and logged[1].fields["customer"] == "c 1"
    assert logged[1].fields["exception"].endswith("ValueError: inside\nit\n")
    assert "step" not in logged[0].fields
    (daily,) = (root / "workflows" / "orders" / "logs").glob("*.log")
    assert [line for line in lines(daily) if line.seq is None] == logged


def test_a_wrong_call_is_written_as_it_is(boot, root):
    engine = boot()
    engine.define("orders", lambda ctx: ctx.logger.info("too few %s %s", 1))  # noqa: PLE1206
    engine.run("orders", "o-1")
    assert lines(execution_log(root, "o-1"))[1].fields["message"] == "too few %s %s (1,)"


def test_what_a_thread_logs_is_written_while_it_runs(boot, root):
    engine = boot(sync_handlers="thread")
    path = execution_log(root, "o-1")
    seen = []

    @engine.define("orders")
    async def orders(ctx):
        def work():
            ctx.logger.info("from a thread")
            for _ in range(2_000):
                if any(line.fields.get("message") == "from a thread" for line in lines(path)):
                    seen.append(True)
                    return
                time.sleep(0.005)

        await ctx.step("work", work)

    engine.run("orders", "o-1")
    assert seen == [True]


def test_the_root_logger_is_left_alone(tmp_path):
    script = (
        "import logging, sys\nfrom pathlib import Path\nfrom workflow_core import Settings, WorkflowEngine\n"
        "engine = WorkflowEngine(settings=Settings(directory=Path(sys.argv[1])))\n"
        "@engine.define('orders')\n"
        "async def orders(ctx):\n    ctx.logger.info('hello')\n"
        "engine.run('orders')\n"
        "root = logging.getLogger()\n"
        "own = [logging.getLogger(name) for name in ('workflow_core', 'workflow_core.workflow.orders')]\n"
        "import json\n"
        "print(json.dumps([root.handlers, root.level, root.filters, [[each.handlers, each.level] for each in own]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert json.loads(done.stdout) == [[], logging.WARNING, [], [[[], 0], [[], 0]]], done.stderr
    assert done.stderr == ""


def test_without_files_the_logger_logs_as_usual(workflow, caplog):
    @workflow.define("orders")
    async def orders(ctx):
        ctx.logger.warning("seen")
        ctx.logger.info("unseen")

    workflow.run("orders", "o-1")
    assert [record.getMessage() for record in caplog.records] == ["seen"]
