"""What the invariants of histories say, word for word, of histories that are written down by hand."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from pytest_workflow.history_invariants import (
    attempts_go_up_by_one,
    data_of,
    errors_are_kept,
    every_result_is_recorded,
    the_history_is_whole,
    the_history_tells_the_same,
    waits_are_kept,
)
from pytest_workflow.invariants import Comparison
from pytest_workflow.observation import Death, Observation, StepState
from workflow_core.database.store import ABANDONED

START = datetime(2026, 1, 1, tzinfo=UTC)


def ms(offset):
    return int(START.timestamp() * 1_000) + offset


def event(kind, step_id=None, attempt=None, at=0, seq=None, **data):
    """Return the row of an event, ``at`` milliseconds after the start."""
    moment = (START + timedelta(milliseconds=at)).isoformat()
    text = json.dumps(data) if data else None
    return {"type": kind, "step_id": step_id, "attempt": attempt, "at": moment, "seq": seq, "data": text}


def run(*events, **more):
    """Return what is left of a run with one execution; its events are numbered unless they say how."""
    numbered = [row | {"seq": number if row["seq"] is None else row["seq"]} for number, row in enumerate(events, 1)]
    return Observation(events={"e": numbered}, **more)


def said(rule, seen, baseline=None):
    return list(rule(Comparison(seen, Observation() if baseline is None else baseline)))


def test_the_fields_of_an_event():
    assert data_of(event("StepFailed", "s", 1, error="E")) == {"error": "E"}
    assert data_of(event("StepStarted", "s", 1)) == {}


# One history by itself


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        (["StepStarted", "StepStarted"], ['two starts of "s" without an end between them']),
        (["StepStarted", "StepFailed", "StepStarted"], []),
        (["StepStarted", "StepInterrupted", "StepStarted"], []),
        (["StepStarted", "StepCompleted", "StepStarted"], []),
        (["StepStarted", "ExecutionRestarted", "StepStarted"], []),
        (["StepStarted", "ExecutionRecovered", "StepStarted"], ['two starts of "s" without an end between them']),
        (["StepCompleted"], ['StepCompleted of "s" without its start']),
        (["SleepCompleted"], ['SleepCompleted of "s" without its start']),
        (["SleepStarted", "SleepCompleted"], []),
        (["SleepStarted", "SleepStarted"], ['SleepStarted of "s" twice']),
        (["StepSkipped", "StepSkipped", "StepSkipped"], ['StepSkipped of "s" twice']),
        (["StepStarted", "StepCompleted", "StepCompleted"], ['StepCompleted of "s" twice']),
        (["SleepStarted", "SleepCompleted", "SleepCompleted"], ['SleepCompleted of "s" twice']),
        (["ExecutionCompleted", "ExecutionCompleted"], ["ExecutionCompleted twice"]),
        (["StepFailed", "StepFailed"], []),
    ],
)
def test_disorder(kinds, found):
    events = [event(kind, None if kind.startswith("Execution") else "s") for kind in kinds]
    assert said(the_history_is_whole, run(*events)) == [f'the history of "e" has {each}' for each in found]


def test_steps_beside_each_other_are_no_disorder():
    events = [event("StepStarted", "a"), event("StepStarted", "b"), event("StepFailed", "a"), event("StepStarted", "a")]
    assert said(the_history_is_whole, run(*events)) == []


def test_numbers_and_moments():
    gap = run(event("ExecutionStarted", seq=1), event("ExecutionCompleted", seq=3))
    assert said(the_history_is_whole, gap) == ['the history of "e" is numbered [1, 3]']
    assert said(the_history_is_whole, gap, gap) == []
    late = run(event("ExecutionStarted", seq=2))
    assert said(the_history_is_whole, late) == ['the history of "e" is numbered [2]']
    twice = run(event("ExecutionStarted", seq=1), event("ExecutionCompleted", seq=1))
    assert said(the_history_is_whole, twice, gap) == ['the history of "e" is numbered [1, 1]']
    back = run(event("ExecutionStarted", at=1), event("ExecutionCompleted", at=0))
    assert said(the_history_is_whole, back) == [
        "the history of \"e\" goes back in time: ['2026-01-01T00:00:00.001000+00:00', '2026-01-01T00:00:00+00:00']"
    ]
    assert said(the_history_is_whole, back, back) == []


# Attempts and errors


@pytest.mark.parametrize(
    ("events", "numbers"),
    [
        (["start 1", "fail 1", "start 2", "fail 2"], None),
        (["start 2"], [2]),
        (["start 1", "fail 1", "start 1"], [1, 1]),
        (["start 1", "fail 1", "fail 2"], None),  # an open circuit refused the second
        (["start 1", "fail 1", "fail 3"], [1, 3]),
        (["fail 1"], None),
        (["start 1", "fail 1", "restart", "start 1"], None),
        (["start 1", "fail 1", "restart", "start 2"], [2]),
        (["start 2", "restart", "start 1"], [2]),
        (["start 1", "interrupt 1", "start 2"], None),
        (["start 1", "interrupt 1", "start 1"], [1]),  # it was given back, which it was not without the crash
        (["start 1", "interrupt 1", "start 3"], [1, 3]),
    ],
)
def test_the_numbers_of_attempts(events, numbers):
    names = {"start": "StepStarted", "fail": "StepFailed", "interrupt": "StepInterrupted"}
    rows = [
        event("ExecutionRestarted")
        if each == "restart"
        else event(names[each.partition(" ")[0]], "s", int(each.partition(" ")[2]))
        for each in events
    ]
    wanted = [] if numbers is None else [f'the attempts of step "s" of "e" are numbered {numbers}']
    assert said(attempts_go_up_by_one, run(*rows)) == wanted


def test_an_attempt_comes_again_as_often_as_without_the_crash():
    once = [event("StepStarted", "s", 1), event("StepInterrupted", "s", 1), event("StepStarted", "s", 1)]
    twice = [*once, event("StepInterrupted", "s", 1), event("StepStarted", "s", 1)]
    assert said(attempts_go_up_by_one, run(*once), run(*once)) == []
    assert said(attempts_go_up_by_one, run(*twice), run(*twice)) == []
    assert len(said(attempts_go_up_by_one, run(*twice), run(*once))) == 1


def test_an_end_of_another_step_gives_nothing_back():
    rows = [event("StepStarted", "s", 1), event("StepInterrupted", "t", 1), event("StepStarted", "s", 1)]
    assert said(attempts_go_up_by_one, run(*rows)) == ['the attempts of step "s" of "e" are numbered [1, 1]']


def test_a_number_that_no_event_has_is_passed_over():
    assert said(attempts_go_up_by_one, run(event("StepFailed", "s"), event("StepStarted", "s", 1))) == []


def test_errors():
    failed = event("StepFailed", "s", 1, error="ValueError")
    kept = {"execution_id": "e", "step_id": "s", "attempt": 1, "error_type": "ValueError"}
    assert said(errors_are_kept, run(failed, errors=[kept])) == []
    lost = ['the ValueError of attempt 1 of step "s" of "e" is not in step_errors']
    assert said(errors_are_kept, run(failed)) == lost
    assert said(errors_are_kept, run(failed, failed, errors=[kept])) == lost
    for other in ({"execution_id": "f"}, {"step_id": "t"}, {"attempt": 2}, {"error_type": "KeyError"}):
        assert said(errors_are_kept, run(failed, errors=[kept | other])) == lost
    assert said(errors_are_kept, run(event("StepRetrying", "s", 1, error="ValueError"))) == []


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "running"])
@pytest.mark.parametrize(
    ("row", "is_recorded"),
    [
        (None, False),
        ({"status": "running", "error_message": None}, False),
        ({"status": "completed", "error_message": None}, True),
        ({"status": "failed", "error_message": "no"}, True),
        ({"status": "failed", "error_message": ABANDONED}, False),
    ],
)
def test_results(status, row, is_recorded):
    seen = Observation(
        returned={("e", "s")},
        executions={"e": {"status": status}},
        steps={} if row is None else {("e", "s"): row},
    )
    sentence = 'the body of step "s" of execution "e" returned, and nothing of that was recorded'
    assert said(every_result_is_recorded, seen) == ([] if is_recorded or status == "running" else [sentence])


def test_every_result_is_looked_at():
    seen = Observation(returned={("a", "s"), ("b", "s")}, executions={"b": {"status": "completed"}})
    assert len(said(every_result_is_recorded, seen)) == 1


# Compared with the run without a crash

DONE = {"executions": {"e": {"status": "completed"}}, "steps": {("e", "s"): {"status": "completed"}}}


def step(*kinds, **data):
    return [event(kind, "s", 1, **data) for kind in kinds]


def test_a_step_tells_the_same_but_for_what_was_cut_off():
    baseline = run(*step("StepStarted", "StepCompleted"), **DONE)
    cut = step("StepStarted", "StepInterrupted", "StepStarted", "StepCompleted")
    assert said(the_history_tells_the_same, run(*cut, **DONE), baseline) == []
    failed = step("StepStarted", "StepFailed", "StepStarted", "StepCompleted")
    assert said(the_history_tells_the_same, run(*failed, **DONE), baseline) == [
        (
            'the events of step "s" of "e" are StepStarted, StepFailed, StepStarted, StepCompleted; '
            "without the crash StepStarted, StepCompleted"
        )
    ]
    assert said(the_history_tells_the_same, run(**DONE), baseline) == [
        'the events of step "s" of "e" are none; without the crash StepStarted, StepCompleted'
    ]
    interrupted = step("StepStarted", "StepFailed", "StepInterrupted", "StepCompleted")
    assert len(said(the_history_tells_the_same, run(*interrupted, **DONE), baseline)) == 1
    assert (
        said(
            the_history_tells_the_same, run(*step("StepInterrupted", "StepStarted", "StepCompleted"), **DONE), baseline
        )
        == []
    )


def test_the_execution_itself_tells_the_same():
    begun, ended = event("ExecutionStarted"), event("ExecutionCompleted")
    baseline = run(begun, ended, **DONE)
    assert said(the_history_tells_the_same, run(begun, event("ExecutionRecovered"), ended, **DONE), baseline) == []
    assert said(the_history_tells_the_same, run(begun, **DONE), baseline) == [
        'the events of execution "e" are ExecutionStarted; without the crash ExecutionStarted, ExecutionCompleted'
    ]


def test_details_are_compared():
    baseline = run(*step("StepStarted", "StepFailed", error="ValueError", other=1), **DONE)
    assert (
        said(
            the_history_tells_the_same,
            run(*step("StepStarted", "StepFailed", error="ValueError", other=2), **DONE),
            baseline,
        )
        == []
    )
    (sentence,) = said(
        the_history_tells_the_same, run(*step("StepStarted", "StepFailed", error="KeyError"), **DONE), baseline
    )
    assert sentence == (
        'the events of step "s" of "e" are StepStarted KeyError, StepFailed KeyError; '
        "without the crash StepStarted ValueError, StepFailed ValueError"
    )
    for name in ("handled_by", "duration_ms", "indicator"):
        one, other = (run(*step("StepCompleted", **{name: value}), **DONE) for value in (1, 2))
        assert len(said(the_history_tells_the_same, one, other)) == 1
    one, other = (run(event("ExecutionFailed", error=error), **DONE) for error in "ab")
    assert said(the_history_tells_the_same, one, other) == []


def test_what_is_not_compared():
    baseline = run(*step("StepStarted", "StepCompleted"), **DONE)
    nothing = {"steps": DONE["steps"], "executions": {"e": {"status": "failed"}}}
    assert said(the_history_tells_the_same, run(**nothing), baseline) == []  # another end
    assert said(the_history_tells_the_same, Observation(executions=DONE["executions"]), baseline) == []  # no history
    for status in ("failed", "skipped"):
        other = run(*step("StepStarted"), executions=DONE["executions"], steps={("e", "s"): {"status": status}})
        assert len(said(the_history_tells_the_same, run(**DONE), other)) == (status == "skipped")
    without_a_row = run(*step("StepStarted"), executions=DONE["executions"])
    assert said(the_history_tells_the_same, run(**DONE), without_a_row) == []
    opened = run(*step("StepStarted", "CircuitOpened"), **DONE)
    assert said(the_history_tells_the_same, run(**DONE), opened) == []


def test_a_step_that_a_death_cut_off_is_not_compared():
    baseline = run(*step("StepStarted", "StepCompleted"), **DONE)
    state = StepState("e", "s", "step", "running", 1, None, None, started_seq=1)
    for cut, count in ((True, 0), (False, 1)):
        death = Death(1, {("e", "s"): state} if cut else {}, {})
        assert len(said(the_history_tells_the_same, run(deaths=[death], **DONE), baseline)) == count


# Waits


@pytest.mark.parametrize(
    ("begins", "ends", "what"),
    [
        (event("StepRetrying", "s", 1, backoff_ms=10), "StepStarted", '"s" of "e"'),
        (event("SleepStarted", "s", duration_ms=10), "SleepCompleted", '"s" of "e"'),
        (event("ExecutionPanicked", restart_delay_ms=10), "ExecutionRestarted", 'the restart of "e"'),
    ],
)
def test_nothing_goes_on_too_early(begins, ends, what):
    early, in_time = (run(begins, event(ends, begins["step_id"], at=at)) for at in (9, 10))
    assert said(waits_are_kept, in_time) == []
    assert said(waits_are_kept, early) == [f"{what} went on before its wait was over"]
    assert said(waits_are_kept, early, early) == []


def test_each_wait_is_looked_at():
    rows = [
        event("StepRetrying", "s", 1, backoff_ms=10),
        event("StepStarted", "s", 2, at=10),
        event("StepStarted", "s", 2, at=10),
        event("StepRetrying", "s", 2, at=10, backoff_ms=20),
        event("StepStarted", "t", 1, at=11),
        event("StepStarted", "s", 3, at=29),
    ]
    assert said(waits_are_kept, run(*rows)) == ['"s" of "e" went on before its wait was over (number 2)']


def test_a_restart_ends_the_waits_of_steps():
    rows = [
        event("StepRetrying", "s", 1, backoff_ms=100),
        event("ExecutionPanicked", restart_delay_ms=10),
        event("ExecutionRestarted", at=9),
        event("StepStarted", "s", 1, at=9),
    ]
    assert said(waits_are_kept, run(*rows)) == ['the restart of "e" went on before its wait was over']
    by_hand = [rows[0], event("ExecutionPanicked"), *rows[2:]]
    assert said(waits_are_kept, run(*by_hand)) == []


def test_the_engine_waits_for_what_is_recorded():
    recorded = {
        "steps": {("e", "s"): {"wake_time": ms(1)}, ("e", "t"): {"wake_time": None}, ("e", "u"): {}},
        "executions": {"e": {"deadline_at": ms(2)}, "f": {"deadline_at": None}, "g": {}},
    }
    events = [
        event("StepRetrying", "s", 1, backoff_ms=3),
        event("ExecutionPanicked", restart_delay_ms=4),
        event("SleepStarted", "s", duration_ms=5),
        event("StepFailed", "s", 1, backoff_ms=6),
    ]
    assert said(waits_are_kept, run(*events, waits=[ms(offset) for offset in (5, 4, 3, 2, 1)], **recorded)) == []
    assert said(waits_are_kept, run(*events, waits=[ms(7), ms(6), ms(6)], **recorded)) == [
        f"the engine waited until 2026-01-01T00:00:00.{offset:03}000+00:00, and no wait that ends then is recorded"
        for offset in (6, 7)
    ]
