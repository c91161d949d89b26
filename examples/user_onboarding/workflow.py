"""Input validation: a profile is made only for data that fits."""

from __future__ import annotations

from typing import Literal
from uuid import UUID, uuid4

from pydantic import BaseModel, Field

from workflow_core import NonRetryableError, Workflow, WorkflowContext


class Preferences(BaseModel):
    """How the user likes the application."""

    notifications: bool
    theme: Literal["light", "dark"]


class UserData(BaseModel):
    """What a new user enters."""

    user_id: UUID
    email: str = Field(pattern=r"^[^@]+@[^@]+$")
    preferences: Preferences


class Profile(BaseModel):
    """A user's profile."""

    profile_id: UUID
    email: str


@Workflow.define("user-onboarding")
async def user_onboarding(ctx: WorkflowContext) -> Profile:
    """Validate in a step, so that the mistake is part of the history, then make the profile."""

    async def validate() -> UserData:
        try:
            return UserData.model_validate(ctx.input)
        except ValueError as error:
            raise NonRetryableError(f"invalid user data: {error}") from error

    user = await ctx.step("validate-input", validate)

    async def create() -> Profile:
        return Profile(profile_id=uuid4(), email=user.email)

    return await ctx.step("create-profile", create)


SAMPLE = {
    "user_id": "7f0c2d4e-7a54-4a53-9d0c-0d6f1b6f2a11",
    "email": "ada@example.org",
    "preferences": {"notifications": True, "theme": "dark"},
}


def main() -> None:
    """Run the example on the default engine."""
    result = Workflow.run("user-onboarding", input=SAMPLE)
    print(result.status, result.output)


if __name__ == "__main__":
    main()
