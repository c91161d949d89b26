"""The command in this process, on a runtime directory of the test's own."""

import json
import os
import sys
import uuid
from dataclasses import dataclass

import pytest

from tests.shared_definitions import scoped
from workflow_core.cli.application import run

SHOP = '''
"""Workflows of a shop."""

import pydantic

from workflow_core import PanicConfig, RetryConfig, Workflow, WorkflowContext


class NetworkError(Exception):
    """Nobody answers."""


def outage(message):
    raise NetworkError(message)


@Workflow.define("order", retry_config=RetryConfig(max_attempts=4, backoff_ms=0))
async def order(ctx: WorkflowContext):
    """Process an order."""
    print("noise on stdout")

    def charge():
        if ctx.attempt < 3:
            outage("503")
        return {"tx": "t-1"}

    await ctx.step("charge", charge).with_circuit_breaker(failure_threshold=5, reset_timeout_ms=1_000)
    await ctx.sleep("settle", 1)
    return await ctx.step("receipt", lambda: {"order": ctx.execution_id, "input": ctx.input})


@Workflow.define("declined", retry_config=RetryConfig(max_attempts=1))
async def declined(ctx: WorkflowContext):
    await ctx.step("look", lambda: 1)
    await ctx.step("charge", lambda: outage("declined \\x1b[31m for good\\n\\tAsk the bank"))


@Workflow.define("fragile", panic_config=PanicConfig(enable_auto_restart=False))
async def fragile(ctx: WorkflowContext):
    await ctx.step("look", lambda: 1)
    if ctx.restart_attempt == 1:
        raise MemoryError("out of memory")
    return "survived"


class Order(pydantic.BaseModel):
    amount: int


@Workflow.define("typed")
async def typed(ctx: WorkflowContext[Order]):
    return ctx.input.amount


@Workflow.define("night")
async def night(ctx: WorkflowContext):
    await ctx.step("dusk", lambda: 1)
    await ctx.sleep("sleep", 100_000)
'''


@dataclass
class Done:
    """What a call of the command did."""

    code: int
    out: str
    err: str

    @property
    def data(self):
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKFLOW_DIR", str(tmp_path / "state"))
    for name in ("WORKFLOW_APP", "LOG_LEVEL", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "state"


@pytest.fixture(autouse=True)
def _own_workflows():
    """Know no workflow of other tests, and leave none to them."""
    with scoped(empty=True):
        yield


@pytest.fixture
def make_app(tmp_path, monkeypatch):
    """Write a module that no other test has imported."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = []

    def make(text=SHOP, name=None):
        name = name or f"shop_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(text)
        made.append(name)
        return name

    yield make
    for name in made:
        sys.modules.pop(name, None)


@pytest.fixture
def app(make_app, monkeypatch):
    name = make_app()
    monkeypatch.setenv("WORKFLOW_APP", name)
    return name


@pytest.fixture
def cli(capsys, monkeypatch):
    # An interrupted command ends its process at once while threads live, here those of other tests.
    monkeypatch.setattr(os, "_exit", lambda code: None)

    def call(*arguments):
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture
def shop_text():
    return SHOP
