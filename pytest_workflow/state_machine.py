"""Stateful tests of a workflow: executions to which anything can happen, and what must hold all the same."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, ClassVar

from pytest_workflow.strategies import FreshWorkflow, fresh_workflow, inputs  # first: it explains a missing Hypothesis

from hypothesis import strategies as st  # isort: skip
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule  # isort: skip

from pytest_workflow.invariants import DEFAULT_INVARIANTS, Comparison
from pytest_workflow.observation import Observation, Place, observe, step_states
from pytest_workflow.plan import StorageFailure
from workflow_core.database.store import DURABLE_POINTS
from workflow_core.errors import InvalidStateError

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from pytest_workflow.clock import VirtualClock
    from pytest_workflow.faults import WorkflowFaults
    from pytest_workflow.observation import StepKey
    from pytest_workflow.plan import When
    from workflow_core.models import ExecutionResult

__all__ = ["WorkflowStateMachine"]

_WHOLE = "the history is whole"
_WITHOUT_BASELINE = frozenset(
    {
        "a completed step never runs again",
        "a result never changes",
        "attempts are counted",
        "sleeps are kept",
        "attempts go up by one",
        "every result is recorded",
        "errors are kept",
        _WHOLE,
        "the database is sound",
    }
)
"""The invariants of crash exploration that say something without a run that nothing happened to."""

_ENDED = frozenset({"completed", "failed", "cancelled", "panicked"})  # panicked: no automatic restart is left
_UNFINISHED = ("running", "sleeping", "restarting")
_LONGEST_ADVANCE_MS = 86_400_000


class WorkflowStateMachine(RuleBasedStateMachine):
    """Executions of a workflow, to which anything can happen at any time.

    Subclass it, set `workflow`, add rules and invariants of your own, and collect its ``TestCase``. After each rule it
    checks what must hold at any time; at the end it lets all executions go on to their end, and checks that they come
    to one.

    Attributes:
        workflow: The workflow's name.
        inputs: Strategy of its inputs. Without it they are made from the declared type, or are ``None``.
        most_executions: How many executions a test starts at most.
        harness: What the fixture ``workflow`` is.
        observation: What was seen: which durable points were passed, where the process died, which bodies ran.
    """

    workflow: ClassVar[str] = ""
    inputs: ClassVar[SearchStrategy[object] | None] = None
    most_executions: ClassVar[int] = 3

    def __init__(self) -> None:
        super().__init__()
        if not self.workflow:
            raise TypeError(f'{type(self).__name__} names no workflow: set workflow = "..." in the class')
        self.observation = Observation()
        self._done: dict[StepKey, tuple[str | None, int]] = {}
        self._checked = (0, 0)
        self._refused = False
        self._executions: list[str] = []
        self._stack = contextlib.ExitStack()
        self.harness: FreshWorkflow = self._stack.enter_context(fresh_workflow(observation=self.observation))

    @property
    def clock(self) -> VirtualClock:
        """Virtual time."""
        return self.harness.clock

    @property
    def faults(self) -> WorkflowFaults:
        """Faults; make those of a rule of your own with ``strict=False``."""
        return self.harness.faults

    def executions(self, *statuses: str) -> list[str]:
        """Return the ids of the executions with one of these statuses; of all without any."""
        found = {row["id"]: row["status"] for row in self.harness.db.executions()}
        return [each for each in self._executions if not statuses or found.get(each) in statuses]

    def check_result(self, result: ExecutionResult) -> None:
        """Check the final result of an execution; override it to say what a result of the workflow must be."""

    # What happens ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self._executions) < self.most_executions)
    @rule(given=st.runner().flatmap(lambda machine: machine._input_strategy()))
    def start(self, given: object) -> None:
        """Start an execution, which goes on when time is advanced."""
        execution_id = f"e-{len(self._executions) + 1}"
        self._executions.append(execution_id)
        self.harness.run(self.workflow, execution_id, given, detach=True)

    @precondition(lambda self: self._executions)
    @rule(ms=st.integers(0, _LONGEST_ADVANCE_MS))
    def advance(self, ms: int) -> None:
        """Let virtual time pass."""
        self.clock.advance(ms)

    @rule(point=st.sampled_from(DURABLE_POINTS), when=st.sampled_from(["before", "after"]))
    def crash(self, point: str, when: When) -> None:
        """Let the process die when it next comes to a durable point."""
        self.faults.add(Place(point, None, 1, when).rule().model_copy(update={"strict": False}))

    @precondition(lambda self: self._executions)
    @rule()
    def reopen(self) -> None:
        """Let the process die now, and open the database in a new one."""
        self.observation.note_death(step_states(self.harness.db))
        self.harness.reopen()

    @precondition(lambda self: self.executions("failed", "panicked"))
    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        """Run an execution that failed or panicked again, to its end."""
        chosen = data.draw(st.sampled_from(self.executions("failed", "panicked")), label="execution")
        self.harness.restart(chosen)

    @precondition(lambda self: self.executions(*_UNFINISHED))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Cancel an execution that has not ended."""
        chosen = data.draw(st.sampled_from(self.executions(*_UNFINISHED)), label="execution")
        with contextlib.suppress(InvalidStateError):  # a crash in it may let the execution end first
            self.harness.cancel(chosen)

    # What must hold --------------------------------------------------------------------------------------------------

    @invariant()
    def what_is_durable_stays(self) -> None:
        """A completed step keeps its result and never runs again, and histories are whole, whatever happened."""
        seen = self.observation
        if self._checked == (len(seen.passed), len(seen.deaths)):
            return  # nothing durable happened
        self._checked = (len(seen.passed), len(seen.deaths))
        observe(seen, self.harness.db, self.harness.damage())
        broken = [
            f"{each.name}: {found}"
            for each in DEFAULT_INVARIANTS
            if each.name in _WITHOUT_BASELINE and not (each.name == _WHOLE and self._was_refused())
            for found in each.check(Comparison(seen, seen))
        ]
        steps = step_states(self.harness.db)
        for key, (result, ran) in self._done.items():
            state = steps.get(key)
            if state is None or not state.is_done or state.result_data != result:
                broken.append(f'a result never changes: step "{key[1]}" of "{key[0]}" had {result}')
            elif seen.bodies[key] > ran:
                broken.append(f'a completed step never runs again: step "{key[1]}" of "{key[0]}" did')
        self._done = {key: (state.result_data, seen.bodies[key]) for key, state in steps.items() if state.is_done}
        assert not broken, "\n".join(broken)  # noqa: S101 - what a test is for

    def teardown(self) -> None:
        """Let all executions go on to their end, and check that they come to one."""
        with self._stack:
            if sys.exception() is not None:  # a rule failed already: that is what the test is to show
                return
            refused = self._was_refused()
            self.faults.rules.clear()
            if refused:
                self.reopen()  # a database that refuses leaves executions interrupted, for the next process to take up
            for execution_id in self._executions:
                self._end(execution_id)
            self.what_is_durable_stays()

    def _end(self, execution_id: str) -> None:
        try:
            result = self.harness.wait(execution_id)
        except InvalidStateError as error:
            raise AssertionError(f"nothing is stuck: {error}") from None
        assert result.status in _ENDED, f'nothing is stuck: execution "{execution_id}" is {result.status} for ever'  # noqa: S101
        self.check_result(result)

    def _was_refused(self) -> bool:
        """Tell whether a database refused a durable point, which leaves a gap in the numbers of a history."""
        self._refused |= any(armed.fired and isinstance(armed.rule.what, StorageFailure) for armed in self.faults.rules)
        return self._refused

    def _input_strategy(self) -> SearchStrategy[object]:
        if self.inputs is not None:
            return self.inputs
        declared = self.harness.engine.definition(self.workflow).input_type
        return inputs(self.workflow) if declared is not None and declared.declared is not None else st.none()
