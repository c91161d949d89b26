"""The armed rules of a test: counted where something happens, and carried out through the engine's hooks.

Of several rules that strike one place, the one made last comes first: it is the outermost, and if it answers or raises,
those made before it are not reached and have not struck.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from pytest_workflow.hooks import Hooks
from pytest_workflow.matching import matches
from pytest_workflow.plan import CircuitForced, ClockJump, CorruptResult, Crash, StorageFailure
from workflow_core.database.diagnosis import storage_error
from workflow_core.hookspecs import Attempt, AttemptHandler, DurablePoint, hookimpl
from workflow_core.suggestions import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_workflow.clock import VirtualClock
    from pytest_workflow.injection import ArmedFault, AttemptWrapper
    from pytest_workflow.observation import StepState
    from pytest_workflow.plan import Where
    from workflow_core.engine import WorkflowEngine
    from workflow_core.models import CircuitStatus

__all__ = ["StrikingFaults"]


@dataclass(slots=True)
class _Visit:
    """One coming to a place: the rules that counted it, and those that struck there."""

    counted: list[ArmedFault] = field(default_factory=list)
    struck: list[ArmedFault] = field(default_factory=list)

    def take_back(self) -> None:
        """Forget it: a crash cut off what happened there, and it comes again."""
        self.take_back_others()
        for armed in self.struck:
            armed.matched -= 1
            armed.fired -= 1
        self.struck = []

    def take_back_others(self) -> None:
        """Forget it for the rules that did not strike: one that did keeps a place from being reached."""
        for armed in self.counted:
            if armed not in self.struck:
                armed.matched -= 1
        self.counted = list(self.struck)

    def take_back_explored(self) -> None:
        """Forget it for places of an exploration: what the database refuses is no place, and none of them counts it."""
        for armed in self.counted:
            if armed.explores:
                armed.matched -= 1


@dataclass(slots=True)
class _Run:
    """One step of one execution.

    Attributes:
        count: How often it ran.
        seq: Where its latest run stands in the history.
        visit: What met its latest run.
    """

    count: int = 0
    seq: int | None = None
    visit: _Visit = field(default_factory=_Visit)


class StrikingFaults:
    """Carries armed rules out.

    Attributes:
        strict: ``False`` lets every rule go unused.
        rules: The armed rules, in the order in which they were made.
        plugins: What an engine needs to have these rules carried out.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self.strict = True
        self.rules: list[ArmedFault] = []
        self.plugins: list[object] = []
        self._hooks: list[Callable[..., object]] = []
        self._clock = clock
        self._engine: WorkflowEngine | None = None
        self._die: Callable[[], NoReturn] | None = None
        self._corrupt: Callable[[DurablePoint, str], None] | None = None
        self._runs: defaultdict[tuple[str, str], _Run] = defaultdict(_Run)
        self._asked: dict[tuple[str, str | None], _Visit] = {}
        self._after: dict[int, tuple[_Visit, list[ArmedFault]]] = {}
        self._points: set[str] = set()
        self._watchers: list[Callable[[Attempt | DurablePoint, ArmedFault], object]] = []

    def serve(
        self,
        engine: WorkflowEngine,
        die: Callable[[], NoReturn] | None = None,
        corrupt: Callable[[DurablePoint, str], None] | None = None,
    ) -> None:
        """Work for ``engine`` from now on, which has the `plugins`.

        Args:
            engine: The engine.
            die: Lets its process die.
            corrupt: Damages the result that a durable point stored.
        """
        self._engine, self._die, self._corrupt = engine, die, corrupt
        self._after = {}

    def _require(self, armed: list[ArmedFault]) -> None:
        """Put into the engine what rules need; an engine without these hooks is faster."""
        at_points = [each for each in armed if each.rule.where.point is not None]
        needed: list[Callable[..., object]] = []
        if len(at_points) < len(armed):
            needed += [self.wrap_attempt, self.force_circuit]
        if at_points:
            needed.append(self.before_durable_point)
        if any(_strikes_after(each) for each in at_points):
            needed.append(self.after_durable_point)
        if missing := [hook for hook in needed if hook not in self._hooks]:
            self._hooks += missing
            self.plugins.append(Hooks(*missing))
            if self._engine is not None:
                self._engine.register(self.plugins[-1])

    def arm(self, armed: list[ArmedFault]) -> None:
        """Let rules strike from now on."""
        self.rules += armed
        self._points.update(each.rule.where.point for each in armed if each.rule.where.point is not None)
        self._require(armed)

    def watch(self, told: Callable[[Attempt | DurablePoint, ArmedFault], object]) -> None:
        """Tell ``told`` of every strike, just before it: the place, and the rule."""
        self._watchers.append(told)

    def unused(self) -> list[ArmedFault]:
        """Return the strict rules that never struck."""
        return [armed for armed in self.rules if self.strict and armed.rule.strict and not armed.fired]

    def resembling(self, armed: ArmedFault) -> str:
        """Return the step that began and that a rule's step, which never did, may have been meant for; or nothing."""
        wanted = armed.rule.where.step
        begun = {step_id for _, step_id in self._runs}
        if wanted is None or any(matches(step_id, wanted) for step_id in begun):
            return ""
        return nearest(wanted, begun) or ""

    # Attempts --------------------------------------------------------------------------------------------------------

    def note_run(self, execution_id: str, step_id: str, seq: int) -> None:
        """Count an attempt that began at position ``seq`` of the history."""
        run = self._runs[execution_id, step_id]
        run.count += 1
        run.seq = seq
        run.visit = _Visit()

    def take_back(self, execution_id: str, step_id: str, seq: int | None) -> None:
        """Forget the attempt of a step that began at ``seq``, and what struck it: a crash cut it off."""
        run = self._runs.get((execution_id, step_id))
        if run is not None and run.count and run.seq == seq:
            run.count -= 1
            run.seq = None
            run.visit.take_back()

    def take_back_cut_off(self, steps: Iterable[StepState]) -> None:
        """Forget the attempts that a crash cut off.

        Args:
            steps: The steps that it found committed.
        """
        for step in steps:
            if step.is_cut_off:
                self.take_back(step.execution_id, step.step_id, step.started_seq)

    @hookimpl
    def wrap_attempt(self, attempt: Attempt) -> Callable[[AttemptHandler], AttemptHandler] | None:
        """Carry the rules out that strike this attempt."""
        run = self._runs[attempt.execution_id, attempt.step_id]
        visit = run.visit
        due = [
            (armed, armed.wrap)
            for armed in self._due(visit, None, attempt.workflow_name, attempt.step_id, run.count)
            if armed.wrap is not None
        ]
        if not due:
            return None

        def wrapped(call: AttemptHandler) -> AttemptHandler:
            for armed, wrap in due:
                call = self._around(visit, armed, wrap, attempt, call)
            return call

        return wrapped

    def _around(
        self, visit: _Visit, armed: ArmedFault, wrap: AttemptWrapper, attempt: Attempt, call: AttemptHandler
    ) -> AttemptHandler:
        """Put a fault around an attempt; it strikes when it is reached."""
        inner = wrap(attempt, call)

        async def striking() -> object:
            self._strike(visit, attempt, armed)
            return await inner()

        return striking

    @hookimpl
    def force_circuit(self, attempt: Attempt) -> CircuitStatus | None:
        """Set the circuit that a rule asks for."""
        key = attempt.execution_id, attempt.step_id
        visit = self._asked[key] = _Visit()
        next_run = self._runs[key].count + 1
        for armed in reversed(self._due(visit, None, attempt.workflow_name, attempt.step_id, next_run, circuits=True)):
            if isinstance(armed.rule.what, CircuitForced):
                self._strike(visit, attempt, armed)
                return armed.rule.what.status
        return None

    # Durable points --------------------------------------------------------------------------------------------------

    @hookimpl
    def before_durable_point(self, point: DurablePoint) -> None:
        """Carry out what strikes before a durable point, and note what strikes after it."""
        if point.name not in self._points:
            return
        visit = _Visit()
        due = self._due(visit, point.name, point.workflow_name, point.step_id)
        later = [armed for armed in due if _strikes_after(armed)]
        for armed in reversed(due):
            fault = armed.rule.what
            if isinstance(fault, ClockJump):
                self._strike(visit, point, armed)
                self._clock.jump_wall(fault.ms)
            elif isinstance(fault, StorageFailure):
                self._strike(visit, point, armed)
                visit.take_back_explored()
                where_it_lies = self._engine.store.location(point.workflow_name) if self._engine else "the database"
                raise storage_error(sqlite3.OperationalError(fault.message), where_it_lies)
            elif isinstance(fault, Crash) and fault.when == "before" and self._die is not None:
                self._strike(visit, point, armed)
                asked = self._asked.pop((point.execution_id, point.step_id), None)
                if asked is not None and point.name == "circuit_admitted":
                    asked.take_back()  # the circuit will be asked again
                visit.take_back_others()  # the point will be reached again
                self._die()
        if later:
            self._after[id(point)] = visit, later

    @hookimpl
    def after_durable_point(self, point: DurablePoint) -> None:
        """Carry out what strikes after a durable point's commit, damage before death."""
        if id(point) not in self._after:
            return
        visit, due = self._after.pop(id(point))
        for armed in due:
            fault = armed.rule.what
            if isinstance(fault, CorruptResult) and self._corrupt is not None:
                self._strike(visit, point, armed)
                self._corrupt(point, fault.text)
        for armed in reversed(due):
            if isinstance(armed.rule.what, Crash) and self._die is not None:
                self._strike(visit, point, armed)
                self._die()

    # Counting --------------------------------------------------------------------------------------------------------

    def _strike(self, visit: _Visit, place: Attempt | DurablePoint, armed: ArmedFault) -> None:
        armed.fired += 1
        visit.struck.append(armed)
        for told in self._watchers:
            told(place, armed)

    def _due(
        self,
        visit: _Visit,
        point: str | None,
        workflow_name: str,
        step_id: str | None,
        run: int = 0,
        *,
        circuits: bool = False,
    ) -> list[ArmedFault]:
        """Count a place for each rule that matches it, and return those that are to strike there."""
        elapsed_ms = self._clock.monotonic() * 1_000
        due = []
        for armed in self.rules:
            where = armed.rule.where
            if where.point != point or isinstance(armed.rule.what, CircuitForced) is not circuits:
                continue
            if not _is_at(where, workflow_name, step_id) or (where.attempts is not None and run not in where.attempts):
                continue
            if where.not_before_ms is not None and elapsed_ms < where.not_before_ms:
                continue
            armed.matched += 1
            visit.counted.append(armed)
            if where.nth is None or armed.matched == where.nth:
                due.append(armed)
        return due


def _strikes_after(armed: ArmedFault) -> bool:
    fault = armed.rule.what
    return isinstance(fault, CorruptResult) or (isinstance(fault, Crash) and fault.when == "after")


def _is_at(where: Where, workflow_name: str, step_id: str | None) -> bool:
    if where.step is not None and (step_id is None or not matches(step_id, where.step)):
        return False
    return matches(workflow_name, where.workflow)
