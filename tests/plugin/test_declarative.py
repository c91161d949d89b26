"""The harness on declarative workflows: virtual time, faults by step id, crashes everywhere, coverage."""

import importlib
import sys

import pytest

from pytest_workflow import StepCompleted, StepFailed, StepRetrying, StepSkipped
from tests.shared_definitions import scoped
from workflow_core import NonRetryableError, Workflow
from workflow_core.definition import SHARED_DEFINITIONS

PIPELINE = {
    "name": "declared",
    "continueOnError": True,
    "steps": [
        {"id": "left", "type": "log", "dependencies": []},
        {"id": "right", "type": "log"},
        {"id": "nap", "type": "delay", "config": {"duration": 60_000}, "dependencies": ["left"]},
        {"id": "join", "type": "log", "config": {"message": "${steps.nap.delayed}"}, "dependencies": ["nap", "right"]},
        {"id": "last", "type": "log", "config": {"message": "${input.who}"}, "dependencies": ["join"]},
    ],
    "output": {"slept": "${steps.nap.delayed}", "who": "${input.who}"},
}


@pytest.fixture
def declared(workflow):
    workflow.engine.define_declarative(PIPELINE)
    return workflow


def test_time_is_virtual(declared, workflow_clock):
    result = declared.run("declared", input={"who": "Ada"})
    assert result.output == {"slept": 60_000, "who": "Ada"}
    assert workflow_clock.monotonic() == 60
    assert result.steps["last"].result["timestamp"] == "2025-01-01T00:01:00+00:00"


def test_faults_strike_by_step_id(declared, workflow_faults):
    workflow_faults.fail("right", ConnectionError("503"), attempts=[1])
    workflow_faults.panic("join", "out of memory")
    result = declared.run("declared", input={"who": "Ada"})
    assert result.status == "completed"
    history = declared.history(result)
    assert history.of("right") == [
        StepFailed(attempt=1, error="ConnectionError"),
        StepRetrying(backoff_ms=1_000),
        StepCompleted(attempt=2),
    ]
    history.assert_restarts(1)


def test_what_needs_a_failed_step_is_skipped(declared, workflow_faults):
    workflow_faults.fail("right", NonRetryableError("410"), occurrence=1)
    result = declared.run("declared", input={"who": "Ada"})
    assert result.status == "failed"
    history = declared.history(result)
    assert history.of("join") == [StepSkipped()]
    assert history.of("last") == [StepSkipped()]
    history.assert_slept("nap", 60_000)
    again = declared.restart(result.execution_id)
    assert again.output == {"slept": 60_000, "who": "Ada"}
    declared.history(again).assert_attempts("left", 1)


@pytest.mark.workflow_crash_everywhere
def test_it_survives_any_crash(declared):
    assert declared.run("declared", input={"who": "Ada"}).status == "completed"


@pytest.mark.workflow_crash_everywhere
def test_failures_and_skips_survive_any_crash(declared, workflow_faults):
    workflow_faults.fail("right", NonRetryableError("410"))
    result = declared.run("declared", input={"who": "Ada"})
    assert result.status == "failed"
    assert {step.step_id: step.status for step in result.steps.values()} == {
        "left": "completed",
        "right": "failed",
        "nap": "completed",
        "join": "skipped",
        "last": "skipped",
    }


def test_workflow_defines_it_on_the_current_engine(workflow):
    Workflow.define_declarative({**PIPELINE, "name": "of"})
    assert "of" in workflow.engine.definitions.names()
    assert SHARED_DEFINITIONS.get("of") is None


def test_at_the_top_level_of_a_module_it_is_everyones(workflow, tmp_path, monkeypatch):
    document = {"name": "w", "steps": [{"id": "a", "type": "log"}]}
    (tmp_path / "declares.py").write_text(
        f"from workflow_core import Workflow\nWorkflow.define_declarative({document})"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "declares", raising=False)
    with scoped(empty=True):
        importlib.import_module("declares")
        assert SHARED_DEFINITIONS.names() == ["w"]
        assert workflow.run("w").status == "completed"


def test_a_new_process_that_knows_no_definition_goes_on(declared, workflow_clock):
    declared.run("declared", "e", {"who": "Ada"}, detach=True)
    workflow_clock.advance(30_000)
    declared.engine.definitions._by_name.clear()
    declared.reopen()
    assert declared.wait("e").output == {"slept": 60_000, "who": "Ada"}
    assert workflow_clock.monotonic() == 60
