"""Faults and doubles for steps: the rules of a plan, armed, counted and carried out through the engine's hooks."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NoReturn

import pydantic

from pytest_workflow.injection import (
    ArmedFault,
    AttemptWrapper,
    CustomFault,
    answering,
    described_error,
    is_json,
    make_wrapper,
    raising,
)
from pytest_workflow.plan import (
    CircuitForced,
    ClockJump,
    CorruptResult,
    Crash,
    Delay,
    Fault,
    FaultPlan,
    FaultRule,
    Panic,
    Return,
    StorageFailure,
    TimeOut,
    When,
    Where,
)
from workflow_core.database.sqlite import storage_error
from workflow_core.hookspecs import Attempt, AttemptHandler, DurablePoint, hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from pytest_workflow.clock import VirtualClock
    from workflow_core.engine import WorkflowEngine
    from workflow_core.models import CircuitStatus

__all__ = ["ArmedFault", "CustomFault", "WorkflowFaults"]


@dataclass(slots=True)
class _Run:
    """One step of one execution: how often it ran, where its latest run stands in the history, and what struck it."""

    count: int = 0
    seq: int | None = None
    struck: list[ArmedFault] = field(default_factory=list)


class WorkflowFaults:
    """Makes steps fail, panic, wait or answer, circuits open, the database refuse and the process die.

    A step is named by its id or by a glob (``"charge-*"``); ``workflow`` narrows a rule to one workflow. ``attempts``
    names runs of the step in one execution, counted from 1 over all attempts and restarts; an attempt that an injected
    crash cut off is not counted, so what struck it strikes again. A rule that never fired fails the test, unless it,
    or the whole fixture, is not strict.

    Attributes:
        strict: ``False`` lets every rule go unused.
        rules: The armed rules, in the order in which they were made.
    """

    def __init__(self, clock: VirtualClock, custom: CustomFault | None = None) -> None:
        self.strict = True
        self.rules: list[ArmedFault] = []
        self._clock = clock
        self._custom = custom
        self._engine: WorkflowEngine | None = None
        self._die: Callable[[], NoReturn] | None = None
        self._corrupt: Callable[[DurablePoint, str], None] | None = None
        self._registered: set[type] = set()
        self._runs: defaultdict[tuple[str, str], _Run] = defaultdict(_Run)
        self._after: dict[int, list[ArmedFault]] = {}
        self._forced: dict[tuple[str, str | None], ArmedFault] = {}

    def serve(
        self,
        engine: WorkflowEngine,
        die: Callable[[], NoReturn] | None = None,
        corrupt: Callable[[DurablePoint, str], None] | None = None,
    ) -> None:
        """Work for ``engine`` from now on.

        Args:
            engine: The engine.
            die: Lets its process die.
            corrupt: Damages the result that a durable point stored.
        """
        self._engine, self._die, self._corrupt = engine, die, corrupt
        self._registered = set()
        self._after = {}
        self._register()

    def _register(self) -> None:
        """Put into the engine what the rules need; an engine without these hooks is faster."""
        if self._engine is None:
            return
        for hooks, needed in (
            (_AttemptHooks, any(armed.rule.where.point is None for armed in self.rules)),
            (_PointHooks, any(armed.rule.where.point is not None for armed in self.rules)),
        ):
            if needed and hooks not in self._registered:
                self._registered.add(hooks)
                self._engine.register(hooks(self))

    # Plans -----------------------------------------------------------------------------------------------------------

    @property
    def plan(self) -> FaultPlan:
        """The rules as a plan, without those that do not travel (see `ArmedFault.portable`)."""
        return FaultPlan(rules=tuple(armed.rule for armed in self.rules if armed.portable))

    def add(self, plan: FaultPlan | FaultRule) -> list[ArmedFault]:
        """Arm the rules of a plan, or one rule.

        Raises:
            ValidationError: An error class cannot be imported.
            ValueError: The engine would not take a panic's message for a panic.
        """
        rules = plan.rules if isinstance(plan, FaultPlan) else (plan,)
        return [self._arm(rule, f"add({FaultPlan(rules=(rule,)).to_json()})") for rule in rules]

    # Rules -----------------------------------------------------------------------------------------------------------

    def fail(
        self,
        step_id: str,
        error: BaseException | type[BaseException] | str,
        attempts: Collection[int] | None = None,
        *,
        workflow: str = "*",
        occurrence: int | None = None,
        strict: bool = True,
    ) -> ArmedFault:
        """Let attempts of a step raise an error instead of running.

        Args:
            step_id: Step id, or a glob.
            error: The error, its class, or a message for a ``RuntimeError``.
            attempts: Which runs fail; ``None`` for all.
            workflow: Workflow name, or a glob.
            occurrence: Which of the matching runs in the whole test; ``None`` for all.
            strict: Whether the test fails if this never happens.

        Raises:
            TypeError: ``error`` is none of these.
        """
        make, fault, portable = described_error(error)
        return self._arm(
            _rule(fault, step_id, attempts, workflow, occurrence, strict),
            f"fail({step_id!r}, {error!r})",
            raising(make),
            portable=portable,
        )

    def panic(
        self,
        step_id: str,
        message: BaseException | str = "out of memory",
        attempts: Collection[int] | None = (1,),
        *,
        workflow: str = "*",
        occurrence: int | None = None,
        strict: bool = True,
    ) -> ArmedFault:
        """Let a step panic; by default the first time it runs in an execution.

        Args:
            step_id: Step id, or a glob.
            message: A text with a panic indicator (see ``workflow_core.panic.PANIC_INDICATORS``), or an error.
            attempts: Which runs panic, counted over restarts as well; ``None`` for all.
            workflow: Workflow name, or a glob.
            occurrence: Which of the matching runs in the whole test; ``None`` for all.
            strict: Whether the test fails if this never happens.

        Raises:
            ValueError: The engine would not take this for a panic.
        """
        self._check_panic(message)
        if isinstance(message, str):
            rule = _rule(Panic(message=message), step_id, attempts, workflow, occurrence, strict)
            return self._arm(rule, f"panic({step_id!r}, {message!r})")
        make, fault, portable = described_error(message)
        rule = _rule(fault, step_id, attempts, workflow, occurrence, strict)
        return self._arm(rule, f"panic({step_id!r}, {message!r})", raising(make), portable=portable)

    def delay(
        self,
        step_id: str,
        ms: float,
        attempts: Collection[int] | None = None,
        *,
        workflow: str = "*",
        occurrence: int | None = None,
        strict: bool = True,
    ) -> ArmedFault:
        """Let attempts of a step take ``ms`` virtual milliseconds longer; the rest as in `fail`."""
        rule = _rule(Delay(ms=ms), step_id, attempts, workflow, occurrence, strict)
        return self._arm(rule, f"delay({step_id!r}, {ms!r})")

    def timeout(
        self,
        step_id: str,
        attempts: Collection[int] | None = None,
        *,
        workflow: str = "*",
        occurrence: int | None = None,
        strict: bool = True,
    ) -> ArmedFault:
        """Let attempts of a step hang until their ``timeout_ms`` runs out; the rest as in `fail`.

        A step without one raises ``TimeoutError`` after a virtual hour.
        """
        return self._arm(_rule(TimeOut(), step_id, attempts, workflow, occurrence, strict), f"timeout({step_id!r})")

    def returns(
        self,
        step_id: str,
        value: object,
        attempts: Collection[int] | None = None,
        *,
        workflow: str = "*",
        occurrence: int | None = None,
        strict: bool = True,
    ) -> ArmedFault:
        """Let a step return ``value`` without running; it is stored like any other. The rest as in `fail`."""
        portable = is_json(value)
        rule = _rule(Return(value=value if portable else None), step_id, attempts, workflow, occurrence, strict)
        return self._arm(rule, f"returns({step_id!r}, {value!r})", answering(lambda: value), portable=portable)

    def calls(
        self,
        step_id: str,
        function: Callable[[], object],
        attempts: Collection[int] | None = None,
        *,
        workflow: str = "*",
        occurrence: int | None = None,
        strict: bool = True,
    ) -> ArmedFault:
        """Let a step run ``function`` instead of its own; the rest as in `fail`."""
        if not callable(function):
            raise TypeError(f"calls({step_id!r}) needs a function without arguments, not {function!r}")
        rule = _rule(Return(), step_id, attempts, workflow, occurrence, strict)
        return self._arm(rule, f"calls({step_id!r}, {function!r})", answering(function), portable=False)

    def open_circuit(
        self, step_id: str, *, workflow: str = "*", occurrence: int | None = 1, strict: bool = True
    ) -> ArmedFault:
        """Find the step's circuit open, as if it had just tripped.

        Args:
            step_id: Step id, or a glob; a step without ``with_circuit_breaker`` has no circuit to open.
            workflow: Workflow name, or a glob.
            occurrence: Which time the circuit is asked; ``None`` for each time.
            strict: Whether the test fails if this never happens.
        """
        rule = _rule(CircuitForced(status="open"), step_id, None, workflow, occurrence, strict)
        return self._arm(rule, f"open_circuit({step_id!r})")

    def half_open_circuit(
        self, step_id: str, *, workflow: str = "*", occurrence: int | None = 1, strict: bool = True
    ) -> ArmedFault:
        """Find the step's circuit half-open, so that the attempt is its probe; the rest as in `open_circuit`."""
        rule = _rule(CircuitForced(status="half_open"), step_id, None, workflow, occurrence, strict)
        return self._arm(rule, f"half_open_circuit({step_id!r})")

    def crash(
        self,
        point: str,
        step_id: str | None = None,
        when: When = "after",
        *,
        workflow: str = "*",
        occurrence: int | None = 1,
        strict: bool = True,
    ) -> ArmedFault:
        """Let the process die at a durable point; a new one opens the surviving database and goes on.

        Args:
            point: Durable point, such as ``"step_completed"`` (see ``workflow_core.database.store.DURABLE_POINTS``).
            step_id: Step id, or a glob; ``None`` for any.
            when: Before the point's transaction, or after its commit.
            workflow: Workflow name, or a glob.
            occurrence: Which of the matching places in the whole test; ``None`` for each, which never ends for most.
            strict: Whether the test fails if this never happens.
        """
        rule = _rule(Crash(when=when), step_id, None, workflow, occurrence, strict, point)
        return self._arm(rule, f"crash({point!r}, {step_id!r}, {when!r})")

    def storage_error(
        self,
        point: str,
        message: str = "database is locked",
        step_id: str | None = None,
        *,
        workflow: str = "*",
        occurrence: int | None = 1,
        strict: bool = True,
    ) -> ArmedFault:
        """Let the database refuse a durable point.

        Args:
            point: Durable point, such as ``"step_completed"``.
            message: What SQLite says; see `pytest_workflow.plan.STORAGE_ERRORS`.
            step_id: Step id, or a glob; ``None`` for any.
            workflow: Workflow name, or a glob.
            occurrence: Which of the matching places in the whole test; ``None`` for each.
            strict: Whether the test fails if this never happens.
        """
        rule = _rule(StorageFailure(message=message), step_id, None, workflow, occurrence, strict, point)
        return self._arm(rule, f"storage_error({point!r}, {message!r})")

    def corrupt_result(
        self,
        step_id: str,
        text: str = '{"corrupt',
        *,
        workflow: str = "*",
        occurrence: int | None = 1,
        strict: bool = True,
    ) -> ArmedFault:
        """Damage the stored result of a step after its commit: ``text`` stands in its place.

        Args:
            step_id: Step id, or a glob.
            text: What is stored.
            workflow: Workflow name, or a glob.
            occurrence: Which of the matching results in the whole test; ``None`` for each.
            strict: Whether the test fails if this never happens.
        """
        rule = _rule(CorruptResult(text=text), step_id, None, workflow, occurrence, strict, "step_completed")
        return self._arm(rule, f"corrupt_result({step_id!r}, {text!r})")

    def jump_clock(
        self,
        ms: float,
        step_id: str | None = None,
        point: str | None = None,
        *,
        workflow: str = "*",
        occurrence: int | None = 1,
        strict: bool = True,
    ) -> ArmedFault:
        """Move the wall clock, as a time server does, when a step's attempt begins or at a durable point.

        Args:
            ms: How far, in milliseconds; negative is backwards.
            step_id: Step id, or a glob.
            point: Durable point; ``None`` for the step's attempt.
            workflow: Workflow name, or a glob.
            occurrence: Which of the matching places in the whole test; ``None`` for each.
            strict: Whether the test fails if this never happens.
        """
        rule = _rule(ClockJump(ms=ms), step_id, None, workflow, occurrence, strict, point)
        return self._arm(rule, f"jump_clock({ms!r}, {step_id!r}, {point!r})")

    def _check_panic(self, message: BaseException | str) -> None:
        error = message if isinstance(message, BaseException) else RuntimeError(message)
        if self._engine is not None and self._engine.panic_indicator(error) is None:
            raise ValueError(
                f"{message!r} is no panic: use one of workflow_core.panic.PANIC_INDICATORS, MemoryError, "
                "RecursionError or SystemError, or fail() for an ordinary error"
            )

    def _arm(
        self, rule: FaultRule, description: str, wrap: AttemptWrapper | None = None, *, portable: bool = True
    ) -> ArmedFault:
        if isinstance(rule.what, Panic):
            self._check_panic(rule.what.message)
        if wrap is None and rule.where.point is None:
            wrap = make_wrapper(rule.what, self._clock, self._custom)
        armed = ArmedFault(rule, description, wrap, portable)
        self.rules.append(armed)
        self._register()
        return armed

    def unused(self) -> list[ArmedFault]:
        """Return the strict rules that never fired."""
        return [armed for armed in self.rules if self.strict and armed.rule.strict and not armed.fired]

    # Carrying out ----------------------------------------------------------------------------------------------------

    def note_run(self, execution_id: str, step_id: str, seq: int) -> None:
        """Count an attempt that began at position ``seq`` of the history."""
        run = self._runs[execution_id, step_id]
        run.count += 1
        run.seq = seq
        run.struck = []

    def take_back(self, execution_id: str, step_id: str, seq: int | None) -> None:
        """Forget the attempt of a step that began at ``seq``, and what struck it: a crash cut it off."""
        run = self._runs.get((execution_id, step_id))
        if run is not None and run.count and run.seq == seq:
            run.count -= 1
            run.seq = None
            for armed in run.struck:
                armed.take_back()
            run.struck = []

    def wrap_attempt(self, attempt: Attempt) -> Callable[[AttemptHandler], AttemptHandler] | None:
        """Carry the rules out that strike this attempt; the rule made first is the innermost."""
        run = self._runs[attempt.execution_id, attempt.step_id]
        elapsed_ms = self._clock.monotonic() * 1_000
        wraps = []
        for armed in self.rules:
            where = armed.rule.where
            if armed.wrap is None or not _is_at(where, attempt.workflow_name, attempt.step_id):
                continue
            if (where.attempts is None or run.count in where.attempts) and armed.counts(elapsed_ms):
                run.struck.append(armed)
                wraps.append(armed.wrap)
        if not wraps:
            return None

        def wrapped(call: AttemptHandler) -> AttemptHandler:
            for wrap in wraps:
                call = wrap(attempt, call)
            return call

        return wrapped

    def force_circuit(self, attempt: Attempt) -> CircuitStatus | None:
        """Set the circuit that a rule asks for."""
        for armed in self.rules:
            fault = armed.rule.what
            if (
                isinstance(fault, CircuitForced)
                and _is_at(armed.rule.where, attempt.workflow_name, attempt.step_id)
                and armed.counts(self._clock.monotonic() * 1_000)
            ):
                self._forced[attempt.execution_id, attempt.step_id] = armed
                return fault.status
        return None

    def before(self, point: DurablePoint) -> None:
        """Carry out what strikes before a durable point, and note what strikes after it."""
        elapsed_ms = self._clock.monotonic() * 1_000
        later = []
        for armed in self.rules:
            where, fault = armed.rule.where, armed.rule.what
            if where.point != point.name or not _is_at(where, point.workflow_name, point.step_id):
                continue
            if not armed.counts(elapsed_ms):
                continue
            if isinstance(fault, ClockJump):
                self._clock.jump_wall(fault.ms)
            elif isinstance(fault, StorageFailure):
                where_it_lies = self._engine.store.location(point.workflow_name) if self._engine else "the database"
                raise storage_error(sqlite3.OperationalError(fault.message), where_it_lies)
            elif isinstance(fault, Crash) and fault.when == "before" and self._die is not None:
                forced = self._forced.pop((point.execution_id, point.step_id), None)
                if forced is not None and point.name == "circuit_admitted":
                    forced.take_back()  # the circuit will be asked again
                self._die()
            else:
                later.append(armed)
        if later:
            self._after[id(point)] = later

    def after(self, point: DurablePoint) -> None:
        """Carry out what strikes after a durable point's commit."""
        for armed in self._after.pop(id(point), ()):
            fault = armed.rule.what
            if isinstance(fault, CorruptResult) and self._corrupt is not None:
                self._corrupt(point, fault.text)
            elif isinstance(fault, Crash) and self._die is not None:
                self._die()


class _AttemptHooks:
    """Puts the rules that strike attempts into an engine."""

    def __init__(self, faults: WorkflowFaults) -> None:
        self._faults = faults

    def __dir__(self) -> list[str]:
        return ["wrap_attempt", "force_circuit"]  # each name costs pluggy a look at every registration

    @hookimpl
    def wrap_attempt(self, attempt: Attempt) -> Callable[[AttemptHandler], AttemptHandler] | None:
        return self._faults.wrap_attempt(attempt)

    @hookimpl
    def force_circuit(self, attempt: Attempt) -> CircuitStatus | None:
        return self._faults.force_circuit(attempt)


class _PointHooks:
    """Puts the rules that strike durable points into an engine."""

    def __init__(self, faults: WorkflowFaults) -> None:
        self._faults = faults

    def __dir__(self) -> list[str]:
        return ["before_durable_point", "after_durable_point"]

    @hookimpl
    def before_durable_point(self, point: DurablePoint) -> None:
        self._faults.before(point)

    @hookimpl
    def after_durable_point(self, point: DurablePoint) -> None:
        self._faults.after(point)


# Making rules --------------------------------------------------------------------------------------------------------


def _rule(
    fault: Fault,
    step_id: str | None,
    attempts: Iterable[int] | None,
    workflow: str,
    nth: int | None,
    strict: bool,  # noqa: FBT001 - passed through
    point: str | None = None,
) -> FaultRule:
    if (step_id is not None or point is None) and (not isinstance(step_id, str) or not step_id):
        raise TypeError(f"a fault needs the id of a step, or a glob; not {step_id!r}")
    numbers = None if attempts is None else list(attempts)
    if numbers is not None and not all(type(number) is int and number >= 1 for number in numbers):
        raise ValueError(f"attempts are counted from 1; got {numbers!r}")
    try:
        where = Where(
            workflow=workflow,
            step=step_id,
            attempts=None if numbers is None else tuple(numbers),
            point=point,
            nth=nth,
        )
        return FaultRule(where=where, what=fault, strict=strict)
    except pydantic.ValidationError as error:
        raise ValueError("; ".join(item["msg"] for item in error.errors())) from None


def _is_at(where: Where, workflow_name: str, step_id: str | None) -> bool:
    if where.step is not None and (step_id is None or not _matches(step_id, where.step)):
        return False
    return _matches(workflow_name, where.workflow)


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)
