"""What an event is equal to, how it is shown, and how it is read from its row."""

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime

import pytest

from workflow_core import StorageError, events
from workflow_core.events import (
    EVENT_TYPES,
    UNSET,
    ExecutionPanicked,
    StepCompleted,
    StepEvent,
    StepFailed,
    StepStarted,
    event_from_row,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PLACE = {"seq": 4, "at": NOON, "execution_id": "e", "workflow_name": "w"}


def test_a_field_that_nobody_named_is_shown_and_is_false():
    assert repr(UNSET) == "UNSET"
    assert not UNSET
    assert type(UNSET)() is UNSET


def test_every_event_is_known_by_its_name():
    named = {name: getattr(events, name) for name in events.__all__ if name in EVENT_TYPES}
    assert {"ExecutionStarted", "StepFailed", "SleepCompleted", "CircuitOpened"} <= named.keys()
    assert all(EVENT_TYPES[name] is cls and cls.__name__ == name for name, cls in named.items())


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (StepStarted("charge", 2), "StepStarted(step_id='charge', attempt=2)"),
        (StepFailed(error="OSError"), "StepFailed(error='OSError')"),
        (StepCompleted("charge", 1, None).stamped(**PLACE), "StepCompleted(step_id='charge', attempt=1)"),
        (StepStarted(), "StepStarted()"),
    ],
)
def test_an_event_shows_what_is_particular_to_it(event, shown):
    assert repr(event) == shown


def test_fields_that_one_side_does_not_name_are_equal_to_anything():
    told = StepFailed("charge", 1, "OSError", "gone").stamped(**PLACE)
    assert told == StepFailed("charge") == told
    assert told == StepFailed(attempt=1, message="gone", seq=4)
    assert told != StepFailed("charge", 2)
    assert StepFailed(message="else") != told
    assert told != StepFailed(execution_id="f")


def test_events_of_two_types_are_never_equal():
    assert StepStarted("charge", 1) != StepFailed("charge", 1)
    assert StepStarted("charge") != StepEvent("charge")
    assert StepStarted("charge") != "StepStarted"


def test_an_event_is_neither_changed_nor_hashed():
    with pytest.raises(FrozenInstanceError):
        StepStarted("charge", 1).attempt = 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(StepStarted("charge", 1))


def test_a_place_is_given_to_a_copy():
    event = StepStarted("charge", 1)
    told = event.stamped(**PLACE)
    assert {name: getattr(told, name) for name in PLACE} == PLACE
    assert (told.step_id, told.attempt) == ("charge", 1)
    assert event.seq is UNSET


def test_names_of_fields_begin_with_the_place():
    assert StepStarted.field_names() == ("at", "seq", "execution_id", "workflow_name", "step_id", "attempt")
    assert StepStarted.own_field_names() == ("step_id", "attempt")


def test_a_row_gives_each_field_and_none_for_what_it_does_not_hold():
    data = {"indicator": "MemoryError", "error": "MemoryError", "of a later version": 1}
    event = event_from_row("ExecutionPanicked", **PLACE, step_id="charge", attempt=3, data=data)
    assert type(event) is ExecutionPanicked
    assert vars(event) == {
        **PLACE,
        "step_id": "charge",
        "indicator": "MemoryError",
        "error": "MemoryError",
        "message": None,
        "restart_delay_ms": None,
    }
    assert event_from_row("StepStarted", **PLACE, step_id="charge", attempt=3, data={}).attempt == 3


def test_a_row_of_an_unknown_type_says_where_it_stands():
    with pytest.raises(StorageError) as caught:
        event_from_row("StepTeleported", **PLACE, step_id="charge", attempt=1, data={})
    assert str(caught.value) == (
        "The history of execution \"e\" holds an event of the unknown type 'StepTeleported', at position 4: another "
        "program wrote it, or it is damaged"
    )
