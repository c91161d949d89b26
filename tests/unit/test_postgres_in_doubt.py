"""Connections that break when a durable point is committed and its answer is not there yet, at each durable point."""

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from tests.postgres_proxy import lose_each_answer
from tests.unit.conftest import sql
from tests.unit.store_calls import NOW
from workflow_core import LeaseLostError, StorageError, circuit_breaker
from workflow_core.circuit_breaker import CircuitState
from workflow_core.database.store import DURABLE_POINTS, CircuitChange, ErrorRecord, Lease, NewExecution, StepRecord
from workflow_core.models import CircuitBreakerConfig
from workflow_core.ownership import Owner

OWNER, OTHER = Owner("host", 1, "0", "one"), Owner("host", 2, "0", "two")
NEW = NewExecution("w", "e", '{"a":1}', "{}", "{}", None, "r1", "{}", fencing_token=7)
LEASE, NEXT = Lease("w", "e", 7), Lease("w", "e", 8)
ERROR = ErrorRecord("E", "m", "stack", "{}", 1, 0)
CONFIG = CircuitBreakerConfig(failure_threshold=1, reset_timeout_ms=1_000)
FAILURE = CircuitChange(lambda state: circuit_breaker.after_failure(state, CONFIG, "e", 100), 4)
SUCCESS = CircuitChange(lambda state: circuit_breaker.after_success(state, "e"), 4)
HALF_OPEN = CircuitState("half_open", 1, 1, 2, "e", 99_999)


async def started(store):
    await store.execution_started(NEW, OWNER, 5_000, NOW)


async def running(store):
    await started(store)
    await store.step_started(LEASE, StepRecord("s"), 1, 2, NOW, None)


async def failing(store):
    await running(store)
    await store.step_attempt_failed(LEASE, step("running", None), ERROR, 3, NOW, None, None)


async def panicked(store):
    await running(store)
    await store.sleep_started(LEASE, StepRecord("z"), 5, 9, 3, NOW, None)
    await store.execution_panicked(LEASE, '{"type":"E","message":"m"}', "m", 5, "{}", 4, NOW)


async def probing(store):
    await running(store)
    await store.circuit_forced("w", "s", lambda state: HALF_OPEN)


async def opened(store):
    await started(store)
    await store.circuit_forced("w", "s", lambda state: CircuitState("open", 1, 1, 2))


async def sleeping(store):
    await started(store)
    await store.sleep_started(LEASE, StepRecord("z"), 5, 9, 2, NOW, "sleeping")


def step(status="running", started_seq=2):
    return StepRecord("s", status=status, attempt=1, started_seq=started_seq, stored=True)


def admit(state):
    answer = circuit_breaker.admit(state, CONFIG, "e", 5_000)
    return answer.allowed, answer.state


async def nothing(store):
    pass


@dataclass
class Act:
    """A durable point: what has to be there before, and the call."""

    name: str
    before: Any
    call: Any
    then: Any = field(default=nothing)


LATER = NOW + timedelta(seconds=1)
FAILED = '{"type":"E","message":"m"}'
ACTS = [
    Act("execution_started", nothing, lambda store: store.execution_started(NEW, OWNER, 5_000, NOW), running),
    Act("execution_recovered", running, lambda s: s.execution_recovered(LEASE, OTHER, None, 3, LATER)),
    Act("execution_completed", running, lambda s: s.execution_completed(LEASE, "1", True, 3, LATER)),
    Act("execution_failed", running, lambda s: s.execution_failed(LEASE, FAILED, "m", 3, LATER)),
    Act("execution_panicked", running, lambda s: s.execution_panicked(LEASE, FAILED, "m", 5, "{}", 3, LATER)),
    Act("execution_restarted", panicked, lambda s: s.execution_restarted(LEASE, OTHER, 9_000, 2, None, 5, LATER)),
    Act("execution_cancelled", running, lambda s: s.execution_cancelled(LEASE, 3, LATER)),
    Act("execution_released", running, lambda s: s.execution_released(LEASE, True, LATER)),
    Act("executions_released", running, lambda s: s.executions_released([LEASE], LATER)),
    Act(
        "step_started",
        started,
        lambda s: s.step_started(LEASE, StepRecord("s"), 1, 2, NOW, None),
        lambda s: s.step_completed(LEASE, step(), "1", None, 3, LATER, None, None),
    ),
    Act(
        "step_started",
        failing,
        lambda s: s.step_started(LEASE, step("running", None), 2, 4, LATER, "running"),
        lambda s: s.step_completed(LEASE, step(), "1", None, 5, LATER, None, None),
    ),
    Act("step_started", running, lambda s: s.step_started(LEASE, step(), 2, 3, LATER, None)),
    Act("step_completed", running, lambda s: s.step_completed(LEASE, step(), "1", None, 3, LATER, None, None)),
    Act("step_completed", running, lambda s: s.step_completed(LEASE, step(), "1", "catch", 3, LATER, "running", None)),
    Act("step_completed", probing, lambda s: s.step_completed(LEASE, step(), "1", None, 3, LATER, None, SUCCESS)),
    Act(
        "step_attempt_failed",
        running,
        lambda s: s.step_attempt_failed(LEASE, step(), ERROR, 3, LATER, "running", None),
        lambda s: s.step_started(LEASE, step("running", None), 2, 4, LATER, None),
    ),
    Act(
        "step_attempt_failed",
        running,
        lambda s: s.step_attempt_failed(LEASE, step(), ERROR, 3, LATER, None, FAILURE),
        lambda s: s.step_started(LEASE, step("running", None), 2, 5, LATER, None),
    ),
    Act(
        "step_retrying",
        failing,
        lambda s: s.step_retrying(LEASE, step("running", None), 10, 5, 4, LATER),
        lambda s: s.step_started(LEASE, step("retrying", None), 2, 5, LATER, None),
    ),
    Act("step_failed", failing, lambda s: s.step_failed(LEASE, step("running", None), ERROR, True, LATER)),
    Act(
        "step_refused",
        opened,
        lambda s: s.step_refused(LEASE, StepRecord("s"), 1, None, LATER),
        lambda s: s.step_skipped(LEASE, step("pending", None), "1", 3, LATER),
    ),
    Act(
        "step_refused",
        running,
        lambda s: s.step_refused(LEASE, step(), 2, 3, LATER),
        lambda s: s.step_skipped(LEASE, step("pending", None), "1", 4, LATER),
    ),
    Act("step_skipped", started, lambda s: s.step_skipped(LEASE, StepRecord("s"), "1", 3, LATER)),
    Act(
        "sleep_started",
        started,
        lambda s: s.sleep_started(LEASE, StepRecord("z"), 5, 9, 2, NOW, "sleeping"),
        lambda s: s.sleep_completed(LEASE, StepRecord("z"), 3, LATER, "running"),
    ),
    Act("sleep_completed", sleeping, lambda s: s.sleep_completed(LEASE, StepRecord("z"), 3, LATER, "running")),
    Act("circuit_admitted", opened, lambda s: s.circuit_admitted(LEASE, "s", admit, 3, LATER)),
    Act("circuit_forced", running, lambda s: s.circuit_forced("w", "s", lambda state: HALF_OPEN)),
    Act("lease_renewed", running, lambda s: s.lease_renewed(OWNER, 9_000, [LEASE])),
]
TABLES = {
    "executions": "*",
    "steps": "*",
    "step_errors": "execution_id, step_id, error_type, attempt",
    "event_log": "*",
    "circuit_breaker_state": "*",
    "owners": "*",
    "definitions": "*",
}


async def everything(store):
    return {
        table: await sql(store, f"SELECT {what} FROM {{s}}.{table} ORDER BY 1, 2") for table, what in TABLES.items()
    }


def comparable(result):
    """Of circuits only the statuses are used by who asked, to tell what happened."""
    if isinstance(result, tuple):
        return tuple(getattr(part, "status", part) for part in result)
    return result


def test_each_durable_point_is_there():
    assert set(DURABLE_POINTS) <= {act.name for act in ACTS}


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.name)
@pytest.mark.parametrize("was_used", [True, False], ids=["used before", "new"])
def test_a_point_whose_answer_is_lost_is_written_once_and_told_as_success(make_postgres_store, proxy, act, was_used):
    async def prepare(store):
        await sql(store, "; ".join(f"DELETE FROM {{s}}.{table}" for table in TABLES))
        await act.before(store)

    async def look(result, store):
        return comparable(result), await everything(store)

    asyncio.run(
        lose_each_answer(proxy, make_postgres_store, was_used=was_used, prepare=prepare, call=act.call, look=look)
    )


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.name)
def test_a_copy_of_a_point_that_comes_late_changes_nothing(make_postgres_store, act):
    """It was on its way when its connection broke; the point was written by another one, and things went on."""
    if act.name in {"lease_renewed", "circuit_forced"}:
        return  # they say how it is to be, and nothing follows from them

    async def scenario():
        store = make_postgres_store()
        await act.before(store)
        await act.call(store)
        if act.then is not running:
            await act.then(store)
        before = await everything(store)
        late = make_postgres_store()
        with contextlib.suppress(LeaseLostError, StorageError):
            await act.call(late)
        after = await everything(late)
        if act.name == "execution_started":  # a new process's first write notes its owner
            after["owners"] = before["owners"]
        assert after == before

    asyncio.run(scenario())


def test_a_start_of_another_engine_is_not_taken_for_our_own(make_postgres_store):
    async def scenario():
        one, two = make_postgres_store(), make_postgres_store()
        assert await one.execution_started(NEW, OWNER, None, NOW) is None
        found = await two.execution_started(NEW, OTHER, None, NOW)
        assert found.owner_id == OWNER.owner_id
        for other in (replace(NEW, input_data="2"), replace(NEW, fencing_token=8), replace(NEW, workflow_name="v")):
            assert (await one.execution_started(other, OWNER, None, NOW)).input_data == NEW.input_data
        await one.step_started(LEASE, StepRecord("s"), 1, 2, NOW, "sleeping")
        assert (await one.execution_started(NEW, OWNER, None, NOW)).status == "sleeping"

    asyncio.run(scenario())


def test_a_take_over_of_somebody_else_is_not_taken_for_our_own(make_postgres_store):
    async def scenario():
        one, two = make_postgres_store(), make_postgres_store()
        await running(one)
        assert await one.execution_recovered(LEASE, OTHER, None, 3, NOW) == NEXT
        with pytest.raises(LeaseLostError):
            await two.execution_recovered(LEASE, OWNER, None, 3, NOW)
        with pytest.raises(LeaseLostError):
            await two.execution_recovered(LEASE, OTHER, None, 3, LATER)

    asyncio.run(scenario())


def test_a_row_that_another_program_changed_is_an_error_and_nothing_is_written(make_postgres_store):
    async def scenario():
        store = make_postgres_store()
        await running(store)
        await sql(store, "UPDATE {s}.steps SET status = 'completed'")
        before = await everything(store)
        with pytest.raises(StorageError, match="another program has written there"):
            await store.step_completed(LEASE, step(), "1", None, 3, NOW, None, None)
        with pytest.raises(StorageError, match="another program has written there"):
            await store.step_completed(LEASE, step(), "1", None, 3, NOW, None, SUCCESS)
        assert await everything(store) == before

    asyncio.run(scenario())
