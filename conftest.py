"""Settings of this repository's own test suite."""

import gc
import os

# Else each of the many processes that tests start would compile every module of the project anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The tests choose their databases by themselves; `WORKFLOW_TEST_POSTGRES_URL` is what names a server for them.
os.environ.pop("WORKFLOW_DATABASE_URL", None)


def pytest_collection_finish():
    """Leave what was imported and collected alone: runs of pytest within tests collect garbage many times."""
    gc.collect()
    gc.freeze()
