"""Who may use the server: a token in a header, or a session that a login with the token began.

The cookie of a session is not the token and does not reveal it: it holds when the session ends, a nonce, and a mark
(HMAC-SHA256) by a key that is derived from the token. So sessions outlive a restart of the server, and end with the
token. A logout is remembered until the session would have ended.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from workflow_core.clock import to_epoch_ms
from workflow_core.server.guards import refuse
from workflow_core.server.routes import client_of, header, headers, is_api, path_below_mount
from workflow_core.server.throttling import Throttle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from workflow_core.clock import Clock
    from workflow_core.server.settings import ServerSettings

__all__ = ["AccessGuard", "LoginPage"]

LoginPage: TypeAlias = "Callable[[Request, int, str, str | None], Awaitable[Response]]"
"""Makes the page with the form: given the request, the status, the path to go to, and what was wrong before."""

_COOKIE: Final = "workflow_session"
_MOST_LOGOUTS: Final = 10_000
_OPEN: Final = ("/api/health/live", "/login", "/logout")
"""Paths that everybody may ask for; the static files of the pages besides."""


class AccessGuard:
    """Asks for the token, in front of everything.

    Args:
        app: What is guarded.
        settings: The token, and how long a session lasts.
        clock: Where the time comes from.
        login_page: Makes the page with the form.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, clock: Clock, login_page: LoginPage) -> None:
        self._app = app
        self._login_page = login_page
        self._clock = clock
        self._token = settings.token.get_secret_value().encode() if settings.token is not None else b""
        self._key = hmac.digest(self._token, b"session of the workflow server", hashlib.sha256)
        self._session_ms = settings.session_ms
        self._failures = Throttle(clock, settings.failures_per_minute)
        self._ended: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = path_below_mount(scope)
        if path == "/login":
            await self._login(scope, receive, send)
        elif path == "/logout" and scope["method"] == "POST":
            await self._logout(scope)(scope, receive, send)
        elif path in _OPEN or path.startswith("/static/") or self._session(scope) is not None:
            await self._app(scope, receive, send)
        else:
            await self._by_token(scope, receive, send)

    async def _by_token(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = header(scope, b"authorization")
        if given is None:
            if is_api(scope):
                await self._unauthorised(scope, receive, send, "Send the token: Authorization: Bearer TOKEN")
            else:
                query = scope["query_string"].decode("latin-1")
                there = quote(f"{path_below_mount(scope)}?{query}".rstrip("?"), safe="/")
                response = RedirectResponse(f"{scope.get('root_path', '')}/login?next={there}", 303)
                await response(scope, receive, send)
            return
        wait = self._failures.wait_for(client_of(scope))
        if wait:
            await self._throttled(scope, receive, send, wait)
            return
        scheme, _, token = given.partition(" ")
        if scheme.lower() == "bearer" and self._is_token(token.strip()):
            await self._app(scope, receive, send)
            return
        self._failures.count(client_of(scope))
        await self._unauthorised(scope, receive, send, "This is not the token of the server")

    @staticmethod
    async def _unauthorised(scope: Scope, receive: Receive, send: Send, detail: str) -> None:
        await refuse(scope, receive, send, 401, "Unauthorized", detail, www_authenticate='Bearer realm="workflow"')

    @staticmethod
    async def _throttled(scope: Scope, receive: Receive, send: Send, wait: int) -> None:
        await refuse(
            scope, receive, send, 429, "Too Many Requests", "Too many wrong tokens were shown", retry_after=str(wait)
        )

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode("latin-1", "replace"), self._token)

    # Sessions --------------------------------------------------------------------------------------------------------

    async def _login(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in {"GET", "HEAD"}:
            query = parse_qs(scope["query_string"].decode("latin-1"))
            there = _own_path(query.get("next", ["/"])[0])
            shown = await self._login_page(Request(scope, receive), 200, there, None)
            await shown(scope, receive, send)
            return
        if scope["method"] != "POST":
            await refuse(scope, receive, send, 405, "Method Not Allowed", "Use GET or POST", allow="GET, HEAD, POST")
            return
        wait = self._failures.wait_for(client_of(scope))
        if wait:
            await self._throttled(scope, receive, send, wait)
            return
        message = await receive()  # the guard of bodies has read all of it
        fields = parse_qs(message.get("body", b"").decode("latin-1"), max_num_fields=10)
        there = _own_path(fields.get("next", ["/"])[0])
        if not self._is_token(fields.get("token", [""])[0].strip()):
            self._failures.count(client_of(scope))
            request = Request(scope, receive)
            response: Response = await self._login_page(request, 401, there, "This is not the token of the server.")
        else:
            response = RedirectResponse(f"{scope.get('root_path', '')}{there}", 303)
            response.set_cookie(
                _COOKIE,
                self._new_session(),
                max_age=self._session_ms // 1_000,
                path=scope.get("root_path") or "/",
                secure=scope.get("scheme") == "https",
                httponly=True,
                samesite="strict",
            )
        await response(scope, receive, send)

    def _logout(self, scope: Scope) -> Response:
        session = self._session(scope)
        if session is not None:
            self._ended[session] = None
            if len(self._ended) > _MOST_LOGOUTS:
                self._ended.popitem(last=False)
        response = RedirectResponse(f"{scope.get('root_path', '')}/login", 303)
        response.delete_cookie(_COOKIE, path=scope.get("root_path") or "/", httponly=True, samesite="strict")
        return response

    def _new_session(self) -> str:
        ends_at = to_epoch_ms(self._clock.now()) + self._session_ms
        text = f"{ends_at}.{secrets.token_urlsafe(16)}"
        return f"{text}.{self._mark(text)}"

    def _mark(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def _session(self, scope: Scope) -> str | None:
        """Return the session of a request, if it has one that is good."""
        for each in headers(scope, b"cookie"):
            try:
                cookie = SimpleCookie(each.decode("latin-1")).get(_COOKIE)
            except CookieError:
                continue
            if cookie is not None and self._is_good(cookie.value):
                return cookie.value
        return None

    def _is_good(self, session: str) -> bool:
        text, _, mark = session.rpartition(".")
        if not text.isascii() or not mark.isascii() or not hmac.compare_digest(mark, self._mark(text)):
            return False
        ends_at = int(text.partition(".")[0])
        return to_epoch_ms(self._clock.now()) < ends_at and session not in self._ended


def _own_path(text: str) -> str:
    """Return a path of this server; what may lead elsewhere becomes the first page."""
    ours = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable() and "\\" not in text
    path, _, query = text.partition("?")
    return f"{quote(path, safe='/')}?{quote(query, safe='=&%+')}".rstrip("?") if ours else "/"
