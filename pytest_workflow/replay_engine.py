"""Replaying one recorded execution against today's code.

The engine itself runs: on a copy of the database in memory, where the execution was put back to running with all its
steps kept. So it answers every completed step from the record, as it does after a crash. What the record cannot answer
is not run: it waits, until nothing else can happen.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import heapq
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_workflow.at_once import outside_loops
from pytest_workflow.clock import VirtualClock
from pytest_workflow.divergence import Divergence, ExecutionReplay
from pytest_workflow.observed import ObservedDefinitions, OwnHandlers, unobserved
from pytest_workflow.processes import SimulatedProcesses
from pytest_workflow.recorded_history import RecordedExecution, read_executions
from pytest_workflow.replay_differences import Differences
from pytest_workflow.replay_ending import has_own_ending
from pytest_workflow.stored_types import stored_type_problem
from pytest_workflow.timeline import RecordedPlace, Timeline
from workflow_core.current import activated
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.database.store import StepRecord
from workflow_core.engine import WorkflowEngine
from workflow_core.hookspecs import hookimpl
from workflow_core.models import PanicConfig

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable

    from pytest_workflow.freezer import Freezer
    from pytest_workflow.observed import Ask
    from workflow_core.execution import Execution
    from workflow_core.hookspecs import Attempt, AttemptHandler

__all__ = ["replay_execution"]

_END_OF_TIME_SECONDS = 1e9
"""Some thirty years: what has not happened in virtual time by then is waited for in vain."""


def replay_execution(
    database: sqlite3.Connection,
    execution: RecordedExecution,
    today: WorkflowEngine,
    freezer: Freezer,
    shift: timedelta = timedelta(0),
    *,
    same_code: bool = False,
) -> ExecutionReplay:
    """Replay one execution.

    Args:
        database: A copy, in memory, of the database that holds it; it is changed.
        execution: The record.
        today: The engine whose workflows are today's code.
        freezer: Shows virtual time to the user's code.
        shift: How much later than the record the replay happens.
        same_code: Whether today's code made the record: then what was stored need not fit the declared types better
            than the engine asks for.
    """
    definition = unobserved(today, execution.workflow_name)
    outcome = ExecutionReplay(execution.execution_id, execution.workflow_name, execution.status)
    if definition is None:
        known = ", ".join(today.workflow_names()) or "none"
        what = f'today\'s code defines no workflow "{execution.workflow_name}"'
        return dataclasses.replace(outcome, divergence=Divergence("undefined", what, execution.title, known))
    problem = stored_type_problem(today.codec, execution.input, definition.input_type, only_read=same_code)
    if problem is not None:
        what = "the input does not fit its declared type any more"
        return dataclasses.replace(outcome, divergence=Divergence("input", what, *problem))
    _put_back(database, execution)

    def replayed() -> ExecutionReplay:
        replay = _Replay(database, execution, today, shift, same_code=same_code)
        with freezer.led_by(replay.clock):
            return replay.run()

    return outside_loops(replayed)


def _put_back(database: sqlite3.Connection, execution: RecordedExecution) -> None:
    database.execute(
        "UPDATE executions SET status = 'running', completed_at = NULL, completed_seq = NULL, output_data = NULL,"
        " error_data = NULL, error_message = NULL, restart_at = NULL, deadline_at = NULL, owner_id = NULL,"
        " panic_config = ?, revision = revision + 1 WHERE id = ?",
        (PanicConfig(enable_auto_restart=False).model_dump_json(), execution.execution_id),
    )


class _RefusesToRun:
    """Lets no step's function run, whoever asks for it; and judges errors as the engine of the test does."""

    def __init__(self, today: WorkflowEngine) -> None:
        self._today = today

    def __dir__(self) -> list[str]:
        return ["wrap_attempt", "panic_indicators"]  # each name costs pluggy a look at every registration

    @hookimpl
    def wrap_attempt(self, attempt: Attempt) -> Callable[[AttemptHandler], AttemptHandler]:
        """Wait for ever in place of the step's function."""
        del attempt
        return lambda call: functools.partial(_for_ever, call)

    @hookimpl
    def panic_indicators(self) -> Iterable[str]:
        """Return those of the test's plugins."""
        return self._today.extensions.indicators


async def _for_ever(*_: object) -> NoReturn:
    await asyncio.Future()
    raise AssertionError("this future has no result")


class _Replay:
    """One replay: an observer of what is asked for, which holds each answer back until its time."""

    def __init__(
        self,
        database: sqlite3.Connection,
        execution: RecordedExecution,
        today: WorkflowEngine,
        shift: timedelta,
        *,
        same_code: bool,
    ) -> None:
        self._database = database
        self._record = execution
        self._shift = shift
        self._timeline = Timeline(execution)
        self.clock = VirtualClock(self._timeline.started_at + shift)
        plugins = [_RefusesToRun(today)]
        settings = today.settings.model_copy(update={"sync_handlers": "inline", "lease_ms": None})
        self._engine = WorkflowEngine(
            SQLiteStore(connection=database), self.clock, plugins, settings, SimulatedProcesses()
        )
        self._engine.codec = today.codec
        self._engine.configurations.succeed(today.configurations)
        self._engine.definitions = ObservedDefinitions(OwnHandlers(today), [self])
        self._differences = Differences(execution, self._timeline, today.codec, same_code=same_code)
        self._ids: set[str] = set()
        self._blocked: list[Ask] = []
        self._waiting: list[tuple[int, str, RecordedPlace, asyncio.Future[None]]] = []

    # Observing -------------------------------------------------------------------------------------------------------

    async def asked(self, execution: Execution, ask: Ask) -> None:
        """Compare what is asked for with the record, and wait for the moment of its answer."""
        if execution.execution_id != self._record.execution_id:
            return
        repeated = ask.step_id in self._ids
        self._ids.add(ask.step_id)
        self._differences.asked.append(ask)
        place = self._timeline.places.get(ask.step_id)
        if place is None:
            if not repeated:
                await self._ask_unknown(execution, ask)
            return
        self._timeline.ask(ask.step_id, nests=ask.nests)
        if not repeated:
            self._differences.check_order(ask, place)
        if self._differences.are_between(ask, place):
            _settle(self._over)
            await _for_ever()
        execution.begin_activity(ask.step_id)  # which refuses the same step in two tasks at the same time
        try:
            if not place.is_answered:
                self._blocked.append(ask)
                await _for_ever()
            await self._turn(place)
        finally:
            execution.end_activity(ask.step_id)

    async def returned(self, execution: Execution) -> None:
        """Nothing to do: the end is read from the database."""

    async def _ask_unknown(self, execution: Execution, ask: Ask) -> None:
        expected = next(iter(self._timeline.unasked()), None)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._differences.suspect(ask, expected, answer)
        self._blocked.append(ask)
        await answer
        self._blocked.remove(ask)
        stands_in = StepRecord(ask.step_id, kind=ask.kind, status="completed", attempt=1)
        if expected is not None and expected.is_answered and expected.record.kind == ask.kind:
            stands_in = dataclasses.replace(execution.steps[expected.step_id], step_id=ask.step_id)
        execution.steps[ask.step_id] = stands_in

    # Answering in time -----------------------------------------------------------------------------------------------

    async def _turn(self, place: RecordedPlace) -> None:
        """Wait until the moment at which the record answers a step."""
        loop = asyncio.get_running_loop()
        due = place.ended_at + self._shift
        if self.clock.now() < due:
            reached = loop.create_future()
            self.clock.call_at(due, functools.partial(_settle, reached))
            await reached
        turn = loop.create_future()
        heapq.heappush(self._waiting, (place.ended, place.step_id, place, turn))
        self._let_go()
        self._some_wait.set()
        await turn
        self._timeline.answer(place.step_id)
        self._let_go()

    def _let_go(self) -> None:
        while self._waiting and self._timeline.is_due(self._waiting[0][2]):
            self._let_next_go()

    def _let_next_go(self) -> None:
        _settle(heapq.heappop(self._waiting)[3])

    async def _keep_going(self) -> None:
        """Answer the next step when nothing else is runnable: then what it waits for does not happen today."""
        attachment = self.clock.attach(asyncio.get_running_loop())
        while True:
            await self._some_wait.wait()
            await attachment.idle()
            if self._waiting:
                self._let_next_go()
            else:
                self._some_wait.clear()

    async def _at_the_end_of_time(self) -> None:
        """When nothing can happen any more, let an unknown step pass that stands before a recorded one, else end."""
        while True:
            await asyncio.sleep(_END_OF_TIME_SECONDS)
            held = self._differences.held()
            if held is None:
                _settle(self._over)
                return
            _settle(held)

    # The whole -------------------------------------------------------------------------------------------------------

    def run(self) -> ExecutionReplay:
        """Replay, and tell the first difference."""
        error: BaseException | None = None
        ended = False
        try:
            with activated(self._engine):
                ended, error = self.clock.run(self._run())
        finally:
            self._engine.abandon()
            self.clock.detach()
        (after,) = read_executions(self._database, execution_id=self._record.execution_id)
        divergence = self._differences.first(after, error, ended=ended)
        following: tuple[str, ...] = ()
        if divergence is None and not has_own_ending(self._record):
            following = tuple(f"{ask} at {ask.site}" for ask in self._blocked)
            if ended:
                following = (f"the execution ends: {after.status}",)
        return ExecutionReplay(
            self._record.execution_id,
            self._record.workflow_name,
            self._record.status,
            divergence,
            tuple(self._differences.asked),
            following,
        )

    async def _run(self) -> tuple[bool, BaseException | None]:
        loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = loop.create_future()
        self._some_wait = asyncio.Event()
        helpers = [loop.create_task(self._keep_going()), loop.create_task(self._at_the_end_of_time())]
        running = loop.create_task(self._engine.resume(self._record.execution_id))
        both: set[asyncio.Future[Any]] = {running, self._over}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in (*helpers, running):
            task.cancel()
        for helper in helpers:
            if helper.done() and not helper.cancelled():
                helper.result()
        if running.done() and not running.cancelled():
            return True, running.exception()
        return False, None


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
