"""What users give: it is taken exactly and comes back exactly from a reopened file, or is refused and not written."""

import asyncio
import contextlib
import dataclasses
import decimal
import enum
import functools
import math
import re
import tempfile
import tracemalloc
from datetime import UTC, timedelta, timezone
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from workflow_core import (
    CircuitBreakerConfig,
    PanicConfig,
    PanicError,
    RetryConfig,
    Settings,
    ValidationError,
    WorkflowEngine,
)
from workflow_core.database.sqlite import SQLiteStore
from workflow_core.timeouts import LONGEST_MS

QUICK = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
PLAIN = Settings(sync_handlers="inline", lease_ms=None, max_result_bytes=100_000)


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


class Names(str, enum.Enum):  # noqa: UP042 - a subclass of str whose str() is something else
    ORDERS = "orders"


class Trickster(str):
    """Passes for one text, and shows another."""

    __slots__ = ()

    def __str__(self):
        return "../../trick"

    __format__ = __repr__ = __fspath__ = lambda self, *args: "../../trick"


class Rude:
    """Cannot even be shown."""

    def __repr__(self):
        raise RuntimeError("no")

    __str__ = __repr__


class Number(int):
    pass


class Sequence(list):
    pass


HUGE = st.builds(lambda: 10**5_000)  # which Python itself does not turn into text
TEXTS = st.text(st.characters(codec=None, categories=None), max_size=12)
TRICKS = st.sampled_from(
    [
        *("", ".", "..", "../x", "a/b", "/etc", "a\\b", "a\0b", "a\n", "\n", " ", "a ", "-rf", "C:", "CON.x", "~"),
        *("a" * 128, "a" * 129, "a" * 256, "Ä", "\uff41", "a\u200b", "\ud800", "a\ud800", "\U0001d4b6", "$type"),
        *("%2e%2e", "a..b", "a.db", "a-wal", "<b>", "'; DROP TABLE steps; --", Names.ORDERS, Trickster("orders")),
    ]
)
OBJECTS = st.sampled_from([None, True, 1, 1.5, b"a", ["a"], {"a": 1}, object(), Rude(), Names, math.nan]) | HUGE
NAMES = st.one_of(TRICKS, TEXTS, OBJECTS, st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True))

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
ID = re.compile(r"[A-Za-z0-9._:-]{1,255}")


@pytest.fixture
def memory_engine():
    """Engines in memory, which end with the test."""
    with contextlib.ExitStack() as stack:

        def make(settings=PLAIN):
            engine = WorkflowEngine(SQLiteStore(), settings=settings)
            stack.callback(engine.close)
            return engine

        yield make


@contextlib.contextmanager
def directory_engine():
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "state"
        engine = WorkflowEngine(settings=Settings(directory=root, sync_handlers="inline"))
        try:
            yield engine, root
        finally:
            engine.close()


# Names and ids -------------------------------------------------------------------------------------------------------


@QUICK
@given(NAMES)
@example(Trickster("orders"))
@example(Names.ORDERS)
def test_names_of_workflows(name):
    with directory_engine() as (engine, root):
        try:
            engine.define(name, lambda ctx: ctx.workflow_name)
        except ValidationError:
            assert not (isinstance(name, str) and NAME.fullmatch(name))
            with pytest.raises((ValidationError, LookupError)):
                engine.run(name)
            assert not root.exists()
        else:
            plain = "".join(name)
            assert NAME.fullmatch(plain)
            output = engine.run(name).output
            assert (output, type(output)) == (plain, str)
            assert [path.name for path in (root / "workflows").iterdir()] == [plain]
            assert {path.name for path in root.parent.iterdir()} == {"state"}


@QUICK
@given(NAMES)
@example(Trickster("orders"))
@example(Names.ORDERS)
@example(10**5_000)
def test_ids_of_executions(execution_id):
    with directory_engine() as (engine, root):
        engine.define("w", lambda ctx: ctx.execution_id)
        try:
            result = engine.run("w", execution_id)
        except ValidationError:
            assert not (isinstance(execution_id, str) and ID.fullmatch(execution_id))
            assert not root.exists()
            return
        if execution_id is not None:
            plain = "".join(execution_id)
            assert ID.fullmatch(plain)
            assert (result.execution_id, result.output, type(result.output)) == (plain, plain, str)


@QUICK
@given(st.lists(NAMES, max_size=12))
def test_ids_of_steps(memory_engine, step_ids):
    engine = memory_engine()
    taken, refused = set(), []

    @engine.define("w")
    async def flow(ctx):
        for step_id in step_ids:
            for use in (lambda ctx, it: ctx.step(it, lambda: 1), lambda ctx, it: ctx.sleep(it, 0)):
                try:
                    await use(ctx, step_id)
                except ValidationError:
                    refused.append(step_id)
                    continue
                taken.add("".join(step_id))
                break

    result = engine.run("w")
    assert set(result.steps) == taken
    assert all(type(each) is str and each.strip() and each.isprintable() and len(each) <= 255 for each in result.steps)
    assert all(
        not isinstance(each, str) or not each.isprintable() or len(each) > 255 or not each.strip() for each in refused
    )


# Numbers -------------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-5, 12),
    st.integers(),
    st.sampled_from([True, False, None, "1", "", b"1", 1.0, 1.5, -0.5, math.nan, math.inf, -math.inf]),
    HUGE,
    st.sampled_from([Number(3), decimal.Decimal("NaN"), LONGEST_MS, LONGEST_MS + 1, 2**63, [], Rude()]),
    st.floats(),
)
FIELDS = [
    (cls, name)
    for cls in (RetryConfig, PanicConfig, CircuitBreakerConfig, Settings)
    for name, field in cls.model_fields.items()
    if "int" in str(field.annotation)
]


@settings(QUICK, max_examples=100)
@given(st.sampled_from(FIELDS), NUMBERS)
@example((RetryConfig, "max_attempts"), True)
@example((Settings, "max_sleep_ms"), "1")
def test_numbers_of_configurations(field, number):
    cls, name = field
    others = {"failure_threshold": 1} if cls is CircuitBreakerConfig and name != "failure_threshold" else {}
    try:
        found = getattr(cls(**{name: number}, **others), name)
    except ValidationError:
        return
    assert not isinstance(number, (bool, str, bytes))
    assert found == number
    assert type(found) is (type(None) if number is None else int)


@QUICK
@given(NUMBERS)
@example(True)
@example(10**5_000)
def test_times_of_executions_steps_and_sleeps(memory_engine, number):
    engine = memory_engine()
    refused = []

    @engine.define("w")
    async def flow(ctx):
        try:
            await ctx.step("s", lambda: 1, timeout_ms=number).catch(lambda error, ctx: "too slow")
        except ValidationError:
            refused.append("step")
        if not (isinstance(number, (int, float)) and 20 < number <= 300_000):
            try:
                await ctx.sleep("z", number)
            except ValidationError:
                refused.append("sleep")

    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    can_be_timeout = number is None or (is_number and 0 < number <= LONGEST_MS)
    if not can_be_timeout:
        with pytest.raises(ValidationError):
            engine.run("w", "timed", timeout_ms=number)
        assert engine.store.select("SELECT count(*) FROM executions") == [(0,)]
    assert engine.run("w", "x").status == "completed"
    assert ("step" in refused) == (not can_be_timeout)
    assert ("sleep" in refused) == (not (is_number and 0 <= number <= 300_000))


@pytest.mark.parametrize("value", [Rude(), 10**5_000, 1.5, object(), b"a"], ids=lambda value: type(value).__name__)
def test_what_lists_and_cleanups_cannot_be_asked_for(memory_engine, value):
    engine = memory_engine()
    for parameter in ("workflow_name", "status", "limit", "search", "before", "started_after", "started_before"):
        with pytest.raises(ValidationError):
            asyncio.run(engine.list_executions(**{parameter: value}))
    for parameters in ({"workflow_name": value}, {"status": value}, {"batch": value}, {"older_than": [value]}):
        with pytest.raises(ValidationError):
            asyncio.run(engine.cleanup(**{"older_than": 1, **parameters}))


@QUICK
@given(st.dictionaries(st.one_of(TEXTS, st.sampled_from(["max_attempts", 1, None])), NUMBERS, max_size=3) | OBJECTS)
def test_configurations_in_general(config):
    with directory_engine() as (engine, root):
        engine.define("w", lambda ctx: 1)
        for name in ("retry_config", "panic_config"):
            try:
                engine.define("v", lambda ctx: 1, **{name: config})
                engine.run("w", None, None, **{name: config})
            except ValidationError:
                assert config is not None and config != {}
                assert not root.exists()
            else:
                return


@pytest.mark.parametrize("text", [5, b"1.0", Rude(), "\ud800", ["x"]])
@pytest.mark.parametrize("what", ["description", "version"])
def test_texts_about_workflows(memory_engine, what, text):
    engine = memory_engine()
    with pytest.raises(ValidationError, match=what):
        engine.define("w", lambda ctx: 1, **{what: text})
    assert "w" not in engine.workflow_names()


class WideConfig(RetryConfig):
    more: int = 1


def test_a_configuration_with_more_fields_can_be_recovered(tmp_path):
    path = tmp_path / "w.db"
    runs = []
    for start in ("run", "restart"):
        engine = WorkflowEngine(SQLiteStore(path), settings=PLAIN)

        @engine.define("w")
        async def flow(ctx):
            runs.append(1)
            if len(runs) == 1:
                raise RuntimeError("first")
            return "done"

        if start == "run":
            engine.run("w", "x", None, WideConfig(max_attempts=2), {"enable_auto_restart": False})
        else:
            assert asyncio.run(engine.restart("x")).output == "done"
        engine.close()


# Values --------------------------------------------------------------------------------------------------------------


KINDS = ["list", "dict", "tuple", "tag"]


def chain(kind, depth):
    """Return containers, one in the other."""
    wrap = {"list": lambda v: [v], "dict": lambda v: {"k": v}, "tuple": lambda v: (v,), "tag": lambda v: {"$type": v}}
    value = None
    for _ in range(depth):
        value = wrap[kind](value)
    return value


def circle():
    value = []
    value.append({"again": value})
    return value


def laughs():
    """Return a small object whose text is huge: each list holds the next one twice."""
    value = ["ha"]
    for _ in range(60):
        value = [value, value]
    return value


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    TEXTS,
    st.binary(max_size=8),
    st.decimals(),
    st.uuids(),
    st.dates(),
    st.times(timezones=st.sampled_from([None, UTC, timezone(timedelta(minutes=30))])),
    st.datetimes(timezones=st.sampled_from([None, UTC, timezone(timedelta(hours=-3, seconds=7))])),
    st.timedeltas(),
    st.sampled_from([*Colour, Names.ORDERS, 2**63, -0.0, math.nan, math.inf, 5e-324]),
    HUGE,
    st.builds(lambda: -(10**4_000)),
    st.builds(object),
    st.builds(Rude),
    st.builds(Number, st.integers(0, 3)),
    st.builds(Trickster, st.just("x")),
    st.just(1j),
    st.builds(lambda: (n for n in range(3))),
    st.just(print),
)
KEYS = st.one_of(TEXTS, st.sampled_from(["$type", "value", "given"]), st.integers(0, 2), st.none())
VALUES = st.one_of(
    st.recursive(
        LEAVES,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=4).map(tuple),
            st.lists(inner, max_size=3).map(Sequence),
            st.dictionaries(KEYS, inner, max_size=4),
            st.sets(st.one_of(st.integers(), st.text(max_size=3), st.uuids()), max_size=4),
            st.frozensets(st.one_of(st.integers(), st.binary(max_size=3)), max_size=4),
        ),
        max_leaves=8,
    ),
    st.builds(chain, st.sampled_from(KINDS), st.integers(0, 110)),
)


def same(left, right):
    """Tell whether two values are equal and of the same types, all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (set, frozenset)):
        return left == right and {type(item) for item in left} == {type(item) for item in right}
    if isinstance(left, (float, decimal.Decimal)):
        return repr(left) == repr(right)
    return left == right and repr(left) == repr(right)


@settings(QUICK, max_examples=40)
@given(VALUES)
@example(chain("tag", 90))
@example(chain("tuple", 100))
@example({"a": {"$type": "declared", "value": 1}})
@example("\ud800")
def test_values_come_back_or_are_refused(value):
    come_back_or_are_refused(value)


@pytest.mark.parametrize(
    "make",
    [circle, laughs, *(functools.partial(chain, kind, depth) for kind in KINDS for depth in (1_000, 50_000))],
    ids=["circle", "laughs", *(f"{kind}-{depth}" for kind in KINDS for depth in (1_000, 50_000))],
)
def test_values_without_an_end_are_refused(make):
    assert come_back_or_are_refused(make()) == "refused"


def come_back_or_are_refused(value):
    """Run a workflow on a value, its step and its output in a file, and again from the reopened file."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "w.db"
        seen = []

        def open_engine():
            engine = WorkflowEngine(SQLiteStore(path), settings=PLAIN)

            @engine.define("w", panic_config={"enable_auto_restart": False})
            async def flow(ctx):
                seen.append(ctx.input)
                seen.append(await ctx.step("s", lambda: value))
                if ctx.restart_attempt == 1:
                    raise OSError("stop here, and begin again in another process")
                return value

            return engine

        engine = open_engine()
        with contextlib.closing(engine):
            try:
                result = engine.run("w", "x", value)
            except ValidationError:
                assert engine.store.select("SELECT count(*) FROM executions") == [(0,)]
                assert seen == []
                result = engine.run("w", "y")
                assert (result.status, result.error.type) == ("failed", "UnstorableResultError")
                return "refused"
            assert result.status == "panicked"
        again = open_engine()
        with contextlib.closing(again):
            result = asyncio.run(again.restart("x"))
            assert result.status == "completed"
            assert len(seen) == 4
            for other in [*seen, result.output, result.input, result.steps["s"].result]:
                assert same(other, value), (other, value)
    return "taken"


@dataclasses.dataclass
class Holder:
    content: Any


class Model(pydantic.BaseModel):
    content: Any


@pytest.mark.parametrize("cls", [Holder, Model])
@pytest.mark.parametrize("content", [chain("list", 200), chain("dict", 5_000), circle(), "\ud800", object(), math.nan])
def test_values_of_declared_types_are_refused_without_a_panic(memory_engine, cls, content):
    engine = memory_engine()
    value = cls(content=content)

    @engine.define("w")
    async def flow(ctx):
        return await ctx.step("s", lambda: value, returns=cls)

    result = engine.run("w")
    assert (result.status, result.error.type) == ("failed", "UnstorableResultError")


def test_a_result_of_ten_megabytes(tmp_path):
    rows = [{"id": number, "text": "x" * 1_000} for number in range(10_000)]
    engine = WorkflowEngine(SQLiteStore(tmp_path / "w.db"), settings=Settings())
    engine.define("w", lambda ctx: ctx.step("s", lambda: rows))
    assert engine.run("w", "x").output == rows
    engine.close()
    again = WorkflowEngine(SQLiteStore(tmp_path / "w.db"), settings=PLAIN)
    again.define("w", lambda ctx: 1)
    assert again.run("w", "x").steps["s"].result == rows
    again.close()


@pytest.mark.parametrize(
    "value",
    [["x" * 1_000_000] * 3_000, b"x" * 30_000_000, [[0] * 100] * 200_000, laughs(), {"k": ("y" * 9_000_000,) * 2}],
    ids=["texts", "bytes", "lists", "laughs", "tuple"],
)
def test_what_is_too_large_is_refused_before_it_is_copied(memory_engine, value):
    engine = memory_engine(Settings(max_result_bytes=50_000))
    engine.define("w", lambda ctx: 1)
    tracemalloc.start()
    try:
        with pytest.raises(ValidationError, match=r"the limit is 50,000; store the data elsewhere"):
            engine.run("w", "x", value)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    ["x" * 1_022, "é" * 510 + "x", '"' * 511, [0] * 511, [[]] * 341, ({},) * 3, {f"{n:03}": 1 for n in range(127)}],
    ids=["text", "umlauts", "quotes", "numbers", "lists", "tuple", "dictionary"],
)
def test_what_is_just_small_enough_is_taken(memory_engine, text):
    engine = memory_engine(Settings(max_result_bytes=1_024))
    engine.define("w", lambda ctx: ctx.input)
    assert engine.run("w", "x", text).output == text


def test_a_panic_of_the_users_code_stays_one(memory_engine):
    engine = memory_engine()

    def deep(n):
        return deep(n + 1)

    engine.define("w", lambda ctx: ctx.step("s", lambda: deep(0)), panic_config={"enable_auto_restart": False})
    with pytest.raises(PanicError):
        asyncio.run(engine.start("w"))
