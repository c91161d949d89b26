"""Crash exploration: what it finds, what it shows, and that it changes nothing else."""

import asyncio
from collections import Counter

import pytest

from pytest_workflow.crashes import CrashExplorationError, explore
from pytest_workflow.invariants import COMPARED, DEFAULT_INVARIANTS, NOT_COMPARED, Comparison, Invariant
from pytest_workflow.observation import Observation, Place
from pytest_workflow.storages import memory_database
from workflow_core import NonRetryableError, StorageError, ValidationError, Workflow
from workflow_core.database import parts
from workflow_core.database.sqlite import SQLiteStore

pytest_plugins = ["pytester"]


@Workflow.define("explored-order")
async def order(ctx):
    paid = await ctx.step("charge", lambda: "paid").with_circuit_breaker(3, 60_000)
    await ctx.sleep("settle", 1_000)
    sent, told = await asyncio.gather(ctx.step("ship", lambda: "sent"), ctx.step("tell", lambda: "told"))
    return [paid, sent, told]


def scenario(workflow):
    assert workflow.run("explored-order", "o-1").output == ["paid", "sent", "told"]


# What it explores ----------------------------------------------------------------------------------------------------


def test_every_place_is_tried(workflow_crashes):
    report = workflow_crashes.explore(scenario)
    names = [point for point, _, _ in report.baseline.passed]
    assert names[:5] == ["execution_started", "circuit_admitted", "step_started", "step_completed", "sleep_started"]
    assert (report.points, report.runs, report.depth, report.exhausted, report.ok) == (11, 22, 1, True, True)
    assert report.summary().startswith("11 points × {before, after} = 22 runs, depth 1, exhausted, ")  # noqa: RUF001


def test_pairs_of_crashes(workflow_crashes):
    report = workflow_crashes.explore(scenario, depth=2)
    assert (report.singles, report.depth, report.exhausted) == (22, 2, True)
    assert report.runs > 22 * 11
    assert f"22 runs, and {report.runs - 22} with up to 2 crashes, depth 2, exhausted" in report.summary()


def test_a_limit_is_admitted(workflow_crashes):
    report = workflow_crashes.explore(scenario, depth=2, most_runs=30)
    assert (report.runs, report.exhausted) == (30, False)
    assert "not exhausted" in report.summary()
    assert workflow_crashes.explore(scenario, most_runs=5).runs == 5


@pytest.mark.parametrize("options", [{"depth": 0}, {"most_runs": 0}])
def test_wrong_limits(workflow_crashes, options):
    with pytest.raises(ValueError, match="at least 1"):
        workflow_crashes.explore(scenario, **options)


def test_a_scenario_may_be_asynchronous_and_has_its_own_surroundings(workflow_crashes, workflow, workflow_clock):
    clocks = []

    async def scenario(workflow_clock, workflow_db):
        clocks.append(workflow_clock)
        result = await Workflow.start("explored-order", "o-1")
        assert result.status == "completed"
        assert len(workflow_db.executions()) == 1

    assert workflow_crashes.explore(scenario).ok
    assert len(set(map(id, clocks))) == 23
    assert workflow_clock not in clocks
    assert workflow_clock.monotonic() == 0
    assert workflow.run("explored-order").status == "completed"


def test_what_a_scenario_cannot_ask_for(workflow_crashes):
    with pytest.raises(TypeError, match="asks for workflow_spy"):
        workflow_crashes.explore(lambda workflow_spy: None)


def test_workflows_of_the_test_are_known(workflow_crashes, workflow):
    @workflow.define("local")
    async def local(ctx):
        await ctx.step("s", lambda: 1)

    assert workflow_crashes.explore(lambda workflow: workflow.run("local")).points == 4


def test_a_scenario_that_fails_without_a_crash_is_the_tests_own_failure(workflow_crashes):
    def scenario(workflow):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        workflow_crashes.explore(scenario)


def test_all_kinds_of_ends_survive(workflow_crashes):
    """Retries, a panic, a restart, an open circuit, a failure, a cancellation: every place of all of them."""

    @Workflow.define("explored-everything")
    async def everything(ctx):
        await ctx.step("flaky", lambda: 1).with_retry(max_attempts=4)
        await ctx.step("panics", lambda: 2)
        await ctx.step("handled", lambda: 3).on_error({ValueError: lambda error, ctx: "handled"})
        await ctx.step("open", lambda: 4).with_circuit_breaker(2, 60_000, on_open=lambda ctx: "queued")
        await ctx.step("fails", lambda: 5)

    def scenario(workflow, workflow_faults, workflow_clock):
        workflow_faults.fail("flaky", ConnectionError("no"), attempts=[1, 2])
        workflow_faults.panic("panics")
        workflow_faults.fail("handled", ValueError("x"), attempts=[1])
        workflow_faults.open_circuit("open")
        workflow_faults.fail("fails", NonRetryableError("x"))
        result = workflow.run("explored-everything", "e-1", retry_config={"max_attempts": 2})
        assert (result.status, result.error.type) == ("failed", "NonRetryableError")
        workflow.run("explored-order", "o-1", detach=True)
        workflow_clock.advance(500)
        assert workflow.cancel("o-1").status == "cancelled"
        assert workflow.restart("e-1").status == "failed"

    report = workflow_crashes.explore(scenario)
    assert report.points > 30
    passed = {point for point, _, _ in report.baseline.passed}
    assert passed >= {
        "step_retrying",
        "execution_panicked",
        "execution_restarted",
        "step_skipped",
        "execution_cancelled",
    }


# What it finds -------------------------------------------------------------------------------------------------------


def failing_report(workflow_crashes, scenario, **options):
    report = workflow_crashes.explore(scenario, check=False, **options)
    assert not report.ok
    with pytest.raises(CrashExplorationError) as caught:
        report.raise_for_failures()
    assert str(caught.value) == str(report)
    return report


def broken_invariants(report):
    return {name for failure in report.failures for name, _ in failure.violations}


def test_a_used_up_retry_is_found_and_explained(workflow_crashes):
    def scenario(workflow, workflow_faults):
        workflow_faults.fail("ship", ConnectionError("no"), attempts=[1, 2])
        assert workflow.run("explored-order", "o-1").status == "completed"

    report = failing_report(workflow_crashes, scenario)
    text = str(report)
    assert broken_invariants(report) == {"the outcome is the same", "the test's own assertions"}
    assert 'step "ship" needs one more (max_attempts) to survive its failures and a crash' in text
    assert "status is 'failed' (ConnectionError: no), without the crash 'completed'" in text
    assert 'execution "o-1" (the first ' in text
    assert "--workflow-crash-at=step_started:ship#1:after" in text
    assert '"what":{"kind":"crash"}' in text


def test_histories_stand_below_each_other_in_a_narrow_terminal(workflow_crashes, monkeypatch):
    numbers = iter(range(10_000))
    Workflow.define("explored-narrow", lambda ctx: ctx.step("token", lambda: next(numbers)))
    text = {}
    for columns in ("300", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        text[columns] = str(workflow_crashes.explore(lambda workflow: workflow.run("explored-narrow"), check=False))
    assert "  |  with the crash:" in text["300"]
    assert "   without the crash:" in text["80"].splitlines()
    assert "   with the crash:" in text["80"].splitlines()


def test_a_further_crash_after_a_failing_one_is_only_counted(workflow_crashes):
    calls = []

    @Workflow.define("explored-twice")
    async def twice(ctx):
        return await ctx.step("pay", lambda: calls.append(1) or len(calls))

    def scenario(workflow):
        calls.clear()
        workflow.run("explored-twice")

    report = workflow_crashes.explore(scenario, depth=2, check=False)
    text = str(report)
    cut_off = [failure for failure in report.failures if len(failure.places) == 1]
    assert [str(failure.places[0]) for failure in cut_off] == ["step_completed:pay#1:before"]
    assert len(report.failures) > 5
    assert text.count("The process died") == 1
    assert f"{len(report.failures) - 1} further runs failed that die at one of these places, and at another." in text
    assert 'hint: the crash cut step "pay" off, so it ran again, as any step may, and gave another result' in text


def test_a_scenario_without_a_workflow_is_refused(workflow_crashes):
    with pytest.raises(ValueError, match="it ran no workflow, so nothing was explored"):
        workflow_crashes.explore(lambda workflow: None)


def test_a_failing_line_of_a_scenario_is_named(workflow_crashes):
    def scenario(workflow):
        workflow.run("explored-order", "o-1")
        workflow.history("o-1").assert_attempts("charge", 1)

    text = str(workflow_crashes.explore(scenario, check=False))
    line = scenario.__code__.co_firstlineno + 2
    assert f'test_crash_exploration.py:{line}: workflow.history("o-1").assert_attempts("charge", 1)' in text


def test_a_result_that_is_random_is_found_unless_it_is_named(workflow_crashes):
    numbers = iter(range(10_000))

    @Workflow.define("explored-random")
    async def random(ctx):
        return await ctx.step("token", lambda: next(numbers))

    def scenario(workflow):
        workflow.run("explored-random", "r")

    report = failing_report(workflow_crashes, scenario)
    assert broken_invariants(report) == {"the outcome is the same"}
    assert workflow_crashes.explore(scenario, nondeterministic="tok*").ok


def test_an_invariant_of_ones_own(workflow_crashes):
    def never_dies(compared):
        yield from ("it died" for _ in compared.run.deaths)

    report = failing_report(workflow_crashes, scenario, invariants=[Invariant("it never dies", never_dies)])
    assert broken_invariants(report) == {"it never dies"}
    assert len(report.failures) == 22
    assert "... and 19 more:" in str(report)


def test_a_scenario_that_differs_from_run_to_run(workflow_crashes):
    runs = []

    def scenario(workflow):
        runs.append(1)
        workflow.run("explored-order", "o-1" if len(runs) == 1 else "o-2")

    report = failing_report(workflow_crashes, scenario)
    assert "nothing is lost" in broken_invariants(report)


class TestPlantedDefects:
    """An engine with a defect planted in its store is found out, each by the invariant that is meant for it."""

    def test_recovery_that_forgets_results(self, workflow_crashes, monkeypatch):
        original = SQLiteStore.unfinished_executions

        async def forgetful(store, *args):
            store.connection.execute(
                "UPDATE steps SET status = 'pending', attempt = 0, started_seq = NULL, completed_seq = NULL, revision ="
                " revision + 1 WHERE kind = 'step' AND status = 'completed'"
            )
            return await original(store, *args)

        monkeypatch.setattr(SQLiteStore, "unfinished_executions", forgetful)
        report = failing_report(workflow_crashes, scenario)
        assert "a completed step never runs again" in broken_invariants(report)
        assert 'step "charge" of execution "o-1" was completed when the process died' in str(report)

    def test_recovery_that_begins_sleeps_anew(self, workflow_crashes, monkeypatch):
        original = SQLiteStore.execution_recovered

        async def sleepy(store, lease, *args):
            store.connection.execute(
                "UPDATE steps SET wake_time = wake_time + 500, revision = revision + 1 WHERE status = 'sleeping'"
            )
            return await original(store, lease, *args)

        monkeypatch.setattr(SQLiteStore, "execution_recovered", sleepy)
        assert broken_invariants(failing_report(workflow_crashes, scenario)) == {"sleeps are kept"}

    def test_recovery_that_changes_results(self, workflow_crashes, monkeypatch):
        original = SQLiteStore.execution_recovered

        async def careless(store, lease, *args):
            store.connection.execute(
                "UPDATE steps SET result_data = '\"other\"', revision = revision + 1 WHERE step_id = 'charge'"
                " AND status = 'completed'"
            )
            return await original(store, lease, *args)

        monkeypatch.setattr(SQLiteStore, "execution_recovered", careless)
        assert "a result never changes" in broken_invariants(failing_report(workflow_crashes, scenario))

    def test_recovery_that_does_not_happen(self, workflow_crashes, monkeypatch):
        async def nothing(store, *args):
            return []

        def detached(workflow, workflow_clock):
            workflow.run("explored-order", "o-1", detach=True)
            workflow_clock.advance(5_000)

        monkeypatch.setattr(SQLiteStore, "unfinished_executions", nothing)
        assert "nothing is stuck" in broken_invariants(failing_report(workflow_crashes, detached))

    def test_attempts_that_are_not_recorded(self, workflow_crashes, monkeypatch):
        def silent(connection, lease, step, seq, now):
            parts.log_event(connection, lease.execution_id, seq, "StepInterrupted", now, step.step_id, step.attempt)

        monkeypatch.setattr(parts, "interrupt_step", silent)
        broken = broken_invariants(failing_report(workflow_crashes, scenario))
        assert broken & {"attempts are counted", "the history is whole"}

    def test_a_circuit_that_forgets(self, workflow_crashes, monkeypatch):
        original = SQLiteStore.execution_recovered

        async def forgetful(store, lease, *args):
            store.connection.execute("UPDATE circuit_breaker_state SET failures = 0")
            return await original(store, lease, *args)

        def failing(workflow, workflow_faults):
            workflow_faults.fail("charge", ValueError("no"))
            workflow.run("explored-order", "o-1", retry_config={"max_attempts": 5, "backoff_ms": 10})

        monkeypatch.setattr(SQLiteStore, "execution_recovered", forgetful)
        assert "circuits are kept" in broken_invariants(failing_report(workflow_crashes, failing))


# The invariants one by one -------------------------------------------------------------------------------------------


def test_every_column_is_compared_or_excused():
    connection = memory_database()
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        if table.startswith("sqlite_"):
            continue
        columns = {row[1] for row in connection.execute(f'PRAGMA table_xinfo("{table}")')}
        excused = NOT_COMPARED.get(table, {})
        known = columns if "*" in excused else {*COMPARED.get(table, ()), *excused}
        assert columns == known, table
        assert not set(COMPARED.get(table, ())) & set(excused)
        assert all(excused.values())
    connection.close()


def observation(**changes):
    row = {"workflow_name": "w", "status": "completed", "input_data": None, "output_data": "1", "restart_attempt": 1}
    seen = Observation(executions={"x": row}, events={"x": []}, bodies=Counter())
    for name, value in changes.items():
        setattr(seen, name, value)
    return seen


def event(seq, kind, step_id=None, at="2025-01-01T00:00:00+00:00"):
    return {"seq": seq, "type": kind, "step_id": step_id, "attempt": 1, "at": at, "data": None}


@pytest.mark.parametrize(
    ("invariant", "run", "said"),
    [
        ("nothing is lost", observation(executions={}), '"x" is gone'),
        (
            "nothing is lost",
            observation(executions={"x": observation().executions["x"], "y": {"status": "completed"}}),
            '"y" does not exist without the crash',
        ),
        ("the history is whole", observation(events={"x": [event(2, "ExecutionStarted")]}), "is numbered [2]"),
        (
            "the history is whole",
            observation(events={"x": [event(1, "A", at="2"), event(2, "B", at="1")]}),
            "goes back in time",
        ),
        ("the history is whole", observation(events={"x": [event(1, "StepCompleted", "s")]}), "without its start"),
        ("attempts are counted", observation(bodies=Counter({("x", "s"): 1})), "ran 1 times, and 0 attempts"),
        ("attempts are counted", observation(events={"x": [event(1, "StepStarted", "s")]}), "has 1 attempts; 0 is"),
        ("only a step in flight runs twice", observation(bodies=Counter({("x", "s"): 1})), "ran 1 times; without the"),
        ("the database is sound", observation(damage=["row 1 is bad"]), "row 1 is bad"),
        (
            "circuits are kept",
            observation(circuits=[dict.fromkeys(COMPARED["circuit_breaker_state"], 1)]),
            "the circuits",
        ),
    ],
)
def test_what_an_invariant_says(invariant, run, said):
    check = {each.name: each.check for each in DEFAULT_INVARIANTS}[invariant]
    assert any(said in text for text in check(Comparison(run, observation())))
    assert not list(check(Comparison(observation(), observation())))


def test_a_place_that_is_not_reached_is_a_failure():
    def run(places):
        return observation(places=places, passed=[("step_started", "s", 1)])

    report = explore(run)
    assert "the scenario did not come to step_started:s#1:before" in str(report)


# Places --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        Place("step_completed", "charge", 1, "after"),
        Place("step_completed", "a:b#2:before", 12, "before"),
        Place("execution_started", None, 1, "before"),
        Place("step_started", "é ü", 3, "after"),
    ],
    ids=str,
)
def test_places_are_written_and_read(place):
    assert Place.parse(str(place)) == place


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step_completed",
        "nowhere:s#1:after",
        "step_started:s#0:after",
        "step_started:s#1:in",
        "step_started:#1:after",
        "step_started:s#" + "9" * 5_000 + ":after",
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_place(text):
    with pytest.raises(ValidationError, match="is no place to die"):
        Place.parse(text)


def test_a_step_id_with_glob_characters_is_meant_literally(workflow_crashes):
    @Workflow.define("explored-globs")
    async def globs(ctx):
        await ctx.step("a1", lambda: 1)
        await ctx.step("a[1]", lambda: 2)
        await ctx.step("a*", lambda: 3)

    assert workflow_crashes.explore(lambda workflow: workflow.run("explored-globs")).runs == 16


# As marker and option ------------------------------------------------------------------------------------------------

SUITE = """
    import pytest
    from workflow_core import Workflow
    from workflow_core.definition import SHARED_DEFINITIONS

    SHARED_DEFINITIONS._by_name.pop("order", None)  # of the run before, in the same process

    @Workflow.define("order")
    async def order(ctx):
        await ctx.step("charge", lambda: 1)
        await ctx.sleep("settle", 1_000)

    @pytest.fixture(scope="module")
    def once():
        print("module set up")
        yield
        print("module torn down")

    @pytest.fixture
    def world(once):
        world = []
        yield world
        world.append("left")
"""


def test_the_marker_runs_the_test_with_fresh_fixtures(pytester, run_within):
    pytester.makepyfile(
        SUITE
        + """
    runs = []

    @pytest.mark.workflow_crash_everywhere
    def test_order(workflow, world, tmp_path):
        assert world == [] and list(tmp_path.iterdir()) == []
        world.append(1)
        (tmp_path / "file").touch()
        runs.append(1)
        assert workflow.run("order").status == "completed"

    def test_after(once):
        import time
        assert len(runs) == 13
        assert time.time() > 1_780_000_000  # real time is back
    """
    )
    result = run_within("-s")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "*workflow crash exploration*",
            "test_the_marker_runs*::test_order: 6 points × {before, after} = 12 runs, depth 1, exhausted, *",  # noqa: RUF001
        ]
    )
    assert result.stdout.str().count("module set up") == result.stdout.str().count("module torn down") == 1


def test_a_failure_can_be_replayed(pytester, run_within, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    pytester.makepyfile(
        SUITE
        + """
    @pytest.mark.workflow_crash_everywhere
    def test_order(workflow):
        workflow.run("order", "o-1")
        workflow.history("o-1").assert_attempts("charge", 1)
    """
    )
    result = run_within()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "crash exploration: 6 points * 2 failed*",
            '1. The process died just after step_started of "charge" was committed.',
            "   broken: the test's own assertions",
            '     - test_*.py:*: workflow.history("o-1").assert_attempts("charge", 1)',
            '*step "charge" made 2 attempts, not 1*',
            '   execution "o-1" (the first 2 events are the same)',
            "*      3 *StepCompleted *charge *|  > *3 *ExecutionRecovered*",
            "   replay: pytest *::test_order '--workflow-crash-at=step_started:charge#1:after'",
        ]
    )
    again = run_within("--workflow-crash-at=step_started:charge#1:after")
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(
        [
            '>   *workflow.history("o-1").assert_attempts("charge", 1)',
            'E   *step "charge" made 2 attempts, not 1*',
            "crash exploration: 1 run that dies at step_started:charge#1:after, failed",
            "hint: every invariant held; only the test's own assertions failed.*",
        ]
    )
    run_within("--workflow-crash-at=step_completed:charge#1:after").assert_outcomes(passed=1)
    twice = run_within(*(f"--workflow-crash-at=step_started:charge#{number}:after" for number in (1, 2)))
    twice.stdout.fnmatch_lines(['*died just after step_started of "charge"*, and again just after*(number 2)*'])


def test_the_option_explores_a_suite_unchanged(pytester, run_within):
    pytester.makepyfile(
        SUITE
        + """
    class TestOrders:
        @pytest.mark.parametrize("name", ["a", "b/../c"])
        def test_order(self, workflow, name):
            workflow.run("order", "o-1", name)
            workflow.history("o-1").assert_attempts("charge", 1)

    @pytest.mark.asyncio
    async def test_asynchronously(workflow):
        result = await Workflow.start("order", "o-1")
        assert result.status == "completed"

    def test_from_production_code(workflow):
        assert Workflow.run("order", "o-1").status == "completed"

    @pytest.mark.workflow_crash_everywhere(depth=0)
    def test_left_out(workflow):
        workflow.run("order")

    def test_without_workflows():
        pass

    def test_with_a_crash_of_its_own(workflow):
        workflow.run("order", "o-1", detach=True)
        workflow.reopen()
        assert workflow.wait("o-1").status == "completed"
    """
    )
    result = run_within("--workflow-crash-everywhere")
    result.assert_outcomes(passed=5, failed=2)
    result = run_within("--workflow-crash-everywhere=invariants")
    result.assert_outcomes(passed=7)
    explored = [line for line in result.stdout.lines if "exhausted" in line]
    assert len(explored) == 5
    run_within().assert_outcomes(passed=7)


def test_a_test_that_fails_anyway_fails_as_ever(pytester, run_within):
    pytester.makepyfile(
        SUITE
        + """
    @pytest.mark.workflow_crash_everywhere
    def test_order(workflow):
        assert workflow.run("order").status == "lost"

    @pytest.mark.workflow_crash_everywhere
    def test_skipped(workflow):
        pytest.skip("not today")
    """
    )
    result = run_within()
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*AssertionError: assert 'completed' == 'lost'*"])
    assert "crash exploration" not in result.stdout.str()


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("(2)", "takes depth=, nondeterministic= and most_runs=, nothing else"),
        ("(dept=2)", "takes depth=, nondeterministic= and most_runs=, nothing else"),
        ("(depth='2')", "depth is 1 or more"),
        ("(most_runs=0)", "most_runs 1 or more"),
    ],
)
def test_a_wrong_marker(pytester, run_within, marker, said):
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.workflow_crash_everywhere{marker}
        def test_order(workflow):
            pass
        """
    )
    result = run_within()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{said}*"])


def test_the_marker_on_a_test_without_workflows(pytester, run_within):
    pytester.makepyfile("import pytest\n\n@pytest.mark.workflow_crash_everywhere\ndef test_order():\n    pass\n")
    run_within().stdout.fnmatch_lines(["*is for a test that uses the workflow fixtures*"])


def test_a_wrong_place_on_the_command_line(pytester, run_within):
    pytester.makepyfile("def test_nothing(workflow):\n    pass\n")
    result = run_within("--workflow-crash-at=nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(['ERROR: --workflow-crash-at: "nowhere" is no place to die*'])


def test_under_xdist(pytester, run_apart):
    pytester.makepyfile(SUITE + "\n    def test_order(workflow):\n        workflow.run('order')\n")
    result = run_apart("-n", "2", "--workflow-crash-everywhere")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*::test_order: 6 points * 12 runs*"])


def test_a_real_file(pytester, run_within):
    pytester.makepyfile(SUITE + "\n    def test_order(workflow):\n        workflow.run('order')\n")
    result = run_within("--workflow-store=file", "--workflow-crash-everywhere")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*::test_order: 6 points * 12 runs*"])


def test_a_failing_fixture_is_reported(pytester, run_within):
    pytester.makepyfile(
        SUITE
        + """
    torn = []

    @pytest.fixture
    def fragile(once):
        yield
        torn.append(1)
        assert len(torn) < 4, "fragile"

    @pytest.mark.workflow_crash_everywhere
    def test_order(workflow, fragile):
        workflow.run("order", "o-1")
    """
    )
    result = run_within()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*in the teardown: test_*.py:30: assert len(torn) < 4*", "*AssertionError: fragile*"])


def test_hooks_of_a_conftest(pytester, run_within):
    pytester.makeconftest(
        """
        from pytest_workflow.invariants import Invariant

        def pytest_workflow_invariants(item):
            return [Invariant(f"{item.name} never dies", lambda compared: ["it died"] * len(compared.run.deaths))]
        """
    )
    pytester.makepyfile(SUITE + "\n    def test_order(workflow):\n        workflow.run('order')\n")
    run_within("--workflow-crash-everywhere").stdout.fnmatch_lines(["   broken: test_order never dies"])


def test_what_a_conftest_carries_over_from_the_runs_of_an_explored_test(pytester, run_within):
    pytester.makeconftest(
        """
        def pytest_workflow_explored(item, report, reports):
            report.sections.append(("Runs", f"the last run of {item.name} {reports[-1].outcome}"))
            report.outcome, report.longrepr = "failed", "see above"
        """
    )
    pytester.makepyfile(SUITE + "\n    def test_order(workflow):\n        workflow.run('order')\n")
    result = run_within("--workflow-crash-everywhere")
    result.stdout.fnmatch_lines(["*- Runs -*", "the last run of test_order passed"])


def test_coverage_and_report_of_an_explored_test(pytester, run_within):
    pytester.makeconftest(
        """
        def pytest_workflow_report_sections(item):
            return [("Owner", f"<team> of {item.name}")]
        """
    )
    pytester.makepyfile(SUITE + "\n    def test_order(workflow):\n        workflow.run('order')\n")
    result = run_within("--workflow-crash-everywhere", "--workflow-coverage", "--workflow-report=report.html")
    result.assert_outcomes(passed=1)
    cells = next(line.split() for line in result.stdout.lines if line.startswith("charge "))
    assert cells == ["charge", "never", "never", "never", "never", "1", "1", "-"]
    page = (pytester.path / "report.html").read_text(encoding="utf-8")
    assert page.count("= 12 runs, depth 1, exhausted") == 1
    assert "&lt;team&gt; of test_order" in page


def test_a_crash_in_the_recovery_of_a_reopened_test(workflow, workflow_faults):
    @workflow.define("napping")
    async def napping(ctx):
        await ctx.sleep("nap", 1_000)
        return await ctx.step("s", lambda: 1)

    workflow.run("napping", "n", detach=True)
    workflow_faults.crash("execution_recovered", when="after")
    workflow.reopen()
    assert workflow.status("n").status == "sleeping"
    assert workflow.history("n")[-1].seq == len(workflow.history("n"))
    assert workflow.wait("n").output == 1


def test_a_refused_write_leaves_no_gap_in_the_history(workflow, workflow_faults):
    @workflow.define("stored")
    async def stored(ctx):
        return await ctx.step("s", lambda: 1)

    workflow_faults.storage_error("step_completed", "database or disk is full")
    with pytest.raises(StorageError, match="make room on the disk"):
        workflow.run("stored", "x")
    assert workflow.resume("x").output == 1
    assert [event.seq for event in workflow.history("x")] == [1, 2, 3, 4, 5, 6, 7]
