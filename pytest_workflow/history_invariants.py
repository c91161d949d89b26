"""What must hold of histories after a crash: nothing in them is lost, doubled, renumbered, too early or too late.

The rows of a database say what an execution came to; its history says how. Both can be wrong alone: a recovery that
gives every attempt back, or that sleeps the whole of a sleep again, ends with the same rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias

import pydantic_core

from workflow_core.clock import from_epoch_ms, to_epoch_ms
from workflow_core.database.store import ABANDONED, UNFINISHED_STEPS
from workflow_core.models import TERMINAL_STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_workflow.database import Row
    from pytest_workflow.invariants import Comparison
    from pytest_workflow.observation import Observation, StepKey

__all__ = [
    "attempts_go_up_by_one",
    "errors_are_kept",
    "every_result_is_recorded",
    "the_history_is_whole",
    "the_history_tells_the_same",
    "waits_are_kept",
]

_ONCE = frozenset({"ExecutionCompleted", "StepCompleted", "StepSkipped", "SleepStarted", "SleepCompleted"})
_STARTS = {"StepCompleted": "StepStarted", "SleepCompleted": "SleepStarted"}
_DETAILS = ("error", "handled_by", "duration_ms", "indicator")

_Token: TypeAlias = tuple[str, ...]
_Early: TypeAlias = tuple[str, str, int]


def data_of(event: Row) -> dict[str, object]:
    """Return the fields of an event beyond its step and attempt."""
    data: dict[str, object] = pydantic_core.from_json(event["data"]) if event["data"] else {}
    return data


# One history by itself -----------------------------------------------------------------------------------------------


def the_history_is_whole(compared: Comparison) -> Iterator[str]:
    """Numbered without gaps, in order of time, no end without a start, no attempt within another, no end twice."""
    for execution_id, events in compared.run.events.items():
        before = compared.baseline.events.get(execution_id, ())
        numbers = [event["seq"] for event in events]
        if _gaps(numbers) > _gaps([event["seq"] for event in before]) or len(set(numbers)) < len(numbers):
            yield f'the history of "{execution_id}" is numbered {numbers}'
        if _goes_back(events) and not _goes_back(before):
            yield f'the history of "{execution_id}" goes back in time: {[event["at"] for event in events]}'
        yield from (f'the history of "{execution_id}" has {found}' for found in _disorder(events))


def _gaps(numbers: list[int]) -> int:
    """Count the numbers that are missing: a write that the database refused may leave one."""
    return len(set(range(1, max(numbers, default=0) + 1)) - set(numbers))


def _goes_back(events: list[Row] | tuple[()]) -> bool:
    moments = [event["at"] for event in events]
    return moments != sorted(moments)


def _disorder(events: list[Row]) -> Iterator[str]:
    seen: Counter[tuple[str, str | None]] = Counter()
    under_way: set[str] = set()
    for event in events:
        kind, step_id = event["type"], event["step_id"]
        seen[kind, step_id] += 1
        if kind == "StepStarted":
            if step_id in under_way:
                yield f'two starts of "{step_id}" without an end between them'
            under_way.add(step_id)
        elif kind in {"StepFailed", "StepInterrupted", "StepCompleted"}:
            under_way.discard(step_id)
        elif kind == "ExecutionRestarted":
            under_way.clear()
        if kind in _STARTS and not seen[_STARTS[kind], step_id]:
            yield f'{kind} of "{step_id}" without its start'
        if kind in _ONCE and seen[kind, step_id] == 2:  # noqa: PLR2004 - told once
            yield f'{kind} of "{step_id}" twice' if step_id is not None else f"{kind} twice"


# Attempts and errors -------------------------------------------------------------------------------------------------


def attempts_go_up_by_one(compared: Comparison) -> Iterator[str]:
    """Attempts of a step are numbered 1, 2, 3 and so on; a number comes again only if the attempt was given back."""
    for execution_id, events in compared.run.events.items():
        given_back = compared.baseline.once(_given_back)
        for step_id, numbers, again in _numbering(events):
            if again > given_back[execution_id, step_id] or not _is_counted(numbers):
                yield f'the attempts of step "{step_id}" of "{execution_id}" are numbered {numbers}'


def _numbering(events: list[Row]) -> Iterator[tuple[str, list[int], int]]:
    """Yield, for each step between two restarts, the numbers of its attempts, and how many came again."""
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    again: Counter[str] = Counter()
    latest: dict[str, str] = {}

    def finished() -> Iterator[tuple[str, list[int], int]]:
        yield from ((step_id, found, again[step_id]) for step_id, found in numbers.items())

    for event in events:
        kind, step_id, attempt = event["type"], event["step_id"], event["attempt"]
        if kind == "ExecutionRestarted":
            yield from finished()
            numbers.clear()
            again.clear()
        elif kind in {"StepStarted", "StepFailed"} and attempt is not None:
            found = numbers[step_id]
            if kind == "StepStarted" and latest.get(step_id) == "StepInterrupted" and found and found[-1] == attempt:
                again[step_id] += 1
            elif kind == "StepStarted" or not found or found[-1] != attempt:
                found.append(attempt)  # an attempt that an open circuit refused begins with its failure, if it fails
        if step_id is not None:
            latest[step_id] = kind
    yield from finished()


def _given_back(observation: Observation) -> Counter[StepKey]:
    counted: Counter[StepKey] = Counter()
    for execution_id, events in observation.events.items():
        for step_id, _, again in _numbering(events):
            counted[execution_id, step_id] += again
    return counted


def _is_counted(numbers: list[int]) -> bool:
    return numbers == list(range(1, len(numbers) + 1))


def errors_are_kept(compared: Comparison) -> Iterator[str]:
    """Each failed attempt has its error in ``step_errors``, after crashes and restarts as well."""
    kept = Counter(
        (row["execution_id"], row["step_id"], row["attempt"], row["error_type"]) for row in compared.run.errors
    )
    told = Counter(
        (execution_id, event["step_id"], event["attempt"], str(data_of(event).get("error")))
        for execution_id, events in compared.run.events.items()
        for event in events
        if event["type"] == "StepFailed"
    )
    for (execution_id, step_id, attempt, error), times in told.items():
        if kept[execution_id, step_id, attempt, error] < times:
            yield f'the {error} of attempt {attempt} of step "{step_id}" of "{execution_id}" is not in step_errors'


def every_result_is_recorded(compared: Comparison) -> Iterator[str]:
    """A body that returned has reached a durable point: its step is not given up as if it had never ended."""
    run = compared.run
    for key in sorted(run.returned):
        row, execution = run.steps.get(key), run.executions.get(key[0])
        if execution is None or execution["status"] not in TERMINAL_STATUSES:
            continue
        if row is None or row["status"] in UNFINISHED_STEPS or row["error_message"] == ABANDONED:
            yield f'the body of step "{key[1]}" of execution "{key[0]}" returned, and nothing of that was recorded'


# Compared with the run without a crash -------------------------------------------------------------------------------


def the_history_tells_the_same(compared: Comparison) -> Iterator[str]:
    """Each step, and the execution itself, has the same events as without the crash, but for what was interrupted."""
    run, baseline = compared.run, compared.baseline
    wanted, told = baseline.once(_told), _told(run)
    for execution_id in wanted:
        if execution_id not in run.events or _status(run, execution_id) != _status(baseline, execution_id):
            continue  # which is told already
        here = told[execution_id]
        for step_id, tokens in wanted[execution_id].items():
            key = (execution_id, step_id or "")
            if step_id is not None and (
                not _is_done(baseline, key) or compared.times_cut_off(key) or _depends_on_time(tokens)
            ):
                continue
            found = here.get(step_id, [])
            if found != tokens:
                what = f'execution "{execution_id}"' if step_id is None else f'step "{step_id}" of "{execution_id}"'
                yield f"the events of {what} are {_listed(found)}; without the crash {_listed(tokens)}"


def _depends_on_time(tokens: list[_Token]) -> bool:
    """Tell whether a circuit changed: what it says later depends on how long the work took that was done again."""
    return any(token[0].startswith("Circuit") for token in tokens)


def _status(observation: Observation, execution_id: str) -> str | None:
    return observation.executions.get(execution_id, {}).get("status")


def _is_done(observation: Observation, key: StepKey) -> bool:
    """Tell whether a step came to its result; what became of one that was given up may depend on the moment."""
    return observation.steps.get(key, {}).get("status") in {"completed", "skipped"}


def _told(observation: Observation) -> dict[str, dict[str | None, list[_Token]]]:
    """Return the events of each execution by step, without attempts that were cut off, and what recovered them."""
    return {execution_id: _told_by(events) for execution_id, events in observation.events.items()}


def _told_by(events: list[Row]) -> dict[str | None, list[_Token]]:
    told: defaultdict[str | None, list[_Token]] = defaultdict(list)
    for event in events:
        kind, tokens = event["type"], told[event["step_id"]]
        if kind == "StepInterrupted":
            if tokens and tokens[-1] == ("StepStarted",):
                tokens.pop()
        elif kind != "ExecutionRecovered":
            tokens.append((kind, *_details(event)))
    return told


def _details(event: Row) -> list[str]:
    if not event["data"] or event["type"] == "ExecutionFailed":  # by a last attempt that was cut off, perhaps
        return []
    data = data_of(event)
    return [str(data[name]) for name in _DETAILS if name in data]


def _listed(tokens: list[_Token]) -> str:
    return ", ".join(" ".join(token) for token in tokens) or "none"


# Waits ---------------------------------------------------------------------------------------------------------------


def waits_are_kept(compared: Comparison) -> Iterator[str]:
    """The engine waits for recorded moments alone, and nothing goes on before its moment."""
    run = compared.run
    recorded = set(_recorded_moments(run))
    for moment_ms in sorted(set(run.waits) - recorded):
        yield f"the engine waited until {from_epoch_ms(moment_ms).isoformat()}, and no wait that ends then is recorded"
    for execution_id, step_id, number in sorted(_early(run) - compared.baseline.once(_early)):
        what = f'"{step_id}" of "{execution_id}"' if step_id else f'the restart of "{execution_id}"'
        which = "" if number == 1 else f" (number {number})"
        yield f"{what} went on before its wait was over{which}"


def _recorded_moments(run: Observation) -> Iterator[int]:
    yield from (row["wake_time"] for row in run.steps.values() if row.get("wake_time") is not None)
    yield from (row["deadline_at"] for row in run.executions.values() if row.get("deadline_at") is not None)
    for events in run.events.values():
        for event in events:
            if event["type"] in _LENGTHS and (due := _due_ms(event)) is not None:
                yield due


_LENGTHS = {"StepRetrying": "backoff_ms", "ExecutionPanicked": "restart_delay_ms", "SleepStarted": "duration_ms"}


def _due_ms(event: Row) -> int | None:
    """Return when the wait is over that begins with an event, in milliseconds since 1970."""
    length = data_of(event).get(_LENGTHS[event["type"]])
    return to_epoch_ms(datetime.fromisoformat(event["at"])) + length if isinstance(length, int) else None


def _early(observation: Observation) -> set[_Early]:
    """Return what went on before its moment: which wait of which step, or of which execution."""
    early: set[_Early] = set()
    for execution_id, events in observation.events.items():
        due: dict[str, int] = {}
        waits: Counter[str] = Counter()
        for event in events:
            step_id = event["step_id"] or ""
            if event["type"] == "ExecutionRestarted":
                due = {"": due[""]} if "" in due else {}
            if event["type"] in {"StepStarted", "SleepCompleted", "ExecutionRestarted"} and step_id in due:
                if to_epoch_ms(datetime.fromisoformat(event["at"])) < due.pop(step_id):
                    early.add((execution_id, step_id, waits[step_id]))
            elif event["type"] in _LENGTHS and (moment := _due_ms(event)) is not None:
                due[step_id] = moment
                waits[step_id] += 1
    return early
