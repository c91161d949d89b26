"""Everything at once: circuit breaker, back-off, default data and an alert."""

from __future__ import annotations

from typing import TypeAlias

from workflow_core import Workflow, WorkflowContext

Data: TypeAlias = dict[str, bool | str]


class InvalidDataError(Exception):
    """The data has a wrong field."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class NetworkError(Exception):
    """A service did not answer."""

    def __init__(self, message: str, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


async def call_api() -> Data:
    """Stand for a call of an API; tests let the step fail instead."""
    return {"data": "fresh"}


@Workflow.define("advanced-error-handling")
async def advanced_error_handling(ctx: WorkflowContext) -> Data:
    """Get data from wherever it can be had."""

    async def use_cache(ctx: WorkflowContext) -> Data:
        return await ctx.step("cache-fallback", lambda: Data(data="cached", cached=True))

    async def back_off(error: NetworkError, ctx: WorkflowContext) -> None:
        await ctx.sleep(f"network-backoff-{ctx.attempt}", min(1_000 * 2 ** (ctx.attempt - 1), 30_000))
        raise error

    async def use_default(error: InvalidDataError, ctx: WorkflowContext) -> Data:
        await ctx.step("validation-error-log", lambda: {"field": error.field})
        return {"data": "default", "fallback": True}

    async def alert(error: Exception, ctx: WorkflowContext) -> None:
        await ctx.step("unexpected-error-handler", lambda: {"alerted": f"{ctx.workflow_name}: {error}"})
        raise error

    result = await (
        ctx.step("api-call", call_api)
        .with_circuit_breaker(failure_threshold=3, reset_timeout_ms=60_000, on_open=use_cache)
        .on_error({NetworkError: back_off, InvalidDataError: use_default, "default": alert})
    )
    await ctx.step("process-result", lambda: {"processed": True})
    return result


def main() -> None:
    """Run the example on the default engine."""
    result = Workflow.run("advanced-error-handling")
    print(result.status, result.output)


if __name__ == "__main__":
    main()
