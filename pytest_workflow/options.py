"""The options and markers of the plugin, and the store that they mean for a test; imports pytest alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "COVERAGE_OPTIONS",
    "MARKERS",
    "add_options",
    "asks_for_server",
    "check_store_option",
    "store_of",
    "store_option",
]

_STORES = ("memory", "file", "postgres")
MARKERS = (
    'workflow_store(kind): keep the state of this test in "memory", in a real "file" of its own, or on "postgres"',
    (
        "workflow_crash_everywhere(*, depth=1, nondeterministic=(), most_runs=None): run this test once for every "
        "place where the process could die, and check what is left; depth=2 tries pairs of crashes"
    ),
    "workflow_faults(*plans): arm fault plans, each the path of a JSON file or a pytest_workflow.plan.FaultPlan",
    (
        "workflow_clock(*, start=None, manual=False): begin virtual time at start (a datetime or ISO text), and let "
        "only workflow_clock.advance() move it if manual"
    ),
)

COVERAGE_OPTIONS: tuple[tuple[str, Literal["bool", "string", "args"], str | None, str], ...] = (
    ("workflow_coverage", "bool", None, "end the run with what the tests made happen to each step and handler"),
    ("workflow_coverage_fail_under", "string", "PERCENT", "fail a run that covers less than this percentage"),
    ("workflow_coverage_json", "string", "FILE", "write the workflow coverage to this file as JSON"),
    ("workflow_coverage_html", "string", "FILE", "write the workflow coverage to this file as a page of HTML"),
    ("workflow_coverage_only", "args", "GLOB", "count the workflows of this name, or glob; may be given several times"),
    ("workflow_coverage_each_id", "bool", None, "do not group step ids that differ in digits alone"),
)
_ACTIONS = {"bool": "store_true", "string": "store", "args": "append"}


def add_options(parser: pytest.Parser) -> None:
    """Add the ``--workflow-*`` options and their twins in the configuration file.

    Args:
        parser: Of pytest's command line and configuration file.
    """
    group = parser.getgroup("workflow", "durable workflows (pytest-workflow-core)")
    group.addoption(
        "--workflow-store",
        choices=_STORES,
        default=None,
        help="where the workflow fixtures keep their state: memory (default), a real file for each test, or a "
        "PostgreSQL server: that of $WORKFLOW_TEST_POSTGRES_URL, or one that is started for the tests",
    )
    group.addoption(
        "--workflow-replay-check",
        action="store_true",
        help="after every workflow.run, replay it from its record, and let a new engine go on after every step",
    )
    group.addoption(
        "--workflow-crash-everywhere",
        nargs="?",
        choices=("all", "invariants"),
        const="all",
        default=None,
        help="run every workflow test once for each place where the process could die; with =invariants the test's own "
        "assertions do not count after a crash",
    )
    group.addoption(
        "--workflow-crash-at",
        action="append",
        default=[],
        metavar="PLACE",
        help="let the process die at this place, such as step_completed:charge#1:before, and check what is left; "
        "again for a further crash in the same run",
    )
    group.addoption(
        "--workflow-power-cut",
        action="append",
        default=[],
        metavar="OPERATION:IMAGE",
        help="let workflow_power try this image of the disk alone, such as 37:2; again for another one",
    )
    group.addoption(
        "--workflow-faults",
        action="append",
        default=[],
        metavar="PLAN",
        help="arm a fault plan in every workflow test: the path of a JSON file, or the JSON itself",
    )
    for name, kind, metavar, explained in COVERAGE_OPTIONS:
        flag = f"--{name.replace('_', '-')}"
        extra = {"metavar": metavar} if metavar else {}
        group.addoption(flag, dest=name, action=_ACTIONS[kind], default=None, help=explained, **extra)
        parser.addini(name, f"same as {flag}", type=kind)
    group.addoption("--workflow-report", metavar="FILE.html", help="write an HTML report of the workflow tests")
    parser.addini("workflow_store", "default of --workflow-store", default="memory")
    parser.addini("workflow_start", "wall time at which virtual time begins, as ISO text with a zone", default="")


def check_store_option(config: pytest.Config) -> None:
    """Refuse a store of the configuration file that there is not.

    Raises:
        UsageError: There is no such store.
    """
    if config.getini("workflow_store") not in _STORES:
        raise pytest.UsageError(
            f"workflow_store = {config.getini('workflow_store')!r} in the configuration: use {_either(_STORES)}"
        )


def store_option(config: pytest.Config) -> str:
    """Return the store of the tests that do not ask for another one."""
    return str(config.getoption("--workflow-store") or config.getini("workflow_store"))


def store_of(item: pytest.Item) -> str:
    """Return where a test keeps its state: ``memory``, ``file`` or ``postgres``; a marker that says none fails it."""
    marker = item.get_closest_marker("workflow_store")
    if marker is None:
        return store_option(item.config)
    values = (*marker.args, *marker.kwargs.values())
    if len(values) != 1 or set(marker.kwargs) - {"kind"} or values[0] not in _STORES:
        kinds = _either([f'"{kind}"' for kind in _STORES])
        pytest.fail(f"@pytest.mark.workflow_store takes {kinds}, nothing else", pytrace=False)
    return str(values[0])


def asks_for_server(item: pytest.Item) -> bool:
    """Tell whether a test is to have its state on a server, however its marker says so."""
    marker = item.get_closest_marker("workflow_store")
    asked = (store_option(item.config),) if marker is None else (*marker.args, *marker.kwargs.values())
    return "postgres" in asked


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
