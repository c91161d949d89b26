"""Basic workflow: one step's result is the next one's input."""

from __future__ import annotations

from workflow_core import Workflow, WorkflowContext


@Workflow.define("simple-task")
async def simple_task(ctx: WorkflowContext) -> str:
    """Fetch some data and process it."""
    fetched = await ctx.step("fetch-data", lambda: {"data": "some data"})

    async def process() -> str:
        return fetched["data"].upper()

    return await ctx.step("process-data", process)


def main() -> None:
    """Run the example on the default engine."""
    result = Workflow.run("simple-task")
    print(result.status, result.output)


if __name__ == "__main__":
    main()
