"""The line format: one event is one line, and what is written is what is read."""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workflow_core.events import ExecutionPanicked, SleepStarted, StepCompleted, StepFailed, StepStarted
from workflow_core.logs import event_line, format_line, level_name, parse_line, step_line

AT = datetime(2026, 11, 26, 0, 30, 0, 123456, tzinfo=UTC)


def stamped(event, seq=7):
    return event.stamped(seq, AT, "order-1", "orders")


def test_a_line_is_what_the_documentation_shows():
    line = event_line(stamped(StepCompleted("charge", 1, None)))
    assert (
        line == "2026-11-26T00:30:00.123456Z INFO execution=order-1 step=charge attempt=1 seq=7 event=StepCompleted\n"
    )


def test_the_short_way_gives_the_same_line():
    for step_id in ("charge", "two words", 'quo"ted', "ünï"):
        assert step_line(AT, "order-1", step_id, 2, 7, "StepStarted") == event_line(stamped(StepStarted(step_id, 2)))


@pytest.mark.parametrize(
    ("event", "level", "fields"),
    [
        (StepFailed("s", 2, "ValueError", 'a "b" c=d'), "warn", {"error": "ValueError", "message": 'a "b" c=d'}),
        (SleepStarted("s", 1_000), "info", {"duration_ms": "1000"}),
        (
            ExecutionPanicked("out of memory", "E", "", None, 5_000),
            "error",
            {"indicator": "out of memory", "message": ""},
        ),
    ],
)
def test_what_an_event_tells_is_read_again(event, level, fields):
    line = parse_line(event_line(stamped(event)))
    assert (line.at, line.level, line.seq) == (AT, level, 7)
    assert line.fields["execution"] == "order-1" and line.fields["event"] == type(event).__name__
    assert fields.items() <= line.fields.items()


@settings(deadline=None, max_examples=100)
@example('x" seq=9 event=StepCompleted')
@example("x\n2026-11-26T00:30:00.123456Z ERROR execution=other event=ExecutionFailed")
@example("\x00\x1b[31m\x7f\x85\u2028\u202e\ud800\U000e0001\\")
@example("")
@example("=")
@given(st.text(st.characters()))
def test_no_text_can_break_a_line_or_forge_one(text):
    line = format_line(AT, "info", [("execution", "order-1"), ("message", text), ("seq", 7)])
    assert line.endswith("\n") and line[:-1].isprintable() and len(line.splitlines()) == 1
    read = parse_line(line)
    assert read.fields == {"execution": "order-1", "message": text, "seq": "7"}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\n",
        "something else",
        '2026-11-26T00:30:00.123456Z INFO execution=order-1 message="cut o',
        "2026-11-26T00:30:00.123456Z LOUD execution=order-1",
        "2026-13-26T00:30:00.123456Z INFO execution=order-1",
        '2026-11-26T00:30:00.123456Z INFO execution=order-1 message="\\q"',
        "2026-11-26T00:30:00.123456Z INFO execution=order-1 seq=2026-11-26T00:30:00.123456Z INFO event=x y",
    ],
)
def test_what_is_no_line_is_none(line):
    assert parse_line(line) is None


def test_a_position_that_is_no_number_is_none():
    assert parse_line("2026-11-26T00:30:00.123456Z INFO execution=order-1 seq=x").seq is None


def test_level_numbers_have_the_next_lower_name():
    assert [level_name(number) for number in (5, 10, 20, 25, 30, 40, 50)] == [
        "debug", "debug", "info", "info", "warn", "error", "error",
    ]  # fmt: skip
