"""Workflow state management: look at an execution, and bring it on by hand."""

from __future__ import annotations

import asyncio

from workflow_core import ExecutionResult, Workflow, WorkflowContext


@Workflow.define("managed-workflow")
async def managed_workflow(ctx: WorkflowContext) -> str:
    """Work, rest, work again."""
    await ctx.step("first-half", lambda: "half done")
    await ctx.sleep("rest", 5_000)
    return await ctx.step("second-half", lambda: "done")


async def describe(execution_id: str) -> str:
    """Say in one line how far an execution is."""
    status = await Workflow.get_status(execution_id)
    completed = sum(step.status == "completed" for step in status.steps.values())
    return f"{status.status}, {completed} steps completed"


async def bring_on(execution_id: str) -> ExecutionResult:
    """Resume what sleeps, restart what failed, leave the rest."""
    status = await Workflow.get_status(execution_id)
    if status.status == "sleeping":
        return await Workflow.resume(execution_id)
    if status.status == "failed":
        return await Workflow.restart(execution_id)
    return status


async def manage() -> None:
    """Start an execution in the background, look at it while it rests, and bring it to its end."""
    started = await Workflow.start("managed-workflow", detach=True)
    await asyncio.sleep(0.5)
    print(await describe(started.execution_id))
    result = await bring_on(started.execution_id)
    print(result.status, result.output)


def main() -> None:
    """Run the example on the default engine."""
    asyncio.run(manage())


if __name__ == "__main__":
    main()
