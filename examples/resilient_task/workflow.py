"""Workflow with error handling: a step that fails twice, and a client that fails now and then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from workflow_core import RetryConfig, Workflow, WorkflowContext

Fetch: TypeAlias = Callable[[], Awaitable[dict[str, str]]]

RETRY = RetryConfig(max_attempts=5, backoff_ms=2_000, exponential_backoff=True)


class ApiError(Exception):
    """The API answered with an error status."""


async def fetch() -> dict[str, str]:
    """Stand for a call of an API; tests put their own in its place."""
    return {"answer": "42"}


class Api:
    """The client that the workflow uses."""

    fetch: Fetch = staticmethod(fetch)


@Workflow.define("resilient-task", retry_config=RETRY)
async def resilient_task(ctx: WorkflowContext) -> dict[str, str]:
    """Try until it works."""

    async def risky() -> str:
        if ctx.attempt < 3:
            raise RuntimeError("simulated failure")
        return f"success on attempt {ctx.attempt}"

    first = await ctx.step("risky-operation", risky)
    answer = await ctx.step("external-api-call", Api.fetch)
    return {"first": first, **answer}


def main() -> None:
    """Run the example on the default engine."""
    result = Workflow.run("resilient-task")
    print(result.status, result.output)


if __name__ == "__main__":
    main()
