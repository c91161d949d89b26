"""Fault plans as data: JSON and its mistakes, what does not travel, and rules that never strike."""

from __future__ import annotations

import json
import re

import pytest

from pytest_workflow import (
    StepFailed,
)
from pytest_workflow.plan import (
    CircuitForced,
    ClockJump,
    CorruptResult,
    Crash,
    Custom,
    Delay,
    FaultPlan,
    FaultRule,
    Panic,
    Raise,
    Return,
    StorageFailure,
    TimeOut,
    Where,
)
from workflow_core import ValidationError
from workflow_core.timeouts import LONGEST_MS

pytest_plugins = ["pytester"]


class PickyError(Exception):
    def __init__(self, code, text):
        super().__init__(code, text)


# Plans as JSON -------------------------------------------------------------------------------------------------------

EVERYTHING = FaultPlan(
    rules=(
        FaultRule(
            where=Where(workflow="s*", step="a", attempts=(3, 1, 3), nth=2, not_before_ms=1.5),
            what=Raise(error="ValueError", args=("x", 1, None, [True], {"a": 0.5})),
            strict=False,
        ),
        FaultRule(where=Where(step="a"), what=Panic(message="fatal error")),
        FaultRule(where=Where(step="a"), what=Return(value={"a": [1, "b", None]})),
        FaultRule(where=Where(step="a"), what=Return()),
        FaultRule(where=Where(step="a"), what=Delay(ms=0)),
        FaultRule(where=Where(step="a"), what=TimeOut()),
        FaultRule(where=Where(step="a"), what=CircuitForced(status="closed")),
        FaultRule(where=Where(step="a", point="step_skipped"), what=CorruptResult(text="")),
        FaultRule(where=Where(point="execution_started"), what=StorageFailure(message="disk I/O error")),
        FaultRule(where=Where(point="sleep_started", nth=3), what=Crash(when="before")),
        FaultRule(where=Where(point="sleep_started"), what=ClockJump(ms=-0.5)),
        FaultRule(where=Where(step="ü \N{SNOWMAN} \"'"), what=Custom(name="slow-disk", data={"ms": [5]})),
    )
)


def test_a_plan_comes_back_from_json_and_from_a_file(tmp_path):
    assert FaultPlan.from_json(EVERYTHING.to_json()) == EVERYTHING
    assert FaultPlan.from_json(EVERYTHING.to_json(indent=4).encode()) == EVERYTHING
    EVERYTHING.save(tmp_path / "plan.json")
    assert FaultPlan.load(tmp_path / "plan.json") == FaultPlan.load(str(tmp_path / "plan.json")) == EVERYTHING
    assert EVERYTHING.rules[0].where.attempts == (1, 3)
    assert EVERYTHING.rules[0].what.error == "builtins:ValueError"


def test_json_leaves_out_what_goes_without_saying():
    plan = FaultPlan(rules=(FaultRule(where=Where(step="a"), what=Panic()),))
    assert plan.to_json() == '{"version":1,"rules":[{"where":{"step":"a"},"what":{"kind":"panic"}}]}'
    assert FaultPlan.from_json("{}") == FaultPlan()


def test_plans_add_up():
    one, other = FaultPlan(rules=EVERYTHING.rules[:3]), FaultPlan(rules=EVERYTHING.rules[3:])
    assert one + other == EVERYTHING
    assert one + FaultPlan() == one


def test_a_plan_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        EVERYTHING.rules[0].where.step = "b"


def rule(where=None, what=None, **more):
    return {"rules": [{"where": where or {"step": "a"}, "what": what or {"kind": "panic"}, **more}]}


POINT = {"point": "step_completed"}
MISTAKES = {
    "not_json": ("{", "Invalid fault plan: value: Invalid JSON"),
    "a_list": ([], "value: Input should be an object"),
    "version": ({"version": 2}, "version: Input should be 1"),
    "unknown": ({"rule": []}, "rule: Extra inputs are not permitted"),
    "rules": ({"rules": {}}, "rules: Input should be a valid array"),
    "no_where": ({"rules": [{"what": {"kind": "panic"}}]}, "rules.0.where: Field required"),
    "no_what": ({"rules": [{"where": {"step": "a"}}]}, "rules.0.what: Field required"),
    "the_second": ({"rules": [*rule()["rules"], {"where": {"step": "a"}}]}, "rules.1.what: Field required"),
    "misspelt": (rule({"step": "a", "attemps": [1]}), "rules.0.where.attemps: Extra inputs are not permitted"),
    "nowhere": (rule({"workflow": "a"}), "rules.0.where: Value error, name a step or a durable point"),
    "no_step": (rule({"step": ""}), "rules.0.where.step: String should have at least 1 character"),
    "a_number": (rule({"step": 1}), "rules.0.where.step: Input should be a valid string"),
    "no_workflow": (rule({"step": "a", "workflow": ""}), "rules.0.where.workflow: String should have"),
    "no_attempts": (rule({"step": "a", "attempts": []}), "rules.0.where.attempts: Value error, attempts are counted"),
    "attempt_0": (rule({"step": "a", "attempts": [1, 0]}), "rules.0.where.attempts: Value error, attempts are counted"),
    "one_attempt": (rule({"step": "a", "attempts": 1}), "rules.0.where.attempts: Input should be a valid array"),
    "a_text": (rule({"step": "a", "attempts": ["1"]}), "rules.0.where.attempts.0: Input should be a valid integer"),
    "a_bool": (rule({"step": "a", "attempts": [True]}), "rules.0.where.attempts.0: Input should be a valid integer"),
    "nth_0": (rule({"step": "a", "nth": 0}), "rules.0.where.nth: Input should be greater than or equal to 1"),
    "nth_true": (rule({"step": "a", "nth": True}), "rules.0.where.nth: Input should be a valid integer"),
    "early": (rule({"step": "a", "not_before_ms": -1}), "rules.0.where.not_before_ms: Input should be greater"),
    "point": (rule({"point": "step_done"}, {"kind": "crash"}), "rules.0.where.point: Value error, there is no durable"),
    "two_counts": (rule({**POINT, "attempts": [1]}, {"kind": "crash"}), "a durable point has no attempts"),
    "kind": (rule(what={"kind": "explode"}), "rules.0.what: Input tag 'explode' found using 'kind' does not match"),
    "no_kind": (rule(what={"ms": 5}), "rules.0.what: Unable to extract tag using discriminator 'kind'"),
    "another_kinds": (rule(what={"kind": "panic", "ms": 5}), "rules.0.what.panic.ms: Extra inputs are not permitted"),
    "ms": (rule(what={"kind": "delay"}), "rules.0.what.delay.ms: Field required"),
    "negative": (rule(what={"kind": "delay", "ms": -1}), "rules.0.what.delay.ms: Input should be greater"),
    "a_texts_ms": (rule(what={"kind": "delay", "ms": "5"}), "rules.0.what.delay.ms: Input should be a valid number"),
    "infinite": (
        '{"rules": [{"where": {"step": "a"}, "what": {"kind": "clock_jump", "ms": Infinity}}]}',
        "rules.0.what.clock_jump.ms: Input should be a finite number",
    ),
    "no_path": (
        rule(what={"kind": "raise", "error": "NoSuchError"}),
        "rules.0.what.raise.error: Value error, 'NoSuchE",
    ),
    "status": (rule(what={"kind": "circuit", "status": "ajar"}), "rules.0.what.circuit.status: Input should be"),
    "when": (rule(POINT, {"kind": "crash", "when": "later"}), "rules.0.what.crash.when: Input should be 'before'"),
    "silence": (rule(POINT, {"kind": "storage", "message": ""}), "rules.0.what.storage.message: String should have"),
    "no_name": (rule(what={"kind": "custom", "name": ""}), "rules.0.what.custom.name: String should have"),
    "strict": (rule(strict="yes"), "rules.0.strict: Input should be a valid boolean"),
    "at_a_point": (rule(POINT), 'rules.0: Value error, "panic" strikes attempts of steps: leave point out'),
    "at_an_attempt": (rule(what={"kind": "crash"}), 'rules.0: Value error, "crash" strikes durable points: name one'),
    "no_result": (
        rule({"point": "step_started"}, {"kind": "corrupt"}),
        'rules.0: Value error, "corrupt" strikes where',
    ),
}


@pytest.mark.parametrize(("data", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_by_its_place(data, message):
    with pytest.raises(ValidationError, match=r"^Invalid fault plan: ") as raised:
        FaultPlan.from_json(data if isinstance(data, str) else json.dumps(data))
    assert message in str(raised.value)
    assert "pydantic" not in str(raised.value)


def test_all_mistakes_are_named_at_once():
    wrong = {"rules": [*rule({"step": 1})["rules"], *rule({"nth": 0})["rules"]], "version": 3}
    with pytest.raises(ValidationError) as raised:
        FaultPlan.from_json(json.dumps(wrong))
    assert [".".join(map(str, error["loc"])) for error in raised.value.errors] == [
        "version",
        "rules.0.where.step",
        "rules.1.where.nth",
    ]


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ValidationError, match=r"plan[.]json cannot be read: No such file"):
        FaultPlan.load(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text('{"version": 7}')
    with pytest.raises(ValidationError, match=r"fault plan .*plan.json: version: Input should be 1"):
        FaultPlan.load(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (Raise(error="nowhere.at_all:Error"), 'The error class "nowhere.at_all:Error" cannot be imported'),
        (Raise(error="builtins:Missing"), 'The error class "builtins:Missing" cannot be imported'),
        (Raise(error="builtins:int"), '"builtins:int" is no error class'),
        (Raise(error="builtins:UnicodeDecodeError"), "UnicodeDecodeError cannot be made with arguments ()"),
        (Raise(error=f"{__name__}:PickyError", args=(1,)), "PickyError cannot be made with arguments (1,)"),
        (Panic(message="out of milk"), "is no panic"),
        (Custom(name="unknown"), 'no plugin carries out the custom fault "unknown"'),
    ],
    ids=lambda given: given.kind if hasattr(given, "kind") else "",
)
def test_a_rule_that_cannot_be_carried_out_is_refused_when_it_is_armed(workflow_faults, what, message):
    plan = FaultPlan(
        rules=(FaultRule(where=Where(step="a"), what=Delay(ms=1)), FaultRule(where=Where(step="a"), what=what))
    )
    with pytest.raises(ValidationError, match=r"^Invalid fault plan: rules\.1\.what: ") as raised:
        workflow_faults.add(plan)
    assert message in str(raised.value)
    assert workflow_faults.rules == []


# The plan of what is armed -------------------------------------------------------------------------------------------


class LocalState(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.moment = object()


@pytest.mark.parametrize(
    ("call", "portable"),
    [
        (lambda faults: faults.fail("a", ValueError("x", 1)), True),
        (lambda faults: faults.fail("a", PickyError(1, "x")), True),
        (lambda faults: faults.panic("a", MemoryError), True),
        (lambda faults: faults.panic("a", MemoryError("x")), True),
        (lambda faults: faults.returns("a", None), True),
        (lambda faults: faults.fail("a", ValueError(object())), False),
        (lambda faults: faults.fail("a", LocalState("x")), False),
        (lambda faults: faults.fail("a", type("Local", (Exception,), {"__qualname__": "f.<locals>.Local"})), False),
        (lambda faults: faults.returns("a", (1, 2)), False),
        (lambda faults: faults.returns("a", {1: 2}), False),
        (lambda faults: faults.returns("a", object()), False),
        (lambda faults: faults.returns("a", float("nan")), False),
        (lambda faults: faults.calls("a", lambda: 1), False),
    ],
)
def test_what_json_cannot_hold_does_not_travel(workflow_faults, call, portable):
    workflow_faults.strict = False
    workflow_faults.delay("b", 5)
    made = call(workflow_faults)
    assert made.portable is portable
    assert len(workflow_faults.plan.rules) == 1 + portable
    assert FaultPlan.from_json(workflow_faults.plan.to_json()) == workflow_faults.plan


def test_a_portable_error_is_the_same_error(workflow, workflow_faults):
    workflow.define("fetch", lambda ctx: ctx.step("fetch", lambda: 1).execute())
    workflow_faults.fail("fetch", PickyError(7, "x"), attempts=[1])
    plan = workflow_faults.plan
    workflow_faults.rules.clear()
    workflow_faults.add(plan)
    history = workflow.history(workflow.run("fetch"))
    assert history.of("fetch")[1] == StepFailed(error="PickyError", message="(7, 'x')")


# Strictness, custom faults -------------------------------------------------------------------------------------------


def test_rules_of_a_plan_that_never_strike_fail_the_test(run_within, pytester):
    pytester.makeconftest(
        """
        from workflow_core.hookspecs import hookimpl

        def pytest_workflow_fault(fault, item):
            if fault.name != "twice":
                return None
            def wrap(attempt, call):
                async def twice():
                    return [await call(), await call(), fault.data, attempt.step_id, item.name]
                return twice
            return wrap
        """
    )
    pytester.makepyfile(
        """
        import pytest
        from pytest_workflow.plan import *

        def rule(strict=True, **where):
            return FaultRule(where=Where(**where), what=Return(value=2), strict=strict)

        @pytest.fixture
        def shop(workflow):
            @workflow.define("shop")
            async def shop(ctx):
                return await ctx.step("ship", lambda: 1)
            return lambda: workflow.run("shop").output

        def test_unused(shop, workflow_faults):
            workflow_faults.add(FaultPlan(rules=(rule(step="sip"), rule(step="ship"))))
            assert shop() == 2

        def test_unused_point(shop, workflow_faults):
            workflow_faults.crash("step_completed", "ship", occurrence=2)
            workflow_faults.corrupt_result("sip")
            assert shop() == 1

        def test_not_strict(shop, workflow_faults):
            workflow_faults.add(rule(step="sip", strict=False))
            assert shop() == 1

        def test_nothing_strict(shop, workflow_faults):
            workflow_faults.strict = False
            workflow_faults.add(rule(step="sip"))
            assert shop() == 1

        def test_custom(shop, workflow_faults):
            workflow_faults.add(FaultRule(where=Where(step="*"), what=Custom(name="twice", data={"a": 1})))
            assert shop() == [1, 1, {"a": 1}, "ship", "test_custom"]

        def test_unknown_custom(shop, workflow_faults):
            with pytest.raises(ValueError, match='no plugin carries out the custom fault "thrice"'):
                workflow_faults.add(FaultRule(where=Where(step="*"), what=Custom(name="thrice")))

        @pytest.mark.workflow_faults(FaultPlan(rules=(rule(step="ship"),)))
        def test_marker(shop):
            assert shop() == 2

        @pytest.mark.workflow_faults("plan.json")
        def test_marker_with_a_file(shop):
            assert shop() == 2

        @pytest.mark.workflow_faults(FaultPlan(rules=(rule(step="sip"),)))
        def test_marker_unused(shop):
            assert shop() == 1

        @pytest.mark.workflow_faults("wrong.json")
        def test_marker_wrong(shop):
            pass
        """
    )
    pytester.path.joinpath("plan.json").write_text(
        '{"rules": [{"where": {"step": "ship"}, "what": {"kind": "return", "value": 2}}]}'
    )
    pytester.path.joinpath("wrong.json").write_text('{"rules": [{"where": {"step": "ship"}}]}')
    result = run_within()
    result.assert_outcomes(passed=6, failed=3, errors=1)
    result.stdout.fnmatch_lines_random(
        [
            "*fault plan*wrong.json: rules.0.what: Field required*",
            "these faults never struck, so the test shows less than it says:",
            '  workflow_faults.add({"version":1,"rules":[[]{"where":{"step":"sip"},"what":{"kind":"return","value":2*',
            "  workflow_faults.crash('step_completed', 'ship', 'after', occurrence=2)",
            "  workflow_faults.corrupt_result('sip', '{\"corrupt')*did you mean the step \"ship\"[?]",
        ]
    )


def test_a_plan_of_the_command_line_need_not_strike(run_within, pytester):
    pytester.makepyfile(
        """
        def test_it(workflow, workflow_faults):
            @workflow.define("shop")
            async def shop(ctx):
                return await ctx.step("ship", lambda: 1)

            assert workflow.run("shop").output == 2

        def test_other(workflow):
            workflow.define("other", lambda ctx: 1)
            assert workflow.run("other").output == 1
        """
    )
    plan = FaultPlan(rules=(FaultRule(where=Where(step="ship"), what=Return(value=2)),))
    run_within(f"--workflow-faults={plan.to_json()}").assert_outcomes(passed=2)


def test_a_failing_test_shows_its_plan_and_the_command_that_replays_it(pytester, run_within):
    pytester.makepyfile(
        """
        def test_it(workflow, workflow_faults):
            workflow.define("w", lambda ctx: ctx.step("a", lambda: 1))
            workflow_faults.fail("a", ValueError("x"), attempts=[1])
            workflow_faults.calls("b", lambda: 1, strict=False)
            workflow.run("w")
            assert False
        """
    )
    plan = '{"rules": [{"where": {"step": "a", "attempts": [2]}, "what": {"kind": "delay", "ms": 5}}]}'
    result = run_within(f"--workflow-faults={plan}")
    result.stdout.fnmatch_lines(
        [
            "*- workflow faults -*",
            'as a plan: {"version":1,"rules":[[]{"where":{"step":"a","attempts":[[]2]},"what":{"kind":"delay","ms":5*',
            "not in the plan, because JSON cannot hold it: workflow_faults.calls('b', *",
            f"replay:    pytest * test_*.py::test_it '--workflow-faults={plan}'".replace("[", "[[]"),
        ]
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nope.json", "The fault plan *nope.json cannot be read: No such file or directory"),
        (
            '{"version":1,"rules":[{}]}',
            "Invalid fault plan: rules.0.where: Field required; rules.0.what: Field required",
        ),
    ],
)
def test_a_wrong_plan_of_the_command_line_is_one_error_of_its_use(pytester, run_within, given, message):
    pytester.makepyfile("def test_one(workflow):\n    pass\n\ndef test_two(workflow):\n    pass\n")
    result = run_within(f"--workflow-faults={given}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --workflow-faults: {message}"])
    assert "test_one" not in result.stdout.str()


def test_a_wrong_plan_of_a_marker_is_told_once(pytester, run_within, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.workflow_faults("nope.json")
        def test_it(workflow):
            pass
        """
    )
    result = run_within("-rE")
    result.assert_outcomes(errors=1)
    assert result.stdout.str().count("nope.json cannot be read") == 2  # in full, and in the summary
    result.stdout.fnmatch_lines(["ERROR *::test_it - Failed: The fault plan nope.json cannot be*"])
    result.stdout.no_fnmatch_line("*During handling*")


# Hostile plans -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"kind": "raise", "error": ".relative:Error"}, "is no import path"),
        ({"kind": "raise", "error": "hostile..module:Error"}, "is no import path"),
        ({"kind": "raise", "error": "os:system", "args": ["touch struck"]}, "is no error class"),
        ({"kind": "raise", "error": "subprocess:Popen", "args": ["touch struck"]}, "is no error class"),
        ({"kind": "raise", "error": "raises_when_imported:Error"}, "cannot be imported: RuntimeError('no')"),
        ({"kind": "raise", "error": "exits_when_imported:Error"}, "cannot be imported: SystemExit(3)"),
        ({"kind": "raise", "error": "no_python:Error"}, "cannot be imported: SyntaxError("),
        ({"kind": "raise", "error": "exits_when_made:Error"}, "cannot be made with arguments ()"),
        ({"kind": "delay", "ms": 1e300}, "less than or equal to 3162240000000"),
        ({"kind": "clock_jump", "ms": -1e15}, "greater than or equal to -3162240000000"),
    ],
)
def test_a_hostile_plan_is_one_clear_error(workflow_faults, pytester, what, said):
    pytester.makepyfile(
        raises_when_imported="raise RuntimeError('no')",
        exits_when_imported="raise SystemExit(3)",
        no_python="def (",
        exits_when_made="class Error(Exception):\n    def __init__(self): raise SystemExit(4)",
    )
    pytester.syspathinsert()
    with pytest.raises(ValidationError) as refused:
        workflow_faults.add(
            FaultPlan.from_json(json.dumps({"version": 1, "rules": [{"where": {"step": "a"}, "what": what}]}))
        )
    assert said in str(refused.value)
    assert not workflow_faults.rules
    assert not (pytester.path / "struck").exists()


def test_a_clock_does_not_jump_out_of_the_years(workflow_clock):
    before = workflow_clock.now()
    for far in (1e300, -7e13):
        with pytest.raises(ValueError, match=re.escape(f"cannot jump by {far!r}: no moment is that far away")):
            workflow_clock.jump_wall(far)
    assert workflow_clock.now() == before
    while workflow_clock.now().year < 9_900:
        workflow_clock.jump_wall(LONGEST_MS)
    with pytest.raises(ValueError, match="Python knows the years 1 to 9999 alone"):
        workflow_clock.jump_wall(LONGEST_MS)
