"""Circuit breaker: stop calling a service that fails, and probe it after a while."""

from __future__ import annotations

from workflow_core import Workflow, WorkflowContext


async def call_external_service() -> str:
    """Stand for a call of a service; tests let the step fail instead."""
    return "service-data"


@Workflow.define("circuit-breaker-workflow")
async def circuit_breaker_workflow(ctx: WorkflowContext) -> str:
    """Use cached data while the circuit is open."""

    async def use_cache(ctx: WorkflowContext) -> str:
        return await ctx.step("circuit-open-fallback", lambda: "cached-data")

    return await ctx.step("external-service-call", call_external_service).with_circuit_breaker(
        failure_threshold=5, reset_timeout_ms=30_000, on_open=use_cache
    )


def main() -> None:
    """Run the example on the default engine."""
    result = Workflow.run("circuit-breaker-workflow")
    print(result.status, result.output)


if __name__ == "__main__":
    main()
