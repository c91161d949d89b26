"""The small rules: back-off, panics, circuits, names, ids and configurations."""

from datetime import UTC, datetime

import pytest

from workflow_core import (
    CircuitBreakerConfig,
    ExecutionResult,
    NonRetryableError,
    PanicConfig,
    PanicError,
    RetryConfig,
    Settings,
    ValidationError,
    WorkflowError,
    WorkflowTimeoutError,
)
from workflow_core.circuit_breaker import CircuitState, admit, after_failure, after_success, forced
from workflow_core.clock import from_epoch_ms, to_epoch_ms
from workflow_core.events import EVENT_TYPES, UNSET, StepCompleted, StepFailed
from workflow_core.panic import PANIC_INDICATORS, find_panic_indicator
from workflow_core.retry import backoff_ms, is_retryable
from workflow_core.settings import default_directory
from workflow_core.timeouts import LONGEST_MS


@pytest.mark.parametrize(
    ("config", "waits"),
    [
        (RetryConfig(), [1_000, 2_000, 4_000, 8_000]),
        (RetryConfig(backoff_ms=50, exponential_backoff=False), [50, 50, 50, 50]),
        (RetryConfig(backoff_ms=1_000, max_backoff_ms=3_000), [1_000, 2_000, 3_000, 3_000]),
        (RetryConfig(backoff_ms=0), [0, 0, 0, 0]),
        (RetryConfig(backoff_ms=LONGEST_MS // 2), [LONGEST_MS // 2, LONGEST_MS, LONGEST_MS, LONGEST_MS]),
    ],
    ids=["default", "constant", "capped", "none", "a century"],
)
def test_back_off(config, waits):
    assert [backoff_ms(config, attempt) for attempt in range(1, 5)] == waits


def test_what_is_not_retried():
    assert is_retryable(RetryConfig(), ValueError())
    assert not is_retryable(RetryConfig(), NonRetryableError())
    config = RetryConfig(non_retryable=(LookupError, "TimeoutError"))
    assert not is_retryable(config, KeyError())
    assert not is_retryable(config, TimeoutError())
    assert is_retryable(config, ValueError())


@pytest.mark.parametrize("indicator", PANIC_INDICATORS)
def test_every_indicator_in_any_case_and_anywhere(indicator):
    assert find_panic_indicator(RuntimeError(f"worker: {indicator.upper()}!")) == indicator


def test_panics_by_class_and_along_the_chain():
    assert find_panic_indicator(MemoryError()) == "MemoryError"
    assert find_panic_indicator(RecursionError()) == "RecursionError"
    wrapped = ValueError("wrapped")
    wrapped.__context__ = MemoryError()
    assert find_panic_indicator(wrapped) == "MemoryError"
    assert find_panic_indicator(ExceptionGroup("both", [ValueError(), SystemError()])) == "SystemError"
    assert find_panic_indicator(ValueError("all is well")) is None
    assert find_panic_indicator(ValueError("Disk On Fire"), ["disk on fire"]) == "disk on fire"


CONFIG = CircuitBreakerConfig(failure_threshold=2, reset_timeout_ms=1_000)


def test_a_circuit_opens_probes_and_closes():
    state = after_failure(CircuitState(), CONFIG, "a", 10)
    assert (state.status, state.failures) == ("closed", 1)
    state = after_failure(state, CONFIG, "b", 20)
    assert (state.status, state.reset_time) == ("open", 1_020)
    assert not admit(state, CONFIG, "c", 1_019).allowed
    probing = admit(state, CONFIG, "c", 1_020)
    assert probing.allowed
    assert probing.state.status == "half_open"
    assert not admit(probing.state, CONFIG, "d", 1_500).allowed
    assert admit(probing.state, CONFIG, "c", 1_500).allowed
    assert after_success(probing.state, "c").status == "closed"
    assert after_failure(probing.state, CONFIG, "c", 1_600).status == "open"


def test_only_the_probe_decides_a_half_open_circuit():
    half_open = CircuitState("half_open", 2, 0, 0, "probe", 5_000)
    assert after_success(half_open, "late").status == "half_open"
    assert after_failure(half_open, CONFIG, "late", 10).status == "half_open"


def test_a_probe_that_never_reports_back_is_replaced():
    half_open = CircuitState("half_open", 2, 0, 0, "gone", 5_000)
    assert not admit(half_open, CONFIG, "next", 4_999).allowed
    answer = admit(half_open, CONFIG, "next", 5_000)
    assert answer.allowed
    assert answer.state.probe_execution_id == "next"


def test_a_success_forgets_failures():
    assert after_success(CircuitState(failures=1), "a").failures == 0


def test_forced_states():
    assert forced(CircuitState(), CONFIG, "open", 100).reset_time == 1_100
    assert admit(forced(CircuitState(), CONFIG, "half_open", 100), CONFIG, "a", 100).allowed
    assert forced(CircuitState("open", 5), CONFIG, "closed", 100).failures == 0


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (RetryConfig, {"max_attempts": 0}),
        (RetryConfig, {"max_attempts": 11}),
        (RetryConfig, {"backoff_ms": -1}),
        (RetryConfig, {"attempts": 3}),
        (PanicConfig, {"max_restart_attempts": 0}),
        (PanicConfig, {"max_restart_attempts": 6}),
        (PanicConfig, {"restart_delay_ms": 999}),
        (CircuitBreakerConfig, {"failure_threshold": 0}),
        (CircuitBreakerConfig, {"failure_threshold": 1, "reset_timeout_ms": 999}),
    ],
    ids=str,
)
def test_configurations_out_of_range(model, fields):
    with pytest.raises(ValidationError) as caught:
        model(**fields)
    assert caught.value.errors[0]["loc"] == (next(reversed(fields)),)


@pytest.mark.parametrize("given", ["yes", "true", 1, 0.0])
@pytest.mark.parametrize(
    ("model", "name"),
    [
        (RetryConfig, "exponential_backoff"),
        (PanicConfig, "enable_auto_restart"),
        (Settings, "recover_on_start"),
        (Settings, "log_files"),
        (Settings, "database_prepares"),
    ],
)
def test_what_is_true_or_false_is_nothing_else(model, name, given):
    with pytest.raises(ValidationError, match=f"{name}: Input should be a valid boolean"):
        model(**{name: given})


def test_a_mistake_without_a_place_is_listed_too():
    assert ValidationError("no").errors == [{"type": "value_error", "loc": (), "msg": "no", "input": None}]


def test_epoch_milliseconds_round_up():
    moment = from_epoch_ms(1_000)
    assert to_epoch_ms(moment) == 1_000
    assert to_epoch_ms(moment.replace(microsecond=1)) == 1_001


def test_events_compare_by_the_fields_that_are_set():
    full = StepFailed("s", 1, "ValueError", "no", seq=3)
    assert StepFailed(attempt=1) == full
    assert StepFailed(attempt=2) != full
    assert StepCompleted() != full
    assert repr(StepFailed(attempt=1)) == "StepFailed(attempt=1)"
    assert repr(UNSET) == "UNSET"
    with pytest.raises(AttributeError):
        full.attempt = 2
    assert {"StepStarted", "ExecutionPanicked", "CircuitClosed"} <= set(EVENT_TYPES)


@pytest.mark.parametrize("milliseconds", [LONGEST_MS + 1, 10**15, 10**30])
@pytest.mark.parametrize(
    ("model", "name", "required"),
    [
        (RetryConfig, "backoff_ms", {}),
        (RetryConfig, "max_backoff_ms", {}),
        (PanicConfig, "restart_delay_ms", {}),
        (CircuitBreakerConfig, "reset_timeout_ms", {"failure_threshold": 1}),
        (Settings, "lease_ms", {}),
        (Settings, "max_sleep_ms", {}),
        (Settings, "poll_interval_ms", {}),
        (Settings, "busy_timeout_ms", {}),
    ],
)
def test_no_wait_is_longer_than_a_century(model, name, required, milliseconds):
    with pytest.raises(ValidationError, match=name):
        model(**required, **{name: milliseconds})


def test_directories_that_cannot_be(monkeypatch):
    with pytest.raises(ValidationError, match="null character"):
        Settings(directory="a\0b")
    monkeypatch.setenv("WORKFLOW_DIR", "~a user who is not there/x")
    with pytest.raises(ValidationError, match="set WORKFLOW_DIR"):
        default_directory()


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        ("failed", {"type": "ValueError", "message": "no"}, WorkflowError),
        ("failed", {"type": "WorkflowTimeoutError", "message": "late"}, WorkflowTimeoutError),
        ("failed", {"type": "MemoryError", "message": "", "indicator": "MemoryError"}, PanicError),
        ("panicked", {"type": "MemoryError", "message": "", "indicator": "MemoryError"}, PanicError),
        ("cancelled", None, WorkflowError),
    ],
)
def test_raise_for_status_raises_the_class_that_start_raises(status, error, expected):
    result = ExecutionResult(
        execution_id="e", workflow_name="w", status=status, error=error, started_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    with pytest.raises(expected, match=f'Execution "e" of workflow "w" is {status}') as raised:
        result.raise_for_status()
    assert type(raised.value) is expected
