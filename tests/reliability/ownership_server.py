"""Forks processes that want the same executions at the same moment; prints what each of them was told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from workflow_core import InvalidStateError, Settings, WorkflowContext, WorkflowEngine

LONGEST_SECONDS = 90.0


class Process:
    """What one process of these tests has.

    Args:
        directory: The directory that all share.
    """

    def __init__(self, directory: Path, **settings: object) -> None:
        self.directory = directory
        self.witness = os.open(directory / "witness.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        options = {"directory": directory / "state", "poll_interval_ms": 50, "busy_timeout_ms": 30_000, **settings}
        self.engine = WorkflowEngine(settings=Settings.model_validate(options))
        self.engine.define("w", self.workflow)
        self.engine.define("held", self.held)

    def note(self, ctx: WorkflowContext, step_id: str) -> int:
        os.write(self.witness, f"{ctx.execution_id} {step_id} {ctx.attempt} {os.getpid()}\n".encode())
        return os.getpid()

    async def workflow(self, ctx: WorkflowContext) -> list[int]:
        first = await ctx.step("first", lambda: self.note(ctx, "first"))
        await ctx.sleep("rest", 100)
        second, third = await asyncio.gather(
            ctx.step("second", lambda: self.note(ctx, "second")), ctx.step("third", lambda: self.note(ctx, "third"))
        )
        return [first, second, third]

    async def held(self, ctx: WorkflowContext) -> int:
        async def wait() -> int:
            pid = self.note(ctx, "wait")
            while ctx.attempt == 1 and not (self.directory / "go").exists():
                await asyncio.sleep(0.005)
            return pid

        pid = await ctx.step("wait", wait)
        await ctx.step("after", lambda: self.note(ctx, "after"))
        return pid


def fork(directory: Path, name: str, work: object, **settings: object) -> int:
    """Run ``work(process)`` in a child; what it returns, or raises, goes to a file."""
    pid = os.fork()
    if pid:
        return pid
    answer: dict[str, object] = {}
    try:
        handler = logging.FileHandler(directory / "complaints.txt", delay=True)
        handler.setLevel(logging.ERROR)
        logging.getLogger("workflow_core").addHandler(handler)
        answer["result"] = asyncio.run(work(Process(directory, **settings)))  # type: ignore[operator]
    except BaseException:
        answer["error"] = traceback.format_exc()
    finally:
        (directory / f"{name}.part").write_text(json.dumps(answer), encoding="utf-8")
        (directory / f"{name}.part").rename(directory / f"{name}.json")
        os._exit(0)


def answers(directory: Path, processes: dict[str, int]) -> dict[str, object]:
    """Wait for the processes, and return what each answered; those that hang are killed and say so."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline and not all((directory / f"{name}.json").exists() for name in processes):
        time.sleep(0.01)
    found: dict[str, object] = {}
    for name, pid in processes.items():
        path = directory / f"{name}.json"
        found[name] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"error": "it hangs"}
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return found


def same_executions(directory: Path, processes: int, executions: int) -> dict[str, object]:
    """Let processes start, resume and recover the same executions at once, half of which were interrupted before."""
    ids = [f"e{number}" for number in range(executions)]

    async def victim(process: Process) -> None:
        for execution_id in ids[::2]:
            await process.engine.start("w", execution_id, detach=True)
        while any(
            record.status != "sleeping" for record in await process.engine.store.list_executions(limit=executions)
        ):
            await asyncio.sleep(0.005)
        os.kill(os.getpid(), signal.SIGKILL)

    pid = fork(directory, "victim", victim)
    os.waitpid(pid, 0)
    if (directory / "victim.json").exists():  # it ended by itself
        return {"victim": json.loads((directory / "victim.json").read_text(encoding="utf-8"))}
    start_at = time.time() + 0.3

    async def contender(process: Process) -> str:
        await asyncio.sleep(start_at - time.time())
        mine = ids.copy()
        random.Random(os.getpid()).shuffle(mine)

        async def want(number: int, execution_id: str) -> object:
            if number % 4 == 0:
                try:
                    return (await process.engine.resume(execution_id)).output
                except (InvalidStateError, LookupError):
                    pass  # it runs elsewhere, or has ended, or has not been started yet
            return (await process.engine.start("w", execution_id)).output

        results, _ = await asyncio.gather(
            asyncio.gather(*(want(number, execution_id) for number, execution_id in enumerate(mine))),
            process.engine.recover(),
        )
        outputs = sorted(zip(mine, results, strict=True))
        await process.engine.aclose()
        return hashlib.sha256(json.dumps(outputs).encode()).hexdigest()

    return answers(
        directory,
        {f"contender-{number}": fork(directory, f"contender-{number}", contender) for number in range(processes)},
    )


def stopped(directory: Path) -> dict[str, object]:
    """Stop a process in a step until another has taken its execution over and ended it, and let it go on then."""

    async def first(process: Process) -> object:
        result = await process.engine.start_and_wait("held", "e")
        return {"pid": os.getpid(), "output": result.output, "status": result.status}

    async def second(process: Process) -> object:
        while not await process.engine.recover():
            await asyncio.sleep(0.01)
        result = await process.engine.wait("e")
        return {"pid": os.getpid(), "output": result.output, "status": result.status}

    one = fork(directory, "first", first, lease_ms=1_000)
    while not (directory / "witness.txt").exists() or not (directory / "witness.txt").stat().st_size:
        time.sleep(0.005)
    os.kill(one, signal.SIGSTOP)
    found = answers(directory, {"second": fork(directory, "second", second, lease_ms=1_000)})
    (directory / "go").touch()
    os.kill(one, signal.SIGCONT)
    return {**found, **answers(directory, {"first": one})}


def main() -> None:
    directory = Path(sys.argv[1])
    if sys.argv[2] == "stopped":
        found = stopped(directory)
    else:
        found = same_executions(directory, int(sys.argv[3]), int(sys.argv[4]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
