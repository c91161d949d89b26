"""What a server answered: judged by its status, read within bounds, and decoded as its type says."""

from __future__ import annotations

import codecs
import json
import zlib
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from workflow_core.clock import to_epoch_ms
from workflow_core.definitions.http.errors import HttpRefusedError, HttpResponseError, HttpTransportError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from workflow_core.definitions.http.call import Call

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["Answer", "read_answer"]

_TRY_AGAIN: Final = frozenset({408, 425, 429})
_BODILESS: Final = frozenset({204, 304})
_CHUNK: Final = 65_536

_CODINGS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""How zlib is told to read the content codings that may be met (RFC 9110, section 8.4.1)."""

_NO_CHARSETS: Final = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"})
"""Encodings of Python that no answer is in; the time to read some of them grows with the square of its length."""


@dataclass(slots=True)
class Answer:
    """An answer that is a success.

    Attributes:
        status: Its status.
        headers: Its headers.
        data: Its content: what JSON stands for, text, or bytes.
    """

    status: int
    headers: dict[str, str]
    data: object = None


def read_answer(call: Call, response: httpx.Response) -> Answer:
    """Read the answer to a request.

    Raises:
        HttpResponseError: The server may answer otherwise later.
        HttpTransportError: It is not what it says, or its time is over.
        HttpRefusedError: It is no success, or too large.
    """
    status = response.status_code
    if not call.config.expects(status):
        text = f"{call.what} answered {status}"
        if status in _TRY_AGAIN or status >= 500:  # noqa: PLR2004 - the server's own errors
            raise HttpResponseError(text, status, _retry_after_ms(response, call))
        raise HttpRefusedError(f"{text}; expected_status says what else is a success", status)
    return Answer(status, dict(response.headers.items()), _data(call, response))


def _retry_after_ms(response: httpx.Response, call: Call) -> int:
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


def _data(call: Call, response: httpx.Response) -> object:
    content = bytearray()
    for chunk in _decoded(call, response):
        content += chunk
        if len(content) > call.config.max_response_bytes:
            raise HttpRefusedError(
                f"{call.what}: the answer has more than {call.config.max_response_bytes} bytes (max_response_bytes)",
                response.status_code,
            )
    if call.is_late:  # where the connection's end is the content's end, it looks complete
        raise call.timed_out()
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


def _decoded(call: Call, response: httpx.Response) -> Iterator[bytes]:
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
            raise call.timed_out()
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
