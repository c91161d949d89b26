"""The engine: it starts, joins, resumes, restarts, cancels and recovers executions."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import inspect
import json
import logging
import os
import re
import types
import uuid
import warnings
import weakref
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from workflow_core import circuit_breaker
from workflow_core.clock import Clock, SystemClock, as_utc, from_epoch_ms, to_epoch_ms
from workflow_core.config import Configurations
from workflow_core.crash_loops import in_peace, interrupted_too_often, load_deaths
from workflow_core.current import activated
from workflow_core.database.directory import DirectoryStore
from workflow_core.database.layout import WORKFLOW_NAME
from workflow_core.database.store import ExecutionRecord, Lease, NewExecution, Store
from workflow_core.definition import (
    MISSING,
    SHARED_DEFINITIONS,
    Definition,
    Definitions,
    WorkflowHandler,
    configured,
    define_workflow,
    validated,
)
from workflow_core.errors import (
    ExecutionConflictError,
    ExecutionNotFoundError,
    InvalidStateError,
    LeaseLostError,
    PanicError,
    StorageError,
    ValidationError,
    WorkflowCoreError,
    WorkflowNotFoundError,
    shown,
)
from workflow_core.events import Event, ExecutionCancelled, ExecutionRecovered, ExecutionStarted
from workflow_core.execution import Execution, result_of
from workflow_core.hookspecs import ENTRY_POINT_GROUP, Attempt, AttemptHandler, PluginManager, StepDescription
from workflow_core.interception import guarded, guarded_for
from workflow_core.log_files import LogFiles
from workflow_core.logs import LEVELS
from workflow_core.models import (
    TERMINAL_STATUSES,
    CircuitBreakerConfig,
    CircuitStatus,
    ErrorInfo,
    ExecutionResult,
    ExecutionStatus,
    PanicConfig,
    RetryConfig,
)
from workflow_core.ownership import OwnerWatch, ProcessProbe, SystemProcessProbe
from workflow_core.panic import find_panic_indicator
from workflow_core.patience import Patience
from workflow_core.retention import CleanupReport, cleaned_up, expiry
from workflow_core.secrets import Secrets
from workflow_core.serialization import Codec, same_json
from workflow_core.settings import Settings, default_directory, default_log_level
from workflow_core.sleepers import Sleeper, Sleepers
from workflow_core.summaries import ExecutionSummary, WorkflowStats, position, statuses
from workflow_core.timeouts import cancelled_from_outside, validate_timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from workflow_core.circuit_breaker import CircuitState
    from workflow_core.database.listing import UnfinishedExecution
    from workflow_core.database.store import WorkflowStore
    from workflow_core.definitions.document import WorkflowDefinition
    from workflow_core.ownership import Owner
    from workflow_core.summaries import Position

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["WorkflowEngine"]

logger = logging.getLogger("workflow_core")

HandlerT = TypeVar("HandlerT", bound=WorkflowHandler)

_CLAIM_POLL_MS = 1
_RECOVER_AGAIN_MS = 5_000
_RENEW_AGAIN_MS = 1_000
"""How long after a failure a lease is tried to be renewed again, if it would not be earlier."""
_CANCEL_GRACE_SECONDS = 5.0
"""How long a cancellation waits for code that does not want to end."""

_RECOVERY_PAGE = 100
"""How many executions `recover` reads at a time."""

_WAKING_BUNCH = 100
"""How many sleepers go on before other tasks of the event loop have their turn."""

_WAKE_AGAIN_MS = 1_000
"""After which time a sleeper is tried again whose database could not be read."""

_LONGEST_PAGE = 10_000

_BUSINESS_ID = re.compile(r"[A-Za-z0-9._:-]{1,255}")


@dataclass(eq=False)
class _Active:
    """An execution that runs in this engine.

    Attributes:
        first: The result of the first run of the handler, or the error that ended it.
        final: The result once the execution is at rest.
        between_runs: Set when no run of the handler is under way, and all observers have been told how it ended.
        trouble: What keeps it from going on at the moment, once those who wait for it were told.
    """

    execution: Execution
    loop: asyncio.AbstractEventLoop
    first: asyncio.Future[ExecutionResult]
    final: asyncio.Future[ExecutionResult]
    task: asyncio.Task[None] | None = None
    begun: bool = False
    cancelled: bool = False
    lost: bool = False
    restart_now: asyncio.Event | None = None
    between_runs: asyncio.Event = field(default_factory=asyncio.Event)
    trouble: StorageError | None = None

    def finish_first(self, result: ExecutionResult | BaseException) -> None:
        """Settle what `start` waits for, unless it is settled."""
        _settle(self.first, result)

    def renew_first(self) -> None:
        """Let whoever joins from now on wait for the next run, unless somebody waits for it already."""
        if self.first.done():
            self.first = self.loop.create_future()

    def tell(self, error: StorageError | None) -> None:
        """Raise an error to all who wait now, if there is one; who comes later waits for the execution again."""
        self.trouble = error
        if error is None:
            return
        first_was_open = not self.first.done()
        self.finish(error)
        self.final = self.loop.create_future()
        if first_was_open:
            self.first = self.loop.create_future()

    def finish(self, result: ExecutionResult | BaseException) -> None:
        """Settle everything that is waited for."""
        _settle(self.first, result)
        _settle(self.final, result)


class _Claim:
    """Lets one task at a time, in whatever thread, do something about an execution, in an ``async with`` block."""

    __slots__ = ("_claims", "_clock", "_execution_id")

    def __init__(self, claims: dict[str, object], execution_id: str, clock: Clock) -> None:
        self._claims = claims
        self._execution_id = execution_id
        self._clock = clock

    async def __aenter__(self) -> None:
        while self._claims.setdefault(self._execution_id, self) is not self:
            await self._clock.sleep(_CLAIM_POLL_MS)

    async def __aexit__(self, *exc_info: object) -> None:
        del self._claims[self._execution_id]


@dataclass(frozen=True, slots=True)
class _Ended:
    """An execution that is at rest already.

    Attributes:
        result: Its result.
        joined: Whether it ran when it was asked for, and was waited for.
    """

    result: ExecutionResult
    joined: bool


def _settle(future: asyncio.Future[ExecutionResult], result: ExecutionResult | BaseException) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
        future.exception()  # marks it as seen: nobody need be waiting
    else:
        future.set_result(result)


class WorkflowEngine:
    """Runs workflows, and keeps their state in a store.

    Making an engine touches neither disk nor network; its first execution does. As an asynchronous context manager it
    recovers interrupted executions on entry and lets go of its store on exit.

    Args:
        store: Where the state lives; without it, the runtime directory that the settings name.
        clock: Where the time comes from.
        plugins: Objects with implementations of the hooks in `workflow_core.hookspecs`.
        settings: Everything else.
        process_probe: Tells which processes live; tests replace it.
    """

    locates_steps = False
    """Whether executions note where in the code each of their steps was made; asyncio's debug mode makes them, too."""

    def __init__(
        self,
        store: Store | None = None,
        clock: Clock | None = None,
        plugins: Sequence[object] = (),
        settings: Settings | None = None,
        process_probe: ProcessProbe | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.clock: Clock = clock or SystemClock()
        self.definitions = Definitions()
        self._bare_store: Store = store or DirectoryStore(
            self.settings.directory or default_directory(),
            synchronous=self.settings.synchronous,
            busy_timeout_ms=self.settings.busy_timeout_ms,
        )
        self.secrets = Secrets()
        layout = self._bare_store.layout if isinstance(self._bare_store, DirectoryStore) else None
        self.configurations = Configurations(layout, self.secrets)
        self.log_files: LogFiles | None = None
        if layout is not None and self.settings.log_files:
            level = LEVELS[self.settings.log_level or default_log_level()]
            self.log_files = LogFiles(layout, self.clock, level)
        patience_ms = self.settings.storage_patience_ms
        self._patience = (
            None if patience_ms is None else Patience(self.clock, patience_ms, self._bare_store.wait_for_locks)
        )
        self._probe: ProcessProbe = process_probe or SystemProcessProbe()
        self._watch = OwnerWatch(self._probe, self.clock, self.settings.lease_ms)
        self.owner: Owner = self._probe.make_owner()
        self._active: dict[str, _Active] = {}
        self._claims: dict[str, object] = {}
        self._known_workflows: set[str] = set()
        self._renewal: asyncio.Task[None] | None = None
        self._sleepers = Sleepers(self.clock)
        self._waking: asyncio.Task[None] | None = None
        self._recoveries: set[asyncio.Task[list[str]]] = set()
        self._suspects: dict[str, ExecutionRecord] = {}
        self._trials: asyncio.Task[None] | None = None
        self._closed = False
        self._plugins = PluginManager()
        for plugin in (*_installed_plugins(), *plugins):
            self._plugins.register(plugin)
        self._hooks_changed()
        _engines.add(self)

    def __repr__(self) -> str:
        return f"<WorkflowEngine on {self._bare_store.location()}>"

    @property
    def bare_store(self) -> Store:
        """The store, without what plugins put around it."""
        return self._bare_store

    # Plugins ---------------------------------------------------------------------------------------------------------

    def register(self, plugin: object) -> None:
        """Add a plugin; executions that run already do not notice it.

        Raises:
            pluggy.PluginValidationError: A marked function is no hook, or takes an argument that the hook has not.
        """
        self._plugins.register(plugin)
        self._hooks_changed()

    def unregister(self, plugin: object) -> None:
        """Take a plugin away."""
        self._plugins.unregister(plugin)
        self._hooks_changed()

    def _hooks_changed(self) -> None:
        self._plugins.check_pending()
        hook = self._plugins.hook

        def used(name: str) -> bool:
            return bool(getattr(hook, name).get_hookimpls())

        self.observed = used("on_event")
        self.announces_steps = used("on_step")
        self.announces_handlers = used("on_handler")
        self.wraps_attempts = used("wrap_attempt")
        self._judges = used("is_fatal")
        self._forces = used("force_circuit")
        self._indicators = [text for texts in hook.panic_indicators() for text in texts]
        serializers = [serializer for offered in hook.serializers() for serializer in offered]
        self.codec = Codec(serializers, self.settings.max_result_bytes, self.secrets)
        intercepts = used("before_durable_point") or used("after_durable_point")
        self.store: Store = guarded(self._bare_store, hook if intercepts else None, self._patience)

    async def emit(self, event: Event) -> None:
        """Tell the observers of an event, and await what they return."""
        try:
            for answer in self._plugins.hook.on_event(event=event):
                if inspect.isawaitable(answer):
                    await answer
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise
            logger.exception("Something that a plugin awaited was cancelled while it was told of %r", event)
        except Exception:
            logger.exception("A plugin failed while it was told of %r", event)

    def announce_step(self, step: StepDescription) -> None:
        """Tell the observers of a step that is about to run."""
        try:
            self._plugins.hook.on_step(step=step)
        except Exception:
            logger.exception("A plugin failed while it was told of %r", step)

    def announce_handler(self, attempt: Attempt, handler: str, error: Exception | None) -> None:
        """Tell the observers of a step's handler that is about to be called."""
        try:
            self._plugins.hook.on_handler(attempt=attempt, handler=handler, error=error)
        except Exception:
            logger.exception("A plugin failed while it was told of the handler %s of %r", handler, attempt)

    def attempt_wrappers(self, attempt: Attempt) -> list[Callable[[AttemptHandler], AttemptHandler]]:
        """Return the plugins' wrappers around an attempt, the innermost first."""
        return self._plugins.hook.wrap_attempt(attempt=attempt)[::-1] if self.wraps_attempts else []

    def forced_circuit(self, attempt: Attempt) -> CircuitStatus | None:
        """Return the status that a plugin forces a circuit to."""
        return cast("CircuitStatus | None", self._plugins.hook.force_circuit(attempt=attempt)) if self._forces else None

    def check_event_loop(self) -> None:
        """Refuse to begin where executions cannot run; called before anything is written.

        Raises:
            InvalidStateError: No event loop of asyncio's runs in this thread, but perhaps one of trio's.
        """
        if _running_loop() is None:
            raise InvalidStateError(
                "Workflows run in asyncio's event loop, and none runs here; trio is not supported: with anyio, use its "
                "asyncio backend"
            )

    def step_never_awaited(self, message: str) -> None:
        """Tell the developer that a handler returned without awaiting one of its steps."""
        warnings.warn(message, RuntimeWarning, stacklevel=1)

    def is_fatal(self, error: BaseException) -> bool:
        """Tell whether an error ends its execution at once."""
        return self._judges and self._plugins.hook.is_fatal(error=error) is True

    def panic_indicator(self, error: BaseException) -> str | None:
        """Return what makes an error a panic, or ``None``."""
        if isinstance(error, PanicError):
            return error.indicator or "panic"
        return find_panic_indicator(error, self._indicators)

    # Storage ---------------------------------------------------------------------------------------------------------

    def store_of(self, execution: Execution) -> WorkflowStore:
        """Return where an execution is stored; there its durable points are tried again for as long as it takes."""
        return guarded_for(self.store, execution.definition.name, execution)

    def drives(self, execution: Execution) -> bool:
        """Tell whether a run of an execution is under way here."""
        active = self._active.get(execution.execution_id)
        return active is not None and active.execution is execution

    def tell_waiters(self, execution: Execution, error: StorageError | None) -> None:
        """Raise an error to all who wait for an execution, which goes on all the same.

        Args:
            execution: The execution.
            error: What keeps it from going on; ``None`` when nothing does any more.
        """
        active = self._active.get(execution.execution_id)
        if active is not None and active.execution is execution:
            active.tell(error)

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
    ) -> Any:
        """Define a workflow in this engine; usable as a function and as a decorator.

        Args:
            name: 1 to 128 of the characters ``A-Za-z0-9._-``, beginning with a letter or digit: it becomes a directory.
            handler: Function of the context, ``async def`` or ``def``.
            description: One line about the workflow; by default the first line of the handler's docstring.
            version: The workflow's own version.
            retry_config: For executions that are started without one.
            panic_config: For executions that are started without one.

        Raises:
            ValidationError: An argument is not acceptable.
        """
        return define_workflow(
            lambda _: self.definitions, name, handler, description, version, retry_config, panic_config
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
        definition = self._known_definition(name)
        if definition is None:
            known = ", ".join(self.workflow_names()) or "none"
            raise WorkflowNotFoundError(
                f'No workflow "{name}" is defined in this process (defined: {known}); import the module that defines it'
            )
        return definition

    def _known_definition(self, name: str) -> Definition | None:
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
                f"({self._bare_store.location()}); copy that with the backup() of Python's sqlite3"
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
        record = await self._load(execution_id)
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
        running = [active.task for active in self._active.values() if active.task is not None]
        running += [task for task in (self._renewal, self._waking, self._trials) if task is not None]
        running = [task for task in running if task.get_loop() is asyncio.get_running_loop()]
        if asyncio.current_task() in running:
            raise InvalidStateError("aclose() cannot be awaited inside a workflow: it waits for the workflows to stop")
        self._closed = True
        self._suspects.clear()
        await self._begun(self._active.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        with contextlib.suppress(StorageError):
            await self.store.owner_retired(self.owner)
        self.close()

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
        for plugin in list(self._plugins.get_plugins()):
            self._plugins.unregister(plugin)
        if doom is not None:
            for execution in self.running():
                execution.doomed(doom)
        tasks = [active.task for active in self._active.values() if active.task is not None]
        tasks += [task for task in (self._renewal, self._waking, self._trials) if task is not None]
        for task in tasks:
            task.cancel()
        return tasks

    @contextlib.contextmanager
    def activate(self) -> Iterator[WorkflowEngine]:
        """Make this the engine that `Workflow` means, in the ``with`` block."""
        with activated(self):
            yield self

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
        begun = await self._begin(name, execution_id, input, retry_config, panic_config, timeout_ms, detach=detach)
        if isinstance(begun, _Ended):
            return _as_joined(begun.result) if begun.joined and not detach else begun.result
        return begun.execution.snapshot() if detach else await self._first_result(begun)

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
        begun = await self._begin(name, execution_id, input, retry_config, panic_config, timeout_ms)
        return begun.result if isinstance(begun, _Ended) else await self._final_result(begun)

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
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise InvalidStateError("run() cannot be called from asynchronous code: await start() instead")

        try:
            return asyncio.run(
                self.start_and_wait(name, execution_id, input, retry_config, panic_config, timeout_ms=timeout_ms)
            )
        except KeyboardInterrupt:  # asyncio chains it to the cancellation by which it stopped, which tells nobody more
            raise KeyboardInterrupt(f'workflow "{name}" was interrupted; it goes on when it is started again') from None

    async def _begin(
        self,
        name: str,
        execution_id: str | None,
        input_value: object,
        retry_config: RetryConfig | dict[str, Any] | None,
        panic_config: PanicConfig | dict[str, Any] | None,
        timeout_ms: int | None,
        *,
        detach: bool = False,
    ) -> _Active | _Ended:
        self.check_event_loop()
        definition = self.definition(name)
        self.configurations.prepare(name)
        execution_id = str(uuid.uuid4()) if execution_id is None else self._validated_id(execution_id)
        if self.secrets.known:
            self.codec.refuse_secrets(execution_id, "the id of an execution")
        retry = definition.retry_config if retry_config is None else configured(RetryConfig, retry_config)
        panic = definition.panic_config if panic_config is None else configured(PanicConfig, panic_config)
        validate_timeout(f'Workflow "{name}"', timeout_ms)
        text, value = self._encode_input(definition, execution_id, input_value)
        async with self._claimed(execution_id):
            active = self._active_execution(execution_id)
            if active is None:
                found = await self._begin_new(definition, execution_id, text, value, retry, panic, timeout_ms)
                if isinstance(found, _Active):
                    return found
            else:
                found = active.execution.record
        self._check_same(found, name, text)
        return await self._found(found, detach=detach)

    async def _begin_new(
        self,
        definition: Definition,
        execution_id: str,
        text: str | None,
        value: object,
        retry: RetryConfig,
        panic: PanicConfig,
        timeout_ms: int | None,
    ) -> _Active | ExecutionRecord:
        """Record an execution and launch it; return the record instead if the store knew the id already."""
        name, at = definition.name, self.clock.now()
        if name not in self._known_workflows:
            await self.store.workflow_defined(name, _definition_file(definition, at), at)
            self._known_workflows.add(name)
        new = NewExecution(
            workflow_name=name,
            execution_id=execution_id,
            input_data=text,
            retry_config=retry.model_dump_json(),
            panic_config=panic.model_dump_json(),
            deadline_at=None if timeout_ms is None else to_epoch_ms(at + timedelta(milliseconds=timeout_ms)),
            definition_revision=definition.revision,
            definition_document=definition.document,
        )
        existing = await self.store.execution_started(new, self.owner, self.lease_expiry(), at)
        if existing is not None:
            return existing
        record = ExecutionRecord(
            execution_id=execution_id,
            workflow_name=name,
            status="running",
            started_at=at,
            completed_at=None,
            restart_attempt=1,
            error_data=None,
            input_data=text,
            output_data=None,
            retry_config=new.retry_config,
            panic_config=new.panic_config,
            deadline_at=new.deadline_at,
            restart_at=None,
            owner_id=self.owner.owner_id,
            fencing_token=1,
            definition_revision=new.definition_revision,
        )
        execution = Execution(self, definition, record, Lease(name, execution_id, 1), retry, panic, value, {}, 1)
        execution.opens_with(ExecutionStarted(), 1, at)
        return self._launch(execution)

    def _validated_id(self, execution_id: object) -> str:
        plain = str.__str__(execution_id) if isinstance(execution_id, str) else ""
        if self.settings.execution_id_format == "uuid":
            try:
                if str(uuid.UUID(plain)) == plain.lower():
                    return plain.lower()
            except ValueError:
                pass
            raise ValidationError(f"Invalid execution id {shown(execution_id, 300)}: a UUID is required")
        if _BUSINESS_ID.fullmatch(plain):
            return plain
        raise ValidationError(
            f"Invalid execution id {shown(execution_id, 300)}: use 1 to 255 of the characters A-Z a-z 0-9 . _ : -"
        )

    def _encode_input(self, definition: Definition, execution_id: str, value: object) -> tuple[str | None, object]:
        what = f'input of workflow "{definition.name}", execution "{execution_id}"'
        advice = "declare the type (annotate the handler's parameter as WorkflowContext[...]) or pass plain data"
        declared = definition.input_type
        adapter = declared.adapter() if declared is not None else None
        if adapter is None:
            return self.codec.encode(value, f"the {what}", advice=advice)
        fingerprint = self.codec.fingerprint(value)
        value = validated(adapter, value, what)
        return self.codec.encode(value, f"the {what}", declared, fingerprint, advice=advice)

    @staticmethod
    def _check_same(record: ExecutionRecord, name: str, input_data: str | None) -> None:
        if record.workflow_name != name:
            raise ExecutionConflictError(
                f'Execution id "{record.execution_id}" is in use for workflow "{record.workflow_name}", so it cannot '
                f'start "{name}"; choose another id'
            )
        if not same_json(record.input_data, input_data):
            raise ExecutionConflictError(
                f'Execution "{record.execution_id}" of workflow "{name}" was started with another input; choose '
                "another id, or start it with the input it had"
            )

    async def _found(self, record: ExecutionRecord, *, detach: bool = False) -> _Active | _Ended:
        """Answer a start whose id was known already: join what runs, go on with what was interrupted."""
        joined = False
        while True:
            active = self._active_execution(record.execution_id)
            if active is not None and active.loop is asyncio.get_running_loop():
                return active
            if active is None:
                if _at_rest(record):
                    return _Ended(await self.get_status(record.execution_id), joined)
                if not await self._is_alive_elsewhere(record):
                    with contextlib.suppress(LeaseLostError):  # it changed hands, or ended, since it was read
                        return await self._take_over(record)
            if detach:
                return _Ended(await self.get_status(record.execution_id), joined=True)
            joined = True
            await self.clock.sleep(self.settings.poll_interval_ms)
            record = await self._load(record.execution_id)

    async def _first_result(self, active: _Active) -> ExecutionResult:
        """Wait for the end of a run; if another process takes the execution over meanwhile, for what comes of it there.

        Raises:
            Exception: What ended the execution, as `start` raises it.
        """
        try:
            return await asyncio.shield(active.first)
        except LeaseLostError as error:
            if error.execution_id != active.execution.execution_id or self._closed:
                raise
        return _as_joined(await self._result_elsewhere(active.execution.execution_id))

    async def _final_result(self, active: _Active) -> ExecutionResult:
        """As `_first_result`, for the final result, whatever its status."""
        try:
            return await asyncio.shield(active.final)
        except LeaseLostError as error:
            if error.execution_id != active.execution.execution_id or self._closed:
                raise
        return await self._result_elsewhere(active.execution.execution_id)

    async def _result_elsewhere(self, execution_id: str) -> ExecutionResult:
        """Wait for an execution that another process has taken over, and go on with it if that one dies as well."""
        found = await self._found(await self._load(execution_id))
        return found.result if isinstance(found, _Ended) else await self._final_result(found)

    # What runs here --------------------------------------------------------------------------------------------------

    def _active_execution(self, execution_id: str) -> _Active | None:
        """Return an execution that runs in this engine; one whose event loop was closed does not run any more."""
        active = self._active.get(execution_id)
        if active is not None and active.loop.is_closed():
            del self._active[execution_id]
            return None
        return active

    def _claimed(self, execution_id: str) -> _Claim:
        """Keep other threads, and other tasks, from beginning the same execution in this engine meanwhile."""
        return _Claim(self._claims, execution_id, self.clock)

    @staticmethod
    async def _begun(executions: Iterable[_Active]) -> None:
        """Let tasks begin: one that is cancelled before it has begun cannot tell anybody."""
        if not all(active.begun for active in executions):
            await asyncio.sleep(0)  # they were scheduled before this task goes on

    # Joining, resuming, restarting, cancelling -----------------------------------------------------------------------

    async def get_status(self, execution_id: str) -> ExecutionResult:
        """Return what is known of an execution now.

        Raises:
            ValidationError: The id is not acceptable.
            ExecutionNotFoundError: There is no such execution.
        """
        record = await self._load(execution_id)
        active = self._active_execution(record.execution_id)
        if active is not None and active.loop is _running_loop():
            return active.execution.snapshot()
        workflow = self.store.workflow(record.workflow_name)
        steps, _ = await workflow.load_steps(record.workflow_name, record.execution_id)
        errors = await self._last_errors(record)
        return result_of(record, steps, errors, self.codec, self._known_definition(record.workflow_name))

    async def _last_errors(self, record: ExecutionRecord) -> dict[str, ErrorInfo]:
        workflow = self.store.workflow(record.workflow_name)
        return {
            step_id: ErrorInfo(
                type=error.error_type, message=error.error_message, step_id=step_id, attempt=error.attempt
            )
            for step_id, error in await workflow.load_errors(record.workflow_name, record.execution_id)
        }

    async def history(self, execution_id: str) -> list[Event]:
        """Return the events of an execution, oldest first.

        Raises:
            ExecutionNotFoundError: There is no such execution.
        """
        record = await self._load(execution_id)
        return await self.store.workflow(record.workflow_name).load_events(record.workflow_name, record.execution_id)

    async def wait(self, execution_id: str) -> ExecutionResult:
        """Wait until an execution is at rest, through automatic restarts, and return its result.

        Raises:
            ExecutionNotFoundError: There is no such execution.
            InvalidStateError: Nobody runs it: it was interrupted and waits for `resume` or `recover`.
            BaseException: An error that a plugin calls fatal (hook ``is_fatal``), as it is.
        """
        self.check_event_loop()
        execution_id = self._validated_id(execution_id)
        active = self._active_execution(execution_id)
        if active is not None and active.loop is asyncio.get_running_loop():
            return await self._final_result(active)
        if active is None and (active := await self._wake(execution_id)) is not None:
            return await self._final_result(active)
        return await self._poll(execution_id)

    async def resume(self, execution_id: str) -> ExecutionResult:
        """Go on with a sleeping or interrupted execution, and return its result as `start` does.

        A sleep that is not over is slept to its end. An execution that runs in this engine is joined.

        Raises:
            ExecutionNotFoundError: There is no such execution.
            InvalidStateError: It is at rest, or another process runs it.
        """
        self.check_event_loop()
        execution_id = self._validated_id(execution_id)
        active = self._active_execution(execution_id)
        if active is not None and active.execution.status != "panicked":
            if active.loop is asyncio.get_running_loop():
                return await self._first_result(active)
            return _as_joined(await self._poll(execution_id))
        record = await self._load(execution_id)
        if record.status not in {"sleeping", "running", "restarting"}:
            raise InvalidStateError(
                f'Execution "{execution_id}" of workflow "{record.workflow_name}" is {record.status}; only a sleeping '
                "or interrupted execution can be resumed"
                + (", and this one can be restarted" if record.status in {"panicked", "failed"} else "")
            )
        if await self._is_alive_elsewhere(record):
            raise InvalidStateError(
                f'Execution "{execution_id}" of workflow "{record.workflow_name}" runs in another process; wait for it '
                "with wait()"
            )
        try:
            return await asyncio.shield((await self._take_over(record)).first)
        except LeaseLostError:
            if (await self._load(execution_id)).fencing_token == record.fencing_token:
                raise
        return await self.resume(execution_id)  # it changed hands, or ended, since it was read: say what it is now

    async def restart(self, execution_id: str) -> ExecutionResult:
        """Run a panicked or failed execution again, with its completed steps kept; return its result as `start` does.

        Raises:
            ExecutionNotFoundError: There is no such execution.
            InvalidStateError: It is neither panicked nor failed.
        """
        self.check_event_loop()
        execution_id = self._validated_id(execution_id)
        active = self._active_execution(execution_id)
        if active is not None and active.execution.status == "panicked" and active.loop is asyncio.get_running_loop():
            await active.between_runs.wait()
            active = self._active_execution(execution_id)
        if active is not None and active.execution.status == "panicked" and active.restart_now is not None:
            if active.loop is not asyncio.get_running_loop():
                active.loop.call_soon_threadsafe(active.restart_now.set)
                return _as_joined(await self._poll(execution_id))
            active.renew_first()
            active.restart_now.set()
            return await asyncio.shield(active.first)
        record = await self._load(execution_id)
        if record.status not in {"panicked", "failed"} or active is not None:
            raise InvalidStateError(
                f'Execution "{execution_id}" of workflow "{record.workflow_name}" is {record.status}; only a panicked '
                "or failed execution can be restarted"
            )
        async with self._claimed(execution_id):
            execution = await self._revive(record)
            try:
                execution = await execution.restart(by_hand=True)
            except LeaseLostError:
                raise InvalidStateError(
                    f'Execution "{execution_id}" of workflow "{record.workflow_name}" was restarted, or cancelled, by '
                    "somebody else at the same moment; wait for it with wait()"
                ) from None
            active = self._launch(execution)
        return await asyncio.shield(active.first)

    async def cancel(self, execution_id: str) -> ExecutionResult:
        """Cancel an execution, wherever it runs; its running steps are cancelled.

        In another process the cancellation is noticed at the next durable point or lease renewal.

        Raises:
            ExecutionNotFoundError: There is no such execution.
            InvalidStateError: It is at rest already.
        """
        self.check_event_loop()
        record, at = await self._cancel_stored(execution_id)
        self._sleepers.take(record.execution_id)
        active = self._active_execution(record.execution_id)
        if active is not None and active.task is not None:
            execution = active.execution
            active.cancelled, execution.status = True, "cancelled"
            execution.doomed(asyncio.CancelledError(f"{execution} was cancelled"))
            if execution.observed:
                event = ExecutionCancelled().stamped(
                    execution.next_seq(), at, record.execution_id, record.workflow_name
                )
                await self.emit(event)
            if active.loop is not asyncio.get_running_loop():
                active.loop.call_soon_threadsafe(active.task.cancel)
            elif active.task is not asyncio.current_task():
                await self._begun([active])
                active.task.cancel()
                await asyncio.wait([active.task], timeout=_CANCEL_GRACE_SECONDS)
        await self._complete_log(record)
        return await self.get_status(execution_id)

    async def _cancel_stored(self, execution_id: str) -> tuple[ExecutionRecord, datetime]:
        while True:
            record = await self._load(execution_id)
            if record.status in TERMINAL_STATUSES:
                raise InvalidStateError(
                    f'Execution "{execution_id}" of workflow "{record.workflow_name}" is {record.status} already'
                )
            lease = Lease(record.workflow_name, record.execution_id, record.fencing_token)
            at = self.clock.now()
            try:
                await self.store.workflow(record.workflow_name).execution_cancelled(lease, 0, at)
            except LeaseLostError:
                continue  # it changed hands since it was read; whoever has it now loses it to the next try
            return record, at

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
        self.check_event_loop()
        taken: list[str] = []
        suspects: list[tuple[int, ExecutionRecord]] = []
        unknown: Counter[str] = Counter()
        hindered: set[str] = set()
        after: Position | None = None
        while True:
            page = await self.store.unfinished_executions(after, _RECOVERY_PAGE)
            living: dict[Owner | None, bool] = {}  # a page has many executions of few owners
            for found in page:
                if self._runs_somewhere(found, living) or self._bare_store.location(found.workflow_name) in hindered:
                    continue
                if not found.is_declarative and self._known_definition(found.workflow_name) is None:
                    unknown[found.workflow_name] += 1
                elif await self._recover_one(found, len(taken), suspects, hindered):
                    taken.append(found.execution_id)
            if len(page) < _RECOVERY_PAGE:
                break
            after = page[-1].position
            await asyncio.sleep(0)  # what was taken over begins, and others have their turn
        for name, count in unknown.items():
            logger.warning(
                'Executions of workflow "%s" wait to be recovered (%d), but it is not defined in this process',
                name,
                count,
            )
        if hindered:
            logger.warning("Executions of %s are recovered when it works again", ", ".join(sorted(hindered)))
            self.clock.call_later(_RECOVER_AGAIN_MS, self._recover_in_background)
        return taken + self._suspect(suspects)

    def _suspect(self, suspects: list[tuple[int, ExecutionRecord]]) -> list[str]:
        """Let executions be taken over one at a time, in the background; return their ids."""
        suspects.sort(key=lambda suspect: suspect[0])
        self._suspects.update((record.execution_id, record) for _, record in suspects)
        loop, trials = asyncio.get_running_loop(), self._trials
        if suspects and (trials is None or trials.done() or trials.get_loop() is not loop):
            self._trials = loop.create_task(self._try_suspects(), name="workflow recovery")
        return [record.execution_id for _, record in suspects]

    def _recover_in_background(self) -> None:
        """Recover again what a database did not let be recovered."""
        if not self._closed:
            task = asyncio.get_running_loop().create_task(self.recover(), name="workflow recovery")
            self._recoveries.add(task)
            task.add_done_callback(self._recovered)

    def _recovered(self, task: asyncio.Task[list[str]]) -> None:
        self._recoveries.discard(task)
        if not task.cancelled() and task.exception() is not None and not self._closed:
            logger.error("Executions cannot be recovered", exc_info=task.exception())

    def _runs_somewhere(self, found: UnfinishedExecution, living: dict[Owner | None, bool]) -> bool:
        if found.owner not in living:
            living[found.owner] = self._lives(found.owner, found.lease_expires_at)
        return (
            living[found.owner]
            or self._active_execution(found.execution_id) is not None
            or found.execution_id in self._sleepers
        )

    async def _recover_one(
        self,
        found: UnfinishedExecution,
        taken: int,
        suspects: list[tuple[int, ExecutionRecord]],
        hindered: set[str],
    ) -> bool:
        """Take an execution over; return whether this engine has it now.

        One that may have ended its process is put to the suspects, and a database that cannot be used to the hindered.
        """
        try:
            waits = found.due_at is not None and found.due_at > to_epoch_ms(self.clock.now())
            if found.due_at is not None and waits and taken >= self.settings.resident_sleepers:
                await self._let_sleep(found, found.due_at)
                return True
            record = await self.store.load_execution(found.execution_id)
            if record is None or record.fencing_token != found.fencing_token:
                return False
            deaths = 0 if waits else await self._deaths_of(record)
            if deaths:
                suspects.append((deaths, record))
                return False
            await self._take_over(record)
        except LeaseLostError:
            return False  # another process was faster
        except Exception as error:  # one damaged row must not keep the others from being recovered
            logger.exception('Execution "%s" cannot be recovered', found.execution_id)
            if self._patience is not None and isinstance(error, StorageError) and error.is_transient:
                hindered.add(error.location or "")
            return False
        return True

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

        Raises:
            ValidationError: An argument is not acceptable.
            StorageError: The database cannot be read.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _LONGEST_PAGE:
            raise ValidationError(f"limit must be a number from 1 to {_LONGEST_PAGE}, not {limit!r:.300}")
        return await self.store.list_executions(
            _validated_name(workflow_name),
            statuses(status),
            limit,
            started_after=_aware("started_after", started_after),
            started_before=_aware("started_before", started_before),
            before=position(before),
        )

    async def stats(self, workflow_name: str | None = None) -> list[WorkflowStats]:
        """Return how many executions each workflow has, by status; sorted by name, workflows without any left out.

        Args:
            workflow_name: Of this workflow alone, which need not be defined here.

        Raises:
            ValidationError: The name is not acceptable.
            StorageError: The database cannot be read.
        """
        counts = await self.store.count_executions(_validated_name(workflow_name))
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
        if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= _LONGEST_PAGE:
            raise ValidationError(f"batch must be a number from 1 to {_LONGEST_PAGE}, not {batch!r:.300}")
        expired = expiry(self.clock.now(), older_than, status)
        name = _validated_name(workflow_name)
        return await cleaned_up(self.store, self.clock, expired, name, batch, dry_run=dry_run)

    async def set_circuit(
        self, workflow_name: str, step_id: str, status: CircuitStatus, config: CircuitBreakerConfig
    ) -> CircuitState:
        """Set the circuit of a step by hand.

        Args:
            workflow_name: The workflow.
            step_id: The step.
            status: ``closed``, ``open`` or ``half_open``.
            config: The breaker's configuration, for the reset time.
        """
        now_ms = to_epoch_ms(self.clock.now())
        return await self.store.workflow(workflow_name).circuit_forced(
            workflow_name, step_id, lambda state: circuit_breaker.forced(state, config, status, now_ms)
        )

    async def _load(self, execution_id: str) -> ExecutionRecord:
        record = await self.store.load_execution(self._validated_id(execution_id))
        if record is None:
            raise ExecutionNotFoundError(f'No execution "{execution_id}" in {self._bare_store.location()}')
        return record

    async def _poll(self, execution_id: str) -> ExecutionResult:
        """Wait for an execution that another process, or another event loop, runs."""
        while True:
            record = await self._load(execution_id)
            if _at_rest(record):
                return await self.get_status(execution_id)
            if self._is_nobodys(execution_id) and not await self._is_alive_elsewhere(record):
                again = await self._load(execution_id)
                if again != record:
                    continue  # it ended, or changed hands, while it was looked at
                raise InvalidStateError(
                    f'Execution "{execution_id}" of workflow "{record.workflow_name}" is {record.status}, but no '
                    "process runs it: it was interrupted; start() with its id, resume() or recover() goes on with it"
                )
            active = self._active_execution(execution_id)
            if active is not None and active.trouble is not None:
                raise active.trouble
            await self.clock.sleep(self.settings.poll_interval_ms)

    # Ownership -------------------------------------------------------------------------------------------------------

    def lease_expiry(self) -> int | None:
        """Return until when a lease taken now is good, in milliseconds since 1970; ``None`` for always."""
        lease_ms = self.settings.lease_ms
        return None if lease_ms is None else to_epoch_ms(self.clock.now()) + lease_ms

    def _lives(self, owner: Owner | None, expires_at: int | None) -> bool:
        if owner is None or owner.owner_id == self.owner.owner_id:
            return False
        return self._watch.lives(owner, expires_at)

    def _is_nobodys(self, execution_id: str) -> bool:
        """Tell whether an execution neither runs in this engine nor is about to be taken over by it."""
        return self._active_execution(execution_id) is None and execution_id not in self._suspects

    async def _is_alive_elsewhere(self, record: ExecutionRecord) -> bool:
        if record.owner_id is None:
            return False
        found = await self.store.workflow(record.workflow_name).load_owner(record.owner_id)
        return found is not None and self._lives(*found)

    async def _definition_of(self, record: ExecutionRecord) -> Definition:
        """Return the workflow as an execution was started with it.

        Raises:
            WorkflowNotFoundError: It is a function, and none of that name is defined.
            ValidationError: It is a document that cannot run in this process; a step type is unknown here, perhaps.
        """
        known = self._known_definition(record.workflow_name)
        if record.definition_revision is None or (known and known.revision == record.definition_revision):
            return self.definition(record.workflow_name)
        from workflow_core.definitions.running import compiled_text  # noqa: PLC0415 - they need the engine's parts

        document = await self.store.workflow(record.workflow_name).load_definition(record.definition_revision)
        return compiled_text(document or "null", f'execution "{record.execution_id}"')

    async def _revive(self, record: ExecutionRecord) -> Execution:
        definition = await self._definition_of(record)
        self.configurations.prepare(record.workflow_name)
        await self._complete_log(record)
        steps, seq = await self.store.workflow(record.workflow_name).load_steps(
            record.workflow_name, record.execution_id
        )
        execution = Execution(
            self,
            definition,
            record,
            Lease(record.workflow_name, record.execution_id, record.fencing_token),
            RetryConfig.model_validate_json(record.retry_config),
            PanicConfig.model_validate_json(record.panic_config),
            self.codec.decode(
                record.input_data, definition.input_type, f'the input of execution "{record.execution_id}"'
            ),
            steps,
            seq,
        )
        execution.last_errors = await self._last_errors(record)
        return execution

    async def _take_over(self, record: ExecutionRecord) -> _Active:
        """Go on with an interrupted execution, unless another thread of this engine does so already.

        Raises:
            LeaseLostError: It changed hands, or ended, since it was read.
        """
        async with self._claimed(record.execution_id):
            return (
                self._active_execution(record.execution_id)
                or await self._woken(record.execution_id)
                or await self._taken_over(record)
            )

    async def _taken_over(self, record: ExecutionRecord) -> _Active:
        execution = await self._revive(record)
        deaths = await self._deaths_of(record)
        seq, at = execution.next_seq(), self.clock.now()
        status: ExecutionStatus = record.status if record.status in {"sleeping", "panicked"} else "running"
        lease = await execution.store.execution_recovered(
            execution.lease, self.owner, self.lease_expiry(), status, seq, at
        )
        execution.taken_over(lease, status)
        if self.settings.max_recoveries is not None and deaths >= self.settings.max_recoveries:
            execution.hopeless = interrupted_too_often(execution, deaths)
        execution.opens_with(ExecutionRecovered(), seq, at)
        return self._launch(execution)

    # Sleepers: executions that were recovered and wait in the store ---------------------------------------------------

    async def _let_sleep(self, found: UnfinishedExecution, due_at: int) -> None:
        """Take a sleeping execution over without reading it; it is read when it is due, or asked for."""
        async with self._claimed(found.execution_id):
            if self._active_execution(found.execution_id) is not None:
                return
            lease, at = Lease(found.workflow_name, found.execution_id, found.fencing_token), self.clock.now()
            lease = await self.store.workflow(found.workflow_name).execution_recovered(
                lease, self.owner, self.lease_expiry(), found.status, 0, at
            )
            self._sleepers.add(lease, due_at, at)
        self._keep_leases()
        if self._waking is None or self._waking.done() or self._waking.get_loop().is_closed():
            self._waking = asyncio.get_running_loop().create_task(self._wake_sleepers(), name="workflow sleepers")

    async def _wake_sleepers(self) -> None:
        """Go on with sleepers when they are due, and let others have their turn between bunches of them."""
        try:
            while self._sleepers and not self._closed:
                await self._sleepers.until_due()
                for _ in range(_WAKING_BUNCH):
                    sleeper = self._sleepers.first_due()
                    if sleeper is None:
                        break
                    await self._wake_due(sleeper)
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            if not self._closed:  # else the owner is retired as a whole
                await self._release_sleepers()
            raise

    async def _wake_due(self, sleeper: Sleeper) -> None:
        lease = sleeper.lease
        try:
            await self._wake(lease.execution_id)
        except StorageError:
            logger.exception('Execution "%s" is due, but cannot be read; it is tried again', lease.execution_id)
            again_at = to_epoch_ms(self.clock.now()) + _WAKE_AGAIN_MS
            self._sleepers.add(lease, again_at, sleeper.recovered_at)
        except Exception:  # one damaged row must not keep the others asleep
            logger.exception('Execution "%s" is due, but cannot go on', lease.execution_id)
            self._sleepers.take(lease.execution_id)
            with contextlib.suppress(StorageError):
                await self.store.workflow(lease.workflow_name).executions_released([lease], self.clock.now())

    async def _wake(self, execution_id: str) -> _Active | None:
        if execution_id not in self._sleepers:
            return None
        async with self._claimed(execution_id):
            return self._active_execution(execution_id) or await self._woken(execution_id)

    async def _woken(self, execution_id: str) -> _Active | None:
        """Go on with a sleeper; ``None`` if it is none, or not any more."""
        sleeper = self._sleepers.take(execution_id)
        if sleeper is None:
            return None
        try:
            record = await self.store.workflow(sleeper.lease.workflow_name).load_execution(execution_id)
            if record is None or record.fencing_token != sleeper.lease.fencing_token:
                return None  # it was cancelled, or taken over when this process seemed dead
            execution = await self._revive(record)
        except BaseException:
            self._sleepers.add(sleeper.lease, sleeper.due_at, sleeper.recovered_at)
            raise
        execution.opens_with(ExecutionRecovered(), execution.last_seq, sleeper.recovered_at)
        return self._launch(execution)

    async def _release_sleepers(self) -> None:
        """Give the sleepers back for another engine, or another event loop of this one, to recover."""
        by_workflow: dict[str, list[Lease]] = {}
        for sleeper in self._sleepers.clear():
            by_workflow.setdefault(sleeper.lease.workflow_name, []).append(sleeper.lease)
        for name, leases in by_workflow.items():
            with contextlib.suppress(StorageError):
                await self.store.workflow(name).executions_released(leases, self.clock.now())

    async def _deaths_of(self, record: ExecutionRecord) -> int:
        """Return how many deaths of processes count against an execution; see `workflow_core.crash_loops`."""
        if self.settings.max_recoveries is None or record.owner_id is None:
            return 0
        return await load_deaths(self.store.workflow(record.workflow_name), record, self.clock.now())

    async def _try_suspects(self) -> None:
        """Take executions over that may have ended their process, the least suspicious first, one at a time."""
        latest = None
        while self._suspects:
            await in_peace(latest, self.running, self.clock)
            execution_id = next(iter(self._suspects), None)
            if execution_id is None:
                return  # the engine was closed meanwhile
            try:
                latest = (await self._take_over(self._suspects[execution_id])).execution
            except LeaseLostError:
                continue  # another process was faster
            except WorkflowCoreError:
                logger.exception('Execution "%s" cannot be recovered', execution_id)
                continue
            finally:
                self._suspects.pop(execution_id, None)

    async def _renew_leases(self, lease_ms: int) -> None:
        """Keep this engine's executions its own, and stop those that another process has taken."""
        delay_ms = lease_ms / 3
        while (self._active or self._sleepers) and not self._closed:
            await self.clock.sleep(delay_ms)
            delay_ms = lease_ms / 3
            stores: dict[int, tuple[WorkflowStore, list[_Active]]] = {}
            for active in self._active.values():
                store = self._bare_store.workflow(active.execution.definition.name)
                stores.setdefault(id(store), (store, []))[1].append(active)
            for name in self._sleepers.workflow_names:
                store = self._bare_store.workflow(name)
                stores.setdefault(id(store), (store, []))
            for store, actives in stores.values():
                try:
                    leases = [active.execution.lease for active in actives]
                    owned = await store.lease_renewed(self.owner, self.lease_expiry(), leases)
                except StorageError as error:  # the other databases' leases must not run out for that
                    level = logging.DEBUG if error.is_transient else logging.ERROR
                    logger.log(level, "Cannot renew the leases of this process: %s", error)
                    delay_ms = min(delay_ms, _RENEW_AGAIN_MS)
                    continue
                self._stop_lost(actives, owned)

    @staticmethod
    def _stop_lost(actives: Iterable[_Active], owned: set[tuple[str, int]]) -> None:
        for active in actives:
            lease = active.execution.lease
            ours = (lease.execution_id, lease.fencing_token) in owned
            if not ours and active.execution.status not in TERMINAL_STATUSES and active.task is not None:
                active.lost = True
                active.task.cancel()

    # Running ---------------------------------------------------------------------------------------------------------

    async def invoke(self, function: Callable[..., Any], *args: object) -> object:
        """Call a user's function: in this task if it is asynchronous, else where the settings say."""
        code: object = getattr(function, "__code__", None)
        # a proxy has whatever attribute it is asked for, so having a __code__ says little
        is_coroutine = isinstance(code, types.CodeType) and code.co_flags & inspect.CO_COROUTINE
        if is_coroutine or inspect.iscoroutinefunction(function):
            return await function(*args)
        if self.settings.sync_handlers == "thread":
            result = await asyncio.to_thread(_call_in_thread, function, args)
        else:
            result = await self._call_inline(function, args)
        return await result if inspect.isawaitable(result) else result

    async def _call_inline(self, function: Callable[..., object], args: tuple[object, ...]) -> object:
        """Call a plain function in the event loop's thread, with what a thread leaves room for before and after it."""
        await asyncio.sleep(0)  # tasks beside this one find the step running
        begun_at = self.clock.monotonic()
        try:
            return function(*args)
        finally:
            if self.clock.monotonic() > begun_at:
                await asyncio.sleep(0)  # the loop collects the timers that fell due meanwhile
                await asyncio.sleep(0)  # and they run: the time-out of this attempt is one

    def _launch(self, execution: Execution) -> _Active:
        loop = asyncio.get_running_loop()
        if self.log_files is not None:
            self.log_files.begin(loop)
        active = _Active(execution, loop, loop.create_future(), loop.create_future())
        self._active[execution.execution_id] = active
        active.task = loop.create_task(self._drive(active), name=f"workflow {execution.execution_id}")
        active.task.add_done_callback(functools.partial(self._settled, active))
        self._keep_leases()
        return active

    def _keep_leases(self) -> None:
        """See to it that the leases are renewed, in this event loop."""
        loop, lease_ms = asyncio.get_running_loop(), self.settings.lease_ms
        if lease_ms is not None and (
            self._renewal is None or self._renewal.done() or self._renewal.get_loop() is not loop
        ):
            self._renewal = loop.create_task(self._renew_leases(lease_ms), name="workflow lease renewal")

    def _settled(self, active: _Active, task: asyncio.Task[None]) -> None:
        """Let nobody wait for an execution whose task has ended, be it that it was cancelled before it had begun."""
        if not task.cancelled():
            task.exception()  # marks it as seen: who waits for the execution meets it, and nobody asks the task
        active.finish(_interrupted(active.execution))
        self._forget(active)
        active.between_runs.set()

    def _forget(self, active: _Active) -> None:
        if self._active.get(active.execution.execution_id) is active:
            del self._active[active.execution.execution_id]

    async def _drive(self, active: _Active) -> None:
        """Run an execution until it is at rest, restarting it after panics."""
        active.begun = True
        try:
            await self._run_to_rest(active)
            if self.log_files is not None:
                await self._write_log(self.log_files, active.execution)
            active.finish(active.execution.snapshot())
        except asyncio.CancelledError:
            if not active.cancelled and not active.lost:
                if active.execution.status in TERMINAL_STATUSES:  # only its observers were cut off
                    active.finish(active.execution.snapshot())
                    raise
                await self._release(active.execution, give_back=True)
                active.finish(_interrupted(active.execution))
                raise
            active.finish(await self._result_after_loss(active))
        except LeaseLostError:
            active.finish(await self._result_after_loss(active))
        except BaseException as error:
            active.finish(error)
            # Only an orderly stop gives the attempt back: what breaks out otherwise has used it up, like any crash.
            orderly = isinstance(error, (Exception, KeyboardInterrupt, GeneratorExit))
            await self._release(active.execution, give_back=orderly)
            if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
                raise
            if not self._closed:
                logger.exception("%s stopped and can be resumed", active.execution)
        finally:
            self._forget(active)
            if self.log_files is not None:
                self.log_files.flush()

    async def _write_log(self, files: LogFiles, execution: Execution) -> None:
        """Write what was logged of an execution that has come to rest, and what could not be written before."""
        files.flush()
        incomplete = files.incomplete.get(execution.definition.name)
        if incomplete:
            for execution_id in list(incomplete):
                await self._complete_log(replace(execution.record, execution_id=execution_id))
                if execution_id in incomplete:
                    return

    async def _complete_log(self, record: ExecutionRecord) -> None:
        """Complete an execution's log; a log that cannot be completed stops nothing."""
        if self.log_files is None:
            return
        workflow = self.store.workflow(record.workflow_name)
        try:
            history = await workflow.load_events(record.workflow_name, record.execution_id)
        except WorkflowCoreError as error:
            logger.warning('The log of execution "%s" cannot be completed: %s', record.execution_id, error)
            return
        self.log_files.complete(record.workflow_name, record.execution_id, history)

    async def _run_to_rest(self, active: _Active) -> None:
        while True:
            execution = active.execution
            if execution.opening is not None:
                await execution.tell(execution.opening)
            if execution.hopeless is not None:
                await execution.fail(execution.hopeless)
                active.finish_first(execution.hopeless)
                return
            if execution.status != "panicked":
                error = await execution.run()
                if error is None:
                    return
                if execution.status == "failed" and (self.is_fatal(error) or not active.first.done()):
                    active.finish_first(error)
                if self.is_fatal(error):
                    active.finish(error)
                    return
                active.finish_first(error)
            if execution.status != "panicked" or execution.record.restart_at is None:
                return
            await self._wait_for_restart(active, execution.record.restart_at)
            if execution.deadline_has_passed():
                await execution.fail(execution.timed_out())
                return
            active.renew_first()
            active.execution = await execution.restart()

    async def _wait_for_restart(self, active: _Active, restart_at: int) -> None:
        active.restart_now = asyncio.Event()
        event = active.restart_now
        active.between_runs.set()
        deadline_at = active.execution.record.deadline_at
        due = restart_at if deadline_at is None else min(restart_at, deadline_at)
        handle = self.clock.call_at(from_epoch_ms(due), event.set)
        try:
            await event.wait()
        finally:
            handle.cancel()
            active.restart_now = None
            active.between_runs.clear()

    async def _release(self, execution: Execution, *, give_back: bool) -> None:
        """Give an execution back that this process will not go on with, and if asked for the attempt in flight."""
        with contextlib.suppress(StorageError, LeaseLostError):
            await execution.store.execution_released(execution.lease, give_back, self.clock.now(), execution.next_seq())

    async def _result_after_loss(self, active: _Active) -> ExecutionResult | BaseException:
        execution_id = active.execution.execution_id
        self._active.pop(execution_id, None)
        try:
            result = await self.get_status(execution_id)
        except (StorageError, ExecutionNotFoundError) as error:
            return error
        if result.status in TERMINAL_STATUSES:
            return result
        return LeaseLostError(f"{active.execution}: another process has taken it over", execution_id)

    def running(self) -> list[Execution]:
        """Return the executions that run in this engine."""
        return [active.execution for active in self._active.values()]


def _call_in_thread(function: Callable[..., object], args: tuple[object, ...]) -> object:
    """Call a plain function; no future can carry ``StopIteration``, so it leaves as it would leave a coroutine."""
    try:
        return function(*args)
    except StopIteration as error:
        raise RuntimeError("the function raised StopIteration") from error


def _interrupted(execution: Execution) -> InvalidStateError:
    return InvalidStateError(f"{execution}: the engine stopped before it ended; resume() or recover() goes on with it")


def _as_joined(result: ExecutionResult) -> ExecutionResult:
    """Return a result that was waited for from elsewhere, or raise what ended the execution, as `start` does."""
    return result if result.status == "cancelled" else result.raise_for_status()


def _validated_name(workflow_name: str | None) -> str | None:
    if workflow_name is None or (isinstance(workflow_name, str) and WORKFLOW_NAME.fullmatch(workflow_name)):
        return workflow_name
    raise ValidationError(f"Not the name of a workflow: {workflow_name!r:.300}")


def _aware(what: str, moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    try:
        return as_utc(moment)
    except (ValueError, AttributeError, OverflowError):
        raise ValidationError(f"{what} must be a datetime with a time zone, not {moment!r:.300}") from None


def _at_rest(record: ExecutionRecord) -> bool:
    return record.status in TERMINAL_STATUSES or (record.status == "panicked" and record.restart_at is None)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _definition_file(definition: Definition, at: datetime) -> dict[str, object]:
    document: dict[str, object] = {} if definition.document is None else json.loads(definition.document)
    return {
        **document,
        "name": definition.name,
        "version": definition.version,
        "description": definition.description,
        "created_at": at.isoformat(),
        "last_modified": at.isoformat(),
        "database_path": f"./{definition.name}.db",
        "log_directory": "./logs/",
        "retry_config": definition.retry_config.model_dump(),
        "panic_config": definition.panic_config.model_dump(),
    }


_engines: weakref.WeakSet[WorkflowEngine] = weakref.WeakSet()


def _begin_again_in_child() -> None:
    """After a fork: what the parent's engines run is not run in the child, which is a process of its own."""
    for engine in list(_engines):
        engine.owner = engine._probe.make_owner()
        engine._active, engine._claims, engine._renewal, engine._waking = {}, {}, None, None
        engine._suspects, engine._trials = {}, None
        engine._sleepers.clear()
        if engine.log_files is not None:
            engine.log_files.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again_in_child)


@functools.cache
def _installed_plugins() -> tuple[object, ...]:
    """Load, once in a process, the plugins of installed distributions."""
    return tuple(entry.load() for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))
