"""Error pipes: each class of error goes its own way."""

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


async def fetch_external_data() -> Data:
    """Stand for a call of an API; tests let the step fail instead."""
    return {"valid": True, "data": "sample-data"}


@Workflow.define("error-handling-workflow")
async def error_handling_workflow(ctx: WorkflowContext) -> Data:
    """Correct wrong data, wait for the network, fall back, or report."""

    async def process() -> Data:
        data = await fetch_external_data()
        if not data["valid"]:
            raise InvalidDataError("invalid data format", "payload")
        return data

    async def correct(error: InvalidDataError, ctx: WorkflowContext) -> Data:
        await ctx.step("data-correction", lambda: {"corrected": error.field})
        return {"valid": True, "corrected": True}

    async def wait_or_fall_back(error: NetworkError, ctx: WorkflowContext) -> Data:
        if error.status_code >= 500:
            await ctx.sleep(f"network-retry-delay-{ctx.attempt}", 5_000)
            raise error
        return await ctx.step("fallback-data", lambda: Data(fallback=True))

    async def report(error: Exception, ctx: WorkflowContext) -> None:
        await ctx.step("error-logging", lambda: {"logged": str(error)})
        raise error

    processed = await ctx.step("data-processing", process).on_error(
        {InvalidDataError: correct, "NetworkError": wait_or_fall_back, "default": report}
    )
    await ctx.step("final-processing", lambda: {"completed": True})
    return processed


def main() -> None:
    """Run the example on the default engine."""
    result = Workflow.run("error-handling-workflow")
    print(result.status, result.output)


if __name__ == "__main__":
    main()
