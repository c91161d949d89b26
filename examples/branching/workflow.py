"""Error branching: a failed step takes the other path."""

from __future__ import annotations

from dataclasses import dataclass

from workflow_core import Workflow, WorkflowContext


@dataclass(frozen=True)
class Outcome:
    """What the risky operation, or its replacement, brought."""

    success: bool
    data: str


@Workflow.define("branching-workflow")
async def branching_workflow(ctx: WorkflowContext) -> Outcome:
    """Clean up differently after success and after the fallback."""

    async def risky() -> Outcome:
        return Outcome(success=True, data="primary-result")

    async def fall_back(error: Exception, ctx: WorkflowContext) -> Outcome:
        await ctx.step("fallback-operation", lambda: {"because": str(error)})
        await ctx.step("notify-admin", lambda: {"notified": True})
        return Outcome(success=False, data="fallback-result")

    result = await ctx.step("risky-operation", risky).catch(fall_back)
    if result.success:
        await ctx.step("success-cleanup", lambda: {"cleaned": True})
    else:
        await ctx.step("fallback-cleanup", lambda: {"cleaned": True})
    return result


def main() -> None:
    """Run the example on the default engine."""
    result = Workflow.run("branching-workflow")
    print(result.status, result.output)


if __name__ == "__main__":
    main()
