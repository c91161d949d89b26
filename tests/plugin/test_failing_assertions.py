"""What fails in a workflow fails the test: at once, readably, and with the histories."""

from __future__ import annotations

import gc

import pytest

pytest_plugins = ["pytester"]

STEP = """
    import asyncio
    import pytest

    def test_it(workflow, workflow_clock):
        ran = []

        @workflow.define("checked")
        async def checked(ctx):
            {body}

        try:
            workflow.run("checked", "c-1")
        finally:
            assert len(ran) == 1, ran
            assert workflow_clock.monotonic() == 0
"""


@pytest.fixture(autouse=True, scope="module")
def _older_things_left_alone():
    """Let what earlier tests have left be no part of the many collections here: they took most of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _collected():
    """Let tasks that nobody awaits be reported here: a traceback written while another is parsed ends Python 3.11."""
    yield
    gc.collect()


BODIES = {
    "step": 'await ctx.step("check", lambda: ran.append(1) or wrong())',
    "catch": 'await ctx.step("check", lambda: ran.append(1) or wrong()).catch(lambda error, ctx: 1)',
    "on_error": 'await ctx.step("check", lambda: ran.append(1) or wrong()).on_error({"default": lambda error, ctx: 1})',
    "in_a_handler": 'await ctx.step("check", lambda: ran.append(1) or 1 / 0).catch(lambda error, ctx: wrong())',
    "circuit": 'await ctx.step("check", lambda: ran.append(1) or wrong()).with_circuit_breaker(1, on_open=int)',
    "body": "ran.append(1); wrong()",
    "pytest_fail": 'await ctx.step("check", lambda: ran.append(1) or pytest.fail("not 2"))',
    "gather": 'await asyncio.gather(ctx.step("check", lambda: ran.append(1) or wrong()), ctx.step("other", int))',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_an_assertion_is_never_retried(run_within, pytester, body):
    pytester.makepyfile(STEP.format(body=body) + "\n    def wrong():\n        assert 1 + 1 == 3, 'not 2'\n")
    result = run_within("--tb=short")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *not 2*"])


def test_an_assertion_swallowed_by_the_workflow_fails_the_test(workflow):
    @workflow.define("swallowing")
    async def swallowing(ctx):
        def wrong():
            raise AssertionError("seen")

        try:
            await ctx.step("check", wrong)
        except Exception:
            return "all is well"

    with pytest.raises(AssertionError, match="seen"):
        workflow.run("swallowing")


def test_an_assertion_in_a_task_group(workflow, workflow_clock):
    import asyncio

    @workflow.define("grouped")
    async def grouped(ctx):
        async def wrong():
            raise AssertionError("seen")

        async with asyncio.TaskGroup() as group:
            group.create_task(wrong())
            group.create_task(ctx.step("other", lambda: 1).execute())

    with pytest.raises(ExceptionGroup) as raised:
        workflow.run("grouped")
    assert raised.group_contains(AssertionError, match="seen")
    assert workflow_clock.sleeps == []


@pytest.mark.asyncio
async def test_an_assertion_in_an_asynchronous_test(workflow):
    @workflow.define("checked")
    async def checked(ctx):
        def wrong():
            raise AssertionError("seen")

        await ctx.step("check", wrong)

    with pytest.raises(AssertionError, match="seen"):
        await workflow.start("checked")


def test_the_report_shows_the_users_frames_and_the_histories(run_within, pytester):
    pytester.makepyfile(
        shop="""
        from workflow_core import Workflow

        def price_of(order):
            assert order["amount"] > 0, "nothing to pay"
            return order["amount"]

        @Workflow.define("pricing")
        async def pricing(ctx):
            return await ctx.step("price", lambda: price_of(ctx.input))
        """,
        test_shop="""
        import shop

        def test_it(workflow):
            workflow.run("pricing", "fine", {"amount": 1})
            workflow.run("pricing", "wrong", {"amount": -1})
        """,
    )
    pytester.syspathinsert()
    result = run_within("--tb=short")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "test_shop.py:5: in test_it",
            "shop.py:*: in price_of",
            "E *AssertionError: nothing to pay",
            '*- workflow history of "fine" (pricing) -*',
            '*- workflow history of "wrong" (pricing) -*',
            "*StepFailed*price*AssertionError*",
        ]
    )
    for foreign in (
        "engine.py",
        "running.py",
        "invoking.py",
        "joining.py",
        "step.py",
        "harness.py",
        "clock.py",
        "base_events.py",
        "Traceback",
    ):
        assert foreign not in result.stdout.str()


BROKEN = """
    import json
    import pytest
    from workflow_core import Workflow

    def price_of(text):
        return json.loads(text)["price"]

    async def in_a_step(ctx):
        return await ctx.step("price", lambda: price_of(ctx.input))

    async def outside(ctx):
        return price_of(ctx.input)
"""


@pytest.mark.parametrize("name", ["in_a_step", "outside"])
@pytest.mark.parametrize(("text", "error"), [("{}", "KeyError: 'price'"), ("no", "JSONDecodeError: Expecting *")])
def test_the_report_shows_where_an_error_was_raised(run_within, pytester, name, text, error):
    pytester.makepyfile(shop=BROKEN)
    pytester.makepyfile(
        f"""
        import shop

        def test_it(workflow):
            workflow.define("pricing", shop.{name})
            workflow.run("pricing", input="{text}").raise_for_status()
        """
    )
    pytester.syspathinsert()
    result = run_within()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- workflow history of * (pricing) -*",
            error,
            "  *shop.py:6, in price_of: return json.loads(text)*price*",
        ]
    )
    assert "models.py" not in result.stdout.str()


@pytest.mark.parametrize("starter", ["workflow", "Workflow"])
def test_an_asynchronous_test_shows_no_frames_of_the_engine(run_within, pytester, starter):
    pytester.makepyfile(
        f"""
        {BROKEN}
    @pytest.mark.asyncio
    async def test_it(workflow):
        workflow.define("pricing", in_a_step)
        await {starter}.start("pricing", input="{{}}")
        """
    )
    result = run_within()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*.py:6: KeyError", "*.py:*: WorkflowError"])
    for foreign in (
        "engine.py",
        "running.py",
        "invoking.py",
        "joining.py",
        "execution.py",
        "step.py",
        "harness.py",
        "processes.py",
    ):
        assert f"/{foreign}:" not in result.stdout.str()


def test_a_failure_in_a_test_that_closed_its_engine_is_reported(run_within, pytester):
    pytester.makepyfile(
        """
        def test_closed(workflow):
            workflow.define("one", lambda ctx: 1)
            workflow.run("one", "o")
            workflow.engine.close()
            assert 0

        def test_dropped(workflow, workflow_db):
            workflow_db.query("DROP TABLE executions")
            assert 0

        ODD = "INSERT INTO event_log VALUES ('o', 99, ?, NULL, NULL, ?, NULL)"

        def test_odd_event(workflow, workflow_db):
            workflow.define("one", lambda ctx: 1)
            workflow.run("one", "o")
            workflow_db.query(ODD, "Odd", "2025-01-01")
            assert 0

        def test_odd_time(workflow, workflow_db):
            workflow.define("one", lambda ctx: 1)
            workflow.run("one", "o")
            workflow_db.query(ODD, "ExecutionFailed", "yesterday")
            assert 0

        def test_damaged_and_passed(workflow, workflow_db):
            workflow.define("one", lambda ctx: 1)
            workflow.run("one", "o")
            workflow_db.query(ODD, "Odd", "2025-01-01")
        """
    )
    result = run_within()
    result.assert_outcomes(passed=1, failed=4)
    result.stdout.fnmatch_lines(['*- workflow history of "o" (one) -*', "*ExecutionCompleted*"])
    result.stdout.fnmatch_lines(["*- workflow histories -*", "cannot be read: *"] * 3)
    assert "INTERNALERROR" not in result.stdout.str()


def test_a_failing_setup_or_teardown_is_reported_with_the_histories(run_within, pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def ran(workflow):
            workflow.define("one", lambda ctx: 1)
            workflow.run("one", "early")

        @pytest.fixture
        def failing_setup(ran):
            raise ValueError("before")

        @pytest.fixture
        def failing_teardown(ran, workflow):
            yield
            workflow.run("one", "late")
            raise ValueError("after")

        def test_setup(failing_setup):
            pass

        def test_teardown(failing_teardown):
            pass

        def test_again(ran):
            pass
        """
    )
    for store in ("memory", "file"):
        result = run_within(f"--workflow-store={store}")
        result.assert_outcomes(passed=2, errors=2)
        result.stdout.fnmatch_lines(
            [
                "*ERROR at setup of test_setup*",
                '*- workflow history of "early" (one) -*',
                "*ExecutionCompleted*",
                "*ERROR at teardown of test_teardown*",
                '*- workflow history of "early" (one) -*',
                '*- workflow history of "late" (one) -*',
                "*ExecutionCompleted*",
            ]
        )
        assert result.stdout.str().count("workflow history of") == 3


def test_a_passing_test_shows_no_history(run_within, pytester):
    pytester.makepyfile(
        """
        def test_it(workflow):
            workflow.define("one", lambda ctx: 1)
            workflow.run("one", "o")
        """
    )
    result = run_within("-rA")
    result.assert_outcomes(passed=1)
    assert "workflow history" not in result.stdout.str()


# Executions that nobody awaits ---------------------------------------------------------------------------------------

UNSEEN = """
    import asyncio
    import pytest
    from workflow_core import Workflow

    @pytest.fixture(autouse=True)
    def detached(workflow):
        @workflow.define("checked")
        async def checked(ctx):
            await ctx.sleep("nap", 1000)
            {wrong}

        @workflow.define("fine")
        async def fine(ctx):
            await ctx.sleep("nap", 10_000)

        return lambda: workflow.run("checked", "c-1", detach=True)

    async def order():
        try:
            await Workflow.start("checked", "c-1")
        except (Exception, pytest.fail.Exception):
            return "later"

    async def never_awaited(workflow):
        task = asyncio.create_task(workflow.engine.start("checked"))
        await asyncio.sleep(5)

    def test_advance(detached, workflow_clock):
        detached()
        workflow_clock.advance(5000)
        print("too late")

    def test_wait(detached, workflow):
        detached()
        workflow.wait("c-1")
        print("too late")

    def test_run_of_another(detached, workflow):
        detached()
        workflow.run("fine")
        print("too late")

    def test_second_run(detached, workflow, workflow_clock):
        detached()
        workflow_clock.run(asyncio.sleep(5))
        workflow.run("checked", "c-1")
        print("too late")

    def test_after_reopen(detached, workflow, workflow_clock):
        detached()
        workflow.reopen()
        workflow_clock.advance(5000)
        print("too late")

    def test_reopen(detached, workflow, workflow_clock):
        detached()
        workflow_clock.run(asyncio.sleep(5))
        workflow.reopen()
        print("too late")

    def test_end(detached, workflow_clock):
        detached()
        workflow_clock.run(asyncio.sleep(5))

    def test_production_code(workflow_clock):
        workflow_clock.run(order())

    def test_production_code_on_its_own_loop():
        asyncio.run(order())

    def test_never_awaited(workflow, workflow_clock):
        workflow_clock.run(never_awaited(workflow))

    @pytest.mark.asyncio
    async def test_asynchronous_advance(workflow, workflow_clock):
        await workflow.start("checked", "c-1", detach=True)
        await workflow_clock.advance(5000)
        print("too late")

    @pytest.mark.asyncio
    async def test_asynchronous_start_of_another(workflow, workflow_clock):
        await workflow.start("checked", "c-1", detach=True)
        await workflow.start("fine")
        print("too late")

    @pytest.mark.asyncio
    async def test_asynchronous_wait(workflow):
        await Workflow.start("checked", "c-1", detach=True)
        await asyncio.sleep(5)
        assert (await Workflow.wait("c-1")).status

    @pytest.mark.asyncio
    async def test_asynchronous_end():
        await Workflow.start("checked", detach=True)
        await asyncio.sleep(5)

    @pytest.mark.asyncio
    async def test_asynchronous_production_code():
        await order()

    @pytest.mark.asyncio
    async def test_asynchronous_never_awaited(workflow):
        await never_awaited(workflow)
"""


@pytest.mark.parametrize("wrong", ["assert 1 == 2, 'not 2'", "pytest.fail('not 2')"], ids=["assert", "fail"])
def test_an_assertion_fails_the_test_whoever_awaits_it(run_within, pytester, wrong):
    pytester.makepyfile(UNSEEN.format(wrong=wrong))
    result = run_within("--tb=short")
    result.assert_outcomes(failed=UNSEEN.count("def test_"))
    text = result.stdout.str()
    assert text.count("not 2") >= 2 * UNSEEN.count("def test_")
    assert "in checked" in text
    assert "too late" not in text.replace('print("too late")', "")


def test_an_assertion_is_raised_once(workflow, workflow_clock):
    @workflow.define("checked")
    async def checked(ctx):
        await ctx.sleep("nap", 1000)
        raise AssertionError(ctx.execution_id)

    for execution_id in ("c-1", "c-2"):
        workflow.run("checked", execution_id, detach=True)
    for execution_id in ("c-1", "c-2"):
        with pytest.raises(AssertionError, match=execution_id):
            workflow_clock.advance(5000)
    workflow_clock.advance(5000)
    workflow.define("fine", lambda ctx: 1)
    assert workflow.run("fine").output == 1


def caught(kind):
    return f"""
        import asyncio
        import functools
        import pytest
        from hypothesis import HealthCheck, given, settings, strategies
        from workflow_core import Workflow

        @pytest.fixture(autouse=True)
        def checked(workflow):
            @workflow.define("checked")
            async def checked(ctx):
                raise AssertionError("seen")

        def wrapped(test):
            @functools.wraps(test)
            async def wrapper(*args, **kwargs):
                return await test(*args, **kwargs)
            return wrapper

        hypothetical = settings(max_examples=2, database=None, suppress_health_check=list(HealthCheck))

        {kind}
            with pytest.raises(AssertionError, match="seen"):
                await Workflow.start("checked")
    """


@pytest.mark.parametrize(
    "kind",
    [
        "@pytest.mark.asyncio\n        async def test_it():",
        "@pytest.mark.anyio\n        async def test_it(anyio_backend):",
        "@pytest.mark.asyncio\n        @wrapped\n        async def test_it():",
        "class TestIt:\n         @pytest.mark.asyncio\n         async def test_it(self):",
        "@pytest.mark.asyncio\n        @hypothetical\n        @given(strategies.none())\n        async def test_it(n):",
    ],
    ids=["asyncio", "anyio", "wrapped", "method", "hypothesis"],
)
def test_an_assertion_that_the_test_itself_caught_has_been_seen(run_within, pytester, kind):
    pytester.makepyfile(caught(kind))
    pytester.makeconftest("import pytest; anyio_backend = pytest.fixture(lambda: 'asyncio', name='anyio_backend')")
    run_within().assert_outcomes(passed=1)
