"""config.json: what is made, what is read when, and what is said about mistakes."""

import asyncio
import json
import warnings

import pytest

from workflow_core import (
    ConfigurationError,
    MissingConfigurationError,
    Settings,
    ValidationError,
    WorkflowConfig,
    WorkflowEngine,
    WorkflowRedefinedWarning,
)
from workflow_core.database.sqlite import SQLiteStore


@pytest.fixture
def root(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def engine(root):
    engine = WorkflowEngine(settings=Settings(directory=root, sync_handlers="inline"))
    yield engine
    engine.close()


def read(engine, look, name="orders"):
    """Return what ``look`` makes of the configuration, inside a step."""
    seen = []

    async def handler(ctx):
        await ctx.step("look", lambda: seen.append(look(ctx.config)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WorkflowRedefinedWarning)
        engine.define(name, handler)
    result = engine.run(name)
    if result.status == "failed":
        return result.error
    return seen[0]


def write(root, text, name="orders"):
    path = root / "workflows" / name / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def test_the_first_use_makes_a_file_with_defaults(engine, root):
    assert read(engine, lambda config: (config.environment, dict(config.variables), dict(config.secrets))) == (
        "development",
        {},
        {},
    )
    made = json.loads((root / "workflows" / "orders" / "config.json").read_text())
    assert made == {"environment": "development", "variables": {}, "secrets": {}}


def test_what_the_users_wrote_stays_as_it_is(engine, root):
    path = write(root, '{"environment":"staging"}')
    assert read(engine, lambda config: config.environment) == "staging"
    assert path.read_text() == '{"environment":"staging"}'


def test_values_are_read_at_each_use(engine, root, monkeypatch):
    monkeypatch.setenv("ORDERS_KEY", "first-value")
    path = write(root, {"variables": {"SIZE": "100"}, "secrets": {"API_KEY": "env:ORDERS_KEY"}})

    def look(config):
        before = config.variables["SIZE"], config.secrets["API_KEY"]
        monkeypatch.setenv("ORDERS_KEY", "second-value")
        path.write_text(json.dumps({"variables": {"SIZE": "2000"}, "secrets": {"API_KEY": "env:ORDERS_KEY"}}))
        return before, (config.variables["SIZE"], config.secrets["API_KEY"])

    assert read(engine, look) == (("100", "first-value"), ("2000", "second-value"))


@pytest.mark.parametrize(
    ("look", "kind"),
    [(lambda config: config.variables["SIZE"], "variable"), (lambda config: config.secrets["SIZE"], "secret")],
)
def test_a_name_that_is_missing_is_a_clear_error(engine, root, look, kind):
    error = read(engine, look)
    assert error.type == "MissingConfigurationError"
    assert f"no {kind} 'SIZE'" in error.message and str(root / "workflows" / "orders" / "config.json") in error.message
    assert f'"{kind}s" there' in error.message


def test_the_mappings_behave_as_mappings(engine, root):
    write(root, {"variables": {"A": "1"}, "secrets": {"S": "env:NOT_SET"}})

    def look(config):
        assert "A" in config.variables and "B" not in config.variables and "S" in config.secrets
        assert config.variables.get("B", "default") == "default" and len(config.variables) == 1
        with pytest.raises(KeyError, match="no variable 'B'"):
            config.variables["B"]
        assert repr(config.secrets) == "<secrets of orders: S>"
        return True

    assert read(engine, look) is True


def test_a_secret_that_is_not_set_names_its_variable(engine, root, monkeypatch):
    monkeypatch.delenv("ORDERS_KEY", raising=False)
    write(root, {"secrets": {"API_KEY": "env:ORDERS_KEY"}})
    error = read(engine, lambda config: config.secrets.get("API_KEY"))
    assert error.type == "ConfigurationError" and "ORDERS_KEY, which is not set" in error.message


def test_a_step_that_cannot_be_configured_is_not_retried_and_can_be_restarted(engine, root):
    attempts = []

    @engine.define("orders")
    async def orders(ctx):
        def work():
            attempts.append(ctx.attempt)
            return ctx.config.variables["SIZE"]

        return await ctx.step("work", work)

    assert engine.run("orders", "o-1").status == "failed"
    write(root, {"variables": {"SIZE": "7"}})

    async def again():
        return await engine.restart("o-1")

    assert asyncio.run(again()).output == "7"
    assert attempts == [1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"environment": "a",', "this is not JSON: .* at line 1 column"),
        ("[]", "must hold an object"),
        ('{"variables": {"A": 1}}', "variables.A: Input should be a valid string"),
        ('{"varialbes": {}}', "varialbes: Extra inputs are not permitted"),
        ('{"secrets": {"not a name": "env:A"}}', "secrets.not a name"),
        ('{"environment": ""}', "environment: String should have at least 1 character"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_disturbs_no_other_workflow(engine, root, text, message):
    path = write(root, text)
    error = read(engine, lambda config: config.environment)
    assert error.type == "ConfigurationError" and error.message.startswith(f"{path}: ")
    with pytest.raises(ConfigurationError, match=message):
        engine.configurations.values("orders")
    assert read(engine, lambda config: config.environment, "returns") == "development"


def test_a_literal_secret_is_refused_without_being_shown(engine, root):
    write(root, {"secrets": {"API_KEY": "sk-live-123456", "OTHER": "env:FINE"}})
    error = read(engine, lambda config: config.secrets["API_KEY"])
    assert "API_KEY" in error.message and '"env:NAME"' in error.message and "OTHER" not in error.message
    assert "sk-live" not in error.message
    with pytest.raises(ValidationError) as caught:
        WorkflowConfig(secrets={"API_KEY": "sk-live-123456"})
    assert "sk-live" not in str(caught.value) + repr(caught.value.errors)


def test_an_engine_without_a_directory_is_configured_in_memory(monkeypatch):
    monkeypatch.setenv("ORDERS_KEY", "from-the-environment")
    engine = WorkflowEngine(SQLiteStore(), settings=Settings(sync_handlers="inline"))
    assert read(engine, lambda config: config.environment) == "development"
    engine.configure("orders", environment="test", variables={"A": "1"}, secrets={"S": "the-value"})
    engine.configure("orders", variables={"B": "2"}, secrets={"T": "env:ORDERS_KEY"})
    assert read(engine, lambda config: (config.environment, dict(config.variables), dict(config.secrets))) == (
        "test",
        {"A": "1", "B": "2"},
        {"S": "the-value", "T": "from-the-environment"},
    )
    error = read(engine, lambda config: config.variables["C"])
    assert "in memory" in error.message
    with pytest.raises(ValidationError):
        engine.configure("orders", variables={"A": 1})
    with pytest.raises(ValidationError) as caught:
        engine.configure("orders", secrets={"A": 123456})
    assert "123456" not in str(caught.value)
    engine.close()


@pytest.mark.parametrize(
    "given",
    [
        {"environment": ""},
        {"environment": 5},
        {"variables": [1]},
        {"variables": "ab"},
        {"variables": {1: "a"}},
        {"secrets": 5},
        {"secrets": ["sk-live-1"]},
        {"secrets": {"A": 1}},
        {"secrets": {"not a name": "x"}},
    ],
    ids=repr,
)
def test_what_is_no_configuration(engine, given):
    with pytest.raises(ValidationError) as caught:
        engine.configure("orders", **given)
    assert "sk-live" not in str(caught.value)
    assert read(engine, lambda config: (config.environment, dict(config.variables))) == ("development", {})


@pytest.mark.parametrize("name", [None, "", "../x", 5])
def test_only_a_workflow_is_configured(engine, name):
    with pytest.raises(ValidationError, match="Not the name of a workflow"):
        engine.configure(name, environment="test")


def test_memory_goes_before_the_file(engine, root):
    write(root, {"environment": "production", "variables": {"A": "1", "B": "1"}})
    engine.configure("orders", variables={"A": "2"})
    assert read(engine, lambda config: (config.environment, dict(config.variables))) == (
        "production",
        {"A": "2", "B": "1"},
    )


def test_the_errors_have_a_place_among_the_others():
    error = MissingConfigurationError("a message")
    assert str(error) == "a message"
    assert isinstance(error, KeyError) and not isinstance(ConfigurationError("x"), KeyError)


def test_the_harness_configures(workflow):
    @workflow.define("orders")
    async def orders(ctx):
        await ctx.sleep("pause", 1_000)
        return await ctx.step("look", lambda: ctx.config.variables["SIZE"])

    workflow.configure("orders", variables={"SIZE": "9"})
    workflow.run("orders", "o-1", until="sleeping")
    workflow.reopen()
    assert workflow.wait("o-1").output == "9"
