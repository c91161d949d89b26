"""A request on its way."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from workflow_core.definitions.http.errors import HttpTransportError

if TYPE_CHECKING:
    from datetime import datetime

    from workflow_core.definitions.http.config import HttpConfig

__all__ = ["Call", "shown_url"]


@dataclass(slots=True)
class Call:
    """A request that a thread makes.

    Attributes:
        done_with: The answer was read, or nobody waits for it any more.
        too_late: It has taken longer than its timeout.
        streams: Its connections.
    """

    config: HttpConfig
    headers: dict[str, str]
    now: datetime
    done_with: threading.Event = field(default_factory=threading.Event)
    too_late: threading.Event = field(default_factory=threading.Event)
    streams: list[Any] = field(default_factory=list)

    @property
    def is_late(self) -> bool:
        """Whether nobody waits any more."""
        return self.done_with.is_set() or self.too_late.is_set()

    @property
    def what(self) -> str:
        """The request, for people to read, without what may be secret in its URL."""
        return f"{self.config.method.upper()} {shown_url(self.config.url)}"

    def timed_out(self) -> HttpTransportError:
        """Return the error of a request whose time is over."""
        return HttpTransportError(f"{self.what} took longer than its timeout of {self.config.timeout} ms")


def shown_url(url: str) -> str:
    """Return a URL without user, password, query and fragment, any of which may hold a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
