"""What can be set about the server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt, SecretStr, StrictBool, field_validator

from workflow_core.errors import ValidationError
from workflow_core.models import Model

if TYPE_CHECKING:
    from typing import Self

__all__ = ["TOKEN_VARIABLE", "ServerSettings"]

TOKEN_VARIABLE = "WORKFLOW_SERVER_TOKEN"  # noqa: S105 - its name, not its value
"""The environment variable that holds the token; a command line would show it to every user of the machine."""

_SHORTEST_TOKEN = 16


class ServerSettings(Model):
    """Settings of the server.

    Attributes:
        token: What requests have to show; ``None`` asks for none, which is for the loopback interface alone.
        allowed_hosts: The names by which clients may call the server, besides those of the loopback interface: the
            ``Host`` of each request is compared with them. ``*.example.org`` allows every name below ``example.org``.
        allowed_origins: Other sites whose pages may use the API, with the token if there is one, such as
            ``https://ops.example.org``.
        dashboard: Whether there are pages for people besides the API.
        poll_interval_ms: How often databases are looked at for changes that other processes make, in milliseconds.
        heartbeat_ms: How often something is sent to who listens for changes, in milliseconds.
        session_ms: How long a login to the dashboard is good for, in milliseconds.
        max_body_bytes: Larger bodies are refused.
        changes_per_minute: How many requests that change something one client may send in a minute.
        failures_per_minute: How many wrong tokens one client may show in a minute.
        metrics: Whether the executions of this process are counted and timed for ``/api/metrics``.
    """

    token: SecretStr | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    dashboard: StrictBool = True
    poll_interval_ms: PositiveInt = 250
    heartbeat_ms: PositiveInt = 15_000
    session_ms: PositiveInt = 43_200_000
    max_body_bytes: int = Field(default=1_048_576, ge=1)
    changes_per_minute: PositiveInt = 6_000
    failures_per_minute: PositiveInt = 10
    metrics: StrictBool = True

    @field_validator("token")
    @classmethod
    def _long_enough(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and len(token.get_secret_value()) < _SHORTEST_TOKEN:
            raise ValueError(
                f"a token has at least {_SHORTEST_TOKEN} characters; make one with: "
                'python -c "import secrets; print(secrets.token_urlsafe())"'
            )
        if token is not None and not token.get_secret_value().isascii():
            raise ValueError("a token has ASCII characters alone")
        return token

    @classmethod
    def from_environment(cls, **settings: object) -> Self:
        """Return settings with the token of the environment variable ``WORKFLOW_SERVER_TOKEN``.

        Args:
            **settings: Everything else.

        Raises:
            ValidationError: Something is not acceptable.
        """
        token = os.environ.get(TOKEN_VARIABLE, "").strip() or None
        try:
            return cls(**{"token": token, **settings})
        except ValidationError as error:
            raise ValidationError(f"{TOKEN_VARIABLE} or a setting is not acceptable: {error}") from None
