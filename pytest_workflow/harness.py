"""The ``workflow`` fixture's object: an isolated engine on virtual time, driven from synchronous tests."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_workflow.at_once import at_once
from pytest_workflow.failures import users_traceback
from pytest_workflow.history import History
from pytest_workflow.until import Stops, Until, validate_until
from workflow_core.errors import StepFailure, WorkflowCoreError, WorkflowTimeoutError
from workflow_core.event_loops import running_loop
from workflow_core.models import ExecutionResult
from workflow_core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from pytest_workflow.environment import Environment
    from workflow_core.engine import WorkflowEngine
    from workflow_core.events import Event
    from workflow_core.models import PanicConfig, RetryConfig

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["HARNESS_SETTINGS", "WorkflowHarness", "history_of"]

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

        Raises:
            AssertionError: An assertion in the workflow failed, nothing could go on, or ``until`` was never reached.
            ValidationError: An argument is not acceptable.
            ExecutionNotFoundError: There is no such execution.
            InvalidStateError: Nobody runs it: it was interrupted and waits for `resume`.
        """
        __tracebackhide__ = True
        if until is not None:
            return self._complete(self.reach(execution_id, until))
        return self._complete(self.engine.wait(execution_id))

    def resume(self, execution_id: str) -> ExecutionResult:
        """Go on with a sleeping or interrupted execution to its final state.

        Raises:
            AssertionError: An assertion in the workflow failed, or nothing could go on.
            ValidationError: The id is not acceptable.
            ExecutionNotFoundError: There is no such execution.
            InvalidStateError: It is at rest.
        """
        __tracebackhide__ = True
        return self._to_rest(self.engine.resume(execution_id), execution_id)

    def restart(self, execution_id: str) -> ExecutionResult:
        """Run a panicked or failed execution again, to its final state.

        Raises:
            AssertionError: An assertion in the workflow failed, or nothing could go on.
            ValidationError: The id is not acceptable.
            ExecutionNotFoundError: There is no such execution.
            InvalidStateError: It is neither panicked nor failed.
        """
        __tracebackhide__ = True
        return self._to_rest(self.engine.restart(execution_id), execution_id)

    def cancel(self, execution_id: str) -> ExecutionResult:
        """Cancel an execution.

        Raises:
            ValidationError: The id is not acceptable.
            ExecutionNotFoundError: There is no such execution.
            InvalidStateError: It is at rest already.
        """
        __tracebackhide__ = True
        return self._complete(self.engine.cancel(execution_id))

    def status(self, execution_id: str) -> ExecutionResult:
        """Return what is known of an execution now.

        Raises:
            ValidationError: The id is not acceptable.
            ExecutionNotFoundError: There is no such execution.
        """
        self._environment.finish_recovery()
        return at_once(self.engine.get_status(execution_id))

    def history(self, execution: ExecutionResult | str) -> History:
        """Return the history of an execution.

        Args:
            execution: Its result, or its id.

        Raises:
            ValidationError: The id is not acceptable.
            ExecutionNotFoundError: There is no such execution.
        """
        execution_id = execution.execution_id if isinstance(execution, ExecutionResult) else execution
        self._environment.finish_recovery()
        return history_of(execution_id, at_once(self.engine.history(execution_id)))

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
        running = running_loop()
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


def history_of(execution_id: str, events: list[Event]) -> History:
    """Return the events of an execution as its history, with a title."""
    name = events[0].workflow_name if events else "?"
    return History(events, f'history of "{execution_id}" ({name})')
