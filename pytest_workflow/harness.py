"""The ``workflow`` fixture's object: an isolated engine on virtual time, driven from synchronous tests."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pytest_workflow.at_once import at_once
from pytest_workflow.clock import Sleep, VirtualClock
from pytest_workflow.database import WorkflowDatabase
from pytest_workflow.failures import AssertionFailures, users_traceback
from pytest_workflow.faults import WorkflowFaults
from pytest_workflow.history import History, table
from pytest_workflow.hooks import Hooks
from pytest_workflow.observation import Death, Observation, WaitingClock, Witness, observe, step_states
from pytest_workflow.places import ErrorPlaces
from pytest_workflow.processes import MortalEngine, SimulatedCrash, SimulatedProcesses, execution_ids
from pytest_workflow.storages import FileStorage, MemoryStorage
from pytest_workflow.threads import process
from pytest_workflow.until import Stops, Until, validate_until
from workflow_core.current import replaced_default
from workflow_core.engine import WorkflowEngine
from workflow_core.errors import StepFailure, WorkflowCoreError, WorkflowTimeoutError
from workflow_core.events import Event, ExecutionPanicked, SleepStarted, StepRetrying, StepStarted
from workflow_core.hookspecs import hookimpl
from workflow_core.models import ExecutionResult
from workflow_core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence
    from pathlib import Path

    from pytest_workflow.injection import CustomFault
    from pytest_workflow.storages import Storage
    from workflow_core.clock import Clock
    from workflow_core.hookspecs import DurablePoint
    from workflow_core.models import PanicConfig, RetryConfig

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["HARNESS_SETTINGS", "Environment", "WorkflowHarness", "unreadable"]

_T = TypeVar("_T")

HARNESS_SETTINGS = Settings(
    sync_handlers="inline",
    lease_ms=None,
    max_recoveries=None,
    recover_on_start=False,
    storage_patience_ms=None,
    busy_timeout_ms=5_000,
)
"""What differs in a test: plain functions run inline, ownership ends with the simulated process, not with time, and a
storage error ends a run at once."""


class _HarnessPlugin:
    """Notes every wait and every attempt, and lets a failed assertion in a workflow fail the test at once."""

    def __init__(self, clock: VirtualClock, faults: WorkflowFaults, places: ErrorPlaces) -> None:
        self._clock = clock
        self._faults = faults
        self._places = places

    def hooks(self) -> Hooks:
        """Return what an engine needs."""
        return Hooks(self.on_event, self.is_fatal)

    @hookimpl
    def on_event(self, event: Event) -> None:
        """Note the attempts and the waits."""
        self._clock.note_progress()
        if isinstance(event, StepStarted):
            self._faults.note_run(event.execution_id, event.step_id, event.seq)
        elif isinstance(event, SleepStarted):
            self._clock.sleeps.append(Sleep(event.step_id, event.duration_ms, "sleep"))
        elif isinstance(event, StepRetrying):
            self._clock.sleeps.append(Sleep(event.step_id, event.backoff_ms, "backoff"))
        elif isinstance(event, ExecutionPanicked) and event.restart_delay_ms is not None:
            self._clock.sleeps.append(Sleep("", event.restart_delay_ms, "restart"))

    @hookimpl
    def is_fatal(self, error: BaseException) -> bool | None:
        """A failed assertion is the test's result, not an error of the workflow; so is one among those of a group."""
        self._places.note(error)
        if isinstance(error, BaseExceptionGroup):
            return True if error.subgroup(AssertionError) is not None else None
        return True if isinstance(error, AssertionError) else None


class Environment:
    """Everything that one test has: clock, database, faults, harness.

    Args:
        clock: The clock.
        file: The database file; ``None`` for a database in memory.
        settings: The engine's settings; those that are not set are the harness's, not the engine's defaults.
        plugins: Further plugins for the engine.
        observation: Where the process is to die; what is seen of the run is put there.
        storage: An empty database to use instead of a new one.
        custom: Carries out the faults that plugins define.
        lent: Whether a database that is given is left open at the end.
    """

    def __init__(
        self,
        clock: VirtualClock,
        file: Path | None = None,
        settings: Settings = HARNESS_SETTINGS,
        plugins: Sequence[object] = (),
        observation: Observation | None = None,
        storage: Storage | None = None,
        custom: CustomFault | None = None,
        *,
        lent: bool = True,
    ) -> None:
        self.clock = clock
        self.settings = HARNESS_SETTINGS.model_copy(update=settings.model_dump(include=settings.model_fields_set))
        self.observation = observation or Observation()
        self.user_plugins = tuple(plugins)
        self.plugins = list(plugins)
        self.processes = SimulatedProcesses()
        self.faults = WorkflowFaults(clock, custom)
        self.custom_fault = custom
        self.failures = AssertionFailures()
        self.never_awaited: list[str] = []
        self.next_execution_id = execution_ids()
        self.stops: Stops | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._stack = contextlib.ExitStack()
        self._borrowed = storage is not None and lent
        self.storage: Storage = storage or (MemoryStorage() if file is None else FileStorage(file))
        self._places = ErrorPlaces()
        self._plugin = _HarnessPlugin(clock, self.faults, self._places).hooks()
        self._engine_clock: Clock = clock
        if observation is not None:
            self._engine_clock = WaitingClock(clock, observation.waits)
            self.plugins.insert(0, Witness(observation).hooks())
            for place in observation.places:
                for armed in self.faults.add(place.rule()):
                    armed.explores = True
        try:
            self.engine = self.open_engine()
        except BaseException:
            self.forget()
            raise
        self._stack.enter_context(clock.leading_loops())
        self.database = WorkflowDatabase(self.storage.connection(), self.storage.path)
        self.harness = WorkflowHarness(self)
        clock.explain_with(self.describe)
        clock.check_with(self.failures.surface)

    def open_engine(self, predecessor: MortalEngine | None = None) -> MortalEngine:
        """Start a process: an engine on the test's database, made the current one.

        Args:
            predecessor: The engine whose process has died, if there was one.
        """
        plugins = [self._plugin, *self.plugins, *self.faults.plugins]
        engine = MortalEngine(
            self.storage.open_store(self.settings),
            self._engine_clock,
            plugins if predecessor is None else predecessor.extensions.handed_over(plugins),
            self.settings,
            self.processes,
        )
        engine.successor = self
        self.engine = engine
        self.faults.serve(engine, self.die, self.corrupt)
        self._stack.enter_context(replaced_default(engine))
        return engine

    def add_plugin(self, plugin: object) -> None:
        """Register a plugin in the engine, and in those that come after it."""
        self.plugins.append(plugin)
        self.engine.register(plugin)

    # Dying -----------------------------------------------------------------------------------------------------------

    def succeed(self) -> MortalEngine:
        """Let the engine's process die, and open the surviving database in a new one.

        Returns:
            The new engine, which knows the workflows of the old one.
        """
        old = self.engine
        try:
            old.abandon(SimulatedCrash())
        finally:
            self.processes.end(old.owner)
            new = self.open_engine(old)
            new.definitions = old.definitions
            new.configurations.succeed(old.configurations)
        self.clock.bury(old, SimulatedCrash())
        return new

    def die(self) -> NoReturn:
        """Let the process die at once, in the middle of what it does; a new one recovers what it left.

        Raises:
            SimulatedCrash: Always; it unwinds what runs in the process.
        """
        self.engine.crashed = True
        seen = self.observation
        steps = step_states(self.database)
        seen.deaths.append(Death(self.clock.monotonic() * 1_000, len(seen.passed), steps, dict(seen.bodies)))
        seen.returned.clear()
        for state in steps.values():
            if state.is_cut_off:
                self.faults.take_back(state.execution_id, state.step_id, state.started_seq)
        new = self.succeed()
        context = contextvars.copy_context()
        context.run(process.set, None)  # the recovery is not of the process that dies, which asks for it
        self._recovery = asyncio.get_running_loop().create_task(_recover(new), context=context)
        raise SimulatedCrash

    async def recovered(self) -> None:
        """Wait until the engine that runs now has recovered what its predecessor left."""
        while self._recovery is not None and not self._recovery.done():
            await asyncio.wait([self._recovery])
        if self._recovery is not None:
            self._recovery.result()

    def finish_recovery(self) -> None:
        """Let a recovery under way come to its end, in synchronous code."""
        if _running_loop() is None and self._recovery is not None and not self._recovery.done():
            self.clock.run(self.recovered())

    def finish_observation(self, error: str | None = None) -> None:
        """Put what is left of the run into its observation.

        Args:
            error: What the scenario raised, as text.
        """
        with contextlib.suppress(RuntimeError):  # the event loop of an asynchronous test is closed already
            self.finish_recovery()
        self.observation.error = error
        self.observation.elapsed_ms = self.clock.monotonic() * 1_000
        observe(self.observation, self.database, self.storage.problems())

    def corrupt(self, point: DurablePoint, text: str) -> None:
        """Put ``text`` in the place of the result that a durable point stored."""
        self.database.connection.execute(
            "UPDATE steps SET result_data = ? WHERE execution_id = ? AND step_id = ?",
            (text, point.execution_id, point.step_id),
        )

    def describe(self) -> Iterable[str]:
        """Tell what each execution waits for."""
        for execution in self.engine.running():
            yield f"{execution} is {execution.status} and waits for:"
            yield from (f"  {line}" for line in execution.waiting_for())

    def report(self) -> list[tuple[str, str]]:
        """Return, with a title each, the history of each execution as a table, the first started first."""
        histories = self._read_histories()
        if isinstance(histories, str):
            return [("workflow histories", histories)]
        sections = [(f"workflow {each.title}", f"{table(each)}{self._places.of(each)}") for each in histories]
        if self.never_awaited:
            sections.append(("workflow steps that were never awaited", "\n".join(self.never_awaited)))
        return sections

    def _read_histories(self) -> list[History] | str:
        """Read the histories from the database itself, because the engine may be closed; or tell why they cannot be."""
        try:
            store = self.storage.reading_store()
            return [
                _history(row["id"], at_once(store.load_events(row["workflow_name"], row["id"])))
                for row in self.database.executions()
            ]
        except unreadable(self.storage) as error:
            return f"cannot be read: {error}"  # whatever the test has done to its engine or its tables

    def close(self, *, keep_database: bool = False) -> None:
        """End the test's processes, and let go of everything.

        Args:
            keep_database: Leave the database open for a report, until `forget`.

        Raises:
            RuntimeError: Something of the test's cannot be ended; everything else is.
        """
        with contextlib.ExitStack() as stack:
            if not keep_database:
                stack.callback(self.forget)
            stack.callback(self._stack.close)
            stack.callback(self.clock.detach)
            with contextlib.suppress(RuntimeError):  # the event loop of an asynchronous test may be closed already
                self.engine.abandon()

    def forget(self) -> None:
        """Let go of the database."""
        if not self._borrowed:
            self.storage.close()


class WorkflowHarness:
    """Runs workflows on virtual time.

    The methods are synchronous, for plain ``def test_...`` functions. In asynchronous tests await `start`, or the
    methods of `engine` and of ``Workflow``; `history` and `status` work in both.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def __repr__(self) -> str:
        return f"<WorkflowHarness {self._environment.database.path} at {self._environment.clock.now().isoformat()}>"

    @property
    def engine(self) -> WorkflowEngine:
        """The engine, which is also the current one, so that code that calls ``Workflow.start`` runs on it."""
        return self._environment.engine

    @property
    def define(self) -> Any:  # noqa: ANN401 - as WorkflowEngine.define
        """Define a workflow in this engine alone; usable as a function and as a decorator."""
        return self.engine.define

    @property
    def configure(self) -> Any:  # noqa: ANN401 - as WorkflowEngine.configure
        """Configure a workflow in memory: its environment, variables and secrets; simulated crashes do not undo it."""
        return self.engine.configure

    def run(
        self,
        name: str,
        execution_id: str | None = None,
        input: object = None,  # noqa: A002 - the field's own name for it
        retry_config: RetryConfig | dict[str, Any] | None = None,
        panic_config: PanicConfig | dict[str, Any] | None = None,
        *,
        timeout_ms: int | None = None,
        detach: bool = False,
        until: Until | None = None,
    ) -> ExecutionResult:
        """Run a workflow to its final state, through sleeps and automatic restarts.

        Args:
            name: The workflow.
            execution_id: Names the execution; a UUID is made without it.
            input: What the handler finds as ``ctx.input``.
            retry_config: How failing steps are retried.
            panic_config: What happens after a panic.
            timeout_ms: Longest duration of the execution, in virtual milliseconds.
            detach: Return the first snapshot; the execution goes on when time is advanced or something is waited for.
            until: Stop here: at a status, after a step or sleep (an id or a glob), or at an event; nothing more happens
                before the next call that lets the execution go on.

        Returns:
            The final result, whatever its status; with ``until``, what is known at that place.

        Raises:
            AssertionError: An assertion in the workflow failed, nothing could go on, or ``until`` was never reached.
            ValidationError: An argument is not acceptable.
            WorkflowNotFoundError: No such workflow is defined.
            ExecutionConflictError: The id is in use for another workflow or another input.
        """
        __tracebackhide__ = True
        if until is not None:
            return self._complete(
                self.start(
                    name,
                    execution_id,
                    input,
                    retry_config,
                    panic_config,
                    timeout_ms=timeout_ms,
                    detach=detach,
                    until=until,
                )
            )
        if detach:
            begin = self.engine.start(
                name, execution_id, input, retry_config, panic_config, timeout_ms=timeout_ms, detach=True
            )
            return self._complete(begin)
        return self._complete(
            self.engine.start_and_wait(name, execution_id, input, retry_config, panic_config, timeout_ms=timeout_ms)
        )

    async def start(
        self,
        name: str,
        execution_id: str | None = None,
        input: object = None,  # noqa: A002 - the field's own name for it
        retry_config: RetryConfig | dict[str, Any] | None = None,
        panic_config: PanicConfig | dict[str, Any] | None = None,
        *,
        timeout_ms: int | None = None,
        detach: bool = False,
        until: Until | None = None,
    ) -> ExecutionResult:
        """Start a workflow in an asynchronous test: ``WorkflowEngine.start`` on virtual time.

        Takes the arguments of `run`. An execution that was stopped by ``until`` goes on as soon as the test awaits
        something and nothing else is runnable, before time moves.
        """
        __tracebackhide__ = True
        failures = self._environment.failures
        if until is not None:
            validate_until(until, detach=detach)
        try:
            begun = await self.engine.start(
                name,
                execution_id,
                input,
                retry_config,
                panic_config,
                timeout_ms=timeout_ms,
                detach=detach or until is not None,
            )
            result = begun if until is None else await self.reach(begun.execution_id, until)
        except BaseException as error:
            failures.see(error)
            raise
        failures.surface()
        return result

    async def reach(self, execution_id: str, until: Until) -> ExecutionResult:
        """Wait in an asynchronous test until an execution is at a place: `wait` with ``until``."""
        __tracebackhide__ = True
        validate_until(until)
        environment = self._environment
        if environment.stops is None:
            environment.stops = Stops(self, environment.clock)
            environment.add_plugin(environment.stops)
        return await environment.stops.reach(execution_id, until)

    def wait(self, execution_id: str, *, until: Until | None = None) -> ExecutionResult:
        """Wait until an execution is at rest, and return its result.

        Args:
            execution_id: The execution.
            until: Stop here instead, as in `run`; return at once if the execution is or was there already.
        """
        __tracebackhide__ = True
        if until is not None:
            return self._complete(self.reach(execution_id, until))
        return self._complete(self.engine.wait(execution_id))

    def resume(self, execution_id: str) -> ExecutionResult:
        """Go on with a sleeping or interrupted execution to its final state."""
        __tracebackhide__ = True
        return self._to_rest(self.engine.resume(execution_id), execution_id)

    def restart(self, execution_id: str) -> ExecutionResult:
        """Run a panicked or failed execution again, to its final state."""
        __tracebackhide__ = True
        return self._to_rest(self.engine.restart(execution_id), execution_id)

    def cancel(self, execution_id: str) -> ExecutionResult:
        """Cancel an execution."""
        __tracebackhide__ = True
        return self._complete(self.engine.cancel(execution_id))

    def status(self, execution_id: str) -> ExecutionResult:
        """Return what is known of an execution now."""
        self._environment.finish_recovery()
        return at_once(self.engine.get_status(execution_id))

    def history(self, execution: ExecutionResult | str) -> History:
        """Return the history of an execution.

        Args:
            execution: Its result, or its id.
        """
        execution_id = execution.execution_id if isinstance(execution, ExecutionResult) else execution
        self._environment.finish_recovery()
        return _history(execution_id, at_once(self.engine.history(execution_id)))

    def reopen(self) -> WorkflowEngine:
        """Let the process die, and open the surviving database in a new one, which recovers what was interrupted.

        What the old engine was doing cannot write any more, and ends: its tasks are cancelled, and dropped where they
        wait for anything after that; threads of its end in their next sleep. Workflows defined in the old engine are
        known to the new one. In a synchronous test the recovered executions go on with the next call that runs the
        clock.

        Returns:
            The new engine.
        """
        environment = self._environment
        new = environment.succeed()
        running = _running_loop()
        if running is None:
            environment.clock.settle()
            self._complete(new.recover())
        else:
            environment.clock.attach(running)
            at_once(new.recover())
        return new

    def _to_rest(self, coroutine: Coroutine[Any, Any, ExecutionResult], execution_id: str) -> ExecutionResult:
        __tracebackhide__ = True

        async def to_the_end() -> ExecutionResult:
            with contextlib.suppress(StepFailure, WorkflowTimeoutError):
                await coroutine
            return await self.engine.wait(execution_id)

        return self._complete(to_the_end())

    def _complete(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        __tracebackhide__ = True
        failures = self._environment.failures
        try:
            result = self._environment.clock.run(coroutine)
        except BaseException as error:
            if not failures.see(error) and isinstance(error, Exception):
                failures.surface()
            if isinstance(error, (AssertionError, WorkflowCoreError)):
                # The engine's frames between the test and what went wrong tell the test's author nothing.
                raise error.with_traceback(users_traceback(error.__traceback__)) from error.__cause__
            raise
        failures.surface()
        return result


def unreadable(storage: Storage) -> tuple[type[Exception], ...]:
    """Return what reading a database may raise, to whose tables a test may have done anything."""
    return (WorkflowCoreError, *storage.errors, ValueError, KeyError, TypeError, RuntimeError)


def _history(execution_id: str, events: list[Event]) -> History:
    name = events[0].workflow_name if events else "?"
    return History(events, f'history of "{execution_id}" ({name})')


async def _recover(engine: MortalEngine) -> None:
    try:
        await WorkflowEngine.recover(engine)
    except BaseException:
        if not engine.closed:  # else it has a successor of its own, which recovers
            raise


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
