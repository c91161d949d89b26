"""The page on the command line is true: its reference is that of the commands, and its session runs."""

import re
import shlex
import sys
from pathlib import Path

import click

from tests.docs import cli_reference
from tests.shared_definitions import scoped
from workflow_core.cli.application import COMMANDS, run, workflow
from workflow_core.cli.invocation import make_command

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def bare(text):
    """Return a text without what differs between versions of click: line breaks, and notes in brackets."""
    return re.sub(r"\s+|\[.*?\]", "", text)


def test_the_reference_is_not_stale():
    assert bare(cli_reference.PAGE.read_text(encoding="utf-8")) == bare(cli_reference.reference()), "run: make docs"


def test_commands_below_commands_are_in_the_reference(monkeypatch):
    """A group of commands appears with its own overview and its commands, without a word about it here."""
    hungry = click.Option(["--hungry"], is_flag=True, help="Feed them.")
    group = click.Group("flock", help="Many sheep.", params=[hungry])

    @make_command("count", examples="workflow flock count")
    def count():
        """Say how many there are."""

    group.add_command(count)
    monkeypatch.setitem(COMMANDS, "flock", COMMANDS["list"]._replace(summary="Mind sheep."))
    known = workflow.get_command
    monkeypatch.setattr(workflow, "get_command", lambda ctx, name: group if name == "flock" else known(ctx, name))
    text = cli_reference.reference()
    assert "| [`workflow flock`](#workflow-flock) | Mind sheep. |" in text
    assert "## workflow flock\n\nMany sheep.\n" in text
    assert "| `--hungry` | Feed them. |" in text
    assert text.count("| [`workflow flock count`](#workflow-flock-count) | Say how many there are. |") == 2
    assert "```bash\nworkflow flock count\n```" in text


def test_every_command_and_option_says_what_it_does_and_every_command_has_examples():
    for context in cli_reference.commands(cli_reference.root()):
        command = context.command
        assert command.help, context.command_path
        assert isinstance(command, click.Group) or cli_reference.epilog(command).get("Examples"), context.command_path
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or parameter.help, (context.command_path, parameter.name)


def test_the_session_runs(tmp_path, monkeypatch, capsys):
    session = re.search(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    module, rest = re.match(r"cat > shop.py <<'EOF'\n(.*?)^EOF\n(.*)", session, re.DOTALL | re.MULTILINE).groups()
    (tmp_path / "shop_of_the_session.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with scoped(empty=True):
        for line in rest.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["export"]:
                name, _, value = words[1].partition("=")
                monkeypatch.setenv(name, value.replace("$PWD", str(tmp_path)).replace("shop", "shop_of_the_session"))
            elif words:
                assert words[0] == "workflow"
                assert run(words[1:]) == 0, line
    sys.modules.pop("shop_of_the_session")
    out, err = capsys.readouterr()
    assert "completed  order  order-1001" in out
    assert '"receipt": "order-1001"' in out
    assert "NetworkError" in out
    assert (tmp_path / "order-1001.html").exists()
    assert "Hello from workflow!" in err
