"""An embedded durable workflow engine: steps that run once, sleep durably, retry, and survive panics and crashes."""

from workflow_core.clock import Clock, SystemClock
from workflow_core.config import WorkflowConfig
from workflow_core.context import WorkflowContext
from workflow_core.engine import WorkflowEngine
from workflow_core.errors import (
    CircuitOpenError,
    ConfigurationError,
    ExecutionConflictError,
    ExecutionNotFoundError,
    InvalidStateError,
    LeaseLostError,
    MissingConfigurationError,
    NonRetryableError,
    PanicError,
    RecordedError,
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
    "NonRetryableError",
    "ConfigurationError",
    "MissingConfigurationError",
    "RecordedError",
    "LeaseLostError",
    "StorageError",
    "StorageReason",
    "SchemaVersionError",
    "WorkflowRedefinedWarning",
]
