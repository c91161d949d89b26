"""A power cut anywhere: ``NORMAL`` loses commits whole and from the end, ``FULL`` loses none, and work goes on.

With ``WORKFLOW_POWER_EXHAUSTIVE=1`` the power is cut after every disk operation, with 16 images each.
"""

import importlib.util
import os
import random
import sqlite3
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pytest_workflow import power
from pytest_workflow.observation import Observation
from pytest_workflow.power_disk import Delete, Disk, Sync, Truncate, Write, image_digest
from pytest_workflow.power_report import PowerLossError
from pytest_workflow.power_states import Commit, Recording, State
from workflow_core import Workflow
from workflow_core.database import log_length
from workflow_core.database.log_length import lengthen_log
from workflow_core.database.opening import prepare
from workflow_core.database.schema import WORKFLOW_SCHEMA, WORKFLOW_SCHEMA_VERSION

BOUND = {"images_per_cut": 16} if os.environ.get("WORKFLOW_POWER_EXHAUSTIVE") else {"most_cuts": 70}


@Workflow.define("power-order")
async def order(ctx):
    paid = await ctx.step("charge", lambda: "paid")
    await ctx.sleep("settle", 60_000)
    return await ctx.step("ship", lambda: f"{paid} and shipped")


def scenario(workflow, workflow_faults, workflow_db):
    workflow_faults.fail("ship", ConnectionError("503"), attempts=[1])
    for number in (1, 2, 3):
        assert workflow.run("power-order", f"o-{number}").output == "paid and shipped"
        # The fault strikes the first attempt that ends, once, whatever was cut off before.
        errors = [row["error_type"] for row in workflow_db.step_errors(f"o-{number}")]
        assert errors.count("ConnectionError") == 1, errors


def one_order(workflow):
    workflow.run("power-order", "o-1")


# What survives -------------------------------------------------------------------------------------------------------


def test_normal_loses_acknowledged_commits_and_nothing_else(workflow_power):
    report = workflow_power.explore(scenario, synchronous="NORMAL", **BOUND)
    assert report.losing > 0 and report.steps_lost and report.executions_lost
    assert 1 < report.commits_lost < report.commits
    assert (report.unopenable, report.torn, report.violations) == (0, 0, [])
    assert report.continued > 20


def test_full_loses_no_acknowledged_commit(workflow_power):
    report = workflow_power.explore(scenario, synchronous="FULL", **BOUND)
    assert (report.losing, report.commits_lost, report.steps_lost, report.executions_lost) == (0, 0, set(), set())
    assert (report.unopenable, report.torn, report.violations) == (0, 0, [])
    assert report.continued > 20


@pytest.mark.parametrize("is_empty", [False, True])
def test_full_loses_none_either_where_the_log_was_given_its_length(workflow_power, monkeypatch, is_empty):
    sizes = []

    def prepare_and_lengthen(connection, *arguments):
        prepare(connection, *arguments)
        database = Path(connection.execute("PRAGMA database_list").fetchone()[2])
        log = database.with_name(f"{database.name}-wal")
        if is_empty:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        sizes.append(log.stat().st_size)
        lengthen_log(connection)
        sizes.append(log.stat().st_size)

    monkeypatch.setattr(log_length, "_WORTH_IT", 0)
    monkeypatch.setattr(power, "prepare", prepare_and_lengthen)
    monkeypatch.setattr(power, "_CHECKPOINT_PAGES", 40)
    report = workflow_power.explore(scenario, synchronous="FULL", **BOUND)
    assert sizes[1] > sizes[0] and sizes[1] >= 40 * 4_096
    assert (report.losing, report.commits_lost, report.steps_lost, report.executions_lost) == (0, 0, set(), set())
    assert (report.unopenable, report.torn, report.violations) == (0, 0, [])
    assert report.continued > 20


def test_what_survived_is_not_done_again_and_what_was_lost_is(workflow_power):
    calls = Counter()

    @Workflow.define("power-counted")
    async def counted(ctx):
        await ctx.step("one", lambda: calls.update(["one"]))
        await ctx.step("two", lambda: calls.update(["two"]))

    report = workflow_power.explore(lambda workflow: workflow.run("power-counted", "c-1"), synchronous="FULL")
    # Commits, as the last one that survives: two for the tables, the start, and two for each step; then the end.
    assert report.commits == 8 and report.continued == 8
    # The recorded run, and one run each from what survives before the step's end: 4 commits, and 2 more for "two".
    assert calls == {"one": 1 + 4, "two": 1 + 6}


def test_an_asynchronous_scenario_and_a_detached_execution_go_on_to_their_end(workflow_power):
    async def detached(workflow):
        await workflow.start("power-order", "o-1", detach=True)

    report = workflow_power.explore(detached, most_cuts=40, images_per_cut=3)
    assert report.continued > 5 and report.commits >= 9


def test_an_execution_that_no_client_asks_for_is_recovered(workflow_power):
    def asks_once(workflow, workflow_db):
        if not workflow_db.executions():
            workflow.run("power-order", "o-1")

    assert workflow_power.explore(asks_once, synchronous="FULL", images_per_cut=2).continued > 5


def test_the_same_cuts_give_the_same_answer(workflow_power):
    first, second = (workflow_power.explore(one_order, most_cuts=20, check=False) for _ in range(2))
    assert (first.images, first.losing, first.commits_lost) == (second.images, second.losing, second.commits_lost)


# What would be found -------------------------------------------------------------------------------------------------


def test_full_that_does_not_sync_is_found(workflow_power, monkeypatch):
    def prepare_normal(connection, schema, version, synchronous):
        return prepare(connection, schema, version, "NORMAL")

    monkeypatch.setattr(power, "prepare", prepare_normal)
    with pytest.raises(PowerLossError, match=r"lost: [0-9]+ acknowledged commits are lost") as raised:
        workflow_power.explore(one_order, synchronous="FULL", images_per_cut=2)
    assert "image 0 of a power cut after a write of" in str(raised.value)


def test_damage_and_parts_of_transactions_are_found(workflow_power, monkeypatch):
    def prepare_unsafely(connection, schema, version, synchronous):
        connection.execute("PRAGMA journal_mode = MEMORY")
        return prepare(connection, schema, version, "OFF")

    monkeypatch.setattr(power, "prepare", prepare_unsafely)
    report = workflow_power.explore(one_order, images_per_cut=6, check=False)
    assert report.unopenable > 0 and report.torn > 0 and not report.ok
    with pytest.raises(PowerLossError, match="unopenable: DatabaseError: "):
        report.raise_for_failures()
    assert any(failure.kind == "torn" for failure in report.failures)


def test_a_completed_step_that_runs_again_is_found(workflow_power):
    def forgetful(workflow, workflow_db):
        workflow_db.connection.execute("DELETE FROM steps WHERE step_id = 'charge'")
        workflow.run("power-order", "o-1")

    report = workflow_power.explore(forgetful, synchronous="FULL", images_per_cut=2, check=False)
    assert any(failure.found.startswith("a completed step never runs again: ") for failure in report.violations)
    with pytest.raises(PowerLossError, match="a completed step never runs again"):
        report.raise_for_failures()


def test_a_scenario_that_fails_on_what_is_left_is_found(workflow_power):
    def impatient(workflow, workflow_db):
        assert not workflow_db.executions(), "somebody was here"
        workflow.run("power-order", "o-1")

    with pytest.raises(PowerLossError, match="the scenario itself: AssertionError: somebody was here"):
        workflow_power.explore(impatient, most_cuts=40, images_per_cut=2)


def test_a_scenario_that_fails_without_a_power_cut_fails_the_test(workflow_power):
    def broken(workflow):
        assert workflow.run("power-order").output == "lost"

    with pytest.raises(AssertionError, match="paid and shipped") as raised:
        workflow_power.explore(broken)
    assert raised.type is AssertionError


# Commits -------------------------------------------------------------------------------------------------------------


def test_a_surviving_state_is_that_of_a_commit_before_the_cut_or_in_flight():
    start = datetime(2025, 1, 1, tzinfo=UTC)
    recording = Recording(
        commits=[
            Commit(10 * number, State(digest), start + timedelta(seconds=number), Counter(a=number))
            for number, digest in enumerate((b"empty", b"one", b"two", b"one"))
        ],
        observation=Observation(bodies=Counter(a=7)),
    )
    assert [recording.acknowledged(position) for position in (0, 9, 10, 19, 20, 99)] == [0, 0, 1, 1, 2, 3]
    assert [recording.surviving(State(b"one"), position) for position in (0, 10, 19, 20)] == [1, 1, 1, 3]
    assert [recording.surviving(State(b"two"), position) for position in (9, 10, 99)] == [None, 2, 2]
    assert recording.before_next(1) == (start + timedelta(seconds=2), Counter(a=2))
    assert recording.before_next(3) == (start + timedelta(seconds=3), Counter(a=7))


# The disk ------------------------------------------------------------------------------------------------------------


def images(*operations, count=40):
    disk = Disk()
    for operation in operations:
        disk.apply(operation)
    return list(disk.images(count, random.Random(0)))


def test_what_is_synced_is_kept():
    written = (Write("a", 0, b"12345678"), Write("a", 4, b"xx"), Truncate("a", 7), Sync("a"))
    assert images(*written) == [{"a": b"1234xx7"}]


def test_what_is_not_synced_is_dropped_kept_or_torn_at_a_sector():
    found = images(Write("a", 0, b"-" * 1024), Sync("a"), Write("b", 0, b"b"), Write("a", 500, b"+" * 524), count=60)
    assert found[0] == {"a": b"-" * 1024}
    assert found[1] == {"a": b"-" * 500 + b"+" * 524, "b": b"b"}
    contents = {image["a"] for image in found}
    begin, middle = (b"+" * 12, b"-" * 12), (b"+" * 512, b"-" * 512)
    assert contents == {b"-" * 500 + one + other for one in begin for other in middle}
    assert {image.get("b") for image in found} == {None, b"b"}


def test_a_gap_is_filled_with_zeros():
    assert {image.get("a") for image in images(Write("a", 0, b"1"), Write("a", 2, b"3"))} == {
        *(None, b"1", b"\0\0" + b"3", b"1\0" + b"3")
    }


def test_a_deletion_may_be_undone_until_the_next_sync():
    deleted = (Write("a", 0, b"1"), Sync("a"), Delete("a"))
    assert {image.get("a") for image in images(*deleted)} == {b"1", None}
    assert images(*deleted, Sync("b")) == [{}]


def test_images_are_told_apart():
    assert image_digest({"a": b"1", "b": b"2"}) == image_digest({"b": b"2", "a": b"1"})
    assert len({image_digest(image) for image in ({}, {"a": b""}, {"a": b"b:0:"}, {"a": b"", "b": b""})}) == 4


# The recorded connection ---------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path):
    from pytest_workflow.power_recording import recorded_connection

    operations, commits = [], []
    connection = recorded_connection(tmp_path / "a.db", operations, lambda: commits.append(len(operations)))
    yield connection, operations, commits
    connection.close()


def test_a_recorded_connection_answers_as_sqlite3_does(recorded):
    connection = recorded[0]
    plain = sqlite3.connect(":memory:", isolation_level=None)
    script = [
        ("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT) WITHOUT ROWID", ()),
        ("INSERT INTO t VALUES (?, ?), (? + 1, NULL)", (1, "x", 1)),
        ("INSERT INTO t VALUES (1, 'y') ON CONFLICT DO NOTHING", ()),
        ("UPDATE t SET b = 'z' WHERE a > ?", (0,)),
        ("DELETE FROM t WHERE a = 7", ()),
        ("SELECT a, b AS c FROM t ORDER BY a", ()),
        ("INSERT INTO t VALUES (1, 'y')", ()),
        ("SELECT nothing FROM t", ()),
        ("BEGIN IMMEDIATE", ()),
        ("DELETE FROM t", ()),
        ("ROLLBACK", ()),
        ("SELECT count(*) FROM t", ()),
    ]

    def answer(database, sql, values):
        try:
            cursor = database.execute(sql, values)
        except sqlite3.Error as error:
            return type(error), error.sqlite_errorcode, database.in_transaction
        names = [column[0] for column in cursor.description or ()]
        rowcount = cursor.rowcount if sql.startswith(("INSERT", "UPDATE", "DELETE")) else None
        return names, cursor.fetchone(), cursor.fetchall(), rowcount, database.in_transaction

    for sql, values in script:
        assert answer(connection, sql, values) == answer(plain, sql, values), sql
    changed = "UPDATE t SET b = 'many' WHERE a = ?"
    found = [each.executemany(changed, [(1,), (2,), (9,)]).rowcount for each in (connection, plain)]
    assert found == [2, 2]
    plain.close()


def test_a_commit_is_noted_after_its_operations(recorded):
    connection, operations, commits = recorded
    prepare(connection, WORKFLOW_SCHEMA, WORKFLOW_SCHEMA_VERSION, "FULL")
    assert commits == [len(operations)]
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO owners VALUES ('o', 'host', 1, '', NULL)")
    assert len(commits) == 1
    connection.execute("COMMIT")
    assert commits[1:] == [len(operations)]
    connection.execute("SELECT * FROM owners").fetchall()
    assert len(commits) == 2
    assert {type(operation).__name__ for operation in operations} == {"Write", "Sync", "Delete"}


def test_a_closed_connection_says_so(recorded):
    recorded[0].close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        recorded[0].execute("SELECT 1")


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"synchronous": "OFF"}, 'synchronous is "NORMAL" or "FULL"; got \'OFF\''),
        ({"images_per_cut": 0}, "images_per_cut and most_cuts are at least 1; got 0 and None"),
        ({"most_cuts": 0}, "at least 1; got 4 and 0"),
    ],
)
def test_bad_arguments_are_refused(workflow_power, arguments, message):
    with pytest.raises(ValueError) as raised:
        workflow_power.explore(one_order, **arguments)
    assert message in str(raised.value)


def test_without_apsw_the_fixture_says_what_to_install(workflow_power, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(pytest.fail.Exception) as raised:
        type(workflow_power)(None, None)
    assert "pip install 'pytest-workflow-core[power]'" in str(raised.value)
