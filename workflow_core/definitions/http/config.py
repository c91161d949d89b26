"""What the step type ``http`` is told, and all that can be wrong with it."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import pydantic
from pydantic import Field

from workflow_core.definitions.keys import KEYS
from workflow_core.timeouts import LONGEST_MS

__all__ = ["HttpConfig"]


class HttpConfig(pydantic.BaseModel):
    """What ``http`` is told.

    Attributes:
        url: ``http://`` or ``https://``.
        method: Such as ``GET`` or ``POST``.
        headers: Sent with the request.
        query: Added to those of the URL; ``null`` leaves a parameter out.
        json: The body, as JSON.
        body: The body, as text; instead of ``json``.
        timeout: Longest duration of one attempt, in milliseconds.
        expected_status: Statuses that are a success: numbers, and classes such as ``"2xx"``.
        max_response_bytes: A longer answer is refused.
        follow_redirects: Otherwise a redirect is an answer like any other.
        max_redirects: How many in a row.
        allow_private_redirects: Follow redirects from one server to another that has a private, loopback or link-local
            address.
        idempotency_key: Send ``Idempotency-Key: EXECUTION/STEP`` with POST, PUT and PATCH, the same in all attempts;
            a text is sent as it is.
        max_retry_after: Longest wait that the server's ``Retry-After`` may ask for, in milliseconds.
    """

    model_config = KEYS

    url: str
    method: Annotated[str, Field(pattern=r"^[A-Za-z]{1,20}$")] = "GET"
    headers: dict[str, str] = Field(default_factory=dict)
    query: dict[str, str | int | float | bool | list[str | int | float | bool] | None] = Field(default_factory=dict)
    json_body: Any = Field(default=None, alias="json")
    body: str | None = None
    timeout: Annotated[int, Field(ge=1, le=LONGEST_MS)] = 30_000
    expected_status: (
        Annotated[int, Field(ge=100, le=599)]
        | Literal["1xx", "2xx", "3xx", "4xx", "5xx"]
        | list[Annotated[int, Field(ge=100, le=599)] | Literal["1xx", "2xx", "3xx", "4xx", "5xx"]]
    ) = "2xx"
    max_response_bytes: Annotated[int, Field(ge=0, le=2**30)] = 1_048_576
    follow_redirects: bool = True
    max_redirects: Annotated[int, Field(ge=0, le=20)] = 5
    allow_private_redirects: bool = False
    idempotency_key: bool | str = True
    max_retry_after: Annotated[int, Field(ge=0, le=LONGEST_MS)] = 300_000

    @pydantic.field_validator("expected_status", mode="wrap")
    @classmethod
    def _one_mistake_for_all_kinds(cls, value: object, inner: pydantic.ValidatorFunctionWrapHandler) -> object:
        try:
            return inner(value)
        except pydantic.ValidationError:
            raise ValueError('a status from 100 to 599, a class such as "2xx", or a list of these') from None

    @pydantic.field_validator("url")
    @classmethod
    def _absolute(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.port == 0:  # asking for it refuses what is no port
            raise ValueError("there is no port 0")
        if parts.scheme not in {"http", "https"} or not parts.hostname or not url.isprintable() or " " in url:
            raise ValueError("a URL begins with http:// or https:// and a host, and has no spaces")
        return url

    @pydantic.field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not name or not name.isascii() or any(character in name for character in " \t\r\n:"):
                raise ValueError(f"{name!r:.60} cannot be the name of a header")
            if any(character in value for character in "\r\n\0"):
                raise ValueError(f"the header {name} has a line break in its value")
        return headers

    @pydantic.model_validator(mode="after")
    def _one_body(self) -> HttpConfig:
        if self.body is not None and self.json_body is not None:
            raise ValueError('give a body either as "json" or as "body"')
        return self

    def expects(self, status: int) -> bool:
        """Tell whether a status is a success."""
        expected = self.expected_status if isinstance(self.expected_status, list) else [self.expected_status]
        return any(item in {status, f"{status // 100}xx"} for item in expected)
