"""Workflows of everyday use as documents: they load and run as they are written."""

import json

import pytest

from tests.unit.http_server import Answer, Server
from workflow_core.definitions import load_definition

CREATED = {
    "name": "my-workflow",
    "description": "My first workflow",
    "steps": [{"id": "example-step", "type": "log", "config": {"message": "Hello from workflow!"}}],
}

SIMPLE_LOG = """
{
  "name": "simple-log",
  "steps": [
    {"id": "welcome", "type": "log", "config": {"message": "Welcome to the workflow!"}},
    {"id": "wait", "type": "delay", "config": {"duration": 2000}},
    {"id": "goodbye", "type": "log", "config": {"message": "Workflow completed successfully!"}}
  ],
  "retryConfig": {"maxAttempts": 3, "backoffMs": 1000, "exponentialBackoff": true}
}
"""

API_WORKFLOW = """
{
  "name": "api-workflow",
  "steps": [
    {"id": "fetch-users", "type": "http", "config": {"url": "https://jsonplaceholder.typicode.com/users"}},
    {"id": "process-delay", "type": "delay", "config": {"duration": 1000}},
    {"id": "fetch-posts", "type": "http", "config": {"url": "https://jsonplaceholder.typicode.com/posts"}},
    {"id": "completion-log", "type": "log", "config": {"message": "Fetched users and posts"}}
  ],
  "retryConfig": {"maxAttempts": 5, "backoffMs": 2000, "exponentialBackoff": true},
  "panicConfig": {"maxRestartAttempts": 2, "restartDelayMs": 10000, "enableAutoRestart": true}
}
"""


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def test_the_workflow_that_is_made_without_a_file(workflow, caplog):
    workflow.engine.define_declarative(CREATED)
    with caplog.at_level("INFO"):
        assert workflow.run("my-workflow").status == "completed"
    assert "Hello from workflow!" in caplog.messages


def test_the_simple_log(workflow, tmp_path, workflow_clock):
    path = tmp_path / "simple-log.json"
    path.write_text(SIMPLE_LOG)
    workflow.engine.define_declarative(path)
    result = workflow.run("simple-log")
    assert list(result.steps) == ["welcome", "wait", "goodbye"]
    assert result.status == "completed"
    assert workflow_clock.monotonic() == 2


def test_the_api_workflow(workflow, server, workflow_faults):
    assert load_definition(json.loads(API_WORKFLOW)).panic_config.restart_delay_ms == 10_000
    server.on("/users", Answer(503), Answer(body='[{"id": 1}]'))
    server.on("/posts", Answer(body='[{"id": 1}, {"id": 2}]'))
    here = API_WORKFLOW.replace("https://jsonplaceholder.typicode.com", server.url("").rstrip("/"))
    workflow.engine.define_declarative(json.loads(here))
    workflow_faults.panic("fetch-posts", "out of memory")
    result = workflow.run("api-workflow")
    assert result.status == "completed"
    assert result.restart_attempt == 2
    assert [len(result.steps[step_id].result["data"]) for step_id in ("fetch-users", "fetch-posts")] == [1, 2]
    workflow.history(result).assert_backoff("fetch-users", [2_000])
    assert [request.path for request in server.requests] == ["/users", "/users", "/posts"]
