"""Replays of recorded executions against other code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
import stat
import sys
import warnings
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel

from pytest_workflow.divergence import ReplayDivergenceError
from pytest_workflow.timeline import Timeline
from tests.shared_definitions import scoped
from workflow_core import Settings, Workflow, WorkflowContext, WorkflowEngine, WorkflowRedefinedWarning

pytest_plugins = ["pytester"]

pytest_plugins = ["pytester"]

HERE = Path(__file__).name
ran: list[str] = []


def body(name, value=None):
    ran.append(name)
    return value


class Total(BaseModel):
    cents: int


class TotalWithCurrency(BaseModel):
    cents: int
    currency: str


def total() -> Total:
    ran.append("total")
    return Total(cents=5)


async def order(ctx):
    paid = await ctx.step("charge", lambda: body("charge", 1))
    await ctx.sleep("settle", 60_000)
    left, right = await asyncio.gather(ctx.step("left", lambda: paid + 1), ctx.step("right", lambda: paid + 2))
    await ctx.step("total", total)
    return [paid, left, right]


async def renamed(ctx):
    await ctx.step("charge-card", lambda: 1)  # here
    await ctx.sleep("settle", 60_000)


async def new_at_the_start(ctx):
    await ctx.step("check", lambda: 1)  # here
    return await order(ctx)


async def new_before_a_sleep(ctx):
    await ctx.step("charge", lambda: 1)
    await ctx.step("check", lambda: 1)  # here
    await ctx.sleep("settle", 60_000)


async def new_at_the_end(ctx):
    output = await order(ctx)
    await ctx.step("check", lambda: 1)  # here
    return output


async def missing(ctx):
    await ctx.step("charge", lambda: 1)
    await ctx.step("left", lambda: 2)  # here


async def missing_at_the_end(ctx):
    await ctx.step("charge", lambda: 1)
    await ctx.sleep("settle", 60_000)
    await asyncio.gather(ctx.step("left", lambda: 2), ctx.step("right", lambda: 3))


async def another_order(ctx):
    await ctx.step("charge", lambda: 1)
    await asyncio.gather(ctx.step("left", lambda: 2), ctx.step("right", lambda: 3))  # here
    await ctx.sleep("settle", 60_000)
    await ctx.step("total", total)


async def another_length(ctx):
    await ctx.step("charge", lambda: 1)
    await ctx.sleep("settle", timedelta(minutes=2))  # here


async def another_kind(ctx):
    await ctx.sleep("charge", 1)  # here


async def another_type(ctx):
    def charge() -> str:
        return "tx"

    await ctx.step("charge", charge)  # here


async def a_field_without_default(ctx):
    def grown() -> TotalWithCurrency:
        raise NotImplementedError

    await ctx.step("charge", lambda: 1)
    await ctx.sleep("settle", 60_000)
    await asyncio.gather(ctx.step("left", lambda: 2), ctx.step("right", lambda: 3))
    await ctx.step("total", grown)  # here


async def raising(ctx):
    paid = await ctx.step("charge", lambda: 1)
    return {}[paid]  # here


async def another_output(ctx):
    return len(await order(ctx))


async def another_input(ctx: WorkflowContext[Total]):
    return await order(ctx)


OTHERS = [
    (renamed, "renamed", "charge"),
    (new_at_the_start, "new", "check"),
    (new_before_a_sleep, "new", "check"),
    (new_at_the_end, "new", "check"),
    (missing, "missing", "settle"),
    (missing_at_the_end, "missing", "total"),
    (another_order, "order", "left"),
    (another_length, "duration", "settle"),
    (another_kind, "kind", "charge"),
    (another_type, "result", "charge"),
    (a_field_without_default, "result", "total"),
    (raising, "raises", None),
    (another_output, "output", None),
    (another_input, "input", None),
]


def redefine(workflow, handler):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        workflow.define("order", handler)


def line_of(handler):
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    first = handler.__code__.co_firstlineno
    for number, line in enumerate(lines[first:], start=first + 1):
        if "# here" in line:
            return f"{HERE}:{number}"
        if line and not line.startswith(" "):
            break
    return ""


@pytest.fixture
def recorded(workflow):
    workflow.define("order", order)
    result = workflow.run("order", "o-1", {"id": 7})
    ran.clear()
    return result


def test_the_same_code_is_as_recorded(workflow, workflow_clock, workflow_replay, recorded):
    at = workflow_clock.now()
    report = workflow_replay(recorded)
    assert report.ok and report["o-1"].next == ()
    assert [ask.step_id for ask in report["o-1"].asked] == ["charge", "settle", "left", "right", "total"]
    assert ran == []
    assert workflow_clock.now() == at and datetime.now(at.tzinfo) == at
    assert workflow.status("o-1").output == [1, 2, 3]
    assert len(workflow.history("o-1")) == 12


@pytest.mark.parametrize(("handler", "kind", "step_id"), OTHERS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_first_divergence(workflow, workflow_replay, recorded, handler, kind, step_id):
    redefine(workflow, handler)
    report = workflow_replay(recorded, check=False)
    (divergence,) = report.divergences
    assert (divergence.kind, divergence.step_id) == (kind, step_id)
    assert divergence.site.endswith(line_of(handler))
    with pytest.raises(ReplayDivergenceError, match=r'workflow "order", execution "o-1" \(completed in the record\)'):
        workflow_replay(workflow)
    assert ran == []


def test_what_a_message_tells(workflow, workflow_replay, recorded):
    redefine(workflow, renamed)
    with pytest.raises(ReplayDivergenceError) as raised:
        workflow_replay(recorded)
    lines = [line.strip() for line in str(raised.value).splitlines()]
    assert lines[0] == "1 of 1 replayed executions differ from their record"
    assert lines[3] == 'step "charge-card" is asked for where "charge" is recorded [renamed]'
    assert lines[4] == 'recorded:   step "charge" (number 1, completed)'
    assert lines[5] == 'today:      step "charge-card"'
    assert lines[6] == f"where:      {__file__}:{line_of(renamed).partition(':')[2]}"
    assert lines[7].startswith("what to do: keep the recorded id")


async def sequential(ctx):
    paid = await ctx.step("charge", lambda: 1)
    await ctx.sleep("settle", 60_000)
    left = await ctx.step("left", lambda: paid + 1)
    right = await ctx.step("right", lambda: paid + 2)
    await ctx.step("total", total)
    return [paid, left, right]


async def gathered_the_other_way_round(ctx):
    paid = await ctx.step("charge", lambda: 1)
    await ctx.sleep("settle", 60_000)
    right, left = await asyncio.gather(ctx.step("right", lambda: 0), ctx.step("left", lambda: 0))
    await ctx.step("total", total)
    return [paid, left, right]


@pytest.mark.parametrize("handler", [sequential, gathered_the_other_way_round], ids=lambda handler: handler.__name__)
def test_no_alarm_for_parallel_steps(workflow, workflow_replay, recorded, handler):
    redefine(workflow, handler)
    assert workflow_replay(recorded).ok


def test_branches_whose_steps_overlap_are_asked_for_as_recorded(workflow, workflow_replay):
    async def branch(ctx, name, first, pause):
        await ctx.step(f"{name}-1", lambda: asyncio.sleep(first))
        await asyncio.sleep(pause)
        await ctx.step(f"{name}-2", lambda: asyncio.sleep(20))

    @workflow.define("branches")
    async def branches(ctx):
        await asyncio.gather(branch(ctx, "a", 9, 0), branch(ctx, "b", 1, 0.5), branch(ctx, "c", 5, 0.1))

    replay = workflow_replay(workflow.run("branches", "b")).executions[0]
    assert [ask.step_id for ask in replay.asked] == ["a-1", "b-1", "c-1", "b-2", "c-2", "a-2"]


def test_steps_of_the_same_moment_are_asked_for_as_recorded(workflow, workflow_replay):
    async def turns(count):
        await asyncio.sleep(1)
        for _ in range(count):
            await asyncio.sleep(0)

    async def branch(ctx, name, first):
        await ctx.step(f"{name}-1", lambda: turns(first))
        await ctx.step(f"{name}-2", lambda: turns(1))

    @workflow.define("turns")
    async def branches(ctx):
        await asyncio.gather(branch(ctx, "a", 30), branch(ctx, "b", 1), branch(ctx, "c", 10))

    replay = workflow_replay(workflow.run("turns", "t")).executions[0]
    assert [ask.step_id for ask in replay.asked] == ["a-1", "b-1", "c-1", "b-2", "c-2", "a-2"]


def test_a_step_that_was_given_up_is_given_up_again(workflow, workflow_replay):
    @workflow.define("impatient")
    async def impatient(ctx):
        try:
            async with asyncio.timeout(5):
                await ctx.step("slow", lambda: asyncio.sleep(60))
        except TimeoutError:
            return await ctx.step("instead", lambda: 1)

    assert workflow_replay(workflow.run("impatient")).ok


def test_steps_of_handlers_are_not_missed(workflow, workflow_replay):
    @workflow.define("handled")
    async def handled(ctx):
        async def other_way(error, ctx):
            await ctx.sleep("pause", 1_000)
            return await ctx.step("inner", lambda: 2)

        async def outer():
            return await ctx.step("nested", lambda: 3)

        a = await ctx.step("fails", lambda: 1 / 0).catch(other_way)
        b = await ctx.step("outer", outer)
        c = await (
            ctx.step("refused", lambda: 1 / 0)
            .with_circuit_breaker(1, on_open=lambda ctx: ctx.step("meanwhile", lambda: 4))
            .catch(lambda error, ctx: 5)
        )
        return a, b, c

    first = workflow.run("handled", "h-1")
    second = workflow.run("handled", "h-2")
    assert (first.output, second.output) == ((2, 3, 5), (2, 3, 4))
    report = workflow_replay(workflow)
    assert [ask.step_id for ask in report["h-2"].asked] == ["fails", "outer", "refused"]


def test_failures_are_replayed(workflow, workflow_replay, workflow_faults):
    @workflow.define("failing")
    async def failing(ctx):
        try:
            await ctx.step("a", lambda: 1 / 0).with_retry(max_attempts=2)
        except Exception:
            await ctx.step("b", lambda: 1)
        raise LookupError("always")

    result = workflow.run("failing", "f", panic_config={"max_restart_attempts": 1})
    assert result.status == "failed"
    assert workflow_replay(result).ok


@pytest.fixture
def unfinished(workflow, workflow_clock):
    workflow.define("order", order)
    workflow.run("order", "o-1", detach=True)
    workflow_clock.advance(1_000)


async def interrupted(ctx):
    await ctx.step("charge", lambda: body("charge", 1))
    await ctx.sleep("settle", 60_000)
    await ctx.step("next", lambda: body("next"))


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (order, None),
        (interrupted, None),
        (renamed, "renamed"),
        (new_at_the_start, "new"),
        (new_before_a_sleep, "new"),
        (missing, "missing"),
        (another_length, "duration"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_unfinished_execution_is_replayed_up_to_where_it_stood(workflow, workflow_replay, unfinished, handler, kind):
    redefine(workflow, handler)
    ran.clear()
    (replay,) = workflow_replay(workflow, check=False).executions
    assert (replay.divergence.kind if replay.divergence else None) == kind
    if kind is None:
        (following,) = replay.next
        assert following.startswith('sleep "settle" of 60000 ms at ')
    assert ran == []
    assert workflow.wait("o-1").status == "completed"  # the live execution goes on, on the code it began with


def test_what_comes_next_between_two_steps(workflow, workflow_replay, workflow_db, recorded):
    """The process ended when the sleep was over, and nothing else was begun."""
    workflow_db.connection.execute("DELETE FROM steps WHERE step_id IN ('left', 'right', 'total')")
    workflow_db.connection.execute("UPDATE executions SET status = 'running', completed_seq = NULL, output_data = NULL")
    (replay,) = workflow_replay(workflow).executions
    assert [line.partition(" at ")[0] for line in replay.next] == ['step "left"', 'step "right"']

    async def ending(ctx):
        await ctx.step("charge", lambda: 1)
        await ctx.sleep("settle", 60_000)

    redefine(workflow, ending)
    assert workflow_replay(workflow).executions[0].next == ("the execution ends: completed",)


def test_steps_of_child_executions_do_not_run_either(workflow, workflow_replay, recorded):
    async def child(ctx):
        await ctx.step("charge", lambda: body("charge"))

    async def parent(ctx):
        await ctx.step("charge", lambda: 1)
        await Workflow.start("child", "c-1")

    workflow.define("child", child)
    redefine(workflow, parent)
    assert [found.kind for found in workflow_replay(workflow, check=False).divergences] == ["missing"]
    assert ran == []


def test_a_handler_that_never_ends(workflow, workflow_replay, recorded):
    async def endless(ctx):
        await order(ctx)
        await asyncio.Future()

    redefine(workflow, endless)
    (divergence,) = workflow_replay(workflow, check=False).divergences
    assert divergence.kind == "ending"
    assert "does not come to its end" in divergence.what


def test_a_branch_that_an_unfinished_execution_has_begun(workflow, workflow_replay, workflow_clock):
    async def slow():
        await asyncio.sleep(60)

    async def both(ctx):
        await asyncio.gather(ctx.step("left", slow), ctx.step("right", slow))

    async def one(ctx):
        await ctx.step("left", slow)

    workflow.define("order", both)
    workflow.run("order", "o-1", detach=True)
    workflow_clock.advance(1_000)
    assert len(workflow_replay(workflow).executions[0].next) == 2
    redefine(workflow, one)
    (divergence,) = workflow_replay(workflow, check=False).divergences
    assert (divergence.kind, divergence.step_id) == ("missing", "right")


@pytest.mark.asyncio
async def test_in_an_asynchronous_test(workflow, workflow_replay):
    workflow.define("order", order)
    result = await workflow.start("order", "o-1")
    assert workflow_replay(result).ok


def test_a_workflow_that_is_not_defined(workflow, workflow_replay, recorded):
    workflow.engine.definitions = type(workflow.engine.definitions)()
    with scoped(empty=True):
        (divergence,) = workflow_replay(workflow, check=False).divergences
    assert divergence.kind == "undefined"


# Sources -------------------------------------------------------------------------------------------------------------


@Workflow.define("replayed-from-file")
async def from_file(ctx):
    paid = await ctx.step("charge", lambda: body("charge", datetime.now()))
    return paid.isoformat()


@pytest.fixture
def production(tmp_path):
    """A runtime directory as a production process leaves it."""

    async def run():
        async with WorkflowEngine(settings=Settings(directory=tmp_path / "state")) as engine:
            await engine.start("replayed-from-file", "p-1")
            await engine.start("replayed-from-file", "p-2")

    asyncio.run(run())
    ran.clear()
    return tmp_path / "state"


DATABASE = "workflows/replayed-from-file/replayed-from-file.db"


def contents(directory):
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("where", ["", DATABASE])
def test_a_production_database_is_read_and_never_written(production, workflow_replay, where):
    before = contents(production)
    report = workflow_replay(production / where)
    assert [replay.execution_id for replay in report.executions] == ["p-1", "p-2"]
    assert [replay.execution_id for replay in workflow_replay(production / where, execution_id="p-2").executions] == [
        "p-2"
    ]
    assert contents(production) == before
    assert ran == []


def test_a_database_that_is_in_use(production, workflow_replay):
    path = production / DATABASE
    writer = sqlite3.connect(path, isolation_level=None)
    try:
        writer.execute("UPDATE executions SET output_data = '1' WHERE id = 'p-1'")
        assert path.with_name(f"{path.name}-wal").stat().st_size
        (divergence,) = workflow_replay(str(path), check=False).divergences
        assert divergence.kind == "output"
    finally:
        writer.close()


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_a_directory_that_may_not_be_written(production, workflow_replay):
    directory = (production / DATABASE).parent
    mode = directory.stat().st_mode
    directory.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert workflow_replay(production / DATABASE).ok
    finally:
        directory.chmod(mode)


def test_a_saved_history(production, tmp_path, workflow_replay):
    saved = tmp_path / "saved.json"
    workflow_replay.save_history(saved, production, execution_id="p-1")
    document = json.loads(saved.read_text(encoding="utf-8"))
    assert (document["format"], document["version"]) == ("pytest-workflow-core history", 1)
    (execution,) = document["executions"]
    assert execution["steps"][0]["result"]["$type"] == "datetime"
    assert workflow_replay(saved).ok
    again = tmp_path / "again.json"
    workflow_replay.save_history(again, saved)
    assert again.read_text(encoding="utf-8") == saved.read_text(encoding="utf-8")
    execution["output"] = "otherwise"
    saved.write_text(json.dumps(document), encoding="utf-8")
    assert [found.kind for found in workflow_replay(saved, check=False).divergences] == ["output"]


@pytest.fixture
def three(workflow):
    """Run two workflows, one of them twice; return the result of its second execution."""
    for name in ("plain", "other"):
        workflow.define(name, lambda ctx: 1)
    workflow.run("plain", "p-1")
    workflow.run("other", "o-1")
    return workflow.run("plain", "p-2")


@pytest.mark.parametrize(
    ("chosen", "ids"),
    [
        ({}, ["p-1", "o-1", "p-2"]),
        ({"workflow": "plain"}, ["p-1", "p-2"]),
        ({"execution_id": "o-1"}, ["o-1"]),
        ({"source": "result"}, ["p-2"]),
    ],
)
def test_executions_to_replay_or_to_save_may_be_chosen(workflow, workflow_replay, three, tmp_path, chosen, ids):
    if "source" in chosen:
        chosen = {"source": three}
    workflow_replay.save_history(tmp_path / "saved.json", **chosen)
    saved = json.loads((tmp_path / "saved.json").read_text(encoding="utf-8"))["executions"]
    report = workflow_replay(**{"source": workflow, **chosen})
    assert report.ok
    assert [each["execution_id"] for each in saved] == [each.execution_id for each in report.executions] == ids


@pytest.mark.parametrize(
    ("chosen", "what"),
    [
        ({"execution_id": "x"}, 'execution "x"'),
        ({"workflow": "none"}, 'execution of workflow "none"'),
        ({"workflow": "other", "execution_id": "p-1"}, 'execution "p-1" of workflow "other"'),
    ],
)
def test_nothing_is_neither_replayed_nor_saved(workflow, workflow_replay, three, tmp_path, chosen, what):
    for ask in (
        workflow_replay,
        lambda *given, **chosen: workflow_replay.save_history(tmp_path / "s", *given, **chosen),
    ):
        with pytest.raises(ValueError, match="holds no") as caught:
            ask(workflow, **chosen)
        assert str(caught.value) == f"the source holds no {what}; nothing would be replayed or saved"
    assert list(tmp_path.iterdir()) == []


def test_what_differs_is_raised_unless_the_report_alone_is_asked_for(workflow, workflow_replay, three):
    with pytest.warns(WorkflowRedefinedWarning):
        workflow.engine.define("plain", lambda ctx: 2)
    with pytest.raises(ReplayDivergenceError):
        workflow_replay(three)
    assert len(workflow_replay(workflow, check=False).divergences) == 2


def test_a_history_that_cannot_be_saved_leaves_nothing_behind(workflow, workflow_replay, tmp_path):
    workflow.define("plain", lambda ctx: 1)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        workflow_replay.save_history(tmp_path / "taken", workflow.run("plain"))
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_everything_survives_saving(workflow, workflow_replay, workflow_faults, tmp_path):
    @workflow.define("eventful")
    async def eventful(ctx):
        await ctx.step("a", lambda: 1).with_circuit_breaker(1, 1_000).with_retry(max_attempts=3, backoff_ms=2_000)
        await ctx.sleep("s", 10)
        try:
            await ctx.step("b", lambda: 1).with_retry(max_attempts=1)
        except Exception:
            return {"a": {1}}

    workflow_faults.fail("a", ConnectionError("503"), attempts=[1])
    workflow_faults.fail("b", KeyError("k"))
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    workflow_replay.save_history(first, workflow.run("eventful", "e"))
    workflow_replay.save_history(second, first)
    assert second.read_bytes() == first.read_bytes()
    (saved,) = json.loads(second.read_bytes())["executions"]
    assert [(error["step_id"], error["error_type"]) for error in saved["errors"]] == [
        ("a", "ConnectionError"),
        ("b", "KeyError"),
    ]
    assert workflow_replay(second).ok


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        (b"{", "neither a workflow database nor JSON"),
        (b"SQLite format 3\x00 and nothing else", "cannot be read"),
        (b"{}", 'its "format" is not'),
        (b'{"format": "pytest-workflow-core history", "version": 9}', "version 9"),
        (b'{"format": "pytest-workflow-core history", "version": 1}', "damaged history: executions: Field required"),
        (
            b'{"format": "pytest-workflow-core history", "version": 1, "executions": [{}]}',
            r"damaged history: executions\.0\.execution_id: Field required",
        ),
        (b'{"format": "pytest-workflow-core history", "version": 1, "executions": []}', "holds no execution"),
    ],
)
def test_sources_that_cannot_be_read(workflow_replay, tmp_path, content, message):
    path = tmp_path / "source"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        workflow_replay(path)


def test_databases_that_are_not_of_workflows(production, tmp_path, workflow_replay, workflow):
    with pytest.raises(ValueError, match="no workflow database: it has no table of executions"):
        workflow_replay(production / "registry.db")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no workflow database"):
        workflow_replay(tmp_path / "empty")
    with pytest.raises(ValueError, match='no execution of workflow "nothing"'):
        workflow_replay(production, "nothing")
    with pytest.raises(TypeError, match="not from int"):
        workflow_replay(3)
    writer = sqlite3.connect(production / DATABASE, isolation_level=None)
    writer.execute("PRAGMA user_version = 99")
    writer.close()
    with pytest.raises(ValueError, match="schema version 99"):
        workflow_replay(production / DATABASE)


def test_the_work_of_a_replay_grows_with_the_number_of_parallel_steps_not_with_its_square(
    workflow, workflow_replay, monkeypatch
):
    asked = []
    is_due = Timeline.is_due
    monkeypatch.setattr(Timeline, "is_due", lambda *of: asked.append(of) or is_due(*of))

    @workflow.define("wide")
    async def wide(ctx):
        await asyncio.gather(*(ctx.step(f"part-{number}", lambda: None) for number in range(100)))

    result = workflow.run("wide")
    workflow_replay(result)
    assert len(asked) < 500


# Configurations ------------------------------------------------------------------------------------------------------


def test_a_replay_knows_the_configuration_of_the_test(workflow, workflow_replay):
    @workflow.engine.define("configured")
    async def configured(ctx):
        place = await ctx.step(ctx.config.variables["FIRST"], lambda: 1)
        return f"{ctx.config.environment} {place}"

    workflow.configure("configured", environment="staging", variables={"FIRST": "charge"})
    result = workflow.run("configured", "c-1")
    assert result.output == "staging 1"
    assert workflow_replay(result).ok


# Damaged sources -----------------------------------------------------------------------------------------------------


def damage(path, where=0, text=b"x" * 64):
    with path.open("r+b") as file:
        file.seek(where)
        file.write(text)


@pytest.mark.parametrize("where", [0, 100, 4_096, 3 * 4_096])
def test_a_damaged_database_of_a_directory_is_never_left_out(production, workflow_replay, where):
    damage(production / "workflows" / "replayed-from-file" / "replayed-from-file.db", where, b"x" * 4_000)
    with pytest.raises(ValueError, match=r"replayed-from-file\.db"):
        workflow_replay(production, check=False)


def test_a_foreign_database_beside_is_left_out_and_one_that_is_named_is_refused(production, workflow_replay, tmp_path):
    (production / "thumbs.db").write_bytes(b"no database")
    assert workflow_replay(production).ok
    with contextlib.closing(sqlite3.connect(tmp_path / "theirs.db")) as theirs:
        theirs.execute("CREATE TABLE executions (id)")
    with pytest.raises(ValueError, match=r"theirs\.db is the database of another program"):
        workflow_replay(tmp_path / "theirs.db")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE executions SET status = 'lost'", "status"),
        ("UPDATE executions SET retry_config = '{'", "EOF"),
        ("UPDATE executions SET started_at = 'yesterday'", "isoformat"),
        ("UPDATE steps SET result_data = '{'", "EOF"),
    ],
)
def test_a_row_that_cannot_be_read_names_its_execution(production, workflow_replay, change, message):
    file = production / "workflows" / "replayed-from-file" / "replayed-from-file.db"
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute(change)
    with pytest.raises(ValueError, match=f"execution 'p-1' cannot be read.*{message}"):
        workflow_replay(file)


@pytest.mark.parametrize(("name", "message"), [("", "path is empty"), ("empty.db", r"empty\.db is empty")])
def test_nothing_is_no_source(workflow_replay, tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.db").touch()
    with pytest.raises(ValueError, match=message):
        workflow_replay(name)


def test_a_source_that_is_not_there_shows_no_frames_of_the_harness(pytester):
    pytester.makepyfile("def test_it(workflow_replay):\n    workflow_replay('nothere.json')\n")
    result = pytester.runpytest("-p", "no:randomly", "-o", "asyncio_default_fixture_loop_scope=function")
    frames = [line for line in result.outlines if re.match(r"\S+\.py:\d+: ", line)]
    assert frames == ["test_a_source_that_is_not_there_shows_no_frames_of_the_harness.py:2: ValueError"]


# The report ----------------------------------------------------------------------------------------------------------


def test_one_difference_of_many_executions_is_told_once(workflow, workflow_replay):
    @workflow.engine.define("many")
    async def many(ctx):
        await ctx.step("charge", lambda: 1)

    for number in range(12):
        workflow.run("many", f"m-{number}")

    async def renamed(ctx):
        await ctx.step("pay", lambda: 1)

    with pytest.warns(WorkflowRedefinedWarning):
        workflow.engine.define("many", renamed)
    report = workflow_replay(workflow, check=False)
    text = str(report)
    assert len(report.divergences) == 12
    assert text.count("[renamed]") == 1
    assert 'the same in 11 more: "m-1", "m-2", "m-3", "m-4", "m-5", ...' in text
    assert max(map(len, text.splitlines())) <= 120
    assert all(len(line) <= 80 for line in text.partition("what to do")[2].splitlines()[1:])
    assert repr(report) == "<12 of 12 replayed executions differ: print() tells how>"


def test_names_of_a_foreign_file_do_not_steer_the_terminal(production, workflow_replay):
    file = production / "workflows" / "replayed-from-file" / "replayed-from-file.db"
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute("PRAGMA foreign_keys = OFF")
        database.execute("UPDATE executions SET workflow_name = 'w' || char(27) || '[31m' WHERE id = 'p-1'")
    text = str(workflow_replay(file, check=False))
    assert "\x1b" not in text
    assert r"w\x1b[31m" in text
