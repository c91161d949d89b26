"""Where the workflows of a command come from."""

import pytest

from workflow_core.cli.loading import find_app

ENGINE = """
from workflow_core import Settings, WorkflowEngine
from workflow_core.database.sqlite import SQLiteStore

engine = WorkflowEngine({store})

@engine.define("own")
async def own(ctx):
    return await ctx.step("a", lambda: "of the engine")

class Holder:
    inner = engine

value = 1
"""


def test_importing_the_module_defines_its_workflows(cli, make_app):
    name = make_app()
    assert cli("start", "order", "--app", name, "--quiet").code == 0
    assert cli("start", "order", "--app", f"{name}:order", "--quiet").code == 0
    assert cli("--app", name, "start", "order", "--quiet").code == 0


def test_the_attribute_may_be_an_engine_which_then_runs_them(cli, make_app, tmp_path, directory):
    name = make_app(ENGINE.format(store=f"settings=Settings(directory={str(tmp_path / 'own')!r})"))
    done = cli("start", "own", "--app", f"{name}:Holder.inner", "--execution-id", "own-1", "-F", "json")
    assert done.data["output"] == "of the engine"
    assert not directory.exists()
    assert cli("status", "own-1", "-q", "-C", tmp_path / "own").out == "completed\n"
    refused = cli("list", "--app", f"{name}:engine", "-C", tmp_path / "elsewhere")
    assert refused.code == 2
    assert "does not apply" in refused.err


def test_an_engine_without_a_directory_follows_the_option(cli, make_app, tmp_path):
    name = make_app(ENGINE.format(store=""))
    assert cli("start", "own", "--app", f"{name}:engine", "-q", "-C", tmp_path / "chosen").code == 0
    assert cli("list", "-q", "-C", tmp_path / "chosen").out == "own\n"


def test_an_engine_on_one_file(cli, make_app, tmp_path, directory):
    from pathlib import Path

    name = make_app(ENGINE.format(store=f"SQLiteStore(__import__('pathlib').Path({str(Path(tmp_path) / 'one.db')!r}))"))
    assert cli("start", "own", "--app", f"{name}:engine", "--execution-id", "o-1", "-q").code == 0
    assert (tmp_path / "one.db").exists()
    refused = cli("create", "w", "--app", f"{name}:engine")
    assert refused.code == 2
    assert "no runtime directory" in refused.err
    assert not directory.exists()


def test_the_nearest_pyproject_names_the_app(cli, make_app, tmp_path, monkeypatch):
    name = make_app()
    (tmp_path / "pyproject.toml").write_text(f'[tool.workflow]\napp = "{name}"\n')
    inner = tmp_path / "src" / "deeper"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert cli("start", "order", "--quiet").code == 0
    (inner / "pyproject.toml").write_text("[project]\nname = 'another'\n")
    assert find_app(None) is None
    (inner / "pyproject.toml").write_text("[tool.workflow]\napp = 7\n")
    assert "must be a text" in cli("list").err
    (inner / "pyproject.toml").write_text("[tool.workflow\n")
    assert "cannot be read" in cli("list").err


def test_option_before_variable_before_pyproject(monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.workflow]\napp = "third"\n')
    assert (find_app(None).module, find_app(None).directory) == ("third", tmp_path)
    monkeypatch.setenv("WORKFLOW_APP", "second:thing")
    assert (find_app(None).module, find_app(None).attribute) == ("second", "thing")
    assert find_app("first").module == "first"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("shop.py", "leave .py out"),
        ("", "names no module"),
        ("shop:", "names no module"),
        ("src/shop", "names no module"),
        ("surely_not_there", 'there is no module "surely_not_there"'),
        ("json.nothing", 'there is no module "json.nothing"'),
        ("json.decode", 'did you mean "json.decoder"?'),
        ("json:lods", 'did you mean "lods"?'.replace("lods", "loads")),
    ],
)
def test_a_wrong_name(cli, text, told):
    done = cli("list", "--app", text)
    assert done.code == 2
    assert told in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import surely_not_there\n", "ModuleNotFoundError: No module named 'surely_not_there'"),
        ("def f():\n    raise KeyError('k')\n\nf()\n", "KeyError: 'k'"),
        ("def f(:\n", "SyntaxError"),
        ("raise SystemExit(0)\n", "SystemExit: 0"),
    ],
)
def test_a_module_that_cannot_be_imported_is_shown_with_its_own_traceback(cli, make_app, code, told):
    name = make_app(code)
    done = cli("list", "--app", name)
    assert (done.code, done.out) == (2, "")
    assert told in done.err.splitlines()[-1]
    assert f"{name}.py" in done.err
    assert "importlib" not in done.err
    assert "loading.py" not in done.err
