"""Settings of this repository's own test suite."""

import gc
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

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

LONGEST_FIRST = ("docs", "reliability", "server", "e2e", "cli", "cluster", "plugin")
"""Directories of tests whose files take long, in the order in which they begin."""


@pytest.hookimpl(trylast=True)  # after pytest-randomly, whose order stays within a file
def pytest_collection_modifyitems(items):
    """Let the files that take long begin, so that no process is left alone with one at the end."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.parent.name, len(places)))


def pytest_collection_finish():
    """Leave what was imported and collected alone: runs of pytest within tests collect garbage many times."""
    gc.collect()
    gc.freeze()
