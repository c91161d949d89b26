"""Everything that one test has: clock, database, faults, and the engines that live and die on them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import TYPE_CHECKING, NoReturn

from pytest_workflow.at_once import at_once
from pytest_workflow.clock import Sleep, VirtualClock
from pytest_workflow.database import WorkflowDatabase
from pytest_workflow.failures import AssertionFailures
from pytest_workflow.faults import WorkflowFaults
from pytest_workflow.harness import HARNESS_SETTINGS, WorkflowHarness, history_of
from pytest_workflow.history import History, table
from pytest_workflow.hooks import Hooks
from pytest_workflow.observation import Observation, WaitingClock, Witness, observe, step_states
from pytest_workflow.places import ErrorPlaces
from pytest_workflow.processes import MortalEngine, SimulatedCrash, SimulatedProcesses, execution_ids
from pytest_workflow.storages import FileStorage, MemoryStorage
from pytest_workflow.threads import process
from workflow_core.current import replaced_default
from workflow_core.engine import WorkflowEngine
from workflow_core.errors import WorkflowCoreError
from workflow_core.event_loops import running_loop
from workflow_core.events import Event, ExecutionPanicked, SleepStarted, StepRetrying, StepStarted
from workflow_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pytest_workflow.injection import CustomFault
    from pytest_workflow.storages import Storage
    from pytest_workflow.until import Stops
    from workflow_core.clock import Clock
    from workflow_core.hookspecs import DurablePoint
    from workflow_core.settings import Settings

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["Environment", "unreadable"]


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
        seen.note_death(steps)
        seen.returned.clear()
        self.faults.take_back_cut_off(steps.values())
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
        if running_loop() is None and self._recovery is not None and not self._recovery.done():
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
                history_of(row["id"], at_once(store.load_events(row["workflow_name"], row["id"])))
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


def unreadable(storage: Storage) -> tuple[type[Exception], ...]:
    """Return what reading a database may raise, to whose tables a test may have done anything."""
    return (WorkflowCoreError, *storage.errors, ValueError, KeyError, TypeError, RuntimeError)


async def _recover(engine: MortalEngine) -> None:
    try:
        await WorkflowEngine.recover(engine)
    except BaseException:
        if not engine.closed:  # else it has a successor of its own, which recovers
            raise
