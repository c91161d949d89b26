"""Sessions: pages that tell a reader, step by step, which files to save and which commands to type.

A block of code whose line above names a file (``Save as `orders.py`:``) is that file, from there on. A line
``$ command`` of a ``console`` block is run by a shell, and prints what stands below it; ``...`` stands for anything,
and moments, durations and the widths of tables do not count.

``command & sleep 1; kill -9 $!`` would depend on how fast the machine is. So the command is killed shortly after it has
printed what stands below it; with ``kill $!`` the last line is what it prints when it is told to stop.

A command that needs no shell, and is ``python``, ``pytest`` or ``workflow``, is born in the nursery of processes.
"""

import doctest
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.nursery import Nursery

FENCE = re.compile(r"^(?P<above>[^\n]*)\n+^```(?P<language>[\w-]+)\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`([\w./-]+\.\w+)`[^`]*:$")
"""A line that ends with a colon and whose last code is the name of a file."""
SAVED = {"python": ".py", "yaml": ".yaml", "json": ".json", "toml": ".toml", "ini": ".ini"}
VARYING = [
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?"), "<moment>"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "<moment>"),
    (re.compile(r"\d+(\.\d+)? ?(ms|s|min|kB|B)\b"), "<amount>"),
    (re.compile(r"<amount> ago|  now(?=  )"), "<age>"),
    (re.compile(r"\d+ runs/s"), "<speed>"),
    (re.compile(r"-{3,}"), "---"),
    (re.compile(r"={3,}"), "==="),
    (re.compile(r"_{3,}"), "___"),
]
HOME = "/home/ada/shop"
"""What pages call the folder in which they are followed."""
MATCH = doctest.OutputChecker()
KILLED = re.compile(r"(?P<command>.*) & sleep [\d.]+; kill (?P<at_once>-9 )?\$!(; wait)?")
OPERATORS = set("();<>|&")
EXPANDED = set("$`*")
SETTLING = 0.3
"""Seconds from what a command prints to its end: what it has printed of is in the database by then."""


def commands(content):
    """Return the commands of a console block, each with what it is said to print."""
    parts = re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]
    return [tuple(part.partition("\n")[::2]) for part in parts]


def blocks(text):
    """Return each block as the name of its file (or None), its language and its content."""
    found = []
    for match in FENCE.finditer(text):
        named = NAMED.search(match["above"])
        name = named[1] if named and Path(named[1]).suffix == SAVED.get(match["language"]) else None
        found.append((name, match["language"], match["content"]))
    return found


def parts(text):
    """Return a page in parts, each of which needs the files of those before it, but not what their commands did."""
    return text.split("<!-- what follows needs the files above, not what the commands above did -->")


def is_session(text):
    return "```console\n" in text


def plain(text):
    for pattern, stand_in in VARYING:
        text = pattern.sub(stand_in, text)
    return text


class Session:
    """An empty folder, in which a page is followed."""

    def __init__(self, folder: Path, environment: Mapping[str, str], nursery: Nursery):
        self.folder = folder
        self.nursery = nursery
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",  # a file that is saved twice in one second would be taken from the cache
            "COLUMNS": "100",
            "NO_COLOR": "1",
            **environment,
        }

    def save(self, text: str) -> None:
        """Save the files of a page."""
        for name, _, content in blocks(text):
            if name:
                self.save_file(name, content)

    def save_file(self, name: str, content: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")

    def follow(self, text: str) -> None:
        """Save the files and run the commands of a page, in its order."""
        for name, language, content in blocks(text):
            if name:
                self.save_file(name, content)
            elif language == "console":
                for command, expected in commands(content):
                    self.run(command, expected)
            else:
                assert language != "python", f"a block of a session names no file:\n{content}"

    def run(self, command: str, expected: str) -> None:
        """Run a command, and hold what it prints against what the page says."""
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self.environment[name] = value.replace("$PWD", str(self.folder)).strip("'\"")
            return
        killed = KILLED.fullmatch(command)
        output = self.output_until_killed(killed, expected) if killed else self.output_of(command)
        printed = re.sub(r"\s+$", "", output, flags=re.MULTILINE).replace(str(self.folder), HOME)
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        if not MATCH.check_output(plain(expected.strip()), plain(printed.strip()), options):
            raise AssertionError(f"$ {command}\nprinted\n{output}\nbut the page says\n{expected}")

    def output_of(self, command: str) -> str:
        return self.nursery.run(words_of(command), **self.options()).stdout

    def output_until_killed(self, killed: re.Match[str], expected: str) -> str:
        lines = len(expected.splitlines()) - (0 if killed["at_once"] else 1)
        with self.nursery.popen(words_of(killed["command"]), **self.options()) as process:
            first = [process.stdout.readline() for _ in range(lines)]
            time.sleep(SETTLING)
            process.send_signal(signal.SIGKILL if killed["at_once"] else signal.SIGTERM)
            return "".join(first) + process.communicate()[0]

    def options(self):
        return {
            "cwd": self.folder,
            "env": self.environment,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
        }


def words_of(command: str) -> list[str]:
    """Return the words of a command of one program; any other is one of a shell."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words = list(lexer)
    needs_a_shell = EXPANDED & set(command) or any(set(word) <= OPERATORS for word in words)
    return ["bash", "-c", command] if needs_a_shell else words
