"""Workflow with panic recovery: out of memory once, then restarted with its work kept."""

from __future__ import annotations

from workflow_core import PanicConfig, Workflow, WorkflowContext

PANIC = PanicConfig(max_restart_attempts=3, restart_delay_ms=5_000, enable_auto_restart=True)


@Workflow.define("panic-resilient-task", panic_config=PANIC)
async def panic_resilient_task(ctx: WorkflowContext) -> str:
    """Panic in the first run, succeed in the second."""
    await ctx.step("before-the-panic", lambda: "kept")

    async def risky() -> str:
        if ctx.restart_attempt < 2:
            raise MemoryError("out of memory")
        return "success after restart"

    outcome = await ctx.step("risky-operation", risky)
    await ctx.step("normal-operation", lambda: None)
    return outcome


def main() -> None:
    """Run the example on the default engine."""
    result = Workflow.run("panic-resilient-task")
    print(result.status, result.output)


if __name__ == "__main__":
    main()
