"""Limits of executions that are handed to workers: who is let in, who waits, and until when."""

import asyncio
from datetime import UTC, datetime

import pytest

from tests.fixtures.schema.loading import load
from tests.unit.dispatch_cluster import NOW, Cluster, lease_of
from workflow_core import StorageError, ValidationError
from workflow_core.clock import to_epoch_ms
from workflow_core.database.dispatch import Dispatch
from workflow_core.database.store import Lease, NewExecution
from workflow_core.limits import Limits

psycopg = pytest.importorskip("psycopg")
from workflow_core.database.postgres import dispatching  # noqa: E402


def test_a_limit_of_concurrency_lets_the_next_one_in_when_one_ends(run_cluster):
    async def scenario(cluster):
        for execution_id in "abc":
            await cluster.enqueue(execution_id)
        await cluster.enqueue("d", priority=1)
        assert await cluster.states() == {"a": "queued", "b": "queued", "c": "waiting", "d": "waiting"}
        await cluster.run("a")
        assert await cluster.states() == {"a": "ended", "b": "queued", "c": "waiting", "d": "queued"}
        await cluster.store.execution_cancelled(Lease("w", "b", 1), 2, NOW)
        assert (await cluster.states())["c"] == "queued"

    run_cluster(scenario, Limits(concurrency=2))


def test_a_limit_for_each_key_keeps_nobody_else_waiting(run_cluster):
    async def scenario(cluster):
        for execution_id in ("a1", "a2", "a3", "b1"):
            await cluster.enqueue(execution_id, limit_key=execution_id[0])
        await cluster.enqueue("nobody's")
        assert await cluster.states() == {
            "a1": "queued",
            "a2": "waiting",
            "a3": "waiting",
            "b1": "queued",
            "nobody's": "queued",
        }
        await cluster.run("a1")
        assert (await cluster.states())["a2"] == "queued"
        assert (await cluster.states())["a3"] == "waiting"

    run_cluster(scenario, Limits(concurrency_per_key=1))


def test_both_limits_hold_together(run_cluster):
    async def scenario(cluster):
        for execution_id in ("a1", "a2", "b1", "c1"):
            await cluster.enqueue(execution_id, limit_key=execution_id[0])
        assert await cluster.states() == {"a1": "queued", "a2": "waiting", "b1": "queued", "c1": "waiting"}
        await cluster.run("a1")  # frees a slot of all and one of its key; c1 was there before a2 had that of its key
        states = await cluster.states()
        assert sorted((states["a2"], states["c1"])) == ["queued", "waiting"]

    run_cluster(scenario, Limits(concurrency=2, concurrency_per_key=1))


@pytest.mark.parametrize("held", [True, False])
def test_a_slot_is_held_while_an_execution_waits_unless_it_is_not_to_be(run_cluster, held):
    async def scenario(cluster):
        await cluster.enqueue("a")
        await cluster.enqueue("b")
        lease = lease_of(await cluster.claim("a"))
        await cluster.store.execution_parked(lease, to_epoch_ms(datetime.now(UTC)) - 1, datetime.now(UTC))
        assert await cluster.states() == {"a": "parked", "b": "waiting" if held else "queued"}
        await cluster.store.wake_due()
        assert await cluster.states() == {
            "a": "queued" if held else "waiting",
            "b": "waiting" if held else "queued",
        }
        if not held:
            await cluster.run("b")
            assert (await cluster.claim("a")).kind == "woken"

    run_cluster(scenario, Limits(concurrency=1, held_while_waiting=held))


def test_limits_that_are_raised_let_in_who_waits_already(run_cluster):
    async def scenario(cluster):
        for execution_id in "abcd":
            await cluster.enqueue(execution_id)
        await cluster.store.limits_noted("w", Limits(concurrency=3))
        assert await cluster.states() == {"a": "queued", "b": "queued", "c": "queued", "d": "waiting"}

    run_cluster(scenario, Limits(concurrency=1))


def test_limits_for_each_key_that_are_raised_let_in_those_of_all_keys(run_cluster):
    async def scenario(cluster):
        for execution_id in ("a1", "a2", "a3", "b1", "b2"):
            await cluster.enqueue(execution_id, limit_key=execution_id[0])
        await cluster.store.limits_noted("w", Limits(concurrency_per_key=2))
        assert [state for state in (await cluster.states()).values() if state == "waiting"] == ["waiting"]
        assert (await cluster.states())["a3"] == "waiting"

    run_cluster(scenario, Limits(concurrency_per_key=1))


def test_limits_that_are_removed_limit_nothing_any_more(run_cluster):
    async def scenario(cluster):
        for execution_id in ("a1", "a2", "b1"):
            await cluster.enqueue(execution_id, limit_key=execution_id[0])
        await cluster.store.limits_noted("w", None)
        await cluster.enqueue("c", noted=False)  # by a process that still has them
        assert set((await cluster.states()).values()) == {"queued"}

    run_cluster(scenario, Limits(concurrency=1, concurrency_per_key=1, starts=1, starts_per_key=1, period_ms=60_000))


def test_limits_that_are_lowered_hold_for_who_waits(run_cluster):
    async def scenario(cluster):
        for execution_id in ("a1", "a2", "a3", "b1"):
            await cluster.enqueue(execution_id, limit_key=execution_id[0])
        assert await cluster.states() == {"a1": "queued", "a2": "waiting", "a3": "waiting", "b1": "waiting"}
        await cluster.store.limits_noted("w", Limits(concurrency=2, concurrency_per_key=1))
        assert await cluster.states() == {"a1": "queued", "a2": "waiting", "a3": "waiting", "b1": "queued"}

    run_cluster(scenario, Limits(concurrency=1, concurrency_per_key=3))


def test_limits_of_an_older_definition_do_not_come_back(run_cluster):
    async def scenario(cluster):
        await cluster.store.limits_noted("w", Limits(concurrency=1))
        await cluster.store.limits_noted("w", Limits(concurrency=7), age_ms=60_000)
        for execution_id in "ab":
            await cluster.enqueue(execution_id)  # by a process without limits
        assert await cluster.states() == {"a": "queued", "b": "waiting"}
        await cluster.store.limits_noted("w", Limits(concurrency=7))
        assert await cluster.states() == {"a": "queued", "b": "queued"}

    run_cluster(scenario)


def test_who_sleeps_gives_its_slot_back_when_slots_are_not_held_any_more(run_cluster):
    async def scenario(cluster):
        await cluster.enqueue("a")
        await cluster.enqueue("b")
        await cluster.store.execution_parked(lease_of(await cluster.claim("a")), 2**41, NOW)
        await cluster.store.limits_noted("w", Limits(concurrency=1, held_while_waiting=False))
        assert await cluster.states() == {"a": "parked", "b": "queued"}

    run_cluster(scenario, Limits(concurrency=1))


def test_a_rate_limit_keeps_waiting_who_is_too_early(run_cluster):
    async def scenario(cluster):
        for execution_id in "abc":
            await cluster.enqueue(execution_id)
        assert await cluster.states() == {"a": "queued", "b": "queued", "c": "waiting"}
        await cluster.run("a")
        await cluster.past(30)
        await cluster.run("b")
        for execution_id in "de":
            await cluster.enqueue(execution_id)
        assert (await cluster.states())["c"] == "waiting"
        await cluster.past(29)
        assert await cluster.store.wake_due() == 0
        delay_ms = await cluster.store.next_start_ms()
        assert 0 <= delay_ms <= 1_000
        await cluster.past(1)
        assert await cluster.store.wake_due() == 1
        assert await cluster.states() == {"a": "ended", "b": "ended", "c": "queued", "d": "waiting", "e": "waiting"}
        await cluster.past(60)
        await cluster.run("c")
        await cluster.store.wake_due()
        assert await cluster.states() == dict.fromkeys("abc", "ended") | {"d": "queued", "e": "waiting"}

    run_cluster(scenario, Limits(starts=2, period_ms=60_000))


def test_whom_a_rate_limit_delays_holds_no_slot_meanwhile(run_cluster):
    async def scenario(cluster):
        await cluster.enqueue("a1", limit_key="a")
        await cluster.run("a1")
        for execution_id in ("a2", "b1"):
            await cluster.enqueue(execution_id, limit_key=execution_id[0])
        assert await cluster.states() == {"a1": "ended", "a2": "waiting", "b1": "queued"}
        await cluster.run("b1")
        await cluster.past(60)
        await cluster.enqueue("c1", limit_key="c")
        await cluster.store.wake_due()
        assert (await cluster.states())["a2"] == "waiting"
        await cluster.run("c1")
        assert (await cluster.states())["a2"] == "queued"
        ((count,),) = await cluster.store.fetch("SELECT count(*) FROM {s}.dispatches WHERE has_slot")
        assert count == 1

    run_cluster(scenario, Limits(concurrency=1, starts_per_key=1, period_ms=60_000))


def test_a_rate_limit_lets_those_of_a_higher_priority_begin_first(run_cluster):
    async def scenario(cluster):
        await cluster.enqueue("a")
        await cluster.run("a")
        await cluster.enqueue("b")
        await cluster.enqueue("c", priority=5)
        await cluster.past(60)
        assert await cluster.store.wake_due() == 1
        assert await cluster.states() == {"a": "ended", "b": "waiting", "c": "queued"}

    run_cluster(scenario, Limits(starts=1, period_ms=60_000))


def test_who_has_a_greater_priority_takes_the_place_of_one_of_the_same_key(run_cluster):
    async def scenario(cluster):
        await cluster.enqueue("x")
        await cluster.enqueue("a1", limit_key="a")
        await cluster.enqueue("a2", limit_key="a", priority=5)
        await cluster.enqueue("a3", limit_key="a", priority=4)
        await cluster.run("x")
        assert await cluster.states() == {"x": "ended", "a1": "waiting", "a2": "queued", "a3": "waiting"}
        await cluster.run("a2")
        assert await cluster.states() == {"x": "ended", "a1": "waiting", "a2": "ended", "a3": "queued"}

    run_cluster(scenario, Limits(concurrency=1, concurrency_per_key=1))


def test_a_rate_limit_holds_when_the_workers_were_away(run_cluster):
    async def scenario(cluster):
        for execution_id in "abcd":
            await cluster.enqueue(execution_id)
        await cluster.past(3_600)  # all are due, and nobody has begun any
        assert await cluster.store.wake_due() == 0
        for execution_id in "ab":
            assert (await cluster.claim(execution_id)).kind == "begun"
        await cluster.past(59)
        assert await cluster.store.wake_due() == 0
        assert (await cluster.states())["c"] == "waiting"
        await cluster.past(1)
        assert await cluster.store.wake_due() == 2
        assert (await cluster.claim("c")).kind == "begun"

    run_cluster(scenario, Limits(starts=2, period_ms=60_000))


def test_a_rate_limit_for_each_key(run_cluster):
    async def scenario(cluster):
        for execution_id in ("a1", "b1", "a2"):
            await cluster.enqueue(execution_id, limit_key=execution_id[0])
        assert await cluster.states() == {"a1": "queued", "b1": "queued", "a2": "waiting"}
        await cluster.run("a1")
        assert (await cluster.states())["a2"] == "waiting"
        await cluster.past(60)
        await cluster.store.wake_due()
        assert (await cluster.states())["a2"] == "queued"

    run_cluster(scenario, Limits(starts_per_key=1, period_ms=60_000))


def test_more_than_are_let_in_at_once_follow_when_the_gate_is_looked_at_again(run_cluster):
    async def scenario(cluster):
        await cluster.store.limits_noted("w", Limits(concurrency=1))
        await cluster.store.make_queue()
        await cluster.store.fetch(
            "SELECT {s}.enqueue('e' || n, 'w', now(), NULL, '{}', '{}', NULL, NULL, 1, 'default', 0, true, NULL)"
            " FROM generate_series(1, 1005) n"
        )
        await cluster.store.limits_noted("w", None)
        assert list((await cluster.states()).values()).count("queued") == 1_001
        assert await cluster.store.wake_due() == 4
        assert await cluster.store.wake_due() == 0

    run_cluster(scenario)


@pytest.mark.parametrize("dies", [False, True])
def test_new_limits_are_applied_to_some_keys_at_a_time_and_whoever_comes_next_goes_on(
    run_cluster, make_postgres_store, monkeypatch, dies
):
    """Between two parts nobody has to wait who enqueues; and one that dies leaves the rest to others."""
    monkeypatch.setattr(dispatching, "_KEYS_AT_ONCE", 2)
    slots = "SELECT execution_id, has_key_slot FROM {s}.dispatches ORDER BY position"

    async def scenario(cluster):
        for key in "abcdefg":
            for number in (1, 2):
                await cluster.enqueue(f"{key}{number}", limit_key=key)
        other = make_postgres_store()
        fetch, parts = cluster.store.fetch, []

        async def with_others_between(sql, values=None):
            rows = await fetch(sql, values)
            if "apply_limits" in sql:
                parts.append(sum(dict(await fetch(slots)).values()))
                await other.fetch("SELECT 1 FROM {s}.limits FOR UPDATE NOWAIT")
                if dies and len(parts) == 2:
                    raise StorageError("it died", "")
            return rows

        monkeypatch.setattr(cluster.store, "fetch", with_others_between)
        new = Limits(concurrency=1, concurrency_per_key=2)
        if dies:
            with pytest.raises(StorageError):
                await cluster.store.limits_noted("w", new)
            await other.admit_missed()
        else:
            await cluster.store.limits_noted("w", new)
            assert parts == [9, 11, 13, 14]
        assert all(dict(await fetch(slots)).values())
        assert list((await cluster.states()).values()).count("queued") == 1
        assert await other.fetch("SELECT applied_up_to FROM {s}.limits") == [(None,)]

    run_cluster(scenario, Limits(concurrency=1, concurrency_per_key=1))


def test_limits_that_change_while_others_are_applied_are_applied_from_the_beginning(run_cluster, monkeypatch):
    monkeypatch.setattr(dispatching, "_KEYS_AT_ONCE", 1)

    async def scenario(cluster):
        for key in "abc":
            for number in (1, 2, 3):
                await cluster.enqueue(f"{key}{number}", limit_key=key)
        apply, changed = cluster.store._apply_limits, []

        async def change_meanwhile(name):
            if not changed:
                changed.append(name)
                await cluster.store.fetch(dispatching._APPLIED, {"workflow": name, "limit": 2})
                await cluster.store.limits_noted(name, Limits(concurrency=1, concurrency_per_key=3))
            await apply(name)

        monkeypatch.setattr(cluster.store, "_apply_limits", change_meanwhile)
        await cluster.store.limits_noted("w", Limits(concurrency=1, concurrency_per_key=2))
        assert await cluster.store.fetch("SELECT count(*) FROM {s}.dispatches WHERE has_key_slot") == [(9,)]

    run_cluster(scenario, Limits(concurrency=1, concurrency_per_key=1))


def test_who_waits_and_was_not_told_is_let_in_by_the_sweep(run_cluster, monkeypatch):
    monkeypatch.setattr(dispatching, "_KEYS_AT_ONCE", 1)

    async def scenario(cluster):
        for execution_id in ("a1", "a2", "a3", "b1"):
            await cluster.enqueue(execution_id, limit_key=execution_id[0])
        assert await cluster.store.admit_missed() == 0
        await cluster.store.fetch("UPDATE {s}.limits SET concurrency = 3, concurrency_per_key = 2 RETURNING 1")
        assert await cluster.store.admit_missed() == 2
        assert await cluster.states() == {"a1": "queued", "a2": "queued", "a3": "waiting", "b1": "queued"}
        await cluster.store.fetch("DELETE FROM {s}.limits RETURNING 1")
        assert await cluster.store.admit_missed() == 1

    run_cluster(scenario, Limits(concurrency=1, concurrency_per_key=1))


def test_the_sweep_lets_in_those_without_a_key(run_cluster):
    async def scenario(cluster):
        for execution_id in "abc":
            await cluster.enqueue(execution_id)
        await cluster.store.fetch("UPDATE {s}.limits SET concurrency = 2 RETURNING 1")
        assert await cluster.store.admit_missed() == 1
        assert await cluster.states() == {"a": "queued", "b": "queued", "c": "waiting"}

    run_cluster(scenario, Limits(concurrency=1))


def test_whom_a_rate_limit_delays_is_not_missed(run_cluster):
    async def scenario(cluster):
        for execution_id in ("a1", "a2", "a3"):
            await cluster.enqueue(execution_id, limit_key="a")
        await cluster.run("a1")
        assert await cluster.store.admit_missed() == 0
        await cluster.store.fetch("UPDATE {s}.dispatches SET first_start_at = NULL WHERE NOT has_started RETURNING 1")
        await cluster.past(60)
        assert await cluster.store.wake_due() == 0
        assert await cluster.store.admit_missed() == 1

    run_cluster(scenario, Limits(starts_per_key=1, period_ms=60_000))


def test_what_version_2_has_scheduled_waits_in_this_one(make_postgres_store, postgres_url, postgres_schema):
    with psycopg.connect(postgres_url, autocommit=True, options=f"-c search_path={postgres_schema}") as connection:
        load(connection, "v2", postgres_schema)
        connection.execute("TRUNCATE executions, limits, procrastinate_jobs CASCADE")
        connection.execute("INSERT INTO limits VALUES ('w', 5, 5, 1, NULL, interval '1 hour', true)")
        for execution_id in "ab":
            connection.execute(
                "SELECT enqueue(%s, 'w', now(), NULL, '{}', '{}', NULL, NULL, 1, 'default', 0, true, 'k')",
                (execution_id,),
            )
        found = connection.execute("SELECT state, has_slot FROM dispatches ORDER BY position")
        assert found.fetchall() == [("queued", True), ("queued", True)]  # the second one in an hour

    async def scenario():
        store = make_postgres_store()
        cluster = Cluster(store)
        assert await cluster.states() == {"a": "queued", "b": "waiting"}
        await cluster.run("a")
        await cluster.past(3_601)
        assert await store.wake_due() == 1
        await cluster.run("b")
        await store.limits_noted("w", None)
        assert await cluster.states() == {"a": "ended", "b": "ended"}

    asyncio.run(scenario())


def test_processes_that_end_executions_at_once_never_give_a_slot_away_twice(run_cluster, make_postgres_store):
    async def scenario(cluster):
        for number in range(60):
            await cluster.enqueue(f"e{number:02}", limit_key=str(number % 3))
        workers = [Cluster(make_postgres_store()) for _ in range(4)]
        most = 0

        async def work(worker):
            nonlocal most
            while True:
                rows = await worker.store.fetch(
                    "SELECT execution_id FROM {s}.dispatches WHERE state = 'queued' ORDER BY random() LIMIT 1"
                )
                if not rows:
                    if not await worker.store.fetch("SELECT 1 FROM {s}.dispatches WHERE state <> 'ended'"):
                        return
                    await asyncio.sleep(0)
                    continue
                claim = await worker.claim(rows[0][0])
                if claim is None or claim.kind != "begun":
                    continue
                ((running,),) = await worker.store.fetch("SELECT count(*) FROM {s}.dispatches WHERE has_slot")
                most = max(most, running)
                await worker.store.execution_completed(lease_of(claim), None, False, 2, NOW)

        await asyncio.gather(*map(work, workers))
        assert most == 4
        rows = await cluster.store.fetch("SELECT status, count(*) FROM {s}.executions GROUP BY 1")
        assert rows == [("completed", 60)]

    run_cluster(scenario, Limits(concurrency=4, concurrency_per_key=2))


def test_processes_that_want_the_same_limits_at_once_do_not_wait_for_each_other_for_ever(  # noqa: C901
    run_cluster, make_postgres_store
):
    """Without one order of locks each of the three ends in deadlocks, which cost a second and an error each."""
    limits = Limits(concurrency=1_000, held_while_waiting=False)
    names = ["v", "w", "x"]

    async def deadlocks(cluster):
        return await cluster.store.fetch("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")

    async def scenario(cluster):
        before = await deadlocks(cluster)
        stores = [make_postgres_store() for _ in range(3)]
        for name in names:
            await cluster.store.limits_noted(name, limits)
        leases = []
        for number in range(90):
            new = NewExecution(names[number * number % 7 % 3], f"e{number:02}", None, "{}", "{}", None)
            await cluster.store.execution_enqueued(new, Dispatch(limits=limits), NOW)
            claim = await cluster.claim(new.execution_id)
            leases.append(Lease(new.workflow_name, new.execution_id, claim.record.fencing_token))

        async def end(store, some):
            await asyncio.gather(*(store.execution_completed(lease, None, False, 2, NOW) for lease in some))

        async def wake(store):
            while await store.wake_due(10):
                pass

        await asyncio.gather(*(end(store, leases[nth:45:3]) for nth, store in enumerate(stores)))
        now = to_epoch_ms(datetime.now(UTC))
        for number, lease in enumerate(leases[45:]):
            await cluster.store.execution_parked(lease, now - number * 7 % 45, datetime.now(UTC))
        await asyncio.gather(*map(wake, stores))
        assert list((await cluster.states()).values()) == ["ended"] * 45 + ["queued"] * 45

        await cluster.store.limits_noted("y", Limits(concurrency=1))
        for number in range(60):
            new = NewExecution("y", f"y{number:02}", None, "{}", "{}", None)
            await cluster.store.execution_enqueued(new, Dispatch(limits=Limits(concurrency=1)), NOW)

        async def cancel(store, numbers):
            for number in numbers:
                await store.execution_cancelled(Lease("y", f"y{number:02}", 1), 2, NOW)

        await asyncio.gather(*(cancel(store, range(nth, 60, 3)) for nth, store in enumerate(stores)))
        assert (await cluster.states())["y59"] == "ended"
        assert await deadlocks(cluster) == before

    run_cluster(scenario)


def test_who_is_cancelled_before_it_begins_leaves_its_place_within_a_rate_limit_to_others(run_cluster):
    async def scenario(cluster):
        for execution_id in "abc":
            await cluster.enqueue(execution_id)
        for execution_id in "ba":
            await cluster.store.execution_cancelled(Lease("w", execution_id, 1), 2, NOW)
        assert await cluster.states() == {"a": "ended", "b": "ended", "c": "queued"}

    run_cluster(scenario, Limits(starts=1, period_ms=60_000))


def test_limits_that_cannot_be():
    with pytest.raises(ValidationError, match="limits nothing"):
        Limits()
    with pytest.raises(ValidationError, match="concurrency"):
        Limits(concurrency=0)
    for key in ("a..b", ".a", "a.", "."):
        with pytest.raises(ValidationError, match="names with dots between them"):
            Limits(concurrency=1, key=key)
    with pytest.raises(ValidationError, match=r'"customer\.id" of the input'):
        Limits(concurrency=1, key="customer.id").key_of({"customer": {"id": []}}, None)


def test_the_key_is_read_from_the_input():
    limits = Limits(concurrency_per_key=1, key="customer.id")
    assert limits.key_of({"customer": {"id": 7}}, None) == "7"
    assert limits.key_of({"customer": None}, None) is None
    assert limits.key_of({"customer": {"id": 7}}, "given") == "given"
