"""Declarative workflows as they run: order, results, failures, and the document that an execution keeps."""

import asyncio
import functools
import json
import logging

import pydantic
import pytest

from tests.unit.conftest import sql
from workflow_core import NonRetryableError, Settings, StepConflictError, ValidationError, WorkflowEngine
from workflow_core.database.directory import DirectoryStore
from workflow_core.definitions import Failure, Success, known_types, load_saved, register_executor, save_definition
from workflow_core.definitions import executors as registry
from workflow_core.definitions.executor import Executor
from workflow_core.errors import StorageError, WorkflowNotFoundError, WorkflowRedefinedWarning

pytestmark = pytest.mark.usefixtures("own_executors")


@pytest.fixture(autouse=True)
def calls(own_executors):
    """What the executor "do" was told, step by step; it fails as often as its config says."""
    calls, failures = [], {}

    async def do(config, context):
        calls.append(context.step_id)
        await asyncio.sleep(0)
        failures.setdefault(context.step_id, config.get("fails", 0))
        if failures[context.step_id] > 0:
            failures[context.step_id] -= 1
            raise config.get("error", NonRetryableError)(f"{context.step_id} failed")
        return config.get("value", context.step_id)

    register_executor("do", do)
    return calls


def do(step_id, *dependencies, graph=True, **config):
    step = {"id": step_id, "type": "do", "config": config}
    return {**step, "dependencies": list(dependencies)} if graph else step


def run(machine, definition, given=None):
    engine = machine.boot()
    engine.define_declarative(definition)

    async def started():
        return await machine.clock.finish(engine.start_and_wait(definition["name"], "e", given))

    return engine, asyncio.run(started())


def statuses(result):
    return {step_id: step.status for step_id, step in result.steps.items()}


def test_steps_without_dependencies_run_one_after_the_other(machine, calls):
    _, result = run(machine, {"name": "w", "steps": [do(step_id, graph=False) for step_id in "cab"]})
    assert result.status == "completed"
    assert calls == ["c", "a", "b"]
    assert result.output is None


def test_a_graph_runs_in_parallel_where_it_can(machine):
    running, most = set(), []

    async def watch(config, context):
        running.add(context.step_id)
        for _ in range(5):  # turns of the event loop, in which the other one's start is committed
            await asyncio.sleep(0)
        most.append(set(running))
        running.remove(context.step_id)

    register_executor("watch", watch)
    steps = [
        {"id": "join", "type": "watch", "dependencies": ["left", "right"]},
        {"id": "left", "type": "watch"},
        {"id": "right", "type": "watch", "dependencies": []},
    ]
    _, result = run(machine, {"name": "w", "steps": steps})
    assert result.status == "completed"
    assert most == [{"left", "right"}, {"right"}, {"join"}]


def test_results_and_input_flow_through_expressions(machine):
    steps = [
        do("a", graph=False, value={"items": [{"name": "first"}], "count": 2}),
        do("b", graph=False, value="${steps.a.items[0].name} of ${steps.a.count}"),
        do("c", graph=False, value="${steps.a.count}"),
        {"id": "nap", "type": "delay", "config": {"duration": "${input.ms:-1000}"}},
        do("d", graph=False, value="${execution.id} $${x} ${input.who}"),
    ]
    output = {"b": "${steps.b}", "nap": "${steps.nap.delayed}", "c": "${steps.c}"}
    _, result = run(machine, {"name": "w", "steps": steps, "output": output}, {"who": "Ada"})
    assert result.output == {"b": "first of 2", "nap": 1_000, "c": 2}
    assert result.steps["d"].result == "e ${x} Ada"
    assert machine.clock.elapsed_ms == 1_000


def test_a_missing_value_fails_the_step_at_once_and_names_it(machine):
    _, result = run(machine, {"name": "w", "steps": [do("a", graph=False, value="${input.who}")]}, {"whom": 1})
    assert result.status == "failed"
    assert result.error.type == "ExpressionError"
    assert result.error.message.startswith('step "a": ${input.who} has no value: input is an object with whom')
    assert result.steps["a"].attempt == 1


@pytest.mark.parametrize(
    ("duration", "told"), [("${input.x}", "has no value"), ("${input.text}", "valid integer"), (10**9, "max_sleep_ms")]
)
def test_a_sleep_that_cannot_be_fails_the_execution(machine, duration, told):
    steps = [{"id": "nap", "type": "delay", "config": {"duration": duration}}]
    _, result = run(machine, {"name": "w", "steps": steps}, {"text": "long"})
    assert result.status == "failed"
    assert told in result.error.message
    assert result.error.step_id == "nap"


def test_a_config_is_checked_again_when_its_expressions_have_values(machine):
    class Config(pydantic.BaseModel):
        size: int

    register_executor("own", lambda config, context: config.size, config_model=Config)
    definition = {"name": "w", "steps": [{"id": "a", "type": "own", "config": {"size": "${input}"}}]}
    assert run(machine, definition, 5)[1].steps["a"].result == 5
    machine.make_store = functools.partial(machine.make_store, "2.db")
    _, result = run(machine, definition, "five")
    assert result.error.type == "StepConfigError"
    assert "size: Input should be a valid integer" in result.error.message
    assert "five" not in result.error.message
    assert result.steps["a"].attempt == 1


# Failures ------------------------------------------------------------------------------------------------------------


def test_retries_and_their_settings(machine, calls):
    register_executor("flaky", flaky)
    steps = [
        {"id": "a", "type": "flaky", "config": {"until": 2}},
        {"id": "b", "type": "flaky", "config": {"until": 4}, "retryConfig": {"maxAttempts": 5, "backoffMs": 10}},
    ]
    _, result = run(machine, {"name": "w", "retryConfig": {"backoffMs": 100}, "steps": steps})
    assert result.status == "completed"
    assert [result.steps[step_id].attempt for step_id in "ab"] == [2, 4]
    assert machine.clock.elapsed_ms == 100 + 10 + 20 + 40


def flaky(config, context):
    if context.attempt < config["until"]:
        raise OSError("not yet")


@pytest.mark.parametrize(
    ("outcome", "attempts", "error"),
    [
        (Failure("no"), 3, ("ExecutorError", "no")),
        (Failure(OSError("no")), 3, ("OSError", "no")),
        (Failure(OSError("no"), retryable=False), 1, ("PermanentExecutorError", "OSError: no")),
        (Failure("no", retryable=False), 1, ("PermanentExecutorError", "no")),
        (Failure(NonRetryableError("no"), retryable=False), 1, ("NonRetryableError", "no")),
        (Failure(NonRetryableError("no")), 1, ("NonRetryableError", "no")),
    ],
)
def test_a_failure_is_a_failed_attempt(machine, outcome, attempts, error):
    register_executor("own", lambda config, context: outcome)
    _, result = run(machine, {"name": "w", "steps": [{"id": "a", "type": "own"}]})
    assert result.status == "failed"
    assert result.steps["a"].attempt == attempts
    assert (result.error.type, result.error.message) == error


def test_a_success_is_its_value(machine):
    register_executor("own", lambda config, context: Success({"x": 1}))
    assert run(machine, {"name": "w", "steps": [{"id": "a", "type": "own"}]})[1].steps["a"].result == {"x": 1}


def test_a_circuit_and_a_timeout_of_a_step(machine):
    async def slow(config, context):
        await context.ctx._execution.engine.clock.sleep(1_000)

    register_executor("slow", slow)
    step = {"id": "a", "type": "slow", "timeout": 50, "circuitBreaker": {"failureThreshold": 2}}
    _, result = run(machine, {"name": "w", "steps": [step]})
    assert result.error.type == "CircuitOpenError"  # two attempts took too long, and the third found the circuit open
    assert result.steps["a"].attempt == 3


def test_without_continue_on_error_running_steps_end_and_no_other_begins(machine, calls):
    steps = [
        do("fails", fails=1),
        {"id": "nap", "type": "delay", "config": {"duration": 500}, "dependencies": []},
        do("after-nap", "nap"),
        do("after-failure", "fails"),
    ]
    _, result = run(machine, {"name": "w", "steps": steps})
    assert result.status == "failed"
    assert result.error.step_id == "fails"
    assert statuses(result) == {"fails": "failed", "nap": "completed"}
    assert machine.clock.elapsed_ms == 500


def test_continue_on_error_skips_what_needs_the_failed_step_and_fails_in_the_end(machine, calls):
    steps = [
        do("fails", fails=1),
        do("needs-it", "fails"),
        do("needs-that", "needs-it", "other"),
        do("other"),
        do("after-other", "other"),
    ]
    engine, result = run(machine, {"name": "w", "continueOnError": True, "steps": steps, "output": "${steps.other}"})
    assert result.status == "failed"
    assert result.error.step_id == "fails"
    assert statuses(result) == {
        "fails": "failed",
        "needs-it": "skipped",
        "needs-that": "skipped",
        "other": "completed",
        "after-other": "completed",
    }
    calls.clear()

    async def again():
        restarted = await machine.clock.finish(engine.restart("e"))
        return restarted, await engine.history("e")

    result, history = asyncio.run(again())
    assert result.status == "completed"
    assert result.output == "other"
    assert calls == ["fails", "needs-it", "needs-that"]
    assert [event.step_id for event in history if type(event).__name__ == "StepSkipped"] == ["needs-it", "needs-that"]
    assert [event.seq for event in history] == sorted({event.seq for event in history})


def test_continue_on_error_of_a_step_goes_before_that_of_the_document(machine, calls):
    tolerant = {**do("fails", fails=1), "continueOnError": True}
    _, result = run(machine, {"name": "w", "steps": [tolerant, do("late", "other"), do("other")]})
    assert statuses(result) == {"fails": "failed", "other": "completed", "late": "completed"}
    machine.make_store = functools.partial(machine.make_store, "2.db")
    strict = {**do("x", fails=1), "continueOnError": False}
    _, result = run(machine, {"name": "w", "continueOnError": True, "steps": [strict, do("y", "x"), do("z")]})
    assert statuses(result) == {"x": "failed", "z": "completed"}


def test_in_an_ordered_document_only_steps_that_read_the_failed_one_are_skipped(machine, calls):
    steps = [
        do("a", graph=False, fails=1),
        do("b", graph=False, value="${steps.a}"),
        do("c", graph=False, value="${steps.b}"),
        do("d", graph=False),
    ]
    _, result = run(machine, {"name": "w", "continueOnError": True, "steps": steps})
    assert statuses(result) == {"a": "failed", "b": "skipped", "c": "skipped", "d": "completed"}
    assert calls == ["a", "d"]


def test_the_first_failure_in_the_order_of_the_document_is_the_executions(machine):
    steps = [do("second", fails=1, value="slow"), do("first", fails=1)]
    _, result = run(machine, {"name": "w", "continueOnError": True, "steps": steps})
    assert result.error.step_id == "second"


def test_a_panic_cuts_the_other_steps_off(machine, calls):
    steps = [
        do("nap-after", "nap"),
        {"id": "nap", "type": "delay", "config": {"duration": 5_000}},
        {"id": "panics", "type": "panic", "dependencies": []},
    ]

    def panic(config, context):
        if context.ctx.restart_attempt == 1:
            raise MemoryError

    register_executor("panic", panic)
    definition = {"name": "w", "continueOnError": True, "panicConfig": {"restartDelayMs": 1_000}, "steps": steps}
    _, result = run(machine, definition)
    assert result.status == "completed"
    assert result.restart_attempt == 2
    assert machine.clock.elapsed_ms == 5_000  # the sleep was not begun anew


def test_a_skipped_step_stays_skipped_after_a_crash(machine, calls):
    engine = machine.boot()
    steps = [
        do("fails", fails=1),
        do("needs-it", "fails"),
        {"id": "nap", "type": "delay", "config": {"duration": 500}, "dependencies": []},
    ]
    definition = {"name": "w", "continueOnError": True, "steps": steps}
    engine.define_declarative(definition)

    async def crashed():
        await engine.start("w", "e", detach=True)
        await machine.clock.settle()
        await machine.crash(engine)
        again = machine.boot()
        again.define_declarative(definition)
        await again.recover()
        result = await machine.clock.finish(again.wait("e"))
        return result, await again.history("e")

    result, history = asyncio.run(crashed())
    assert statuses(result) == {"fails": "failed", "needs-it": "skipped", "nap": "completed"}
    assert calls == ["fails"]
    assert [type(event).__name__ for event in history].count("StepSkipped") == 1


def test_skip_in_a_workflow_of_code(machine):
    @machine.define("w")
    async def flow(ctx):
        await ctx.step("done", lambda: 1)
        first = await ctx.skip("s", {"why": "not today"})
        await ctx.sleep("nap", 0)
        with pytest.raises(StepConflictError, match="is the id of a sleep"):
            await ctx.skip("nap")
        return [first, await ctx.skip("s"), await ctx.step("s", lambda: 2), await ctx.skip("done")]

    engine = machine.boot()
    result = asyncio.run(engine.start("w", "e"))
    assert result.output == [{"why": "not today"}] * 3 + [1]
    assert result.steps["s"].status == "skipped"
    assert result.steps["s"].attempt == 0


# Revisions -----------------------------------------------------------------------------------------------------------


def greeting(text, *more):
    steps = [do("a"), {"id": "nap", "type": "delay", "config": {"duration": 1_000}, "dependencies": ["a"]}]
    return {"name": "w", "steps": [*steps, do("b", "nap", value=text), *more], "output": "${steps.b}"}


@pytest.mark.parametrize("today", ["changed", "unknown", "a function"])
def test_an_execution_ends_on_the_document_that_it_began_with(machine, today):
    engine = machine.boot()
    engine.define_declarative(greeting("as it was"))

    async def resumed():
        await engine.start("w", "old", detach=True)
        await machine.clock.settle()
        await machine.crash(engine)
        again = machine.boot()
        if today == "changed":
            again.define_declarative(greeting("as it is", do("c", "b")))
        elif today == "a function":
            again.define("w", lambda ctx: "code")
        assert await again.recover() == ["old"]
        old = await machine.clock.finish(again.wait("old"))
        new = None if today == "unknown" else await machine.clock.finish(again.start("w", "new"))
        return old, new

    old, new = asyncio.run(resumed())
    assert old.output == "as it was"
    assert set(old.steps) == {"a", "nap", "b"}
    if new is not None:
        assert new.output == {"changed": "as it is", "a function": "code"}[today]


def test_a_restart_keeps_the_document(machine, calls):
    engine = machine.boot()
    engine.define_declarative({"name": "w", "steps": [do("a", fails=1)], "output": "as it was"})

    async def restarted():
        failed = await machine.clock.finish(engine.start_and_wait("w", "e"))
        with pytest.warns(WorkflowRedefinedWarning):
            engine.define_declarative({"name": "w", "steps": [do("b")], "output": "as it is"})
        return failed, await engine.restart("e")

    failed, result = asyncio.run(restarted())
    assert failed.status == "failed"
    assert result.output == "as it was"


def test_a_document_that_cannot_run_any_more_is_told(machine, caplog):
    engine = machine.boot()
    engine.define_declarative(greeting("x"))

    async def recovered():
        await engine.start("w", "old", detach=True)
        await machine.clock.settle()
        await machine.crash(engine)
        del registry._executors["do"]
        again = machine.boot()
        assert await again.recover() == []
        with pytest.raises(ValidationError, match=r'(?s)cannot run here.*there is no step type "do"') as error:
            await again.resume("old")
        assert error.value.errors

    with caplog.at_level(logging.ERROR):
        asyncio.run(recovered())
    assert 'Execution "old" cannot be recovered' in caplog.text


def test_defining_the_same_document_again_is_no_redefinition(machine):
    engine = machine.boot()
    engine.define_declarative(greeting("x"))
    engine.define_declarative(greeting("x"))
    with pytest.warns(WorkflowRedefinedWarning):
        engine.define_declarative(greeting("y"))


# In the runtime directory --------------------------------------------------------------------------------------------


@pytest.fixture
def boot(tmp_path, clock):
    engines = []

    def boot():
        engine = WorkflowEngine(
            clock=clock, settings=Settings(directory=tmp_path / "state", sync_handlers="inline", lease_ms=None)
        )
        engines.append(engine)
        return engine

    yield boot
    for engine in engines:
        engine.close()


def test_saved_definitions_are_defined_from_the_directory(boot, tmp_path, clock):
    engine = boot()
    definition = engine.define_declarative(greeting("x"))
    assert save_definition(engine, definition)
    path = tmp_path / "state" / "workflows" / "w" / "definition.json"
    written = path.read_bytes(), path.stat().st_mtime_ns
    assert not save_definition(engine, definition)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == written

    again = boot()
    assert load_saved(again) == [definition]
    assert load_saved(again)[0].digest == definition.digest  # and once more, without a warning
    result = asyncio.run(clock.finish(again.start("w")))
    assert result.output == "x"


def test_saved_definitions_are_defined_from_a_database(make_postgres_store, clock, caplog):
    def boot():
        settings = Settings(sync_handlers="inline", lease_ms=None)
        return WorkflowEngine(make_postgres_store(), clock, settings=settings)

    engine = boot()
    definition = engine.define_declarative(greeting("x"))
    assert load_saved(engine) == []
    assert save_definition(engine, definition)
    assert not save_definition(engine, definition)
    engine.define("coded", lambda ctx: "a function's", description="in code")

    async def scenario():
        assert load_saved(boot()) == [definition]  # in an event loop as well
        again = boot()
        assert load_saved(again)[0].digest == definition.digest
        assert (await clock.finish(again.start("w"))).output == "x"
        await engine.start("coded")
        other = boot()
        other.define("w", lambda ctx: "a function's")
        await other.start("w", "by-the-function")
        assert load_saved(boot()) == [definition]  # which a function of that name leaves as it is
        changed = definition.model_copy(update={"description": "new"})
        assert save_definition(engine, changed)
        assert load_saved(boot()) == [changed]
        found = engine.bare_store.saved_definitions()
        assert (found["w"]["description"], found["coded"]["description"]) == ("new", "in code")
        await sql(engine.bare_store, """UPDATE {s}.workflows SET definition = '{"name":"x","steps":[]}'""")
        assert load_saved(boot()) == []

    asyncio.run(scenario())
    assert "is left out" in caplog.text


def test_a_changed_definition_keeps_when_it_was_made(boot, tmp_path, clock):
    engine = boot()
    save_definition(engine, engine.define_declarative(greeting("x")))
    path = tmp_path / "state" / "workflows" / "w" / "definition.json"
    before = json.loads(path.read_bytes())
    assert set(before) > {"name", "version", "description", "created_at", "last_modified", "steps", "retry_config"}
    assert before["database_path"] == "./w.db"
    asyncio.run(clock.advance(60_000))
    assert save_definition(engine, load_saved(engine)[0].model_copy(update={"description": "new"}))
    after = json.loads(path.read_bytes())
    assert after["created_at"] == before["created_at"]
    assert after["last_modified"] > before["last_modified"]
    assert list(tmp_path.rglob("*.part")) == []


def test_the_first_execution_saves_the_definition(boot, clock):
    engine = boot()
    definition = engine.define_declarative(greeting("x"))
    asyncio.run(clock.finish(engine.start("w")))
    assert load_saved(boot()) == [definition]


@pytest.mark.parametrize(
    "content", ["{", '{"name": "bad", "steps": [{"id": "a", "type": "?"}]}', '{"name": "x", "steps": []}', "[]"]
)
def test_one_damaged_definition_does_not_keep_the_others_away(boot, tmp_path, caplog, content):
    engine = boot()
    for name in ("a", "z"):
        save_definition(engine, engine.define_declarative({**greeting("x"), "name": name}))
    bad = tmp_path / "state" / "workflows" / "bad"
    bad.mkdir()
    (bad / "definition.json").write_text(content)
    (tmp_path / "state" / "workflows" / "not a name").mkdir()
    (tmp_path / "state" / "workflows" / "empty").mkdir()
    with caplog.at_level(logging.ERROR):
        assert [definition.name for definition in load_saved(boot())] == ["a", "z"]
    assert str(bad / "definition.json") in caplog.text


def test_a_definition_under_anothers_name_is_left_out(boot, tmp_path, caplog):
    engine = boot()
    save_definition(engine, engine.define_declarative(greeting("x")))
    root = tmp_path / "state" / "workflows"
    (root / "v").mkdir()
    (root / "v" / "definition.json").write_bytes((root / "w" / "definition.json").read_bytes())
    with caplog.at_level(logging.ERROR):
        assert [definition.name for definition in load_saved(boot())] == ["w"]
    assert 'it is named "w", and lies in the directory of "v"' in caplog.text


def test_a_function_goes_before_a_saved_definition(boot):
    engine = boot()
    save_definition(engine, engine.define_declarative(greeting("x")))
    again = boot()
    again.define("w", lambda ctx: "code")
    with pytest.warns(WorkflowRedefinedWarning, match="the function goes before it"):
        assert load_saved(again) == []
    assert asyncio.run(again.start("w")).output == "code"


def test_a_workflow_of_code_is_not_loaded(boot):
    engine = boot()
    engine.define("code", lambda ctx: 1)
    asyncio.run(engine.start("code"))
    again = boot()
    assert load_saved(again) == []
    with pytest.raises(WorkflowNotFoundError):
        again.definition("code")


def test_an_engine_without_a_directory_saves_nothing(machine):
    engine = machine.boot()
    definition = engine.define_declarative(greeting("x"))
    assert load_saved(engine) == []
    with pytest.raises(ValidationError, match="not on a runtime directory"):
        save_definition(engine, definition)


def test_a_directory_that_cannot_be_written_is_told(tmp_path, boot):
    (tmp_path / "state").write_text("in the way")
    engine = boot()
    definition = engine.define_declarative(greeting("x"))
    assert load_saved(engine) == []
    with pytest.raises(StorageError):
        save_definition(engine, definition)


def test_a_layout_is_enough_to_save(tmp_path, boot):
    engine = boot()
    definition = engine.define_declarative(greeting("x"))
    assert save_definition(DirectoryStore(tmp_path / "state").layout, definition)
    assert not save_definition(engine, definition)


# Executors -----------------------------------------------------------------------------------------------------------


def test_an_executor_sees_its_step(machine, caplog):
    seen = []

    @register_executor("own")
    def own(config, context):
        context.logger.info("working")
        seen.append((context.workflow_name, context.execution_id, context.step_id, context.attempt, context.input))
        return context.now().isoformat()

    with caplog.at_level(logging.INFO):
        _, result = run(machine, {"name": "w", "steps": [{"id": "a", "type": "own"}]}, {"x": 1})
    assert seen == [("w", "e", "a", 1, {"x": 1})]
    assert result.steps["a"].result == "2026-01-01T00:00:00+00:00"
    (record,) = [record for record in caplog.records if record.getMessage() == "working"]
    assert (record.workflow_name, record.execution_id, record.step_id, record.attempt) == ("w", "e", "a", 1)


def test_log_logs(machine, caplog):
    steps = [
        {"id": "text", "type": "log", "config": {"message": "hello ${input.who}", "level": "warning"}},
        {"id": "data", "type": "log", "config": {"message": "${input}"}},
        {"id": "nothing", "type": "log"},
    ]
    with caplog.at_level(logging.INFO):
        _, result = run(machine, {"name": "w", "steps": steps}, {"who": "%s"})
    told = [(record.levelname, record.getMessage()) for record in caplog.records if hasattr(record, "step_id")]
    assert told == [("WARNING", "hello %s"), ("INFO", '{"who":"%s"}'), ("INFO", "Step executed")]
    assert result.steps["text"].result == {"logged": True, "timestamp": "2026-01-01T00:00:00+00:00"}


def test_a_type_is_registered_once():
    def own(config, context):
        return 1

    assert register_executor("own", own) is own
    register_executor("own", own)
    assert "own" in known_types()

    def again():
        def own(config, context):
            return 2

        own.__qualname__ = first.__qualname__
        return own

    first = own
    assert registry.find_executor("own").function is first
    register_executor("own", again())  # as when its module is loaded again
    assert registry.find_executor("own").function is not first
    with pytest.raises(ValidationError, match=r'"own" is taken by .*own.*replace=True'):
        register_executor("own", lambda config, context: 2)
    register_executor("log", lambda config, context: 2, replace=True)
    with pytest.raises(ValidationError, match="called with the config and an ExecutorContext"):
        register_executor("other", lambda config: 2)
    with pytest.raises(ValidationError, match="printable text"):
        register_executor("", own)
    with pytest.raises(ValidationError, match="config_model must be a pydantic model"):
        register_executor("other", own, config_model=dict)


class FakeEntryPoint:
    def __init__(self, name, loaded):
        self.name, self.value, self.loaded = name, f"module:{name}", loaded

    def load(self):
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


def test_installed_distributions_offer_executors(monkeypatch, caplog):
    def own(config, context):
        return 1

    offered = [
        FakeEntryPoint("function", own),
        FakeEntryPoint("executor", Executor(own)),
        FakeEntryPoint("broken", ImportError("no module")),
        FakeEntryPoint("nonsense", 7),
        FakeEntryPoint("log", own),
    ]
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: offered)
    monkeypatch.setattr(registry, "_executors", {})
    monkeypatch.setattr(registry, "_broken", {})
    monkeypatch.setattr(registry, "_looked_up", False)
    with caplog.at_level(logging.WARNING):
        assert known_types() == ["delay", "executor", "function", "http", "log"]
    assert registry.find_executor("log").function is not own
    assert "is ours already" in caplog.text
    with pytest.raises(ValidationError, match='the executor of "broken" cannot be loaded: ImportError: no module'):
        WorkflowEngine(DirectoryStore).define_declarative({"name": "w", "steps": [{"id": "a", "type": "broken"}]})


def test_a_process_that_knows_an_older_definition_does_not_undo_a_saved_one(boot, clock):
    older, newer = boot(), boot()
    older.define_declarative(greeting("older"))
    definition = newer.define_declarative({**greeting("newer"), "output": None})
    save_definition(newer, definition)
    assert asyncio.run(clock.finish(older.start("w"))).output == "older"
    assert load_saved(boot()) == [definition]


def test_what_a_document_does_not_have_any_more_is_gone_and_what_others_added_is_kept(boot, tmp_path):
    engine = boot()
    save_definition(engine, engine.define_declarative({**greeting("x"), "continueOnError": True}))
    path = tmp_path / "state" / "workflows" / "w" / "definition.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "owner": "billing"}))
    with pytest.warns(WorkflowRedefinedWarning):
        definition = engine.define_declarative({"name": "w", "steps": greeting("x")["steps"]})
    save_definition(engine, definition)
    saved = json.loads(path.read_bytes())
    assert saved["owner"] == "billing"
    assert load_saved(boot()) == [definition]
    assert not {"output", "continue_on_error"} & set(saved)


# Configuration -------------------------------------------------------------------------------------------------------


SECRET = "a-very-secret-value"  # noqa: S105 - of no use outside these tests


def configured(machine, monkeypatch, *steps, **document):
    monkeypatch.setenv("THE_TOKEN", SECRET)
    engine = machine.boot()
    engine.configure("w", variables={"SIZE": "5"}, secrets={"TOKEN": "env:THE_TOKEN", "UNSET": "env:NOT_SET"})
    engine.define_declarative({"name": "w", "steps": list(steps), **document})
    return asyncio.run(machine.clock.finish(engine.start_and_wait("w", "e")))


def test_variables_and_secrets_are_read_when_a_step_runs(machine, monkeypatch):
    seen = []
    register_executor("see", lambda config, context: seen.append(config))
    config = {"size": "${variables.SIZE}", "none": "${variables.NONE:-0}", "auth": "Bearer ${secrets.TOKEN}"}
    result = configured(machine, monkeypatch, {"id": "a", "type": "see", "config": config})
    assert result.status == "completed"
    assert seen == [{"size": "5", "none": 0, "auth": f"Bearer {SECRET}"}]
    assert SECRET.encode() not in machine.path.read_bytes()


def test_a_secret_is_neither_in_errors_nor_in_logs(machine, monkeypatch, caplog):
    def tell(config, context):
        context.logger.warning("told %s", config)
        raise NonRetryableError(f"refused {config}")

    register_executor("tell", tell)
    result = configured(machine, monkeypatch, {"id": "a", "type": "tell", "config": {"x": "${secrets.TOKEN}"}})
    assert "refused {'x': '[secret TOKEN]'}" in result.error.message
    assert "told {'x': '[secret TOKEN]'}" in caplog.messages
    assert SECRET not in caplog.text
    assert not any(SECRET.encode() in path.read_bytes() for path in machine.path.parent.iterdir())


@pytest.mark.parametrize(
    ("config", "error", "told"),
    [
        ("${variables.NONE}", "ExpressionError", "has no variable 'NONE'"),
        ("${secrets.NONE}", "ExpressionError", "has no secret 'NONE'"),
        ("${secrets.UNSET}", "ConfigurationError", "NOT_SET, which is not set"),
    ],
)
def test_what_is_not_configured_fails_the_step_at_once(machine, monkeypatch, config, error, told):
    result = configured(machine, monkeypatch, do("a", graph=False, x=config))
    assert (result.status, result.error.type) == ("failed", error)
    assert told in result.error.message
    assert result.steps["a"].attempt == 1
