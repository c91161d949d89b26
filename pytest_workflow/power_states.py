"""What was durable when: the commits of a recorded run, and the one that a surviving database holds."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_workflow.observation import Observation, StepKey

if TYPE_CHECKING:
    import sqlite3
    from datetime import datetime

    from pytest_workflow.power_disk import Operation

__all__ = ["Commit", "Recording", "State", "durable_state"]


@dataclass(frozen=True, slots=True)
class State:
    """What a database holds: a digest of every row, and the executions and completed steps in it."""

    digest: bytes
    executions: frozenset[str] = frozenset()
    done: frozenset[StepKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Commit:
    """An acknowledged commit.

    Attributes:
        position: How many disk operations there were when it was acknowledged.
        state: What the database held then.
        at: The virtual wall time.
        bodies: How often the body of each step had run.
    """

    position: int
    state: State
    at: datetime
    bodies: Counter[StepKey]


@dataclass(slots=True)
class Recording:
    """A run on a recorded disk; the first of its commits stands for the empty disk."""

    operations: list[Operation] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    observation: Observation = field(default_factory=Observation)

    def acknowledged(self, position: int) -> int:
        """Return the number of the last commit that was acknowledged when there were ``position`` operations."""
        return sum(commit.position <= position for commit in self.commits) - 1

    def before_next(self, number: int) -> tuple[datetime, Counter[StepKey]]:
        """Return the time, and how often each body had run, just before the commit after this one."""
        if number + 1 < len(self.commits):
            following = self.commits[number + 1]
            return following.at, Counter(following.bodies)
        return self.commits[number].at, Counter(self.observation.bodies)

    def surviving(self, state: State, position: int) -> int | None:
        """Return the number of the latest commit that a state is that of; the one in flight counts, too."""
        last = min(self.acknowledged(position) + 1, len(self.commits) - 1)
        matching = (number for number in range(last, -1, -1) if self.commits[number].state.digest == state.digest)
        return next(matching, None)


def durable_state(connection: sqlite3.Connection) -> State:
    """Read what a database holds."""
    version = connection.execute("PRAGMA user_version").fetchall()
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    rows = {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in names}  # noqa: S608 - a name from the schema
    if "executions" not in rows:
        return State(_digest((version, rows)))
    executions = connection.execute("SELECT id FROM executions").fetchall()
    done = connection.execute(
        "SELECT execution_id, step_id FROM steps WHERE status = 'completed' OR (status = 'skipped' AND attempt > 0)"
    ).fetchall()
    return State(_digest((version, rows)), frozenset(row[0] for row in executions), frozenset(done))


def _digest(content: object) -> bytes:
    return hashlib.sha256(repr(content).encode()).digest()
