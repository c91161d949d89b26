"""Declarative workflows: documents of JSON or YAML that run as workflows."""

from workflow_core.definitions.defining import define_declarative
from workflow_core.definitions.document import StepDefinition, WorkflowDefinition
from workflow_core.definitions.executor import Executor, ExecutorContext
from workflow_core.definitions.executors import known_types, register_executor
from workflow_core.definitions.expressions import ExpressionError
from workflow_core.definitions.http import HttpRefusedError, HttpResponseError, HttpTransportError
from workflow_core.definitions.outcome import Failure, Result, Success
from workflow_core.definitions.reading import load_definition
from workflow_core.definitions.running import ExecutorError, PermanentExecutorError, StepConfigError
from workflow_core.definitions.saving import load_saved, save_definition

__all__ = [
    "WorkflowDefinition",
    "StepDefinition",
    "load_definition",
    "save_definition",
    "load_saved",
    "define_declarative",
    "register_executor",
    "known_types",
    "Executor",
    "ExecutorContext",
    "Result",
    "Success",
    "Failure",
    "ExpressionError",
    "StepConfigError",
    "ExecutorError",
    "PermanentExecutorError",
    "HttpResponseError",
    "HttpTransportError",
    "HttpRefusedError",
]
