"""The engine: it starts, joins, resumes, restarts, cancels and recovers executions."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, overload

from workflow_core import circuit_breaker
from workflow_core.arguments import check_parts, listing, up_to_ten_thousand, validated_name
from workflow_core.clock import Clock, SystemClock, to_epoch_ms
from workflow_core.config import Configurations
from workflow_core.current import activated
from workflow_core.database.directory import DirectoryStore
from workflow_core.database.dispatch import Dispatches, dispatching
from workflow_core.database.store import ExecutionRecord
from workflow_core.definition import (
    MISSING,
    SHARED_DEFINITIONS,
    Definition,
    Definitions,
    WorkflowHandler,
    define_workflow,
)
from workflow_core.errors import InvalidStateError, StorageError, ValidationError, WorkflowNotFoundError, shown
from workflow_core.event_loops import running_loop
from workflow_core.extensions import Extensions
from workflow_core.forking import after_fork
from workflow_core.interception import guarded, guarded_for
from workflow_core.intervening import Interventions
from workflow_core.invoking import invoked, is_coroutine_function
from workflow_core.joining import Ended, Joining, as_joined
from workflow_core.leases import Leases
from workflow_core.log_files import LogFiles
from workflow_core.logs import LEVELS
from workflow_core.models import CircuitBreakerConfig, CircuitStatus
from workflow_core.ownership import ProcessProbe, SystemProcessProbe
from workflow_core.patience import Patience
from workflow_core.recovering import Recovery
from workflow_core.retention import CleanupReport, cleaned_up, expiry
from workflow_core.running import RunningExecutions
from workflow_core.secrets import Secrets
from workflow_core.serialization import Codec
from workflow_core.settings import Settings, default_log_level
from workflow_core.sleepers import Sleepers
from workflow_core.starting import Starting
from workflow_core.step import validate_step_id
from workflow_core.storage import make_store
from workflow_core.stored import load_record, stored_result
from workflow_core.summaries import ExecutionSummary, WorkflowStats, listed, position
from workflow_core.waking import SleepingExecutions

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta
    from types import TracebackType
    from typing import Self

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.database.dispatch import Claim
    from workflow_core.database.store import Store, WorkflowStore
    from workflow_core.definitions.document import WorkflowDefinition
    from workflow_core.events import Event
    from workflow_core.execution import Execution
    from workflow_core.limits import Limits
    from workflow_core.models import ExecutionResult, ExecutionStatus, PanicConfig, RetryConfig
    from workflow_core.ownership import Owner
    from workflow_core.parking import Parking
    from workflow_core.running import Active

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["WorkflowEngine"]

HandlerT = TypeVar("HandlerT", bound=WorkflowHandler)
ResultT = TypeVar("ResultT")


class WorkflowEngine:
    """Runs workflows, and keeps their state in a store.

    Making an engine touches neither disk nor network; its first execution does. As an asynchronous context manager it
    recovers interrupted executions on entry and lets go of its store on exit.

    Args:
        store: Where the state lives; without it, the database or the runtime directory that the settings name.
        clock: Where the time comes from.
        plugins: Objects with implementations of the hooks in `workflow_core.hookspecs`; or what the extensions of an
            engine that has ended have `handed_over`.
        settings: Everything else.
        process_probe: Tells which processes live; tests replace it.
    """

    locates_steps = False
    """Whether executions note where in the code each of their steps was made; asyncio's debug mode makes them, too."""

    def __init__(
        self,
        store: Store | None = None,
        clock: Clock | None = None,
        plugins: Sequence[object] | Extensions = (),
        settings: Settings | None = None,
        process_probe: ProcessProbe | None = None,
    ) -> None:
        check_parts(store, clock, plugins, settings)
        self.settings = settings or Settings()
        self.clock: Clock = clock or SystemClock()
        self.definitions = Definitions()
        layout = store.layout if isinstance(store, DirectoryStore) else None
        if store is None:
            store, layout = make_store(self.settings)
        self._bare_store: Store = store
        self.secrets = Secrets()
        self.configurations = Configurations(layout, self.secrets)
        self.log_files: LogFiles | None = None
        if isinstance(store, DirectoryStore) and self.settings.log_files:
            level = LEVELS[self.settings.log_level or default_log_level()]
            self.log_files = LogFiles(store.layout, self.clock, level)
        patience_ms = self.settings.storage_patience_ms
        self._patience = (
            None if patience_ms is None else Patience(self.clock, patience_ms, self._bare_store.wait_for_locks)
        )
        self._probe: ProcessProbe = process_probe or SystemProcessProbe()
        self.owner: Owner = self._probe.make_owner()
        self._closed = False
        self.parking: Parking | None = None
        self.extensions = plugins if isinstance(plugins, Extensions) else Extensions(plugins)
        self._hooks_changed()
        sleepers = Sleepers(self.clock)
        self._running = RunningExecutions(self)
        self._leases = Leases(self, self._probe, self._running, sleepers)
        self._sleeping = SleepingExecutions(self, self._running, self._leases, sleepers)
        self._recovery = Recovery(self, self._running, self._leases, self._sleeping)
        self._joining = Joining(self, self._running, self._leases, self._sleeping, self._recovery)
        self._interventions = Interventions(
            self, self._running, self._leases, self._sleeping, self._recovery, self._joining
        )
        self._starting = Starting(self, self._running, self._joining)
        after_fork(self)

    def forked(self) -> None:
        """Begin again in a child process: what runs in its parent is not run in it."""
        self.owner = self._probe.make_owner()
        for part in (self._running, self._leases, self._sleeping, self._recovery):
            part.forked()
        if self.log_files is not None:
            self.log_files.forked()

    def __repr__(self) -> str:
        return f"<WorkflowEngine on {self._bare_store.location()}>"

    @property
    def bare_store(self) -> Store:
        """The store, without what plugins put around it."""
        return self._bare_store

    def mirror(self, store: Store, settings: Settings) -> WorkflowEngine:
        """Return an engine that sees other connections to the same data, for a thread that only reads.

        It knows the workflows, the configurations and the secrets of this one, and nothing of its plugins but how they
        store values.

        Args:
            store: Those connections.
            settings: What differs.
        """
        mirror = WorkflowEngine(store, self.clock, settings=settings, process_probe=self._probe)
        mirror.definitions, mirror.configurations, mirror.secrets = self.definitions, self.configurations, self.secrets
        mirror.codec = self.codec
        return mirror

    # Plugins ---------------------------------------------------------------------------------------------------------

    def register(self, plugin: object) -> None:
        """Add a plugin; executions that run already do not notice it.

        Raises:
            pluggy.PluginValidationError: A marked function is no hook, or takes an argument that the hook has not.
        """
        self.extensions.register(plugin)
        self._hooks_changed()

    def unregister(self, plugin: object) -> None:
        """Take a plugin away.

        Raises:
            ValidationError: It was not registered.
        """
        self.extensions.unregister(plugin)
        self._hooks_changed()

    def _hooks_changed(self) -> None:
        self.codec = Codec(self.extensions.serializers, self.settings.max_result_bytes, self.secrets)
        self.store: Store = guarded(self._bare_store, self.extensions, self._patience)

    # Seams: what a harness does otherwise -----------------------------------------------------------------------------

    def check_event_loop(self) -> None:
        """Refuse to begin where executions cannot run; called before anything is written.

        Raises:
            InvalidStateError: No event loop of asyncio's runs in this thread, but perhaps one of trio's.
        """
        if running_loop() is None:
            raise InvalidStateError(
                "Workflows run in asyncio's event loop, and none runs here; trio is not supported: with anyio, use its "
                "asyncio backend"
            )

    def step_never_awaited(self, message: str) -> None:
        """Tell the developer that a handler returned without awaiting one of its steps."""
        warnings.warn(message, RuntimeWarning, stacklevel=1)

    def launch(self, execution: Execution) -> Active:
        """Let an execution run in this event loop, in the background."""
        active = self._running.launch(execution)
        self._leases.keep()
        return active

    def create_task(
        self, coroutine: Coroutine[Any, Any, ResultT], name: str, *, background: bool = False
    ) -> asyncio.Task[ResultT]:
        """Make one of the engine's own tasks, in this event loop; every one of them is made here.

        Args:
            coroutine: What it does.
            name: Its name.
            background: Whether it only keeps something up, so that nobody waits for it.
        """
        del background
        return asyncio.get_running_loop().create_task(coroutine, name=name)

    def dispatching_store(self) -> Dispatches | None:
        """Return the store, if executions can be handed to workers there; else they begin in this process."""
        return self._bare_store if isinstance(self._bare_store, Dispatches) else None

    def rests(self, execution: Execution) -> None:
        """Note that an execution waits for a moment, or that something else of it has come to its end."""
        if self.parking is not None:
            self.parking.consider(execution)

    def parks_until(self, moment_ms: int) -> bool:
        """Tell whether an execution that waits until a moment, in milliseconds since 1970, is let go of meanwhile."""
        return self.parking is not None and self.parking.is_worth(moment_ms)

    # What executions ask of their engine ------------------------------------------------------------------------------

    def store_of(self, execution: Execution) -> WorkflowStore:
        """Return where an execution is stored; there its durable points are tried again for as long as it takes."""
        return guarded_for(self.store, execution.definition.name, execution)

    def drives(self, execution: Execution) -> bool:
        """Tell whether a run of an execution is under way here."""
        return self._running.drives(execution)

    def tell_waiters(self, execution: Execution, error: StorageError | None) -> None:
        """Raise an error to all who wait for an execution, which goes on all the same.

        Args:
            execution: The execution.
            error: What keeps it from going on; ``None`` when nothing does any more.
        """
        self._running.tell_waiters(execution, error)

    def lease_expiry(self) -> int | None:
        """Return until when a lease taken now is good, in milliseconds since 1970; ``None`` for always."""
        return self._leases.expiry()

    def invoke(self, function: Callable[..., Any], *args: object) -> Coroutine[Any, Any, object]:
        """Call a user's function: in the task that awaits this if it is asynchronous, else where the settings say."""
        if is_coroutine_function(function):
            return function(*args)  # type: ignore[no-any-return]  # what such a function returns
        return invoked(function, args, self.clock, in_thread=self.settings.sync_handlers == "thread")

    # Definitions -----------------------------------------------------------------------------------------------------

    @overload
    def define(
        self,
        name: str,
        handler: HandlerT,
        *,
        description: str | None = None,
        version: str = "1.0.0",
        retry_config: RetryConfig | dict[str, Any] | None = None,
        panic_config: PanicConfig | dict[str, Any] | None = None,
        limits: Limits | dict[str, Any] | None = None,
    ) -> HandlerT: ...

    @overload
    def define(
        self,
        name: str,
        *,
        description: str | None = None,
        version: str = "1.0.0",
        retry_config: RetryConfig | dict[str, Any] | None = None,
        panic_config: PanicConfig | dict[str, Any] | None = None,
        limits: Limits | dict[str, Any] | None = None,
    ) -> Callable[[HandlerT], HandlerT]: ...

    def define(
        self,
        name: str,
        handler: Any = MISSING,
        *,
        description: str | None = None,
        version: str = "1.0.0",
        retry_config: RetryConfig | dict[str, Any] | None = None,
        panic_config: PanicConfig | dict[str, Any] | None = None,
        limits: Limits | dict[str, Any] | None = None,
    ) -> Any:
        """Define a workflow in this engine; usable as a function and as a decorator.

        Args:
            name: 1 to 128 of the characters ``A-Za-z0-9._-``, beginning with a letter or digit: it becomes a directory.
            handler: Function of the context, ``async def`` or ``def``.
            description: One line about the workflow; by default the first line of the handler's docstring.
            version: The workflow's own version.
            retry_config: For executions that are started without one.
            panic_config: For executions that are started without one.
            limits: How many of its executions run, and begin, at the same time on workers; see `enqueue`.

        Raises:
            ValidationError: An argument is not acceptable.
        """
        return define_workflow(
            lambda _: self.definitions, name, handler, description, version, retry_config, panic_config, limits
        )

    def define_declarative(self, source: str | Path | Mapping[str, Any] | WorkflowDefinition) -> WorkflowDefinition:
        """Define a workflow in this engine that a document describes, rather than a function.

        Executions go on with the document that they were started with, also after the workflow was defined anew.

        Args:
            source: A file of JSON or YAML, the document itself, or what `load_definition` returned.

        Returns:
            The checked definition.

        Raises:
            ValidationError: The document has mistakes; all of them are named, with their paths.
        """
        from workflow_core.definitions.defining import define  # noqa: PLC0415 - only who has documents needs them

        return define(self.definitions, source, stacklevel=4)

    def definition(self, name: str) -> Definition:
        """Return a workflow's definition.

        Raises:
            ValidationError: The name is not a string, or empty.
            WorkflowNotFoundError: No such workflow is defined.
        """
        if not isinstance(name, str) or not name:
            raise ValidationError(f"A workflow name must be a non-empty string, not {shown(name)}")
        definition = self.known_definition(name)
        if definition is None:
            known = ", ".join(self.workflow_names()) or "none"
            raise WorkflowNotFoundError(
                f'No workflow "{name}" is defined in this process (defined: {known}); import the module that defines it'
            )
        return definition

    def known_definition(self, name: str) -> Definition | None:
        """Return a workflow's definition, or ``None``."""
        return self.definitions.get(name) or SHARED_DEFINITIONS.get(name)

    def workflow_names(self) -> list[str]:
        """Return the names of the workflows that this engine can run, sorted."""
        return sorted({*self.definitions.names(), *SHARED_DEFINITIONS.names()})

    # Configuration ---------------------------------------------------------------------------------------------------

    def configure(
        self,
        name: str,
        *,
        environment: str | None = None,
        variables: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        """Configure a workflow in memory, for this engine alone; what is not given stays as ``config.json`` has it.

        For tests, and for programs that keep their configuration elsewhere. Nothing of it is stored.

        Args:
            name: The workflow.
            environment: What the workflow finds as ``ctx.config.environment``.
            variables: Variables by name, added to those there are.
            secrets: Secrets by name, added to those there are: ``env:NAME`` for what an environment variable holds, or
                the value itself.

        Raises:
            ValidationError: A name or a value is not acceptable.
        """
        self.configurations.configure(name, environment, variables, secrets)

    async def backup(self, to: str | Path, progress: Callable[[int, int], object] | None = None) -> Path:
        """Copy the runtime directory while this and other processes use it.

        The copy is complete or is not there. It is a runtime directory: an engine with ``Settings(directory=copy)``
        reads it and, because no execution in it has an owner, goes on with what was under way.

        Args:
            to: The directory to make; it must not exist, or be empty.
            progress: Called, in another thread, with the number of workflows that are copied, and of all.

        Returns:
            The absolute path of the copy.

        Raises:
            InvalidStateError: The engine's store is not a runtime directory.
            ValidationError: There is something at that place already, or it lies in the runtime directory.
            StorageError: Something cannot be read or written, or a database is damaged.
        """
        if not isinstance(self._bare_store, DirectoryStore):
            raise InvalidStateError(
                f"Only a runtime directory can be backed up, and the store of this engine is one database "
                f"({self._bare_store.location()}); copy that with pg_dump, or SQLite's with the backup() of Python's "
                "sqlite3"
            )
        if self.log_files is not None:
            self.log_files.flush()
        return await self._bare_store.back_up(Path(to), progress)

    async def complete_log(self, execution_id: str) -> int:
        """Add to an execution's log what is missing in it, from the stored history.

        The engine does this by itself when it recovers, resumes or restarts an execution. What a process had not
        written when it died right after the end of an execution is added by this.

        Returns:
            How many lines were added; 0 if this engine writes no log files.

        Raises:
            ExecutionNotFoundError: There is no such execution.
        """
        if self.log_files is None:
            return 0
        record = await load_record(self, execution_id)
        workflow = self.store.workflow(record.workflow_name)
        history = await workflow.load_events(record.workflow_name, record.execution_id)
        return self.log_files.complete(record.workflow_name, record.execution_id, history)

    # Life ------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self.settings.recover_on_start:
            await self.recover()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop what runs in this event loop, giving it back for another engine to go on with, and close the store.

        Raises:
            InvalidStateError: It was called inside a workflow of this engine.
        """
        tasks = [task for task in self._tasks() if task.get_loop() is asyncio.get_running_loop()]
        if asyncio.current_task() in tasks:
            raise InvalidStateError("aclose() cannot be awaited inside a workflow: it waits for the workflows to stop")
        self._closed = True
        self._recovery.stop()
        await self._running.let_begin()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(StorageError):
            await self.store.owner_retired(self.owner)
        self.close()

    def _tasks(self) -> list[asyncio.Task[None]]:
        own = (self._leases.renewal, self._sleeping.waking, self._recovery.trials)
        return self._running.tasks() + [task for task in own if task is not None]

    @property
    def closed(self) -> bool:
        """Whether the engine was closed: it starts and writes nothing any more."""
        return self._closed

    def close(self) -> None:
        """Close the store at once; executions that still run here find it closed."""
        self._closed = True
        if self.log_files is not None:
            self.log_files.flush()
        self.store.close()

    def abandon(self, doom: BaseException | None = None) -> list[asyncio.Task[None]]:
        """Stop as a process does that dies: the store is closed first, so nothing is written on the way out.

        Args:
            doom: What every further step and sleep of the executions raises; without it they find the store closed.

        Returns:
            The cancelled tasks, for whoever wants to see them end.
        """
        if self.log_files is not None:
            self.log_files.drop()
        self.close()
        self.extensions.drop()
        if doom is not None:
            for execution in self.running():
                execution.doomed(doom)
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        return tasks

    @contextlib.contextmanager
    def activate(self) -> Iterator[WorkflowEngine]:
        """Make this the engine that `Workflow` means, in the ``with`` block."""
        with activated(self):
            yield self

    def running(self) -> list[Execution]:
        """Return the executions that run in this engine."""
        return [active.execution for active in self._running]

    # Starting --------------------------------------------------------------------------------------------------------

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
    ) -> ExecutionResult:
        """Run a workflow to its end, through all its sleeps.

        The id makes this idempotent: an execution that ended gives its stored result, and one that runs is joined.

        Args:
            name: The workflow.
            execution_id: Names the execution, a business id for example; a UUID is made without it.
            input: What the handler finds as ``ctx.input``.
            retry_config: How failing steps are retried.
            panic_config: What happens after a panic.
            timeout_ms: Longest duration of the whole execution, in milliseconds.
            detach: Return as soon as the execution is recorded, and let it go on in the background.

        Returns:
            The result, whose status is ``completed`` or ``cancelled``; with ``detach`` the first snapshot. Of an
            execution that ended before, the stored result, whatever its status.

        Raises:
            ValidationError: An argument is not acceptable; nothing was written.
            WorkflowNotFoundError: No such workflow is defined.
            ExecutionConflictError: The id is in use for another workflow or another input.
            WorkflowError: A step failed for good.
            PanicError: The execution panicked; an automatic restart follows in the background, and `wait` joins it.
            WorkflowTimeoutError: ``timeout_ms`` ran out.
            StorageError: The database cannot be used.
            BaseException: An error that a plugin calls fatal (hook ``is_fatal``), as it is.
        """
        begun = await self._starting.begin(
            name, execution_id, input, retry_config, panic_config, timeout_ms, detach=detach
        )
        if isinstance(begun, Ended):
            return as_joined(begun.result) if begun.joined and not detach else begun.result
        return begun.execution.snapshot() if detach else await self._joining.first_result(begun)

    async def enqueue(
        self,
        name: str,
        execution_id: str | None = None,
        input: object = None,  # noqa: A002 - the field's own name for it
        retry_config: RetryConfig | dict[str, Any] | None = None,
        panic_config: PanicConfig | dict[str, Any] | None = None,
        *,
        timeout_ms: int | None = None,
        queue: str = "default",
        priority: int = 0,
        limit_key: str | None = None,
    ) -> ExecutionResult:
        """Hand a workflow to the workers of a database, ``workflow worker``, and return as soon as that is recorded.

        The id makes this idempotent. `wait` waits for the result, in whatever process. A database without workers,
        which SQLite is, lets the execution begin in this process, in the background; then queues, priorities and limits
        mean nothing.

        Args:
            name: The workflow.
            execution_id: Names the execution, a business id for example; a UUID is made without it.
            input: What the handler finds as ``ctx.input``.
            retry_config: How failing steps are retried.
            panic_config: What happens after a panic.
            timeout_ms: Longest duration of the whole execution from now on, in milliseconds.
            queue: The queue whose workers run it: 1 to 40 of the characters ``A-Za-z0-9._-``.
            priority: Those with a greater number are begun first, from -1 000 000 to 1 000 000.
            limit_key: Its key, for the limits of a workflow that hold for each key.

        Returns:
            What is known of it: its status is ``queued`` until a worker begins it.

        Raises:
            ValidationError: An argument is not acceptable; nothing was written.
            WorkflowNotFoundError: No such workflow is defined.
            ExecutionConflictError: The id is in use for another workflow or another input.
            StorageError: The database cannot be used.
        """
        begun = await self._starting.enqueue(
            name, execution_id, input, retry_config, panic_config, timeout_ms, queue, priority, limit_key
        )
        if isinstance(begun, Ended):
            return begun.result
        return await stored_result(self, begun) if isinstance(begun, ExecutionRecord) else begun.execution.snapshot()

    async def start_and_wait(
        self,
        name: str,
        execution_id: str | None = None,
        input: object = None,  # noqa: A002 - the field's own name for it
        retry_config: RetryConfig | dict[str, Any] | None = None,
        panic_config: PanicConfig | dict[str, Any] | None = None,
        *,
        timeout_ms: int | None = None,
    ) -> ExecutionResult:
        """Run a workflow to its final state, through sleeps and automatic restarts.

        Takes the arguments of `start`, and differs from it in what it does about failures: a panic is waited through,
        and the final result is returned whatever its status.

        Raises:
            InvalidStateError: No event loop of asyncio's runs here.
            ValidationError: An argument is not acceptable; nothing was written.
            WorkflowNotFoundError: No such workflow is defined.
            ExecutionConflictError: The id is in use for another workflow or another input.
            StorageError: The database cannot be used.
            BaseException: An error that a plugin calls fatal (hook ``is_fatal``), as it is.
        """
        begun = await self._starting.begin(name, execution_id, input, retry_config, panic_config, timeout_ms)
        return begun.result if isinstance(begun, Ended) else await self._joining.final_result(begun)

    def run(
        self,
        name: str,
        execution_id: str | None = None,
        input: object = None,  # noqa: A002 - the field's own name for it
        retry_config: RetryConfig | dict[str, Any] | None = None,
        panic_config: PanicConfig | dict[str, Any] | None = None,
        *,
        timeout_ms: int | None = None,
    ) -> ExecutionResult:
        """Run a workflow from synchronous code, to its final state, through sleeps and automatic restarts.

        Takes the arguments of `start`.

        Returns:
            The final result, whatever its status; ``result.raise_for_status()`` turns a failure into an error.

        Raises:
            InvalidStateError: An event loop runs in this thread already.
            ValidationError: An argument is not acceptable; nothing was written.
            WorkflowNotFoundError: No such workflow is defined.
            ExecutionConflictError: The id is in use for another workflow or another input.
            StorageError: The database cannot be used.
            BaseException: An error that a plugin calls fatal (hook ``is_fatal``), as it is.
        """
        if running_loop() is not None:
            raise InvalidStateError("run() cannot be called from asynchronous code: await start() instead")
        try:
            return asyncio.run(
                self.start_and_wait(name, execution_id, input, retry_config, panic_config, timeout_ms=timeout_ms)
            )
        except KeyboardInterrupt:  # asyncio chains it to the cancellation by which it stopped, which tells nobody more
            raise KeyboardInterrupt(f'workflow "{name}" was interrupted; it goes on when it is started again') from None

    # Joining, resuming, restarting, cancelling -----------------------------------------------------------------------

    async def get_status(self, execution_id: str) -> ExecutionResult:
        """Return what is known of an execution now.

        Raises:
            ValidationError: The id is not acceptable.
            ExecutionNotFoundError: There is no such execution.
        """
        return await self._running.status(execution_id)

    async def history(self, execution_id: str) -> list[Event]:
        """Return the events of an execution, oldest first.

        Raises:
            ValidationError: The id is not acceptable.
            ExecutionNotFoundError: There is no such execution.
        """
        record = await load_record(self, execution_id)
        return await self.store.workflow(record.workflow_name).load_events(record.workflow_name, record.execution_id)

    async def wait(self, execution_id: str) -> ExecutionResult:
        """Wait until an execution is at rest, through automatic restarts, and return its result.

        Raises:
            ValidationError: The id is not acceptable.
            ExecutionNotFoundError: There is no such execution.
            InvalidStateError: Nobody runs it: it was interrupted and waits for `resume` or `recover`.
            BaseException: An error that a plugin calls fatal (hook ``is_fatal``), as it is.
        """
        return await self._joining.wait(execution_id)

    async def resume(self, execution_id: str, *, detach: bool = False) -> ExecutionResult:
        """Go on with a sleeping or interrupted execution, and return its result as `start` does.

        A sleep that is not over is slept to its end. An execution that runs in this engine is joined.

        Args:
            execution_id: The execution.
            detach: Return what is known of it as soon as it goes on, in the background.

        Raises:
            ValidationError: The id is not acceptable.
            ExecutionNotFoundError: There is no such execution.
            InvalidStateError: It is at rest, or another process runs it.
        """
        return await self._interventions.resume(execution_id, detach=detach)

    async def restart(self, execution_id: str, *, detach: bool = False) -> ExecutionResult:
        """Run a panicked or failed execution again, with its completed steps kept; return its result as `start` does.

        Args:
            execution_id: The execution.
            detach: Return what is known of it as soon as it runs again, in the background.

        Raises:
            ValidationError: The id is not acceptable.
            ExecutionNotFoundError: There is no such execution.
            InvalidStateError: It is neither panicked nor failed.
        """
        return await self._interventions.restart(execution_id, detach=detach)

    async def cancel(self, execution_id: str) -> ExecutionResult:
        """Cancel an execution, wherever it runs; its running steps are cancelled.

        In another process the cancellation is noticed at the next durable point or lease renewal.

        Raises:
            ValidationError: The id is not acceptable.
            ExecutionNotFoundError: There is no such execution.
            InvalidStateError: It is at rest already.
        """
        return await self._interventions.cancel(execution_id)

    async def recover(self) -> list[str]:
        """Take over every execution whose process is gone, and go on with it in the background.

        Sleeping executions sleep the rest of their time, panicked ones are restarted when their restart is due.
        Several processes may do this at once: each execution is taken by one of them. What a database that is full,
        locked, read-only or failing does not let be recovered is recovered in the background when it works again.
        Executions that may have ended their process are taken over after all others, one at a time: whichever does so
        again is known by that.

        Returns:
            The ids of the executions that this engine takes over.
        """
        return await self._recovery.recover()

    # Working ---------------------------------------------------------------------------------------------------------

    def let_go_after(self, rest_ms: float) -> Parking:
        """Let go of executions that workers run, as soon as they rest for some time, in milliseconds."""
        from workflow_core.parking import Parking  # noqa: PLC0415 - only workers need it

        self.parking = Parking(self._running, self.clock, rest_ms)
        return self.parking

    async def run_claimed(self, claim: Claim) -> Active:
        """Go on with an execution that was claimed for this engine.

        Raises:
            LeaseLostError: It changed hands, or ended, since it was claimed.
            WorkflowNotFoundError: Its workflow is a function, and none of that name is defined.
            ValidationError: Its workflow is a document that cannot run in this process, or something that was stored
                cannot be read.
        """
        return await self._recovery.go_on(claim)

    async def hand_back(self) -> None:
        """Give back what runs in this event loop, without waiting until it has ended: it cannot write any more."""
        await self._running.hand_back()

    async def stop_cancelled(self) -> None:
        """Stop executions here that were cancelled from another process, which a worker looks for now and then.

        Raises:
            StorageError: The database cannot be read.
        """
        await self._interventions.stop_cancelled()

    # Many executions -------------------------------------------------------------------------------------------------

    async def list_executions(
        self,
        workflow_name: str | None = None,
        status: ExecutionStatus | Sequence[ExecutionStatus] | None = None,
        *,
        started_after: datetime | None = None,
        started_before: datetime | None = None,
        before: ExecutionSummary | str | None = None,
        limit: int = 100,
        search: str | None = None,
        queue: str | None = None,
    ) -> list[ExecutionSummary]:
        """Return executions in short, the latest started first, of all workflows of the store or of one.

        Pages are asked for by the last execution of the page before, so the last page costs what the first one does,
        and executions that start meanwhile move nothing.

        Args:
            workflow_name: Of this workflow alone, which need not be defined here.
            status: In this status, or one of these, alone.
            started_after: Started at this moment or later; aware.
            started_before: Started before this moment; aware.
            before: The last execution of the page before, or its `ExecutionSummary.cursor`.
            limit: How many at most (1 to 10 000).
            search: With this text in the id or in the error message, whatever its case. A text that few executions
                hold is looked for in all of them, in portions between which the event loop runs.
            queue: Handed to the workers of this queue; all are looked through for that, likewise.

        Raises:
            ValidationError: An argument is not acceptable.
            StorageError: The database cannot be read.
        """
        up_to_ten_thousand("limit", limit)
        wanted = listing(workflow_name, status, started_after, started_before, search, queue)
        if queue is not None:
            dispatching(self._bare_store)
        return (await listed(self.store, wanted, position(before), limit))[0]

    async def stats(self, workflow_name: str | None = None) -> list[WorkflowStats]:
        """Return how many executions each workflow has, by status; sorted by name, workflows without any left out.

        Args:
            workflow_name: Of this workflow alone, which need not be defined here.

        Raises:
            ValidationError: The name is not acceptable.
            StorageError: The database cannot be read.
        """
        counts = await self.store.count_executions(validated_name(workflow_name))
        return [WorkflowStats(workflow_name=name, counts=counts[name]) for name in sorted(counts)]

    async def cleanup(
        self,
        older_than: timedelta | float,
        status: ExecutionStatus | Sequence[ExecutionStatus] | None = None,
        workflow_name: str | None = None,
        *,
        dry_run: bool = False,
        batch: int = 100,
    ) -> CleanupReport:
        """Remove executions that have been at rest for some time, with their steps, errors, history and logs.

        At rest is what is completed, failed, cancelled, or panicked without an automatic restart to come; nothing else
        is ever removed. It goes in small transactions, with pauses as long as they took, so executions of this process
        and of others go on meanwhile. The id of a removed execution can be used again.

        Args:
            older_than: How long ago they came to rest at least: a timedelta, or milliseconds.
            status: Only executions in this status, or in one of these; daily logs then stay.
            workflow_name: Only of this workflow, which need not be defined here.
            dry_run: Remove nothing, and report what would be removed.
            batch: How many executions one transaction removes at most.

        Returns:
            What was removed, and how much room that made.

        Raises:
            ValidationError: An argument is not acceptable; nothing was removed.
            StorageError: The registry, or the database of the one workflow that is named, cannot be used. Without a
                name, `CleanupReport.problems` tells of such databases, and the others are cleaned up.
        """
        self.check_event_loop()
        up_to_ten_thousand("batch", batch)
        expired = expiry(self.clock.now(), older_than, status)
        name = validated_name(workflow_name)
        return await cleaned_up(self.store, self.clock, expired, name, batch, dry_run=dry_run)

    async def set_circuit(
        self, workflow_name: str, step_id: str, status: CircuitStatus, config: CircuitBreakerConfig
    ) -> CircuitState:
        """Set the circuit of a step by hand.

        Args:
            workflow_name: The workflow.
            step_id: The step.
            status: ``closed``, ``open`` or ``half_open``.
            config: The breaker's configuration, for the reset time and, if it is opened, the number of failures.

        Returns:
            The circuit as it is now; times are milliseconds since 1970.

        Raises:
            ValidationError: An argument is not acceptable; nothing was set.
            StorageError: The workflow's database cannot be written.
        """
        if validated_name(workflow_name) is None:
            raise ValidationError("Circuits are set one by one: name a workflow")
        step_id = validate_step_id(step_id)
        if status not in get_args(CircuitStatus):
            raise ValidationError(f"A circuit is {', '.join(get_args(CircuitStatus))}, not {shown(status)}")
        if not isinstance(config, CircuitBreakerConfig):
            raise ValidationError(f"config must be a CircuitBreakerConfig, not {type(config).__name__}")
        now_ms = to_epoch_ms(self.clock.now())
        return await self.store.workflow(workflow_name).circuit_forced(
            workflow_name, step_id, lambda state: circuit_breaker.forced(state, config, status, now_ms)
        )
