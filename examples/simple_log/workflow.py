"""Simple workflow: welcome, wait, goodbye."""

from __future__ import annotations

from workflow_core import RetryConfig, Workflow, WorkflowContext

RETRY = RetryConfig(max_attempts=3, backoff_ms=1_000, exponential_backoff=True)


@Workflow.define("simple-log", retry_config=RETRY)
async def simple_log(ctx: WorkflowContext) -> list[str]:
    """Log a welcome and, two seconds later, a goodbye."""

    async def log(message: str) -> str:
        print(message)
        return f"{message} logged"

    welcome = await ctx.step("welcome", lambda: log("Welcome to the workflow!"))
    await ctx.sleep("wait", 2_000)
    goodbye = await ctx.step("goodbye", lambda: log("Workflow completed successfully!"))
    return [welcome, goodbye]


def main() -> None:
    """Run the example on the default engine."""
    result = Workflow.run("simple-log")
    print(result.status, result.output)


if __name__ == "__main__":
    main()
