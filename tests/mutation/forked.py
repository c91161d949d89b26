"""Try mutants in one run of pytest: a process for each, forked when all tests are imported and collected.

It is a plugin of pytest, run in the directory of the mutants; `run.py` starts it. What it is to do stands in the file
that ``MUTANTS_TO_TRY`` names: a JSON object with the mutants of each file, and where to write what became of them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.utils.format_utils import mangled_name_from_mutant_name

from tests.mutation.reach import Reach, Recording

LONGEST_TEST_S = 1.0
"""Tests that take longer are left out: they wait for something, or do what a shorter one does many times."""


def durations_and_tests() -> tuple[dict[str, float], dict[str, list[str]]]:
    """Return what mutmut measured: how long each test takes, in seconds, and which tests call each function."""
    found = json.loads(Path("mutmut-stats.json").read_text(encoding="utf-8"))
    return found["duration_by_test"], found["tests_by_mangled_function_name"]


class Mutants:
    """The mutants of one run, and what kills them."""

    def __init__(self, order: Path) -> None:
        given = json.loads(order.read_text(encoding="utf-8"))
        self.names: dict[str, list[str]] = given["names"]
        self.reports: dict[str, str] = given["reports"]
        self.budget_s, self.words = given["budget_s"], given["words"]
        self.durations, self.tests = durations_and_tests()
        self.killers: dict[str, list[str]] = {}
        self.recorded = order.with_suffix(".lines")

    def chosen(
        self, name: str, items: dict[str, pytest.Item], reach: Reach | None = None, budget_s: float = math.inf
    ) -> list[pytest.Item]:
        """Return the tests for a mutant: those that killed others of its function, then the shortest."""
        function = mangled_name_from_mutant_name(name)
        known = [test for test in self.tests.get(function, ()) if test in items]
        reached = None if reach is None else reach.tests(name)
        known = [test for test in known if reached is None or test in reached]
        known = [test for test in known if self.durations[test] <= LONGEST_TEST_S]
        if self.words:
            known = [test for test in known if any(word in test for word in self.words)]
        known.sort(key=lambda test: (self.durations[test], test))
        spent, within = 0.0, []
        for test in known:
            spent += self.durations[test]
            if spent > budget_s:
                break
            within.append(test)
        killers = self.killers.get(function, [])
        within.sort(key=lambda test: killers.index(test) if test in killers else len(killers))
        return [items[test] for test in within]

    def try_all(self, session: pytest.Session) -> None:
        items = {item.nodeid: item for item in session.items}
        place = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined] # made once, for all of them
        needed = {item.nodeid for names in self.names.values() for name in names for item in self.chosen(name, items)}
        healthy = self.outcome_of(session, "", [items[test] for test in items if test in needed], 3600)
        if healthy[0] != "survived":
            raise pytest.UsageError(f"without any mutant a test fails: {healthy[1]}")
        for file, names in self.names.items():
            reach, outcomes = Reach(Path(file), self.recorded), {}
            for name in names:
                chosen = self.chosen(name, items, reach, self.budget_s)
                began = time.monotonic()
                limit_s = 30 + 5 * sum(self.durations[item.nodeid] for item in chosen)
                outcome, killer, why = (
                    self.outcome_of(session, name, chosen, limit_s) if chosen else ("no tests", "", "")
                )
                outcomes[name] = {"outcome": outcome, "killer": killer, "why": why, "seconds": time.monotonic() - began}
                for left in place.iterdir():
                    shutil.rmtree(left, ignore_errors=True)
                Path(self.reports[file]).write_text(json.dumps(outcomes, indent=1), encoding="utf-8")
                if killer:
                    self.note_killer(mangled_name_from_mutant_name(name), killer)

    def note_killer(self, function: str, killer: str) -> None:
        """Let the test that killed a mutant be the first for the next one of its function."""
        killers = self.killers.setdefault(function, [])
        if killer in killers:
            killers.remove(killer)
        killers.insert(0, killer)

    def outcome_of(
        self, session: pytest.Session, name: str, items: list[pytest.Item], limit_s: float
    ) -> tuple[str, str, str]:
        """Return what became of a mutant, the test that killed it, and of what the test failed."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.setsid()
            try:
                set_mutant_under_test(name)
                recording = None if name else Recording([Path(file) for file in self.names])
                failure = _first_failure(session, items, recording)
                if recording is not None:
                    recording.write(self.recorded)
                os.write(writing, json.dumps(failure).encode())
                os._exit(0)
            finally:
                os._exit(1)
        os.close(writing)
        told, deadline = b"", time.monotonic() + limit_s
        while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
            chunk = os.read(reading, 65536)
            if not chunk:
                break
            told += chunk
        else:
            os.close(reading)
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "timeout", "", ""
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if not told:
            return "killed", "", "the process ended"
        killer, why = json.loads(told)
        return ("killed" if killer else "survived"), killer, why


def _first_failure(session: pytest.Session, items: list[pytest.Item], recording: Recording | None) -> tuple[str, str]:
    """Run tests until one fails; return which one, and why."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    os.dup2(nowhere, reporter._tw._file.fileno())
    failures: list[tuple[str, str]] = []

    class Watch:
        @pytest.hookimpl
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                failures.append((report.nodeid, str(report.longrepr)[-300:]))

    session.config.pluginmanager.register(Watch())
    for item, following in zip(items, [*items[1:], None], strict=True):
        if recording is not None:
            recording.begins(item.nodeid)
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if failures:
            return failures[0]
    return "", ""


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    Mutants(Path(os.environ["MUTANTS_TO_TRY"])).try_all(session)
    return True
