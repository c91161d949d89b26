"""What the storms kill: workflows of every kind, whose steps leave a line in a file outside for each call."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from workflow_core import InvalidStateError, PanicConfig, RetryConfig, Settings, WorkflowEngine, WorkflowError, hookimpl
from workflow_core.events import Event, SleepStarted
from workflow_core.settings import default_database_url

if TYPE_CHECKING:
    from pathlib import Path

    from workflow_core import WorkflowContext

PATIENT = RetryConfig(max_attempts=10, backoff_ms=5, max_backoff_ms=20)
"""For steps that kills interrupt: as many attempts as there can be."""

KINDS = ("plain", "parallel", "retries", "handlers", "sleeps", "panics", "circuits", "fragile", "by-hand")
"""The workflows, each of which is started once in a batch."""

BY_HAND_RESTARTS = 2
"""How often a failed execution of `by-hand` is restarted by its worker."""


class Witness:
    """A file outside the engine: one line for each call of a step's function, appended by one system call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, ctx: WorkflowContext, step_id: str) -> None:
        """Leave a line: execution, step, run, attempt, process."""
        line = f"{ctx.execution_id} {step_id} {ctx.restart_attempt} {ctx.attempt} {os.getpid()}\n"
        os.write(self._file, line.encode())

    @hookimpl
    def on_event(self, event: Event) -> None:
        """Leave a line for each sleep that begins, with the moment it must end: nobody may move it."""
        if isinstance(event, SleepStarted) and event.at is not None:
            moment = event.at.timestamp() * 1_000 + event.duration_ms
            os.write(self._file, f"{event.execution_id} {event.step_id} wake {moment:.3f} {os.getpid()}\n".encode())


_witness: Witness | None = None


def _note(ctx: WorkflowContext, step_id: str) -> None:
    assert _witness is not None
    _witness.note(ctx, step_id)


async def _body(ctx: WorkflowContext, step_id: str, ms: float = 2) -> str:
    _note(ctx, step_id)
    await asyncio.sleep(ms / 1_000)
    return f"{step_id} of {ctx.execution_id}"


async def plain(ctx: WorkflowContext) -> list[str]:
    def in_thread() -> str:
        _note(ctx, "thread")
        return "thread"

    results = [await ctx.step(f"s{number}", lambda number=number: _body(ctx, f"s{number}")) for number in range(3)]
    return [*results, await ctx.step("thread", in_thread)]


async def parallel(ctx: WorkflowContext) -> list[str]:
    sides = [ctx.step(f"side{number}", lambda number=number: _body(ctx, f"side{number}", 4)) for number in range(3)]
    results = await asyncio.gather(*sides, ctx.sleep("beside", 15))
    return [*results[:3], await ctx.step("join", lambda: _body(ctx, "join"))]


async def retries(ctx: WorkflowContext) -> int:
    async def flaky() -> int:
        _note(ctx, "flaky")
        await asyncio.sleep(0.001)
        if ctx.attempt < 3:
            raise ConnectionError("try again")
        return 3

    return await ctx.step("flaky", flaky)


async def handlers(ctx: WorkflowContext) -> list[str]:
    async def failing() -> str:
        _note(ctx, "handled")
        raise KeyError("missing")

    async def on_key_error(error: Exception, context: WorkflowContext) -> str:
        inner = await context.step("inner", lambda: _body(context, "inner"))
        raise ValueError(inner)

    async def catch(error: Exception, context: WorkflowContext) -> str:
        await asyncio.sleep(0.002)
        return f"caught {type(error).__name__}"

    caught = await ctx.step("handled", failing).on_error({KeyError: on_key_error}).catch(catch)
    return [caught, await ctx.step("after", lambda: _body(ctx, "after"))]


async def sleeps(ctx: WorkflowContext) -> str:
    await ctx.step("before", lambda: _body(ctx, "before"))
    await ctx.sleep("short", 20)
    await ctx.sleep("long", 2_500)
    return await ctx.step("awake", lambda: _body(ctx, "awake"))


async def panics(ctx: WorkflowContext) -> int:
    await ctx.step("kept", lambda: _body(ctx, "kept"))

    async def exhausting() -> int:
        _note(ctx, "exhausting")
        await asyncio.sleep(0.001)
        if ctx.restart_attempt < 2:
            raise MemoryError
        return ctx.restart_attempt

    return await ctx.step("exhausting", exhausting)


async def circuits(ctx: WorkflowContext) -> str:
    async def unavailable() -> str:
        _note(ctx, "unavailable")
        raise ConnectionError("503")

    async def queue(context: WorkflowContext) -> str:
        await asyncio.sleep(0.001)
        return "queued"

    return await ctx.step("unavailable", unavailable).with_circuit_breaker(
        failure_threshold=2, reset_timeout_ms=1_000, on_open=queue
    )


async def fragile(ctx: WorkflowContext) -> list[str]:
    return [await ctx.step(f"f{number}", lambda number=number: _body(ctx, f"f{number}", 5)) for number in range(3)]


async def by_hand(ctx: WorkflowContext) -> int:
    await ctx.step("kept", lambda: _body(ctx, "kept"))

    async def refuse() -> int:
        _note(ctx, "refusing")
        if ctx.restart_attempt <= BY_HAND_RESTARTS:
            raise ValueError("not yet")
        return ctx.restart_attempt

    return await ctx.step("refusing", refuse).with_retry(RetryConfig(max_attempts=1, non_retryable=["ValueError"]))


def make_engine(directory: Path, **settings: object) -> WorkflowEngine:
    """Return an engine on a runtime directory, with all the workflows, whose witness is a file in that directory.

    With ``WORKFLOW_DATABASE_URL`` in the environment the state is there, and the directory has the witness alone.
    """
    global _witness
    _witness = Witness(directory / "witness.txt")
    options = {
        "directory": directory / "state",
        "database_url": default_database_url(),
        "database_connections": 4,
        "poll_interval_ms": 20,
        "busy_timeout_ms": 30_000,
        **settings,
    }
    engine = WorkflowEngine(plugins=[_witness], settings=Settings.model_validate(options))
    engine.define("plain", plain, retry_config=PATIENT)
    engine.define("parallel", parallel, retry_config=PATIENT)
    engine.define("retries", retries, retry_config=PATIENT)
    engine.define("handlers", handlers, retry_config=PATIENT)
    engine.define("sleeps", sleeps, retry_config=PATIENT)
    engine.define(
        "panics",
        panics,
        retry_config=PATIENT,
        panic_config=PanicConfig(enable_auto_restart=True, restart_delay_ms=1_000, max_restart_attempts=3),
    )
    engine.define("circuits", circuits, retry_config=PATIENT)
    engine.define("fragile", fragile, retry_config=RetryConfig(max_attempts=2, backoff_ms=1))
    engine.define("by-hand", by_hand, retry_config=PATIENT)
    return engine


def ids_of(batch: int) -> list[tuple[str, str]]:
    """Return the workflows and execution ids of a batch."""
    return [(kind, f"{kind}-{batch}") for kind in KINDS]


async def work(engine: WorkflowEngine, batch: int, *, last: bool = False) -> None:
    """Recover what others left, start or join a batch, and wait until all of it is at rest.

    Args:
        engine: The worker's engine.
        batch: The number of the batch. What sleeps for long, or waits for the restart after its panic, is not waited
            for, so that no worker does nothing but wait.
        last: There is no next batch: wait for everything.
    """

    async def one(name: str, execution_id: str) -> None:
        result = await engine.start_and_wait(name, execution_id)
        while name == "by-hand" and result.status == "failed" and result.restart_attempt <= BY_HAND_RESTARTS:
            with contextlib.suppress(InvalidStateError, WorkflowError):  # another worker was faster; or it failed again
                await engine.restart(execution_id)
            result = await engine.start_and_wait(name, execution_id)

    for name in ("panics", "sleeps"):
        await engine.start(name, f"{name}-{batch}", detach=True)
    await engine.recover()
    if last:
        asked = [pair for number in range(1, batch + 1) for pair in ids_of(number)]
    else:
        asked = [pair for pair in ids_of(batch) if pair[0] not in {"panics", "sleeps"}]
    await asyncio.gather(*(one(name, execution_id) for name, execution_id in asked))
