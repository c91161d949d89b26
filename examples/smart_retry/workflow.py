"""Transient and permanent errors: only the first kind is worth another attempt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from workflow_core import NonRetryableError, Workflow, WorkflowContext

Call: TypeAlias = Callable[[], Awaitable[str]]

TRANSIENT = frozenset({"NETWORK_ERROR", "TIMEOUT"})


class ApiError(Exception):
    """An API's error, with its code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


async def call_external_api() -> str:
    """Stand for a call of an API; tests put their own in its place."""
    return "data"


class Api:
    """The client that the workflow uses."""

    call: Call = staticmethod(call_external_api)


@Workflow.define("smart-retry")
async def smart_retry(ctx: WorkflowContext) -> str:
    """Retry what may pass, give up on what will not."""

    async def call() -> str:
        try:
            return await Api.call()
        except ApiError as error:
            if error.code in TRANSIENT:
                raise
            raise NonRetryableError(f"permanent failure: {error.code}") from error

    return await ctx.step("api-call", call)


def main() -> None:
    """Run the example on the default engine."""
    result = Workflow.run("smart-retry")
    print(result.status, result.output)


if __name__ == "__main__":
    main()
