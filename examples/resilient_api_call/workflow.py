"""A resilient API call: fetched with retries, checked, saved."""

from __future__ import annotations

from workflow_core import NonRetryableError, PanicConfig, RetryConfig, Workflow, WorkflowContext

RETRY = RetryConfig(max_attempts=5, backoff_ms=2_000)
PANIC = PanicConfig(max_restart_attempts=3, restart_delay_ms=10_000)


async def call_api() -> dict[str, int]:
    """Stand for a call of an API; tests answer in its place."""
    return {"id": 17}


@Workflow.define("resilient-api-call", retry_config=RETRY, panic_config=PANIC)
async def resilient_api_call(ctx: WorkflowContext) -> int:
    """Fetch, validate and save."""
    data = await ctx.step("api-call", call_api)

    async def validate() -> int:
        if "id" not in data:
            raise NonRetryableError("the API's answer has no id")
        return data["id"]

    identifier = await ctx.step("validate-data", validate)
    await ctx.step("save-data", lambda: {"saved": identifier})
    return identifier


def main() -> None:
    """Run the example on the default engine."""
    result = Workflow.run("resilient-api-call")
    print(result.status, result.output)


if __name__ == "__main__":
    main()
