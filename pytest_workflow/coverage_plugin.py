"""What pytest does under ``--workflow-coverage``: observe each test, merge over processes, report, and judge."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import pytest

from pytest_workflow.coverage import RunCoverage
from pytest_workflow.items import environment_key

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from pytest_workflow.coverage_observer import CoverageObserver

__all__ = ["CoveragePlugin", "register"]

NAME: Final = "workflow_coverage"

_observer_key = pytest.StashKey["CoverageObserver"]()

_REPORT_ATTRIBUTE: Final = "workflow_coverage"
"""Where a test's report carries what was seen, as text, which pytest-xdist passes on to the controller unread."""

_WHOLE = 100.0


def register(config: pytest.Config) -> None:
    """Register the plugin with pytest.

    Raises:
        pytest.UsageError: An option or a value of the configuration file is not acceptable.
    """
    config.pluginmanager.register(CoveragePlugin(config), NAME)


def _setting(config: pytest.Config, name: str) -> str:
    """Return an option, else its twin in the configuration file, else an empty text."""
    option: str | None = config.getoption(f"workflow_coverage_{name}")
    return str(config.getini(f"workflow_coverage_{name}")) if option is None else option


def _least_percent(config: pytest.Config) -> float | None:
    text = _setting(config, "fail_under")
    if not text:
        return None
    try:
        percent = float(text)
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= _WHOLE:
        raise pytest.UsageError(f"--workflow-coverage-fail-under takes a percentage from 0 to 100, not {text!r}")
    return percent


def _path(config: pytest.Config, kind: str) -> Path | None:
    """Return a file to write: an option is relative to the working directory, its twin to the configuration file."""
    text = _setting(config, kind)
    if not text:
        return None
    is_option = config.getoption(f"workflow_coverage_{kind}") is not None
    path = (config.invocation_params.dir if is_option else config.rootpath) / text
    if path.is_dir():
        raise pytest.UsageError(f"--workflow-coverage-{kind} takes the file to write, but {path} is a directory")
    return path


class CoveragePlugin:
    """Collects what the tests do to workflows, and ends the run with it.

    Args:
        config: pytest's configuration.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._json = _path(config, "json")
        self._html = _path(config, "html")
        self._least = _least_percent(config)
        self._each_id = bool(
            config.getoption("workflow_coverage_each_id") or config.getini("workflow_coverage_each_id")
        )
        self._only: list[str] = config.getoption("workflow_coverage_only") or config.getini("workflow_coverage_only")
        self._names: list[str] = []
        self._seen: list[tuple[str, str]] = []
        self._coverage = RunCoverage()
        self._told: set[str] = set()
        self._problems: list[str] = []
        self._written: list[Path] = []

    def observer(self, item: pytest.Item) -> CoverageObserver:
        """Return a plugin for the engines of a test."""
        from pytest_workflow.coverage_observer import CoverageObserver  # noqa: PLC0415 - needs the engine

        return item.stash.setdefault(_observer_key, CoverageObserver(item.nodeid))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let the last report of each test carry what was seen in it."""
        report = yield
        observer = item.stash.get(_observer_key, None)
        environment = item.stash.get(environment_key, None)
        if observer is not None and environment is not None:
            observer.knows(environment.engine.workflow_names())
        if call.when == "teardown":
            seen = observer.finish() if observer is not None else RunCoverage()
            for name in self._news():
                seen.workflow(name)
            if seen.workflows:
                setattr(report, _REPORT_ATTRIBUTE, seen.to_json())
        return report

    @pytest.hookimpl
    def pytest_workflow_explored(self, report: pytest.TestReport, reports: Sequence[pytest.TestReport]) -> None:
        """Let the report of an explored test carry what was seen in all of its runs."""
        seen = RunCoverage()
        for each in reports:
            text = getattr(each, _REPORT_ATTRIBUTE, None)
            if text is not None:
                seen.add(RunCoverage.from_json(text))
        setattr(report, _REPORT_ATTRIBUTE, seen.to_json())

    def _news(self) -> set[str]:
        """Return the workflows of imported modules that no report of this process has named."""
        module = sys.modules.get("workflow_core.definition")
        names: set[str] = set(module.SHARED_DEFINITIONS.names()) - self._told if module is not None else set()
        self._told |= names
        return names

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a test has seen, here or in another process."""
        text = getattr(report, _REPORT_ATTRIBUTE, None)
        if text is not None:
            self._seen.append((report.nodeid, text))

    # The end of the run ----------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the files, and fail a run that covers too little."""
        if hasattr(self._config, "workerinput") or self._config.option.collectonly:
            return
        self._merge()
        self._write_files()
        self._judge()
        if self._problems and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _merge(self) -> None:
        coverage = RunCoverage()
        for _, text in sorted(self._seen):  # so that the steps stand in the same order, in whatever order the tests ran
            coverage.add(RunCoverage.from_json(text))
        if self._only:
            self._names = sorted(coverage.workflows)
            coverage = coverage.only(self._only)
        self._coverage = coverage if self._each_id else coverage.grouped()

    def _write_files(self) -> None:
        if self._json is not None:
            self._write(self._json, self._coverage.to_json(indent=2) + "\n")
        if self._html is not None:
            from pytest_workflow.coverage_html import page  # noqa: PLC0415 - only when it is asked for

            self._write(self._html, page(self._coverage))

    def _write(self, path: Path, text: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode("utf-8", "xmlcharrefreplace"))
        except OSError as error:
            self._problems.append(f"the workflow coverage could not be written: {error}")
        else:
            self._written.append(path)

    def _judge(self) -> None:
        if self._least is None:
            return
        share = self._coverage.share
        if not self._coverage.workflows and self._least > 0:
            self._problems.append(f"no workflow was seen, but {self._least:g}% of workflow coverage is required")
        elif share.percent < self._least:
            self._problems.append(f"workflow coverage of {share.shown} is less than the required {self._least:g}%")

    def _why_empty(self) -> str:
        if self._names:
            asked = ", ".join(self._only)
            return f"--workflow-coverage-only={asked} names none of the workflows seen: {', '.join(self._names)}"
        return "No test ran a workflow, and no imported module defines one."

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the tables, and what is wrong."""
        if self._config.option.collectonly:
            return
        from pytest_workflow.coverage_report import terminal_report  # noqa: PLC0415 - only at the end

        terminalreporter.write_sep("=", "workflow coverage")
        if self._coverage.workflows:
            writer = terminalreporter._tw
            for line in terminal_report(self._coverage, lambda text: writer.markup(text, red=True)):
                terminalreporter.write_line(line)
        else:
            terminalreporter.write_line(self._why_empty())
        for path in self._written:
            terminalreporter.write_line(f"Written to {path}")
        for problem in self._problems:
            terminalreporter.write_line(f"ERROR: {problem}", red=True, bold=True)
