"""Every block of a page is seen by what runs blocks; what cannot be run as it stands is checked in another way."""

import json
import re
import sys
import tomllib

import pytest
import yaml
from markdown_it import MarkdownIt

from pytest_workflow.options import add_options
from tests.docs import cli_reference, shell
from tests.docs.sessions import Session, blocks, is_session
from tests.docs.test_docs import MORE_PAGES, PAGES, ROOT, left_alone, name_of, pytest_of, run_pytest, text_of
from workflow_core.config import WorkflowConfig
from workflow_core.definitions import executors
from workflow_core.hookspecs import ENTRY_POINT_GROUP

LANGUAGES = {"python", "console", "text", "yaml", "json", "toml", "sql", "bash"}
DIRECTIVES = {"eval-rst", "image", "include", "toctree"}
"""Blocks that tell the generator of the site what to do, and show no code."""
CODE = re.compile(r"^(from \w[\w.]* import|import \w+$|@\w|async def|class \w+[(:]|def \w+\(|await )", re.MULTILINE)
SHELL = re.compile(
    r"^(workflow -*[a-z]+|pytest|pip3?|python3?|export|curl|make|source|opentelemetry-\w+)( |$)", re.MULTILINE
)
WITHOUT_THE_PACKAGE = {
    ("docs/snapshots.md", "from inline_snapshot import snapshot"): "a tool that is not installed here",
    ("docs/how-to/deploy.md", "def test_record(workflow_replay):"): "reads the database of a production",
}
"""Blocks ``py`` rather than ``python``: the only ones that nothing runs, each with its reason."""
READERS = {"yaml": yaml.safe_load, "json": json.loads, "toml": tomllib.loads}
CHECKED_BELOW = {
    ("docs/cli.md", "toml"),
    ("docs/coverage.md", "json"),
    ("docs/definitions.md", "toml"),
    ("docs/hooks.md", "toml"),
    ("docs/storage.md", "json"),
}
"""Data that its page does not save as a file which the page's code reads."""
FILES = {name for page in PAGES for name, *_ in blocks(text_of(page)) if name}


def shown(text):
    """Return the blocks of code that a reader sees, wherever they stand, without directives."""
    found = [token for token in MarkdownIt().parse(text) if token.type in {"fence", "code_block"}]
    return [token.content for token in found if token.info.partition(" ")[0].strip("{}") not in DIRECTIVES]


def data(page, language):
    """Return the one block of a language that a page does not save as a file."""
    (content,) = [content for name, found, content in blocks(text_of(ROOT / page)) if found == language and not name]
    return READERS[language](content)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_block_escapes(page):
    """One that is indented, quoted, or fenced in another way would be found by nothing that runs blocks."""
    assert shown(text_of(page)) == [content for _, _, content in blocks(text_of(page))]


@pytest.mark.parametrize(
    "escaped",
    [
        "```text\na\n```\n```python\n1/0\n```\n",
        "```python title=shop.py\n1/0\n```\n",
        "````python\n1/0\n````\n",
        "~~~python\n1/0\n~~~\n",
        "``` python\n1/0\n```\n",
        "> ```python\n> 1/0\n> ```\n",
        "- so:\n\n  ```python\n  1/0\n  ```\n",
        "```\n1/0\n```\n",
        "so:\n\n    1/0\n\nor so\n",
        "```{code-block} python\n1/0\n```\n",
    ],
)
def test_a_block_that_escapes(escaped):
    text = f"before\n\n{escaped}"
    assert shown(text) != [content for _, _, content in blocks(text)]


@pytest.mark.parametrize("page", [*PAGES, *MORE_PAGES], ids=name_of)
def test_a_block_of_code_is_one_that_is_run(page):
    """Python, sessions and files are; anything else is no code, or is checked here."""
    text = text_of(page)
    for name, language, content in blocks(text):
        if language == "py":
            assert (name_of(page), content.partition("\n")[0]) in WITHOUT_THE_PACKAGE, "```python, or a reason"
            continue
        assert language in LANGUAGES, f"blocks of {language} are run by nothing"
        if language == "text" and page not in MORE_PAGES:
            assert not CODE.search(content), f"this looks like Python:\n{content}"
            usage = page == cli_reference.PAGE
            assert usage or not SHELL.search(content), f"a block of bash, or console with what is printed:\n{content}"
        assert name or '__name__ == "__main__"' not in content, "a program needs a name, by which it is run"
        if language in READERS:
            READERS[language](content)
            runs = is_session(text) or "```python\n" in text
            assert (name and runs) or (name_of(page), language) in CHECKED_BELOW, f"no code reads this:\n{content}"
    typed = "".join(content for _, language, content in blocks(text) if language == "console")
    for name in left_alone(text) if is_session(text) else ():
        assert re.search(rf"\b{name.rpartition('/')[2].removesuffix('.py')}\b", typed), (
            f"nothing imports or runs {name}"
        )


@pytest.fixture(scope="module")
def options():
    """Give the options of the plugin."""
    parser = pytest.Parser(_ispytest=True)
    add_options(parser)
    return {name for group in parser._groups for option in group.options for name in option.names()}


@pytest.mark.parametrize("page", [*PAGES, *MORE_PAGES], ids=name_of)
def test_commands_would_be_understood(page, options):
    typed = []
    for _, language, content in blocks(text_of(page)):
        if language == "bash":
            typed += shell.lines(content)
        elif language == "text":
            typed += [line for line in shell.lines(content) if f"\n$ {line}" in f"\n{content}"]
            typed += [shell.OUR_COMMAND.sub("", line) for line in content.splitlines() if shell.OUR_COMMAND.match(line)]
    assert [f"{line}: {wrong}" for line in typed for wrong in shell.mistakes(line, FILES, options)] == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("workflow strat order", 'did you mean "start"?'),
        ("workflow -q start order --nonsense 3 | jq .", "--nonsense"),
        ("workflow cluster stats", "stats"),
        ("workflow cleanup --older-than many", "many"),
        ("WORKFLOW_APP=shop workflow start", "Missing argument"),
        ("pytest --workflow-nonsense=3 test_a.py", "pytest has no --workflow-nonsense"),
        ("python -m pytest tests/unit/test_nothing.py", "there is no tests/unit/test_nothing.py"),
        ('pip install "pytest-workflow-core[cli,nonsense]"', "there is no extra nonsense"),
        ("cd shop && python shopp.py", "there is no shopp.py"),
        ("python -m shopp", "there is no module shopp"),
        ("make nonsense JOBS=3", "make has no nonsense"),
        ("wrokflow list", "wrokflow is not a known program"),
    ],
)
def test_a_command_that_would_not_be_understood(line, wrong, options):
    (found,) = shell.mistakes(line, {"test_a.py", "shop.py"}, options)
    assert wrong in found


def test_groups_of_entry_points_are_those_that_are_read():
    assert {*data("docs/hooks.md", "toml")["project"]["entry-points"]} == {ENTRY_POINT_GROUP}
    assert {*data("docs/definitions.md", "toml")["project"]["entry-points"]} == {executors.ENTRY_POINT_GROUP}


def test_the_configuration_of_a_workflow_is_one():
    config = WorkflowConfig(**data("docs/storage.md", "json"))
    assert config.environment == "production"


def test_the_app_in_pyproject_is_imported(tmp_path, monkeypatch, nursery):
    monkeypatch.setenv("WORKFLOW_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("WORKFLOW_APP", raising=False)
    (written,) = [content for _, language, content in blocks(text_of(ROOT / "docs/cli.md")) if language == "toml"]
    (tmp_path / "pyproject.toml").write_text(written, encoding="utf-8")
    (tmp_path / "shop").mkdir()
    defining = "from workflow_core import Workflow\nWorkflow.define('of-the-app', lambda ctx: None)\n"
    (tmp_path / "shop" / "workflows.py").write_text(defining, encoding="utf-8")
    run = nursery.run([sys.executable, "-m", "workflow_core.cli", "list", "--quiet"], cwd=tmp_path)
    assert run.stdout == "of-the-app\n", run.stderr


def is_part(shortened, whole):
    """Return whether everything in the one is in the other, at the same place."""
    if isinstance(shortened, dict):
        return all(key in whole and is_part(value, whole[key]) for key, value in shortened.items())
    return shortened == whole


def test_the_data_of_coverage_is_what_the_tests_of_its_page_make(tmp_path, monkeypatch, nursery):
    text = text_of(ROOT / "docs/coverage.md")
    Session(tmp_path, {}, nursery).save(text)
    monkeypatch.chdir(tmp_path)
    run = run_pytest(nursery, "-q", "--workflow-coverage-json=coverage.json", environment=pytest_of(text))
    assert run.returncode == 0, run.stdout
    assert is_part(data("docs/coverage.md", "json"), READERS["json"]((tmp_path / "coverage.json").read_text()))
