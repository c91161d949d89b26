"""What must hold after a crash, whatever the workflow: the invariants that crash exploration checks.

Each compares a run in which the process died with the run in which it did not. After "invariants of the crash
explorer" in the design: what is durable happened once, what was in flight at most once more, and nothing else differs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from pytest_workflow.history_invariants import (
    attempts_go_up_by_one,
    errors_are_kept,
    every_result_is_recorded,
    the_history_is_whole,
    the_history_tells_the_same,
    waits_are_kept,
)
from pytest_workflow.matching import matches
from workflow_core.models import TERMINAL_STATUSES

if TYPE_CHECKING:
    from pytest_workflow.database import Row
    from pytest_workflow.observation import Observation, StepKey

__all__ = ["COMPARED", "DEFAULT_INVARIANTS", "NOT_COMPARED", "SET_OR_NOT", "Check", "Comparison", "Invariant"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run with deaths, and the same scenario without.

    Attributes:
        run: The run with deaths.
        baseline: The run without.
        nondeterministic: Ids, or globs, of steps whose results may differ from run to run.
    """

    run: Observation
    baseline: Observation
    nondeterministic: tuple[str, ...] = ()

    def may_differ(self, step_id: str) -> bool:
        """Tell whether a step's result may differ from run to run."""
        return any(matches(step_id, pattern) for pattern in self.nondeterministic)

    def times_cut_off(self, key: StepKey) -> int:
        """Return how many deaths cut off an attempt of a step."""
        return self.run.once(_cut_off)[key]


def _cut_off(observation: Observation) -> Counter[StepKey]:
    """Count the deaths that cut off an attempt of a step."""
    return Counter(key for death in observation.deaths for key, state in death.steps.items() if state.is_cut_off)


Check: TypeAlias = Callable[[Comparison], Iterable[str]]
"""Yields a sentence for each violation."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """Something that must hold after a crash.

    Attributes:
        name: What holds, in words.
        check: Yields a sentence for each violation.
    """

    name: str
    check: Check


COMPARED = {
    "executions": (
        "workflow_name",
        "status",
        "input_data",
        "output_data",
        "restart_attempt",
        "retry_config",
        "panic_config",
        "definition_revision",
    ),
    "steps": ("kind", "status", "result_data", "handled_by", "duration_ms"),
    "circuit_breaker_state": ("workflow_name", "step_id", "status", "failures"),
}
"""The durable state that must be the same with and without a crash, by table."""

_A_MOMENT = "a moment: work that is done again is done later"
_A_POSITION = "a position in the history, which also holds the interruption"
_A_MESSAGE = "the text of the last error, which may be that of an interrupted attempt"

NOT_COMPARED = {
    "executions": {
        "id": "the key that the rows are matched by",
        "started_at": _A_MOMENT,
        "completed_at": _A_MOMENT,
        "created_at": _A_MOMENT,
        "updated_at": _A_MOMENT,
        "deadline_at": _A_MOMENT,
        "restart_at": _A_MOMENT,
        "completed_seq": _A_POSITION,
        "error_message": _A_MESSAGE,
        "error_data": _A_MESSAGE,
        "owner_id": "another process owns the execution after a crash",
        "fencing_token": "grows with each process that takes the execution over",
        "revision": "counts writes",
    },
    "steps": {
        "execution_id": "part of the key that the rows are matched by",
        "step_id": "part of the key that the rows are matched by",
        "started_at": _A_MOMENT,
        "completed_at": _A_MOMENT,
        "created_at": _A_MOMENT,
        "updated_at": _A_MOMENT,
        "next_attempt_at": _A_MOMENT,
        "wake_time": f"{_A_MOMENT}; that it stays as first stored is an invariant of its own",
        "started_seq": _A_POSITION,
        "completed_seq": _A_POSITION,
        "error_message": _A_MESSAGE,
        "attempt": "an attempt cut off by a crash is an attempt used; an invariant of its own bounds them",
        "revision": "counts writes",
    },
    "circuit_breaker_state": {
        "is_open": "follows from status",
        "last_failure_time": _A_MOMENT,
        "reset_time": _A_MOMENT,
        "probe_execution_id": "who probes depends on who comes first",
        "probe_expires_at": _A_MOMENT,
    },
    "definitions": {"*": "documents by their digest, which executions are compared by"},
    "owners": {"*": "processes; a crash is the end of one"},
    "removed_executions": {"*": "what retention still has to finish; no run of a workflow writes it"},
    "step_errors": {
        "*": "the errors of attempts, which also hold interrupted ones; an invariant of its own asks for each"
    },
    "event_log": {"*": "the history, which also holds the interruption; an invariant of its own checks it"},
}
"""Everything else, each with the reason why it may differ."""

SET_OR_NOT = {
    "executions": ("completed_at", "completed_seq", "deadline_at", "restart_at", "error_data", "owner_id"),
    "steps": ("completed_at", "wake_time", "next_attempt_at", "error_message"),
}
"""Columns that may differ, but of what has ended must hold something, or nothing, as without the crash."""

_ENDED_STEPS = frozenset({"completed", "skipped", "failed"})


def _completed_steps_never_run_again(compared: Comparison) -> Iterator[str]:
    run = compared.run
    for number, death in enumerate(run.deaths, start=1):
        for key, state in death.steps.items():
            more = run.bodies[key] - death.bodies.get(key, 0)
            if state.is_done and more > 0:
                yield (
                    f'step "{key[1]}" of execution "{key[0]}" was completed when the process died'
                    f"{_which(run, number)}, and its body ran {more} more time{'s' if more > 1 else ''}"
                )


def _only_what_is_in_flight_runs_twice(compared: Comparison) -> Iterator[str]:
    for key, ran in compared.run.bodies.items():
        allowed = compared.baseline.bodies[key] + compared.times_cut_off(key)
        if ran > allowed:
            yield (
                f'the body of step "{key[1]}" of execution "{key[0]}" ran {ran} times; without the crash it runs '
                f"{compared.baseline.bodies[key]} times, and the process died {compared.times_cut_off(key)} times in it"
            )


def _a_result_never_changes(compared: Comparison) -> Iterator[str]:
    for death in compared.run.deaths:
        for key, state in death.steps.items():
            row = compared.run.steps.get(key)
            if state.is_done and (row is None or row["result_data"] != state.result_data):
                now = "is gone" if row is None else f"is {row['result_data']}"
                yield f'the result of step "{key[1]}" of "{key[0]}" was {state.result_data} and {now}'


def _same_outcome(compared: Comparison) -> Iterator[str]:
    yield from _same_executions(compared)
    yield from _same_steps(compared)


def _same_executions(compared: Comparison) -> Iterator[str]:
    run, baseline = compared.run, compared.baseline
    for execution_id, wanted in baseline.executions.items():
        found = run.executions.get(execution_id)
        if found is None:
            continue
        for column in COMPARED["executions"]:
            if column == "output_data" and compared.nondeterministic:
                continue
            if found.get(column) != wanted.get(column):
                yield _difference(f'execution "{execution_id}"', column, found, wanted)
        if wanted["status"] in TERMINAL_STATUSES:
            yield from _set_or_not(f'execution "{execution_id}"', "executions", found, wanted)


def _same_steps(compared: Comparison) -> Iterator[str]:
    run, baseline = compared.run, compared.baseline
    for key, wanted in baseline.steps.items():
        what = f'step "{key[1]}" of execution "{key[0]}"'
        found = run.steps.get(key)
        if found is None:
            yield f"{what} is not there"
            continue
        for column in COMPARED["steps"]:
            if found.get(column) != wanted.get(column) and not (
                column == "result_data" and compared.may_differ(key[1])
            ):
                yield _difference(what, column, found, wanted)
        if wanted["status"] in _ENDED_STEPS:
            yield from _set_or_not(what, "steps", found, wanted)
    for key in run.steps.keys() - baseline.steps.keys():
        yield f'step "{key[1]}" of execution "{key[0]}" does not exist without the crash'


def _difference(what: str, column: str, found: Row, wanted: Row) -> str:
    reason = f" ({found['error_message']})" if column == "status" and found.get("error_message") else ""
    return f"{what}: {column} is {found.get(column)!r}{reason}, without the crash {wanted.get(column)!r}"


def _set_or_not(what: str, table: str, found: Row, wanted: Row) -> Iterator[str]:
    if found["status"] != wanted["status"]:
        return  # which is told already
    for column in SET_OR_NOT[table]:
        here, there = found.get(column), wanted.get(column)
        if (here is None) != (there is None):
            yield f"{what}: {column} is {here!r}, without the crash {there!r}"


def _nothing_is_stuck(compared: Comparison) -> Iterator[str]:
    for execution_id, row in compared.run.executions.items():
        wanted = compared.baseline.executions.get(execution_id)
        if wanted is not None and wanted["status"] in TERMINAL_STATUSES and row["status"] not in TERMINAL_STATUSES:
            yield f'execution "{execution_id}" is still {row["status"]}'


def _nothing_is_lost(compared: Comparison) -> Iterator[str]:
    for execution_id in compared.baseline.executions.keys() - compared.run.executions.keys():
        yield f'execution "{execution_id}" is gone'
    for execution_id in compared.run.executions.keys() - compared.baseline.executions.keys():
        yield f'execution "{execution_id}" does not exist without the crash'


def _attempts_are_honest(compared: Comparison) -> Iterator[str]:
    begun, before = _attempts_begun(compared.run), compared.baseline.once(_attempts_begun)
    for key, started in begun.items():
        most = before[key] + compared.times_cut_off(key)
        if started > most:
            yield f'step "{key[1]}" of "{key[0]}" has {started} attempts; {most} is what the crash explains'
    for key, ran in compared.run.bodies.items():
        if ran > begun[key]:
            yield f'the body of step "{key[1]}" of "{key[0]}" ran {ran} times, and {begun[key]} attempts are recorded'


def _attempts_begun(observation: Observation) -> Counter[StepKey]:
    return Counter(
        (execution_id, event["step_id"])
        for execution_id, events in observation.events.items()
        for event in events
        if event["type"] == "StepStarted"
    )


def _sleeps_are_kept(compared: Comparison) -> Iterator[str]:
    for death in compared.run.deaths:
        for key, state in death.steps.items():
            row = compared.run.steps.get(key)
            if state.kind == "sleep" and row is not None and row["wake_time"] != state.wake_time:
                yield f'sleep "{key[1]}" of "{key[0]}" was to end at {state.wake_time}, and then at {row["wake_time"]}'


def _circuits_are_kept(compared: Comparison) -> Iterator[str]:
    def canonical(observation: Observation) -> list[tuple[object, ...]]:
        return [tuple(row[column] for column in COMPARED["circuit_breaker_state"]) for row in observation.circuits]

    found, wanted = canonical(compared.run), canonical(compared.baseline)
    if found != wanted:
        yield f"the circuits (workflow, step, status, failures) are {found}, without the crash {wanted}"
    held = {each["step_id"] for each in compared.baseline.circuits if _is_left_probing(compared, each)}
    for each in compared.run.circuits:
        if _is_left_probing(compared, each) and each["step_id"] not in held:
            prober = each["probe_execution_id"]
            yield f'the circuit of step "{each["step_id"]}" waits for a probe of "{prober}", which has ended'


def _is_left_probing(compared: Comparison, circuit: Row) -> bool:
    """Tell whether a circuit waits for the probe of an execution that will not make it."""
    prober = compared.run.executions.get(str(circuit.get("probe_execution_id")))
    return prober is not None and prober["status"] in TERMINAL_STATUSES


def _the_database_is_sound(compared: Comparison) -> Iterator[str]:
    yield from compared.run.damage


def _which(run: Observation, number: int) -> str:
    return "" if len(run.deaths) == 1 else f" (death {number} of {len(run.deaths)})"


DEFAULT_INVARIANTS: tuple[Invariant, ...] = (
    Invariant("a completed step never runs again", _completed_steps_never_run_again),
    Invariant("only a step in flight runs twice", _only_what_is_in_flight_runs_twice),
    Invariant("a result never changes", _a_result_never_changes),
    Invariant("nothing is lost", _nothing_is_lost),
    Invariant("nothing is stuck", _nothing_is_stuck),
    Invariant("the outcome is the same", _same_outcome),
    Invariant("attempts are counted", _attempts_are_honest),
    Invariant("sleeps are kept", _sleeps_are_kept),
    Invariant("circuits are kept", _circuits_are_kept),
    Invariant("attempts go up by one", attempts_go_up_by_one),
    Invariant("every result is recorded", every_result_is_recorded),
    Invariant("errors are kept", errors_are_kept),
    Invariant("waits are kept", waits_are_kept),
    Invariant("the history is whole", the_history_is_whole),
    Invariant("the history tells the same", the_history_tells_the_same),
    Invariant("the database is sound", _the_database_is_sound),
)
"""The invariants of every crash exploration, the most telling first."""
