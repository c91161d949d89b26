"""Settings of this repository's own test suite."""

import os

# Else each of the many processes that tests start would compile every module of the project anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The tests choose their databases by themselves; `WORKFLOW_TEST_POSTGRES_URL` is what names a server for them.
os.environ.pop("WORKFLOW_DATABASE_URL", None)
