"""What the user's code sees of time: the virtual clock in a workflow test, real time everywhere else."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
import xml.etree.ElementTree as ET
from datetime import UTC, date, datetime, timedelta
from time import ctime, monotonic, sleep
from time import time as aliased_time

import freezegun
import pydantic
import pytest

pytest_plugins = ["pytester"]

START = datetime(2025, 1, 1, tzinfo=UTC)


def test_every_way_to_ask_agrees(workflow_clock):
    workflow_clock.advance(timedelta(days=40, microseconds=1_000))
    now = workflow_clock.now()
    assert datetime.now(UTC) == now
    assert dt.datetime.now(UTC) == now
    assert datetime.fromtimestamp(time.time(), UTC) == now
    assert aliased_time() == time.time() == now.timestamp()
    assert time.time_ns() == pytest.approx(now.timestamp() * 1e9)
    assert time.gmtime()[:6] == now.timetuple()[:6]
    assert time.ctime() == time.asctime() == ctime() == time.ctime(now.timestamp())
    assert time.asctime(time.gmtime()) == now.ctime()
    assert date.today() == now.date()


def test_durations_agree(workflow, workflow_clock):
    seen = {}

    @workflow.define("measuring")
    async def measuring(ctx):
        async def measure():
            before = time.monotonic(), monotonic(), time.perf_counter(), asyncio.get_running_loop().time()
            await asyncio.sleep(90)
            after = time.monotonic(), monotonic(), time.perf_counter(), asyncio.get_running_loop().time()
            seen["durations"] = [end - begin for begin, end in zip(before, after, strict=True)]

        await ctx.step("measure", measure)

    workflow.run("measuring")
    assert seen["durations"] == pytest.approx([90] * 4)


def test_time_sleep_in_a_step_costs_no_real_time(workflow, workflow_clock):
    @workflow.define("sleepy")
    async def sleepy(ctx):
        await ctx.step("by-module", lambda: time.sleep(3_600))
        await ctx.step("by-name", lambda: sleep(3_600))

    assert workflow.run("sleepy").status == "completed"
    assert workflow_clock.now() - START == timedelta(hours=2)


def test_time_sleep_refuses_what_the_real_one_refuses(workflow_clock):
    with pytest.raises(ValueError, match="non-negative"):
        time.sleep(-1)


def test_results_with_the_time_of_day_are_stored_and_come_back(workflow, workflow_db):
    @workflow.define("stamping")
    async def stamping(ctx):
        return await ctx.step("stamp", lambda: datetime.now(UTC), returns=datetime)

    first = workflow.run("stamping", "s").output
    assert first == START
    workflow.reopen()
    assert workflow.run("stamping", "s").output == first


def test_a_pydantic_model_defined_in_the_test(workflow_clock):
    class Order(pydantic.BaseModel):
        placed: dt.datetime
        due: dt.date | None = None
        stamps: list[dt.datetime] = pydantic.Field(default_factory=lambda: [datetime.now(UTC)])
        epoch: float = pydantic.Field(default_factory=time.time)

    order = Order(placed="2025-01-01T00:00:00Z", due="2025-01-02")
    assert order.placed == datetime.now(UTC)
    assert order.due == date(2025, 1, 2)
    assert order.stamps == [START]
    assert order.epoch == START.timestamp()
    assert Order.model_validate_json(order.model_dump_json()) == order
    assert Order.model_json_schema()["properties"]["placed"]["format"] == "date-time"
    with pytest.raises(pydantic.ValidationError):
        Order(placed="yesterday")


def test_limit_pydantic_compares_past_and_future_with_the_real_clock(workflow_clock):
    """Pydantic asks the operating system, below Python; the guide says so."""

    class Birthday(pydantic.BaseModel):
        day: pydantic.PastDatetime

    assert Birthday(day=datetime.now(UTC)).day == START


def test_sqlite_takes_the_time_of_day(workflow_clock):
    with sqlite3.connect(":memory:") as connection:
        row = connection.execute("SELECT ?, ?", (datetime.now(), date.today())).fetchone()
    connection.close()
    assert row == ("2025-01-01 00:00:00", "2025-01-01")


def test_uuid1_follows(workflow_clock):
    def moment():
        return (uuid.uuid1().time - 0x01B21DD213814000) / 1e7

    assert moment() == pytest.approx(START.timestamp(), abs=0.001)
    workflow_clock.advance(timedelta(days=1))
    assert moment() == pytest.approx(START.timestamp() + 86_400, abs=0.001)


def test_threads_see_it_too(workflow_clock):
    seen = []
    thread = threading.Thread(target=lambda: seen.append((time.time(), datetime.now(UTC))))
    thread.start()
    thread.join(timeout=10)

    async def in_executor():
        seen.append(await asyncio.to_thread(lambda: (time.time(), datetime.now(UTC))))

    workflow_clock.run(in_executor())
    assert seen == [(START.timestamp(), START)] * 2


def test_a_child_process_can_be_waited_for(workflow_clock):
    """Waiting in ``subprocess`` polls with ``time.sleep``, which must not be the virtual one."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    assert process.wait(timeout=60) == 0
    assert workflow_clock.now() == START


def test_freezegun_in_the_test_is_inside_virtual_time(workflow, workflow_clock):
    with freezegun.freeze_time("2001-02-03") as frozen:
        assert datetime.now(UTC) == datetime(2001, 2, 3, tzinfo=UTC)
        frozen.tick(60)
        assert time.time() == datetime(2001, 2, 3, 0, 1, tzinfo=UTC).timestamp()

        @workflow.define("napping")
        async def napping(ctx):
            await ctx.sleep("nap", 60_000)

        assert workflow.run("napping", "n").started_at == START
    assert datetime.now(UTC) == START + timedelta(minutes=1)
    workflow_clock.advance(1_000)
    assert datetime.now(UTC) == START + timedelta(minutes=1, seconds=1)


@freezegun.freeze_time("2001-02-03")
def test_freezegun_as_a_decorator(workflow, workflow_clock):
    assert datetime.now(UTC) == datetime(2001, 2, 3, tzinfo=UTC)
    assert workflow_clock.now() == START


async def year(ctx):
    return await ctx.step("year", lambda: datetime.now(UTC).year)


@freezegun.freeze_time("2001-02-03")
def test_a_time_that_the_test_freezes_is_not_the_engines(workflow):
    workflow.define("year", year)
    result = workflow.run("year")
    assert (result.output, result.started_at.year) == (2001, START.year)


@pytest.mark.workflow_clock(start="2030-01-01T00:00:00+00:00")
def test_a_start_of_virtual_time_is_the_engines_as_well(workflow):
    workflow.define("year", year)
    result = workflow.run("year")
    assert (result.output, result.started_at.year) == (2030, 2030)


# Whole runs ----------------------------------------------------------------------------------------------------------

REAL_YEAR = """
    import os

    def is_real(moment, started=None):
        return abs(moment - os.stat(__file__).st_mtime) < 3_600
"""


@pytest.fixture
def real(pytester):
    """A module that knows the real time from the file system."""
    pytester.makepyfile(real=REAL_YEAR)
    pytester.syspathinsert()


MIXED = """
    import datetime, time
    from time import sleep, time as now

    import freezegun.api
    import pytest
    from real import is_real

    seen = {}

    @pytest.fixture(scope="module", autouse=True)
    def wide():
        seen["before"] = now()
        yield
        assert is_real(now()) and is_real(time.time()) and is_real(datetime.datetime.now().timestamp())

    @pytest.fixture
    def early():
        return datetime.datetime.now(datetime.UTC)

    def test_normal_first():
        assert is_real(now()) and is_real(seen["before"])

    def test_virtual(early, workflow, workflow_clock):
        assert early == datetime.datetime.now(datetime.UTC) == workflow_clock.now()
        assert now() == 1735689600.0
        assert is_real(seen["before"])
        sleep(3_600)

    def test_virtual_again(workflow_clock):
        assert now() == 1735689600.0

    def test_normal_between():
        assert is_real(now()) and is_real(time.time()) and is_real(datetime.datetime.now().timestamp())
        assert type(datetime.datetime.now()) is datetime.datetime.__mro__[0]
        assert datetime.datetime.__module__ == "datetime"
        assert time.sleep is sleep and "freez" not in repr(sleep).lower() and not freezegun.api.freeze_factories
        assert freezegun.api.call_stack_inspection_limit == 5

    def test_asked_for_late(request):
        assert is_real(now())
        request.getfixturevalue("workflow")
        assert now() == 1735689600.0

    def test_normal_last():
        assert is_real(now())
        assert datetime.datetime.__module__ == "datetime"
"""


def test_real_time_returns_after_each_block(run_within, pytester, real):
    pytester.makepyfile(test_mixed=MIXED, test_other=MIXED)
    run_within().assert_outcomes(passed=12)


def test_real_time_returns_after_each_block_in_a_process_of_its_own(run_apart, pytester, real):
    pytester.makepyfile(test_mixed=MIXED, test_other=MIXED)
    run_apart("-W", "error").assert_outcomes(passed=12)


def test_a_module_imported_in_a_workflow_test_is_real_afterwards(run_within, pytester, real):
    pytester.makepyfile(
        late="""
        from datetime import date, datetime
        from time import ctime, sleep, time

        class Moment(datetime):
            pass

        class Day(date):
            pass
        """,
        test_late="""
        import datetime
        from real import is_real

        def test_virtual(workflow_clock):
            import late
            assert late.Moment.now().year == late.Day.today().year == 2025
            assert late.ctime() == late.ctime(1735689600)
            assert late.time() == 1735689600.0
            late.sleep(60)
            assert late.time() == 1735689660.0

        def test_real():
            import late
            assert is_real(late.time()) and is_real(late.datetime.now().timestamp())
            assert late.sleep.__module__ == late.ctime.__module__ == "time"
            assert is_real(late.Moment.now().timestamp()) and is_real(late.Moment.today().timestamp())
            assert is_real(late.Moment.now(datetime.timezone.utc).timestamp())
            assert late.Moment.utcnow().replace(tzinfo=None) - datetime.datetime.utcnow() < datetime.timedelta(hours=1)
            assert abs(late.Day.today() - datetime.date.today()) <= datetime.timedelta(days=1)

        def test_virtual_again(workflow_clock):
            import late
            late.sleep(3_600)
            assert late.time() == 1735689600.0 + 3_600
        """,
    )
    run_within().assert_outcomes(passed=3)


def test_freezing_fixtures_of_any_scope(run_within, pytester, real):
    pytester.makepyfile(
        """
        import datetime
        import freezegun
        import pytest
        from real import is_real

        @pytest.fixture
        def freezer():
            with freezegun.freeze_time("2001-02-03") as frozen:
                yield frozen

        @pytest.fixture(scope="class")
        def wide_freezer():
            with freezegun.freeze_time("2002-02-03") as frozen:
                yield frozen

        def year():
            return datetime.datetime.now().year

        def test_user_first(freezer, workflow):
            assert year() == 2001

        def test_user_last(workflow, freezer):
            assert year() == 2001

        def test_virtual(workflow):
            assert year() == 2025

        @pytest.mark.usefixtures("wide_freezer")
        class TestWide:
            def test_inside(self, workflow):
                assert year() == 2025

            def test_inside_again(self, workflow):
                assert year() == 2025

            def test_without(self):
                assert year() == 2002

        def test_real():
            assert is_real(datetime.datetime.now().timestamp())
        """
    )
    run_within().assert_outcomes(passed=7)


def test_a_freeze_around_all_workflow_tests(run_within, pytester, real):
    pytester.makepyfile(
        """
        import datetime
        import freezegun
        import pytest
        from real import is_real

        @pytest.fixture(scope="class")
        def wide_freezer():
            with freezegun.freeze_time("2002-02-03") as frozen:
                yield frozen

        @pytest.mark.usefixtures("wide_freezer")
        class TestWide:
            def test_inside(self, workflow):
                assert datetime.datetime.now().year == 2025

        def test_virtual(workflow):
            assert datetime.datetime.now().year == 2025

        def test_real():
            assert is_real(datetime.datetime.now().timestamp())
            assert datetime.datetime.__module__ == "datetime"
        """
    )
    run_within().assert_outcomes(passed=3)


def test_wide_fixtures_of_workflow_tests_see_real_time(run_within, pytester, real):
    pytester.makepyfile(
        """
        import time
        import pytest
        from real import is_real

        @pytest.fixture(scope="class")
        def measured():
            began = time.monotonic()
            yield
            assert 0 <= time.monotonic() - began < 3_600
            assert is_real(time.time())
            time.sleep(0)

        @pytest.mark.usefixtures("measured")
        class TestMeasured:
            def test_first(self, workflow_clock):
                time.sleep(1e6)

            def test_second(self, workflow_clock):
                time.sleep(1e6)

        class TestMeasuredAgain(TestMeasured):
            pass
        """
    )
    run_within().assert_outcomes(passed=4)


def test_pytests_own_durations_are_real(run_apart, pytester):
    pytester.makepyfile(
        """
        import time

        def test_long(workflow, workflow_clock):
            workflow_clock.advance(86_400_000)
            time.sleep(3_600)

        def test_normal(): ...
        """
    )
    result = run_apart(
        *("--durations=0", "-vv", "--junitxml=junit.xml", "--timeout=300", "--session-timeout=3000"), needed=["timeout"]
    )
    result.assert_outcomes(passed=2)
    lines = [
        line.split() for line in result.stdout.lines if " call " in line or " setup " in line or " teardown " in line
    ]
    assert len(lines) == 6
    assert all(0 <= float(line[0].removesuffix("s")) < 60 for line in lines)
    suite = ET.parse(pytester.path / "junit.xml").getroot()[0]  # noqa: S314 - pytest wrote it
    assert 0 <= float(suite.get("time")) < 60
    assert all(0 <= float(case.get("time")) < 60 for case in suite.iter("testcase"))
    assert abs(datetime.fromisoformat(suite.get("timestamp")).timestamp() - time.time()) < 3_600


def test_hypothesis_measures_real_time(run_within, pytester):
    pytester.makepyfile(
        """
        from hypothesis import HealthCheck, given, settings, strategies

        @settings(max_examples=5, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(hours=strategies.integers(1, 100))
        def test_it(workflow, workflow_clock, hours):
            workflow_clock.advance(hours * 3_600_000)
        """
    )
    run_within().assert_outcomes(passed=1)


def test_log_records_carry_virtual_time(workflow_clock, caplog):
    import logging

    logging.getLogger("shop").warning("sold")
    assert caplog.records[-1].created == START.timestamp()


def test_json_of_the_time_of_day(workflow_clock):
    assert json.dumps({"now": datetime.now(UTC).isoformat()}) == '{"now": "2025-01-01T00:00:00+00:00"}'
