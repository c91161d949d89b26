"""How the failures of a crash exploration are told: the place, what is broken, what differs, and how to replay it."""

from __future__ import annotations

import shlex
import shutil
from collections import Counter
from datetime import datetime
from itertools import zip_longest
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

from tabulate import tabulate

from pytest_workflow.history import table
from workflow_core.database.rows import events
from workflow_core.events import ExecutionRecovered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_workflow.crashes import CrashFailure, CrashReport
    from pytest_workflow.observation import Observation, Place
    from workflow_core.events import Event

__all__ = ["OWN_ASSERTIONS", "described_failures"]

OWN_ASSERTIONS = "the test's own assertions"
"""The name under which an error of the scenario itself is reported."""

_SHOWN = 3
_WIDTH = 180
_MARGIN = 10

_HINT = f"""\
hint: every invariant held; only {OWN_ASSERTIONS} failed. After a crash work is done again, so times and
      numbers of calls and attempts differ. If the test means a run without a crash, leave it out by
      @pytest.mark.workflow_crash_everywhere(depth=0), or check the invariants alone, in tests without
      the marker, by --workflow-crash-everywhere=invariants.""".splitlines()

_Table: TypeAlias = list[str]


def described_failures(report: CrashReport) -> Iterator[str]:
    """Yield the lines that explain the failures of an exploration.

    A run that dies at the places of another failing run, and then at further ones, is counted alone.
    """
    failures = [failure for failure in report.failures if not _follows_from_another(failure, report.failures)]
    for number, failure in enumerate(failures[:_SHOWN], start=1):
        yield ""
        yield f"{number}. The process died {', and again '.join(place.in_words() for place in failure.places)}."
        yield from _described(failure, report.baseline, report.command)
    further = failures[_SHOWN:]
    if further:
        yield ""
        yield f"... and {len(further)} more:"
        yield from (f"  {' + '.join(map(str, other.places))}: {other.violations[0][0]}" for other in further)
    if len(failures) < len(report.failures):
        yield ""
        implied = len(report.failures) - len(failures)
        yield f"{implied} further runs failed that die at one of these places, and at another."
    if report.failures and all(name == OWN_ASSERTIONS for failure in report.failures for name, _ in failure.violations):
        yield ""
        yield from _HINT


def _replay_command(command: str, places: Sequence[Place]) -> str:
    """Return the shell command that runs a test with the process dying at these places.

    Args:
        command: The command that runs the test.
        places: The places.
    """
    return " ".join([command, *(shlex.quote(f"--workflow-crash-at={place}") for place in places)])


def _follows_from_another(failure: CrashFailure, failures: Sequence[CrashFailure]) -> bool:
    return any(Counter(other.places) < Counter(failure.places) for other in failures)


def _described(failure: CrashFailure, baseline: Observation, command: str) -> Iterator[str]:
    for name in dict.fromkeys(name for name, _ in failure.violations):
        found = [text for broken, text in failure.violations if broken == name]
        yield f"   broken: {name}"
        for text in found[:_SHOWN]:
            first, *rest = text.splitlines() or [""]
            yield f"     - {first}"
            yield from (f"       {line}" for line in rest)
        if len(found) > _SHOWN:
            yield f"     - ... and {len(found) - _SHOWN} more"
    yield from _advice(failure, baseline)
    ledger = _ledger(failure.run, baseline)
    if ledger:
        yield "   effects (only steps that differ, or were cut off):"
        yield from (f"     {line}" for line in ledger.splitlines())
    for execution_id in dict.fromkeys((*baseline.executions, *failure.run.executions)):
        yield ""
        yield from (f"   {line}".rstrip() for line in _compared(baseline, failure.run, execution_id))
    if command:
        yield ""
        yield f"   replay: {_replay_command(command, failure.places)}"
    yield f"   as a fault plan: {failure.plan.to_json()}"


def _advice(failure: CrashFailure, baseline: Observation) -> Iterator[str]:
    run = failure.run
    cut_off = {key for death in run.deaths for key, state in death.steps.items() if state.is_cut_off}
    for key in sorted(cut_off):
        now, before = run.steps.get(key, {}), baseline.steps.get(key, {})
        if now.get("status") == "failed":
            yield (
                f'   hint: an attempt that a crash cuts off is an attempt used; step "{key[1]}" needs one more '
                "(max_attempts) to survive its failures and a crash"
            )
        elif now.get("status") == before.get("status") and now.get("result_data") != before.get("result_data"):
            yield (
                f'   hint: the crash cut step "{key[1]}" off, so it ran again, as any step may, and gave another '
                "result: make it idempotent, or name it in nondeterministic= if its result may differ"
            )


def _ledger(run: Observation, baseline: Observation) -> str:
    cut_off = {key for death in run.deaths for key, state in death.steps.items() if state.is_cut_off}
    keys = sorted(
        key
        for key in run.bodies.keys() | baseline.bodies.keys()
        if run.bodies[key] != baseline.bodies[key] or key in cut_off
    )
    rows = [
        (
            key[1],
            baseline.bodies[key],
            run.bodies[key],
            sum(event["type"] == "StepStarted" and event["step_id"] == key[1] for event in run.events.get(key[0], ())),
            run.steps.get(key, {}).get("status", "not there"),
        )
        for key in keys
    ]
    headers = ("step", "ran without the crash", "ran with it", "attempts recorded", "status")
    return tabulate(rows, headers=headers, tablefmt="simple") if rows else ""


# Two histories -------------------------------------------------------------------------------------------------------


def _compared(baseline: Observation, run: Observation, execution_id: str) -> Iterator[str]:
    """Yield the two histories of an execution from where they part: side by side where the terminal is wide enough."""
    without, crashed = _events(baseline, execution_id), _events(run, execution_id)
    shared = _shared(baseline.events.get(execution_id, ()), run.events.get(execution_id, ()))
    if shared:
        events = "event is" if shared == 1 else f"{shared} events are"
        yield f'execution "{execution_id}" (the first {events} the same)'
    else:
        yield f'execution "{execution_id}"'
    left = ["without the crash:", *_table(without, shared)]
    right = ["with the crash:", *_table(crashed, shared)]
    if _width(left) + _width(right) + _MARGIN <= shutil.get_terminal_size((_WIDTH, 24)).columns:
        width = _width(left)
        for one, other in zip_longest(left, right, fillvalue=""):
            yield f"{one.ljust(width)}  |  {other}"
    else:
        yield from (*left, *right)


def _shared(one: Sequence[dict[str, object]], other: Sequence[dict[str, object]]) -> int:
    """Return how many events two histories have in common at their beginning."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if any(mine[name] != theirs[name] for name in ("type", "step_id", "attempt", "at", "data")):
            break
        count += 1
    return count


def _table(events: list[Event], first: int) -> _Table:
    if first and len(events) == first:
        return ["(ends here)"]
    marked = [place for place, event in enumerate(events) if isinstance(event, ExecutionRecovered)]
    return table(events, marked, slice(first, None)).splitlines()


def _width(lines: _Table) -> int:
    return max(map(len, lines))


def _events(observation: Observation, execution_id: str) -> list[Event]:
    name = observation.executions.get(execution_id, {}).get("workflow_name", "")
    rows = map(itemgetter("seq", "type", "step_id", "attempt", "at", "data"), observation.events.get(execution_id, ()))
    return events(rows, name, execution_id, datetime.fromisoformat)
