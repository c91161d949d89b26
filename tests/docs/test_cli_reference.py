"""The page on the command line is true: its reference is that of the commands, and its session runs."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

from workflow_core.cli.application import run
from workflow_core.definition import SHARED_DEFINITIONS

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "cli.md"


def bare(text):
    """Return a text without what differs between versions of click: line breaks, and notes in brackets."""
    return re.sub(r"\s+|\[.*?\]", "", text)


def test_the_reference_is_not_stale():
    specification = importlib.util.spec_from_file_location("cli_reference", HERE / "cli_reference.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    text = PAGE.read_text(encoding="utf-8")
    assert bare(module.renewed(text)) == bare(text), "run: python tests/docs/cli_reference.py"


def test_the_session_runs(tmp_path, monkeypatch, capsys):
    session = re.search(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    module, rest = re.match(r"cat > shop.py <<'EOF'\n(.*?)^EOF\n(.*)", session, re.DOTALL | re.MULTILINE).groups()
    (tmp_path / "shop_of_the_session.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with SHARED_DEFINITIONS.scoped(empty=True):
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
