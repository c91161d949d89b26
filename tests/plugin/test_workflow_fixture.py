"""The fixture `workflow`: an isolated engine on virtual time, driven from synchronous tests."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest

from workflow_core import (
    ExecutionConflictError,
    ExecutionNotFoundError,
    InvalidStateError,
    PanicConfig,
    RetryConfig,
    StorageError,
    ValidationError,
    Workflow,
    WorkflowContext,
    WorkflowNotFoundError,
)
from workflow_core.current import current_engine


@Workflow.define("plugin-greeting")
async def greeting(ctx):
    """Defined at the top of a module, as production code does it."""
    name = await ctx.step("name", lambda: ctx.input["name"])
    await ctx.sleep("breathe", 60_000)
    return f"hello {name}"


async def greet_through_production_code(name):
    return await Workflow.start("plugin-greeting", f"greet-{name}", {"name": name})


def test_run_brings_an_execution_to_its_end(workflow):
    result = workflow.run("plugin-greeting", "greet-1", {"name": "Ada"})
    assert (result.status, result.output, result.execution_id) == ("completed", "hello Ada", "greet-1")
    assert result.started_at == datetime(2025, 1, 1, tzinfo=UTC)
    assert (result.completed_at - result.started_at).total_seconds() == 60


def test_run_takes_its_arguments_by_name(workflow):
    @workflow.define("failing")
    async def failing(ctx):
        await ctx.step("never", lambda: 1 / 0)

    result = workflow.run(
        "failing",
        input={"a": [1]},
        execution_id="by-name",
        retry_config=RetryConfig(max_attempts=2, backoff_ms=7),
        panic_config=PanicConfig(enable_auto_restart=False),
    )
    assert (result.execution_id, result.input, result.status) == ("by-name", {"a": [1]}, "failed")
    workflow.history(result).assert_backoff("never", [7])


def test_an_id_is_made_when_none_is_given(workflow):
    result = workflow.run("plugin-greeting", input={"name": "Ada"})
    assert str(uuid.UUID(result.execution_id)) == result.execution_id


def test_run_returns_a_failure_as_a_result(workflow):
    @workflow.define("failing")
    async def failing(ctx):
        await ctx.step("never", lambda: 1 / 0)

    result = workflow.run("failing", retry_config={"max_attempts": 1})
    assert result.status == "failed"
    assert "division by zero" in result.error.message


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("nowhere",), WorkflowNotFoundError),
        (("plugin-greeting", "not an id"), ValidationError),
        (("plugin-greeting", "same", {"name": "Bob"}), ExecutionConflictError),
    ],
)
def test_run_refuses_wrong_arguments(workflow, arguments, error):
    workflow.run("plugin-greeting", "same", {"name": "Ada"})
    with pytest.raises(error):
        workflow.run(*arguments)


def test_the_same_id_runs_once(workflow, workflow_clock):
    first = workflow.run("plugin-greeting", "once", {"name": "Ada"})
    then = workflow_clock.now()
    second = workflow.run("plugin-greeting", "once", {"name": "Ada"})
    assert (second.output, second.completed_at) == (first.output, first.completed_at)
    assert workflow_clock.now() == then


def test_detach_returns_the_first_snapshot_and_wait_joins(workflow):
    begun = workflow.run("plugin-greeting", "later", {"name": "Ada"}, detach=True)
    assert begun.status == "running"
    assert workflow.wait("later").output == "hello Ada"
    assert workflow.status("later").status == "completed"


def test_status_while_it_sleeps(workflow, workflow_clock):
    workflow.run("plugin-greeting", "sleeper", {"name": "Ada"}, detach=True)
    workflow_clock.advance(30_000)
    assert workflow.status("sleeper").status == "sleeping"


def test_cancel(workflow, workflow_clock):
    workflow.run("plugin-greeting", "doomed", {"name": "Ada"}, detach=True)
    workflow_clock.advance(30_000)
    assert workflow.cancel("doomed").status == "cancelled"
    assert workflow_clock.now() == datetime(2025, 1, 1, 0, 0, 30, tzinfo=UTC)
    with pytest.raises(InvalidStateError):
        workflow.cancel("doomed")


def test_restart_goes_on_after_the_completed_steps(workflow, workflow_faults):
    @workflow.define("two-steps")
    async def two_steps(ctx):
        await ctx.step("first", lambda: 1)
        return await ctx.step("second", lambda: ctx.restart_attempt)

    workflow_faults.fail("second", "no", attempts=[1])
    failed = workflow.run("two-steps", "again", retry_config={"max_attempts": 1})
    assert failed.status == "failed"
    assert workflow.restart("again").output == 2
    workflow.history("again").assert_attempts("first", 1)


def test_restart_of_a_step_that_fails_again_is_a_result(workflow, workflow_faults):
    @workflow.define("one-step")
    async def one_step(ctx):
        await ctx.step("only", lambda: 1)

    workflow_faults.fail("only", "no")
    workflow.run("one-step", "again", retry_config={"max_attempts": 1})
    assert workflow.restart("again").status == "failed"


def test_restart_of_what_completed_is_refused(workflow):
    workflow.run("plugin-greeting", "fine", {"name": "Ada"})
    with pytest.raises(InvalidStateError):
        workflow.restart("fine")


def test_unknown_ids(workflow):
    for method in (
        workflow.status,
        workflow.history,
        workflow.wait,
        workflow.resume,
        workflow.restart,
        workflow.cancel,
    ):
        with pytest.raises(ExecutionNotFoundError):
            method("nobody")


def test_the_engine_is_the_current_one(workflow):
    assert current_engine() is workflow.engine
    assert "memory" in repr(workflow.engine)


def test_production_code_runs_unchanged(workflow, workflow_clock):
    assert workflow_clock.run(greet_through_production_code("Ada")).output == "hello Ada"
    assert workflow.status("greet-Ada").status == "completed"


def test_definitions_of_a_test_stay_in_it(workflow):
    @workflow.define("local")
    async def local(ctx):
        return 1

    @Workflow.define("local-too")
    async def local_too(ctx):
        return 2

    assert (workflow.run("local").output, workflow.run("local-too").output) == (1, 2)


@pytest.mark.parametrize("name", ["local", "local-too"])
def test_definitions_of_another_test_are_unknown(workflow, name):
    with pytest.raises(WorkflowNotFoundError):
        workflow.run(name)


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_its_own_database(workflow, workflow_db, turn):
    assert workflow_db.executions() == []
    workflow.run("plugin-greeting", "same-id", {"name": turn})


def test_reopen_is_another_process_on_the_same_database(workflow, workflow_clock):
    runs = []

    @workflow.define("crashing")
    async def crashing(ctx):
        await ctx.step("before", lambda: runs.append("before"))
        await ctx.sleep("nap", 60_000)
        await ctx.step("after", lambda: runs.append("after"))

    workflow.run("crashing", "c", detach=True)
    workflow_clock.advance(20_000)
    dead = workflow.engine
    assert workflow.reopen() is workflow.engine is current_engine()
    assert workflow.engine is not dead
    assert dead.running() == []
    with pytest.raises(StorageError, match="closed"):
        workflow_clock.run(dead.get_status("c"))
    assert workflow.wait("c").status == "completed"
    assert runs == ["before", "after"]
    assert workflow_clock.now() == datetime(2025, 1, 1, 0, 1, tzinfo=UTC)


def test_reopen_interrupts_a_step_which_then_runs_again(workflow, workflow_clock):
    @workflow.define("interrupted")
    async def interrupted(ctx):
        async def long():
            await workflow_clock.sleep(60_000)
            return ctx.attempt

        return await ctx.step("long", long)

    workflow.run("interrupted", "i", detach=True)
    workflow_clock.advance(10_000)
    workflow.reopen()
    assert workflow.wait("i").output == 2
    names = [type(event).__name__ for event in workflow.history("i").of("long")]
    assert names == ["StepStarted", "StepInterrupted", "StepStarted", "StepCompleted"]


def test_what_the_dead_process_does_on_its_way_out_is_not_written(workflow, workflow_clock, workflow_db):
    @workflow.define("tidy")
    async def tidy(ctx):
        try:
            await ctx.sleep("nap", 60_000)
        finally:
            if ctx.restart_attempt == 1 and not reopened:
                await ctx.step("last-words", lambda: "written")

    reopened = []
    workflow.run("tidy", "t", detach=True)
    workflow_clock.advance(1)
    workflow.reopen()
    reopened.append(True)
    assert workflow.wait("t").status == "completed"
    assert [step["step_id"] for step in workflow_db.steps("t")] == ["nap"]


def test_resume_after_a_reopen_that_does_not_know_the_workflow(workflow, workflow_clock):
    @workflow.define("nap")
    async def nap(ctx):
        await ctx.sleep("nap", 60_000)

    workflow.run("nap", "n", detach=True)
    workflow_clock.advance(1_000)
    definitions = workflow.engine.definitions
    workflow.engine.definitions = type(definitions)()
    workflow.reopen()
    with pytest.raises(InvalidStateError, match="resume"):
        workflow.wait("n")
    workflow.engine.definitions = definitions
    assert workflow.resume("n").status == "completed"


def test_settings_and_plugins_can_be_overridden(run_within, pytester):
    pytester.makepyfile(
        """
        import pytest
        from workflow_core import Settings, ValidationError, hookimpl
        from pytest_workflow.harness import HARNESS_SETTINGS

        seen = []

        class Watcher:
            @hookimpl
            def on_event(self, event):
                seen.append(type(event).__name__)

        @pytest.fixture
        def workflow_settings():
            return HARNESS_SETTINGS.model_copy(update={"max_sleep_ms": 10})

        @pytest.fixture
        def workflow_plugins():
            return [Watcher()]

        def test_it(workflow):
            @workflow.define("nap")
            async def nap(ctx):
                with pytest.raises(ValidationError):
                    await ctx.sleep("nap", 11)
            assert workflow.run("nap").status == "completed"
            assert seen == ["ExecutionStarted", "ExecutionCompleted"]
        """
    )
    run_within().assert_outcomes(passed=1)


def test_a_plugin_that_does_not_fit_leaves_nothing_behind(run_within, pytester):
    pytester.makepyfile(
        """
        import asyncio
        import pytest
        from workflow_core import hookimpl

        before = asyncio.BaseEventLoop.run_forever

        class Wrong:
            @hookimpl
            def no_such_hook(self): ...

        class TestWrong:
            @pytest.fixture
            def workflow_plugins(self):
                return [Wrong()]

            def test_wrong(self, workflow): ...

        def test_after():
            assert asyncio.BaseEventLoop.run_forever is before
        """
    )
    result = run_within()
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["*no_such_hook*"])


pytest_plugins = ["pytester"]


def test_an_input_that_cannot_be_stored_names_the_way_to_declare_it(workflow, workflow_db):
    workflow.define("untyped", lambda ctx: 1)
    with pytest.raises(ValidationError, match=r"is an object; .*annotate the handler's parameter as WorkflowContext\["):
        workflow.run("untyped", input=object())

    async def typed(ctx):
        pass

    typed.__annotations__["ctx"] = WorkflowContext[int]
    workflow.define("typed", typed)
    with pytest.raises(ValidationError, match='Invalid input of workflow "typed"'):
        workflow.run("typed", input="seven")
    assert workflow_db.executions() == []
