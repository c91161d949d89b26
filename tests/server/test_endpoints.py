"""The endpoints, each as a client uses it."""

import asyncio
import json
from urllib.parse import quote

import pydantic
import pytest

from tests.shared_definitions import scoped
from workflow_core import Settings, WorkflowContext, WorkflowEngine
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.models import CircuitBreakerConfig
from workflow_core.server import ServerSettings, create_app
from workflow_core.views.execution_data import execution_data, inspection_data
from workflow_core.views.execution_view import read_view
from workflow_core.views.json_text import json_bytes

from .conftest import define, run

DOCUMENT = {"name": "greeting", "steps": [{"id": "hello", "type": "log", "config": {"message": "Hello"}}]}


def test_an_execution_from_its_start_to_its_end(directory):
    async def test(served):
        response = await served.start("e-1", "sleeps")
        assert response.status_code == 202
        assert response.headers["location"] == "/api/executions/e-1"
        assert (await served.until("e-1", "sleeping"))["steps"]["charge"]["result"] == "tx-1"
        again = await served.start("e-1", "sleeps")
        assert again.status_code == 202
        cancelled = await served.post("/api/executions/e-1/cancel")
        assert cancelled["status"] == "cancelled"
        problem = await served.post("/api/executions/e-1/cancel", 409)
        assert problem["type"] == "urn:workflow:problem:invalid-state"
        assert "cancelled already" in problem["detail"]
        assert (await served.start("e-1", "sleeps")).status_code == 200

    run(directory, test)


def test_a_start_can_wait_for_the_end(directory):
    async def test(served):
        response = await served.start("e-1", wait_ms=20_000)
        assert (response.status_code, response.json()["output"]) == (200, {"order": "e-1"})
        response = await served.start("e-2", "waits", wait_ms=1)
        assert (response.status_code, response.json()["status"]) == (202, "running")
        response = await served.start("e-3", "fails", wait_ms=20_000)
        assert response.json()["error"]["type"] == "NonRetryableError"

    run(directory, test)


def test_an_execution_is_the_same_json_for_programs_everywhere(directory):
    async def test(served):
        await served.start("e-1", "fails", wait_ms=20_000)
        engine = served.engine
        view, result = await read_view(engine, "e-1"), await engine.get_status("e-1")
        answer = await served.get("/api/executions/e-1")
        assert answer == json.loads(json_bytes(execution_data(result, view)))
        inspected = json.loads(json_bytes(inspection_data(result, view, await engine.history("e-1"))))
        assert inspected["events"] == (await served.get("/api/executions/e-1/history"))["events"]
        assert inspected["errors"] == (await served.get("/api/executions/e-1/errors"))["errors"]
        assert inspected["errors"][0]["message"] == '<script>alert("no")</script>'

    run(directory, test)


def test_what_the_command_line_prints_is_what_the_api_answers(directory, monkeypatch, capsys):
    from workflow_core.cli.application import run as command

    answers = {}

    async def test(served):
        await served.start("e-1", wait_ms=20_000)
        answers["status"] = await served.get("/api/executions/e-1")
        answers["list"] = (await served.get("/api/workflows"))["workflows"]

    run(directory, test)
    monkeypatch.setenv("WORKFLOW_DIR", str(directory))
    monkeypatch.delenv("WORKFLOW_APP", raising=False)
    with scoped(empty=True):
        assert command(["status", "e-1", "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out) == answers["status"]
        assert command(["list", "--format", "json"]) == 0
    printed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    (answered,) = [each for each in answers["list"] if each["name"] == "order"]
    assert printed["order"] | {"defined": True} == answered


def test_a_failed_execution_is_restarted_in_the_background(directory):
    async def test(served):
        await served.start("e-1", "fails", wait_ms=20_000)
        answer = await served.client.post("/api/executions/e-1/restart")
        assert answer.status_code in {200, 202}
        assert (await served.until("e-1", "completed"))["restart_attempt"] == 2
        await served.start("f-1", workflow="fragile", wait_ms=20_000)
        assert (await served.get("/api/executions/f-1"))["status"] == "panicked"
        await served.client.post("/api/executions/f-1/restart")
        assert (await served.until("f-1", "completed"))["output"] == "survived"
        assert (await served.post("/api/executions/f-1/restart", 409))["status"] == 409
        assert (await served.post("/api/executions/f-1/resume", 409))["status"] == 409

    run(directory, test)


def test_an_interrupted_execution_is_resumed_in_the_background(directory):
    async def test(served):
        engine = WorkflowEngine(settings=Settings(directory=directory, sync_handlers="inline"))
        define(engine)
        await engine.start("order", "e-1", {"kind": "sleeps"}, detach=True)
        await served.until("e-1", "sleeping")
        refused = await served.post("/api/executions/e-1/resume", 409)
        assert "another process" in refused["detail"]
        await engine.aclose()
        assert (await served.get("/api/executions/e-1"))["interrupted"]
        resumed = await served.post("/api/executions/e-1/resume", 202)
        assert (resumed["status"], resumed["interrupted"]) == ("sleeping", False)
        assert (await served.post("/api/executions/e-1/resume", 202))["status"] == "sleeping"

    run(directory, test)


def test_pages_of_executions_lead_to_each_other(directory):
    async def test(served):
        for number in range(5):
            await served.start(f"e-{number}", "fails" if number % 2 else None, wait_ms=20_000)
        found, url = [], "/api/executions?limit=2"
        while url:
            response = await served.client.get(url)
            found += [each["execution_id"] for each in response.json()["executions"]]
            link = response.headers.get("link")
            assert (link is None) == (response.json()["next"] is None)
            url = link and link.partition(">")[0].removeprefix("<")
        assert found == ["e-4", "e-3", "e-2", "e-1", "e-0"]

        async def ids(query):
            return [each["execution_id"] for each in (await served.get(f"/api/executions?{query}"))["executions"]]

        assert await ids("status=failed") == ["e-3", "e-1"]
        assert await ids("status=failed&status=completed&workflow=order&limit=3") == ["e-4", "e-3", "e-2"]
        assert await ids("workflow=fragile") == []
        assert await ids("search=SCRIPT") == ["e-1"]
        assert await ids("search=circuit") == ["e-3"]
        assert await ids("search=e-4") == ["e-4"]
        started = (await served.get("/api/executions/e-2"))["started_at"]
        assert await ids(f"started_after={quote(started)}") == ["e-4", "e-3", "e-2"]
        assert await ids(f"started_before={quote(started)}") == ["e-1", "e-0"]

    run(directory, test)


def test_the_history_the_timeline_and_the_log_of_an_execution(directory):
    async def test(served):
        await served.start("e-1", "fails", wait_ms=20_000)
        events = (await served.get("/api/executions/e-1/history"))["events"]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert (await served.get("/api/executions/e-1/history?after=3"))["events"] == events[3:]
        drawn = await served.get("/api/executions/e-1/timeline")
        assert drawn["lanes"] == ["execution", "charge", "refuse"]
        served.engine.log_files.flush()
        lines = (await served.get("/api/executions/e-1/logs"))["lines"]
        assert {line["execution"] for line in lines} == {"e-1"}
        assert [line["seq"] for line in lines] == [event["seq"] for event in events]
        warnings = (await served.get("/api/executions/e-1/logs?level=error&lines=1"))["lines"]
        assert [line["event"] for line in warnings] == ["ExecutionFailed"]
        await served.start("e-2", wait_ms=20_000)
        served.engine.log_files.flush()
        daily = (await served.get("/api/logs?workflow=order"))["lines"]
        assert {line["execution"] for line in daily} == {"e-1", "e-2"}
        assert (await served.get("/api/logs"))["lines"] == daily
        served.engine.bare_store.layout.execution_log("order", "e-1").unlink()
        assert (await served.get("/api/executions/e-1/logs"))["lines"] == lines

    run(directory, test)


def test_a_workflow_with_its_definition_its_configuration_and_its_statistics(directory, monkeypatch):
    monkeypatch.setenv("PAYMENT_KEY", "sk-very-secret-value")

    class Order(pydantic.BaseModel):
        amount: int

    async def test(served):
        @served.engine.define("typed")
        async def typed(ctx: WorkflowContext[Order]):
            return ctx.input.amount

        served.engine.configure(
            "typed", variables={"region": "eu"}, secrets={"key": "env:PAYMENT_KEY", "other": "env:NOT"}
        )
        served.engine.configure("typed", secrets={"in_memory": "another-secret-value"})
        found = await served.get("/api/workflows/typed")
        assert found["input_schema"]["properties"]["amount"]["type"] == "integer"
        assert found["config"]["variables"] == {"region": "eu"}
        assert found["config"]["secrets"] == {
            "key": {"source": "env:PAYMENT_KEY", "is_set": True},
            "other": {"source": "env:NOT", "is_set": False},
            "in_memory": {"source": "memory", "is_set": True},
        }
        assert "secret-value" not in json.dumps(found)
        response = await served.client.post("/api/workflows/typed/executions", json={"input": {"amount": "x"}})
        assert response.status_code == 422
        await served.start("e-1", wait_ms=20_000)
        statistics = await served.get("/api/workflows/order/statistics?hours=1")
        assert (statistics["completed"], statistics["success_rate"]) == (1, 1.0)
        assert (await served.get("/api/workflows/absent/statistics", 404))["status"] == 404
        assert (await served.get("/api/workflows/absent", 404))["type"] == "urn:workflow:problem:workflow-not-found"

    run(directory, test)


def test_a_workflow_is_created_from_a_document_and_runs_at_once(directory):
    async def test(served):
        assert not (await served.post("/api/workflows?dry_run=true", 200, json=DOCUMENT))["written"]
        await served.get("/api/workflows/greeting", 404)
        response = await served.client.post("/api/workflows", json=DOCUMENT)
        assert (response.status_code, response.headers["location"]) == (201, "/api/workflows/greeting")
        assert (await served.get("/api/workflows/greeting"))["document"]["steps"][0]["id"] == "hello"
        assert not (await served.post("/api/workflows", 200, json=DOCUMENT))["written"]
        response = await served.client.post("/api/workflows/greeting/executions?wait_ms=20000", json={})
        assert (response.status_code, response.json()["status"]) == (200, "completed")
        wrong = await served.post("/api/workflows", 422, json={**DOCUMENT, "steps": [{"id": "a", "type": "nope"}]})
        assert "nope" in wrong["detail"]
        await served.post("/api/workflows", 422, json={**DOCUMENT, "name": "../../etc"})
        function = await served.post("/api/workflows", 409, json={**DOCUMENT, "name": "order"})
        assert "a function" in function["detail"]

    run(directory, test)


def test_a_cleanup_looks_before_it_removes(directory):
    async def test(served):
        for number in range(3):
            await served.start(f"e-{number}", wait_ms=20_000)
        await served.start("fails", "fails", wait_ms=20_000)
        looked = await served.post("/api/cleanup", json={"older_than_days": 0, "status": ["completed"]})
        assert (looked["dry_run"], looked["removed"], looked["total"]) == (True, {"order": 3}, 3)
        assert len((await served.get("/api/executions"))["executions"]) == 4
        wanted = {"older_than_days": 0, "status": ["completed"], "workflow": "order", "dry_run": False}
        assert (await served.post("/api/cleanup", json=wanted))["total"] == 3
        assert [each["execution_id"] for each in (await served.get("/api/executions"))["executions"]] == ["fails"]
        await served.post("/api/cleanup", 422, json={"older_than_days": 0, "status": ["running"]})
        await served.post("/api/cleanup", 422, json={"dry_run": False})
        await served.post("/api/cleanup", 422, json={"older_than_days": 1, "workflow": "../x"})

    run(directory, test)


def test_circuit_breakers_are_listed_and_reset(directory):
    async def test(served):
        await served.start("fails", "fails", wait_ms=20_000)
        (circuit,) = (await served.get("/api/circuits"))["circuits"]
        assert (circuit["step_id"], circuit["status"]) == ("refuse", "open")
        assert (await served.get("/api/circuits?workflow=fragile"))["circuits"] == []
        place = {"workflow_name": "order", "step_id": "refuse"}
        assert (await served.post("/api/circuits/reset", json=place))["status"] == "closed"
        assert [each["status"] for each in (await served.get("/api/circuits"))["circuits"]] == ["closed"]
        for wrong in ({**place, "step_id": "absent"}, {**place, "workflow_name": "absent"}):
            problem = await served.post("/api/circuits/reset", 404, json=wrong)
            assert problem["type"] == "urn:workflow:problem:circuit-not-found"
        assert not (directory / "workflows" / "absent").exists()

    run(directory, test)


def test_health_tells_of_databases_that_cannot_be_read(directory):
    async def test(served):
        await served.start("e-1", wait_ms=20_000)
        await served.start("f-1", workflow="fragile", wait_ms=20_000)
        assert (await served.get("/api/health/live")) == {"status": "ok"}
        assert (await served.get("/api/health/ready"))["databases"] == {"fragile": None, "order": None}

    run(directory, test)
    database = next((directory / "workflows" / "order").glob("*.db"))
    database.write_bytes(b"no database" * 1_000)

    async def test_damaged(served):
        ready = await served.get("/api/health/ready")
        assert ready["status"] == "degraded"
        assert ready["databases"]["fragile"] is None
        assert "order" in ready["databases"]["order"]
        (damaged,) = [each for each in (await served.get("/api/workflows"))["workflows"] if each["name"] == "order"]
        assert damaged["problem"]
        response = await served.client.get("/api/executions?workflow=order")
        assert (response.status_code, response.headers["retry-after"]) == (503, "60")
        assert response.json()["type"] == "urn:workflow:problem:storage"
        assert (await served.get("/api/executions/f-1"))["status"] == "panicked"
        for of_all in ("/api/executions", "/api/executions?search=f-1"):
            response = await served.client.get(of_all)
            assert response.status_code == 503
            assert "order.db" in response.json()["detail"]
        others = (await served.get("/api/executions?workflow=fragile"))["executions"]
        assert [each["execution_id"] for each in others] == ["f-1"]
        metrics = (await served.client.get("/api/metrics")).text
        assert 'workflow_database_up{workflow="order"} 0.0' in metrics

    run(directory, test_damaged)


def test_metrics(directory):
    async def test(served):
        await served.start("e-1", wait_ms=20_000)
        await served.start("e-2", "fails", wait_ms=20_000)
        await served.start("e-3", "sleeps")
        await served.until("e-3", "sleeping")
        response = await served.client.get("/api/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=")
        lines = response.text.splitlines()
        for expected in (
            'workflow_executions{status="completed",workflow="order"} 1.0',
            'workflow_executions{status="sleeping",workflow="order"} 1.0',
            'workflow_executions_started_total{workflow="order"} 3.0',
            'workflow_process_executions_started_total{workflow="order"} 3.0',
            'workflow_process_executions_ended_total{status="failed",workflow="order"} 1.0',
            'workflow_process_step_attempts_total{outcome="completed",workflow="order"} 3.0',
            'workflow_process_step_attempts_total{outcome="failed",workflow="order"} 1.0',
            'workflow_process_step_duration_seconds_count{workflow="order"} 4.0',
            'workflow_circuits{state="open",workflow="order"} 1.0',
            "workflow_process_executions 1.0",
        ):
            assert expected in lines
        names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
        assert len(names) == len(set(names))

    run(directory, test)


def test_a_database_of_its_own_is_served_as_well():
    import httpx

    async def main(store):
        engine = WorkflowEngine(store, settings=Settings(sync_handlers="inline"))
        define(engine)
        app = create_app(engine, ServerSettings(dashboard=False))
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                started = await client.post("/api/workflows/order/executions?wait_ms=20000", json={})
                assert started.json()["status"] == "completed"
                assert len((await client.get("/api/executions")).json()["executions"]) == 1
                assert (await client.get("/api/logs")).json() == {"lines": []}
                assert (await client.post("/api/workflows", json=DOCUMENT)).status_code == 409

    asyncio.run(main(SQLiteStore()))


# What strangers send -------------------------------------------------------------------------------------------------

NESTED = b'{"input": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        (b'{"input": "a\\u0000b"}', {200, 202}),
        (b'{"input": "\\ud800"}', {400, 422}),
        (b'{"input": {"\\udfff": 1}}', {400, 422}),
        (b'{"input": NaN}', {400}),
        (b'{"input": 1e400}', {400, 422}),
        (b'{"input": ' + b"9" * 5_000 + b"}", {400, 422}),
        (b'{"input": ' + b"9" * 400 + b"}", {200, 202, 422}),
        (b'{"timeout_ms": ' + b"9" * 400 + b"}", {422}),
        (b'{"timeout_ms": 1e300}', {422}),
        (b'{"timeout_ms": -1}', {422}),
        (b'{"timeout_ms": true}', {422}),
        (NESTED, {400}),
        (b'{"input": ' + b"[" * 150 + b"]" * 150 + b"}", {200, 202, 422}),
        (b'{"input": "\xff"}', {400}),
        (b"", {422}),
        (b"null", {422}),
        (b"[]", {422}),
        (b'{"execution_id": ""}', {422}),
        (b'{"execution_id": "../../etc/passwd"}', {422}),
        (b'{"execution_id": "a\\u0000"}', {422}),
        (b'{"execution_id": "a\\n"}', {422}),
        (b'{"execution_id": 7}', {422}),
        (b'{"retry_config": {"max_attempts": 11}}', {422}),
        (b'{"retry_config": {"max_attempts": "3"}}', {422}),
        (b'{"retry_config": {"nope": 1}}', {422}),
        (b'{"retry_config": 7}', {422}),
        (b'{"panic_config": {"restart_delay_ms": 1}}', {422}),
        (b'{"nope": 1}', {422}),
    ],
    ids=lambda value: value[:45].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_bodies_that_are_not_acceptable(directory, body, statuses):
    async def test(served):
        headers = {"content-type": "application/json"}
        response = await served.client.post("/api/workflows/order/executions", content=body, headers=headers)
        assert response.status_code in statuses, response.text
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["status"] == response.status_code
            assert (await served.get("/api/executions"))["executions"] == []

    run(directory, test)


def test_paths_and_queries_that_are_not_acceptable(directory):
    async def test(served):
        for path in (
            "/api/executions/a%2Fb",
            "/api/executions/%00",
            "/api/executions/%ff",
            "/api/executions/..%2f..%2fetc",
            "/api/executions/" + "x" * 256,
            "/api/executions/x%0Ay",
            "/api/executions?limit=99999999999999999999999",
            "/api/executions?limit=1.5",
            "/api/executions?cursor=%00",
            "/api/executions?cursor=" + "A" * 999,
            "/api/executions?status=nope",
            "/api/executions?workflow=..%2f..",
            "/api/executions?workflow=%00",
            "/api/executions?search=" + "x" * 1_001,
            "/api/executions?started_after=2026-01-01T00:00:00",
            "/api/executions?started_after=0001-01-01T00:00:00%2B14:00",
            "/api/executions?started_before=9999-12-31T23:59:59-14:00",
            "/api/executions?started_after=1e300",
            "/api/workflows/order/statistics?hours=nan",
            "/api/workflows/order/statistics?hours=inf",
            "/api/workflows/order/statistics?hours=1e-300",
            "/api/executions/e-1/history?after=99999999999999999999",
            "/api/logs?workflow=..%2f..",
            "/api/logs?lines=0",
            "/api/logs?since=0001-01-01T00:00:00%2B14:00",
            "/api/logs?since=9999-12-31T23:59:59-14:00",
            "/api/nope",
            "//api/executions",
        ):
            response = await served.client.get(path)
            assert response.status_code in {404, 422} or (response.status_code == 200 and "1e-300" in path), (
                path,
                response.text,
            )
            if response.status_code != 200:
                assert response.headers["content-type"] == "application/problem+json"
        assert (await served.get("/api/executions?search=%00"))["executions"] == []
        response = await served.client.request("TRACE", "/api/executions")
        assert (response.status_code, response.headers["content-type"]) == (405, "application/problem+json")

    run(directory, test)


def test_a_mistake_of_the_server_tells_strangers_nothing(directory, monkeypatch, caplog):
    async def test(served):
        async def broken(*_, **__):
            raise RuntimeError("the inside of the server")

        monkeypatch.setattr("workflow_core.server.api.executions.read_page", broken)
        response = await served.client.get("/api/executions")
        assert response.status_code == 500
        assert response.headers["content-type"] == "application/problem+json"
        assert "inside" not in response.text
        assert "nosniff" in response.headers["x-content-type-options"]
        assert "the inside of the server" in caplog.text

    run(directory, test)


def test_secrets_stand_in_no_answer(directory, monkeypatch):
    monkeypatch.setenv("PAYMENT_KEY", "sk-very-secret-value")

    async def test(served):
        served.engine.configure("order", secrets={"key": "env:PAYMENT_KEY"})
        await served.start("e-1", wait_ms=20_000)
        for response in (
            await served.client.post("/api/workflows/order/executions", json={"input": "sk-very-secret-value"}),
            await served.client.post("/api/workflows/order/executions", json={"execution_id": "sk-very-secret-value"}),
            await served.client.get("/api/executions/sk-very-secret-value"),
            await served.client.get("/api/executions?workflow=sk-very-secret-value!"),
        ):
            assert response.status_code >= 400
            assert "sk-very-secret-value" not in response.text, response.text

    run(directory, test)


def test_the_settings_of_a_circuit_are_not_needed_to_reset_it(directory):
    async def test(served):
        await served.start("e-1", wait_ms=20_000)
        await served.engine.set_circuit("order", "charge/../x y", "open", CircuitBreakerConfig(failure_threshold=9))
        place = {"workflow_name": "order", "step_id": "charge/../x y"}
        assert (await served.post("/api/circuits/reset", json=place))["failures"] == 0

    run(directory, test)
