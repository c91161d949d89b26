"""Error recovery and monitoring: what the errors of a workflow tell, and what one can do then."""

from __future__ import annotations

import asyncio

from workflow_core import ExecutionResult, PanicError, Workflow, WorkflowContext, WorkflowError


@Workflow.define("monitored-workflow")
async def monitored_workflow(ctx: WorkflowContext) -> str:
    """Do the work that is watched."""
    return await ctx.step("work", lambda: "done")


async def run_and_report(execution_id: str) -> tuple[str, ExecutionResult]:
    """Start the workflow and describe what came of it, as a monitor would."""
    try:
        result = await Workflow.start("monitored-workflow", execution_id)
    except PanicError as error:
        status = await Workflow.get_status(execution_id)
        return f"panicked at step {error.step_id} on attempt {error.attempt}: {error.original_error}", status
    except WorkflowError as error:
        status = await Workflow.get_status(execution_id)
        failed = ", ".join(step_id for step_id, step in status.steps.items() if step.status == "failed")
        return f"failed at step {failed} after {error.attempt} attempts: {error.original_error}", status
    return "completed", result


async def bring_back(execution_id: str) -> ExecutionResult:
    """Restart or resume what needs it."""
    status = await Workflow.get_status(execution_id)
    if status.status in {"panicked", "failed"}:
        return await Workflow.restart(execution_id)
    if status.status == "sleeping":
        return await Workflow.resume(execution_id)
    return status


async def watch() -> None:
    """Run the workflow, say what came of it, and bring it back if it needs that."""
    report, status = await run_and_report("exec-123")
    print(f"{report} (restart attempt {status.restart_attempt})")
    result = await bring_back("exec-123")
    print(result.status, result.output)


def main() -> None:
    """Run the example on the default engine."""
    asyncio.run(watch())


if __name__ == "__main__":
    main()
