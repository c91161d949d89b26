"""Dropping everything that an engine holds in memory, after every step of an ordinary test.

A workflow that keeps something in memory from one step to the next, such as an open connection or a list that a step
fills, works until the process ends between the two. Here it ends after each completed step: the engine dies, and a new
one goes on from the database. The test itself notices nothing else.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pytest_workflow.processes import SimulatedCrash
from workflow_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_workflow.environment import Environment
    from pytest_workflow.observed import Ask
    from workflow_core.engine import WorkflowEngine
    from workflow_core.execution import Execution
    from workflow_core.hookspecs import DurablePoint

__all__ = ["MemoryDrops"]


class MemoryDrops:
    """Lets the engine die after each step, while it is armed.

    It dies at the next moment at which a handler runs and nothing else does: a step that runs at the same time would
    be cut off, and the test would see another attempt.

    Args:
        environment: The running test's engine and database.

    Attributes:
        dropped: The execution and the step after which the engine died, in this order.
    """

    def __init__(self, environment: Environment) -> None:
        self.dropped: list[tuple[str, str]] = []
        self._environment = environment
        self._armed = False
        self._due: dict[str, str] = {}
        self._recovering: set[str] = set()
        self._gaps: set[str] = set()
        self._last: dict[str, str] = {}
        self._asked: dict[str, tuple[Execution, set[str]]] = {}

    def __dir__(self) -> list[str]:
        return ["after_durable_point"]  # each name costs pluggy a look at every registration

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Let the engine die in the ``with`` block."""
        self._armed = True
        try:
            yield
        finally:
            self._armed = False
            self._due.clear()

    @hookimpl
    def after_durable_point(self, point: DurablePoint) -> None:
        """Note a completed step, and take from the history that a new engine went on."""
        if point.name == "step_completed" and point.step_id is not None and self._armed:
            self._due[point.execution_id] = point.step_id
        elif point.name == "execution_recovered" and point.execution_id in self._recovering:
            self._recovering.discard(point.execution_id)
            self._gaps.add(point.execution_id)
            self._environment.database.connection.execute(
                "DELETE FROM event_log WHERE execution_id = ? AND type = 'ExecutionRecovered'"
                " AND seq = (SELECT max(seq) FROM event_log WHERE execution_id = ?)",
                (point.execution_id, point.execution_id),
            )

    async def asked(self, execution: Execution, ask: Ask) -> None:
        """Let the engine die before a step that follows a completed one."""
        self._close_gap(execution)
        run, asked = self._asked.get(execution.execution_id, (None, set[str]()))
        if run is not execution:
            asked = set()
            self._asked[execution.execution_id] = execution, asked
        asked.add(ask.step_id)
        self._die_if_due(execution)

    async def returned(self, execution: Execution) -> None:
        """Let the engine die before the output is recorded."""
        self._close_gap(execution)
        self._die_if_due(execution)

    def _close_gap(self, execution: Execution) -> None:
        """Give back the place in the history that the new engine's taking over has used."""
        if execution.execution_id in self._gaps:
            self._gaps.discard(execution.execution_id)
            execution.release_seq(execution.last_seq)

    def _die_if_due(self, execution: Execution) -> None:
        execution_id, engine = execution.execution_id, self._environment.engine
        step_id = self._due.get(execution_id)
        if step_id is None or execution.engine is not engine:
            return
        if any(other._active for other in engine.running()):
            return
        last = self._last.get(execution_id)
        if last is not None and last not in self._asked[execution_id][1]:
            return  # the workflow does not do the same again: it would never come to its end this way
        del self._due[execution_id]
        self._last[execution_id] = step_id
        self.dropped.append((execution_id, step_id))
        self._recovering |= {other.execution_id for other in engine.running()}
        plugins = list(engine.extensions)
        try:
            self._environment.die()
        except SimulatedCrash:
            _hand_over(plugins, self._environment.engine)
            raise


def _hand_over(plugins: Iterable[object], new: WorkflowEngine) -> None:
    """Register with the new engine what the test has registered with the old one."""
    for plugin in plugins:
        ours = type(plugin).__module__.partition(".")[0] == "pytest_workflow"
        if not ours and plugin not in new.extensions:
            new.register(plugin)
