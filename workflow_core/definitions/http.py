"""The step type ``http``: one request, bounded in time and size, that is safe to repeat.

Requests run in threads of their own: a thread waits in real time, so that tests on virtual time see real answers.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import functools
import json
import logging
import os
import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import quote, urlsplit

import pydantic
from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from workflow_core.clock import to_epoch_ms
from workflow_core.definitions.addresses import pinned
from workflow_core.errors import NonRetryableError, RetryLaterError, error_text
from workflow_core.timeouts import LONGEST_MS

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from datetime import datetime

    import httpx

    from workflow_core.definitions.executors import ExecutorContext

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["HttpConfig", "HttpRefusedError", "HttpResponseError", "HttpTransportError", "request"]

_MAX_REQUESTS: Final = 64
"""Requests of a process that are under way at the same time; the others wait."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_TRY_AGAIN: Final = frozenset({408, 425, 429})
_NOT_IDEMPOTENT: Final = frozenset({"POST", "PUT", "PATCH"})
_KEPT_ELSEWHERE: Final = frozenset({"accept", "accept-language", "content-type", "user-agent"})
_BODILESS: Final = frozenset({204, 304})
_PLAIN_IN_KEYS: Final = "".join(map(chr, range(32, 127))).replace("%", "")
_CHUNK: Final = 65_536
_LOOK_AGAIN: Final = 0.01
"""Seconds until a connection is cut off that was made after the time was over."""

_CODINGS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""How zlib is told to read the content codings that may be met (RFC 9110, section 8.4.1)."""

_NO_CHARSETS: Final = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"})
"""Encodings of Python that no answer is in; the time to read some of them grows with the square of its length."""


_thread = threading.local()


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

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)

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


@dataclass(slots=True)
class _Answer:
    status: int
    headers: dict[str, str]
    data: object = None


@dataclass(slots=True)
class _Call:
    """A request on its way, which a thread makes.

    Attributes:
        given_up: Nobody waits for the answer any more.
        too_late: It has taken longer than its timeout.
        streams: Its connections.
    """

    config: HttpConfig
    headers: dict[str, str]
    now: datetime
    given_up: threading.Event = field(default_factory=threading.Event)
    too_late: threading.Event = field(default_factory=threading.Event)
    streams: list[Any] = field(default_factory=list)

    @property
    def is_late(self) -> bool:
        """Whether nobody waits any more."""
        return self.given_up.is_set() or self.too_late.is_set()

    @property
    def what(self) -> str:
        """The request, for people to read, without what may be secret in its URL."""
        return f"{self.config.method.upper()} {_shown(self.config.url)}"


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
    call = _Call(config, headers, context.now())
    try:
        answer = await asyncio.get_running_loop().run_in_executor(_threads(), _made, call)
    finally:
        call.given_up.set()
    return {"status": answer.status, "headers": answer.headers, "data": answer.data}


# In the thread -------------------------------------------------------------------------------------------------------


def _made(call: _Call) -> _Answer:
    """Make the request, with the errors of the client told apart by whether another attempt may help."""
    import httpx  # noqa: PLC0415 - an extra

    logging.getLogger("httpx").addFilter(_not_of_a_step)  # once, however often it is added
    _thread.calls_for_a_step = True
    try:
        with httpx.Client(verify=_certificates(), timeout=call.config.timeout / 1_000) as client, _Watch(call):
            return _followed(call, client)
    except httpx.TimeoutException:
        raise _too_late(call) from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
        raise HttpRefusedError(f"{call.what} cannot be made: {error_text(error)}") from None
    except httpx.HTTPError as error:
        if call.is_late:
            raise _too_late(call) from None
        raise HttpTransportError(f"{call.what} failed: {type(error).__name__}: {error_text(error)}") from None


class _Watch:
    """Cuts the connections of a request off when its time is over.

    The client's own time-outs begin anew with each byte, so a server that drips its answer would be waited for as long
    as it likes. What is shut down ends the reading at once, wherever it is.
    """

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="workflow-http-watch", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        wait = self._call.config.timeout / 1_000
        while not self._over.wait(wait):  # in real time, whatever the clock of a test shows
            wait = _LOOK_AGAIN
            self._call.too_late.set()
            for stream in list(self._call.streams):
                with contextlib.suppress(OSError):
                    stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def _noting(call: _Call) -> Callable[[str, dict[str, Any]], None]:
    """Return what is told of each thing the client does, and notes its connections."""

    def note(event: str, details: dict[str, Any]) -> None:
        if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            call.streams.append(details["return_value"])

    return note


def _not_of_a_step(record: logging.LogRecord) -> bool:
    """Keep lines about the requests of steps out of the client's log: they hold whole URLs, secrets included."""
    del record
    return not getattr(_thread, "calls_for_a_step", False)


def _followed(call: _Call, client: httpx.Client) -> _Answer:
    config = call.config
    method, url, headers = config.method.upper(), config.url, call.headers
    content: dict[str, Any] = {"content": config.body} if config.body is not None else {}
    if config.json_body is not None:
        content = {"json": config.json_body}
    client.headers["accept-encoding"] = "gzip"
    message = client.build_request(method, _with_query(url, config), headers=headers, **content)
    for _ in range(config.max_redirects + 1):
        message.extensions["trace"] = _noting(call)
        response = client.send(message, stream=True)
        try:
            location = response.headers.get("location")
            if not (config.follow_redirects and response.status_code in _REDIRECTS and location):
                return _answer(call, response)
        finally:
            response.close()
        message = _redirected(call, client, message, response)
    raise HttpRefusedError(f"{call.what}: more than {config.max_redirects} redirects (max_redirects)")


def _with_query(url: str, config: HttpConfig) -> httpx.URL:
    import httpx  # noqa: PLC0415 - an extra

    query: dict[str, Any] = {name: value for name, value in config.query.items() if value is not None}
    return httpx.URL(url).copy_merge_params(query) if query else httpx.URL(url)


def _redirected(call: _Call, client: httpx.Client, message: httpx.Request, response: httpx.Response) -> httpx.Request:
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
            f"{call.what}: it redirects to another server, {_shown(str(target))}, which is not sent the body; name "
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
            f"{call.what}: it redirects to {_shown(str(target))}, whose address is private; set "
            "allow_private_redirects if that is meant"
        )
    # Connecting to the address that was looked at leaves no moment for the name to change its address in between.
    headers["host"] = target.netloc.decode("ascii").rpartition("@")[2]
    extensions = {"sni_hostname": target.host, "named_url": target}
    return client.build_request(
        method, target.copy_with(host=address), headers=headers, content=content, extensions=extensions
    )


def _answer(call: _Call, response: httpx.Response) -> _Answer:
    status = response.status_code
    if not call.config.expects(status):
        text = f"{call.what} answered {status}"
        if status in _TRY_AGAIN or status >= 500:  # noqa: PLR2004 - the server's own errors
            raise HttpResponseError(text, status, _retry_after_ms(response, call))
        raise HttpRefusedError(f"{text}; expected_status says what else is a success", status)
    return _Answer(status, dict(response.headers.items()), _data(call, response))


def _retry_after_ms(response: httpx.Response, call: _Call) -> int:
    """Read ``Retry-After``, seconds or a date (RFC 9110, section 10.2.3), bounded by the config."""
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        asked = int(text[:12]) * 1_000
    else:
        try:
            asked = to_epoch_ms(parsedate_to_datetime(text)) - to_epoch_ms(call.now)
        except (ValueError, TypeError, OverflowError):
            return 0
    return max(0, min(asked, call.config.max_retry_after))


def _data(call: _Call, response: httpx.Response) -> object:
    content = bytearray()
    for chunk in _decoded(call, response):
        content += chunk
        if len(content) > call.config.max_response_bytes:
            raise HttpRefusedError(
                f"{call.what}: the answer has more than {call.config.max_response_bytes} bytes (max_response_bytes)",
                response.status_code,
            )
    if call.is_late:  # where the connection's end is the content's end, it looks complete
        raise _too_late(call)
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not content or response.status_code in _BODILESS:
        return None if kind.endswith("json") or not kind else ""
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json.loads(content, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise HttpTransportError(f"{call.what} answered with content of type {kind} that is not JSON") from None
    if kind.startswith("text/") or response.charset_encoding is not None or not kind or kind.endswith("xml"):
        return content.decode(_encoding(response), errors="replace")
    return bytes(content)


def _decoded(call: _Call, response: httpx.Response) -> Iterator[bytes]:
    """Yield the content in small parts, however small it was made for the way.

    Raises:
        HttpTransportError: It is not what it says, or its time is over.
    """
    named = [coding.strip().lower() for coding in response.headers.get("content-encoding", "").split(",")]
    codings = [coding for coding in named if coding not in {"", "identity"}]
    if len(codings) > 1 or any(coding not in _CODINGS for coding in codings):
        raise HttpRefusedError(
            f"{call.what} answered in the coding {', '.join(codings)!r:.60}, which was not asked for"
        )
    decoder = zlib.decompressobj(_CODINGS[codings[0]]) if codings else None
    rest: bytes | None = None
    for raw in response.iter_raw():
        if call.is_late:
            raise _too_late(call)
        if decoder is None:
            yield raw
            continue
        rest = raw
        while rest and not decoder.eof:
            try:
                yield decoder.decompress(rest, _CHUNK)
            except zlib.error as error:
                raise HttpTransportError(
                    f"{call.what} answered with content that is no {codings[0]}: {error}"
                ) from None
            rest = decoder.unconsumed_tail
    if decoder is not None and not decoder.eof and rest is not None:
        raise HttpTransportError(f"{call.what} answered with content of which the end is missing")


def _refuse_constant(constant: str) -> object:
    raise ValueError(f"{constant} is no value of JSON")


def _encoding(response: httpx.Response) -> str:
    named = response.charset_encoding or "utf-8"
    try:
        "".encode(named)
        known = codecs.lookup(named).name
    except (LookupError, UnicodeError):
        return "utf-8"
    return "utf-8" if known.replace("_", "-") in _NO_CHARSETS else named


def _too_late(call: _Call) -> HttpTransportError:
    return HttpTransportError(f"{call.what} took longer than its timeout of {call.config.timeout} ms")


def _shown(url: str) -> str:
    """Return a URL without user, password, query and fragment, any of which may hold a secret."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = f":{parts.port}" if parts.port is not None else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


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
