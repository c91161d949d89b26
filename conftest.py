"""Settings of this repository's own test suite."""

import os

# Else each of the many processes that tests start would compile every module of the project anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
