"""How a request can fail: with an answer or without, for now or for good."""

from __future__ import annotations

from workflow_core.errors import NonRetryableError, RetryLaterError

__all__ = ["HttpRefusedError", "HttpResponseError", "HttpTransportError"]


class HttpResponseError(RetryLaterError):
    """A server answered with a status that was not expected, and may answer otherwise later.

    Attributes:
        status: The status.
    """

    def __init__(self, message: str, status: int, retry_after_ms: int = 0) -> None:
        super().__init__(message, retry_after_ms)
        self.status = status


class HttpTransportError(RetryLaterError):
    """No usable answer came: the connection failed, broke, or took too long."""


class HttpRefusedError(NonRetryableError):
    """A request that another attempt would not help: the answer is final, or the request is not made.

    Attributes:
        status: The status of the answer, if there is one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
