"""Errors come back from their records as they were, or as near to it as what can be stored allows."""

import asyncio
import datetime as dt
import json

import pydantic
import pytest

from tests.unit.conftest import every_store_kind
from workflow_core import NonRetryableError, RecordedError, WorkflowCoreError, WorkflowError
from workflow_core.failures import classes_of, rebuild_error, record_error, type_names
from workflow_core.serialization import Codec

store_kind = every_store_kind


class Declined(Exception):
    """An error whose own arguments are not those that it passes on."""

    def __init__(self, code, *, response=None):
        super().__init__(f"declined with {code}")
        self.code = code
        self.response = response


class Unreadable(OSError):
    def __init__(self, path):
        super().__init__(13, "Permission denied", path)
        self.tries = 3


class Base(LookupError):
    pass


class Missing(Base):
    pass


def there_and_back(error, known=()):
    record = record_error(error, 1, 0, Codec())
    back = rebuild_error(record, "s", known, Codec())
    assert str(back) == record.error_message
    return back


def raised_by(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return error


def with_note(error):
    error.add_note("see the manual")
    return error


def content(error):
    fields = ("args", "errno", "strerror", "filename", "filename2", "object", "start", "end", "reason", "name", "path")
    return type(error), str(error), vars(error), {name: getattr(error, name, None) for name in fields}


@pytest.mark.parametrize(
    "error",
    [
        Declined(402),
        Unreadable("/etc/shadow"),
        FileNotFoundError(2, "No such file", "/etc/x"),
        OSError(18, "Cross-device link", b"a", None, "b"),
        ConnectionError("reset"),
        raised_by(b"\xff".decode),
        raised_by("é".encode, "ascii"),
        raised_by(json.loads, "{"),
        raised_by(__import__, "no_such_module_at_all"),
        KeyError(("a", 1), dt.date(2026, 1, 1)),
        with_note(NonRetryableError("no")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_back_with_its_fields(error):
    assert content(there_and_back(error)) == content(error)


def test_an_attribute_that_cannot_be_stored_is_missing_and_the_others_are_there():
    back = there_and_back(Declined(402, response=object()))
    assert (type(back), back.code, hasattr(back, "response")) == (Declined, 402, False)


def test_an_argument_that_cannot_be_stored_is_replaced_by_its_text():
    thing = object()
    back = there_and_back(ConnectionError(thing))
    assert (type(back), back.args) == (ConnectionError, (str(thing),))


def test_errors_inside_an_error_come_back():
    group = there_and_back(ExceptionGroup("both", [Declined(402), Base("x", object())]))
    assert [type(error) for error in group.exceptions] == [Declined, Base]
    assert group.exceptions[0].code == 402
    failure = there_and_back(WorkflowError("step failed", "s", 2, Declined(402)))
    assert (failure.step_id, failure.attempt, failure.original_error.code) == ("s", 2, 402)


def test_an_error_that_holds_itself_is_described_so_far():
    error = Declined(402)
    error.response = error
    assert there_and_back(error).response.response.code == 402


def test_an_error_that_cannot_be_built_answers_to_the_classes_that_it_had():
    class Local(Missing):
        pass

    back = there_and_back(Local(object()))
    assert type(back) is RecordedError
    assert type_names(back) == type_names(Local())
    known = [LookupError, WorkflowCoreError, Base]
    assert [cls for cls, _ in classes_of(back, known) if cls is not None] == [Base, LookupError]
    assert type_names(there_and_back(back)) == type_names(Local())
    assert type(there_and_back(Local("x"), [Local])) is Local


class ArgumentsFail(Exception):
    args = property(lambda self: 1 / 0)


class AttributesFail(Exception):
    @property
    def __dict__(self):
        raise ZeroDivisionError


class ZoneFails(dt.tzinfo):
    def utcoffset(self, moment):
        raise ZeroDivisionError


class Elusive:
    """Fails when it is asked what it is, as proxies of what is not there do."""

    @property
    def __class__(self):
        raise ZeroDivisionError

    def __str__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "error",
    [
        SyntaxError("m", ("f", 1, 1, 5)),
        ArgumentsFail("m"),
        AttributesFail("m"),
        ValueError(dt.datetime(2026, 1, 1, tzinfo=ZoneFails())),
        ValueError(Elusive()),
        Declined(1, response=Elusive()),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_resists_its_description_is_recorded_all_the_same(error):
    record = record_error(error, 1, 0, Codec())
    assert record.error_type == type(error).__name__
    assert record.error_type in record.error_stack
    assert type(rebuild_error(record, "s", [], Codec())) is type(error)


@pytest.mark.parametrize(
    ("error", "keys", "chosen"),
    [
        (Declined(402, response=object()), [Declined, "default"], Declined),
        (ConnectionError(object()), [OSError], OSError),
        (Missing(object()), ["LookupError", Exception], "LookupError"),
        (Missing(object()), ["Exception", LookupError], LookupError),
        (Declined(402, response=object()), [WorkflowCoreError, "default"], "default"),
        (
            raised_by(pydantic.TypeAdapter(int).validate_python, "x"),
            [pydantic.ValidationError],
            pydantic.ValidationError,
        ),
        (raised_by(pydantic.TypeAdapter(int).validate_python, "x"), [WorkflowCoreError, ValueError], ValueError),
    ],
)
@pytest.mark.parametrize("locally", [False, True])
def test_a_crash_does_not_change_which_handler_is_chosen(machine, clock, error, keys, chosen, locally):
    """With ``locally`` the error is of a class that is made anew in each process."""
    seen = []
    if locally and type(error) is not pydantic.ValidationError:
        error = type("Local", (type(error),), {})(*error.args)

    async def flow(ctx):
        async def work():
            raise error

        def handle_as(key):
            async def handle(error, ctx):
                seen.append(key)
                await ctx.sleep("think", 1_000)

            return handle

        await ctx.step("s", work).with_retry(max_attempts=1).on_error({key: handle_as(key) for key in keys})

    machine.define("w")(flow)

    assert asyncio.run(machine.interrupted(400)).status == "completed"
    assert seen == [chosen, chosen]
