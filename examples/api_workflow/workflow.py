"""API integration: two calls with a pause between them, retried and brought back after a panic."""

from __future__ import annotations

from typing import Protocol, TypedDict

from workflow_core import PanicConfig, RetryConfig, Workflow, WorkflowContext

RETRY = RetryConfig(max_attempts=5, backoff_ms=2_000, exponential_backoff=True)
PANIC = PanicConfig(max_restart_attempts=2, restart_delay_ms=10_000, enable_auto_restart=True)


class ApiError(Exception):
    """The API answered with an error status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"API returned {status}")
        self.status = status


class User(TypedDict):
    """A user, as the API describes one."""

    id: int
    name: str


class Post(TypedDict):
    """A post, as the API describes one."""

    id: int
    user_id: int
    title: str


class Counts(TypedDict):
    """What was fetched."""

    users: int
    posts: int


class Api(Protocol):
    """What the workflow needs of the API."""

    async def users(self) -> list[User]:
        """Return all users."""

    async def posts(self) -> list[Post]:
        """Return all posts."""


class LocalApi:
    """Stands for the API without a network.

    Args:
        errors: The statuses with which the first calls are refused.
    """

    def __init__(self, *errors: int) -> None:
        self._errors = list(errors)

    def _check(self) -> None:
        if self._errors:
            raise ApiError(self._errors.pop(0))

    async def users(self) -> list[User]:
        """Return all users."""
        self._check()
        return [User(id=1, name="Ada"), User(id=2, name="Grace")]

    async def posts(self) -> list[Post]:
        """Return all posts."""
        self._check()
        return [Post(id=number, user_id=1, title=f"Note {number}") for number in (1, 2, 3)]


api: Api = LocalApi(503)
"""What the steps talk to: refuses the first call, so that one sees it retried."""


@Workflow.define("api-workflow", retry_config=RETRY, panic_config=PANIC)
async def api_workflow(ctx: WorkflowContext) -> Counts:
    """Fetch users and posts, and count them."""
    users = await ctx.step("fetch-users", api.users)
    await ctx.sleep("process-delay", 1_000)
    posts = await ctx.step("fetch-posts", api.posts)

    async def count() -> Counts:
        print(f"Fetched {len(users)} users and {len(posts)} posts")
        return Counts(users=len(users), posts=len(posts))

    return await ctx.step("completion-log", count)


def main() -> None:
    """Run the example on the default engine."""
    result = Workflow.run("api-workflow")
    print(result.status, result.output)


if __name__ == "__main__":
    main()
