"""The executions that run in an engine: each is driven until it is at rest, and tells those who wait for it.

An execution runs in the event loop that launched it; other threads may ask for it, and wait for it from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from workflow_core.claims import Claims
from workflow_core.clock import from_epoch_ms
from workflow_core.database.dispatch import Dispatches
from workflow_core.describing import described
from workflow_core.ending import fail
from workflow_core.errors import ExecutionNotFoundError, InvalidStateError, LeaseLostError, StorageError
from workflow_core.event_loops import running_loop
from workflow_core.models import TERMINAL_STATUSES, ExecutionResult
from workflow_core.outcome import Outcome
from workflow_core.restarting import restarted
from workflow_core.stored import complete_log, load_record, stored_result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workflow_core.claims import Claim
    from workflow_core.engine import WorkflowEngine
    from workflow_core.execution import Execution
    from workflow_core.hookspecs import Leaving
    from workflow_core.log_files import LogFiles


__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["Active", "RunningExecutions"]

logger = logging.getLogger("workflow_core")

_PARK_AGAIN_MS = 500
"""After which time an execution is tried again to be let go of while its database is away."""


@dataclass(eq=False, slots=True)
class Active:
    """An execution that runs in this engine.

    Attributes:
        first: The result of the first run of the handler, or the error that ended it.
        final: The result once the execution is at rest.
        cancelled: Whether it was cancelled in this engine.
        lost: Whether it changed hands, or ended elsewhere.
        job: The task of a worker that waits for it, and is cancelled before it is; ``None`` if no worker runs it.
        restart_now: Set to restart it before its time, while it waits for an automatic restart; ``None`` otherwise.
        between_runs: Set when no run of the handler is under way, and all observers have been told how it ended.
        parked_until: Until when it is let go of, in milliseconds since 1970, for a worker to go on with it.
        trouble: What keeps it from going on at the moment, once those who wait for it were told.
    """

    execution: Execution
    loop: asyncio.AbstractEventLoop
    first: Outcome[ExecutionResult] = field(default_factory=Outcome)
    final: Outcome[ExecutionResult] = field(default_factory=Outcome)
    task: asyncio.Task[None] | None = None
    cancelled: bool = False
    lost: bool = False
    job: asyncio.Task[Any] | None = None
    parked_until: int | None = None
    restart_now: asyncio.Event | None = None
    between_runs: asyncio.Event = field(default_factory=asyncio.Event)
    trouble: StorageError | None = None

    def finish_first(self, result: ExecutionResult | BaseException) -> None:
        """Settle what `start` waits for, unless it is settled."""
        self.first.settle(result)

    def renew_first(self) -> None:
        """Let whoever joins from now on wait for the next run, unless somebody waits for it already."""
        if self.first.is_settled:
            self.first = Outcome()

    def tell(self, error: StorageError | None) -> None:
        """Raise an error to all who wait now, if there is one; who comes later waits for the execution again."""
        self.trouble = error
        if error is None:
            return
        first_was_open = not self.first.is_settled
        self.finish(error)
        self.final = Outcome()
        if first_was_open:
            self.first = Outcome()

    def finish(self, result: ExecutionResult | BaseException) -> None:
        """Settle everything that is waited for."""
        self.first.settle(result)
        self.final.settle(result)


class RunningExecutions:
    """The executions that run in one engine.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: WorkflowEngine) -> None:
        self._engine = engine
        self._active: dict[str, Active] = {}
        self._claims = Claims(engine.clock)

    def __len__(self) -> int:
        return len(self._active)

    def __iter__(self) -> Iterator[Active]:
        return iter(list(self._active.values()))

    def forked(self) -> None:
        """What the parent process runs does not run in its child."""
        self._active, self._claims = {}, Claims(self._engine.clock)

    def tasks(self) -> list[asyncio.Task[None]]:
        """Return the tasks in which executions run."""
        return [active.task for active in self if active.task is not None]

    def find(self, execution_id: str) -> Active | None:
        """Return an execution that runs in this engine; one whose event loop was closed does not run any more."""
        active = self._active.get(execution_id)
        if active is not None and active.loop.is_closed():
            del self._active[execution_id]
            return None
        return active

    def claimed(self, execution_id: str) -> Claim:
        """Keep other threads, and other tasks, from beginning the same execution in this engine meanwhile."""
        return self._claims.of(execution_id)

    @staticmethod
    async def let_begin() -> None:
        """Let tasks begin that were made: one that is cancelled before it has begun cannot tell anybody."""
        await asyncio.sleep(0)  # they were scheduled before this task goes on

    def drives(self, execution: Execution) -> bool:
        """Tell whether a run of an execution is under way here."""
        active = self._active.get(execution.execution_id)
        return active is not None and active.execution is execution

    async def without(self, active: Active) -> Active | None:
        """Wait until an execution has ended here that changed hands since; return what runs of it then.

        It may be about to end: what gives it back is committed, and the answer is not there yet.
        """
        if active.task is not None and active.loop is asyncio.get_running_loop():
            active.lost = True
            active.task.cancel()
            await asyncio.wait([active.task])
        return self.find(active.execution.execution_id)

    def park(self, execution: Execution, until: int) -> None:
        """Let go of an execution that rests until a moment, in milliseconds since 1970."""
        active = self._active.get(execution.execution_id)
        if active is None or active.execution is not execution or active.task is None or active.cancelled:
            return
        active.parked_until = until
        execution.is_let_go = True
        execution.doomed(asyncio.CancelledError(f"{execution} waits, and a worker goes on with it"))
        active.task.cancel()

    def tell_waiters(self, execution: Execution, error: StorageError | None) -> None:
        """Raise an error to all who wait for an execution, which goes on all the same.

        Args:
            execution: The execution.
            error: What keeps it from going on; ``None`` when nothing does any more.
        """
        active = self._active.get(execution.execution_id)
        if active is not None and active.execution is execution:
            active.tell(error)

    async def status(self, execution_id: str) -> ExecutionResult:
        """Return what is known of an execution now, whether it runs here or not.

        Raises:
            ValidationError: The id is not acceptable.
            ExecutionNotFoundError: There is no such execution.
        """
        record = await load_record(self._engine, execution_id)
        active = self.find(record.execution_id)
        if active is not None and active.loop is running_loop():
            return active.execution.snapshot()
        return await stored_result(self._engine, record)

    def launch(self, execution: Execution) -> Active:
        """Let an execution run, in this event loop."""
        loop = asyncio.get_running_loop()
        if self._engine.log_files is not None:
            self._engine.log_files.begin(loop)
        active = Active(execution, loop)
        self._active[execution.execution_id] = active
        active.task = self._engine.create_task(self._drive(active), f"workflow {execution.execution_id}")
        execution.task = active.task
        active.task.add_done_callback(functools.partial(self._settled, active))
        return active

    def _settled(self, active: Active, task: asyncio.Task[None]) -> None:
        """Let nobody wait for an execution whose task has ended, be it that it was cancelled before it had begun."""
        if not task.cancelled():
            task.exception()  # marks it as seen: who waits for the execution meets it, and nobody asks the task
        if not active.final.is_settled:
            active.finish(_interrupted(active.execution))
        self._forget(active)
        active.between_runs.set()
        active.execution.untie()

    def _forget(self, active: Active) -> None:
        if self._active.get(active.execution.execution_id) is active:
            del self._active[active.execution.execution_id]

    async def _drive(self, active: Active) -> None:
        """Run an execution until it is at rest, restarting it after panics."""
        try:
            await self._run_to_rest(active)
            if self._engine.log_files is not None:
                await self._write_log(self._engine.log_files, active.execution)
            active.finish(active.execution.snapshot())
        except asyncio.CancelledError:
            await self._cut_off(active)
        except LeaseLostError:
            active.finish(await self._result_after_loss(active))
        except BaseException as error:
            active.finish(error)
            # Only an orderly stop gives the attempt back: what breaks out otherwise has used it up, like any crash.
            orderly = isinstance(error, Exception) or (
                isinstance(error, (KeyboardInterrupt, GeneratorExit)) and active.job is None
            )
            await self._release(active.execution, give_back=orderly)
            if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
                raise
            if not self._engine.closed:
                logger.exception("%s stopped and can be resumed", active.execution)
        finally:
            self._forget(active)
            if self._engine.log_files is not None:
                self._engine.log_files.flush()

    async def _cut_off(self, active: Active) -> None:
        """Leave an execution whose task was cancelled; who waits for it is told, and nobody asks the task itself."""
        if active.cancelled or active.lost:
            active.finish(await self._result_after_loss(active))
        elif active.parked_until is not None:
            await self._park(active, active.parked_until)
        elif active.execution.status in TERMINAL_STATUSES:  # only its observers were cut off
            active.finish(active.execution.snapshot())
        else:
            await self._release(active.execution, give_back=self._is_stopped_by_others(active))
            active.finish(_interrupted(active.execution))

    def _is_stopped_by_others(self, active: Active) -> bool:
        """Tell whether a cancellation is an orderly stop, rather than one that a worker's execution caused itself.

        Such a one would be given back, and cause it again, without an end. In programs that are no workers nobody
        begins it again by himself.
        """
        if active.job is None or active.job.cancelling() or self._engine.closed:
            return True
        logger.error("%s has cancelled its own task; the attempt in flight is used up", active.execution)
        return False

    async def _write_log(self, files: LogFiles, execution: Execution) -> None:
        """Write what was logged of an execution that has come to rest, and what could not be written before."""
        files.flush()
        incomplete = files.incomplete.get(execution.definition.name)
        if incomplete:
            for execution_id in list(incomplete):
                await complete_log(self._engine, replace(execution.record, execution_id=execution_id))
                if execution_id in incomplete:
                    return

    async def _run_to_rest(self, active: Active) -> None:
        extensions = self._engine.extensions
        while True:
            execution = active.execution
            await self._open(execution)
            if execution.hopeless is not None:
                await fail(execution, execution.hopeless)
                active.finish_first(execution.hopeless)
                return
            if execution.status != "panicked":
                error = await execution.run()
                if error is None:
                    return
                if extensions.is_fatal(error):
                    active.finish(error)
                    return
                active.finish_first(error)
            if execution.status != "panicked" or execution.record.restart_at is None:
                return
            if not await self._waited_for_restart(active, execution.record.restart_at):
                return
            if execution.deadline_has_passed():
                await fail(execution, execution.timed_out())
                return
            active.renew_first()
            active.execution = await restarted(execution)
            active.execution.task = active.task

    async def _open(self, execution: Execution) -> None:
        """Tell the observers of a run, before anything of it runs."""
        extensions = self._engine.extensions
        if extensions.wraps_runs:
            execution.description = described(execution)
            execution.run_wrappers = extensions.run_wrappers(execution.description)
        if execution.opening is not None:
            await execution.tell(execution.opening)

    async def _park(self, active: Active, until: int) -> None:
        """Let go of an execution of which nothing is under way, until a moment at which a worker goes on with it."""
        execution = active.execution
        store = self._engine.bare_store
        at = execution.now()
        while isinstance(store, Dispatches):
            try:
                await store.execution_parked(execution.lease, until, at)
            except (StorageError, LeaseLostError) as error:  # in the end its job is missed, and made again
                logger.debug("%s could not be let go of: %s", execution, error)
                if isinstance(error, StorageError) and error.is_transient:
                    await self._engine.clock.sleep(_PARK_AGAIN_MS)
                    continue
            break
        self._leave(execution, "released")
        active.finish(LeaseLostError(f"{execution} waits, and a worker goes on with it", execution.execution_id))

    async def _waited_for_restart(self, active: Active, restart_at: int) -> bool:
        """Wait until a restart, or the deadline, is due; ``False`` if the execution was let go of instead."""
        deadline_at = active.execution.record.deadline_at
        due = restart_at if deadline_at is None else min(restart_at, deadline_at)
        if active.execution.record.queue is not None and self._engine.parks_until(due):
            active.parked_until = due
            await self._park(active, due)
            return False
        active.restart_now = asyncio.Event()
        event = active.restart_now
        active.between_runs.set()
        handle = self._engine.clock.call_at(from_epoch_ms(due), event.set)
        try:
            await event.wait()
        finally:
            handle.cancel()
            active.restart_now = None
            active.between_runs.clear()
        return True

    async def hand_back(self) -> None:
        """Give back what runs in this event loop, without waiting until it has ended: it cannot write any more."""
        here = asyncio.get_running_loop()
        await asyncio.gather(
            *(self._release(active.execution, give_back=True) for active in self if active.loop is here)
        )

    async def _release(self, execution: Execution, *, give_back: bool) -> None:
        """Give an execution back that this process will not go on with, and if asked for the attempt in flight."""
        with contextlib.suppress(StorageError, LeaseLostError):
            await execution.store.execution_released(execution.lease, give_back, execution.now())
        self._leave(execution, "released" if give_back else "interrupted")

    def _leave(self, execution: Execution, leaving: Leaving) -> None:
        if execution.description is not None:
            self._engine.extensions.announce_leaving(execution.description, leaving)

    async def _result_after_loss(self, active: Active) -> ExecutionResult | BaseException:
        execution_id = active.execution.execution_id
        self._forget(active)
        try:
            result = await self.status(execution_id)
        except (StorageError, ExecutionNotFoundError) as error:
            self._leave(active.execution, "lost")
            return error
        self._leave(active.execution, "cancelled" if result.status == "cancelled" else "lost")
        if result.status in TERMINAL_STATUSES:
            return result
        return LeaseLostError(f"{active.execution}: another process has taken it over", execution_id)


def _interrupted(execution: Execution) -> InvalidStateError:
    return InvalidStateError(f"{execution}: the engine stopped before it ended; resume() or recover() goes on with it")
