"""Watches the engines of one test, and notes what happens to each step and handler."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pytest_workflow.coverage import Outcome, RunCoverage
from workflow_core.errors import CircuitOpenError, StepTimeoutError
from workflow_core.events import Event, ExecutionPanicked, StepFailed
from workflow_core.hookspecs import Attempt, DurablePoint, StepDescription, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CoverageObserver"]

_OF_EVERY_STEP: Final[tuple[Outcome, ...]] = ("failed", "exhausted", "panicked", "crashed_before", "crashed_after")
_OF_EVERY_SLEEP: Final[tuple[Outcome, ...]] = ("crashed_before", "slept")


@dataclass(slots=True)
class _Progress:
    """How far one execution is.

    Attributes:
        begun: Steps and sleeps that have begun and have no result yet.
        done: Steps whose result is stored.
        retrying: Steps that have waited for a further attempt.
        handled: Steps whose handler was called since their last attempt began.
        failed: Steps that failed for good, as long as it is open whether that was a panic.
        panicking: The same, once the execution has panicked.
        released: Whether its engine gave the execution back, so that what follows is no crash.
    """

    begun: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    retrying: set[str] = field(default_factory=set)
    handled: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    panicking: set[str] = field(default_factory=set)
    released: bool = False


class CoverageObserver:
    """A plugin for the engines of one test.

    It goes by the durable points rather than by the events wherever they say enough: a simulated crash right after a
    commit may leave no engine that could emit the event.

    Args:
        test: Node id of the test.
    """

    def __init__(self, test: str) -> None:
        self._test = test
        self._coverage = RunCoverage()
        self._executions: defaultdict[tuple[str, str], _Progress] = defaultdict(_Progress)

    def __dir__(self) -> list[str]:
        # Each name costs pluggy a look at every registration, which is once for each engine.
        return ["on_step", "on_handler", "on_event", "after_durable_point"]

    def knows(self, names: Iterable[str]) -> None:
        """Note that workflows are defined."""
        for name in names:
            self._coverage.workflow(name)

    def finish(self) -> RunCoverage:
        """Return what was seen, once nothing more can happen."""
        for (workflow, _), progress in self._executions.items():
            self._settle(workflow, progress)
        return self._coverage

    @hookimpl
    def on_step(self, step: StepDescription) -> None:
        """Note which outcomes are possible."""
        possible = list(_OF_EVERY_STEP)
        if step.max_attempts > 1:
            possible.append("retried")
        if step.has_circuit:
            possible.append("circuit_open")
        if step.timeout_ms is not None:
            possible.append("timed_out")
        self._coverage.workflow(step.workflow_name).step(step.step_id).can(possible, step.handlers)

    @hookimpl
    def on_handler(self, attempt: Attempt, handler: str, error: Exception | None) -> None:
        """Note which handlers are entered."""
        del error
        step = self._coverage.workflow(attempt.workflow_name).step(attempt.step_id)
        step.can((), [handler])
        step.handlers[handler].add(self._test)
        self._executions[attempt.workflow_name, attempt.execution_id].handled.add(attempt.step_id)

    @hookimpl
    def on_event(self, event: Event) -> None:
        """Note what the names of the durable points do not tell."""
        if isinstance(event, StepFailed):
            if event.error == StepTimeoutError.__name__:
                self._mark(event.workflow_name, event.step_id, "timed_out")
            elif event.error == CircuitOpenError.__name__:
                self._mark(event.workflow_name, event.step_id, "circuit_open")
        elif isinstance(event, ExecutionPanicked):
            progress = self._executions[event.workflow_name, event.execution_id]
            if event.step_id is not None:
                self._mark(event.workflow_name, event.step_id, "panicked")
                progress.panicking.discard(event.step_id)
            self._mark_all(event.workflow_name, progress.panicking, "exhausted")
            progress.panicking.clear()

    @hookimpl(tryfirst=True)
    def after_durable_point(self, point: DurablePoint) -> None:
        """Follow each execution; first of all plugins, because one that simulates crashes may raise."""
        workflow, step_id = point.workflow_name, point.step_id
        progress = self._executions[workflow, point.execution_id]
        if step_id is not None:
            self._follow_step(progress, workflow, step_id, point.name)
        elif point.name == "execution_started":
            self._coverage.workflow(workflow).tests.add(self._test)
            # A crash exploration runs the same execution many times, in a new database each time.
            self._settle(workflow, progress)
            del self._executions[workflow, point.execution_id]
        elif point.name == "execution_recovered":
            self._coverage.workflow(workflow).tests.add(self._test)
            if not progress.released:
                self._mark_all(workflow, progress.begun, "crashed_before")
                self._mark_all(workflow, progress.done, "crashed_after")
            progress.released = False
        elif point.name == "execution_failed":
            self._settle(workflow, progress)
        elif point.name == "execution_released":
            progress.released = True
        elif point.name == "execution_panicked":
            progress.panicking, progress.failed = progress.failed, set()
        elif point.name == "execution_restarted":
            progress.retrying.clear()

    def _follow_step(self, progress: _Progress, workflow: str, step_id: str, name: str) -> None:
        match name:
            case "step_started":
                progress.begun.add(step_id)
                progress.handled.discard(step_id)
            case "step_attempt_failed":
                self._mark(workflow, step_id, "failed")
            case "step_retrying":
                progress.retrying.add(step_id)
            case "step_refused":
                progress.begun.add(step_id)
                self._mark(workflow, step_id, "circuit_open")
            case "step_failed":
                progress.begun.discard(step_id)
                progress.failed.add(step_id)
            case "step_completed" | "step_skipped":
                progress.begun.discard(step_id)
                progress.done.add(step_id)
                if step_id in progress.retrying and step_id not in progress.handled:
                    self._mark(workflow, step_id, "retried")
            case "sleep_started":
                progress.begun.add(step_id)
                self._coverage.workflow(workflow).step(step_id).can(_OF_EVERY_SLEEP)
            case "sleep_completed":
                progress.begun.discard(step_id)
                self._mark(workflow, step_id, "slept")

    def _settle(self, workflow: str, progress: _Progress) -> None:
        """Take the steps that failed for good, and made nothing panic, for exhausted."""
        self._mark_all(workflow, progress.failed, "exhausted")
        progress.failed.clear()

    def _mark(self, workflow: str, step_id: str, outcome: Outcome) -> None:
        self._coverage.workflow(workflow).step(step_id).outcomes.setdefault(outcome, set()).add(self._test)

    def _mark_all(self, workflow: str, step_ids: set[str], outcome: Outcome) -> None:
        for step_id in step_ids:
            self._mark(workflow, step_id, outcome)
