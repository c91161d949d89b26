"""The states of a circuit, by the functions alone; also those that a dead process, or a clock set back, leaves."""

from dataclasses import replace

import pytest

from workflow_core import CircuitBreakerConfig
from workflow_core.circuit_breaker import CircuitState, admit, after_failure, after_success, forced

CONFIG = CircuitBreakerConfig(failure_threshold=3, reset_timeout_ms=10_000)
NOON = 1_767_268_800_000

CLOSED = CircuitState("closed", failures=2, last_failure_time=NOON)
OPEN = CircuitState("open", failures=3, last_failure_time=NOON, reset_time=NOON + 10_000)
PROBED = replace(OPEN, status="half_open", probe_execution_id="mine", probe_expires_at=NOON + 20_000)


def probed_by(execution_id, since_ms):
    """The open circuit, probed by an execution: all else is kept for the operator to see."""
    return replace(OPEN, status="half_open", probe_execution_id=execution_id, probe_expires_at=NOON + since_ms + 10_000)


def test_a_circuit_that_nobody_has_met_is_closed():
    answer = admit(CircuitState(), CONFIG, "mine", NOON)
    assert answer.allowed is True
    assert answer.state.status == "closed"


def test_a_closed_circuit_lets_everybody_through_and_stays_as_it_is():
    answer = admit(CLOSED, CONFIG, "mine", NOON)
    assert (answer.allowed, answer.state) == (True, CLOSED)


@pytest.mark.parametrize("after_ms", [0, 1, 9_999])
def test_an_open_circuit_refuses_until_its_reset_time(after_ms):
    answer = admit(OPEN, CONFIG, "mine", NOON + after_ms)
    assert (answer.allowed, answer.state) == (False, OPEN)


@pytest.mark.parametrize("after_ms", [10_000, 10_001, 1_000_000])
def test_at_its_reset_time_an_open_circuit_lets_one_probe_through(after_ms):
    answer = admit(OPEN, CONFIG, "mine", NOON + after_ms)
    assert (answer.allowed, answer.state) == (True, probed_by("mine", after_ms))
    assert admit(answer.state, CONFIG, "other", NOON + after_ms).allowed is False


def test_a_clock_that_was_set_back_does_not_keep_a_circuit_open():
    assert admit(OPEN, CONFIG, "mine", NOON - 1).state == probed_by("mine", -1)
    assert admit(OPEN, CONFIG, "mine", NOON - 1).allowed is True


def test_an_open_circuit_without_a_moment_of_failure_refuses_from_the_beginning_of_time():
    opened = CircuitState("open", failures=3, reset_time=10_000)
    assert admit(opened, CONFIG, "mine", 0).allowed is False
    assert admit(opened, CONFIG, "mine", 10_000).allowed is True


def test_an_open_circuit_without_a_reset_time_is_probed_at_once():
    answer = admit(replace(OPEN, reset_time=None), CONFIG, "mine", NOON)
    assert answer.allowed is True
    assert answer.state.probe_execution_id == "mine"


def test_the_probing_execution_may_go_on_with_its_attempts():
    answer = admit(PROBED, CONFIG, "mine", NOON + 15_000)
    assert (answer.allowed, answer.state) == (True, PROBED)


@pytest.mark.parametrize("after_ms", [10_000, 19_999])
def test_nobody_else_gets_through_while_a_probe_is_under_way(after_ms):
    answer = admit(PROBED, CONFIG, "other", NOON + after_ms)
    assert (answer.allowed, answer.state) == (False, PROBED)


@pytest.mark.parametrize("after_ms", [20_000, 20_001])
def test_a_probe_that_nobody_reported_back_is_taken_over(after_ms):
    answer = admit(PROBED, CONFIG, "other", NOON + after_ms)
    assert (answer.allowed, answer.state) == (True, probed_by("other", after_ms))


def test_a_half_open_circuit_without_a_probe_takes_the_first_who_comes():
    answer = admit(replace(PROBED, probe_execution_id=None), CONFIG, "other", NOON)
    assert (answer.allowed, answer.state) == (True, probed_by("other", 0))


def test_a_probe_without_an_end_is_not_taken_over():
    probed = replace(PROBED, probe_expires_at=None)
    answer = admit(probed, CONFIG, "other", NOON + 1_000_000)
    assert (answer.allowed, answer.state) == (False, probed)


def test_failures_in_a_row_open_the_circuit_at_the_threshold():
    state = CircuitState()
    for failures in (1, 2):
        state = after_failure(state, CONFIG, "mine", NOON + failures)
        assert state == CircuitState("closed", failures, NOON + failures)
    assert after_failure(state, CONFIG, "mine", NOON) == OPEN


def test_a_closed_circuit_opens_above_a_threshold_that_was_lowered_meanwhile():
    stricter = CircuitBreakerConfig(failure_threshold=1, reset_timeout_ms=10_000)
    assert after_failure(CLOSED, stricter, "mine", NOON) == OPEN


def test_the_probe_s_failure_opens_the_circuit_anew():
    later = NOON + 15_000
    assert after_failure(PROBED, CONFIG, "mine", later) == CircuitState("open", 4, later, later + 10_000)


@pytest.mark.parametrize("state", [OPEN, PROBED])
def test_the_failure_of_an_attempt_that_began_before_the_circuit_opened_is_only_counted(state):
    later = NOON + 5_000
    assert after_failure(state, CONFIG, "other", later) == replace(state, failures=4, last_failure_time=later)


def test_the_failure_of_the_execution_that_probed_last_does_not_prolong_an_open_circuit():
    opened = replace(OPEN, probe_execution_id="mine")
    assert after_failure(opened, CONFIG, "mine", NOON + 5_000).reset_time == NOON + 10_000


def test_a_success_forgets_the_failures_and_keeps_when_the_last_one_was():
    assert after_success(CLOSED, "mine") == CircuitState("closed", 0, NOON)


def test_a_success_after_another_forgets_when_the_last_failure_was():
    healthy = after_success(after_success(CLOSED, "mine"), "other")
    assert healthy == CircuitState()
    assert after_success(healthy, "mine") == healthy


def test_the_probe_s_success_closes_the_circuit():
    assert after_success(PROBED, "mine") == CircuitState("closed", 0, NOON)


@pytest.mark.parametrize("state", [OPEN, PROBED, replace(OPEN, probe_execution_id="other")])
def test_the_success_of_an_attempt_that_began_before_the_circuit_opened_changes_nothing(state):
    assert after_success(state, "other") == state


def test_a_circuit_that_is_closed_by_hand_has_no_failures():
    assert forced(OPEN, CONFIG, "closed", NOON + 1) == CircuitState("closed", 0, NOON)


@pytest.mark.parametrize(("before", "failures"), [(0, 3), (2, 3), (3, 3), (7, 7)])
def test_a_circuit_that_is_opened_by_hand_has_at_least_the_failures_that_open_it(before, failures):
    state = forced(replace(CLOSED, failures=before), CONFIG, "open", NOON + 1)
    assert state == CircuitState("open", failures, NOON + 1, NOON + 10_001)


@pytest.mark.parametrize(("before", "failures"), [(0, 3), (7, 7)])
def test_a_circuit_that_is_half_opened_by_hand_waits_for_its_probe(before, failures):
    state = forced(replace(CLOSED, failures=before), CONFIG, "half_open", NOON + 1)
    assert state == CircuitState("half_open", failures, NOON, reset_time=NOON + 1)
    assert admit(state, CONFIG, "mine", NOON + 1).allowed is True
