"""Documents of declarative workflows: what is accepted, and how every mistake is told with its path."""

import json
import re
import sys

import pydantic
import pytest

from workflow_core import PanicConfig, RetryConfig, ValidationError
from workflow_core.definitions import StepDefinition, WorkflowDefinition, load_definition
from workflow_core.definitions.executor import Executor
from workflow_core.definitions.executors import register_executor
from workflow_core.definitions.running import compiled
from workflow_core.limits import Limits

LOG = {"id": "a", "type": "log"}


def mistakes(document):
    with pytest.raises(ValidationError) as error:
        load_definition(document)
    assert len(error.value.errors) == len(str(error.value).splitlines()) - 1
    return {".".join(map(str, item["loc"])): item["msg"] for item in error.value.errors}


def steps(*given):
    return {"name": "w", "steps": list(given)}


def test_camel_case_and_snake_case_mean_the_same():
    camel = load_definition(
        {
            "name": "w",
            "continueOnError": True,
            "retryConfig": {"maxAttempts": 5, "backoffMs": 2_000, "exponentialBackoff": False},
            "panicConfig": {"maxRestartAttempts": 2, "restartDelayMs": 10_000, "enableAutoRestart": True},
            "steps": [{**LOG, "retryConfig": {"maxAttempts": 1}, "circuitBreaker": {"failureThreshold": 3}}],
        }
    )
    snake = load_definition(
        {
            "name": "w",
            "continue_on_error": True,
            "retry_config": {"max_attempts": 5, "backoff_ms": 2_000, "exponential_backoff": False},
            "panic_config": {"max_restart_attempts": 2, "restart_delay_ms": 10_000},
            "steps": [{**LOG, "retry_config": {"max_attempts": 1}, "circuit_breaker": {"failure_threshold": 3}}],
        }
    )
    assert camel == snake
    assert camel.digest == snake.digest
    assert camel.retry_config == RetryConfig(max_attempts=5, backoff_ms=2_000, exponential_backoff=False)
    assert camel.panic_config == PanicConfig(max_restart_attempts=2, restart_delay_ms=10_000)


def test_a_document_declares_limits():
    given = {"concurrency": 20, "concurrencyPerKey": 1, "key": "customer.id", "heldWhileWaiting": False}
    definition = load_definition({**steps(LOG), "limits": given})
    assert definition.limits == Limits(
        concurrency=20, concurrency_per_key=1, key="customer.id", held_while_waiting=False
    )
    assert compiled(definition).limits == definition.limits
    assert load_definition(json.loads(definition.text)) == definition
    assert definition.digest != load_definition(steps(LOG)).digest
    assert "limits" not in load_definition(steps(LOG)).document()


def test_limits_of_a_document_that_limit_nothing():
    assert "it limits nothing" in mistakes({**steps(LOG), "limits": {"key": "a"}})["limits"]
    assert mistakes({**steps(LOG), "limits": 3})["limits"] == "must be an object with fields of Limits"


def test_all_mistakes_are_told_at_once_each_with_its_path():
    found = mistakes(
        {
            "name": "../x",
            "stepz": 1,
            "retryConfig": {"maxAttempts": 11, "backofMs": 1},
            "panicConfig": [],
            "limits": {"concurency": 3, "concurrencyPerKey": 0},
            "steps": [
                {"id": "a", "type": "htp"},
                {"id": "a", "type": "http", "config": {"urll": "x", "timeout": "long"}, "timout": 3},
                {"id": "c", "type": "log", "timeout": 0, "dependencies": ["cc", "a", "a"]},
                "not a step",
                {"type": "log", "circuitBreaker": {}},
                {"id": "", "type": "log", "config": {"message": "${inpt.x}", "level": "loud"}},
            ],
        }
    )
    assert set(found) == {
        "name",
        "stepz",
        "retryConfig.maxAttempts",
        "retryConfig.backofMs",
        "panicConfig",
        "limits.concurency",
        "limits.concurrencyPerKey",
        "steps.0.type",
        "steps.1.id",
        "steps.1.timout",
        "steps.1.config.url",
        "steps.1.config.urll",
        "steps.1.config.timeout",
        "steps.2.timeout",
        "steps.2.dependencies.0",
        "steps.2.dependencies.2",
        "steps.3",
        "steps.4.id",
        "steps.4.circuitBreaker.failure_threshold",
        "steps.5.id",
        "steps.5.config.message",
        "steps.5.config.level",
    }
    assert 'did you mean "steps"' in found["stepz"]
    assert 'did you mean "timeout"' in found["steps.1.timout"]
    assert 'did you mean "url"' in found["steps.1.config.urll"]
    assert 'did you mean "http"' in found["steps.0.type"]
    for known in ("delay", "http", "log"):  # and those that other tests of this process have registered
        assert re.search(rf"\(types: .*\b{known}\b", found["steps.0.type"])
    assert 'did you mean "backoffMs"' in found["retryConfig.backofMs"]
    assert "is the id of steps.0 already" in found["steps.1.id"]


@pytest.mark.parametrize(
    ("document", "path", "told"),
    [
        ({"steps": [LOG]}, "name", "is required"),
        ({"name": "w"}, "steps", "is required"),
        ({"name": "w", "steps": []}, "steps", "at least 1 item"),
        ({"name": "w", "steps": {}}, "steps", "valid list"),
        ({"name": 1, "steps": [LOG]}, "name", "valid string"),
        ({"name": "w", "version": 1.0, "steps": [LOG]}, "version", "valid string"),
        ({"name": "w", "retryConfig": {}, "retry_config": {}, "steps": [LOG]}, "retryConfig", "is given twice"),
        (steps({**LOG, "timeout": True}), "steps.0.timeout", "valid integer"),
        (steps({**LOG, "config": {"a": {1, 2}}}), "steps.0.config.a", "which JSON cannot hold"),
        (steps({**LOG, "config": {"a": {1: 2}}}), "steps.0.config.a", "keys are texts"),
        (steps({**LOG, "config": {"a": float("nan")}}), "steps.0.config.a", "which JSON cannot hold"),
        (steps({"id": "d", "type": "delay", "timeout": 5}), "steps.0.timeout", "durable sleep"),
        (
            steps({"id": "d", "type": "delay", "retryConfig": {"maxAttempts": 2}}),
            "steps.0.retryConfig",
            "durable sleep",
        ),
        (steps({**LOG, "config": {"message": "${secrets.KEY}"}}), "steps.0.config.message", "takes no secrets"),
        ({**steps(LOG), "output": "${secrets.KEY}"}, "output", "cannot hold a secret"),
        ({**steps(LOG), "output": {"x": ["${steps.b}"]}}, "output.x.0", 'no step "b"'),
        ({**steps(LOG), "output": "${steps"}, "output", "has no end"),
        (steps({**LOG, "id": "a\n"}), "steps.0.id", "printable"),
        ({"name": "w", "steps": [{"id": f"s{n}", "type": "log"} for n in range(1_001)]}, "steps", "at most 1000 items"),
    ],
)
def test_a_mistake_is_told_where_it_is(document, path, told):
    found = mistakes(document)
    assert list(found) == [path]
    assert told in found[path]


@pytest.mark.parametrize("dependencies", [None, []])
def test_a_reference_must_be_to_a_step_that_has_ended(dependencies):
    reads = {"message": "${steps.b.x}"}
    first = {**LOG, "config": reads} if dependencies is None else {**LOG, "config": reads, "dependencies": dependencies}
    found = mistakes(steps(first, {"id": "b", "type": "log"}))
    advice = "put it before this one" if dependencies is None else 'name it in this step\'s dependencies: ["b"]'
    assert advice in found["steps.0.config.message"]


def test_references_are_checked():
    found = mistakes(
        steps({**LOG, "config": {"message": "${steps.a.x} ${steps.fetsh}"}}, {"id": "fetch", "type": "log"})
    )
    assert found["steps.0.config.message"] == 'there is no step "fetsh"; did you mean "fetch"?'  # the latter of two
    assert load_definition(
        steps(
            {**LOG, "dependencies": []},
            {"id": "b", "type": "log", "dependencies": ["a"]},
            {"id": "c", "type": "log", "dependencies": ["b"], "config": {"message": "${steps.a}"}},
        )
    )


def test_cycles_are_shown():
    found = mistakes(
        steps(
            {**LOG, "dependencies": ["c"]},
            {"id": "b", "type": "log", "dependencies": ["a"]},
            {"id": "c", "type": "log", "dependencies": ["b"]},
        )
    )
    cycle = found["steps"].removeprefix("steps wait for each other: ").split(" → ")
    assert cycle[0] == cycle[-1]
    assert set(cycle) == {"a", "b", "c"}
    assert list(mistakes(steps({**LOG, "dependencies": ["a"]}))) == ["steps"]


def test_an_expression_stands_for_any_value_until_it_has_one():
    definition = load_definition(
        steps({"id": "h", "type": "http", "config": {"url": "${input.url}", "timeout": "${input.ms}", "headers": {}}})
    )
    assert definition.steps[0].config["timeout"] == "${input.ms}"
    found = mistakes(steps({"id": "h", "type": "http", "config": {"url": "${input.url}", "timeout": -1}}))
    assert list(found) == ["steps.0.config.timeout"]


def test_without_dependencies_steps_run_in_order_and_with_any_they_are_a_graph():
    ordered = load_definition(
        steps(LOG, {"id": "b", "type": "log", "config": {"message": "${steps.a}"}}, {**LOG, "id": "c"})
    )
    assert ordered.order.waits_for == {"a": (), "b": ("a",), "c": ("b",)}
    assert ordered.order.needs == {"a": (), "b": ("a",), "c": ()}
    graph = load_definition(steps(LOG, {"id": "b", "type": "log"}, {**LOG, "id": "c", "dependencies": ["a"]}))
    assert graph.order.waits_for == {"a": (), "b": (), "c": ("a",)}
    assert load_definition(steps({**LOG, "dependencies": []}, {**LOG, "id": "b"})).order.waits_for == {"a": (), "b": ()}


def test_a_definition_can_be_made_again_from_its_document():
    definition = load_definition(
        {
            **steps({**LOG, "config": {"message": "ä"}, "timeout": 5, "retryConfig": {"max_attempts": 2}}),
            "description": "d",
            "version": "2.0.0",
            "output": {"x": "${steps.a}"},
            "retryConfig": {"nonRetryable": ["ValueError"]},
        }
    )
    again = load_definition(json.loads(definition.text))
    assert again == definition
    assert again.digest == definition.digest
    assert load_definition(definition) is definition
    changed = load_definition({**definition.document(), "version": "2.0.1"})
    assert changed.digest != definition.digest


def test_a_definition_can_be_made_in_python():
    made = WorkflowDefinition(
        name="w", steps=[StepDefinition(id="a", type="log")], retry_config=RetryConfig(max_attempts=2)
    )
    assert made == load_definition({**steps(LOG), "retryConfig": {"maxAttempts": 2}})
    with pytest.raises(ValidationError, match=r"steps\.0\.type"):
        WorkflowDefinition(name="w", steps=[StepDefinition(id="a", type="lög")])


def test_a_step_type_that_needs_a_missing_package_says_which(monkeypatch):
    monkeypatch.setattr(Executor, "what_is_missing", lambda self: "needs the package x" if self.module else None)
    found = mistakes(steps({"id": "h", "type": "http", "config": {"url": "http://x"}}))
    assert found["steps.0.type"] == 'the step type "http" needs the package x'


def test_a_config_model_of_ones_own_is_checked(own_executors):
    class Inner(pydantic.BaseModel, extra="forbid"):
        size: int

    class Config(pydantic.BaseModel, extra="forbid"):
        inner: list[Inner]

    register_executor("own", lambda config, context: None, config_model=Config)
    found = mistakes(steps({"id": "a", "type": "own", "config": {"inner": [{"size": 1}, {"sice": 2, "size": "x"}]}}))
    assert set(found) == {"steps.0.config.inner.1.sice", "steps.0.config.inner.1.size"}
    assert 'did you mean "size"' in found["steps.0.config.inner.1.sice"]


# Files ---------------------------------------------------------------------------------------------------------------


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


YAML = """\
name: w
description: no   # a text in YAML 1.2
steps:
  - &first
    id: a
    type: log
    config: {message: "12:30 ${input.x:-y}", level: info}
  - <<: *first
    id: b
    config:
      message: [12:30, 2024-01-01, yes, 0x10, 1e3, 3, ~, true, 1.5]
"""


def test_yaml_and_json_say_the_same(tmp_path):
    from_yaml = load_definition(write(tmp_path, "w.yaml", YAML))
    values = ["12:30", "2024-01-01", "yes", 16, 1_000.0, 3, None, True, 1.5]
    document = {
        "name": "w",
        "description": "no",
        "steps": [
            {"id": "a", "type": "log", "config": {"message": "12:30 ${input.x:-y}", "level": "info"}},
            {"id": "b", "type": "log", "config": {"message": values}},
        ],
    }
    from_json = load_definition(str(write(tmp_path, "w.json", "\ufeff" + json.dumps(document))))
    assert from_yaml == from_json == load_definition(document)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGE_BOMB = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{','.join(['*' + old] * 9)}]}}\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("w.yaml", BOMB, "at most 50000 values"),
        ("w.yaml", MERGE_BOMB, "at most 50000 values"),
        ("w.yaml", "a: &a [*a]", "an alias refers to what it stands in"),
        ("w.yaml", "name: w\nname: v", "the key 'name' is given twice"),
        ("w.yaml", "!!python/object/apply:os.system ['true']", "it is not YAML"),
        ("w.yaml", "name: [", "it is not YAML"),
        ("w.yaml", "name: a\0b", "it is not YAML"),
        ("w.yaml", "name: !!timestamp monday", "it is not YAML"),
        ("w.yaml", "name: !!set {a, b}", "it is not YAML"),
        ("w.yaml", "name: !!bool perhaps", "'perhaps' is neither true nor false"),
        ("w.yaml", "name: 0x" + "f" * 5_000, "at most 1000 digits"),
        ("w.yaml", "a: 1\n---\nb: 2", "it is not YAML"),
        ("w.yaml", "", "not nothing"),
        ("w.yaml", "- a", "not a list"),
        ("w.yaml", "1: 2", "has the key 1"),
        ("w.yaml", "[" * 5_000, "nested too deeply"),
        ("w.yaml", "name: " + "x" * 1_048_576, "at most 1048576 bytes"),
        ("w.json", '{"name": "w", "name": "v"}', "the key 'name' is given twice"),
        ("w.json", '{"name": NaN}', "NaN is no value of JSON"),
        ("w.json", "[" * 500_000, "nested too deeply"),
        ("w.json", "{", "it is not JSON"),
        ("w.json", "[]", "not a list"),
        ("w.json", b"\xff\xfe", "not text in UTF-8"),
        ("w.toml", "", "a definition is a .json, .yaml or .yml file"),
        ("w.json", "{}", "Invalid workflow definition"),
    ],
)
def test_a_file_that_is_no_definition_is_told_by_its_name(tmp_path, name, content, told):
    path = write(tmp_path, name, content)
    with pytest.raises(ValidationError) as error:
        load_definition(path)
    assert str(error.value).startswith(f"{path}: ")
    assert told in str(error.value)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ValidationError, match="No such file"):
        load_definition(tmp_path / "w.json")
    with pytest.raises(ValidationError, match="cannot read this file"):
        load_definition("a\0.json")


def test_yaml_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ValidationError, match=r"pytest-workflow-core\[yaml\]"):
        load_definition(write(tmp_path, "w.yml", YAML))
