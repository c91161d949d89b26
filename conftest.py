"""Settings of this repository's own test suite."""

import contextlib
import gc
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

with contextlib.suppress(ImportError):
    import hypothesis  # noqa: F401 - else its plugin imports it at the end of a run, where a warning is an error

# Else each of the many processes that tests start would compile every module of the project anew, and each process of
# the tests would rewrite the assertions of every test anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Whoever runs the tests in the background of a shell may ignore interrupts; the processes of the tests must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tests choose their databases by themselves; `WORKFLOW_TEST_POSTGRES_URL` is what names a server for them.
os.environ.pop("WORKFLOW_DATABASE_URL", None)

# Tests let thousands of databases be written to the disk, and none of them cuts the power.
MEMORY = Path("/dev/shm")  # noqa: S108 - pytest makes a directory of its own there
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    if not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:  # PostgreSQL's programs may be copied there
        os.environ.setdefault("TMPDIR", str(MEMORY))
        tempfile.tempdir = None

LONGEST_FIRST = (
    "reliability/test_worker_network.py",
    "server/test_dashboard_browser.py",
    "docs/test_docs.py",
    "reliability/test_worker_outages.py",
    "server/test_cluster_browser.py",
    "reliability/test_kills.py",
    "reliability/test_worker_ends.py",
    "unit/test_postgres_in_doubt.py",
    "plugin/test_crash_exploration.py",
    "plugin/test_strategies.py",
    "plugin/test_coverage_report.py",
    "plugin/test_compatibility.py",
    "reliability/test_workers.py",
    "plugin/test_history_invariants.py",
    "plugin/test_postgres_store.py",
    "server/test_processes.py",
    "cluster/test_worker.py",
    "unit/test_dispatching_in_doubt.py",
    "plugin/test_state_machine.py",
    "server/test_description.py",
    "plugin/test_strategies_of_inputs.py",
    "unit/test_listing.py",
    "unit/test_crash_loops.py",
    "reliability/test_process_death.py",
    "reliability/test_bad_input.py",
    "plugin/test_report_plugin.py",
    "unit/test_imports.py",
    "unit/test_postgres_upgrades.py",
    "plugin/test_options_and_markers.py",
    "unit/test_postgres_store.py",
    "reliability/test_power_loss.py",
    "reliability/test_worker_interventions.py",
    "plugin/test_failing_assertions.py",
    "plugin/test_replay_commands.py",
    "unit/test_retention.py",
    "unit/test_store.py",
    "cli/test_commands.py",
    "unit/test_limits.py",
    "plugin/test_coverage_outcomes.py",
    "reliability/test_simulated_crashes.py",
    "unit/test_engine.py",
    "unit/test_scale.py",
    "cli/test_processes.py",
    "docs/test_site.py",
    "order_processing/test_interruption.py",
    *("docs", "reliability", "server", "e2e", "cli", "cluster", "plugin"),
)
"""Files of tests that take long, and directories of such, in the order in which they begin.

One in three waits for other processes for much of its time: were they to run at the same time, processors would idle.
"""


@pytest.hookimpl(trylast=True)  # after pytest-randomly, whose order stays within a file
def pytest_collection_modifyitems(items):
    """Let the files that take long begin, so that no process is left alone with one at the end."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}

    def place(item):
        directory = item.path.parent.name
        return places.get(f"{directory}/{item.path.name}", places.get(directory, len(places)))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Let more processes run than there are processors: tests of processes and servers wait for much of their time."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return round(1.5 * processors)


def pytest_collection_finish():
    """Leave what was imported and collected alone: runs of pytest within tests collect garbage many times."""
    gc.collect()
    gc.freeze()
