"""A process for the tests of process death: runs one workflow on a directory, and tells what it does on stdout."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from workflow_core import WorkflowContext, WorkflowEngine, hookimpl
from workflow_core.events import Event, StepEvent


class Teller:
    """Prints every event, so that the test knows when to strike."""

    @hookimpl
    def on_event(self, event: Event) -> None:
        step = event.step_id if isinstance(event, StepEvent) else ""
        print(type(event).__name__, step, flush=True)


def make_engine(witness: Path) -> WorkflowEngine:
    """Return an engine with the workflows that the tests kill."""
    engine = WorkflowEngine(plugins=[Teller()])

    def note(line: str) -> None:
        with witness.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    @engine.define("victim")
    async def victim(ctx: WorkflowContext) -> str:
        await ctx.step("first", lambda: note("first"))

        async def slow() -> int:
            note(f"slow {ctx.attempt}")
            if ctx.input == "hang" and ctx.attempt == 1:
                await asyncio.sleep(600)
            return ctx.attempt

        attempt = await ctx.step("slow", slow)
        await ctx.sleep("rest", 10 if ctx.input == "hang" else 2_000)  # long enough to be killed in it
        await ctx.step("last", lambda: note("last"))
        return f"attempt {attempt}"

    @engine.define("suicidal")
    async def suicidal(ctx: WorkflowContext) -> None:
        async def die() -> None:
            note(f"die {ctx.attempt}")
            os.kill(os.getpid(), signal.SIGKILL)

        await ctx.step("die", die)

    @engine.define("leaving")
    async def leaving(ctx: WorkflowContext) -> None:
        def leave() -> None:
            note(f"leave {ctx.attempt}")
            sys.exit(3)

        await ctx.step("leave", leave)

    return engine


async def main(command: str, witness: Path, workflow: str, execution_id: str, argument: str | None) -> None:
    """Run one command: start, or recover everything and wait for it."""
    engine = make_engine(witness)
    task = asyncio.current_task()
    if task is not None:
        # Unlike the handler that asyncio.run installs, this one also wakes a loop that is about to wait.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
    if command == "start":
        result = await engine.start_and_wait(workflow, execution_id, argument)
        print("RESULT", result.status, result.output, flush=True)
    else:
        taken = await engine.recover()
        for taken_id in taken:
            result = await engine.wait(taken_id)
            print("RESULT", result.status, result.output, flush=True)
        print("TAKEN", len(taken), flush=True)
    await engine.aclose()


if __name__ == "__main__":
    given = sys.argv[1:]
    asyncio.run(main(given[0], Path(given[1]), given[2], given[3], given[4] if len(given) > 4 else None))
