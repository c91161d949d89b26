"""Faults and doubles for steps: rules of where and what, carried out through the engine's hooks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from workflow_core.hookspecs import Attempt, AttemptHandler, hookimpl

if TYPE_CHECKING:
    from workflow_core.clock import Clock
    from workflow_core.engine import WorkflowEngine
    from workflow_core.models import CircuitStatus

__all__ = ["FaultRule", "WorkflowFaults"]


@dataclass(slots=True)
class FaultRule:
    """One fault, and where it strikes.

    Attributes:
        description: What it does, as it was asked for.
        step: Step id, or a glob.
        workflow: Workflow name, or a glob.
        runs: Which runs of the step in one execution, counted from 1 over all attempts and restarts; ``None`` for all.
        occurrence: Which of the matching runs over the whole test, counted from 1; ``None`` for all.
        strict: Whether the test fails if the rule never fired.
        fired: How often it did.
    """

    description: str
    step: str
    workflow: str
    runs: frozenset[int] | None
    occurrence: int | None
    strict: bool
    wrap: Callable[[Attempt, AttemptHandler], AttemptHandler] | None = None
    circuit: CircuitStatus | None = None
    matched: int = 0
    fired: int = 0

    def strikes(self, attempt: Attempt, run: int) -> bool:
        """Tell whether the rule fires for the ``run``-th run of a step, and count it."""
        if not (_matches(attempt.step_id, self.step) and _matches(attempt.workflow_name, self.workflow)):
            return False
        if self.runs is not None and run not in self.runs:
            return False
        self.matched += 1
        if self.occurrence is not None and self.matched != self.occurrence:
            return False
        self.fired += 1
        return True


class WorkflowFaults:
    """Makes steps fail, panic, wait or answer, and circuits open.

    A step is named by its id or by a glob (``"charge-*"``); ``workflow`` narrows a rule to one workflow. ``attempts``
    names runs of the step in one execution, counted from 1 over all attempts and restarts. A rule that never fired
    fails the test, unless it, or the whole fixture, is not strict.

    Attributes:
        strict: ``False`` lets every rule go unused.
    """

    def __init__(self, clock: Clock) -> None:
        self.strict = True
        self.rules: list[FaultRule] = []
        self._clock = clock
        self._engine: WorkflowEngine | None = None
        self._registered = False
        self._runs: defaultdict[tuple[str, str], int] = defaultdict(int)

    def serve(self, engine: WorkflowEngine) -> None:
        """Work for ``engine`` from now on."""
        self._engine = engine
        self._registered = False
        if self.rules:
            self._register()

    def _register(self) -> None:
        if self._engine is not None and not self._registered:
            self._engine.register(_FaultHooks(self))
            self._registered = True

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
    ) -> FaultRule:
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
        make = _error_factory(error)

        def wrap(attempt: Attempt, call: AttemptHandler) -> AttemptHandler:
            del attempt, call

            async def failing() -> object:
                raise make()

            return failing

        return self._add(f"fail({step_id!r}, {error!r})", step_id, attempts, workflow, occurrence, strict, wrap=wrap)

    def panic(
        self,
        step_id: str,
        message: BaseException | str = "out of memory",
        attempts: Collection[int] | None = (1,),
        *,
        workflow: str = "*",
        occurrence: int | None = None,
        strict: bool = True,
    ) -> FaultRule:
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
        error = message if isinstance(message, BaseException) else RuntimeError(message)
        if self._engine is not None and self._engine.panic_indicator(error) is None:
            raise ValueError(
                f"{message!r} is no panic: use one of workflow_core.panic.PANIC_INDICATORS, MemoryError, "
                "RecursionError or SystemError, or fail() for an ordinary error"
            )
        rule = self.fail(step_id, error, attempts, workflow=workflow, occurrence=occurrence, strict=strict)
        rule.description = f"panic({step_id!r}, {message!r})"
        return rule

    def delay(
        self,
        step_id: str,
        ms: float,
        attempts: Collection[int] | None = None,
        *,
        workflow: str = "*",
        occurrence: int | None = None,
        strict: bool = True,
    ) -> FaultRule:
        """Let attempts of a step take ``ms`` virtual milliseconds longer; the rest as in `fail`."""
        clock = self._clock

        def wrap(attempt: Attempt, call: AttemptHandler) -> AttemptHandler:
            del attempt

            async def delayed() -> object:
                await clock.sleep(ms)
                return await call()

            return delayed

        return self._add(f"delay({step_id!r}, {ms!r})", step_id, attempts, workflow, occurrence, strict, wrap=wrap)

    def returns(
        self,
        step_id: str,
        value: object,
        attempts: Collection[int] | None = None,
        *,
        workflow: str = "*",
        occurrence: int | None = None,
        strict: bool = True,
    ) -> FaultRule:
        """Let a step return ``value`` without running; it is stored like any other. The rest as in `fail`."""
        description = f"returns({step_id!r}, {value!r})"
        return self._answer(description, step_id, lambda: value, attempts, workflow, occurrence, strict)

    def calls(
        self,
        step_id: str,
        function: Callable[[], object],
        attempts: Collection[int] | None = None,
        *,
        workflow: str = "*",
        occurrence: int | None = None,
        strict: bool = True,
    ) -> FaultRule:
        """Let a step run ``function`` instead of its own; the rest as in `fail`."""
        description = f"calls({step_id!r}, {function!r})"
        return self._answer(description, step_id, function, attempts, workflow, occurrence, strict)

    def open_circuit(
        self, step_id: str, *, workflow: str = "*", occurrence: int | None = 1, strict: bool = True
    ) -> FaultRule:
        """Find the step's circuit open, as if it had just tripped.

        Args:
            step_id: Step id, or a glob; a step without ``with_circuit_breaker`` has no circuit to open.
            workflow: Workflow name, or a glob.
            occurrence: Which time the circuit is asked; ``None`` for each time.
            strict: Whether the test fails if this never happens.
        """
        description = f"open_circuit({step_id!r})"
        return self._add(description, step_id, None, workflow, occurrence, strict, circuit="open")

    def half_open_circuit(
        self, step_id: str, *, workflow: str = "*", occurrence: int | None = 1, strict: bool = True
    ) -> FaultRule:
        """Find the step's circuit half-open, so that the attempt is its probe; the rest as in `open_circuit`."""
        description = f"half_open_circuit({step_id!r})"
        return self._add(description, step_id, None, workflow, occurrence, strict, circuit="half_open")

    def _answer(
        self,
        description: str,
        step_id: str,
        function: Callable[[], object],
        attempts: Collection[int] | None,
        workflow: str,
        occurrence: int | None,
        strict: bool,  # noqa: FBT001 - passed through
    ) -> FaultRule:
        def wrap(attempt: Attempt, call: AttemptHandler) -> AttemptHandler:
            del attempt, call

            async def answering() -> object:
                result = function()
                return await result if isinstance(result, Awaitable) else result

            return answering

        return self._add(description, step_id, attempts, workflow, occurrence, strict, wrap=wrap)

    def _add(
        self,
        description: str,
        step_id: str,
        attempts: Collection[int] | None,
        workflow: str,
        occurrence: int | None,
        strict: bool,  # noqa: FBT001 - passed through
        *,
        wrap: Callable[[Attempt, AttemptHandler], AttemptHandler] | None = None,
        circuit: CircuitStatus | None = None,
    ) -> FaultRule:
        if not isinstance(step_id, str) or not step_id:
            raise TypeError(f"a fault needs the id of a step, or a glob; not {step_id!r}")
        if attempts is not None and not all(isinstance(number, int) and number >= 1 for number in attempts):
            raise ValueError(f"attempts are counted from 1; got {list(attempts)!r}")
        runs = None if attempts is None else frozenset(attempts)
        rule = FaultRule(description, step_id, workflow, runs, occurrence, strict, wrap, circuit)
        self.rules.append(rule)
        self._register()
        return rule

    def unused(self) -> list[FaultRule]:
        """Return the strict rules that never fired."""
        return [rule for rule in self.rules if self.strict and rule.strict and not rule.fired]

    # Carrying out ----------------------------------------------------------------------------------------------------

    def note_run(self, execution_id: str, step_id: str) -> None:
        """Count an attempt that began."""
        self._runs[execution_id, step_id] += 1

    def wrap_attempt(self, attempt: Attempt) -> Callable[[AttemptHandler], AttemptHandler] | None:
        """Carry the rules out that strike this attempt; the rule made first is the innermost."""
        run = self._runs[attempt.execution_id, attempt.step_id]
        wraps = [rule.wrap for rule in self.rules if rule.wrap is not None and rule.strikes(attempt, run)]
        if not wraps:
            return None

        def wrapped(call: AttemptHandler) -> AttemptHandler:
            for wrap in wraps:
                call = wrap(attempt, call)
            return call

        return wrapped

    def force_circuit(self, attempt: Attempt) -> CircuitStatus | None:
        """Set the circuit that a rule asks for."""
        for rule in self.rules:
            if rule.circuit is not None and rule.strikes(attempt, 1):
                return rule.circuit
        return None


class _FaultHooks:
    """Puts the rules into an engine, once there are any: an engine without these hooks is faster."""

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


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _error_factory(error: BaseException | type[BaseException] | str) -> Callable[[], BaseException]:
    if isinstance(error, BaseException):
        return lambda: error.with_traceback(None)
    if isinstance(error, type) and issubclass(error, BaseException):
        return error
    if isinstance(error, str):
        return lambda: RuntimeError(error)
    raise TypeError(f"a step can fail with an error, an error class or a message; not with {error!r}")
