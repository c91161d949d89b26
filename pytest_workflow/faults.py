"""The fixture ``workflow_faults``: each call makes one rule of a fault plan and arms it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_workflow.fault_calls import FaultCall
from pytest_workflow.injection import (
    ArmedFault,
    AttemptWrapper,
    CustomFault,
    answering,
    check_callable,
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
    FaultPlan,
    FaultRule,
    Panic,
    Return,
    StorageFailure,
    TimeOut,
    When,
)
from pytest_workflow.striking import StrikingFaults
from workflow_core.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pytest_workflow.clock import VirtualClock

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["ArmedFault", "CustomFault", "WorkflowFaults"]


class WorkflowFaults(StrikingFaults):
    """Makes steps fail, panic, wait or answer, circuits open, the database refuse and the process die.

    A step is named by its id or by a glob (``"charge-*"``); ``workflow`` narrows a rule to one workflow. ``attempts``
    names runs of the step in one execution, counted from 1 over all attempts and restarts; an attempt that an injected
    crash cut off is not counted, so what struck it strikes again. Of several rules that strike one attempt, the one
    made last is the outermost: if it raises or answers, those made before it do not strike. A rule that never struck
    fails the test, unless it, or the whole fixture, is not strict.

    Attributes:
        strict: ``False`` lets every rule go unused.
        rules: The armed rules, in the order in which they were made.
    """

    def __init__(self, clock: VirtualClock, custom: CustomFault | None = None) -> None:
        super().__init__(clock)
        self._custom = custom

    # Plans -----------------------------------------------------------------------------------------------------------

    @property
    def plan(self) -> FaultPlan:
        """The rules as a plan, without those that do not travel (see `ArmedFault.portable`)."""
        return FaultPlan(rules=tuple(armed.rule for armed in self.rules if armed.portable))

    def add(self, plan: FaultPlan | FaultRule) -> list[ArmedFault]:
        """Arm the rules of a plan, or one rule.

        Raises:
            ValidationError: A rule cannot be carried out: its error class cannot be imported or made, the engine would
                not take its message for a panic, or no plugin knows a custom fault. Then none is armed.
        """
        rules = plan.rules if isinstance(plan, FaultPlan) else (plan,)
        armed = []
        for number, rule in enumerate(rules):
            try:
                armed.append(self._armed(rule, f"add({FaultPlan(rules=(rule,)).to_json()})"))
            except ValueError as error:
                raise ValidationError(f"Invalid fault plan: rules.{number}.what: {error}") from None
        self.arm(armed)
        return armed

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
        call = FaultCall("fail", (step_id, error), step_id, attempts, workflow, occurrence, strict)
        with call.explained():
            make, fault, portable = described_error(error)
            return self._arm(call.rule(fault), call, raising(make), portable=portable)

    def panic(
        self,
        step_id: str,
        message: BaseException | type[BaseException] | str = "out of memory",
        attempts: Collection[int] | None = (1,),
        *,
        workflow: str = "*",
        occurrence: int | None = None,
        strict: bool = True,
    ) -> ArmedFault:
        """Let a step panic; by default the first time it runs in an execution.

        Args:
            step_id: Step id, or a glob.
            message: A text with a panic indicator (see ``workflow_core.panic.PANIC_INDICATORS``), or an error,
                or its class.
            attempts: Which runs panic, counted over restarts as well; ``None`` for all.
            workflow: Workflow name, or a glob.
            occurrence: Which of the matching runs in the whole test; ``None`` for all.
            strict: Whether the test fails if this never happens.

        Raises:
            ValueError: The engine would not take this for a panic.
        """
        call = FaultCall(
            "panic", (step_id, message), step_id, attempts, workflow, occurrence, strict, usual_attempts=(1,)
        )
        with call.explained():
            if isinstance(message, str):
                return self._arm(call.rule(Panic(message=message)), call)
            make, fault, portable = described_error(message)
            self._check_panic(make())
            return self._arm(call.rule(fault), call, raising(make), portable=portable)

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
        call = FaultCall("delay", (step_id, ms), step_id, attempts, workflow, occurrence, strict)
        with call.explained():
            return self._arm(call.rule(Delay(ms=ms)), call)

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
        call = FaultCall("timeout", (step_id,), step_id, attempts, workflow, occurrence, strict)
        with call.explained():
            return self._arm(call.rule(TimeOut()), call)

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
        call = FaultCall("returns", (step_id, value), step_id, attempts, workflow, occurrence, strict)
        with call.explained():
            portable = is_json(value)
            rule = call.rule(Return(value=value if portable else None))
            return self._arm(rule, call, answering(lambda: value), portable=portable)

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
        call = FaultCall("calls", (step_id, function), step_id, attempts, workflow, occurrence, strict)
        with call.explained():
            check_callable(function)
            return self._arm(call.rule(Return()), call, answering(function), portable=False)

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
        call = FaultCall("open_circuit", (step_id,), step_id, None, workflow, occurrence, strict, usual_occurrence=1)
        with call.explained():
            return self._arm(call.rule(CircuitForced(status="open")), call)

    def half_open_circuit(
        self, step_id: str, *, workflow: str = "*", occurrence: int | None = 1, strict: bool = True
    ) -> ArmedFault:
        """Find the step's circuit half-open, so that the attempt is its probe; the rest as in `open_circuit`."""
        call = FaultCall(
            "half_open_circuit", (step_id,), step_id, None, workflow, occurrence, strict, usual_occurrence=1
        )
        with call.explained():
            return self._arm(call.rule(CircuitForced(status="half_open")), call)

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
        shown = (point, step_id, when)
        call = FaultCall("crash", shown, step_id, None, workflow, occurrence, strict, point, usual_occurrence=1)
        with call.explained():
            return self._arm(call.rule(Crash(when=when)), call)

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
        shown = (point, message, step_id)
        call = FaultCall("storage_error", shown, step_id, None, workflow, occurrence, strict, point, usual_occurrence=1)
        with call.explained():
            return self._arm(call.rule(StorageFailure(message=message)), call)

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
        shown, point = (step_id, text), "step_completed"
        call = FaultCall(
            "corrupt_result", shown, step_id, None, workflow, occurrence, strict, point, usual_occurrence=1
        )
        with call.explained():
            return self._arm(call.rule(CorruptResult(text=text)), call)

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
        shown = (ms, step_id, point)
        call = FaultCall("jump_clock", shown, step_id, None, workflow, occurrence, strict, point, usual_occurrence=1)
        with call.explained():
            return self._arm(call.rule(ClockJump(ms=ms)), call)

    def _check_panic(self, error: BaseException) -> None:
        if self._engine is not None and self._engine.extensions.panic_indicator(error) is None:
            raise ValueError(
                f"{error!r} is no panic: use one of workflow_core.panic.PANIC_INDICATORS, MemoryError, "
                "RecursionError or SystemError, or fail() for an ordinary error"
            )

    def _arm(
        self, rule: FaultRule, call: FaultCall, wrap: AttemptWrapper | None = None, *, portable: bool = True
    ) -> ArmedFault:
        armed = self._armed(rule, str(call), wrap, portable=portable)
        self.arm([armed])
        return armed

    def _armed(
        self, rule: FaultRule, description: str, wrap: AttemptWrapper | None = None, *, portable: bool = True
    ) -> ArmedFault:
        if isinstance(rule.what, Panic):
            self._check_panic(RuntimeError(rule.what.message))
        if wrap is None and rule.where.point is None:
            wrap = make_wrapper(rule.what, self._clock, self._custom)
        return ArmedFault(rule, description, wrap, portable)
