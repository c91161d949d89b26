"""Calls of a store as an engine makes them: when, for whom, and how an execution and a step begin."""

import asyncio
from datetime import UTC, datetime

from workflow_core.database.store import Lease, NewExecution, StepRecord
from workflow_core.ownership import Owner

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
OWNER = Owner("host", 1, "0")


def begin(store, execution_id="e"):
    new = NewExecution("w", execution_id, '{"a":1}', "{}", "{}", None)
    assert asyncio.run(store.execution_started(new, OWNER, None, NOW)) is None
    return Lease("w", execution_id, 1)


def start_step(store, lease, step_id="s", seq=2):
    step = StepRecord(step_id)
    asyncio.run(store.step_started(lease, step, 1, seq, NOW, None))
    step.stored, step.status, step.attempt, step.started_seq = True, "running", 1, seq
    return step
