"""The parts of the command: texts, tables, timelines, growing log files, live pictures, completion, seen alone."""

import asyncio
import dataclasses
import io
import logging
import shlex
from datetime import UTC, datetime, timedelta

import pytest
from click.shell_completion import ShellComplete
from rich.console import Console

from workflow_core import Settings, WorkflowEngine
from workflow_core.cli import display, output
from workflow_core.cli.application import workflow
from workflow_core.cli.commands import cluster
from workflow_core.cli.display import picture
from workflow_core.cli.failures import Failure
from workflow_core.cli.logging_setup import log_to_stderr
from workflow_core.cli.moments import moment_of
from workflow_core.cli.output import Signs, in_colour, print_table
from workflow_core.cli.texts import age_text, one_line, shortened, visible
from workflow_core.cli.timeline import draw
from workflow_core.clock import to_epoch_ms
from workflow_core.database.dispatch import ClusterState, DispatchState, QueueState, WorkerState
from workflow_core.limits import Limits
from workflow_core.ownership import Owner
from workflow_core.views.execution_view import read_view
from workflow_core.views.log_reading import GrowingFiles, LogFilter
from workflow_core.views.wording import limits_text, remaining, took_text

NOW = datetime(2026, 11, 26, 8, 30, tzinfo=UTC)


def test_texts():
    assert visible("a\x1b[31m\u202eb\ud800\n") == "a\\x1b[31m\\x202eb\\xd800\n"
    assert one_line("  first\nsecond") == "first ..."
    assert one_line("Invalid config:\r\n  n: a number\n  m: a text") == "Invalid config: n: a number ..."
    assert one_line("Invalid config:\n  n: a number") == "Invalid config: n: a number"
    assert one_line("nothing follows:\n") == "nothing follows:"
    took = {-5: "0 ms", 3.4: "3 ms", 999: "999 ms", 1_234: "1.2 s", 59_940: "59.9 s", 61_400: "1 min 1 s"}
    assert {milliseconds: took_text(milliseconds) for milliseconds in took} == took
    each = Limits(concurrency=20, concurrency_per_key=1, starts_per_key=100, period_ms=60_000, key="customer.id")
    assert (
        limits_text(each) == "20 at once, 1 at once for each customer.id, 100 begin in any 1 min for each customer.id"
    )
    assert limits_text(Limits(starts=5)) == "5 begin in any 1 s"
    assert (shortened("abcdef", 6), shortened("abcdefg", 6), shortened("abc", 1)) == ("abcdef", "abc...", ".")
    ages = {0: "now", 59: "59 s ago", 90: "2 min ago", 7_200: "2 h ago", 172_800: "2 d ago"}
    assert {seconds: age_text(NOW - timedelta(seconds=seconds), NOW) for seconds in ages} == ages
    assert (age_text(None, NOW), age_text(None, NOW, "never")) == ("-", "never")


@pytest.mark.parametrize("level", ["Debug", "warn", "TRACE", "critical"])
def test_nothing_on_stderr_can_steer_a_terminal(monkeypatch, capsys, level):
    monkeypatch.setenv("LOG_LEVEL", level)
    hostile = "a\x1b[2Jb\u202ec"
    with log_to_stderr():
        try:
            raise ValueError(hostile)
        except ValueError as error:
            logging.getLogger("workflow_core.workflow.w").exception("said %s", hostile)
            failure = Failure(hostile, 2)
            failure.__cause__ = error
    stream = io.StringIO()
    failure.show(stream)
    Failure("it failed", 2, hostile).show(stream)
    shown = capsys.readouterr().err + stream.getvalue()
    assert shown.count("a\\x1b[2Jb\\x202ec") >= 4
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_what_remains_of_a_wait():
    at = to_epoch_ms(NOW)
    assert [remaining(at + ms, NOW) for ms in (-1, 0, 1_240, 9_999, 12_400, 90_000)] == [
        "0 s",
        "0 s",
        "1.2 s",
        "10.0 s",
        "12 s",
        "1 min 30 s",
    ]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30s", NOW - timedelta(seconds=30)),
        ("10m", NOW - timedelta(minutes=10)),
        ("1.5h", NOW - timedelta(minutes=90)),
        ("7D", NOW - timedelta(days=7)),
        ("2026-11-26T08:00:00+01:00", datetime(2026, 11, 26, 7, 0, tzinfo=UTC)),
        ("2026-11-26", datetime(2026, 11, 26).astimezone(UTC)),
    ],
)
def test_moments(text, moment):
    assert moment_of(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "soon", "10", "99999999999999d", "2026-13-01"])
def test_no_moments(text):
    with pytest.raises(Failure, match="is no moment"):
        moment_of(text, NOW)


def test_a_growing_file_is_read_by_whole_lines(tmp_path):
    path = tmp_path / "2026-11-26.log"
    line = "2026-11-26T08:30:0{}.000000Z {} execution=e{} seq=1 event=StepStarted\n"
    path.write_text(line.format(0, "INFO", 0))
    growing = GrowingFiles(LogFilter(None, "info"))
    assert [shown[0].fields["execution"] for shown in growing.lines_so_far([path], None)] == ["e0"]
    assert growing.new_lines([path]) == []
    with path.open("a") as file:
        file.write(
            line.format(1, "INFO", 1) + line.format(2, "DEBUG", 2) + "torn line\n" + line.format(3, "WARN", 3)[:30]
        )
        file.flush()
        assert [shown[0].fields["execution"] for shown in growing.new_lines([path])] == ["e1"]
        file.write(line.format(3, "WARN", 3)[30:])
    other = tmp_path / "2026-11-27.log"
    other.write_text(line.format(4, "ERROR", 4))
    assert [shown[0].level for shown in growing.new_lines([path, other, tmp_path / "missing.log"])] == ["warn", "error"]
    assert growing.new_lines([path, other]) == []


def test_colours_are_for_terminals_and_for_those_who_want_them(monkeypatch):
    monkeypatch.setattr(output, "is_terminal", lambda stream=None: True)
    assert in_colour()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not in_colour()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr(output, "is_terminal", lambda stream=None: False)
    assert not in_colour()
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert in_colour()


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_table_fits_the_terminal(monkeypatch, capsys, columns):
    monkeypatch.setattr(output, "is_terminal", lambda stream=None: True)
    monkeypatch.setattr(output, "width", lambda: columns)
    monkeypatch.setenv("NO_COLOR", "1")
    print_table(["Name", "Count", "Details"], [["n" * 30, 7, "d" * 90], ["m", 12, "short"]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert ("d" * 90 in lines[2]) == (columns == 200)
    assert lines[2].split()[1] == "7"


@pytest.mark.parametrize(
    ("columns", "names"), [(64, "Id Status Took Steps"), (58, "Id Status Took"), (52, "Id Status"), (40, "Id Status")]
)
def test_columns_that_can_be_spared_go_before_an_id_is_cut(monkeypatch, capsys, columns, names):
    monkeypatch.setattr(output, "is_terminal", lambda stream=None: True)
    monkeypatch.setattr(output, "width", lambda: columns)
    monkeypatch.setenv("NO_COLOR", "1")
    row = ["i" * 36, "completed", "5 ms", 3]
    print_table(["Id", "Status", "Took", "Steps"], [row], flexible=0, spare=["Steps", "Took"])
    header, _, line = capsys.readouterr().out.splitlines()
    assert header.split() == names.split()
    assert ("i" * 36 in line) == (columns > 40)


def test_a_cluster_shows_numbers_and_heartbeats_on_a_narrow_terminal(monkeypatch, capsys):
    monkeypatch.setattr(output, "is_terminal", lambda stream=None: True)
    monkeypatch.setattr(output, "width", lambda: 80)
    monkeypatch.setenv("NO_COLOR", "1")
    name, began = "invoices-of-the-north-" * 3 + "end", NOW - timedelta(seconds=541)
    queue = QueueState(
        queue=name, ready=1, scheduled=0, limited=0, running=0, lost=0, parked=0, lag_ms=424_000, workers=12
    )
    worker = WorkerState(
        worker_id=1,
        host="here",
        pid=464,
        queues=("default", name),
        concurrency=3,
        started_at=began,
        last_heartbeat=began,
        is_alive=False,
        running=0,
    )
    alive = dataclasses.replace(worker, host="there", is_alive=True)
    cluster._show(ClusterState(read_at=NOW, workers=[alive, worker], queues=[queue]))
    text = capsys.readouterr().out
    assert text.index("here ") < text.index("there"), "lost workers stand first"
    assert max(map(len, text.splitlines())) <= 80
    assert "Workers" in text
    assert "9 min 1 s ago, lost" in text


def test_a_cluster_shows_a_thousand_queues_and_names_that_would_steer_a_terminal(capsys):
    queues = [
        QueueState(queue=name, ready=0, scheduled=0, limited=0, running=0, lost=0, parked=0, lag_ms=0, workers=0)
        for name in ("\x1b[31mred\u202e", *map(str, range(1_000)))
    ]
    cluster._show(ClusterState(read_at=NOW, workers=[], queues=queues))
    text = capsys.readouterr().out
    assert "\\x1b[31mred\\x202e" in text
    assert "\x1b[31m" not in text
    assert len(text.splitlines()) == 2 + 1_001 + 2
    assert text.endswith("\nNo worker runs.\n")


def test_names_of_an_execution_of_workers_steer_no_terminal(order):
    view = asyncio.run(read_view(order, "o-1"))
    dispatch = DispatchState(
        queue="\x1b[31m", priority=0, limit_key="\x1b[32m", place="running", since=None, until=None, workers=0
    )
    record = dataclasses.replace(view.record, status="running", completed_at=None, queue="\x1b[31m")
    owner = Owner(host="\x1b[33m/boot", pid=7, process_started="1")
    view = dataclasses.replace(view, record=record, dispatch=dispatch, owner=owner)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(picture(view, Signs(), NOW))
    text = console.export_text()
    assert "queue \\x1b[31m, pid 7 on \\x1b[33m" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(("level", "shown"), [("debug", True), ("info", False), ("", False)])
def test_the_queue_says_nothing_of_itself_unless_for_debugging(monkeypatch, capsys, level, shown):
    monkeypatch.setenv("LOG_LEVEL", level)
    with log_to_stderr():
        logging.getLogger("procrastinate.worker").error("Database error.")
        logging.getLogger("psycopg.pool").warning("error connecting")
        logging.getLogger("workflow_core").warning("The database is away")
    told = capsys.readouterr().err
    assert ("Database error." in told, "error connecting" in told) == (shown, shown)
    assert "The database is away" in told


@pytest.fixture
def order(app, cli, directory):
    cli("start", "order", "--execution-id", "o-1")
    cli("start", "declined", "--execution-id", "d-1")
    engine = WorkflowEngine(settings=Settings(directory=directory))
    yield engine
    engine.close()


def test_a_timeline_in_characters(order):
    events = asyncio.run(order.history("o-1"))
    signs = Signs()
    lines = draw(events, 80, signs, in_colour=False)
    names = [line.split()[0] for line in lines[1:5]]
    assert names == ["execution", "charge", "settle", "receipt"]
    assert max(map(len, lines)) <= 80
    signs.unicode = False
    plain = draw(events, 30, signs, in_colour=False)
    assert "\n".join(plain).isascii()
    assert any("x" in line and "#" in line for line in plain if line.startswith("charge"))
    assert "\x1b[" in "\n".join(draw(events, 80, signs, in_colour=True))


def test_a_picture(order):
    view = asyncio.run(read_view(order, "d-1"))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(picture(view, Signs(), NOW))
    text = console.export_text()
    assert "failed  declined  d-1" in text
    assert "NetworkError: declined \\x1b[31m for good" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("place", "since", "until", "workers", "lines"),
    [
        ("ready", 90, None, 1, ["queue mail (priority 5), ready for 1 min 30 s: no worker has taken it yet"]),
        (
            "ready",
            2,
            None,
            0,
            ["ready for 2 s", "no worker serves this queue: workflow worker --app MODULE --queue mail"],
        ),
        ("limited", None, None, 1, ["queue mail (priority 5): it waits for a limit of its workflow, key ada\n"]),
        ("scheduled", None, 30, 1, ["queue mail (priority 5): a rate limit lets it begin in 30 s"]),
        ("parked", None, 30, 1, ["queue mail (priority 5): a worker goes on with it in 30 s"]),
        ("running", None, None, 1, ["queue mail (priority 5), pid 7 on here\n"]),
        ("lost", None, None, 1, ["queue mail (priority 5), pid 7 on here, which gives no sign of life\n"]),
    ],
)
def test_a_picture_says_where_an_execution_of_workers_stands(order, place, since, until, workers, lines):
    view = asyncio.run(read_view(order, "o-1"))
    dispatch = DispatchState(
        queue="mail",
        priority=5,
        limit_key="ada",
        place=place,
        since=since and NOW - timedelta(seconds=since),
        until=until and NOW + timedelta(seconds=until),
        workers=workers,
    )
    record = dataclasses.replace(view.record, status="running", completed_at=None, queue="mail")
    owner = Owner(host="here/boot", pid=7, process_started="1")
    view = dataclasses.replace(view, record=record, dispatch=dispatch, owner=owner)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(picture(view, Signs(), NOW))
    text = console.export_text()
    for line in lines:
        assert line in text


def test_steps_that_do_not_fit_are_counted(order):
    view = asyncio.run(read_view(order, "o-1"))
    many = {f"s-{n}": dataclasses.replace(view.steps["receipt"], step_id=f"s-{n}") for n in range(40)}
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(picture(dataclasses.replace(view, steps=many), Signs(), NOW, height=24))
    assert "28 completed steps are not shown" in console.export_text()


def test_a_shell_completes_names_ids_and_options(order):
    complete = ShellComplete(workflow, {}, "workflow", "_WORKFLOW_COMPLETE")

    def offered(line, incomplete):
        return [item.value for item in complete.get_completions(shlex.split(line), incomplete)]

    assert offered("", "re") == ["resume", "restart", "recover"]
    assert offered("start", "de") == ["declined"]
    assert offered("status", "o") == ["o-1"]
    assert offered("status", "") == ["d-1", "o-1"]
    assert "--older-than" in offered("cleanup", "--o")
    for line in ("create w --file", "start w --input-file", "inspect o-1 --html"):
        assert [item.type for item in complete.get_completions(shlex.split(line), "x")] == ["file"]
    assert offered("--app surely_not_there start", "de") == []


def test_each_cell_is_measured_a_fixed_number_of_times(monkeypatch):
    measured = []
    monkeypatch.setattr(display, "cell_len", lambda text: measured.append(text) or len(text))
    rows = [display._Row("completed", f"step-{number}", "completed", "1", "now", "1 ms", "") for number in range(50)]
    widths = display._widths(rows)
    assert len({len(display._line(row, "✓", widths).plain) for row in rows}) == 1
    assert len(measured) < 50 * 5 * 4
