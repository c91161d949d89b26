"""Forks processes that recover executions which end their process every time, until all is at rest.

Called with a directory; prints for each kind of poison what became of each execution, and how many processes it took.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from workflow_core import RetryConfig, Settings, WorkflowContext, WorkflowEngine

MOST_PROCESSES = 40
INNOCENT = 4
ONCE = RetryConfig(max_attempts=1)


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(*_: object) -> None:
    sys.exit(3)


def fail() -> None:
    raise ConnectionError("503")


async def in_code(ctx: WorkflowContext) -> None:
    die()


async def in_code_by_exit(ctx: WorkflowContext) -> None:
    leave()


async def in_code_between_steps(ctx: WorkflowContext) -> None:
    await ctx.step("before", lambda: 1)
    await ctx.sleep("rest", 1)
    die()


async def in_step(ctx: WorkflowContext) -> None:
    await ctx.step("s", die)


async def in_on_error(ctx: WorkflowContext) -> None:
    await ctx.step("s", fail).on_error({ConnectionError: die})


async def in_catch(ctx: WorkflowContext) -> None:
    await ctx.step("s", fail).on_error({"ConnectionError": lambda error, context: fail()}).catch(die)


async def in_on_open(ctx: WorkflowContext) -> None:
    step = ctx.step("s", fail).with_retry(RetryConfig(max_attempts=5, backoff_ms=0))
    await step.with_circuit_breaker(failure_threshold=1, reset_timeout_ms=60_000, on_open=die)


POISONS = [in_code, in_code_by_exit, in_code_between_steps, in_step, in_on_error, in_catch, in_on_open]


async def innocent(ctx: WorkflowContext) -> str:
    await asyncio.sleep(0.01)  # the poison has struck before this one gets on, if both began together
    return await ctx.step("s", lambda: "well")


async def work(directory: Path, poison: str) -> None:
    settings = Settings(directory=directory / "state", poll_interval_ms=20, max_recoveries=2)
    engine = WorkflowEngine(settings=settings)
    engine.define("poison", next(handler for handler in POISONS if handler.__name__ == poison))
    engine.define("innocent", innocent)
    names = [*(("innocent", f"i{number}") for number in range(INNOCENT // 2)), ("poison", "p")]
    names += [("innocent", f"i{number}") for number in range(INNOCENT // 2, INNOCENT)]
    known = {record.execution_id for record in await engine.store.list_executions()}
    taken = await engine.recover()
    for name, execution_id in names:
        if execution_id not in known:
            await engine.start(name, execution_id, detach=True)
    results = [await engine.wait(execution_id) for _, execution_id in names]
    assert not taken or set(taken) <= known
    history = [type(event).__name__ for event in await engine.history("p")]
    with (directory / "results.json").open("w", encoding="utf-8") as file:
        json.dump(
            {
                "statuses": {result.execution_id: result.status for result in results},
                "error": str(results[INNOCENT // 2].error),
                "recoveries": history.count("ExecutionRecovered"),
            },
            file,
        )
    os._exit(0)


def ended_by(directory: Path, poison: str) -> dict[str, object]:
    """Let processes follow each other until one lives to the end."""
    directory.mkdir()
    processes = 0
    while not (directory / "results.json").exists() and processes < MOST_PROCESSES:
        processes += 1
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(work(directory, poison))
            finally:
                os._exit(4)
        os.waitpid(child, 0)
    if processes == MOST_PROCESSES:
        return {"processes": processes}
    return {**json.loads((directory / "results.json").read_text(encoding="utf-8")), "processes": processes}


def main() -> None:
    found = {poison.__name__: ended_by(Path(sys.argv[1]) / poison.__name__, poison.__name__) for poison in POISONS}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
