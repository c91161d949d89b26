"""The pytest harness for `workflow_core`: virtual time, faults, in-memory databases and histories.

Importing this package imports nothing else; each name is loaded at its first use.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_workflow.clock import Sleep, VirtualClock, WorkflowStuckError
    from pytest_workflow.database import WorkflowDatabase
    from pytest_workflow.faults import WorkflowFaults
    from pytest_workflow.harness import WorkflowHarness
    from pytest_workflow.history import History
    from pytest_workflow.plan import FaultPlan
    from pytest_workflow.snapshots import normalized
    from pytest_workflow.spy import Call, Calls, WorkflowSpy
    from workflow_core.events import (
        CircuitClosed,
        CircuitHalfOpened,
        CircuitOpened,
        Event,
        ExecutionCancelled,
        ExecutionCompleted,
        ExecutionFailed,
        ExecutionPanicked,
        ExecutionRecovered,
        ExecutionRestarted,
        ExecutionStarted,
        SleepCompleted,
        SleepStarted,
        StepCompleted,
        StepFailed,
        StepInterrupted,
        StepRetrying,
        StepSkipped,
        StepStarted,
    )

__all__ = [
    "Call",
    "Calls",
    "CircuitClosed",
    "CircuitHalfOpened",
    "CircuitOpened",
    "Event",
    "ExecutionCancelled",
    "ExecutionCompleted",
    "ExecutionFailed",
    "ExecutionPanicked",
    "ExecutionRecovered",
    "ExecutionRestarted",
    "ExecutionStarted",
    "FaultPlan",
    "History",
    "Sleep",
    "SleepCompleted",
    "SleepStarted",
    "StepCompleted",
    "StepFailed",
    "StepInterrupted",
    "StepRetrying",
    "StepSkipped",
    "StepStarted",
    "VirtualClock",
    "WorkflowDatabase",
    "WorkflowFaults",
    "WorkflowHarness",
    "WorkflowSpy",
    "WorkflowStuckError",
    "normalized",
]

_HOMES = {
    "Call": "pytest_workflow.spy",
    "Calls": "pytest_workflow.spy",
    "FaultPlan": "pytest_workflow.plan",
    "History": "pytest_workflow.history",
    "Sleep": "pytest_workflow.clock",
    "VirtualClock": "pytest_workflow.clock",
    "WorkflowDatabase": "pytest_workflow.database",
    "WorkflowFaults": "pytest_workflow.faults",
    "WorkflowHarness": "pytest_workflow.harness",
    "WorkflowSpy": "pytest_workflow.spy",
    "WorkflowStuckError": "pytest_workflow.clock",
    "normalized": "pytest_workflow.snapshots",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "workflow_core.events")), name)


def __dir__() -> list[str]:
    if "freezegun" in sys.modules:  # it asks for every name of every module, and pydantic makes no model in frozen time
        return sorted(globals())
    return sorted({*globals(), *__all__})
