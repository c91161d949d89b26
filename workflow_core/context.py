"""What a workflow's handler is given: its input, its steps and its sleeps."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, cast, overload

from typing_extensions import TypeVar

from workflow_core.config import ContextConfig
from workflow_core.errors import ValidationError, shown
from workflow_core.sleep import run_skip, run_sleep
from workflow_core.step import StepBuilder, validate_step_id
from workflow_core.workflow_logger import WorkflowLogger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workflow_core.execution import Execution

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["InputT", "WorkflowContext"]

InputT = TypeVar("InputT", default=Any)
ResultT = TypeVar("ResultT")


class WorkflowContext(Generic[InputT]):
    """One execution, as its handler sees it.

    Annotate the handler's parameter as ``WorkflowContext[Order]`` to have the input validated as an ``Order`` when the
    execution starts.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._logger: WorkflowLogger | None = None

    def __repr__(self) -> str:
        return f"<WorkflowContext {self.workflow_name} {self.execution_id}>"

    @property
    def workflow_name(self) -> str:
        """The workflow's name."""
        return self._execution.definition.name

    @property
    def execution_id(self) -> str:
        """The execution's id."""
        return self._execution.execution_id

    @property
    def input(self) -> InputT:
        """The execution's input."""
        return cast("InputT", self._execution.input)

    @property
    def attempt(self) -> int:
        """The attempt of the step that runs in this task, counted from 1; 1 outside every step."""
        return self._execution.current_attempt()

    @property
    def restart_attempt(self) -> int:
        """1, and one more for each restart of the execution."""
        return self._execution.restart_attempt

    @property
    def config(self) -> ContextConfig:
        """The workflow's ``config.json``: ``environment``, ``variables`` and ``secrets``, read when they are used."""
        execution = self._execution
        return ContextConfig(execution.engine.configurations, execution.definition.name)

    @property
    def logger(self) -> WorkflowLogger:
        """A logger whose records name the execution, the step and the attempt; they go into the log files as well.

        Code that runs again after a crash logs again. Secrets are masked.
        """
        if self._logger is None:
            self._logger = WorkflowLogger(self._execution)
        return self._logger

    @overload
    def step(
        self,
        step_id: str,
        handler: Callable[[], Awaitable[ResultT]],
        *,
        returns: object = None,
        timeout_ms: int | None = None,
    ) -> StepBuilder[ResultT]: ...

    @overload
    def step(
        self,
        step_id: str,
        handler: Callable[[], ResultT],
        *,
        returns: object = None,
        timeout_ms: int | None = None,
    ) -> StepBuilder[ResultT]: ...

    def step(
        self,
        step_id: str,
        handler: Callable[[], object],
        *,
        returns: object = None,
        timeout_ms: int | None = None,
    ) -> StepBuilder[Any]:
        """Describe a step; awaiting what is returned runs it, once in the life of the execution.

        Args:
            step_id: Names the step in this execution; 1 to 255 printable characters.
            handler: Function without arguments, ``async def`` or ``def``.
            returns: Type of the result, for values that JSON cannot express and the handler's annotation does not tell.
            timeout_ms: Longest duration of one attempt, in milliseconds.

        Raises:
            ValidationError: An argument is not acceptable.
        """
        return StepBuilder(self._execution, step_id, handler, returns, timeout_ms)  # names would cost a dictionary

    async def skip(self, step_id: str, result: object = None) -> object:
        """Record that a step is skipped, so that the history tells why there is nothing of it.

        Whether a step is skipped must depend on what is recorded, like everything that decides the course of a
        workflow. A skipped step is never run again in this run; a restart of the execution decides anew, because what
        made the step pointless may succeed then.

        Args:
            step_id: Names the step in this execution; 1 to 255 printable characters.
            result: What the step returns instead.

        Returns:
            The recorded result: of a step that was completed before, what that had returned.

        Raises:
            StepConflictError: The step has begun already.
            ValidationError: The id is not acceptable, or the result cannot be stored.
        """
        validate_step_id(step_id)
        return await run_skip(self._execution, step_id, result)

    @overload
    async def sleep(self, step_id: str, duration: float) -> None: ...

    @overload
    async def sleep(self, step_id: str, duration: timedelta) -> None: ...

    async def sleep(self, step_id: str, duration: float | timedelta | None = None) -> None:
        """Sleep durably: after a crash the remaining time is slept.

        Args:
            step_id: Names the sleep in this execution, like a step.
            duration: Milliseconds, or a ``timedelta``.

        Raises:
            ValidationError: The id is not acceptable, or the duration is negative or longer than
                ``Settings.max_sleep_ms``.
            StepConflictError: A step has the id, or it is slept already.
        """
        if duration is None:
            raise ValidationError(f'A sleep has an id and a duration, as in ctx.sleep("pause", {shown(step_id)})')
        step_id = validate_step_id(step_id)
        longest = self._execution.engine.settings.max_sleep_ms
        milliseconds = duration / timedelta(milliseconds=1) if isinstance(duration, timedelta) else duration
        if isinstance(milliseconds, bool) or not isinstance(milliseconds, (int, float)):
            raise ValidationError(
                f'Sleep "{step_id}": the duration must be milliseconds or a timedelta, not {type(duration).__name__}'
            )
        if not 0 <= milliseconds <= longest:
            raise ValidationError(
                f'Sleep "{step_id}": the duration must be between 0 and {longest} ms (Settings.max_sleep_ms), not '
                f"{shown(milliseconds)} ms"
            )
        await run_sleep(self._execution, step_id, round(milliseconds))
