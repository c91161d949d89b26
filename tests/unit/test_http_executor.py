"""The step type ``http`` against a real server: answers, retries, bounds, redirects."""

import asyncio
import contextlib
import gzip
import json
import logging
import socket
import threading
from datetime import UTC, datetime
from types import SimpleNamespace

import httpx
import pydantic
import pytest

from pytest_workflow import StepCompleted, StepFailed, StepRetrying
from tests.unit.http_server import Answer, Server
from workflow_core.definitions import addresses
from workflow_core.definitions.http import HttpConfig, request
from workflow_core.definitions.http.call import shown_url


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def other():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def http(workflow):
    """Run one step with this config, and return its execution's result."""

    def run(url, given=None, attempts=None, **config):
        step = {"id": "call", "type": "http", "config": {"url": url, **config}}
        step |= {"retryConfig": {"maxAttempts": attempts}} if attempts else {}
        workflow.engine.define_declarative({"name": "w", "steps": [step]})
        return workflow.run("w", execution_id="e", input=given)

    return run


def of(result):
    assert result.status == "completed", result.error
    return result.steps["call"].result


def refused(result, told):
    assert (result.status, result.error.type) == ("failed", "HttpRefusedError")
    assert told in result.error.message
    assert result.steps["call"].attempt == 1


@pytest.mark.parametrize(
    ("answer", "data"),
    [
        (Answer(body='{"a": [1, 2.5, null]}'), {"a": [1, 2.5, None]}),
        (Answer(body='"ä"', kind="application/problem+json; charset=utf-8"), "ä"),
        (Answer(body="{", kind="text/plain"), "{"),
        (Answer(body="ä".encode("latin-1"), kind="text/plain; charset=latin-1"), "ä"),
        (Answer(body="ä", kind="text/plain; charset=nonsense"), "ä"),
        (Answer(body="<a/>", kind="image/svg+xml"), "<a/>"),
        (Answer(body="x", kind=None), "x"),
        (Answer(body=b"\x00\xff", kind="image/png"), b"\x00\xff"),
        (Answer(204), None),
        (Answer(kind="text/plain"), ""),
    ],
)
def test_data_is_what_the_content_type_says(http, server, workflow, answer, data):
    result = http(server.on("/", answer))
    found = of(result)
    assert found["status"] == answer.status
    assert found["headers"].get("content-type") == answer.headers.get("content-type")
    assert workflow.engine.codec.decode(workflow.engine.codec.encode(found["data"], "x")[0]) == data


def test_a_request_is_made_as_it_is_told(http, server):
    server.on("/orders", Answer(201, "{}"))
    result = http(
        server.url("/orders?a=1"),
        {"id": 7, "limit": 2},
        method="post",
        headers={"X-Order": "no. ${input.id}"},
        query={"b": [1, 2], "c": None, "d": "${input.limit}"},
        json={"order": "${input.id}"},
    )
    assert of(result)["status"] == 201
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/orders?a=1&b=1&b=2&d=2")
    assert request.headers["x-order"] == "no. 7"
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.body) == {"order": 7}


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"method": "POST"}, "e/call"),
        ({"method": "PUT", "body": "text"}, "e/call"),
        ({"method": "POST", "idempotencyKey": "order-${input.id}"}, "order-7"),
        ({"method": "POST", "headers": {"Idempotency-Key": "mine"}}, "mine"),
        ({"method": "POST", "idempotency_key": False}, None),
        ({}, None),
    ],
)
def test_the_idempotency_key_is_the_same_in_all_attempts(http, server, config, key):
    of(http(server.on("/", Answer(503), Answer()), {"id": 7}, **config))
    assert [request.headers.get("idempotency-key") for request in server.requests] == [key, key]


def test_errors_of_the_server_are_retried(http, server, workflow):
    result = http(server.on("/x", Answer(503), Answer(500), Answer(body="1")))
    assert of(result)["data"] == 1
    assert workflow.history(result).of("call") == [
        StepFailed(attempt=1, error="HttpResponseError", message=f"GET {server.url('/x')} answered 503"),
        StepRetrying(backoff_ms=1_000),
        StepFailed(attempt=2, error="HttpResponseError"),
        StepRetrying(backoff_ms=2_000),
        StepCompleted(attempt=3),
    ]


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [("7", 7_000), ("Wed, 01 Jan 2025 00:00:30 GMT", 30_000), ("999999", 60_000), ("0", 1_000), ("soon", 1_000)],
)
def test_retry_after_is_honoured_within_bounds(http, server, workflow, retry_after, wait):
    result = http(server.on("/", Answer(429, retry_after=retry_after), Answer()), maxRetryAfter=60_000)
    of(result)
    assert StepRetrying(backoff_ms=wait) in workflow.history(result).of("call")


def test_other_errors_are_final(http, server):
    refused(http(server.on("/", Answer(404))), "answered 404; expected_status")


def test_expected_statuses(http, server):
    assert of(http(server.on("/", Answer(404, "{}")), expectedStatus=["2xx", 404]))["status"] == 404


def test_a_success_may_be_unexpected(http, server):
    refused(http(server.on("/", Answer(200)), expectedStatus=201), "answered 200")


@pytest.mark.parametrize("answer", ["break", Answer(body="{"), Answer(body="NaN")])
def test_what_is_no_answer_is_retried(http, server, answer):
    result = http(server.on("/", answer, Answer(body="1")))
    assert of(result)["data"] == 1
    assert result.steps["call"].attempt == 2


def test_a_server_that_does_not_answer_in_time(http, server):
    result = http(server.on("/", "hold", Answer(body="1")), timeout=50)
    assert of(result)["data"] == 1
    assert result.steps["call"].attempt == 2


def test_nobody_there(http):
    server = Server()
    server.close()
    result = http(server.url("/x?token=secret"))
    assert result.error.type == "HttpTransportError"
    assert result.steps["call"].attempt == 3
    assert "secret" not in result.error.message


def test_a_long_answer_is_refused(http, server):
    refused(
        http(server.on("/", Answer(body="[" + "1," * 1_000 + "1]")), maxResponseBytes=1_000), "more than 1000 bytes"
    )


def test_a_bomb_is_refused(http, server):
    bomb = Answer(body=gzip.compress(b"0" * 5_000_000), content_encoding="gzip")
    refused(http(server.on("/", bomb)), "more than 1048576 bytes")


def test_a_bomb_in_a_bomb_is_refused_before_it_is_read(http, server):
    bomb = Answer(body=gzip.compress(gzip.compress(b"0" * 5_000_000)), content_encoding="gzip, gzip")
    refused(http(server.on("/", bomb)), "in the coding 'gzip, gzip'")


def test_content_that_was_cut_off_in_its_coding(http, server):
    whole = gzip.compress(b"[1, 2]")
    cut = Answer(body=whole[:-4], content_encoding="gzip")
    answers = cut, Answer(body=whole, content_encoding="gzip")
    assert of(http(server.on("/", *answers)))["data"] == [1, 2]
    assert len(server.requests) == 2


@pytest.mark.timeout(20)
@pytest.mark.parametrize("charset", ["punycode", "idna", "undefined", "unicode_escape"])
def test_a_charset_that_no_answer_is_in(http, server, charset):
    body = "a-" + "abc9" * 100_000
    assert of(http(server.on("/", Answer(body=body, kind=f"text/plain; charset={charset}"))))["data"] == body


@pytest.mark.parametrize(
    ("head", "drip"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x"),
    ],
    ids=["head", "hints", "content", "content without a length"],
)
def test_an_answer_that_drips_takes_no_longer_than_its_timeout(http, head, drip):
    """Each byte comes in time, so no wait for one is too long."""
    over = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def answer():
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65_536)
            connection.sendall(head)
            while not over.wait(0.01):
                connection.sendall(drip)

    thread = threading.Thread(target=answer)
    thread.start()
    alarm = threading.Timer(10, over.set)
    alarm.start()
    try:
        result = http(f"http://127.0.0.1:{listening.getsockname()[1]}/", timeout=100, attempts=1)
    finally:
        was_over = over.is_set()
        over.set()
        alarm.cancel()
        thread.join()
        listening.close()
    assert not was_over
    assert "longer than its timeout of 100 ms" in result.error.message


@pytest.mark.asyncio
async def test_a_request_that_nobody_waits_for_is_cut_off():
    context = SimpleNamespace(execution_id="e", step_id="s", now=lambda: datetime.now(UTC))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = HttpConfig(url=f"http://127.0.0.1:{listening.getsockname()[1]}/", timeout=60_000)
        waiting = asyncio.create_task(request(config, context))
        connection, _ = await asyncio.to_thread(listening.accept)
        with connection:
            connection.settimeout(10)
            assert await asyncio.to_thread(connection.recv, 65_536)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await asyncio.to_thread(connection.recv, 1) == b""


def test_the_key_of_a_step_whose_id_no_header_can_hold(workflow, server):
    url = server.on("/", Answer(body="1"))
    steps = [{"id": "prüfe 100%", "type": "http", "config": {"url": url, "method": "POST"}}]
    workflow.engine.define_declarative({"name": "w", "steps": steps})
    assert workflow.run("w", execution_id="e").status == "completed"
    assert server.requests[0].headers["idempotency-key"] == "e/pr%C3%BCfe 100%25"


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://bad host/", "http://a\x00/", "http://[::1/", "http://x:99999/"]
)
def test_a_url_that_is_none(http, url):
    result = http("${input.url}", {"url": url})
    assert result.status == "failed"
    assert result.error.type in {"StepConfigError", "HttpRefusedError"}
    assert result.steps["call"].attempt == 1


# Redirects -----------------------------------------------------------------------------------------------------------


def test_redirects_on_one_server_are_followed(http, server):
    server.on("/old", Answer(302, location="/new"))
    server.on("/new", Answer(body="1"))
    assert of(http(server.url("/old"), method="POST", json=[1], headers={"X-Key": "k"}))["data"] == 1
    assert [(request.method, request.body) for request in server.requests] == [("POST", b"[1]"), ("GET", b"")]
    assert server.requests[1].headers["x-key"] == "k"


def test_a_redirect_that_keeps_the_method_sends_the_body_again(http, server):
    server.on("/old", Answer(307, location="/new"))
    server.on("/new", Answer(body="1"))
    of(http(server.url("/old"), method="PUT", json=[1]))
    assert [(request.method, request.body) for request in server.requests] == [("PUT", b"[1]")] * 2


def test_a_redirect_need_not_be_followed(http, server):
    server.on("/old", Answer(302, location="/new"))
    assert of(http(server.url("/old"), followRedirects=False, expectedStatus="3xx"))["headers"]["location"] == "/new"


def test_redirects_in_a_circle(http, server):
    refused(http(server.on("/", Answer(302, location="/")), maxRedirects=3), "more than 3 redirects")
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "target", ["http://{}/", "http://localhost:{}/", "http://[::1]:{}/", "http://169.254.169.254/latest", "http://0/"]
)
def test_a_redirect_to_a_private_address_is_refused(http, server, other, target):
    target = target.format(f"127.0.0.1:{other.port}" if "://{}" in target else other.port)
    refused(http(server.on("/", Answer(302, location=target))), "whose address is private")
    assert other.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1:99999", "[::1]:80", "example.com"])
def test_a_url_is_shown_without_what_may_be_secret(host):
    """Also one that a redirect names, which may be none."""
    assert shown_url(f"http://user:p@ss@{host}/path?token=secret#secret") == f"http://{host}/path"


def test_a_redirect_to_another_scheme_is_refused(http, server):
    refused(http(server.on("/", Answer(302, location="file:///etc/passwd"))), "redirects to file:")


def test_a_private_redirect_may_be_allowed_and_gets_no_secrets(http, server, other):
    server.on("/", Answer(302, location=other.on("/there", Answer(body="1"))))
    headers = {"Authorization": "Bearer x", "X-Api-Key": "x", "Accept": "application/json", "Cookie": "x=y"}
    assert of(http(server.url("/"), headers=headers, allowPrivateRedirects=True))["data"] == 1
    (request,) = other.requests
    assert request.headers["accept"] == "application/json"
    assert not {"authorization", "x-api-key", "cookie"} & set(request.headers)


def test_another_server_is_not_sent_the_body(http, server, other):
    server.on("/", Answer(307, location=other.on("/there", Answer())))
    refused(http(server.url("/"), method="POST", body="secret", allowPrivateRedirects=True), "is not sent the body")
    assert other.requests == []


def test_the_address_that_was_looked_at_is_the_one_connected_to(http, server, other, monkeypatch):
    looked_up = []
    real = addresses.socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        looked_up.append(host)
        return real("127.0.0.1" if host == "rebinding.test" else host, *args, **kwargs)

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    other.on("/there", Answer(body="1"))
    server.on("/", Answer(302, location=other.url("/there", host="rebinding.test")))
    assert of(http(server.url("/")))["data"] == 1
    assert other.requests[0].headers["host"] == f"rebinding.test:{other.port}"
    assert looked_up.count("rebinding.test") == 1


def test_a_server_that_was_redirected_to_cannot_change_its_address(http, server, other, monkeypatch):
    """It sends to itself again, under a name that has a private address by then."""
    asked = []

    def getaddrinfo(host, *args, **kwargs):
        asked.append(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1" if len(asked) == 1 else "127.0.0.2", other.port))
        ]

    monkeypatch.setattr(addresses, "socket", SimpleNamespace(getaddrinfo=getaddrinfo, SOCK_STREAM=socket.SOCK_STREAM))
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    other.on("/there", Answer(302, location="/again"))
    server.on("/", Answer(302, location=other.url("/there", host="localhost")))
    refused(http(server.url("/")), "whose address is private")
    assert asked == ["localhost", "localhost"]
    assert [request.path for request in other.requests] == ["/there"]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.0.0.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),  # noqa: S104 - an address to refuse
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::5db8:d822", True),
        ("64:ff9b:1::7f00:1", False),
        ("::127.0.0.1", False),
        ("::ffff:0:7f00:1", False),
        ("fec0::1", False),
        ("ff0e::1", False),
        ("nonsense", False),
    ],
)
def test_public_addresses(address, public):
    assert addresses.is_public(address) is public


def test_a_host_with_a_public_and_a_private_address_is_refused(monkeypatch):
    found = [(2, 1, 6, "", ("93.184.216.34", 80)), (2, 1, 6, "", ("10.0.0.1", 80))]
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *args, **kwargs: found)
    assert addresses.pinned("x.test", 80) is None
    found.pop()
    assert addresses.pinned("x.test", 80) == "93.184.216.34"


@pytest.mark.parametrize(
    "config",
    [
        {"url": "ftp://x"},
        {"url": "/relative"},
        {"url": "http://x", "method": "GET /"},
        {"url": "http://x", "headers": {"a b": "c"}},
        {"url": "http://x", "headers": {"a": "b\r\nc: d"}},
        {"url": "http://x", "json": 1, "body": "x"},
        {"url": "http://x", "expectedStatus": 99},
        {"url": "http://x", "expectedStatus": "2XX"},
        {"url": "http://bad host/"},
        {"url": "http://x", "timeout": 0},
    ],
)
def test_configs_that_are_refused(config):
    with pytest.raises(pydantic.ValidationError):
        HttpConfig.model_validate(config)


@pytest.mark.parametrize("status", ["2xy", 99, ["2xx", 1], None])
def test_a_wrong_expected_status_is_one_mistake_with_its_own_path(status):
    with pytest.raises(pydantic.ValidationError) as caught:
        HttpConfig.model_validate({"url": "http://x", "expectedStatus": status})
    (error,) = caught.value.errors()
    assert error["loc"] == ("expectedStatus",)
    assert 'a class such as "2xx"' in error["msg"]


def test_the_log_of_the_client_does_not_tell_secrets(workflow, server, caplog):
    caplog.set_level(logging.INFO, logger="httpx")
    workflow.configure("w", secrets={"TOKEN": "sk-live-1234567890"})
    url = server.on("/", Answer()) + "?token=${secrets.TOKEN}"
    workflow.engine.define_declarative({"name": "w", "steps": [{"id": "call", "type": "http", "config": {"url": url}}]})
    assert workflow.run("w").status == "completed"
    assert "sk-live" not in caplog.text
    httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200))).get("http://elsewhere/")
    assert "http://elsewhere/" in caplog.text  # other requests of the process are logged as before
