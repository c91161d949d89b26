"""Histories: comparing, asserting, showing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from pytest_workflow import (
    Event,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionPanicked,
    ExecutionStarted,
    History,
    SleepCompleted,
    SleepStarted,
    StepCompleted,
    StepFailed,
    StepRetrying,
    StepSkipped,
    StepStarted,
)
from pytest_workflow.history import compare, table
from workflow_core import NonRetryableError

pytest_plugins = ["pytester"]


@pytest.fixture
def history(workflow, workflow_faults):
    @workflow.define("ship-order")
    async def ship_order(ctx):
        await ctx.step("charge", lambda: 1)
        await ctx.sleep("settle", 2_000)
        await ctx.step("ship", lambda: 2).with_circuit_breaker(failure_threshold=5)

    workflow_faults.fail("charge", ValueError("no"), attempts=[1])
    return workflow.history(workflow.run("ship-order", "o-1"))


WHOLE = [
    ExecutionStarted(),
    StepFailed(step_id="charge"),
    StepRetrying(backoff_ms=1_000),
    StepCompleted("charge", 2),
    SleepStarted("settle", 2_000),
    SleepCompleted("settle"),
    StepCompleted("ship"),
    ExecutionCompleted,
]


def test_a_whole_history(history):
    assert history == WHOLE
    assert history == tuple(WHOLE)


def test_only_named_fields_count(history):
    assert history.of("charge") == [StepFailed(attempt=1), StepRetrying(), StepCompleted(attempt=2)]
    assert history.of("charge") == [StepFailed(error="ValueError", message="no"), StepRetrying, StepCompleted]


def test_starts_count_when_one_is_named(history):
    assert history.of("charge") == [
        StepStarted(attempt=1),
        StepFailed,
        StepRetrying,
        StepStarted(attempt=2),
        StepCompleted,
    ]


def test_events_made_by_hand_are_shown_as_far_as_they_are_known():
    made = History([StepCompleted(attempt=1), ExecutionPanicked(step_id="pay"), Event()])
    assert made != [StepCompleted(attempt=2)]
    assert compare(made, [StepCompleted(attempt=2)])[1:3] == [
        "  expected: StepCompleted(attempt=2)",
        "  happened: StepCompleted(attempt=1)",
    ]
    assert "UNSET" not in table(made)


def test_a_step_that_was_abandoned_has_begun(workflow):
    @workflow.define("abandoning")
    async def abandoning(ctx):
        def refuse():
            raise NonRetryableError("no")

        await asyncio.gather(ctx.step("pay", asyncio.Event().wait), ctx.step("refuse", refuse))

    history = workflow.history(workflow.run("abandoning"))
    assert history.of("pay") != []
    assert history.of("pay") == [StepStarted(attempt=1)]
    assert history.only(StepStarted) != []
    assert history != [ExecutionStarted, StepFailed("refuse"), ExecutionFailed]
    assert history == [
        ExecutionStarted,
        StepStarted("pay"),
        StepStarted("refuse"),
        StepFailed("refuse"),
        ExecutionFailed,
    ]


def test_a_start_counts_without_being_named_if_no_end_follows(history):
    events = list(history)
    events.insert(3, StepStarted("pay", 1))
    endless = History(events)
    assert endless != WHOLE
    assert endless[:3] != [ExecutionStarted()]
    assert endless[:3] == [ExecutionStarted(), StepFailed()]
    assert endless.only(StepStarted, StepRetrying).of("charge") == [StepRetrying()]
    assert endless.of("pay") != []
    assert "StepStarted" in compare(endless, WHOLE)[2]
    again = [StepStarted("pay", 1), ExecutionPanicked(), StepStarted("pay", 1), StepCompleted("pay", 1)]
    assert History(again) != [ExecutionPanicked(), StepCompleted()]
    assert History(again[1:]) == [ExecutionPanicked(), StepCompleted()]


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        WHOLE[:-1],
        [*WHOLE, ExecutionCompleted()],
        [*WHOLE[:2], StepRetrying(backoff_ms=999), *WHOLE[3:]],
        [*WHOLE[:1], StepFailed("charge", 1, "KeyError"), *WHOLE[2:]],
        list(reversed(WHOLE)),
        "ExecutionStarted",
        None,
    ],
)
def test_what_differs_is_not_equal(history, wrong):
    assert history != wrong
    assert not (history == wrong)  # noqa: SIM201 - both operators are meant


def test_events_are_frozen_and_dated(history):
    first, last = history[0], history[-1]
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.seq = 7
    assert first.at == datetime(2025, 1, 1, tzinfo=UTC)
    assert last.at - first.at == timedelta(seconds=3)
    assert [event.seq for event in history] == list(range(1, len(history) + 1))
    assert {(event.execution_id, event.workflow_name) for event in history} == {("o-1", "ship-order")}


def test_parts(history):
    assert [event.step_id for event in history.of("s*")] == ["settle", "settle", "ship", "ship"]
    assert history.of("nothing") == []
    assert len(history.only(StepFailed, StepRetrying)) == 2
    assert isinstance(history[1:3], History)
    assert history[1:3] == [StepStarted(attempt=1), StepFailed()]
    assert StepFailed(attempt=1) in history
    assert history.count(StepCompleted()) == 2


def test_a_history_is_not_hashable(history):
    with pytest.raises(TypeError):
        hash(history)


def test_it_can_be_taken_by_result_or_id(workflow, history):
    assert list(workflow.history("o-1")) == list(workflow.history(workflow.status("o-1"))) == list(history)


def test_text(history):
    assert str(history).startswith('history of "o-1" (ship-order)\n')
    assert "SleepStarted" in str(history)
    assert repr(history).startswith("History([ExecutionStarted(")
    assert table([]) == "(no events)"


# Named assertions ----------------------------------------------------------------------------------------------------


def test_assertions_that_hold(history):
    history.assert_completed("charge", "ship")
    history.assert_order("charge", "ship")
    history.assert_never_ran("refund")
    history.assert_attempts("charge", 2)
    history.assert_backoff("charge", [1_000])
    history.assert_backoff("ship", [])
    history.assert_slept("settle", 2_000)
    history.assert_restarts(0)


@pytest.fixture
def parts(workflow, workflow_faults):
    """Three parts, of which the second fails, then a nap that is cut off; and a step with a question mark."""

    @workflow.define("parts")
    async def parts(ctx):
        await ctx.sleep("nap-1", 1_000)
        for number in (1, 2, 3):
            await ctx.step(f"part-{number}", lambda: 1).catch(lambda error, ctx: None)
        await ctx.step("what?", lambda: 1)
        await ctx.step("whatX", lambda: 1)
        await ctx.step("item[1]", lambda: 1)
        await ctx.step("item1", lambda: 1)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ctx.sleep("nap-2", 2_000), 1)
        await ctx.step("last", lambda: 1 / 0).with_retry(max_attempts=2, backoff_ms=5)

    return workflow.history(workflow.run("parts"))


def test_a_glob_in_an_assertion_means_each_that_matches(parts):
    parts.assert_completed("part-*")
    parts.assert_order("part-*", "what?", "item*")
    parts.assert_attempts("part-*", 1)
    parts.assert_backoff("part-*", [])
    parts.assert_never_ran("refund-*")
    parts.assert_slept("nap-1*", 1_000)
    parts.assert_slept("nap-1", timedelta(milliseconds=999.6))  # as a sleep rounds it
    for check in (
        lambda: parts.assert_completed("nap-*"),
        lambda: parts.assert_completed("part-*", "refund-*"),
        lambda: parts.assert_completed("*"),
        lambda: parts.assert_order("part-2", "part-*"),
        lambda: parts.assert_order("part-*", "part-2"),
        lambda: parts.assert_order("part-*", "nap-1"),
        lambda: parts.assert_never_ran("*-2"),
        lambda: parts.assert_attempts("[!n]a*", 1),
        lambda: parts.assert_attempts("refund-*", 1),
        lambda: parts.assert_backoff("*a*", []),
        lambda: parts.assert_slept("nap-*", 1_000),
        lambda: parts.assert_circuit_opened("part-*"),
    ):
        with pytest.raises(AssertionError):
            check()


def test_sleeps_in_assertions(parts):
    parts.assert_completed("nap-1")
    parts.assert_order("nap-1", "part-1")
    parts.assert_attempts("nap-2", 1)
    for check in (
        lambda: parts.assert_never_ran("nap-1"),
        lambda: parts.assert_never_ran("nap-2"),
        lambda: parts.assert_completed("nap-2"),
        lambda: parts.assert_order("part-1", "nap-1"),
    ):
        with pytest.raises(AssertionError):
            check()


def test_an_assertion_needs_a_step(parts):
    for check in (parts.assert_completed, parts.assert_order):
        with pytest.raises(TypeError, match="step_id"):
            check()


def test_steps_are_named_one_by_one(parts):
    with pytest.raises(TypeError, match=r"by its id, or a glob, not by \['a', 'b'\]"):
        parts.assert_completed(["a", "b"])


def test_a_step_of_that_very_name_is_meant_before_a_glob(parts):
    assert {event.step_id for event in parts.of("what?")} == {"what?"}
    assert {event.step_id for event in parts.of("wha??")} == {"what?", "whatX"}
    assert {event.step_id for event in parts.of("item[1]")} == {"item[1]"}
    assert {event.step_id for event in parts.of("part-[13]*")} == {"part-1", "part-3"}
    parts.assert_attempts("what?", 1)


@pytest.mark.parametrize(
    ("check", "message", "marked"),
    [
        (
            lambda h: h.assert_completed("charge", "refund"),
            'step "refund" did not complete; the history knows charge, settle, ship',
            0,
        ),
        (lambda h: h.assert_order("ship", "charge"), 'step "charge" did not complete after "ship"', 5),
        (lambda h: h.assert_never_ran("ship"), 'step "ship" ran', 2),
        (lambda h: h.assert_attempts("charge", 3), 'step "charge" made 2 attempts, not 3', 5),
        (lambda h: h.assert_backoff("charge", [500]), 'step "charge" backed off for [1000] ms, not [500] ms', 5),
        (lambda h: h.assert_slept("settle", 1), 'sleep "settle" lasted 2000 ms, not 1 ms', 2),
        (lambda h: h.assert_slept("doze", 1), 'sleep "doze" did not begin; the history knows charge, settle, ship', 0),
        (lambda h: h.assert_circuit_opened("ship"), 'the circuit of step "ship" did not open', 2),
        (lambda h: h.assert_panicked(), "the execution did not panic at all (panics: [])", 0),
        (lambda h: h.assert_panicked("fatal"), "the execution did not panic by 'fatal' (panics: [])", 0),
        (lambda h: h.assert_restarts(1), "the execution restarted 0 times, not 1", 0),
    ],
)
def test_assertions_that_fail_show_the_table(history, check, message, marked):
    with pytest.raises(AssertionError) as raised:
        check(history)
    lines = str(raised.value).splitlines()
    assert lines[0].startswith(message)
    assert lines[1] == 'history of "o-1" (ship-order)'
    assert len(lines) == 4 + len(history)
    assert sum(line.startswith(">") for line in lines) == marked


def test_a_comparison_is_explained_at_its_place(history):
    lines = compare(history.of("charge"), [StepFailed(attempt=1), StepRetrying(backoff_ms=5), StepCompleted()])
    assert lines[:3] == [
        'history of "o-1" (ship-order), step "charge" differs from the expectation at position 1',
        "  expected: StepRetrying(backoff_ms=5)",
        "  happened: StepRetrying(step_id='charge', attempt=1, backoff_ms=1000)",
    ]
    (marked,) = (line for line in lines if line.startswith(">"))
    assert "StepRetrying" in marked


@pytest.mark.parametrize(
    ("expected", "lines"),
    [
        (WHOLE[:-1], ["  expected: nothing more", "  happened: ExecutionCompleted()"]),
        ([*WHOLE, StepCompleted("more")], ["  expected: StepCompleted(step_id='more')", "  happened: nothing more"]),
        (WHOLE, None),
    ],
)
def test_a_comparison_of_different_lengths(history, expected, lines):
    assert (compare(history, expected)[1:3] or None) == lines


@pytest.mark.parametrize(
    ("found", "expected", "lines"),
    [
        (
            StepCompleted("a", 1, "catch"),
            StepCompleted(handled_by=None),
            [
                "  expected: StepCompleted(handled_by=None)",
                "  happened: StepCompleted(step_id='a', attempt=1, handled_by='catch')",
                "  differs in handled_by",
            ],
        ),
        (
            StepCompleted("a", 1, None),
            StepCompleted("b", handled_by="catch"),
            [
                "  expected: StepCompleted(step_id='b', handled_by='catch')",
                "  happened: StepCompleted(step_id='a', attempt=1, handled_by=None)",
                "  differs in step_id, handled_by",
            ],
        ),
        (
            StepCompleted("a", 1, None, seq=4),
            StepCompleted(seq=5),
            [
                "  expected: StepCompleted(seq=5)",
                "  happened: StepCompleted(seq=4, step_id='a', attempt=1)",
                "  differs in seq",
            ],
        ),
        (
            StepCompleted("a", 1, None),
            StepFailed,
            ["  expected: StepFailed", "  happened: StepCompleted(step_id='a', attempt=1)"],
        ),
        (StepCompleted("a", 1, None), 7, ["  expected: 7", "  happened: StepCompleted(step_id='a', attempt=1)"]),
    ],
)
def test_a_comparison_shows_what_differs(found, expected, lines):
    explained = compare(History([found]), [expected])
    assert explained[1 : 1 + len(lines)] == lines
    assert explained[1 + len(lines)].split() == ["#", "time", "event", "step", "attempt", "details"]


@pytest.mark.parametrize("place", range(40))
def test_a_comparison_shows_the_surroundings(workflow_clock, place):
    start = workflow_clock.start
    events = [SleepStarted(f"nap-{n}", n, seq=n + 1, at=start + timedelta(seconds=n)) for n in range(40)]
    lines = compare(History(events), [*events[:place], SleepStarted("other"), *events[place + 1 :]])
    assert len(lines) <= 10
    (marked,) = (line for line in lines if line.startswith(">"))
    assert f"nap-{place} " in marked
    assert f"+{place}.000s" in marked
    assert lines[-1] == f"({40 - len(lines) + 7} more events are not shown here)"


def test_the_place_is_seen_although_pytest_shortens(run_within, pytester, monkeypatch):
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile(
        """
        from pytest_workflow import *

        def test_it(workflow):
            @workflow.define("shop")
            async def shop(ctx):
                for number in range(30):
                    await ctx.step(f"part-{number}", lambda: 1)
            history = workflow.history(workflow.run("shop", "s-1"))
            assert history == [
                ExecutionStarted,
                *(StepCompleted(f"part-{n}", handled_by="catch" if n == 20 else None) for n in range(30)),
                ExecutionCompleted,
            ]
        """
    )
    result = run_within()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            'E * history of "s-1" (shop) differs from the expectation at position 21',
            "E *   expected: StepCompleted(step_id='part-20', handled_by='catch')",
            "E *   happened: StepCompleted(step_id='part-20', attempt=1, handled_by=None)",
            "E *   differs in handled_by",
            "E *>*StepCompleted*part-20*",
        ]
    )


def test_in_a_failing_test(run_within, pytester):
    pytester.makepyfile(
        """
        import pytest
        from pytest_workflow import *

        @pytest.fixture
        def history(workflow):
            @workflow.define("shop")
            async def shop(ctx):
                await ctx.step("ship", lambda: 1)
            return workflow.history(workflow.run("shop", "s-1"))

        def test_compare(history):
            assert history == [ExecutionStarted(), StepFailed("ship"), ExecutionCompleted()]

        def test_compare_the_other_way_round(history):
            assert [StepFailed("ship")] == history.of("ship")

        def test_other_comparisons_are_pytests_own(history):
            assert history == 7

        def test_named(history):
            history.assert_attempts("ship", 2)
        """
    )
    result = run_within()
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            'E * history of "s-1" (shop) differs from the expectation at position 1',
            "E *   expected: StepFailed(step_id='ship')",
            "E *   happened: StepCompleted(step_id='ship', attempt=1)",
            "E *event*step*attempt*",
            "E *>*StepCompleted*ship*",
            '*- workflow history of "s-1" (shop) -*',
            "*ExecutionStarted*",
            'E * history of "s-1" (shop), step "ship" differs from the expectation at position 0',
            'E * step "ship" made 1 attempt, not 2',
        ]
    )
    assert "history.py:" not in result.stdout.str()


def test_messages_name_what_was_expected_and_what_there_is(workflow, workflow_faults):
    @workflow.define("napping")
    async def napping(ctx):
        await ctx.sleep("nap", 60_000)
        await ctx.step("pay", lambda: 1)
        await ctx.step("ship", lambda: 1)

    workflow_faults.fail("pay", ValueError("x"), attempts=[1])
    history = workflow.history(workflow.run("napping"))
    assert "+60.000s  StepStarted" in str(history.of("pay"))
    history.assert_slept("nap", timedelta(minutes=1))
    for check, said in (
        (lambda: history.assert_completed("pai"), 'step "pai" did not complete; the history knows nap, pay, ship'),
        (lambda: history.assert_attempts("pai", 1), "made 0 attempts, not 1; the history knows nap, pay, ship"),
        (lambda: history.assert_slept("snooze", 1), 'sleep "snooze" did not begin; the history knows nap, pay, ship'),
        (lambda: history.assert_slept("nap", 5), 'sleep "nap" lasted 60000 ms, not 5 ms'),
        (lambda: history.assert_order("ship", "pay"), "expected: ship, pay; completed: nap, pay, ship"),
    ):
        with pytest.raises(AssertionError) as raised:
            check()
        assert said in str(raised.value).splitlines()[0]
    with pytest.raises(TypeError, match="classes of events"):
        history.only("SleepCompleted")


def test_a_part_is_shown_under_the_title_of_its_whole():
    whole = History([ExecutionStarted(), StepCompleted("pay")], "order o-1")
    assert str(whole[1:]).startswith("order o-1\n")
    assert str(History([])).startswith("history\n")


def test_a_table_of_events_that_are_no_history():
    assert "StepCompleted  pay" in table([StepCompleted("pay", 1)])


def test_what_a_history_without_steps_knows():
    with pytest.raises(AssertionError, match='step "pay" did not complete; the history knows no step\n'):
        History([ExecutionStarted()]).assert_completed("pay")


def test_a_skipped_step_backed_off_for_nothing():
    skipped = History([StepRetrying("pay", 1, backoff_ms=5), StepSkipped("pay-later")])
    with pytest.raises(AssertionError, match='step "pay-later" backed off for'):
        skipped.assert_backoff("pay*", [5])


def test_only_sleeps_that_a_glob_matches_count():
    History([StepStarted("nap-count", 1), SleepStarted("nap", 5)]).assert_slept("nap*", 5)


def test_an_order_needs_its_first_step():
    begun = History([StepStarted("pay", 1), StepCompleted("ship", 1)])
    with pytest.raises(AssertionError, match=r'step "pay" did not complete\n(.*\n)*> .*StepStarted .*pay'):
        begun.assert_order("pay", "ship")


def test_an_indicator_in_any_case():
    panicked = History([ExecutionPanicked("Out of Memory")])
    panicked.assert_panicked("oUT of")
    with pytest.raises(AssertionError, match="did not panic by 'disk'"):
        panicked.assert_panicked("disk")


@pytest.mark.parametrize(("place", "left_out"), [(0, 4), (1, 3), (3, 3), (5, 4), (6, 4)])
def test_what_stands_around_a_difference(place, left_out):
    happened = [SleepStarted(f"s{number}", 1) for number in range(6)]
    lines = compare(History(happened), [*happened[:place], SleepStarted("other", 1)])
    assert lines[-1] == f"({left_out} more events are not shown here)"


@pytest.mark.parametrize(
    "check",
    [
        lambda history: history.assert_completed("pay"),
        lambda history: history.assert_order("pay", "ship"),
        lambda history: history.assert_never_ran("begun"),
        lambda history: history.assert_attempts("pay", 1),
        lambda history: history.assert_backoff("pay", [1]),
        lambda history: history.assert_slept("pay", 1),
        lambda history: history.assert_circuit_opened("pay"),
        lambda history: history.assert_panicked(),
        lambda history: history.assert_restarts(1),
    ],
)
def test_a_failing_assertion_shows_no_frames_of_its_own(check):
    with pytest.raises(AssertionError) as caught:
        check(History([StepStarted("begun", 1)]))
    assert [entry.ishidden(caught) for entry in caught.traceback][2:] == [True] * (len(caught.traceback) - 2)
    assert len(caught.traceback) > 3


def test_details_are_written_as_in_python():
    assert table([StepFailed("pay", 1, error="KeyError")]).endswith("error='KeyError'")
    assert table([SleepStarted("nap", 5)]).endswith("duration_ms=5")


def test_every_column_of_a_table():
    start = datetime(2026, 1, 1, tzinfo=UTC)
    events = [
        StepCompleted("pay", 2, seq=7, at=start),
        ExecutionCompleted(seq=8, at=start + timedelta(milliseconds=1_500)),
    ]
    assert [line.split() for line in table(events, {1}).splitlines()][2:] == [
        ["7", "+0.000s", "StepCompleted", "pay", "2"],
        [">", "8", "+1.500s", "ExecutionCompleted"],
    ]


def test_a_part_knows_the_whole_and_its_title(history):
    for part in (history[1:3], history.only(StepCompleted), history.of("charge")):
        assert part.whole is history
    assert history[1:3].title == history.only(StepCompleted).title == history.title
    with pytest.raises(AssertionError, match="the history knows charge, settle, ship"):
        history[:2].assert_attempts("chrage", 1)


def test_an_order_asks_for_steps_that_completed_all(history):
    with pytest.raises(AssertionError, match='step "pack" did not complete'):
        history.assert_order("charge", "pack")


def test_the_length_of_a_sleep_may_be_a_timedelta(history):
    history.assert_slept("settle", timedelta(seconds=2))
    with pytest.raises(AssertionError, match='sleep "settle" lasted 2000 ms, not 3000 ms'):
        history.assert_slept("settle", timedelta(seconds=3))


def test_any_panic_is_a_panic(workflow):
    @workflow.define("w", panic_config={"enable_auto_restart": False})
    async def flow(ctx):
        raise MemoryError("full")

    history = workflow.history(workflow.run("w", "e"))
    history.assert_panicked()
    with pytest.raises(AssertionError, match="did not panic by 'network'"):
        history.assert_panicked("network")


def test_a_table_shows_texts_in_quotes_and_numbers_as_they_are():
    at = datetime(2026, 1, 1, tzinfo=UTC)
    events = [
        ExecutionStarted(at=at, seq=1),
        StepFailed("1e5", 1, "ValueError", "no", at=at + timedelta(milliseconds=5), seq=2),
        StepRetrying("1e5", 1, 1_000, at=at, seq=3),
        ExecutionPanicked("network", step_id="1e5", at=at, seq=4),
    ]
    assert table(events).splitlines()[2:] == [
        "    1    +0.000s  ExecutionStarted",
        "    2    +0.005s  StepFailed         1e5     1          error='ValueError', message='no'",
        "    3    +0.000s  StepRetrying       1e5     1          backoff_ms=1000",
        "    4    +0.000s  ExecutionPanicked                     indicator='network'",
    ]
