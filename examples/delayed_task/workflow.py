"""Workflow with sleep: five seconds that survive a crash."""

from __future__ import annotations

from datetime import timedelta

from workflow_core import Workflow, WorkflowContext


@Workflow.define("delayed-task")
async def delayed_task(ctx: WorkflowContext) -> str:
    """Start, wait, finish."""
    await ctx.step("start", lambda: "started")
    await ctx.sleep("wait", timedelta(seconds=5))
    return await ctx.step("finish", lambda: "finished after the delay")


def main() -> None:
    """Run the example on the default engine."""
    result = Workflow.run("delayed-task")
    print(result.status, result.output)


if __name__ == "__main__":
    main()
