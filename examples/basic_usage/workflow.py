"""Basic usage: a step, a second of sleep, another step."""

from __future__ import annotations

from workflow_core import Workflow, WorkflowContext


@Workflow.define("my-workflow")
async def my_workflow(ctx: WorkflowContext) -> dict[str, str]:
    """Run two steps with a pause between them."""
    first = await ctx.step("step1", lambda: {"data": "step1-result"})
    await ctx.sleep("wait", 1_000)
    await ctx.step("step2", lambda: print("Executing step 2"))
    return first


def main() -> None:
    """Run the example on the default engine; with the same id again, the stored result comes back."""
    result = Workflow.run("my-workflow", "execution-id-123")
    print(result.status, result.output)


if __name__ == "__main__":
    main()
