"""What each durable point leaves in a database, as it is read again."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.unit.store_calls import NOW, OWNER, begin, start_step
from workflow_core.circuit_breaker import CircuitState
from workflow_core.crash_loops import Recoveries
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.database.store import ErrorRecord, Lease, NewExecution, StepRecord
from workflow_core.ownership import Owner

LATER = NOW + timedelta(seconds=1)
ERROR = ErrorRecord("OSError", "gone", "its stack", '{"a":1}', 1, 7)
OTHER = Owner("other", 2, "0")


@pytest.fixture
def store():
    store = SQLiteStore()
    yield store
    store.close()


@pytest.fixture
def lease(store):
    return begin(store)


def do(awaitable):
    return asyncio.run(awaitable)


def steps(store, execution_id="e"):
    found, _ = do(store.load_steps("w", execution_id))
    return found


def told(store, execution_id="e", after=1):
    """Return the history in short, behind its first event."""
    return [
        (type(event).__name__, event.seq, event.at, *event.named_fields().values())
        for event in do(store.load_events("w", execution_id, after))
    ]


def record(store, execution_id="e"):
    return do(store.load_execution(execution_id))


def step(step_id="s", **fields):
    return StepRecord(step_id, stored=True, **fields)


def test_an_attempt_that_failed_leaves_its_error_and_both_its_events(store, lease):
    begun = start_step(store, lease)
    do(store.step_attempt_failed(lease, begun, ERROR, 3, LATER, None, None))
    assert steps(store) == {
        "s": step(status="running", attempt=1, started_at=NOW, error_message="gone", started_seq=None)
    }
    assert do(store.load_errors("w", "e")) == do(store.load_errors("w", "e", "s")) == [("s", ERROR)]
    assert do(store.load_errors("w", "e", "other")) == do(store.load_errors("w", "other")) == []
    assert told(store) == [("StepStarted", 2, NOW, "s", 1), ("StepFailed", 3, LATER, "s", 1, "OSError", "gone")]


def test_a_step_that_waits_for_its_next_attempt_and_begins_it(store, lease):
    begun = start_step(store, lease)
    do(store.step_attempt_failed(lease, begun, ERROR, 3, NOW, None, None))
    do(store.step_retrying(lease, begun, 5_000, 70, 4, LATER))
    waiting = steps(store)["s"]
    assert (waiting.status, waiting.next_attempt_at) == ("retrying", 5_000)
    do(store.step_started(lease, waiting, 2, 5, LATER, "running"))
    assert steps(store) == {"s": step(status="running", attempt=2, started_at=LATER, started_seq=5)}
    assert told(store, after=3) == [("StepRetrying", 4, LATER, "s", 1, 70), ("StepStarted", 5, LATER, "s", 2)]


def test_an_attempt_that_follows_one_that_was_cut_off_tells_of_that(store, lease):
    begun = start_step(store, lease)
    do(store.step_started(lease, begun, 2, 3, LATER, None))
    assert steps(store) == {"s": step(status="running", attempt=2, started_at=LATER, started_seq=4)}
    assert told(store) == [
        ("StepStarted", 2, NOW, "s", 1),
        ("StepInterrupted", 3, LATER, "s", 1),
        ("StepStarted", 4, LATER, "s", 2),
    ]


@pytest.mark.parametrize("status", [None, "sleeping"])
def test_a_step_may_change_the_status_of_its_execution(store, lease, status):
    do(store.step_started(lease, StepRecord("s"), 1, 2, LATER, status))
    assert record(store).status == (status or "running")
    assert steps(store)["s"].started_at == LATER
    do(store.step_completed(lease, StepRecord("s"), "1", "on_error", 3, LATER, status and "running", None))
    assert record(store).status == "running"
    found = steps(store)["s"]
    assert (found.status, found.result_data, found.handled_by) == ("completed", "1", "on_error")
    assert (found.completed_at, found.completed_seq) == (LATER, 3)


@pytest.mark.parametrize("is_new", [True, False])
def test_a_step_that_failed_for_good(store, lease, is_new):
    begun = start_step(store, lease)
    do(store.step_retrying(lease, begun, 5_000, 70, 3, NOW))
    do(store.step_failed(lease, begun, ERROR, is_new, LATER))
    found = steps(store)["s"]
    assert (found.status, found.error_message, found.completed_at) == ("failed", "gone", LATER)
    assert found.next_attempt_at is None
    assert len(do(store.load_errors("w", "e"))) == is_new


@pytest.mark.parametrize("begun", [False, True])
def test_a_step_whose_circuit_is_open_is_pending_and_then_skipped(store, lease, begun):
    refused = start_step(store, lease) if begun else StepRecord("s")
    if begun:
        do(store.step_attempt_failed(lease, refused, ERROR, 3, NOW, None, None))
        do(store.step_retrying(lease, refused, 5_000, 70, 4, NOW))
    do(store.step_refused(lease, refused, 2, None, LATER))
    found = steps(store)["s"]
    assert (found.status, found.attempt, found.error_message) == ("pending", 2, "the circuit is open")
    assert found.next_attempt_at is None
    do(store.step_skipped(lease, replace(refused, attempt=2), '"instead"', 5, LATER))
    found = steps(store)["s"]
    assert (found.status, found.attempt, found.error_message) == ("skipped", 2, None)
    assert (found.result_data, found.completed_at, found.completed_seq) == ('"instead"', LATER, 5)


def test_an_attempt_that_was_cut_off_before_the_circuit_opened_is_told(store, lease):
    begun = start_step(store, lease)
    do(store.step_refused(lease, begun, 2, 3, LATER))
    assert steps(store)["s"].started_seq is None
    assert told(store) == [("StepStarted", 2, NOW, "s", 1), ("StepInterrupted", 3, LATER, "s", 1)]


def test_a_step_that_was_skipped_without_being_tried(store, lease):
    do(store.step_skipped(lease, StepRecord("s", attempt=0), "1", 2, LATER))
    assert steps(store) == {
        "s": step(status="skipped", attempt=0, result_data="1", completed_at=LATER, completed_seq=2)
    }


def test_a_sleep_that_begins_and_ends(store, lease):
    do(store.sleep_started(lease, StepRecord("z"), 60_000, 5_000, 2, NOW, "sleeping"))
    assert record(store).status == "sleeping"
    begun = step("z", kind="sleep", status="sleeping", attempt=1, started_at=NOW, started_seq=2)
    begun = replace(begun, wake_time=5_000, duration_ms=60_000)
    assert steps(store) == {"z": begun}
    do(store.sleep_completed(lease, begun, 3, LATER, "running"))
    assert record(store).status == "running"
    assert steps(store) == {"z": replace(begun, status="completed", completed_at=LATER, completed_seq=3)}


def test_a_circuit_belongs_to_a_step_of_a_workflow(store, lease):
    opened = CircuitState("open", 3, 1, 2)

    def asked(state):
        seen.append(state)
        return state.status != "open", state

    seen = []
    do(store.circuit_forced("w", "s", lambda state: opened))
    for workflow_name, step_id in (("w", "s"), ("w", "t"), ("v", "s")):
        do(store.circuit_forced(workflow_name, step_id, lambda state: seen.append(state) or state))
    assert do(store.circuit_admitted(lease, "s", asked, 2, NOW)) == (False, opened, opened)
    assert do(store.circuit_admitted(lease, "u", asked, 2, NOW)) == (True, CircuitState(), CircuitState())
    assert seen == [opened, CircuitState(), CircuitState(), opened, CircuitState()]
    assert do(store.load_circuits("v")) == {("v", "s"): CircuitState()}
    assert list(do(store.load_circuits())) == [("v", "s"), ("w", "s"), ("w", "t")]
    assert told(store) == []


def test_what_an_admission_changes_is_an_event_of_the_execution(store, lease):
    do(store.circuit_forced("w", "s", lambda state: CircuitState("open", 3, 1, 2)))
    probing = CircuitState("half_open", 3, 1, 2, "e", 9)
    do(store.circuit_admitted(lease, "s", lambda state: (True, probing), 2, LATER))
    assert do(store.load_circuits("w")) == {("w", "s"): probing}
    assert told(store) == [("CircuitHalfOpened", 2, LATER, "s")]


def test_an_execution_that_is_cancelled_ends_its_steps_and_its_probes(store, lease):
    do(store.step_completed(lease, start_step(store, lease, "done"), "1", None, 3, NOW, None, None))
    do(store.step_skipped(lease, StepRecord("skipped", attempt=0), "1", 4, NOW))
    do(store.step_retrying(lease, start_step(store, lease, "waiting", 5), 5_000, 70, 6, NOW))
    other = begin(store, "other")
    start_step(store, other)
    for step_id, prober in (("a", "e"), ("b", "other")):
        probing = CircuitState("half_open", 3, 1, 2, prober, 9)
        do(store.circuit_forced("w", step_id, lambda state, probing=probing: probing))
    do(store.execution_cancelled(lease, 7, LATER))
    found = record(store)
    assert (found.status, found.completed_at, found.owner_id, found.restart_at) == ("cancelled", LATER, None, None)
    assert found.fencing_token == lease.fencing_token + 1
    assert {each: (row.status, row.error_message, row.next_attempt_at) for each, row in steps(store).items()} == {
        "done": ("completed", None, None),
        "skipped": ("skipped", None, None),
        "waiting": ("failed", "the execution was cancelled", None),
    }
    assert steps(store)["waiting"].completed_at == LATER
    assert told(store)[-1] == ("ExecutionCancelled", 7, LATER)
    assert (record(store, "other").status, steps(store, "other")["s"].status) == ("running", "running")
    probes = {step_id: state.probe_execution_id for (_, step_id), state in do(store.load_circuits()).items()}
    assert probes == {"a": None, "b": "other"}


def test_an_execution_changes_hands_behind_all_that_is_in_its_history(store, lease):
    start_step(store, lease)
    new = do(store.execution_recovered(lease, OTHER, None, 2, NOW - timedelta(hours=1)))
    assert (new, new.recovered[:2]) == (Lease("w", "e", 2), (3, NOW))
    assert record(store).owner_id == OTHER.owner_id
    assert told(store)[-1] == ("ExecutionRecovered", 3, NOW)
    assert do(store.load_recoveries("w", "e")) == Recoveries([NOW], 0)
    assert do(store.load_recoveries("w", "other")) == Recoveries((), 0)


def test_what_was_given_back_in_order_counts_as_no_death(store, lease):
    begun = start_step(store, lease)
    failed = start_step(store, lease, "failed", 3)
    do(store.step_attempt_failed(lease, failed, ERROR, 4, NOW, None, None))
    do(store.execution_released(lease, True, LATER))
    assert (record(store).owner_id, record(store).fencing_token) == (None, 2)
    assert steps(store)["s"] == replace(begun, status="pending", attempt=0, started_at=NOW, started_seq=None)
    assert (steps(store)["failed"].status, steps(store)["failed"].attempt) == ("running", 1)
    assert told(store)[-1] == ("StepInterrupted", 5, LATER, "s", 1)
    do(store.execution_recovered(Lease("w", "e", 2), OTHER, None, 6, LATER))
    assert do(store.load_recoveries("w", "e")) == Recoveries((), 0)


def test_what_broke_out_of_its_process_was_not_given_back(store, lease):
    begun = start_step(store, lease)
    do(store.execution_released(lease, False, LATER))
    assert (record(store).owner_id, record(store).fencing_token) == ("", 2)
    assert steps(store) == {"s": replace(begun, started_at=NOW)}
    assert told(store) == [("StepStarted", 2, NOW, "s", 1)]


def test_some_are_given_back_together(store, lease):
    others = [begin(store, execution_id) for execution_id in ("f", "g")]
    do(store.executions_released([lease, others[0], Lease("w", "g", 9)], NOW))
    assert [record(store, execution_id).owner_id for execution_id in "efg"] == [None, None, OWNER.owner_id]


def test_a_panic_keeps_its_owner_while_it_waits_for_a_restart(store, lease):
    do(store.execution_panicked(lease, '{"a":1}', "oh", 5_000, '{"error":"E","message":"oh"}', 2, LATER))
    found = record(store)
    assert (found.status, found.error_data, found.restart_at) == ("panicked", '{"a":1}', 5_000)
    assert found.owner_id == OWNER.owner_id
    ((name, *_),) = told(store)
    assert name == "ExecutionPanicked"
    do(store.execution_panicked(lease, "{}", "oh", None, "{}", 3, LATER))
    assert (record(store).restart_at, record(store).owner_id) == (None, None)


def test_a_restart_keeps_what_is_completed_and_gives_all_else_its_attempts_back(store, lease):
    do(store.step_completed(lease, start_step(store, lease, "done"), "1", None, 3, NOW, None, None))
    do(store.step_skipped(lease, StepRecord("untried", attempt=0), "1", 4, NOW))
    do(store.step_skipped(lease, StepRecord("refused", attempt=1), "1", 5, NOW))
    do(store.sleep_started(lease, StepRecord("z"), 60_000, 5_000, 6, NOW, None))
    bad = start_step(store, lease, "bad", 7)
    do(store.step_failed(lease, bad, ERROR, True, NOW))
    do(store.execution_failed(lease, '{"type":"E","message":"oh"}', "oh", 8, LATER))
    failed = record(store)
    assert (failed.status, failed.completed_at, failed.owner_id) == ("failed", LATER, None)
    assert told(store)[-1] == ("ExecutionFailed", 8, LATER, "E", "oh")
    new = do(store.execution_restarted(lease, OTHER, None, 2, 9_000, 9, LATER))
    assert new == Lease("w", "e", 2)
    again = record(store)
    assert (again.status, again.completed_at, again.error_data, again.restart_at) == ("restarting", None, None, None)
    assert (again.restart_attempt, again.deadline_at, again.owner_id) == (2, 9_000, OTHER.owner_id)
    found = steps(store)
    assert {step_id: row.status for step_id, row in found.items()} == {
        "done": "completed",
        "untried": "pending",
        "refused": "skipped",
        "z": "sleeping",
        "bad": "pending",
    }
    assert (found["bad"].attempt, found["bad"].error_message, found["bad"].completed_at) == (0, None, None)
    assert (found["bad"].started_seq, found["untried"].result_data, found["untried"].completed_seq) == (
        None,
        None,
        None,
    )
    kinds = [each[:2] for each in told(store)]
    assert ("StepSkipped", 4) in kinds
    assert ("StepStarted", 7) in kinds
    assert told(store)[-1] == ("ExecutionRestarted", 9, LATER, 2)


def test_an_execution_keeps_the_document_that_it_was_started_with(store):
    for execution_id, document in (("one", "first"), ("two", "other")):
        new = NewExecution("w", execution_id, None, "{}", "{}", None, "r1", document)
        do(store.execution_started(new, OWNER, None, NOW))
    assert do(store.load_definition("r1")) == "first"
    assert do(store.load_definition("r2")) is None


def test_what_can_be_listed(store, lease):
    begin(store, "ef")
    new = NewExecution("v", "x", None, "{}", "{}", None)
    do(store.execution_started(new, OWNER, None, LATER))
    assert do(store.find_execution_ids("e", 5)) == ["e", "ef"]
    assert do(store.find_execution_ids("e", 1)) == ["e"]
    assert do(store.find_execution_ids("f", 5)) == []
    workflows = do(store.list_workflows())
    assert [(each.name, each.status, each.execution_count) for each in workflows] == [
        ("v", "active", 1),
        ("w", "active", 2),
    ]
    assert [(each.created_at, each.last_execution_at) for each in workflows] == [(LATER, LATER), (NOW, NOW)]
    assert do(store.workflows_with_executions()) == ["v", "w"]
    assert do(store.workflows_with_executions("w")) == ["w"]
    assert do(store.workflows_with_executions("u")) == []


def test_all_that_is_needed_to_go_on_is_read_together(store, lease):
    begun = start_step(store, lease)
    do(store.step_attempt_failed(lease, begun, ERROR, 3, LATER, None, None))
    whole = do(store.load_whole("w", "e"))
    assert whole.record == record(store)
    assert (whole.steps, whole.end) == do(store.load_steps("w", "e"))
    assert (whole.errors, whole.recoveries) == ([("s", ERROR)], Recoveries((), 0))
    assert do(store.load_whole("w", "other")) is None


@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_change_can_be_seen(tmp_path, where):
    store = SQLiteStore() if where == "memory" else SQLiteStore(tmp_path / "w.db")
    before = store.marker()
    assert before == store.marker()
    assert do(store.change_markers()) == {}
    lease = begin(store)
    after = store.marker()
    assert before != after
    assert do(store.change_markers()) == {"w": after}
    start_step(store, lease)
    assert do(store.change_markers()) == {"w": store.marker()} != {"w": after}
    store.close()
