"""What is seen of one run of a scenario: where the process died, what the database holds, which bodies ran."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

from pytest_workflow.hooks import Hooks
from pytest_workflow.matching import literal
from pytest_workflow.plan import Crash, FaultRule, When, Where
from workflow_core.clock import to_epoch_ms
from workflow_core.database.store import DURABLE_POINTS
from workflow_core.errors import ValidationError
from workflow_core.hookspecs import Attempt, AttemptHandler, DurablePoint, hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from pytest_workflow.database import Row, WorkflowDatabase
    from workflow_core.clock import Clock, TimerHandle

__all__ = [
    "Death",
    "Observation",
    "Place",
    "StepKey",
    "StepState",
    "WaitingClock",
    "Witness",
    "observe",
    "step_states",
]

_T = TypeVar("_T")

_MOST_DIGITS = 18  # of the number of a place; an int of thousands of digits is refused by Python

StepKey: TypeAlias = tuple[str, str]
"""Execution id and step id."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process can die.

    Attributes:
        point: The durable point.
        step_id: The step it belongs to, if any.
        nth: Which time the point is passed for that step in the whole scenario, counted from 1.
        when: Before its transaction, or after its commit.
    """

    point: str
    step_id: str | None
    nth: int
    when: When

    def __str__(self) -> str:
        step = "" if self.step_id is None else f":{self.step_id}"
        return f"{self.point}{step}#{self.nth}:{self.when}"

    def in_words(self) -> str:
        """Return the place as a phrase."""
        step = "" if self.step_id is None else f' of "{self.step_id}"'
        time = "" if self.nth == 1 else f" (number {self.nth})"
        return f"{'before' if self.when == 'before' else 'just after'} {self.point}{step}{time} was committed"

    def is_passed(self, passed: Sequence[tuple[str, str | None, int]]) -> bool:
        """Tell whether the place is one of the durable points that a scenario passed."""
        return (self.point, self.step_id, self.nth) in passed

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read what ``str(place)`` wrote.

        Raises:
            ValidationError: It names no place.
        """
        rest, _, when = text.strip().rpartition(":")
        rest, _, nth = rest.rpartition("#")
        point, colon, step_id = rest.partition(":")
        if (
            point not in DURABLE_POINTS
            or when not in {"before", "after"}
            or (colon and not step_id)
            or not (nth.isdecimal() and len(nth) <= _MOST_DIGITS and int(nth) >= 1)
        ):
            raise ValidationError(
                f'"{text}" is no place to die: write POINT:STEP#N:before or POINT:STEP#N:after, such as '
                f"step_completed:charge#1:after; the points are {', '.join(DURABLE_POINTS)}"
            )
        return cls(point, step_id if colon else None, int(nth), "before" if when == "before" else "after")

    def rule(self) -> FaultRule:
        """Return the fault that lets the process die here."""
        step = None if self.step_id is None else literal(self.step_id)
        return FaultRule(where=Where(step=step, point=self.point, nth=self.nth), what=Crash(when=self.when))


@dataclass(frozen=True, slots=True)
class StepState:
    """A step's row at the moment of a death."""

    execution_id: str
    step_id: str
    kind: str
    status: str
    attempt: int
    result_data: str | None
    wake_time: int | None
    started_seq: int | None

    @property
    def is_done(self) -> bool:
        """Whether the step has its result; one that was skipped without an attempt may run after a restart."""
        return self.status == "completed" or (self.status == "skipped" and self.attempt > 0)

    @property
    def is_cut_off(self) -> bool:
        """Whether the death cuts an attempt off that was begun and has not ended."""
        return self.kind == "step" and self.status == "running" and self.started_seq is not None


@dataclass(frozen=True, slots=True)
class Death:
    """One death of the process.

    Attributes:
        passed: How many durable points the scenario had passed.
        steps: The committed steps.
        bodies: How often the body of each step had run.
    """

    passed: int
    steps: Mapping[StepKey, StepState]
    bodies: Mapping[StepKey, int]


@dataclass(slots=True)
class Observation:
    """What is left of one run.

    Attributes:
        places: Where the process was to die.
        passed: The durable points that were passed: name, step and number.
        deaths: Where it died.
        bodies: How often the body of each step ran.
        executions: Rows of ``executions`` by id.
        steps: Rows of ``steps``.
        events: Rows of ``step_events``, by execution.
        circuits: Rows of ``circuit_breaker_state``.
        errors: Rows of ``step_errors``.
        waits: Moments for which the engine waited, in milliseconds since 1970.
        returned: Steps whose body has returned, and that have come to no durable point since.
        damage: What SQLite finds wrong with the database.
        error: What the scenario raised, as text; ``None`` if it passed.
        elapsed_ms: Virtual time that the scenario took, in milliseconds.
        derived: What `once` has derived of it.
    """

    places: tuple[Place, ...] = ()
    passed: list[tuple[str, str | None, int]] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    bodies: Counter[StepKey] = field(default_factory=Counter)
    executions: dict[str, Row] = field(default_factory=dict)
    steps: dict[StepKey, Row] = field(default_factory=dict)
    events: dict[str, list[Row]] = field(default_factory=dict)
    circuits: list[Row] = field(default_factory=list)
    errors: list[Row] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)
    returned: set[StepKey] = field(default_factory=set)
    damage: list[str] = field(default_factory=list)
    error: str | None = None
    elapsed_ms: float = 0.0
    derived: dict[Callable[[Observation], object], object] = field(default_factory=dict, repr=False, compare=False)

    def note_death(self, steps: Mapping[StepKey, StepState]) -> None:
        """Note that the process dies now, and which steps are committed."""
        self.deaths.append(Death(len(self.passed), steps, dict(self.bodies)))

    def once(self, derive: Callable[[Observation], _T]) -> _T:
        """Return what is derived of a run, once for each time it is observed: many are compared with the same one."""
        if derive not in self.derived:
            self.derived[derive] = derive(self)
        return cast("_T", self.derived[derive])

    def places_from(self, position: int) -> list[Place]:
        """Return the places before and after each durable point from a position on."""
        return [
            Place(point, step_id, nth, when)
            for point, step_id, nth in self.passed[position:]
            for when in ("before", "after")
        ]


class Witness:
    """Sees, outside the database, which durable points a scenario passes and how often the body of each step runs.

    Args:
        observation: Where it writes that down.
    """

    def __init__(self, observation: Observation) -> None:
        self._passed = observation.passed
        self._bodies = observation.bodies
        self._returned = observation.returned
        self._counts: Counter[tuple[str, str | None]] = Counter()

    def hooks(self) -> Hooks:
        """Return what an engine needs to be seen."""
        return Hooks(self.before_durable_point, self.wrap_attempt)

    @hookimpl
    def before_durable_point(self, point: DurablePoint) -> None:
        """Note a point."""
        key = (point.name, point.step_id)
        self._counts[key] += 1
        self._passed.append((*key, self._counts[key]))
        if point.step_id is not None:
            self._returned.discard((point.execution_id, point.step_id))

    @hookimpl
    def wrap_attempt(self, attempt: Attempt) -> Callable[[AttemptHandler], AttemptHandler]:
        """Count the body when it is called; an attempt that a fault answers does not reach it."""
        key = (attempt.execution_id, attempt.step_id)

        def wrap(call: AttemptHandler) -> AttemptHandler:
            async def counted() -> object:
                self._bodies[key] += 1
                value = await call()
                self._returned.add(key)
                return value

            return counted

        return wrap


class WaitingClock:
    """A clock that notes for which moments an engine waits, and is another clock in everything else.

    Args:
        clock: The clock.
        waits: Where the moments are put, in milliseconds since 1970.
    """

    def __init__(self, clock: Clock, waits: list[int]) -> None:
        self._clock = clock
        self._waits = waits
        self.now, self.monotonic = clock.now, clock.monotonic
        self.sleep, self.call_later = clock.sleep, clock.call_later

    def call_at(self, when: datetime, callback: Callable[[], object]) -> TimerHandle:
        """As the clock's own."""
        self._waits.append(to_epoch_ms(when))
        return self._clock.call_at(when, callback)

    def __getattr__(self, name: str) -> object:
        return getattr(self._clock, name)


def step_states(database: WorkflowDatabase) -> dict[StepKey, StepState]:
    """Read the committed steps."""
    rows = database.connection.execute(
        "SELECT execution_id, step_id, kind, status, attempt, result_data, wake_time, started_seq FROM steps"
    )
    return {(row[0], row[1]): StepState(*row) for row in rows.fetchall()}


def observe(observation: Observation, database: WorkflowDatabase, damage: list[str]) -> None:
    """Read the database into an observation.

    Args:
        observation: The observation.
        database: The database.
        damage: What is damaged in it.
    """
    observation.derived.clear()  # of a run that goes on, as in a state machine, it was derived too early
    observation.executions = {row["id"]: row for row in database.executions()}
    observation.steps = {(row["execution_id"], row["step_id"]): row for row in database.query("SELECT * FROM steps")}
    observation.events = {execution_id: [] for execution_id in observation.executions}
    for row in database.query("SELECT * FROM step_events ORDER BY execution_id, seq"):
        observation.events.setdefault(row["execution_id"], []).append(row)
    observation.errors = database.query("SELECT * FROM step_errors ORDER BY id")
    observation.circuits = database.circuit_breakers()
    observation.damage = damage
