"""An embedded durable workflow engine: steps that run once, sleep durably, retry, and survive panics and crashes."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
    from workflow_core.clock import Clock, SystemClock
    from workflow_core.config import WorkflowConfig
    from workflow_core.context import WorkflowContext
    from workflow_core.engine import WorkflowEngine
    from workflow_core.errors import (
        CircuitOpenError,
        ConfigurationError,
        ExecutionConflictError,
        ExecutionInterruptedError,
        ExecutionNotFoundError,
        InvalidStateError,
        LeaseLostError,
        MissingConfigurationError,
        NonRetryableError,
        PanicError,
        RecordedError,
        RetryLaterError,
        SchemaVersionError,
        StepConflictError,
        StepInterruptedError,
        StepTimeoutError,
        StorageError,
        StorageReason,
        UnstorableResultError,
        ValidationError,
        WorkflowCoreError,
        WorkflowError,
        WorkflowNotFoundError,
        WorkflowRedefinedWarning,
        WorkflowTimeoutError,
    )
    from workflow_core.hookspecs import Attempt, DurablePoint, StepDescription, hookimpl
    from workflow_core.limits import Limits
    from workflow_core.models import (
        CircuitBreakerConfig,
        ErrorInfo,
        ExecutionResult,
        ExecutionStatus,
        PanicConfig,
        RetryConfig,
        StepResult,
        StepStatus,
    )
    from workflow_core.retention import CleanupReport
    from workflow_core.serialization import Serializer
    from workflow_core.settings import Settings
    from workflow_core.step import StepBuilder
    from workflow_core.summaries import ExecutionSummary, WorkflowStats
    from workflow_core.workflow import Workflow

__all__ = [
    # Running workflows
    "Workflow",
    "WorkflowEngine",
    "WorkflowContext",
    "StepBuilder",
    "Settings",
    "WorkflowConfig",
    "RetryConfig",
    "PanicConfig",
    "CircuitBreakerConfig",
    "Limits",
    # Results
    "ExecutionResult",
    "ExecutionStatus",
    "StepResult",
    "StepStatus",
    "ErrorInfo",
    "ExecutionSummary",
    "WorkflowStats",
    "CleanupReport",
    # Seams
    "Clock",
    "SystemClock",
    "Serializer",
    "hookimpl",
    "Attempt",
    "DurablePoint",
    "StepDescription",
    # Errors
    "WorkflowCoreError",
    "ValidationError",
    "UnstorableResultError",
    "WorkflowNotFoundError",
    "ExecutionNotFoundError",
    "ExecutionConflictError",
    "InvalidStateError",
    "StepConflictError",
    "WorkflowError",
    "PanicError",
    "StepTimeoutError",
    "WorkflowTimeoutError",
    "CircuitOpenError",
    "StepInterruptedError",
    "ExecutionInterruptedError",
    "NonRetryableError",
    "RetryLaterError",
    "ConfigurationError",
    "MissingConfigurationError",
    "RecordedError",
    "LeaseLostError",
    "StorageError",
    "StorageReason",
    "SchemaVersionError",
    "WorkflowRedefinedWarning",
]

_HOMES = (
    "errors",
    "hookspecs",
    "clock",
    "models",
    "limits",
    "settings",
    "summaries",
    "serialization",
    "workflow",
    "config",
    "retention",
    "context",
    "step",
    "engine",
)
"""The modules that define these names, those that import least first.

A name is looked for when it is asked for: the command line shows its help without engine.
"""


def __getattr__(name: str) -> object:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("pytest-workflow-core")
    if name in __all__:
        for home in _HOMES:
            module = importlib.import_module(f"{__name__}.{home}")
            if name in module.__all__:
                value = globals()[name] = getattr(module, name)
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    if "freezegun" in sys.modules:  # it asks for every name of every module, and pydantic makes no model in frozen time
        return sorted(globals())
    return sorted({*globals(), *__all__})
