"""An embedded durable workflow engine: steps that run once, sleep durably, retry, and survive panics and crashes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_HOMES = {
    "clock": ("Clock", "SystemClock"),
    "config": ("WorkflowConfig",),
    "context": ("WorkflowContext",),
    "engine": ("WorkflowEngine",),
    "errors": (
        "CircuitOpenError",
        "ConfigurationError",
        "ExecutionConflictError",
        "ExecutionInterruptedError",
        "ExecutionNotFoundError",
        "InvalidStateError",
        "LeaseLostError",
        "MissingConfigurationError",
        "NonRetryableError",
        "PanicError",
        "RecordedError",
        "RetryLaterError",
        "SchemaVersionError",
        "StepConflictError",
        "StepInterruptedError",
        "StepTimeoutError",
        "StorageError",
        "StorageReason",
        "UnstorableResultError",
        "ValidationError",
        "WorkflowCoreError",
        "WorkflowError",
        "WorkflowNotFoundError",
        "WorkflowRedefinedWarning",
        "WorkflowTimeoutError",
    ),
    "hookspecs": (
        "Attempt",
        "DurablePoint",
        "StepDescription",
        "hookimpl",
    ),
    "models": (
        "CircuitBreakerConfig",
        "ErrorInfo",
        "ExecutionResult",
        "ExecutionStatus",
        "PanicConfig",
        "RetryConfig",
        "StepResult",
        "StepStatus",
    ),
    "retention": ("CleanupReport",),
    "serialization": ("Serializer",),
    "settings": ("Settings",),
    "step": ("StepBuilder",),
    "summaries": ("ExecutionSummary", "WorkflowStats"),
    "workflow": ("Workflow",),
}
"""Where each name is defined. It is imported when it is asked for: the command line shows its help without engine."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
