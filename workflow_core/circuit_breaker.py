"""The circuit breaker's state machine, as pure functions on the stored state.

Closed, open and half-open as in M. Nygard, "Release It!" (2007): consecutive failures open the circuit; after the
reset time-out one probe is let through, whose success closes the circuit and whose failure opens it again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflow_core.models import CircuitBreakerConfig, CircuitStatus

__all__ = ["CircuitState", "Admission", "admit", "after_failure", "after_success", "forced"]


@dataclass(frozen=True, slots=True)
class CircuitState:
    """The stored state of one step's circuit; times are milliseconds since 1970.

    Attributes:
        failures: Consecutive failures over all executions.
        last_failure_time: When the last one happened.
        reset_time: From when an open circuit lets a probe through.
        probe_execution_id: The execution that probes a half-open circuit.
        probe_expires_at: When a probe that nobody reported back is given up.
    """

    status: CircuitStatus = "closed"
    failures: int = 0
    last_failure_time: int | None = None
    reset_time: int | None = None
    probe_execution_id: str | None = None
    probe_expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to "may this attempt run?".

    Attributes:
        allowed: Whether it may.
        state: The state to store, the same object when nothing changed.
    """

    allowed: bool
    state: CircuitState


def admit(state: CircuitState, config: CircuitBreakerConfig, execution_id: str, now_ms: int) -> Admission:
    """Decide whether an attempt of ``execution_id`` may run at ``now_ms``."""
    if state.status == "closed":
        return Admission(allowed=True, state=state)
    if state.status == "open":
        # A wall clock that was set back must not keep the circuit open for as long again.
        if state.reset_time is not None and (state.last_failure_time or 0) <= now_ms < state.reset_time:
            return Admission(allowed=False, state=state)
        return Admission(allowed=True, state=_probing(state, config, execution_id, now_ms))
    if state.probe_execution_id == execution_id:
        return Admission(allowed=True, state=state)
    if state.probe_execution_id is None or (state.probe_expires_at is not None and now_ms >= state.probe_expires_at):
        return Admission(allowed=True, state=_probing(state, config, execution_id, now_ms))
    return Admission(allowed=False, state=state)


def _probing(state: CircuitState, config: CircuitBreakerConfig, execution_id: str, now_ms: int) -> CircuitState:
    return replace(
        state,
        status="half_open",
        probe_execution_id=execution_id,
        probe_expires_at=now_ms + config.reset_timeout_ms,
    )


def after_failure(state: CircuitState, config: CircuitBreakerConfig, execution_id: str, now_ms: int) -> CircuitState:
    """Return the state after an attempt of ``execution_id`` failed."""
    failures = state.failures + 1
    counted = replace(state, failures=failures, last_failure_time=now_ms)
    probe_failed = state.status == "half_open" and state.probe_execution_id == execution_id
    if probe_failed or (state.status == "closed" and failures >= config.failure_threshold):
        return CircuitState("open", failures, now_ms, now_ms + config.reset_timeout_ms)
    return counted


def after_success(state: CircuitState, execution_id: str) -> CircuitState:
    """Return the state after an attempt of ``execution_id`` succeeded.

    A success that began before the circuit opened does not close it: only the probe's does.
    """
    if state.status == "closed" or (state.status == "half_open" and state.probe_execution_id == execution_id):
        return CircuitState(last_failure_time=state.last_failure_time) if state.failures else CircuitState()
    return state


def forced(state: CircuitState, config: CircuitBreakerConfig, status: CircuitStatus, now_ms: int) -> CircuitState:
    """Return the state that an operator, or a test, sets by hand."""
    if status == "closed":
        return CircuitState(last_failure_time=state.last_failure_time)
    if status == "open":
        return CircuitState(
            "open", max(state.failures, config.failure_threshold), now_ms, now_ms + config.reset_timeout_ms
        )
    return CircuitState("half_open", max(state.failures, config.failure_threshold), state.last_failure_time, now_ms)
