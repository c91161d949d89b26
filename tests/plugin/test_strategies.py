"""Strategies of Hypothesis: what they find, to what it shrinks, what is printed, and that examples share nothing."""

import asyncio
import json
import time
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings

from pytest_workflow import StepFailed
from pytest_workflow.observation import Place
from pytest_workflow.plan import Crash, FaultPlan
from pytest_workflow.strategies import KINDS, Schedule, fault_plans, fresh_workflow, schedules
from workflow_core import ValidationError, Workflow, WorkflowNotFoundError

pytest_plugins = ["pytester"]

QUICK = settings(deadline=None, database=None, max_examples=60, derandomize=True)
SEARCH = settings(
    deadline=None,
    database=None,
    max_examples=1_000,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
NO_STORAGE = tuple(kind for kind in KINDS if kind != "storage")

sent = []


@Workflow.define("drawn-order")
async def order(ctx):
    paid = await ctx.step("charge", lambda: 1).with_retry(max_attempts=10).with_circuit_breaker(3, 60_000)
    await ctx.sleep("settle", 1_000)
    return paid + await ctx.step("ship", lambda: 2).with_retry(max_attempts=10)


@Workflow.define("drawn-leak")
async def leak(ctx):
    await ctx.step("charge", lambda: 1)
    sent.append(ctx.execution_id)  # an effect outside every step
    await ctx.step("ship", lambda: 2)


@Workflow.define("drawn-budget")
async def budget(ctx):
    return await ctx.step("charge", lambda: 1)


@Workflow.define("drawn-pair")
async def pair(ctx):
    seen = []

    async def note(name):
        seen.append(name)
        await asyncio.sleep(0)

    await asyncio.gather(*(ctx.step(name, lambda name=name: note(name)) for name in "abc"))
    return "".join(seen)


def smallest(plans, fails):
    """Return the plan to which Hypothesis shrinks those for which a test fails."""
    return find(plans, fails, settings=SEARCH)


def rule(plan):
    (only,) = json.loads(plan.to_json())["rules"]
    return only


# Fault plans ---------------------------------------------------------------------------------------------------------


def test_an_effect_outside_steps_is_found_and_shrunk():
    def sent_twice(plan):
        sent.clear()
        with fresh_workflow(plan) as workflow, suppress(Exception):
            workflow.run("drawn-leak", "l-1")
        return len(sent) > 1

    plan = smallest(fault_plans("drawn-leak"), sent_twice)
    # The first place after the effect: the circuit of "ship", if it had one, else its start.
    assert rule(plan) == {
        "where": {"workflow": "drawn-leak", "step": "ship", "point": "step_started", "nth": 1},
        "what": {"kind": "crash", "when": "before"},
        "strict": False,
    }


def test_a_retry_budget_that_a_crash_uses_up():
    """Two attempts survive an error, and they survive a crash, but not both."""

    def fails(plan):
        with fresh_workflow(plan) as workflow:
            return workflow.run("drawn-budget", retry_config={"max_attempts": 2}).status == "failed"

    plans = fault_plans("drawn-budget", trace=["charge"], kinds=["crash", "raise"], max_faults=2)

    def one_error_and_one_crash(plan):
        kinds = [each.what.kind for each in plan.rules]
        return sorted(kinds) == ["crash", "raise"] and all(len(each.where.attempts or "1") == 1 for each in plan.rules)

    plan = smallest(plans, lambda plan: one_error_and_one_crash(plan) and fails(plan))
    assert [(each.what.kind, each.where.nth) for each in plan.rules] == [("crash", 1), ("raise", None)]
    assert not any(fails(FaultPlan(rules=(each,))) for each in plan.rules)


def test_what_only_an_error_can_do_shrinks_to_one_error():
    def retries(plan):
        with fresh_workflow(plan) as workflow:
            result = workflow.run("drawn-order")
            return any(isinstance(event, StepFailed) for event in workflow.history(result).of("ship"))

    assert rule(smallest(fault_plans("drawn-order", kinds=NO_STORAGE), retries)) == {
        "where": {"workflow": "drawn-order", "step": "ship", "attempts": [1]},
        "what": {"kind": "raise", "error": "builtins:ConnectionError"},
        "strict": False,
    }


def test_the_simplest_plans():
    plans = fault_plans("drawn-order")
    assert smallest(plans, lambda _: True) == FaultPlan()
    first = smallest(plans, lambda plan: plan.rules).rules[0]
    assert (first.where.point, first.where.nth, first.what) == ("execution_started", 1, Crash(when="before"))
    for kind in KINDS:
        found = smallest(plans, lambda plan, kind=kind: any(each.what.kind == kind for each in plan.rules))
        (only,) = found.rules
        assert not only.strict and only.where.nth in {None, 1} and only.where.attempts in {None, (1,)}, kind
        assert only.where.step in {None, "charge"}, kind


@QUICK
@given(fault_plans("drawn-order", kinds=["crash", "delay"], max_faults=2))
def test_plans_are_bounded(plan):
    assert len(plan.rules) <= 2
    assert {each.what.kind for each in plan.rules} <= {"crash", "delay"}
    assert FaultPlan.from_json(plan.to_json()) == plan


@QUICK
@given(fault_plans("drawn-order", kinds=["crash", "raise", "delay", "circuit"]))
def test_a_workflow_with_enough_attempts_survives(plan):
    with fresh_workflow(plan) as workflow:
        assert workflow.run("drawn-order", "o-1").output == 3
        assert len(workflow.db.executions()) == 1


def test_places_may_be_given_or_found_in_a_scenario():
    place = Place("step_completed", "ship", 1, "after")
    found = smallest(fault_plans("drawn-order", trace=[place], kinds=["crash"]), lambda plan: plan.rules)
    assert rule(found)["where"] == {"workflow": "drawn-order", "step": "ship", "point": "step_completed", "nth": 1}
    ran = []

    async def scenario(workflow):
        ran.append(await workflow.start("drawn-order", "s-1"))

    plans = fault_plans("drawn-order", trace=scenario, kinds=["raise"])
    assert rule(smallest(plans, lambda plan: plan.rules))["where"]["step"] == "charge"
    assert len(ran) == 1


def test_step_ids_with_glob_characters_are_meant_literally():
    found = smallest(fault_plans("drawn-order", trace=["a[1]*"], kinds=["raise"]), lambda plan: plan.rules)
    assert found.rules[0].where.step == "a[[]1][*]"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_faults": 0}, "max_faults is at least 1"),
        ({"kinds": ["crush"]}, r"kinds are some of crash, raise.*crush"),
        ({"kinds": []}, "got none"),
        ({"trace": []}, "the trace is empty"),
        ({"errors": []}, "at least one of errors"),
    ],
)
def test_wrong_arguments(options, said):
    with pytest.raises(ValidationError, match=said):
        fault_plans("drawn-order", **options)


def test_what_has_no_place():
    with pytest.raises(WorkflowNotFoundError):
        smallest(fault_plans("drawn-nowhere"), lambda _: True)
    place = Place("execution_started", None, 1, "after")
    with pytest.raises(ValidationError, match='"drawn-order" passes no place for raise'):
        smallest(fault_plans("drawn-order", trace=[place], kinds=["raise"]), lambda _: True)


# Schedules -----------------------------------------------------------------------------------------------------------


def order_of(schedule):
    with fresh_workflow(schedule=schedule) as workflow:
        return workflow.run("drawn-pair", "p-1").output


def test_schedules_change_the_order_of_parallel_steps():
    assert order_of(None) == order_of(Schedule()) == "abc"
    found = find(schedules(), lambda schedule: order_of(schedule) == "cba", settings=SEARCH)
    assert order_of(found) == "cba"
    assert find(schedules(), lambda _: True, settings=SEARCH) == Schedule()
    assert find(schedules(), lambda schedule: order_of(schedule) != "abc", settings=SEARCH) == Schedule((1,))


@QUICK
@given(fault_plans("drawn-pair", kinds=["crash"]), schedules())
def test_every_schedule_is_sound_and_repeatable(plan, schedule):
    runs = []
    for _ in range(2):
        with fresh_workflow(plan, schedule=schedule) as workflow:
            result = workflow.run("drawn-pair", "p-1")
            assert result.status == "completed"
            runs.append((result.output, str(list(workflow.history("p-1")))))
    assert runs[0] == runs[1]


def test_callbacks_keep_their_order(workflow_clock):
    async def calls():
        seen = []
        for number in range(5):
            asyncio.get_running_loop().call_soon(seen.append, number)
        await asyncio.sleep(0)
        return seen

    with Schedule((23,) * 9).leading(workflow_clock):
        assert workflow_clock.run(calls()) == [0, 1, 2, 3, 4]


def test_what_is_no_schedule():
    with pytest.raises(ValueError, match="from 0"):
        Schedule((-1,))


# Fresh workflows -----------------------------------------------------------------------------------------------------


def test_examples_share_nothing_and_lead_the_time():
    began = time.time()
    clocks = []
    for _ in range(2):
        with fresh_workflow() as workflow:
            workflow.run("drawn-order", "o-1")
            clocks.append(workflow.clock)
            assert time.time() == 1_735_689_601
            assert len(workflow.db.executions()) == 1
    assert clocks[0] is not clocks[1]
    assert began <= time.time() < began + 60


def test_beside_the_fixtures(workflow, workflow_clock, workflow_db):
    @workflow.define("local")
    async def local(ctx):
        return await ctx.step("s", lambda: 1)

    workflow_clock.advance(5_000)
    with fresh_workflow() as other:
        assert other.run("local").output == 1
        with fresh_workflow() as inner:
            assert inner.run("local").output == 1
        assert Workflow.run("local").output == 1
        assert len(other.db.executions()) == 2
    assert time.time() == 1_735_689_605
    assert workflow_db.executions() == []


def test_a_strict_fault_that_never_strikes():
    plan = FaultPlan.from_json('{"version":1,"rules":[{"where":{"step":"nowhere"},"what":{"kind":"panic"}}]}')
    with pytest.raises(AssertionError, match="never struck"), fresh_workflow(plan) as workflow:
        workflow.run("drawn-order")


@pytest.mark.asyncio
async def test_in_asynchronous_code():
    for _ in range(2):
        with fresh_workflow() as workflow:
            assert (await workflow.start("drawn-order", "o-1")).output == 3


SUITE = """
    import pytest
    from hypothesis import given, settings
    from pytest_workflow.strategies import fault_plans, fresh_workflow
    from workflow_core import Workflow
    from workflow_core.definition import SHARED_DEFINITIONS

    SHARED_DEFINITIONS._by_name.pop("drawn-suite", None)  # of the run before, in the same process

    @Workflow.define("drawn-suite")
    async def order(ctx):
        await ctx.step("charge", lambda: 1)

    @settings(deadline=None, database=None, derandomize=True)
    @given(fault_plans("drawn-suite"))
    def test_order(plan):
        with fresh_workflow(plan) as workflow:
            workflow.run("drawn-suite", "o-1")
            workflow.history("o-1").assert_attempts("charge", 1)
"""


def test_a_failure_shows_its_plan_and_is_replayed(pytester, run_within):
    pytester.makepyfile(
        SUITE.replace('fault_plans("drawn-suite")', 'fault_plans("drawn-suite", kinds=["crash", "raise", "panic"])')
    )
    result = run_within()
    result.assert_outcomes(failed=1)
    (line,) = {line[line.index("fault plan: ") :] for line in result.stdout.lines if "fault plan: " in line}
    plan = FaultPlan.from_json(line.partition("fault plan: ")[2])
    assert rule(plan)["what"] == {"kind": "crash"}
    result.stdout.fnmatch_lines(
        ["*replay: pytest *.py::test_order '--workflow-faults={*}'", '*workflow history of "o-1"*']
    )
    run_within(f"--workflow-faults={plan.to_json()}").assert_outcomes(failed=1)
    run_within('--workflow-faults={"version":1,"rules":[]}').assert_outcomes(passed=1)


def test_settings_plugins_and_markers_of_the_test(pytester, run_within):
    pytester.makepyfile(
        """
        import pytest
        from pytest_workflow.harness import HARNESS_SETTINGS
        from pytest_workflow.strategies import fresh_workflow

        @pytest.fixture
        def workflow_settings():
            return HARNESS_SETTINGS.model_copy(update={"max_sleep_ms": 77})

        @pytest.mark.workflow_clock(start="2030-01-01T00:00:00+00:00")
        def test_it():
            with fresh_workflow() as workflow:
                assert workflow.engine.settings.max_sleep_ms == 77
                assert workflow.clock.now().year == 2030
        """
    )
    run_within().assert_outcomes(passed=1)


def test_without_hypothesis(pytester):
    result = pytester.runpython_c("import sys; sys.modules['hypothesis'] = None; import pytest_workflow.state_machine")
    result.stderr.fnmatch_lines(["ImportError: *needs Hypothesis: pip install 'pytest-workflow-core?hypothesis?'"])


def test_outside_pytest(pytester):
    script = (
        "import time; from pytest_workflow.fresh import fresh_workflow\n"
        "with fresh_workflow() as w:\n"
        "    w.define('x', lambda ctx: time.time()); assert w.run('x').output == 1735689600\n"
        "assert time.time() > 1_780_000_000"
    )
    assert pytester.runpython_c(script).ret == 0
