"""The developer guide's own tests ("Testing Strategy"), in Python.

Where the guide contradicts itself the design decides: an execution id may be a business id unless the settings ask for
UUIDs, and an execution can be restarted when it is panicked or failed.
"""

import uuid
from datetime import UTC, datetime

import pytest

from workflow_core import PanicError, Settings, ValidationError, Workflow


@pytest.fixture
def workflow_settings(workflow_settings, request):
    if "uuid" in request.node.name:
        return Settings(**{**workflow_settings.model_dump(), "execution_id_format": "uuid"})
    return workflow_settings


# packages/core/src/engine.test.ts ------------------------------------------------------------------------------------


def test_should_execute_workflow_successfully_with_valid_input(workflow):
    @Workflow.define("test-workflow")
    async def handler(ctx):
        await ctx.step("step1", lambda: "result1")

    execution_id = str(uuid.uuid4())
    result = workflow.run("test-workflow", execution_id)
    assert result.status == "completed"
    assert result.execution_id == execution_id


def test_should_validate_execution_id_format_as_uuid(workflow):
    with pytest.raises(ValidationError):
        workflow.status("invalid-uuid")


@pytest.mark.asyncio
async def test_should_handle_panic_errors_and_schedule_restart(workflow):
    @Workflow.define("panic-workflow")
    async def handler(ctx):
        raise RuntimeError("out of memory")

    with pytest.raises(PanicError):
        await Workflow.start("panic-workflow", "p-1")
    assert (await Workflow.get_status("p-1")).status == "panicked"


# packages/core/src/context.test.ts -----------------------------------------------------------------------------------


def test_should_validate_context_creation_parameters(workflow):
    with pytest.raises(ValidationError):
        Workflow.define("", lambda ctx: None)
    Workflow.define("valid-name", lambda ctx: None)
    with pytest.raises(ValidationError):
        workflow.run("valid-name", "not an id")


@pytest.mark.parametrize("attempts", [0, 15])
def test_should_validate_retry_configuration(workflow, workflow_db, attempts):
    Workflow.define("test", lambda ctx: None)
    with pytest.raises(ValidationError):
        workflow.run("test", "t-1", {}, {"max_attempts": attempts})
    assert workflow_db.executions() == []


@pytest.mark.asyncio
async def test_should_validate_step_id_format(workflow):
    @Workflow.define("test-workflow")
    async def handler(ctx):
        with pytest.raises(ValidationError):
            await ctx.step("", lambda: "result")

    assert (await workflow.start("test-workflow")).status == "completed"


@pytest.mark.parametrize(("step_id", "milliseconds"), [("", 1_000), ("valid-step", -1), ("valid-step", 400_000)])
def test_should_validate_sleep_parameters(workflow, step_id, milliseconds):
    @Workflow.define("test-workflow")
    async def handler(ctx):
        with pytest.raises(ValidationError):
            await ctx.sleep(step_id, milliseconds)

    assert workflow.run("test-workflow").status == "completed"


def test_should_validate_step_result_serializability(workflow):
    @Workflow.define("test-workflow")
    async def handler(ctx):
        circular = {"name": "test"}
        circular["self"] = circular
        with pytest.raises(ValidationError):
            await ctx.step("circular-step", lambda: circular)

    assert workflow.run("test-workflow").status == "completed"


def test_should_execute_step_successfully_with_valid_data(workflow):
    @Workflow.define("test-workflow")
    async def handler(ctx):
        result = await ctx.step("test-step", lambda: {"data": "step-result", "timestamp": datetime.now(UTC)})
        assert result["data"] == "step-result"
        assert isinstance(result["timestamp"], datetime)

    assert workflow.run("test-workflow").status == "completed"


# packages/core/src/workflow.test.ts ----------------------------------------------------------------------------------


def test_should_validate_workflow_definition():
    with pytest.raises(ValidationError):
        Workflow.define("", lambda ctx: None)
    with pytest.raises(ValidationError):
        Workflow.define("valid-name", None)


@pytest.mark.asyncio
async def test_should_validate_start_parameters_with_uuid(workflow):
    @Workflow.define("test-workflow")
    async def handler(ctx):
        await ctx.step("step1", lambda: "result")

    with pytest.raises(ValidationError):
        await Workflow.start("", str(uuid.uuid4()))
    with pytest.raises(ValidationError):
        await Workflow.start("test-workflow", "invalid-uuid")


def test_should_start_workflow_with_valid_parameters(workflow):
    @Workflow.define("valid-workflow")
    async def handler(ctx):
        await ctx.step("step1", lambda: "result")

    assert workflow.run("valid-workflow", str(uuid.uuid4()), {"test": "data"}).status == "completed"


# packages/database/src/repository.test.ts ----------------------------------------------------------------------------


def test_should_save_and_retrieve_an_execution(workflow, workflow_db):
    Workflow.define("test-workflow", lambda ctx: "out")
    created = workflow.run("test-workflow", "e-1", {"a": 1})
    assert workflow.status("e-1") == created
    assert workflow_db.executions()[0]["status"] == "completed"


# tests/e2e/workflow-execution.test.ts --------------------------------------------------------------------------------


def test_should_execute_complete_workflow_with_steps_and_sleep(workflow):
    results = []

    @Workflow.define("e2e-test-workflow")
    async def handler(ctx):
        await ctx.step("step1", lambda: results.append("step1"))
        await ctx.sleep("wait", 100)
        await ctx.step("step2", lambda: results.append("step2"))

    assert workflow.run("e2e-test-workflow", "e2e-exec-1").status == "completed"
    assert results == ["step1", "step2"]


def test_should_handle_workflow_with_retries(workflow):
    attempts = []

    @Workflow.define("retry-test-workflow")
    async def handler(ctx):
        async def flaky():
            attempts.append(ctx.attempt)
            if len(attempts) < 3:
                raise RuntimeError("temporary failure")
            return "success"

        await ctx.step("retry-step", flaky)

    assert workflow.run("retry-test-workflow", "retry-exec-1").status == "completed"
    assert attempts == [1, 2, 3]


# tests/e2e/panic-recovery.test.ts ------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_should_detect_and_handle_system_panic(workflow):
    @Workflow.define("panic-test-workflow")
    async def handler(ctx):
        async def panic():
            raise RuntimeError("out of memory")

        await ctx.step("panic-step", panic)

    with pytest.raises(PanicError):
        await Workflow.start("panic-test-workflow", "panic-exec-1")
    assert (await Workflow.get_status("panic-exec-1")).status == "panicked"


@pytest.mark.asyncio
async def test_should_restart_after_panic_with_state_preservation(workflow, workflow_clock):
    before = []

    @Workflow.define("restart-test-workflow")
    async def handler(ctx):
        await ctx.step("pre-panic", lambda: before.append("ran") or "completed-before-panic")

        async def panic_once():
            if ctx.restart_attempt < 2:
                raise RuntimeError("system error")
            return "recovered"

        await ctx.step("panic-step", panic_once)

    with pytest.raises(PanicError):
        await Workflow.start("restart-test-workflow", "restart-exec-1")
    await workflow_clock.advance(6_000)
    status = await Workflow.get_status("restart-exec-1")
    assert status.status == "completed"
    assert status.restart_attempt > 1
    assert before == ["ran"]
