"""Simulated processes: each engine of a test is one; it can die in the middle, and another goes on after it."""

from __future__ import annotations

import asyncio
import contextvars
import uuid
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

from pytest_workflow.loops import background as in_background
from pytest_workflow.threads import process
from workflow_core.engine import WorkflowEngine
from workflow_core.errors import InvalidStateError
from workflow_core.ownership import Owner
from workflow_core.timeouts import cancelled_from_outside

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from pytest_workflow.clock import VirtualClock
    from pytest_workflow.failures import AssertionFailures
    from workflow_core.execution import Execution
    from workflow_core.models import ExecutionResult
    from workflow_core.running import Active

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["MortalEngine", "SimulatedCrash", "SimulatedProcesses", "Successor", "execution_ids"]

_T = TypeVar("_T")
_P = ParamSpec("_P")


class SimulatedCrash(BaseException):
    """The simulated process dies here: what runs in it unwinds, and nothing of it reaches the database any more."""


class SimulatedProcesses:
    """The processes of one test, for the engine's ownership checks: each lives until it is dropped."""

    def __init__(self) -> None:
        self._count = 0
        self._alive: set[str] = set()

    def make_owner(self) -> Owner:
        """Start a process."""
        self._count += 1
        owner = Owner(host="pytest", pid=self._count, process_started="")
        self._alive.add(owner.owner_id)
        return owner

    def has_ended(self, owner: Owner) -> bool | None:
        """Tell whether a process was dropped."""
        return owner.owner_id not in self._alive

    def is_stopped(self, owner: Owner) -> bool:
        """Tell whether a process is stopped; none ever is."""
        del owner
        return False

    def end(self, owner: Owner) -> None:
        """Let a process die."""
        self._alive.discard(owner.owner_id)


class Successor(Protocol):
    """Knows which engine goes on after a crashed one, and what the executions of all of them came to.

    Attributes:
        clock: The time that all engines of a test share.
        engine: The engine that runs now.
        failures: The assertions that failed in executions.
        never_awaited: What was found of steps that their handlers did not await.
    """

    clock: VirtualClock
    engine: MortalEngine
    failures: AssertionFailures
    never_awaited: list[str]

    async def recovered(self) -> None:
        """Wait until the engine that runs now has recovered what its predecessor left."""

    def next_execution_id(self) -> str:
        """Return an id for an execution that was started without one."""


def _outlives(
    method: Callable[Concatenate[WorkflowEngine, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[MortalEngine, _P], Coroutine[Any, Any, _T]]:
    """Let a call from the test's own code go on with the next engine when this one crashes under it."""

    async def outliving(self: MortalEngine, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._outlive(lambda engine: method(engine, *args, **kwargs))

    outliving.__name__, outliving.__doc__ = method.__name__, f"As `WorkflowEngine.{method.__name__}`."
    return outliving


def _begins(
    method: Callable[Concatenate[WorkflowEngine, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[MortalEngine, _P], Coroutine[Any, Any, _T]]:
    """As `_outlives`, for a call that begins an execution: an id that is made is the same in each run of a test."""
    outliving: Callable[..., Coroutine[Any, Any, _T]] = _outlives(method)

    async def begin(
        self: MortalEngine,
        name: str,
        execution_id: str | None = None,
        *args: Any,  # noqa: ANN401 - those of the method
        **kwargs: Any,  # noqa: ANN401 - those of the method
    ) -> _T:
        chosen = self.successor.next_execution_id() if execution_id is None else execution_id
        return await outliving(self, name, chosen, *args, **kwargs)

    begin.__name__, begin.__doc__ = method.__name__, f"As `WorkflowEngine.{method.__name__}`."
    return cast("Callable[Concatenate[MortalEngine, _P], Coroutine[Any, Any, _T]]", begin)


class MortalEngine(WorkflowEngine):
    """An engine whose callers live on when it crashes, as the clients of a service do: they ask its successor.

    Attributes:
        crashed: Whether it crashed.
        successor: Knows which engine goes on.
    """

    crashed = False
    locates_steps = True
    successor: Successor

    def check_event_loop(self) -> None:
        """Refuse an event loop that cannot run on virtual time, too."""
        super().check_event_loop()
        self.successor.clock.attach(asyncio.get_running_loop())

    def step_never_awaited(self, message: str) -> None:
        """Note a step that its handler did not await: the test fails of it."""
        self.successor.never_awaited.append(message)

    def launch(self, execution: Execution) -> Active:
        """As `WorkflowEngine.launch`; threads and timers of the execution's are known as this process's, too."""
        active = self._context().run(super().launch, execution)
        active.final.when_settled(self.successor.failures.note_end)
        return active

    def create_task(
        self, coroutine: Coroutine[Any, Any, _T], name: str, *, background: bool = False
    ) -> asyncio.Task[_T]:
        """As `WorkflowEngine.create_task`; the task is known as this process's, and as one that nobody waits for."""
        return self._context(background=background).run(super().create_task, coroutine, name)

    def _context(self, *, background: bool = False) -> contextvars.Context:
        context = contextvars.copy_context()
        context.run(process.set, self)
        if background:
            context.run(in_background.set, background)
        return context

    async def _outlive(
        self,
        operation: Callable[[WorkflowEngine], Awaitable[_T]],
        again: Callable[[WorkflowEngine], Awaitable[_T]] | None = None,
    ) -> _T:
        await self.successor.recovered()
        engine: MortalEngine = self.successor.engine if self.crashed else self
        while True:
            try:
                return await operation(engine)
            except BaseException:
                if not engine.crashed or cancelled_from_outside():  # the crashed process's own code dies with it
                    raise
            engine = self.successor.engine
            await self.successor.recovered()
            operation = again or operation

    def dispatching_store(self) -> None:
        """No worker serves a test: what it enqueues begins in the test itself, on every store."""

    async def resume(self, execution_id: str, *, detach: bool = False) -> ExecutionResult:
        """As `WorkflowEngine.resume`."""
        return await self._outlive(
            lambda engine: WorkflowEngine.resume(engine, execution_id, detach=detach),
            lambda engine: engine.get_status(execution_id) if detach else _joined(engine, execution_id),
        )

    async def restart(self, execution_id: str, *, detach: bool = False) -> ExecutionResult:
        """As `WorkflowEngine.restart`."""
        self.check_event_loop()
        before = (await self.get_status(execution_id)).restart_attempt

        async def again(engine: WorkflowEngine) -> ExecutionResult:
            if (await WorkflowEngine.get_status(engine, execution_id)).restart_attempt == before:
                return await WorkflowEngine.restart(engine, execution_id, detach=detach)
            if detach:
                return await engine.get_status(execution_id)
            return await _joined(engine, execution_id)  # the crash came after the restart was recorded

        return await self._outlive(lambda engine: WorkflowEngine.restart(engine, execution_id, detach=detach), again)

    async def cancel(self, execution_id: str) -> ExecutionResult:
        """As `WorkflowEngine.cancel`."""

        async def again(engine: WorkflowEngine) -> ExecutionResult:
            try:
                return await WorkflowEngine.cancel(engine, execution_id)
            except InvalidStateError:  # the crash came after the cancellation was recorded
                return await WorkflowEngine.get_status(engine, execution_id)

        return await self._outlive(lambda engine: WorkflowEngine.cancel(engine, execution_id), again)

    start = _begins(WorkflowEngine.start)
    enqueue = _begins(WorkflowEngine.enqueue)
    start_and_wait = _begins(WorkflowEngine.start_and_wait)
    wait = _outlives(WorkflowEngine.wait)
    get_status = _outlives(WorkflowEngine.get_status)
    history = _outlives(WorkflowEngine.history)
    recover = _outlives(WorkflowEngine.recover)
    list_executions = _outlives(WorkflowEngine.list_executions)
    stats = _outlives(WorkflowEngine.stats)
    cleanup = _outlives(WorkflowEngine.cleanup)
    set_circuit = _outlives(WorkflowEngine.set_circuit)


async def _joined(engine: WorkflowEngine, execution_id: str) -> ExecutionResult:
    """Return the result of an execution that the engine has recovered, or that had ended."""
    try:
        return await WorkflowEngine.resume(engine, execution_id)
    except InvalidStateError:
        return await WorkflowEngine.get_status(engine, execution_id)


def execution_ids() -> Callable[[], str]:
    """Return a source of execution ids: UUIDs, the same in each run of a test."""
    count = 0

    def make() -> str:
        nonlocal count
        count += 1
        return str(uuid.UUID(int=(0x4000 << 64) | (0x8000 << 48) | count))

    return make
