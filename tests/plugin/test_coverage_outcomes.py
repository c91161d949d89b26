"""``--workflow-coverage``: what counts as having happened to a step, and what does not."""

from __future__ import annotations

import json

import pytest

from pytest_workflow.coverage_observer import CoverageObserver
from tests.shared_definitions import scoped
from workflow_core.hookspecs import DurablePoint

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def _no_shared_workflows():
    """Forget the workflows of this process's other tests."""
    with scoped(empty=True):
        yield


@pytest.fixture
def covered(run_within, pytester):
    """Run one test of a workflow named ``w``, and return what was seen: by step, the outcomes and the handlers."""

    def run(source, *arguments, passed=1, failed=0):
        pytester.makepyfile(source)
        result = run_within("--workflow-coverage-json=coverage.json", *arguments)
        result.assert_outcomes(passed=passed, failed=failed)
        document = json.loads((pytester.path / "coverage.json").read_text(encoding="ascii"))
        return {
            step_id: (
                {name for name, tests in step["outcomes"].items() if tests},
                {name for name, tests in step["outcomes"].items() if not tests},
                {name: bool(tests) for name, tests in step["handlers"].items()},
            )
            for step_id, step in document["workflows"]["w"]["steps"].items()
        }

    return run


ALWAYS = {"failed", "exhausted", "panicked", "crashed_before", "crashed_after"}


def test_only_what_can_happen_to_a_step_counts(covered):
    steps = covered(
        """
        def test_it(workflow):
            @workflow.define("w")
            async def w(ctx):
                await ctx.step("plain", lambda: 1)
                await ctx.step("once", lambda: 1).with_retry(max_attempts=1)
                await ctx.step("guarded", lambda: 1, timeout_ms=5).with_circuit_breaker(3, on_open=lambda ctx: 1)
                await ctx.step("handled", lambda: 1).on_error({ValueError: print, "default": print}).catch(print)
                await ctx.sleep("nap", 10)

            assert workflow.run("w").status == "completed"
        """
    )
    assert steps == {
        "plain": (set(), {*ALWAYS, "retried"}, {}),
        "once": (set(), ALWAYS, {}),
        "guarded": (set(), {*ALWAYS, "retried", "circuit_open", "timed_out"}, {"on_open": False}),
        "handled": (
            set(),
            {*ALWAYS, "retried"},
            {"on_error:ValueError": False, "on_error:default": False, "catch": False},
        ),
        "nap": ({"slept"}, {"crashed_before"}, {}),
    }


WORKFLOW = """
    import pytest

    from workflow_core import CircuitOpenError

    @pytest.fixture(autouse=True)
    def steps(workflow):
        @workflow.define("w")
        async def w(ctx):
            await ctx.step("first", lambda: 1)
            await ctx.step("work", lambda: 2, timeout_ms=1_000).with_circuit_breaker(9)
            await ctx.sleep("nap", 60_000)
            await ctx.step("last", lambda: 3)
"""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('workflow_faults.fail("work", ValueError(), attempts=[1]); run()', {"failed", "retried"}),
        ('workflow_faults.fail("work", ValueError()); run()', {"failed", "exhausted"}),
        ('workflow_faults.panic("work"); run()', {"failed", "panicked"}),
        (
            'workflow_faults.fail("work", ValueError(), [1]); workflow_faults.panic("work", attempts=[2]); run()',
            {"failed", "panicked"},
        ),
        ('workflow_faults.delay("work", 2_000, [1]); run()', {"failed", "timed_out", "retried"}),
        ('workflow_faults.open_circuit("work"); run()', {"failed", "circuit_open", "exhausted"}),
        ('workflow_faults.delay("work", 500); crash()', {"crashed_before"}),
        ('workflow_faults.fail("work", ValueError(), [1]); crash()', {"failed", "crashed_before", "retried"}),
        ("crash()", {"crashed_after"}),
        ('workflow.run("w", "e"); workflow.reopen()', set()),
        ('workflow.run("w", "e", detach=True); workflow_clock.advance(100); workflow.cancel("e")', set()),
    ],
    ids=[
        "retried",
        "exhausted",
        "panic",
        "retried-panic",
        "timeout",
        "circuit",
        "crash",
        "backoff",
        "replay",
        "over",
        "cancelled",
    ],
)
def test_each_outcome(covered, body, expected):
    steps = covered(
        f"""{WORKFLOW}
    def test_it(workflow, workflow_faults, workflow_clock):
        def run():
            workflow.run("w")

        def crash():
            workflow.run("w", "e", detach=True)
            workflow_clock.advance(100)
            workflow.reopen()
            assert workflow.wait("e").status == "completed"

        {body}
        """
    )
    assert steps["work"][0] == expected
    assert steps["work"][0] | steps["work"][1] == {*ALWAYS, "retried", "circuit_open", "timed_out"}


def test_a_crash_in_a_sleep(covered):
    steps = covered(
        f"""{WORKFLOW}
    def test_it(workflow, workflow_clock):
        workflow.run("w", "e", detach=True)
        workflow_clock.advance(100)
        workflow.reopen()
        workflow.wait("e")
        """
    )
    assert steps["nap"] == ({"crashed_before", "slept"}, set(), {})
    assert steps["first"][0] == {"crashed_after"}
    assert steps["last"][0] == set()


def test_panics_that_use_up_the_restarts(covered):
    steps = covered(
        f"""{WORKFLOW}
    def test_it(workflow, workflow_faults):
        workflow_faults.panic("work", attempts=None)
        assert workflow.run("w").status == "failed"
        """
    )
    assert steps["work"][0] == {"failed", "panicked", "exhausted"}


def test_another_step_that_failed_for_good_before_a_panic(covered):
    steps = covered(
        """
        def test_it(workflow, workflow_faults):
            @workflow.define("w")
            async def w(ctx):
                try:
                    await ctx.step("a", lambda: 1).with_retry(max_attempts=1)
                except Exception:
                    pass
                await ctx.step("b", lambda: 1)

            workflow_faults.fail("a", ValueError(), attempts=[1])
            workflow_faults.panic("b")
            assert workflow.run("w").status == "completed"
        """
    )
    assert steps["a"][0] == {"failed", "exhausted"}
    assert steps["b"][0] == {"failed", "panicked"}


def test_a_step_that_failed_for_good_and_panicked_after_the_restart(covered):
    steps = covered(
        f"""{WORKFLOW}
    def test_it(workflow, workflow_faults):
        workflow_faults.fail("work", ValueError(), attempts=[1, 2, 3])
        assert workflow.run("w", "e").status == "failed"
        workflow_faults.panic("work", attempts=[4])
        assert workflow.restart("e").status == "completed"
        """
    )
    assert steps["work"][0] == {"failed", "exhausted", "panicked"}


CAUGHT = """
    import pytest

    @pytest.fixture(autouse=True)
    def caught(workflow, workflow_faults):
        @workflow.define("w")
        async def w(ctx):
            try:
                await ctx.step("s", lambda: 1 / 0).with_retry(max_attempts=1)
            except Exception:
                pass
            await ctx.sleep("nap", 1_000)
            await ctx.step("slow", lambda: 1)

        workflow_faults.delay("slow", 1_000)
"""


@pytest.mark.parametrize(("crash_at", "hit"), [(500, "nap"), (1_500, "slow")])
def test_a_crash_hits_what_has_no_result_alone(covered, crash_at, hit):
    steps = covered(
        f"""{CAUGHT}
    def test_it(workflow, workflow_clock):
        workflow.run("w", "e", detach=True)
        workflow_clock.advance({crash_at})
        workflow.reopen()
        assert workflow.wait("e").status == "completed"
        """
    )
    assert steps["s"][0] == {"failed", "exhausted"}
    assert [step_id for step_id, (did, *_) in steps.items() if "crashed_before" in did] == [hit]


def test_a_crash_while_on_open_runs(covered):
    steps = covered(
        """
        def test_it(workflow, workflow_faults, workflow_clock):
            async def wait(ctx):
                await ctx.sleep("wait", 1_000)

            @workflow.define("w")
            async def w(ctx):
                await ctx.step("s", lambda: 1).with_circuit_breaker(1, on_open=wait)

            workflow_faults.open_circuit("s")
            workflow.run("w", "e", detach=True)
            workflow_clock.advance(500)
            workflow.reopen()
            assert workflow.wait("e").steps["s"].status == "skipped"
        """
    )
    assert steps["s"][0] == {"circuit_open", "crashed_before"}


def test_an_orderly_stop_is_no_crash(covered):
    steps = covered(
        """
        import asyncio
        import pytest

        @pytest.mark.asyncio
        async def test_it(workflow):
            @workflow.define("w")
            async def w(ctx):
                await ctx.step("s", lambda: 1)
                await ctx.sleep("nap", 1_000)

            await workflow.start("w", "e", detach=True)
            await asyncio.sleep(0.5)
            await workflow.engine.aclose()
            workflow.reopen()
            assert (await workflow.engine.wait("e")).status == "completed"
        """
    )
    assert steps["s"][0] == set()
    assert steps["nap"][0] == {"slept"}


def test_a_step_that_a_handler_answered_was_not_retried_to_success(covered):
    steps = covered(
        """
        def test_it(workflow, workflow_faults):
            def at_the_second(error, ctx):
                if ctx.attempt == 1:
                    raise error
                return 7

            @workflow.define("w")
            async def w(ctx):
                return await ctx.step("s", lambda: 1).on_error({"default": at_the_second})

            workflow_faults.fail("s", ValueError())
            assert workflow.run("w").output == 7
        """
    )
    assert steps["s"][0] == {"failed"}
    assert steps["s"][2] == {"on_error:default": True}


def test_a_handler_that_raises_was_entered(covered):
    steps = covered(
        """
        def test_it(workflow, workflow_faults):
            def pass_on(error, ctx):
                raise error

            @workflow.define("w")
            async def w(ctx):
                await ctx.step("s", lambda: 1).on_error({ValueError: pass_on, KeyError: pass_on})
                await ctx.step("o", lambda: 1).with_circuit_breaker(1, on_open=lambda ctx: 1 / 0).catch(lambda *_: 1)

            workflow_faults.fail("s", ValueError(), attempts=[1])
            workflow_faults.open_circuit("o")
            assert workflow.run("w").status == "completed"
        """
    )
    assert steps["s"][0] == {"failed", "retried"}
    assert steps["s"][2] == {"on_error:ValueError": True, "on_error:KeyError": False}
    assert steps["o"][0] == {"failed", "circuit_open"}
    assert steps["o"][2] == {"catch": True, "on_open": True}


@pytest.mark.parametrize(("when", "expected"), [("before", "crashed_before"), ("after", "crashed_after")])
def test_a_crash_at_a_commit_is_seen_although_no_event_was_emitted(covered, when, expected):
    steps = covered(
        f"""
        def test_it(workflow, workflow_faults):
            @workflow.define("w")
            async def w(ctx):
                return await ctx.step("s", lambda: 1)

            workflow_faults.crash("step_completed", "s", "{when}")
            assert workflow.run("w").output == 1
        """
    )
    assert steps["s"][0] == {expected}


@pytest.mark.parametrize("again", [True, False])
def test_an_execution_that_begins_again_in_another_database_is_another_one(again):
    observer = CoverageObserver("test")
    names = ["execution_started", "step_started", "step_completed", *["execution_started"] * again]
    for name in [*names, "execution_recovered"]:
        step_id = "s" if name.startswith("step") else None
        observer.after_durable_point(DurablePoint(name, "w", "e", step_id))
    assert ("s" in observer.finish().workflow("w").steps) is not again


def test_a_failing_test_counts(covered):
    steps = covered(
        f"""{WORKFLOW}
    def test_it(workflow, workflow_faults):
        workflow_faults.fail("work", ValueError())
        workflow.run("w")
        assert False
        """,
        passed=0,
        failed=1,
    )
    assert steps["work"][0] == {"failed", "exhausted"}
