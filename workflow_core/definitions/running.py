"""A declarative workflow as the handler of an ordinary one."""

from __future__ import annotations

import asyncio
import functools
import graphlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pydantic

from workflow_core.definition import Definition
from workflow_core.definitions.executor import ExecutorContext
from workflow_core.definitions.executors import find_executor
from workflow_core.definitions.expressions import Expression, ExpressionError, Location, resolve
from workflow_core.definitions.mistakes import Mistakes
from workflow_core.definitions.outcome import Failure, Success
from workflow_core.errors import (
    NonRetryableError,
    UnstorableResultError,
    ValidationError,
    WorkflowCoreError,
    WorkflowError,
    error_text,
)
from workflow_core.models import CircuitBreakerConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflow_core.context import WorkflowContext
    from workflow_core.definitions.document import StepDefinition, WorkflowDefinition
    from workflow_core.definitions.executor import Executor

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["ExecutorError", "PermanentExecutorError", "StepConfigError", "compiled", "compiled_text"]


class StepConfigError(NonRetryableError):
    """The config of a step, with the values of its expressions, is not what its executor takes."""


class ExecutorError(WorkflowCoreError):
    """An executor returned a `Failure` with a message rather than an error."""


class PermanentExecutorError(NonRetryableError):
    """An executor returned a `Failure` that is not retryable."""


class _Skipped:
    """Stands for the result of a step that did not run."""


_SKIPPED: Final = _Skipped()


def compiled(definition: WorkflowDefinition) -> Definition:
    """Return a declarative workflow as what an engine runs."""

    async def run(ctx: WorkflowContext[Any]) -> object:
        return await _Run(definition, ctx).to_its_end()

    return Definition(
        name=definition.name,
        handler=run,
        description=definition.description,
        version=definition.version,
        retry_config=definition.retry_config,
        panic_config=definition.panic_config,
        limits=definition.limits,
        document=definition.text,
        revision=definition.digest,
    )


def compiled_text(text: str, what: str) -> Definition:
    """Return a declarative workflow from its stored document.

    Args:
        text: The document as JSON.
        what: What it was stored for.

    Raises:
        ValidationError: It cannot run in this process.
    """
    from workflow_core.definitions.document import WorkflowDefinition  # noqa: PLC0415 - to load only where one is used

    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValidationError(f"The definition that {what} was started with is not in the database any more")
    try:
        return compiled(WorkflowDefinition(**document))
    except ValidationError as error:
        raise ValidationError(
            f"The definition that {what} was started with cannot run here: {error}", error.errors
        ) from None


class _Run:
    """One run of the handler: which steps have ended, and how."""

    def __init__(self, definition: WorkflowDefinition, ctx: WorkflowContext[Any]) -> None:
        self._definition = definition
        self._ctx = ctx
        self._steps = {step.id: step for step in definition.steps}
        self._places = {step_id: place for place, step_id in enumerate(self._steps)}
        self._needs = definition.order.needs
        self._turns = graphlib.TopologicalSorter(definition.order.waits_for)
        self._turns.prepare()
        self._stops = False
        self._results: dict[str, object] = {}
        self._failures: dict[str, Exception] = {}
        self._running: dict[asyncio.Task[object], str] = {}

    async def to_its_end(self) -> object:
        """Run every step when its turn has come.

        After a step has failed, steps that run come to their end and no other one begins, except where the definition
        goes on after errors. A panic, and whatever else ends the execution as such, cuts everything off.

        Raises:
            Exception: The error of the first step, in the order of the document, that failed.
        """
        try:
            while self._begin() or self._running:
                done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                for task in [begun for begun in self._running if begun in done]:  # in the order in which they began
                    self._end(self._running.pop(task), task)
        finally:
            await self._cut_off()
        for step_id in self._steps:
            if step_id in self._failures:
                raise self._failures[step_id]
        return resolve(self._definition.output, _Values(self._ctx, self._results))

    def _begin(self) -> bool:
        """Begin the steps whose turn has come; tell whether there were any."""
        if self._stops:
            return False
        ready = sorted(self._turns.get_ready(), key=self._places.__getitem__)
        for step_id in ready:
            fails = any(isinstance(self._results[other], _Skipped) for other in self._needs[step_id])
            body = self._skip(self._steps[step_id]) if fails else self._run(self._steps[step_id])
            self._running[asyncio.get_running_loop().create_task(body)] = step_id
        return bool(ready)

    def _end(self, step_id: str, task: asyncio.Task[object]) -> None:
        try:
            self._results[step_id] = task.result()
        except (WorkflowError, UnstorableResultError) as error:
            if isinstance(error, WorkflowError) and error.step_id != step_id:
                raise
            self._failures[step_id], self._results[step_id] = error, _SKIPPED
            self._stops = self._stops or not self._definition.continues_after(self._steps[step_id])
        self._turns.done(step_id)

    async def _cut_off(self) -> None:
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _skip(self, step: StepDefinition) -> object:
        await self._ctx.skip(step.id)
        return _SKIPPED

    async def _run(self, step: StepDefinition) -> object:
        executor = find_executor(step.type)
        if executor is None:  # it was known when the definition was made
            raise WorkflowError(f'Step "{step.id}": there is no step type "{step.type}" any more', step.id)
        if executor.sleeps:
            return await self._sleep(step, executor)
        builder = self._ctx.step(step.id, functools.partial(self._attempt, step, executor), timeout_ms=step.timeout)
        if step.retry_config:
            builder.with_retry(**step.retry_config)
        if step.circuit_breaker is not None:
            circuit = CircuitBreakerConfig(**step.circuit_breaker)
            builder.with_circuit_breaker(circuit.failure_threshold, circuit.reset_timeout_ms)
        return await builder

    async def _sleep(self, step: StepDefinition, executor: Executor) -> object:
        """Run what is a sleep rather than a step; it has no attempts, so an error of it is a failed step at once."""
        try:
            return await self._attempt(step, executor)
        except (ExpressionError, StepConfigError, ValidationError) as error:
            raise WorkflowError(
                f'{self._ctx._execution}: step "{step.id}": {error_text(error)}', step.id, 1, error
            ) from error

    async def _attempt(self, step: StepDefinition, executor: Executor) -> object:
        config = self._config(step, executor)
        context = ExecutorContext(self._ctx, step.id, self._ctx.attempt, self._ctx.logger)
        outcome = await self._ctx._execution.engine.invoke(executor.function, config, context)
        match outcome:
            case Success(value):
                return value
            case Failure(error, retryable=True):
                raise error if isinstance(error, Exception) else ExecutorError(str(error))
            case Failure(NonRetryableError() as error):
                raise error
            case Failure(error):
                told = f"{type(error).__name__}: {error_text(error)}" if isinstance(error, Exception) else str(error)
                raise PermanentExecutorError(told) from (error if isinstance(error, Exception) else None)
            case value:
                return value

    def _config(self, step: StepDefinition, executor: Executor) -> object:
        try:
            config = resolve(step.config, _Values(self._ctx, self._results))
        except ExpressionError as error:
            raise ExpressionError(f'step "{step.id}": {error}') from None
        if executor.config_model is None:
            return config
        mistakes = Mistakes()
        try:
            return executor.config_model.model_validate(config)
        except pydantic.ValidationError as error:
            mistakes.add_errors(error.errors(include_url=False, include_input=False), executor.config_model)
        except ValidationError as error:
            mistakes.add_errors(error.errors, executor.config_model)
        try:
            mistakes.raise_any(f'config of step "{step.id}"')
        except ValidationError as error:
            raise StepConfigError(str(error)) from None
        raise StepConfigError(f'Invalid config of step "{step.id}"')


@dataclass(frozen=True, slots=True)
class _Values:
    """What the expressions of a step read."""

    ctx: WorkflowContext[Any]
    results: dict[str, object]

    def root(self, expression: Expression) -> tuple[object, Location]:
        """Return the value that an expression begins with, and the path that is left to follow."""
        path = expression.path
        match expression.root:
            case "input":
                return self.ctx.input, path
            case "execution":
                return self.ctx.execution_id, ()
            case "steps":
                return self.results[str(path[0])], path[1:]
            case root:
                values: Mapping[str, str] = getattr(self.ctx.config, root)
                name = str(path[0])
                if name not in values:
                    raise ExpressionError(f"{expression.text} has no value: {_missing(values, name)}")
                return values[name], path[1:]


def _missing(values: Mapping[str, str], name: str) -> str:
    try:
        values[name]
    except (WorkflowCoreError, KeyError) as error:
        return error_text(error)
    return f"there is no {name}"
