"""`Workflow`: every method of an engine, on the current engine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, cast

from workflow_core.current import current_engine
from workflow_core.definition import MISSING, SHARED_DEFINITIONS, define_workflow, is_module_level

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from workflow_core.definition import Definitions
    from workflow_core.definitions.document import WorkflowDefinition
    from workflow_core.engine import WorkflowEngine
    from workflow_core.limits import Limits
    from workflow_core.models import PanicConfig, RetryConfig

__all__ = ["Workflow"]


class _CurrentEngine:
    """Passes every call to the engine that is the current one when the call is made."""

    def define(
        self,
        name: str,
        handler: Any = MISSING,  # noqa: ANN401 - as in WorkflowEngine.define
        *,
        description: str | None = None,
        version: str = "1.0.0",
        retry_config: RetryConfig | dict[str, Any] | None = None,
        panic_config: PanicConfig | dict[str, Any] | None = None,
        limits: Limits | dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - as in WorkflowEngine.define
        """Define a workflow; a handler at the top level of a module is known to every engine of the process."""

        def choose(function: Callable[..., object]) -> Definitions:
            return SHARED_DEFINITIONS if is_module_level(function) else current_engine().definitions

        return define_workflow(choose, name, handler, description, version, retry_config, panic_config, limits)

    def define_declarative(self, source: str | Path | Mapping[str, Any] | WorkflowDefinition) -> WorkflowDefinition:
        """Define a workflow that a document describes: at the top level of a module, for every engine."""
        from workflow_core.definitions.defining import define  # noqa: PLC0415 - only who has documents needs them

        by_a_module = sys._getframe(1).f_code.co_name == "<module>"
        definitions = SHARED_DEFINITIONS if by_a_module else current_engine().definitions
        return define(definitions, source, stacklevel=4)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the engine
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(current_engine(), name)

    def __dir__(self) -> list[str]:
        from workflow_core.engine import WorkflowEngine  # noqa: PLC0415 - a name that is looked up needs no engine

        return sorted({*super().__dir__(), *(name for name in dir(WorkflowEngine) if not name.startswith("_"))})

    def __repr__(self) -> str:
        return "<Workflow: the current engine>"


Workflow: Final = cast("WorkflowEngine", _CurrentEngine())
"""The current engine: the one activated by ``engine.activate()``, else the process's default engine."""
