"""The timeline of the report: where events stand, and which bars and marks they make."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from pytest_workflow import (
    CircuitOpened,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionPanicked,
    ExecutionRecovered,
    ExecutionRestarted,
    ExecutionStarted,
    SleepCompleted,
    SleepStarted,
    StepCompleted,
    StepFailed,
    StepInterrupted,
    StepRetrying,
    StepSkipped,
    StepStarted,
)
from workflow_core.report.drawing import draw_timeline
from workflow_core.report.scale import PLACE, Scale, duration_text
from workflow_core.report.timeline import EXECUTION_LANE, FaultStrike, lay_out

START = datetime(2025, 1, 1, tzinfo=UTC)


def history(*timed):
    """Return events that happened at the given milliseconds."""
    return [
        dataclasses.replace(
            event, seq=seq, at=START + timedelta(milliseconds=ms), execution_id="x", workflow_name="flow"
        )
        for seq, (ms, event) in enumerate(timed, start=1)
    ]


def bars(events, faults=()):
    """Return step, kind and length of each bar, in the order of the lanes."""
    timeline = lay_out(events, faults)
    return [(timeline.lanes[bar.lane], bar.kind, bar.length_ms) for bar in timeline.bars]


# The scale -----------------------------------------------------------------------------------------------------------


def steps_at(*milliseconds):
    return history(*((ms, StepStarted("a", 1)) for ms in milliseconds))


@pytest.mark.parametrize(
    "moments",
    [
        [0, 0, 0, 0],
        [0, 1, 2, 3, 300_000],
        [0, 300_000, 300_000, 300_001, 86_400_000 * 365],
        [0, 0.001, 0.002, 5],
        [1_000, 0, 500],
    ],
)
def test_each_event_has_a_place_after_the_one_before(moments):
    positions = Scale(steps_at(*moments)).positions
    assert len(positions) == len(moments)
    assert all(later - earlier >= PLACE for earlier, later in pairwise(positions))


def test_an_empty_history():
    timeline = lay_out([])
    assert (timeline.lanes, timeline.bars, timeline.ticks, timeline.breaks) == ((EXECUTION_LANE,), (), (), ())


def test_short_waits_are_to_scale():
    scale = Scale(steps_at(0, 1_000, 3_000, 7_000))
    widths = [later - earlier - PLACE for earlier, later in pairwise(scale.positions)]
    assert widths == [widths[0], 2 * widths[0], 4 * widths[0]]
    assert scale.breaks == []


def test_a_long_wait_is_cut_short_and_says_so():
    scale = Scale(steps_at(0, 0, 300_000))
    assert [found.text for found in scale.breaks] == ["5 min"]
    assert scale.width < 15


def test_longer_waits_are_never_drawn_shorter():
    moments = [0]
    for exponent in range(12):
        moments.append(moments[-1] + 3**exponent * 1_000)
    positions = Scale(steps_at(*moments)).positions
    widths = [later - earlier for earlier, later in pairwise(positions)]
    assert widths == sorted(set(widths))


def test_the_noise_of_real_time_breaks_nothing():
    moments = [0, 0.1, 0.4, 0.5, 3.0, 1_003, 1_003.2]
    assert Scale(steps_at(*moments)).breaks == []


def test_one_tick_for_each_instant():
    scale = Scale(steps_at(0, 0, 1_500, 1_500, 61_500))
    assert [tick.text for tick in scale.ticks] == ["+0 ms", "+1.5 s", "+1 min 1.5 s"]
    assert [tick.position for tick in scale.ticks] == [scale.positions[0], scale.positions[2], scale.positions[4]]


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 ms"),
        (0.1234, "0.123 ms"),
        (999, "999 ms"),
        (1_000, "1 s"),
        (2_500, "2.5 s"),
        (300_000, "5 min"),
        (5_400_000, "1 h 30 min"),
        (90_061_001, "1 d 1 h 1 min 1.001 s"),
        (-1_500, "-1.5 s"),
    ],
)
def test_durations_are_readable(milliseconds, text):
    assert duration_text(milliseconds) == text


# Bars ----------------------------------------------------------------------------------------------------------------


def test_retries_and_back_offs():
    events = history(
        (0, StepStarted("a", 1)),
        (10, StepFailed("a", 1, "NetworkError", "503")),
        (10, StepRetrying("a", 1, 1_000)),
        (1_010, StepStarted("a", 2)),
        (1_010, StepCompleted("a", 2, None)),
    )
    assert bars(events) == [("a", "retried", 10), ("a", "backoff", 1_000), ("a", "completed", 0)]
    texts = [bar.text for bar in lay_out(events).bars]
    assert texts == [
        "a, attempt 1, attempt failed, tried again (NetworkError: 503), at +0 ms for 10 ms",
        "a, back-off of 1 s, at +10 ms for 1 s",
        "a, attempt 2, attempt completed, at +1.01 s for 0 ms",
    ]


def test_a_failure_that_a_handler_mends():
    events = history((0, StepStarted("a", 1)), (0, StepFailed("a", 1, "E", "m")), (5, StepCompleted("a", 1, "catch")))
    assert bars(events) == [("a", "failed", 0), ("a", "handled", 5)]


def test_a_failure_for_good():
    events = history((0, StepStarted("a", 1)), (0, StepFailed("a", 1, "E", "m")), (0, ExecutionFailed("E", "m")))
    assert bars(events) == [("a", "failed", 0)]


@pytest.mark.parametrize("named", ["a", None])
def test_a_panic_and_its_restart(named):
    events = history(
        (0, StepStarted("a", 1)),
        (0, StepFailed("a", 1, "RuntimeError", "out of memory")),
        (0, ExecutionPanicked("out of memory", "RuntimeError", "out of memory", named, 5_000)),
        (5_000, ExecutionRestarted(2)),
        (5_000, StepStarted("a", 1)),
        (5_000, StepCompleted("a", 1, None)),
    )
    assert bars(events) == [("a", "panicked", 0), (EXECUTION_LANE, "restart-wait", 5_000), ("a", "completed", 0)]


def test_a_panic_of_another_step_is_not_blamed_on_this_one():
    events = history(
        (0, StepFailed("a", 1, "E", "m")),
        (0, StepFailed("b", 1, "RuntimeError", "out of memory")),
        (0, ExecutionPanicked("out of memory", "RuntimeError", "out of memory", None, None)),
    )
    events = [*history((0, StepStarted("a", 1)), (0, StepStarted("b", 1))), *events]
    assert bars(events) == [("a", "failed", 0), ("b", "panicked", 0)]


def test_an_attempt_that_a_crash_cuts_off_ends_with_the_crash():
    events = history(
        (0, StepStarted("a", 1)),
        (4_000, ExecutionRecovered()),
        (4_000, SleepStarted("other", 1_000)),
        (5_000, StepInterrupted("a", 1)),
        (5_000, StepStarted("a", 2)),
        (5_000, StepCompleted("a", 2, None)),
    )
    assert bars(events)[:2] == [("a", "interrupted", 4_000), ("a", "completed", 0)]


def test_an_attempt_that_was_given_back():
    events = history((0, StepStarted("a", 1)), (30, StepInterrupted("a", 1)))
    assert bars(events) == [("a", "interrupted", 30)]


def test_a_sleep_goes_on_over_a_crash():
    events = history(
        (0, SleepStarted("nap", 300_000)), (60_000, ExecutionRecovered()), (300_000, SleepCompleted("nap"))
    )
    assert bars(events) == [("nap", "sleep", 300_000)]


def test_a_skipped_step_has_width():
    timeline = lay_out(history((0, ExecutionStarted()), (0, StepSkipped("a", 1))))
    (bar,) = timeline.bars
    assert bar.kind == "skipped"
    assert bar.right > bar.left


def test_what_has_not_ended():
    events = history((0, StepStarted("a", 1)), (0, SleepStarted("nap", 9_000)), (50, ExecutionCancelled()))
    assert sorted(bars(events)) == [("a", "unfinished", 50), ("nap", "sleep", 50)]


def test_steps_at_once_have_a_lane_each_in_the_order_they_began():
    events = history(
        (0, StepStarted("b", 1)),
        (0, StepStarted("a", 1)),
        (9, StepCompleted("a", 1, None)),
        (9, StepCompleted("b", 1, None)),
    )
    timeline = lay_out(events)
    assert timeline.lanes == (EXECUTION_LANE, "b", "a")
    assert {timeline.lanes[bar.lane] for bar in timeline.bars} == {"a", "b"}


def test_a_step_named_like_the_first_lane():
    timeline = lay_out(history((0, StepStarted(EXECUTION_LANE, 1)), (0, StepCompleted(EXECUTION_LANE, 1, None))))
    assert timeline.lanes == (EXECUTION_LANE, EXECUTION_LANE)
    assert timeline.bars[0].lane == 1


# Marks ---------------------------------------------------------------------------------------------------------------


def test_marks():
    events = history(
        (0, ExecutionStarted()),
        (0, CircuitOpened("a", 2)),
        (0, ExecutionRecovered()),
        (0, ExecutionRestarted(2)),
        (0, ExecutionCompleted()),
    )
    timeline = lay_out(events)
    assert [(timeline.lanes[mark.lane], mark.kind, mark.seq) for mark in timeline.marks] == [
        (EXECUTION_LANE, "started", 1),
        ("a", "circuit-opened", 2),
        (EXECUTION_LANE, "recovered", 3),
        (EXECUTION_LANE, "restarted", 4),
        (EXECUTION_LANE, "execution-completed", 5),
    ]
    assert timeline.marks[1].text == "a: circuit opened (failures: 2), at +0 ms"


def test_a_fault_stands_after_the_event_that_it_followed():
    events = history((0, ExecutionStarted()), (0, StepStarted("a", 1)), (0, StepFailed("a", 1, "E", "m")))
    timeline = lay_out(
        events, [FaultStrike(2, "a", "fail('a')"), FaultStrike(0, None, "early"), FaultStrike(1, "z", "")]
    )
    _, struck, early, elsewhere = timeline.marks
    positions = Scale(events).positions
    assert positions[1] < struck.position < positions[2]
    assert (timeline.lanes[struck.lane], struck.text) == ("a", "a: injected fault fail('a')")
    assert early.position < positions[0]
    assert timeline.lanes[elsewhere.lane] == "z"


# The drawing ---------------------------------------------------------------------------------------------------------


def test_the_length_of_a_restart_is_below_the_sign_of_a_shortened_stretch():
    events = history(
        (0, ExecutionStarted()),
        (0, StepStarted("a", 1)),
        (10, StepFailed("a", 1, error="PanicError")),
        (10, ExecutionPanicked(step_id="a")),
        (600_010, ExecutionRestarted(restart_attempt=2)),
    )
    drawn = str(draw_timeline(events))
    (sign,) = re.findall(r'href="#wt-break" x="[\d.]+%" y="(\d+)"', drawn)
    of_stretch, of_restart = map(int, re.findall(r'y="(\d+)" class="wt-length">10 min<', drawn))
    half, capitals = 6, 8  # of the sign, and of a text of 11 pixels
    assert of_stretch <= int(sign) - half
    assert int(sign) + half <= of_restart - capitals
