"""What a worker's log tells: each execution in words for people, and an unknown workflow once in a while."""

import asyncio
import logging

import pytest

from tests.unit.conftest import FakeClock
from workflow_core.cluster.telling import Teller

pytest.importorskip("workflow_core.cluster.worker")


def test_an_unknown_workflow_is_told_of_once_and_later_with_a_count(caplog):
    clock = FakeClock()
    teller = Teller(clock)
    for execution_id in "abcab":
        teller.is_unknown(execution_id, "w")
    teller.is_unknown("x", "other")
    asyncio.run(clock.advance(599_000))
    teller.is_unknown("a", "w")
    asyncio.run(clock.advance(1_000))
    teller.is_unknown("b", "w")
    teller.is_unknown("c", "w")
    found = [record.getMessage().partition(";")[0] for record in caplog.records]
    assert found == [
        'Execution "a" waits for a worker that knows the workflow "w"',
        'Execution "x" waits for a worker that knows the workflow "other"',
        '3 executions wait for a worker that knows the workflow "w"',
    ]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
