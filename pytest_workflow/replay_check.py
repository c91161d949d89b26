"""What ``--workflow-replay-check`` does: two checks of every ``workflow.run``, independent of each other.

The first replays each finished execution from its record, in another time and with other random numbers, and compares
what is asked for (`ReplayCheck`). The second drops what is in memory after every step (`memory_check.MemoryDrops`).
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from pytest_workflow.divergence import Divergence, ExecutionReplay, ReplayReport
from pytest_workflow.harness import WorkflowHarness
from pytest_workflow.memory_check import MemoryDrops
from pytest_workflow.nondeterminism import environment_reads, other_randomness, suspects, unordered_loops
from pytest_workflow.observed import ObservedDefinitions, unobserved
from pytest_workflow.recorded_history import read_executions
from pytest_workflow.replay_engine import replay_execution

if TYPE_CHECKING:
    import pytest

    from pytest_workflow.environment import Environment
    from pytest_workflow.freezer import Freezer
    from pytest_workflow.nondeterminism import EnvironmentRead
    from pytest_workflow.observed import Ask
    from pytest_workflow.recorded_history import RecordedExecution
    from pytest_workflow.until import Until
    from workflow_core.execution import Execution
    from workflow_core.models import ExecutionResult

__all__ = ["CheckedHarness", "ReplayCheck", "install"]

_ANOTHER_TIME = timedelta(days=403, hours=7, minutes=11, seconds=13, milliseconds=17)
"""No part of the time, from the year to the millisecond, is the same after it."""


def install(environment: Environment, freezer: Freezer, item: pytest.Item) -> CheckedHarness:
    """Check what a test runs; returns the object that its fixture ``workflow`` is."""
    drops, check = MemoryDrops(environment), ReplayCheck(environment, freezer)
    environment.plugins.append(drops)
    environment.engine.register(drops)
    # What dies at a step has not asked for it: so the one that lets the engine die comes first.
    environment.engine.definitions = ObservedDefinitions(environment.engine.definitions, [drops, check])
    harness = CheckedHarness(environment, drops, check, item)
    environment.harness = harness
    return harness


class CheckedHarness(WorkflowHarness):
    """The ``workflow`` fixture's object under ``--workflow-replay-check``."""

    def __init__(self, environment: Environment, drops: MemoryDrops, check: ReplayCheck, item: pytest.Item) -> None:
        super().__init__(environment)
        self._drops = drops
        self._check = check
        self._item = item

    def run(self, *args: Any, **options: Any) -> ExecutionResult:  # noqa: ANN401 - as WorkflowHarness.run
        """Run a workflow as `WorkflowHarness.run` does, with a new engine after every step, and replay it."""
        __tracebackhide__ = True
        before = len(self._drops.dropped)
        try:
            with self._drops.armed():
                result = super().run(*args, **options)
        finally:
            self._tell(self._drops.dropped[before:])
        self._check.check_finished()
        return result

    async def start(self, *args: Any, **options: Any) -> ExecutionResult:  # noqa: ANN401 - as WorkflowHarness.start
        """Start a workflow as `WorkflowHarness.start` does, and replay what has finished."""
        result = await super().start(*args, **options)
        self._check.check_finished()
        return result

    def wait(self, execution_id: str, *, until: Until | None = None) -> ExecutionResult:
        """Wait as `WorkflowHarness.wait` does, and replay what has finished."""
        __tracebackhide__ = True
        result = super().wait(execution_id, until=until)
        self._check.check_finished()
        return result

    def _tell(self, dropped: list[tuple[str, str]]) -> None:
        for execution_id in dict.fromkeys(execution_id for execution_id, _ in dropped):
            steps = ", ".join(f'"{step_id}"' for other, step_id in dropped if other == execution_id)
            text = (
                f'--workflow-replay-check: execution "{execution_id}" went on in a new engine after {steps}; a '
                "workflow that fails only so keeps something in memory from step to step"
            )
            self._item.add_report_section("call", "workflow replay check", text)


class ReplayCheck:
    """Replays what has finished, and compares what is asked for with what the first run asked for.

    Args:
        environment: The running test's engine and database.
        freezer: Shows virtual time to the user's code.
    """

    def __init__(self, environment: Environment, freezer: Freezer) -> None:
        self._environment = environment
        self._freezer = freezer
        self._first: dict[str, dict[str, Ask]] = {}
        self._handlers: dict[str, object] = {}
        self._checked: set[tuple[str, int]] = set()

    async def asked(self, execution: Execution, ask: Ask) -> None:
        """Note what is asked for, each time that it has no result yet."""
        first = self._first.setdefault(execution.execution_id, {})
        record = execution.steps.get(ask.step_id)
        if ask.step_id not in first or record is None or record.status not in {"completed", "skipped"}:
            first[ask.step_id] = ask

        self._note_handler(execution)

    async def returned(self, execution: Execution) -> None:
        """Note the handler of an execution that asked for nothing."""
        self._note_handler(execution)

    def _note_handler(self, execution: Execution) -> None:
        """Note which handler it is: a test may define the workflow again afterwards."""
        definition = unobserved(self._environment.engine, execution.definition.name)
        self._handlers[execution.execution_id] = definition.handler if definition is not None else None

    def check_finished(self) -> None:
        """Replay the executions that have finished since the last call.

        Raises:
            ReplayDivergenceError: One does not do the same again.
        """
        __tracebackhide__ = True
        replays = []
        for record in read_executions(self._environment.database.connection):
            key = record.execution_id, record.restart_attempt
            if record.status in {"completed", "failed"} and key not in self._checked:
                self._checked.add(key)
                definition = unobserved(self._environment.engine, record.workflow_name)
                if definition is not None and definition.handler is self._handlers.get(record.execution_id):
                    replays.append(self._replayed(record, definition.handler))
        ReplayReport(tuple(replays)).raise_for_divergences()

    def _replayed(self, record: RecordedExecution, handler: object) -> ExecutionReplay:
        environment = self._environment
        database = environment.storage.copied()
        try:
            with other_randomness(), environment_reads() as reads:
                replay = replay_execution(
                    database, record, environment.engine, self._freezer, _ANOTHER_TIME, same_code=True
                )
        finally:
            database.close()
        function = cast("Any", handler)
        divergence = replay.divergence
        if divergence is not None:
            divergence = dataclasses.replace(divergence, hints=tuple(map(str, suspects(function))))
        else:
            first = self._first.get(record.execution_id, {})
            divergence = _captured(first, replay, function) or _read(reads) or _unordered(function)
        if divergence is not None:
            divergence = dataclasses.replace(divergence, same_code=True)
        return dataclasses.replace(replay, divergence=divergence)


def _captured(first: dict[str, Ask], replay: ExecutionReplay, handler: Any) -> Divergence | None:  # noqa: ANN401
    for ask in replay.asked:
        before = first.get(ask.step_id)
        if before is None:
            continue
        for name, value in before.captured.items():
            again = ask.captured.get(name)
            if again is not None and again.text != value.text and not again.is_shared_with(value):
                what = f'the function of step "{ask.step_id}" is given another {name!r} when the workflow runs again'
                hints = tuple(map(str, suspects(handler)))
                shown = f"{value.text:.200}", f"{again.text:.200}"
                return Divergence("captured", what, *shown, ask.step_id, str(ask.site), hints)
    return None


def _read(reads: list[EnvironmentRead]) -> Divergence | None:
    for read in reads:
        what = f"the handler reads the environment variable {read.name!r} between steps"
        return Divergence("environment", what, "its value is not recorded", "it is read again", None, str(read.site))
    return None


def _unordered(handler: Any) -> Divergence | None:  # noqa: ANN401 - a function
    for loop in unordered_loops(handler):
        what = f"steps are asked for in the order of {loop.code}, which is that of a set"
        return Divergence("unordered", what, "the order of this process", "any order", None, str(loop.site))
    return None
