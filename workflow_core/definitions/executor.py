"""How steps of one type run, and what each run is given."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import logging
    from datetime import datetime

    import pydantic

    from workflow_core.context import WorkflowContext

__all__ = ["Executor", "ExecutorContext", "ExecutorFunction"]

ExecutorFunction: TypeAlias = Callable[[Any, "ExecutorContext"], object]
"""Takes the validated config and an `ExecutorContext`, ``async def`` or ``def``; returns the step's value or a
`Result`."""


@dataclass(frozen=True, slots=True)
class ExecutorContext:
    """One attempt of a declarative step, as its executor sees it.

    Attributes:
        ctx: The execution's context.
        step_id: The step.
        attempt: Counted from 1.
        logger: For what the step has to tell; secrets that the step uses are blotted out in it.
    """

    ctx: WorkflowContext[Any]
    step_id: str
    attempt: int
    logger: logging.LoggerAdapter[logging.Logger]

    @property
    def workflow_name(self) -> str:
        """The workflow's name."""
        return self.ctx.workflow_name

    @property
    def execution_id(self) -> str:
        """The execution's id."""
        return self.ctx.execution_id

    @property
    def input(self) -> Any:  # noqa: ANN401 - whatever the execution was started with
        """The execution's input."""
        return self.ctx.input

    def now(self) -> datetime:
        """Return the engine's time, which is virtual in tests."""
        return self.ctx._execution.now()


@dataclass(frozen=True, slots=True)
class Executor:
    """How steps of one type run.

    Attributes:
        function: Takes the config and an `ExecutorContext`.
        config_model: The model of its config; without one it is given a dictionary, and every config is accepted.
        takes_secrets: Whether ``${secrets...}`` may stand in its config.
        sleeps: It is a durable sleep rather than a step: it has no attempts, so no time-out and no retries.
        module: A module that it needs.
        extra: The extra of this distribution that installs the module.
    """

    function: ExecutorFunction = field(repr=False)
    config_model: type[pydantic.BaseModel] | None = None
    takes_secrets: bool = True
    sleeps: bool = False
    module: str | None = None
    extra: str | None = None

    def what_is_missing(self) -> str | None:
        """Tell what has to be installed before it can run; ``None`` if nothing is."""
        if self.module is None or _is_installed(self.module):
            return None
        return f'needs the package {self.module}: pip install "pytest-workflow-core[{self.extra}]"'


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # whoever keeps it away, or has loaded it in an odd manner
        return module in sys.modules and sys.modules[module] is not None
