"""The pytest plugin behind ``--workflow-report``: it captures in the process of a test and writes in that of the run.

What a test did travels as JSON in an attribute of its `pytest.TestReport`, which pytest-xdist brings to the controller.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from pytest_workflow.items import crash_summaries
from pytest_workflow.report.capture import FaultWatch, capture
from pytest_workflow.report.model import Outcome, Report, TestEntry, WorkflowRecord
from pytest_workflow.report.page import render
from workflow_core.report.reading import shortened
from workflow_core.report.scale import duration_text
from workflow_core.report.sections import count, seconds_text
from workflow_core.whole_files import neighbour, write_whole

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_workflow.environment import Environment

__all__ = ["ReportPlugin", "register"]

_ENVIRONMENT_FIXTURE = "_workflow_environment"
_ATTRIBUTE = "workflow_record"

_source_key = pytest.StashKey["_Source"]()


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a test's record comes from, while it runs."""

    environment: Environment
    watch: FaultWatch


@dataclass(slots=True)
class _Phases:
    """What has been reported of one test so far."""

    reports: list[pytest.TestReport] = field(default_factory=list)
    record: WorkflowRecord | None = None


def register(config: pytest.Config, option: str) -> None:
    """Begin to make a report.

    Args:
        config: The configuration of the run.
        option: The value of ``--workflow-report``.

    Raises:
        pytest.UsageError: No file can be written there.
    """
    path = Path(config.invocation_params.dir, os.path.expandvars(Path(option).expanduser())).resolve()
    is_worker = hasattr(config, "workerinput")
    if not is_worker and not config.option.collectonly:
        _check(path, option)
    config.pluginmanager.register(ReportPlugin(path, writes=not is_worker), "workflow-report")


def _check(path: Path, option: str) -> None:
    """Refuse a path at the start of the run rather than at its end."""
    if not option or path.is_dir():
        raise pytest.UsageError(f"--workflow-report={option}: name a file, such as --workflow-report=report.html")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = neighbour(path)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise pytest.UsageError(
            f"--workflow-report={option}: no file can be written in {path.parent} ({error.strerror or error}); name "
            "another place"
        ) from None


class ReportPlugin:
    """Captures what workflow tests do and, in the process of the run, writes the report.

    Args:
        path: The file.
        writes: Whether this is the process of the run; a worker of pytest-xdist is not.
    """

    def __init__(self, path: Path, *, writes: bool) -> None:
        self._path = path
        self._writes = writes
        self._began = time.perf_counter()
        self._tests: dict[str, _Phases] = {}
        self._written: str | None = None
        self._failure: str | None = None

    def pytest_report_header(self) -> str | None:
        """Say where the report will be."""
        return f"workflow report: {self._path}" if self._writes else None

    # In the process of a test ----------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Watch the engine of a test from its first moment."""
        value = yield
        if fixturedef.argname == _ENVIRONMENT_FIXTURE:
            environment = cast("Environment", value)
            request.node.stash[_source_key] = _Source(environment, FaultWatch(environment))
        return value

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Read the executions of a test before its engine is closed."""
        report = yield
        ends = call.when == "call" or (call.when == "setup" and call.excinfo is not None)
        source = item.stash.get(_source_key, None)
        if ends and source is not None:
            record = capture(source.environment, source.watch)
            offered = item.ihook.pytest_workflow_report_sections(item=item)
            sections = tuple((str(title), shortened(str(text))) for several in offered for title, text in several)
            setattr(report, _ATTRIBUTE, record.model_copy(update={"sections": sections}).model_dump_json())
        elif ends and call.excinfo is not None and _ENVIRONMENT_FIXTURE in getattr(item, "fixturenames", ()):
            setattr(report, _ATTRIBUTE, WorkflowRecord(virtual_ms=0).model_dump_json())  # its set-up came to no engine
        if call.when == "teardown" and source is not None:
            del item.stash[_source_key]
        return report

    # In the process of the run ---------------------------------------------------------------------------------------

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather the phases of each test."""
        if not self._writes:
            return
        phases = self._tests.setdefault(report.nodeid, _Phases())
        if report.when == "setup":
            phases.reports.clear()  # a test that is run again counts once, by its last run
        phases.reports.append(report)
        text = getattr(report, _ATTRIBUTE, None)
        if text is not None:
            phases.record = WorkflowRecord.model_validate_json(text)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the report."""
        if not self._writes or session.config.option.collectonly:
            return
        report = self._report(session.config)
        try:
            size = _write(self._path, render(report))
        except OSError as error:
            self._failure = f"{self._path} cannot be written: {error.strerror or error}"
            if session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
            return
        executions = sum(len(test.record.executions) for test in report.tests)
        virtual_ms = sum(test.record.virtual_ms for test in report.tests)
        real = sum(test.seconds for test in report.tests)
        self._written = (
            f"{count(len(report.tests), 'workflow test')}, {count(executions, 'execution')}, "
            f"{duration_text(round(virtual_ms))} of virtual time in {seconds_text(real)}: "
            f"{self._path} ({max(size // 1_000, 1):,} kB)"
        )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was written, and where."""
        if self._written is not None or self._failure is not None:
            terminalreporter.section("workflow report")
        if self._written is not None:
            terminalreporter.line(self._written)
        if self._failure is not None:
            terminalreporter.line(self._failure, red=True)

    def _report(self, config: pytest.Config) -> Report:
        tests = [_test(phases.record, phases.reports) for phases in self._tests.values() if phases.record is not None]
        # By place, because the order of arrival depends on how many processes there are.
        tests.sort(key=lambda test: (test.outcome not in {"failed", "error"}, test.file, test.line, test.node_id))
        return Report(
            title=config.rootpath.name or str(config.rootpath),
            written_at=datetime.now().astimezone(),
            tests=tuple(tests),
            other_tests=len(self._tests) - len(tests),
            seconds=time.perf_counter() - self._began,
            environment={
                "pytest-workflow-core": _version("pytest-workflow-core"),
                "pytest": pytest.__version__,
                "Python": platform.python_version(),
            },
        )


def _version(distribution: str) -> str:
    with contextlib.suppress(PackageNotFoundError):
        return version(distribution)
    return "of a source tree"


def _test(record: WorkflowRecord, reports: list[pytest.TestReport]) -> TestEntry:
    first = reports[0]
    failures = [report.longreprtext for report in reports if report.failed]
    crashes = [("Crash exploration", summary) for report in reports for summary in crash_summaries(report)]
    record = record.model_copy(update={"sections": (*crashes, *record.sections)})
    file, line, _ = first.location
    return TestEntry(
        node_id=first.nodeid,
        file=file,
        line=line or 0,
        outcome=_outcome(reports),
        seconds=sum(report.duration for report in reports),
        failure=shortened("\n\n".join(failures)) if failures else None,
        record=record,
    )


def _outcome(reports: list[pytest.TestReport]) -> Outcome:
    """Return the outcome of a test, as pytest's summary names it."""
    if any(report.when == "call" and report.failed for report in reports):
        return "failed"
    if any(report.failed for report in reports):
        return "error"
    expected = any(hasattr(report, "wasxfail") for report in reports)
    if any(report.skipped for report in reports):
        return "xfailed" if expected else "skipped"
    return "xpassed" if expected else "passed"


def _write(path: Path, page: str) -> int:
    """Write the whole file or nothing; return its size in bytes."""
    data = page.encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data, private=False)
    return len(data)
