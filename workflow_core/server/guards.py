"""Guards in front of every request: for which host it is, from which site it comes, how much of it there is.

They are plain ASGI middlewares, so that streams pass through them unbuffered.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import pydantic_core

from workflow_core.server.problems import Problem, ProblemResponse, problem_of
from workflow_core.server.routes import SAFE_METHODS, client_of, header, headers, is_api, path_below_mount
from workflow_core.server.throttling import Throttle

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from workflow_core.clock import Clock

__all__ = ["BodyGuard", "HostGuard", "OriginGuard", "RateGuard", "SafetyHeaders", "refuse"]

logger = logging.getLogger("workflow_core.server")

_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Pages run no script and show no style but those of this server, and no other site frames them."""

_HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


async def refuse(
    scope: Scope, receive: Receive, send: Send, status: int, title: str, detail: str, **fields: str
) -> None:
    """Answer with a problem; ``fields`` are headers, with underscores for hyphens."""
    problem = Problem(title=title, status=status, detail=detail, instance=path_below_mount(scope))
    response = ProblemResponse(problem, {name.replace("_", "-"): value for name, value in fields.items()})
    await response(scope, receive, send)


class SafetyHeaders:
    """Gives every answer the headers that keep browsers safe, and turns what nobody expected into a problem."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = False
        static = path_below_mount(scope).startswith("/static/")
        cache = (b"cache-control", b"no-cache" if static else b"no-store")

        async def safely(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                message["headers"] = given + [each for each in (*_HEADERS, cache) if each[0] not in names]
            await send(message)

        try:
            await self._app(scope, receive, safely)
        except Exception as error:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if began:
                raise
            problem, _ = problem_of(error, path_below_mount(scope))
            await ProblemResponse(problem)(scope, receive, safely)


class HostGuard:
    """Refuses requests for names that are not this server's, as pages of strangers send them by DNS rebinding.

    Args:
        app: What is guarded.
        names: The names besides those of the loopback interface.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in (*_LOOPBACK, *names))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            found = headers(scope, b"host")
            if len(found) != 1 or not self._is_ours(found[0].decode("latin-1"), scope):
                detail = "This server is not known by the name in the Host header; name it with --allowed-host"
                await refuse(scope, receive, send, 421, "Misdirected Request", detail)
                return
        elif scope["type"] != "lifespan":
            return
        await self._app(scope, receive, send)

    def _is_ours(self, host: str, scope: Scope) -> bool:
        name = _without_port(host.lower()).rstrip(".")
        if name in self._names or name == _own_address(scope):
            return True
        return any(
            each.startswith("*.") and name.endswith(each[1:]) and len(name) > len(each) - 1 for each in self._names
        )


_HOST: Final = re.compile(r"(?P<name>\[[^\]]+\]|[^:]+)(?::[0-9]{1,5})?")


def _without_port(host: str) -> str:
    found = _HOST.fullmatch(host)
    return found["name"] if found else host


def _own_address(scope: Scope) -> str | None:
    """Return the address that a request came to, as a ``Host`` names it: no name of a stranger's is an address."""
    server = scope.get("server")
    if not server or not server[0]:
        return None
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(str(server[0]))
        return f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004 - the version of IP
    return None


class OriginGuard:
    """Refuses requests that a page of another site has sent: those that change something (CSRF), and those to the API.

    The latter's answers cannot be read by that page, but how long they take can be measured (XS-leaks). Following a
    link from elsewhere is no such request.

    Args:
        app: What is guarded.
        origins: Other sites that may.
    """

    def __init__(self, app: ASGIApp, origins: Iterable[str]) -> None:
        self._app = app
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and self._is_guarded(scope) and not self._is_own(scope):
            detail = "This request comes from a page of another site"
            await refuse(scope, receive, send, 403, "Forbidden", detail)
            return
        await self._app(scope, receive, send)

    @staticmethod
    def _is_guarded(scope: Scope) -> bool:
        if scope["method"] not in SAFE_METHODS:
            return True
        return is_api(scope) and header(scope, b"sec-fetch-mode") not in {None, "navigate"}

    def _is_own(self, scope: Scope) -> bool:
        origin, site = header(scope, b"origin"), header(scope, b"sec-fetch-site")
        if origin is not None and origin.lower() in self._origins:
            return True
        if site is not None and site not in {"same-origin", "none"}:
            return False
        if origin is None:
            return True
        try:
            return urlsplit(origin).netloc.lower() == (header(scope, b"host") or "").lower()
        except ValueError:
            return False


class BodyGuard:
    """Refuses bodies that are too large, no JSON where it has to be, or nested too deeply, before anybody reads them.

    Args:
        app: What is guarded.
        most: The most bytes.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS:
            await self._app(scope, receive, send)
            return
        announced = header(scope, b"content-length")
        body = None
        if announced is None or (announced.isascii() and announced.isdigit() and int(announced[:20]) <= self._most):
            body = await self._read(receive)
        if body is None:
            detail = f"A body has at most {self._most:,} bytes"
            await refuse(scope, receive, send, 413, "Content Too Large", detail, connection="close")
            return
        if body and is_api(scope):
            kind = (header(scope, b"content-type") or "").partition(";")[0].strip().lower()
            if kind != "application/json":
                detail = "Send a body as application/json"
                await refuse(scope, receive, send, 415, "Unsupported Media Type", detail)
                return
            try:
                pydantic_core.from_json(body, allow_inf_nan=False)
            except ValueError as error:
                await refuse(scope, receive, send, 400, "Bad Request", f"The body is not JSON: {error}")
                return
        await self._app(scope, _replayed(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """Read a body; return ``None`` if it is too large."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return b"".join(parts)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._most:
                return None
            if not message.get("more_body", False):
                return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


class RateGuard:
    """Refuses requests that change something when one client sends too many of them.

    Args:
        app: What is guarded.
        clock: Where the time comes from.
        per_minute: How many a client may send in a minute.
    """

    def __init__(self, app: ASGIApp, clock: Clock, per_minute: int) -> None:
        self._app = app
        self._throttle = Throttle(clock, per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS:
            wait = self._throttle.wait_for(client_of(scope))
            if wait:
                detail = "Too many requests that change something"
                await refuse(scope, receive, send, 429, "Too Many Requests", detail, retry_after=str(wait))
                return
            self._throttle.count(client_of(scope))
        await self._app(scope, receive, send)
