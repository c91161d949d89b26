"""Settings of this repository's own test suite."""

import gc
import os
import shutil
from pathlib import Path

# Else each of the many processes that tests start would compile every module of the project anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The tests choose their databases by themselves; `WORKFLOW_TEST_POSTGRES_URL` is what names a server for them.
os.environ.pop("WORKFLOW_DATABASE_URL", None)

# Tests let thousands of databases be written to the disk, and none of them cuts the power.
MEMORY = Path("/dev/shm")  # noqa: S108 - pytest makes a directory of its own there
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_finish():
    """Leave what was imported and collected alone: runs of pytest within tests collect garbage many times."""
    gc.collect()
    gc.freeze()
