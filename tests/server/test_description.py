"""The API keeps to its description: no request brings an answer that is not described, or a mistake of the server."""

import asyncio
import socket
import threading

import hypothesis
import pytest
import uvicorn
from hypothesis import HealthCheck

from workflow_core import Settings, WorkflowEngine
from workflow_core.models import CircuitBreakerConfig
from workflow_core.server import ServerSettings, create_app

from .conftest import define

EXAMPLES = 10
STREAMS = {"/api/events", "/api/executions/{execution_id}/events"}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server in a thread, with executions of all kinds."""
    engine = WorkflowEngine(settings=Settings(directory=tmp_path_factory.mktemp("described"), sync_handlers="inline"))
    define(engine)
    app = create_app(engine, ServerSettings(dashboard=False, changes_per_minute=1_000_000))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
    ready = threading.Event()

    async def main():
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        for kind in ("completes", "fails", "sleeps"):
            await engine.start("order", kind, {"kind": kind}, detach=True)
        await engine.start("fragile", "panics", detach=True)
        await engine.set_circuit("order", "charge", "open", CircuitBreakerConfig(failure_threshold=2))
        ready.set()
        await serving

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(20)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def schema(address):
    import schemathesis  # takes much of a second, and not every process runs these tests

    return schemathesis.openapi.from_url(f"{address}/api/openapi.json")


@pytest.fixture(scope="module")
def checks():
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    return [
        not_a_server_error,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
        checks.status_code_conformance,
    ]


def operations():
    app = create_app(WorkflowEngine(), ServerSettings(dashboard=False))
    return [
        (path, method) for path, methods in app.openapi()["paths"].items() for method in methods if path not in STREAMS
    ]


@pytest.mark.parametrize(("path", "method"), operations(), ids=lambda value: value.strip("/"))
def test_every_answer_is_one_that_is_described(schema, checks, path, method):
    import schemathesis

    operation = schema[path][method]
    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
        if mode.is_negative and not (list(operation.iter_parameters()) or operation.body):
            continue

        @hypothesis.settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def check(case):
            given = case.path_parameters or {}
            number = len(str(given))
            if "execution_id" in given and number % 2:  # those that there are, as often as those that there are not
                given["execution_id"] = ("completes", "fails", "sleeps", "panics")[number % 4]
            if "name" in given and number % 2:
                given["name"] = "order"
            case.call_and_validate(checks=checks)

        check()
