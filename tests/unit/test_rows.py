"""What is made of the rows of a database, whichever kind it is."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from workflow_core import StorageError
from workflow_core.database.moments import stored_text
from workflow_core.database.rows import UnfinishedExecution, events, search, summary, unfinished
from workflow_core.events import StepCompleted, StepStarted
from workflow_core.ownership import Owner
from workflow_core.summaries import ExecutionSummary

moment = datetime.fromisoformat
NINE, TEN = "2026-01-01T09:00:00+00:00", "2026-01-01T10:00:00+00:00"
AT_NINE, AT_TEN = datetime(2026, 1, 1, 9, tzinfo=UTC), datetime(2026, 1, 1, 10, tzinfo=UTC)


def row(execution_id, error=None, queue=None):
    return (execution_id, "w", "failed", NINE, TEN, 3, error, queue)


def found(rows, text, limit=10, looked_at=10):
    executions, behind = search(iter(rows), text, limit, looked_at, moment)
    return [execution.execution_id for execution in executions], behind


def test_an_execution_in_short():
    assert summary(row("e", "gone", "slow"), moment) == ExecutionSummary(
        execution_id="e",
        workflow_name="w",
        status="failed",
        started_at=AT_NINE,
        completed_at=AT_TEN,
        restart_attempt=3,
        error="gone",
        queue="slow",
    )
    assert summary(("e", "w", "running", NINE, None, 1, None, None), moment).completed_at is None


@pytest.mark.parametrize("text", ["ORDER", "order", "r-1", "STRASSE", "straße"])
def test_a_text_is_found_in_ids_and_errors_whatever_its_case(text):
    rows = [row("Order-1", "Straße"), row("x"), row("y", "no such thing")]
    assert found(rows, text) == (["Order-1"], None)


def test_a_search_of_all_rows_has_no_end_to_go_on_from():
    assert found([row("a-1"), row("b"), row("a-2")], "a-") == (["a-1", "a-2"], None)
    assert found([], "a") == ([], None)


def test_a_search_ends_with_as_many_as_are_asked_for():
    assert found([row("a-1"), row("b"), row("a-2"), row("a-3")], "a-", limit=2) == (["a-1", "a-2"], (AT_NINE, "a-2"))


def test_a_search_ends_with_as_many_as_are_looked_at():
    rows = [row("a-1"), row("b"), row("c"), row("a-2")]
    assert found(rows, "a-", looked_at=3) == (["a-1"], (AT_NINE, "c"))


def unfinished_row(owner_id="me", due_at=None, deadline=None, declarative=0):
    return ("e", "w", "sleeping", NINE, 7, "host", 42, "0", owner_id, 5_000, due_at, deadline, declarative)


def test_an_unfinished_execution():
    assert unfinished(unfinished_row(), moment) == UnfinishedExecution(
        "e", "w", "sleeping", AT_NINE, 7, Owner("host", 42, "0", "me"), 5_000, None, is_declarative=False
    )


def test_an_unfinished_execution_that_nobody_owns():
    assert unfinished(unfinished_row(owner_id=None), moment).owner is None


def test_a_declarative_execution():
    assert unfinished(unfinished_row(declarative=1), moment).is_declarative is True


@pytest.mark.parametrize(
    ("due_at", "deadline", "wakes_at"),
    [(3_000, None, 3_000), (3_000, 9_000, 3_000), (9_000, 3_000, 3_000), (None, 3_000, None), (0, 3_000, 0)],
)
def test_what_sleeps_wakes_when_its_wait_or_its_time_is_over(due_at, deadline, wakes_at):
    assert unfinished(unfinished_row(due_at=due_at, deadline=deadline), moment).due_at == wakes_at


def test_its_place_in_the_list():
    assert unfinished(unfinished_row(), moment).position == (AT_NINE, "e")


def test_a_history():
    rows = [(1, "StepStarted", "s", 2, NINE, None), (2, "StepCompleted", "s", 2, TEN, '{"handled_by": "catch"}')]
    first, second = events(iter(rows), "w", "e", moment)
    assert (type(first), vars(first)) == (
        StepStarted,
        {"seq": 1, "at": AT_NINE, "execution_id": "e", "workflow_name": "w", "step_id": "s", "attempt": 2},
    )
    assert (type(second), second.seq, second.at, second.handled_by) == (StepCompleted, 2, AT_TEN, "catch")


def test_a_history_with_an_event_of_no_known_type():
    with pytest.raises(StorageError, match=r'of execution "e" .* at position 5'):
        events([(5, "StepTeleported", "s", 1, NINE, None)], "w", "e", moment)


def test_a_moment_is_stored_in_utc_with_all_its_digits():
    """The second is remembered from one moment to the next, so they are written in an order that would show it."""
    india = timezone(timedelta(hours=5, minutes=30))
    written = {
        datetime(2026, 1, 1, 6, 30, 0, 999_999, tzinfo=UTC): "2026-01-01T06:30:00.999999+00:00",
        datetime(2026, 1, 1, 12, 0, 0, 7, tzinfo=india): "2026-01-01T06:30:00.000007+00:00",
        datetime(2026, 1, 1, 6, 30, 1, tzinfo=UTC): "2026-01-01T06:30:01.000000+00:00",
        datetime(2026, 1, 1, 12, 0, 2, 12_345, tzinfo=india): "2026-01-01T06:30:02.012345+00:00",
        datetime(1969, 12, 31, 23, 59, 59, 1_000, tzinfo=UTC): "1969-12-31T23:59:59.001000+00:00",
    }
    assert {moment: stored_text(moment) for moment in written} == written
