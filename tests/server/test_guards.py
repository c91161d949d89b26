"""What keeps strangers out: hosts, origins, tokens, sessions, bodies and rates; and the headers of every answer."""

import asyncio
import re

import httpx
import pytest

from workflow_core import ValidationError, WorkflowEngine
from workflow_core.server import ServerSettings, create_app, lifespan
from workflow_core.server.throttling import Throttle

from .conftest import run, serving

TOKEN = "a-token-of-the-tests-that-is-long"  # noqa: S105
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:8321", 200),
        ("localhost:1", 200),
        ("LOCALHOST.", 200),
        ("[::1]:8321", 200),
        ("workflows.example.org", 200),
        ("a.below.example.org:443", 200),
        ("below.example.org", 421),
        ("evil.example.org", 421),
        ("127.0.0.1.evil.example", 421),
        ("evil-below.example.org", 421),
        ("localhost@evil.example", 421),
        ("localhost:80 evil.example", 421),
        ("", 421),
        ("[::1", 421),
        ("127.0.0.2", 421),
    ],
)
def test_only_names_of_this_server_are_answered(directory, host, status):
    async def test(served):
        response = await served.client.get("/api/health/live", headers={"host": host})
        assert response.status_code == status, response.text
        if status == 421:
            assert response.headers["content-type"] == "application/problem+json"

    run(directory, test, allowed_hosts=("workflows.example.org", "*.below.example.org"))


def test_a_request_with_two_hosts_or_none_is_refused(directory):
    async def test(served):
        for hosts in ([], [(b"host", b"localhost"), (b"host", b"localhost")]):
            sent = []

            async def send(message, sent=sent):
                sent.append(message)

            async def receive():
                return {"type": "http.request", "body": b""}

            scope = {"type": "http", "method": "GET", "path": "/api/health/live", "query_string": b"", "headers": hosts}
            await served.app(scope, receive, send)
            assert sent[0]["status"] == 421

    run(directory, test)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"origin": "http://127.0.0.1:8321", "sec-fetch-site": "same-origin"}, 202),
        ({"sec-fetch-site": "none"}, 202),
        ({"origin": "https://ops.example.org", "sec-fetch-site": "cross-site"}, 202),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "http://127.0.0.1"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[::1"}, 403),
        ({"origin": ""}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://127.0.0.1:8321", "sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_pages_of_other_sites_change_nothing(directory, headers, status):
    async def test(served):
        response = await served.client.post("/api/workflows/order/executions", json={}, headers=headers)
        assert {200: 202}.get(response.status_code, response.status_code) == status, response.text
        followed = {**headers, "sec-fetch-mode": "navigate"}
        assert (await served.client.get("/api/executions", headers=followed)).status_code == 200
        timed = await served.client.get("/api/executions?search=x", headers={**headers, "sec-fetch-mode": "no-cors"})
        assert timed.status_code == (403 if status == 403 else 200)
        assert bool((await served.get("/api/executions"))["executions"]) == (status == 202)

    run(directory, test, allowed_origins=("https://ops.example.org",))


def test_a_page_that_may_is_told_so(directory):
    async def test(served):
        ask = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
        for origin, allowed in (("https://ops.example.org", True), ("https://evil.example", False)):
            headers = {"origin": origin, **ask}
            preflight = await served.client.options("/api/cleanup", headers=headers)
            assert (preflight.headers.get("access-control-allow-origin") == origin) == allowed
            answer = await served.client.get("/api/executions", headers={"origin": origin})
            assert (answer.headers.get("access-control-allow-origin") == origin) == allowed

    run(directory, test, allowed_origins=("https://ops.example.org",))


def test_the_address_that_a_request_came_to_is_a_name_of_the_server(directory):
    async def test(served):
        for server, host, status in (
            (("192.0.2.7", 8321), b"192.0.2.7:8321", 200),
            (("2001:db8::1", 8321), b"[2001:db8::1]:8321", 200),
            (("192.0.2.7", 8321), b"192.0.2.8", 421),
            (("evil.example", 80), b"evil.example", 421),
            (None, b"None", 421),
        ):
            sent = []

            async def send(message, sent=sent):
                sent.append(message)

            async def receive():
                return {"type": "http.request", "body": b""}

            scope = {"type": "http", "method": "GET", "path": "/api/health/live", "query_string": b"", "server": server}
            await served.app({**scope, "headers": [(b"host", host)]}, receive, send)
            assert sent[0]["status"] == status, host

    run(directory, test)


def test_forms_of_other_sites_are_no_json(directory):
    async def test(served):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            headers = {"content-type": kind} if kind else {}
            response = await served.client.post("/api/cleanup", content=b'{"older_than_days": 0}', headers=headers)
            assert response.status_code == 415
        response = await served.client.post(
            "/api/cleanup",
            content=b'{"older_than_days": 0}',
            headers={"content-type": "Application/JSON; charset=x"},
        )
        assert response.status_code == 200

    run(directory, test)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_refused_before_it_is_read(directory, announced):
    async def test(served):
        read = []

        async def parts():
            for _ in range(1_000):
                read.append(1)
                yield b" " * 100

        headers = {"content-type": "application/json", **({"content-length": "100000"} if announced else {})}
        response = await served.client.post("/api/cleanup", content=parts(), headers=headers)
        assert response.status_code == 413
        assert response.headers["content-type"] == "application/problem+json"
        headers["content-length"] = "9" * 40
        response = await served.client.post("/api/cleanup", content=b"{}", headers=headers)
        assert response.status_code == 413

    run(directory, test, max_body_bytes=500)


def test_a_client_that_changes_too_much_has_to_wait(directory):
    async def test(served):
        for number in range(3):
            assert (await served.start(f"e-{number}")).status_code in {200, 202}
        response = await served.start("e-4")
        assert (response.status_code, response.headers["retry-after"]) == (429, "20")
        assert response.headers["content-type"] == "application/problem+json"
        assert (await served.client.get("/api/executions")).status_code == 200

    run(directory, test, changes_per_minute=3)


class Moment:
    now = 0.0

    def monotonic(self):
        return self.now


def test_a_bucket_fills_up_steadily_and_memory_stays_bounded(monkeypatch):
    monkeypatch.setattr("workflow_core.server.throttling._MOST_CLIENTS", 3)
    clock = Moment()
    throttle = Throttle(clock, 60)
    for _ in range(60):
        assert throttle.wait_for("a") == 0
        throttle.count("a")
    assert throttle.wait_for("a") == 1
    assert throttle.wait_for("b") == 0
    clock.now = 1.5
    assert throttle.wait_for("a") == 0
    throttle.count("a")
    assert throttle.wait_for("a") == 1
    for client in "bcde":
        throttle.count(client)
    assert len(throttle._left) == 3


# The token -----------------------------------------------------------------------------------------------------------


def test_nothing_is_answered_without_the_token_but_that_the_server_lives(directory):
    async def test(served):
        paths = [path for path in served.app.openapi()["paths"] if path != "/api/health/live"]
        assert len(paths) > 15
        for path in [*paths, "/api/openapi.json", "/api/nope"]:
            for headers in ({}, {"authorization": "Bearer nonsense"}, {"authorization": f"Basic {TOKEN}"}):
                response = await served.client.get(path.format(execution_id="e", name="order"), headers=headers)
                assert response.status_code == 401
                assert response.headers["www-authenticate"].startswith("Bearer")
                assert TOKEN not in response.text
        assert (await served.client.get("/api/health/live")).status_code == 200
        for scheme in ("Bearer", "bearer"):
            headers = {"authorization": f"{scheme} {TOKEN}"}
            assert (await served.client.get("/api/executions", headers=headers)).status_code == 200
        description = (await served.client.get("/api/openapi.json", headers=BEARER)).json()
        assert description["security"] == [{"token": []}]

    run(directory, test, token=TOKEN, failures_per_minute=1_000)


def test_who_guesses_tokens_has_to_wait(directory):
    async def test(served):
        wrong = {"authorization": "Bearer wrong"}
        answers = [(await served.client.get("/api/executions", headers=wrong)).status_code for _ in range(5)]
        assert answers == [401, 401, 401, 429, 429]
        response = await served.client.post("/login", data={"token": "wrong"})
        assert (response.status_code, response.headers["retry-after"]) == (429, "20")
        assert (await served.client.get("/api/executions", headers=BEARER)).status_code == 429

    run(directory, test, token=TOKEN, failures_per_minute=3)


def test_a_page_leads_to_the_login_and_the_login_leads_back(directory):
    async def test(served):
        response = await served.client.get("/executions/e-1")
        assert (response.status_code, response.headers["location"]) == (303, "/login?next=/executions/e-1")
        form = await served.client.get(response.headers["location"])
        assert form.status_code == 200
        assert 'value="/executions/e-1"' in form.text
        assert "default-src 'none'" in form.headers["content-security-policy"]
        wrong = await served.client.post("/login", data={"token": "no", "next": "/executions/e-1"})
        assert wrong.status_code == 401
        assert "not the token" in wrong.text
        assert "set-cookie" not in wrong.headers
        right = await served.client.post("/login", data={"token": TOKEN, "next": "/executions/e-1"})
        assert (right.status_code, right.headers["location"]) == (303, "/executions/e-1")
        cookie = right.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=60"} <= set(cookie.split("; "))
        assert TOKEN not in cookie
        assert (await served.client.get("/api/executions")).status_code == 200
        session = served.client.cookies["workflow_session"]
        out = await served.client.post("/logout")
        assert (out.status_code, out.headers["location"]) == (303, "/login")
        for value in (session, session[:-1] + "0", "", "x", "9.9.9", "é.é.é", f"9999999999999.{TOKEN}"):
            headers = [(b"cookie", b"workflow_session=" + value.encode())]
            assert (await served.client.get("/api/executions", headers=headers)).status_code == 401, value

    run(directory, test, token=TOKEN, session_ms=60_000)


@pytest.mark.parametrize(
    "there", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "", "/a\r\nx: y"]
)
def test_a_login_leads_nowhere_else(directory, there):
    async def test(served):
        response = await served.client.post("/login", data={"token": TOKEN, "next": there})
        assert (response.status_code, response.headers["location"]) == (303, "/")
        form = await served.client.get("/login", params={"next": there})
        assert 'value="/"' in form.text

    run(directory, test, token=TOKEN)


def test_a_page_of_another_site_cannot_log_in_or_out(directory):
    async def test(served):
        headers = {"origin": "http://evil.example"}
        for path in ("/login", "/logout"):
            response = await served.client.post(path, data={"token": TOKEN}, headers=headers)
            assert response.status_code == 403

    run(directory, test, token=TOKEN)


def test_a_session_ends_by_time_and_outlives_the_server(tmp_path):
    async def main():
        cookies = {}
        for number in range(2):
            async with serving(tmp_path / "state", token=TOKEN, session_ms=1_000_000) as served:
                if number == 0:
                    await served.client.post("/login", data={"token": TOKEN})
                    cookies = dict(served.client.cookies)
                served.client.cookies.update(cookies)
                assert (await served.client.get("/api/executions")).status_code == 200
        async with serving(tmp_path / "state", token=f"{TOKEN}-of-later", session_ms=1_000_000) as served:
            served.client.cookies.update(cookies)
            assert (await served.client.get("/api/executions")).status_code == 401
        async with serving(tmp_path / "state", token=TOKEN, session_ms=1) as served:
            await served.client.post("/login", data={"token": TOKEN})
            session = served.client.cookies.get("workflow_session") or "0"
            while int(session.partition(".")[0]) > served.engine.clock.now().timestamp() * 1_000:
                await asyncio.sleep(0)
            headers = {"cookie": f"workflow_session={session}"}
            assert (await served.client.get("/api/executions", headers=headers)).status_code == 401

    asyncio.run(main())


def test_tokens_that_are_too_weak_and_settings_that_are_wrong(monkeypatch):
    with pytest.raises(ValidationError, match="at least 16"):
        ServerSettings(token="short")  # noqa: S106
    with pytest.raises(ValidationError, match="ASCII"):
        ServerSettings(token="é" * 20)
    monkeypatch.setenv("WORKFLOW_SERVER_TOKEN", "short")
    with pytest.raises(ValidationError, match="WORKFLOW_SERVER_TOKEN") as caught:
        ServerSettings.from_environment()
    assert "'short'" not in str(caught.value)
    monkeypatch.setenv("WORKFLOW_SERVER_TOKEN", TOKEN)
    settings = ServerSettings.from_environment(dashboard=False)
    assert settings.token.get_secret_value() == TOKEN
    assert TOKEN not in repr(settings)
    app = create_app(WorkflowEngine())
    assert app.state.settings.token is not None


# Headers -------------------------------------------------------------------------------------------------------------


def test_every_answer_keeps_browsers_safe(directory):
    async def test(served):
        for path in ("/api/executions", "/api/nope", "/", "/api/executions?limit=0"):
            response = await served.client.get(path)
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["cache-control"] == "no-store"
            assert response.headers["referrer-policy"] == "same-origin"
        refused = await served.client.get("/", headers={"host": "evil.example"})
        assert refused.headers["x-content-type-options"] == "nosniff"

    run(directory, test, dashboard=True)


def test_a_browser_is_shown_a_page_and_a_program_a_problem(directory):
    async def test(served):
        html = await served.client.get("/nope", headers={"accept": "text/html"})
        assert (html.status_code, html.headers["content-type"]) == (404, "text/html; charset=utf-8")
        program = await served.client.get("/nope", headers={"accept": "*/*"})
        assert program.headers["content-type"] == "application/problem+json"
        api = await served.client.get("/api/nope", headers={"accept": "text/html"})
        assert api.headers["content-type"] == "application/problem+json"

    run(directory, test, dashboard=True)


def test_no_page_of_ours_loads_anything_from_elsewhere(directory):
    async def test(served):
        for path in ("/docs", "/redoc", "/api/docs"):
            assert (await served.client.get(path)).status_code == 404
        login = (await served.client.get("/login")).text
        assert not re.findall(r"(?:src|href|action)=\"(?:https?:)?//", login)
        assert not re.findall(r"<script|<style| style=| on\w+=", login)

    run(directory, test, token=TOKEN, client_options={"headers": BEARER})


# Mounted -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, TOKEN])
def test_mounted_in_another_application(directory, token):
    import contextlib

    from fastapi import FastAPI

    from workflow_core import Settings

    from .conftest import define

    async def main():
        engine = WorkflowEngine(settings=Settings(directory=directory, sync_handlers="inline"))
        define(engine)
        served = create_app(engine, ServerSettings(token=token))

        @contextlib.asynccontextmanager
        async def of_shop(app):
            async with lifespan(served):
                yield

        shop = FastAPI(lifespan=of_shop)
        shop.mount("/workflows", served)

        @shop.get("/api/own")
        async def own():
            return {"mine": True}

        transport = httpx.ASGITransport(shop)
        async with shop.router.lifespan_context(shop):
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                assert (await client.get("/api/own")).json() == {"mine": True}
                if token:
                    response = await client.get("/workflows/executions")
                    assert response.headers["location"] == "/workflows/login?next=/executions"
                    assert (await client.get("/workflows/api/executions")).status_code == 401
                    response = await client.post("/workflows/login", data={"token": token, "next": "/executions"})
                    assert response.headers["location"] == "/workflows/executions"
                    assert "Path=/workflows" in response.headers["set-cookie"]
                response = await client.post("/workflows/api/workflows/order/executions?wait_ms=20000", json={})
                assert response.status_code == 200
                location = response.headers["location"]
                assert location.startswith("/workflows/api/executions/")
                assert (await client.get(location)).json()["status"] == "completed"
                await client.post("/workflows/api/workflows/order/executions?wait_ms=20000", json={})
                link = (await client.get("/workflows/api/executions?limit=1")).headers["link"]
                assert link.startswith("</workflows/api/executions?")
                response = await client.post("/workflows/api/cleanup", content=b"{}")
                assert response.status_code == 415
        assert engine.closed

    asyncio.run(main())
