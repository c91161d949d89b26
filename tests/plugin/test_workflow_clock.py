"""The fixture `workflow_clock`: virtual time, automatic and by hand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pytest_workflow import Sleep, VirtualClock, WorkflowStuckError
from pytest_workflow.environment import Environment
from pytest_workflow.threads import sleep_in_thread

pytest_plugins = ["pytester"]

WHICH = ("first", "second")
START = datetime(2025, 1, 1, tzinfo=UTC)


def real_seconds(perf_counter=time.perf_counter):
    """A default argument is out of freezegun's reach."""
    return perf_counter()


@pytest.fixture
def naps(workflow):
    @workflow.define("naps")
    async def naps(ctx):
        for number in range(10):
            await ctx.sleep(f"nap-{number}", timedelta(minutes=5))

    return naps


def test_ten_times_five_minutes_cost_no_time(workflow, naps, workflow_clock):
    workflow.run("naps")  # the first run imports and compiles
    began, before = real_seconds(), workflow_clock.now()
    workflow.run("naps")
    assert workflow_clock.now() - before == timedelta(minutes=50)
    assert real_seconds() - began < 1  # milliseconds; the rest is for a busy machine


def test_it_starts_at_a_fixed_moment(workflow_clock):
    assert workflow_clock.now() == workflow_clock.start == START
    assert workflow_clock.monotonic() == 0


@pytest.mark.workflow_clock(start="2031-07-04T12:00:00+02:00")
def test_marker_start_as_text(workflow_clock):
    assert workflow_clock.now() == datetime(2031, 7, 4, 10, tzinfo=UTC)


@pytest.mark.workflow_clock(start=datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC))
def test_marker_start_as_datetime(workflow_clock):
    workflow_clock.advance(1_000)
    assert workflow_clock.now() == datetime(2000, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("duration", "seconds"), [(1_500, 1.5), (0, 0), (0.5, 0.0005), (timedelta(hours=1), 3_600)])
def test_advance(workflow_clock, duration, seconds):
    workflow_clock.advance(duration)
    assert workflow_clock.now() - START == timedelta(seconds=seconds)


@pytest.mark.parametrize("duration", [-1, timedelta(microseconds=-1)])
def test_time_does_not_go_backwards(workflow_clock, duration):
    with pytest.raises(ValueError, match="backwards"):
        workflow_clock.advance(duration)


def test_sleeps_tell_what_was_slept(workflow, workflow_clock, workflow_faults):
    @workflow.define("tired")
    async def tired(ctx):
        await ctx.sleep("nap", 250)
        await ctx.step("flaky", lambda: 1)
        await ctx.step("fragile", lambda: 1)

    workflow_faults.fail("flaky", "no", attempts=[1, 2])
    workflow_faults.panic("fragile")
    workflow.run("tired", panic_config={"restart_delay_ms": 7_000})
    assert workflow_clock.sleeps == [
        Sleep("nap", 250, "sleep"),
        Sleep("flaky", 1_000, "backoff"),
        Sleep("flaky", 2_000, "backoff"),
        Sleep("", 7_000, "restart"),
    ]
    assert workflow_clock.monotonic() == pytest.approx(10.25)


def test_a_sleep_goes_on_after_a_reopen_and_is_noted_once(workflow, naps, workflow_clock):
    workflow.run("naps", "n", detach=True)
    workflow_clock.advance(1_000)
    workflow.reopen()
    workflow.wait("n")
    assert len(workflow_clock.sleeps) == 10
    assert workflow_clock.monotonic() == pytest.approx(3_000)


def test_what_is_due_happens_in_order_and_at_its_time(workflow_clock):
    happened = []

    async def at(seconds):
        await asyncio.sleep(seconds)
        happened.append((seconds, workflow_clock.now() - START))

    async def all_of_them():
        await asyncio.gather(*(at(seconds) for seconds in (30, 10, 20)))

    workflow_clock.run(all_of_them())
    assert happened == [(seconds, timedelta(seconds=seconds)) for seconds in (10, 20, 30)]


def test_advance_stops_where_it_was_told(workflow, naps, workflow_clock):
    workflow.run("naps", "n", detach=True)
    workflow_clock.advance(timedelta(minutes=12))
    assert workflow_clock.now() - START == timedelta(minutes=12)
    assert [type(event).__name__ for event in workflow.history("n")].count("SleepCompleted") == 2


def test_advance_waits_for_active_work(workflow, workflow_clock):
    """A job in a real thread is active work: the clock stands still until it is done."""
    seen = []

    @workflow.define("busy")
    async def busy(ctx):
        await ctx.sleep("nap", 1_000)
        gate = threading.Event()
        asyncio.get_running_loop().call_soon(gate.set)
        seen.append(await asyncio.to_thread(gate.wait, 60))
        seen.append(workflow_clock.now() - START)

    workflow.run("busy", "b", detach=True)
    workflow_clock.advance(5_000)
    assert seen == [True, timedelta(seconds=1)]
    assert workflow.status("b").status == "completed"


# By hand -------------------------------------------------------------------------------------------------------------


@pytest.mark.workflow_clock(manual=True)
def test_by_hand_nothing_moves_by_itself(workflow, naps, workflow_clock):
    assert not workflow_clock.automatic
    with pytest.raises(WorkflowStuckError, match=r"manual mode: a timer is due in 300000 ms"):
        workflow.run("naps", "n")
    assert workflow_clock.now() == START
    assert workflow.status("n").status == "sleeping"


@pytest.mark.workflow_clock(manual=True)
def test_by_hand_step_by_step(workflow, naps, workflow_clock):
    workflow.run("naps", "n", detach=True)
    for number in range(10):
        assert workflow.status("n").status != "completed"
        workflow_clock.advance(timedelta(minutes=5))
        assert workflow.status("n").steps[f"nap-{number}"].status == "completed"
    assert workflow.wait("n").status == "completed"


@pytest.mark.workflow_clock(manual=True)
def test_by_hand_in_one_leap(workflow, naps, workflow_clock):
    workflow.run("naps", "n", detach=True)
    workflow_clock.advance(timedelta(minutes=50))
    assert workflow.status("n").status == "completed"


@pytest.mark.workflow_clock(manual=True)
def test_by_hand_time_sleep_moves_time_all_the_same(workflow_clock):
    time.sleep(60)
    assert workflow_clock.monotonic() == 60


@pytest.mark.workflow_clock(manual=True)
def test_by_hand_what_is_left_running_may_need_time_to_end(workflow, workflow_clock):
    @workflow.define("slow-to-end")
    async def slow_to_end(ctx):
        try:
            await ctx.sleep("nap", 60_000)
        finally:
            await asyncio.sleep(1)

    workflow.run("slow-to-end", detach=True)


@pytest.mark.workflow_clock(manual=True)
def test_by_hand_several_tasks_let_time_pass(workflow_clock):
    async def both():
        await asyncio.gather(workflow_clock.advance(1_000), workflow_clock.advance(2_000))
        assert workflow_clock.monotonic() == 2
        one = asyncio.ensure_future(workflow_clock.advance(1_000))
        await asyncio.wait_for(workflow_clock.advance(2_000), 60)
        await one

    workflow_clock.run(both())
    assert workflow_clock.monotonic() == 4


# When nothing can go on ----------------------------------------------------------------------------------------------


def test_a_step_that_waits_for_ever_is_named(workflow, workflow_clock):
    @workflow.define("waiting")
    async def waiting(ctx):
        await ctx.step("post", asyncio.Event().wait)

    with pytest.raises(WorkflowStuckError) as raised:
        workflow.run("waiting", "w-1")
    message = str(raised.value)
    assert "no code is runnable, and no timer is set" in message
    assert 'workflow "waiting", execution "w-1" is running and waits for:' in message
    assert 'step "post", attempt 1' in message
    assert "2025-01-01T00:00:00+00:00" in message


@pytest.mark.parametrize("seconds", [math.inf, 1e11])
def test_a_sleep_without_an_end_is_no_timer(workflow, workflow_clock, seconds):
    @workflow.define("waiting")
    async def waiting(ctx):
        await ctx.step("sleep", lambda: asyncio.sleep(seconds))

    with pytest.raises(WorkflowStuckError, match='step "sleep", attempt 1, at'):
        workflow.run("waiting")
    assert workflow_clock.monotonic() == 0


def test_a_handler_that_waits_for_ever_is_named(workflow):
    @workflow.define("waiting")
    async def waiting(ctx):
        await asyncio.Event().wait()

    with pytest.raises(
        WorkflowStuckError, match=r"its handler, outside every step, at .*test_workflow_clock.py:\d+ in"
    ):
        workflow.run("waiting")


def test_the_line_where_a_step_waits_is_named(workflow):
    async def post():
        await asyncio.Event().wait()  # the first one

    async def pack():
        await asyncio.gather(asyncio.Event().wait())  # the second one

    @workflow.define("waiting")
    async def waiting(ctx):
        await asyncio.gather(ctx.step("post", post), ctx.step("pack", pack))

    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    first, second = (next(i for i, line in enumerate(lines, 1) if line.endswith(f"# the {n} one")) for n in WHICH)
    with pytest.raises(WorkflowStuckError) as raised:
        workflow.run("waiting")
    assert f'step "post", attempt 1, at {__file__}:{first} in post' in str(raised.value)
    assert f'step "pack", attempt 1, at {__file__}:{second} in pack' in str(raised.value)


def test_by_hand_the_sleep_is_named(run_within, pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.workflow_clock(manual=True)
        def test_it(workflow):
            @workflow.define("napping")
            async def napping(ctx):
                await ctx.sleep("siesta", 60_000)
            workflow.run("napping", "n-1")
        """
    )
    result = run_within()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*call workflow_clock.advance(...)*",
            '*execution "n-1" is sleeping and waits for:',
            '*sleep "siesta" until 2025-01-01T00:01:00+00:00',
            "*SleepStarted*siesta*",
        ]
    )


# Threads and several clocks ------------------------------------------------------------------------------------------


def test_time_sleep_in_a_thread_of_the_loop_is_virtual(workflow_clock):
    async def both():
        began = real_seconds()
        slept = asyncio.to_thread(lambda: (time.sleep(3_600), time.time())[1])
        done, _ = await asyncio.gather(slept, asyncio.sleep(1_800))
        return done, real_seconds() - began

    done, seconds = workflow_clock.run(both())
    assert done == (START + timedelta(hours=1)).timestamp()
    assert seconds < 30


def test_threads_that_sleep_go_on_when_virtual_time_is_over():
    ended = threading.Event()

    def job():
        sleep_in_thread(3_600)
        ended.set()

    async def begin():
        asyncio.get_running_loop().run_in_executor(None, job)
        await asyncio.sleep(60)  # passes once the thread sleeps

    with contextlib.closing(Environment(VirtualClock())) as environment:
        environment.clock.run(begin())
        assert not ended.is_set()
    assert ended.wait(60)


def test_more_sleepers_than_threads_share_them(workflow_clock):
    async def three_in_two_threads():
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(2) as pool:
            await asyncio.gather(*(loop.run_in_executor(pool, time.sleep, 60) for _ in range(3)))

    workflow_clock.run(three_in_two_threads())
    assert workflow_clock.monotonic() == pytest.approx(120)


def test_a_thread_is_never_overtaken(workflow_clock):
    """A time-out must not strike because a thread takes real time while virtual time costs none."""

    async def guarded():
        gate = threading.Event()
        threading.Timer(0.02, gate.set).start()
        return await asyncio.wait_for(asyncio.to_thread(gate.wait, 60), 1)

    assert workflow_clock.run(guarded())
    assert workflow_clock.now() == START


def test_work_outside_the_loop_is_waited_for_when_asked(workflow_clock):
    async def guarded():
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        threading.Timer(0.02, loop.call_soon_threadsafe, [answer.set_result, "real"]).start()
        with workflow_clock.outside_work():
            return await asyncio.wait_for(answer, 1)

    assert workflow_clock.run(guarded()) == "real"
    assert workflow_clock.now() == START


def test_a_foreign_thread_may_wake_a_loop_that_waits_for_nothing_else(workflow_clock):
    async def wait():
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        threading.Thread(target=loop.call_soon_threadsafe, args=[answer.set_result, "real"]).start()
        return await answer

    assert workflow_clock.run(wait()) == "real"


def test_asyncio_run_in_the_code_under_test(workflow_clock):
    assert asyncio.run(asyncio.sleep(3_600, "rested")) == "rested"
    assert workflow_clock.monotonic() == pytest.approx(3_600)


def test_an_event_loop_in_a_foreign_thread_keeps_real_time(workflow_clock):
    loops = []

    async def look():
        loops.append("time" in vars(asyncio.get_running_loop()))

    thread = threading.Thread(target=lambda: asyncio.run(look()))
    thread.start()
    thread.join()
    assert loops == [False]


def test_event_loops_get_their_own_time_back():
    original = asyncio.BaseEventLoop.run_forever
    loop = asyncio.SelectorEventLoop()
    with contextlib.closing(Environment(VirtualClock())):
        loop.run_until_complete(asyncio.sleep(3_600))
        assert "time" in vars(loop)
    assert "time" not in vars(loop)
    assert asyncio.BaseEventLoop.run_forever is original
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.fixture
def two_environments():
    with contextlib.ExitStack() as stack:
        clocks = VirtualClock(), VirtualClock(datetime(2030, 1, 1, tzinfo=UTC))
        yield [stack.enter_context(contextlib.closing(Environment(clock))) for clock in clocks]


def test_each_engine_has_its_own_clock(two_environments):
    async def nap(ctx):
        await ctx.sleep("nap", 60_000)

    for environment, times in zip(two_environments, (1, 3), strict=True):
        environment.harness.define("nap", nap)
        for number in range(times):
            environment.harness.run("nap", f"n-{number}")
    first, second = two_environments
    assert first.clock.now() == datetime(2025, 1, 1, 0, 1, tzinfo=UTC)
    assert second.clock.now() == datetime(2030, 1, 1, 0, 3, tzinfo=UTC)


def test_an_event_loop_has_one_clock(two_environments):
    first, second = two_environments
    with pytest.raises(RuntimeError, match="one clock for all engines of an event loop"):
        first.clock.run(second.clock.sleep(1))


def test_small_sleeps_do_not_drift_or_spin(workflow_clock):
    async def many():
        for _ in range(1_000):
            await asyncio.sleep(0.001)

    workflow_clock.run(many())
    assert workflow_clock.monotonic() == pytest.approx(1)


def test_a_program_that_never_ends_is_stopped(workflow_clock, monkeypatch):
    monkeypatch.setattr("pytest_workflow.clock._MOST_JUMPS", 100)
    workflow_clock.note_progress()  # from which on it counts

    async def for_ever():
        for _ in itertools.count():
            await asyncio.sleep(1)

    with pytest.raises(WorkflowStuckError, match="100 times"):
        workflow_clock.run(for_ever())


# Wrong use -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marker", "line"),
    [
        ("'2025-01-01T00:00:00+00:00'", "*takes start= and manual=, nothing else"),
        ("begin='2025'", "*takes start= and manual=, nothing else"),
        ("start='soon'", "*the start of virtual time 'soon' is no ISO date and time"),
        ("start='2025-01-01T00:00:00'", "*must be a datetime with a time zone, not *"),
        ("start=7", "*must be a datetime with a time zone, not 7"),
        ("start=0", "*must be a datetime with a time zone, not 0"),
        ("start=''", "*the start of virtual time '' is no ISO date and time"),
        ("start='0001-01-01T00:00:00+05:00'", "*'0001-01-01T00:00:00+05:00' is outside the years that Python knows"),
        ("manual='no'", "*takes manual=True or manual=False, not 'no'"),
    ],
)
def test_a_wrong_marker_fails_in_one_line(run_within, pytester, marker, line):
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.workflow_clock({marker})
        def test_it(workflow): ...
        """
    )
    result = run_within()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([line])
    assert "markers.py" not in result.stdout.str()


@pytest.mark.workflow_clock(manual=True, start="2030-01-01T00:00:00+00:00")
class TestMarkers:
    @pytest.mark.workflow_clock(start="2031-01-01T00:00:00+00:00")
    def test_the_closest_one_changes_what_it_names(self, workflow_clock):
        assert not workflow_clock.automatic
        assert workflow_clock.now() == datetime(2031, 1, 1, tzinfo=UTC)

    @pytest.mark.workflow_clock(manual=False, start=None)
    def test_none_is_the_default(self, workflow_clock):
        assert workflow_clock.automatic
        assert workflow_clock.now() == START


def test_ini_start(run_within, pytester):
    pytester.makepyfile(
        """
        def test_it(workflow_clock):
            assert workflow_clock.now().isoformat() == "2040-02-29T00:00:00+00:00"
        """
    )
    run_within("-o", "workflow_start=2040-02-29T00:00:00+00:00").assert_outcomes(passed=1)
    wrong = run_within("-o", "workflow_start=2040")
    wrong.assert_outcomes(errors=1)


@pytest.mark.parametrize(
    ("duration", "kind"),
    [
        ("5", TypeError),
        (None, TypeError),
        (True, TypeError),
        (-1, ValueError),
        (float("inf"), ValueError),
        (float("nan"), ValueError),
        (timedelta(days=1_000_000), ValueError),
        (timedelta(seconds=-1), ValueError),
    ],
    ids=repr,
)
def test_only_a_duration_can_pass(workflow_clock, duration, kind):
    with pytest.raises(kind, match="cannot advance by"):
        workflow_clock.advance(duration)
    if duration not in {-1, timedelta(seconds=-1)}:
        with pytest.raises(kind, match="cannot jump by"):
            workflow_clock.jump_wall(duration)
    assert workflow_clock.now() == workflow_clock.start


@pytest.mark.asyncio
async def test_sums_of_waits_are_exact(workflow_clock):
    await asyncio.sleep(0.1)
    await asyncio.sleep(60)
    assert workflow_clock.monotonic() == 60.1
    for _ in range(3):
        await workflow_clock.advance(0.1)
    assert workflow_clock.monotonic() == 60.1003
    await asyncio.sleep(1e-7)
    assert workflow_clock.monotonic() == 60.1003
