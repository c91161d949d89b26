"""The store, on SQLite in a file and in memory and on PostgreSQL, by the same tests."""

import asyncio
from datetime import datetime

import pytest

from tests.unit.conftest import sql
from tests.unit.store_calls import NOW, OWNER, begin, start_step
from workflow_core import LeaseLostError, StorageError
from workflow_core.circuit_breaker import CircuitState
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.database.store import DURABLE_POINTS, ErrorRecord, Lease, NewExecution, StepRecord
from workflow_core.ownership import Owner


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request):
    store = SQLiteStore() if request.param == "memory" else request.getfixturevalue(f"make_{request.param}_store")()
    yield store
    store.close()


def select(store, statement):
    return [tuple(row) for row in asyncio.run(sql(store, statement))]


def everything(store):
    tables = ("executions", "steps", "step_errors", "event_log", "circuit_breaker_state", "owners", "definitions")

    async def read():  # in one event loop: each one has connections of its own
        return [list(map(tuple, await sql(store, f"SELECT * FROM {{s}}.{table} ORDER BY 1, 2"))) for table in tables]

    return asyncio.run(read())


def test_every_durable_point_is_a_method(store):
    assert all(callable(getattr(store, name)) for name in DURABLE_POINTS)


def test_a_step_is_one_row_and_two_events(store):
    lease = begin(store)
    step = start_step(store, lease)
    asyncio.run(store.step_completed(lease, step, "7", None, 3, NOW, None, None))
    assert select(store, "SELECT count(*) FROM {s}.event_log") == [(0,)]
    kinds = [type(event).__name__ for event in asyncio.run(store.load_events("w", "e"))]
    assert kinds == ["ExecutionStarted", "StepStarted", "StepCompleted"]


def test_an_owner_is_there_although_its_first_write_was_refused(store):
    lease, second = begin(store), Owner("host", 2, "0")
    with pytest.raises(LeaseLostError):
        asyncio.run(store.execution_recovered(Lease("w", "e", 7), second, 5_000, 2, NOW))
    asyncio.run(store.execution_recovered(lease, second, 5_000, 2, NOW))
    assert asyncio.run(store.load_owner(second.owner_id)) == (second, 5_000)


def test_starting_an_id_again_returns_what_is_there(store):
    begin(store)
    found = asyncio.run(store.execution_started(NewExecution("v", "e", None, "{}", "{}", None), OWNER, None, NOW))
    assert (found.workflow_name, found.input_data, found.started_at) == ("w", '{"a":1}', NOW)


@pytest.mark.parametrize(
    "write",
    [
        lambda store, lease, step: store.step_started(lease, StepRecord("new"), 1, 9, NOW, None),
        lambda store, lease, step: store.step_started(lease, step, 2, 9, NOW, "running"),
        lambda store, lease, step: store.step_completed(lease, step, "1", None, 9, NOW, None, None),
        lambda store, lease, step: store.step_completed(lease, step, "1", None, 9, NOW, "running", None),
        lambda store, lease, step: store.step_attempt_failed(
            lease, step, ErrorRecord("E", "m", None, None, 1, 0), 9, NOW, None, None
        ),
        lambda store, lease, step: store.step_retrying(lease, step, 5, 5, 9, NOW),
        lambda store, lease, step: store.step_failed(lease, step, ErrorRecord("E", "m", None, None, 1, 0), True, NOW),
        lambda store, lease, step: store.step_refused(lease, step, 1, None, NOW),
        lambda store, lease, step: store.step_skipped(lease, step, "1", 9, NOW),
        lambda store, lease, step: store.sleep_started(lease, StepRecord("z"), 5, 5, 9, NOW, None),
        lambda store, lease, step: store.sleep_completed(lease, step, 9, NOW, None),
        lambda store, lease, step: store.execution_completed(lease, None, False, 9, NOW),
        lambda store, lease, step: store.execution_failed(lease, '{"type":"E","message":"m"}', "m", 9, NOW),
        lambda store, lease, step: store.execution_panicked(lease, "{}", "m", None, "{}", 9, NOW),
        lambda store, lease, step: store.execution_restarted(lease, OWNER, None, 2, None, 9, NOW),
        lambda store, lease, step: store.execution_cancelled(lease, 9, NOW),
        lambda store, lease, step: store.execution_released(lease, True, NOW),
        lambda store, lease, step: store.execution_recovered(lease, OWNER, None, 9, NOW),
    ],
)
def test_without_the_lease_nothing_is_written(store, write):
    lease = begin(store)
    step = start_step(store, lease)
    asyncio.run(store.execution_recovered(lease, Owner("other", 2, "0"), None, 3, NOW))
    before = everything(store)
    with pytest.raises(LeaseLostError):
        asyncio.run(write(store, lease, step))
    assert everything(store) == before


def test_a_foreign_change_moves_updated_at_and_ours_sets_it(store):
    def updated_at(table):
        ((at,),) = select(store, f"SELECT updated_at FROM {{s}}.{table}")
        return datetime.fromisoformat(at) if isinstance(at, str) else at

    start_step(store, begin(store))
    for table in ("steps", "executions"):
        assert updated_at(table) == NOW
        select(store, f"UPDATE {{s}}.{table} SET status = 'failed'")
        assert updated_at(table) != NOW


def test_the_log_of_events_is_append_only(store):
    asyncio.run(store.execution_cancelled(begin(store), 2, NOW))
    with pytest.raises(Exception, match="append-only"):
        select(store, "UPDATE {s}.event_log SET type = 'ExecutionCompleted'")


def test_deleting_an_execution_deletes_what_belongs_to_it(store):
    lease = begin(store)
    step = start_step(store, lease)
    asyncio.run(store.step_attempt_failed(lease, step, ErrorRecord("E", "m", None, None, 1, 0), 3, NOW, None, None))
    select(store, "DELETE FROM {s}.executions")
    for table in ("steps", "step_errors", "event_log", "step_events"):
        assert select(store, f"SELECT count(*) FROM {{s}}.{table}") == [(0,)]


def test_a_closed_store_says_so(store):
    store.close()
    with pytest.raises(StorageError, match="closed"):
        asyncio.run(store.load_execution("e"))


def test_executions_that_start_one_after_another_prolong_the_lease_of_their_owner(store):
    for number in range(10):
        new = NewExecution("w", f"e{number}", None, "{}", "{}", None)
        asyncio.run(store.execution_started(new, OWNER, 5_000 + 600 * number, NOW))
    _, expires_at = asyncio.run(store.load_owner(OWNER.owner_id))
    assert expires_at >= 5_000 + 600 * 9 - 1_000


def test_moments_keep_their_microseconds(store):
    begin(store)
    assert asyncio.run(store.load_execution("e")).started_at == NOW


@pytest.mark.parametrize(
    "text",
    [
        '{"b":1,"a":{"z":1,"y":2}, "a":  3}',
        "[1e400,12345678901234567890123456789,1.10,0.1000000000000000055511151231257827]",
        r'"\u0000 \ud83d\ude00 \ud800"',
        '"\u2028 \U0001f600 e\u0301"',
        "null",
    ],
)
def test_json_comes_back_as_it_was_written(store, text):
    lease = begin(store)
    step = start_step(store, lease)
    asyncio.run(store.step_completed(lease, step, text, None, 3, NOW, None, None))
    asyncio.run(store.execution_completed(lease, text, False, 4, NOW))
    assert asyncio.run(store.load_steps("w", "e"))[0]["s"].result_data == text
    assert asyncio.run(store.load_execution("e")).output_data == text


def test_a_null_character_in_an_error_is_recorded(store):
    lease = begin(store)
    step = start_step(store, lease)
    error = ErrorRecord("E", "a\0b", "at\0here", None, 1, 0)
    asyncio.run(store.step_attempt_failed(lease, step, error, 3, NOW, None, None))
    ((_, found),) = asyncio.run(store.load_errors("w", "e"))
    assert found.error_message in {"a\0b", "a\\x00b"}
    *_, event = asyncio.run(store.load_events("w", "e"))
    assert event.message == "a\0b"


def test_names_are_sorted_by_their_bytes(store):
    for name in ("a", "B", "_", "Z", "a.b", "aB", "ab"):
        begin(store, f"x{name}")
    assert asyncio.run(store.find_execution_ids("x", 10)) == ["xB", "xZ", "x_", "xa", "xa.b", "xaB", "xab"]
    assert asyncio.run(store.find_execution_ids("xa", 2)) == ["xa", "xa.b"]


def test_a_cancellation_comes_after_a_durable_point_not_in_the_middle_of_it(store):
    lease = begin(store)

    async def scenario():
        async def write():
            await store.step_started(lease, StepRecord("s"), 1, 2, NOW, None)
            reached.append("after the point")
            await asyncio.sleep(0)
            reached.append("after the next wait")

        reached = []
        task = asyncio.ensure_future(write())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return reached

    assert asyncio.run(scenario()) == ["after the point"]
    assert select(store, "SELECT status FROM {s}.steps") == [("running",)]


def test_a_time_out_that_strikes_in_a_durable_point_is_a_time_out(store):
    lease = begin(store)

    async def scenario():
        async with asyncio.timeout(10) as timeout:
            timeout.reschedule(0)
            await store.step_started(lease, StepRecord("s"), 1, 2, NOW, None)
            await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        asyncio.run(scenario())
    assert select(store, "SELECT status FROM {s}.steps") == [("running",)]


def test_what_a_circuit_was_and_became(store):
    lease = begin(store)

    def probe(state):
        return True, CircuitState("half_open", state.failures, 1, 2, "e", 3)

    opened = CircuitState("open", 3, 1, 2)
    assert asyncio.run(store.circuit_forced("w", "s", lambda state: opened)) == opened
    found = asyncio.run(store.circuit_admitted(lease, "s", probe, 2, NOW))
    assert found == (True, opened, CircuitState("half_open", 3, 1, 2, "e", 3))
    assert asyncio.run(store.circuit_admitted(lease, "s", lambda state: (False, state), 3, NOW))[0] is False
    assert list(asyncio.run(store.load_circuits("w"))) == [("w", "s")]
    assert asyncio.run(store.load_circuits("v")) == {}
    asyncio.run(store.execution_cancelled(lease, 3, NOW))
    assert asyncio.run(store.load_circuits())["w", "s"].probe_execution_id is None
