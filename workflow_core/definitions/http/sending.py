"""Sending a request, following its redirects, and cutting it off when its time is over.

Requests run in threads of their own: a thread waits in real time, so that tests on virtual time see real answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from workflow_core.definitions.addresses import pinned
from workflow_core.definitions.http.answer import Answer, read_answer
from workflow_core.definitions.http.call import Call, shown_url
from workflow_core.definitions.http.errors import HttpRefusedError, HttpTransportError
from workflow_core.errors import error_text

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    import httpx

    from workflow_core.definitions.executor import ExecutorContext
    from workflow_core.definitions.http.config import HttpConfig

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["request"]

_MAX_REQUESTS: Final = 64
"""Requests of a process that are under way at the same time; the others wait."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_NOT_IDEMPOTENT: Final = frozenset({"POST", "PUT", "PATCH"})
_KEPT_ELSEWHERE: Final = frozenset({"accept", "accept-language", "content-type", "user-agent"})
_PLAIN_IN_KEYS: Final = "".join(map(chr, range(32, 127))).replace("%", "")
_LOOK_AGAIN: Final = 0.01
"""Seconds until a connection is cut off that was made after the others were."""

_thread = threading.local()


async def request(config: HttpConfig, context: ExecutorContext) -> dict[str, object]:
    """Make a request, and return ``status``, ``headers`` and ``data`` of the answer.

    Raises:
        HttpResponseError: The server may answer otherwise later (408, 425, 429, 5xx).
        HttpTransportError: There was no usable answer.
        HttpRefusedError: Another attempt would not help.
    """
    headers = {name.lower(): value for name, value in config.headers.items()}
    if config.method.upper() in _NOT_IDEMPOTENT and config.idempotency_key is not False:
        key = config.idempotency_key
        given = key if isinstance(key, str) else quote(f"{context.execution_id}/{context.step_id}", safe=_PLAIN_IN_KEYS)
        headers.setdefault("idempotency-key", given)
    call = Call(config, headers, context.now())
    try:
        answer = await asyncio.get_running_loop().run_in_executor(_threads(), _made, call)
    finally:
        call.done_with.set()
    return {"status": answer.status, "headers": answer.headers, "data": answer.data}


# In the thread -------------------------------------------------------------------------------------------------------


def _made(call: Call) -> Answer:
    """Make the request, with the errors of the client told apart by whether another attempt may help."""
    import httpx  # noqa: PLC0415 - an extra

    logging.getLogger("httpx").addFilter(_not_of_a_step)  # once, however often it is added
    _thread.calls_for_a_step = True
    try:
        with httpx.Client(verify=_certificates(), timeout=call.config.timeout / 1_000) as client, _Watch(call):
            return _followed(call, client)
    except httpx.TimeoutException:
        raise call.timed_out() from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
        raise HttpRefusedError(f"{call.what} cannot be made: {error_text(error)}") from None
    except httpx.HTTPError as error:
        if call.too_late.is_set():
            raise call.timed_out() from None
        raise HttpTransportError(f"{call.what} failed: {type(error).__name__}: {error_text(error)}") from None


class _Watch:
    """Cuts the connections of a request off when its time is over, or when nobody waits for its answer any more.

    The client's own time-outs begin anew with each byte, so a server that drips its answer would be waited for as long
    as it likes. What is shut down ends the reading at once, wherever it is.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="workflow-http-watch", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._call.done_with.set()
        self._thread.join()

    def _watch(self) -> None:
        if not self._call.done_with.wait(self._call.config.timeout / 1_000):  # in real time, whatever a test's clock
            self._call.too_late.set()
        while not self._over.is_set():
            for stream in list(self._call.streams):
                with contextlib.suppress(OSError):
                    stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            self._over.wait(_LOOK_AGAIN)


def _noting(call: Call) -> Callable[[str, dict[str, Any]], None]:
    """Return what is told of each thing the client does, and notes its connections."""

    def note(event: str, details: dict[str, Any]) -> None:
        if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            call.streams.append(details["return_value"])

    return note


def _not_of_a_step(record: logging.LogRecord) -> bool:
    """Keep lines about the requests of steps out of the client's log: they hold whole URLs, secrets included."""
    del record
    return not getattr(_thread, "calls_for_a_step", False)


def _followed(call: Call, client: httpx.Client) -> Answer:
    config = call.config
    method, url, headers = config.method.upper(), config.url, call.headers
    content: dict[str, Any] = {"content": config.body} if config.body is not None else {}
    if config.json_body is not None:
        content = {"json": config.json_body}
    client.headers["accept-encoding"] = "gzip"
    message = client.build_request(method, _with_query(url, config), headers=headers, **content)
    for _ in range(config.max_redirects + 1):
        if call.is_late:
            raise call.timed_out()
        message.extensions["trace"] = _noting(call)
        response = client.send(message, stream=True)
        try:
            location = response.headers.get("location")
            if not (config.follow_redirects and response.status_code in _REDIRECTS and location):
                return read_answer(call, response)
        finally:
            response.close()
        message = _redirected(call, client, message, response)
    raise HttpRefusedError(f"{call.what}: more than {config.max_redirects} redirects (max_redirects)")


def _with_query(url: str, config: HttpConfig) -> httpx.URL:
    import httpx  # noqa: PLC0415 - an extra

    query: dict[str, Any] = {name: value for name, value in config.query.items() if value is not None}
    return httpx.URL(url).copy_merge_params(query) if query else httpx.URL(url)


def _redirected(call: Call, client: httpx.Client, message: httpx.Request, response: httpx.Response) -> httpx.Request:
    """Return the request that a redirect asks for.

    What was configured for one server stays with it: another one is sent neither its headers nor its body.
    """
    here = message.extensions.get("named_url", message.url)
    target = here.join(response.headers["location"])
    if target.scheme not in {"http", "https"} or not target.host:
        raise HttpRefusedError(f"{call.what}: it redirects to {target.scheme}:, which is not followed")
    same = (target.scheme, target.host, target.port) == (here.scheme, here.host, here.port)
    keeps_method = response.status_code in {307, 308} or message.method in {"GET", "HEAD"}
    method = message.method if keeps_method else "GET"
    has_body = keeps_method and bool(message.headers.get("content-length", "0") != "0")
    if has_body and not same:
        raise HttpRefusedError(
            f"{call.what}: it redirects to another server, {shown_url(str(target))}, which is not sent the body; name "
            "that URL in the step"
        )
    headers = {
        name: value
        for name, value in message.headers.items()
        if name in call.headers and (same or name in _KEPT_ELSEWHERE) and name not in {"host", "content-length"}
    }
    content = message.read() if has_body else None
    if same and "named_url" not in message.extensions:
        return client.build_request(method, target, headers=headers, content=content)
    address = target.host if call.config.allow_private_redirects else pinned(target.host, target.port or 443)
    if address is None:
        raise HttpRefusedError(
            f"{call.what}: it redirects to {shown_url(str(target))}, whose address is private; set "
            "allow_private_redirects if that is meant"
        )
    # Connecting to the address that was looked at leaves no moment for the name to change its address in between.
    headers["host"] = target.netloc.decode("ascii").rpartition("@")[2]
    extensions = {"sni_hostname": target.host, "named_url": target}
    return client.build_request(
        method, target.copy_with(host=address), headers=headers, content=content, extensions=extensions
    )


@functools.lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    """Return what servers are trusted by, read once: that takes longer than a request."""
    import httpx  # noqa: PLC0415 - an extra

    return httpx.create_ssl_context()


_pool: tuple[int, ThreadPoolExecutor] | None = None
_pool_lock = threading.Lock()


def _threads() -> ThreadPoolExecutor:
    """Return the threads of this process; a forked child has none of its parent's."""
    global _pool  # noqa: PLW0603 - the threads are the process's
    with _pool_lock:
        if _pool is None or _pool[0] != os.getpid():
            _pool = os.getpid(), ThreadPoolExecutor(_MAX_REQUESTS, thread_name_prefix="workflow-http")
        return _pool[1]
