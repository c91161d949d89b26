"""What can be set about the server."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PositiveInt, SecretStr

__all__ = ["ServerSettings"]


class ServerSettings(BaseModel):
    """Settings of the server.

    Attributes:
        token: What requests have to show; ``None`` asks for none, which is for the loopback interface alone.
        dashboard: Whether there are pages for people besides the API.
        poll_interval_ms: How often databases are looked at for changes that other processes make, in milliseconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: SecretStr | None = None
    dashboard: bool = True
    poll_interval_ms: PositiveInt = 250
