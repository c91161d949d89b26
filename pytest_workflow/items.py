"""What the harness knows of a test of pytest's, and keeps with it; imports pytest alone."""

from __future__ import annotations

import inspect
from types import CodeType
from typing import TYPE_CHECKING

import pytest

from pytest_workflow.options import store_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_workflow.crash_everywhere import Rerun
    from pytest_workflow.environment import Environment
    from pytest_workflow.freezer import Freezer
    from pytest_workflow.injection import AttemptWrapper
    from pytest_workflow.invariants import Invariant
    from pytest_workflow.plan import Custom
    from pytest_workflow.storages import Storage

__all__ = [
    "code_of",
    "crash_summaries",
    "custom_fault",
    "database_on_server",
    "environment_key",
    "freezer_of",
    "invariants_of",
    "leave_virtual_time",
    "note_crashes",
    "rerun_key",
    "running",
    "uses_workflow",
]

_CRASHES_PROPERTY = "workflow_crashes"
"""The user property of a report that holds the summary of a crash exploration."""

rerun_key: pytest.StashKey[Rerun] = pytest.StashKey()
"""What the fixtures of a test find in each run of a crash exploration."""

environment_key: pytest.StashKey[Environment] = pytest.StashKey()
"""The environment of a test, from its first workflow fixture until it is torn down."""

_freezer_key: pytest.StashKey[Freezer] = pytest.StashKey()

running: list[pytest.Item] = []
"""The test that runs, after those within which it runs."""


def uses_workflow(item: pytest.Item | None) -> bool:
    """Tell whether a test has virtual time."""
    return "_workflow_environment" in getattr(item, "fixturenames", ())


def code_of(item: pytest.Item) -> CodeType | None:
    """Return the code of a test's own function, whatever stands in front of it."""
    if not isinstance(item, pytest.Function):
        return None
    hypothesis = getattr(item.obj, "hypothesis", None)  # @given puts a function of its own in front of the test's
    function = item.obj if hypothesis is None else hypothesis.inner_test
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code if isinstance(code, CodeType) else None


def invariants_of(item: pytest.Item) -> list[Invariant]:
    """Return what must hold of a test after a crash besides the default invariants."""
    return [one for several in item.ihook.pytest_workflow_invariants(item=item) for one in several]


def note_crashes(properties: list[tuple[str, object]], summary: str) -> None:
    """Put the summary of a crash exploration among the user properties of a test, or of its report."""
    properties.append((_CRASHES_PROPERTY, summary))


def crash_summaries(report: pytest.TestReport) -> Iterator[str]:
    """Yield what the crash explorations of a test covered."""
    if report.when == "call":
        yield from (str(summary) for name, summary in report.user_properties if name == _CRASHES_PROPERTY)


def custom_fault(item: pytest.Item, fault: Custom) -> AttemptWrapper:
    """Return what carries out a fault of a plugin's own kind.

    Raises:
        ValueError: No plugin knows it.
    """
    wrapper: AttemptWrapper | None = item.ihook.pytest_workflow_fault(fault=fault, item=item)
    if wrapper is None:
        raise ValueError(f'no plugin carries out the custom fault "{fault.name}" (hook pytest_workflow_fault)')
    return wrapper


def database_on_server(item: pytest.Item) -> Storage | None:
    """Return an empty database on a server, if the state of a test is to be there."""
    if store_of(item) != "postgres":
        return None
    from pytest_workflow.postgres import session  # noqa: PLC0415 - not without a server

    return session.databases(item.config).take()


def freezer_of(config: pytest.Config) -> Freezer:
    """Return what shows virtual time to the code of a run's tests."""
    from pytest_workflow.freezer import Freezer  # noqa: PLC0415 - not before the first workflow test

    return config.stash.setdefault(_freezer_key, Freezer())


def leave_virtual_time(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Let real time return before a test that does not use virtual time."""
    freezer = item.config.stash.get(_freezer_key, None)
    if freezer is not None and freezer.active and not uses_workflow(nextitem):
        freezer.stop()
