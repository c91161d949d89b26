"""Stands where the foreign distribution pytest-workflow keeps its plugin, and says that both cannot be installed.

Its entry point names this module. Without it pytest would end with a traceback before the real plugin could speak.
"""

from __future__ import annotations

import pytest

from pytest_workflow.entry import NAMESAKE

raise pytest.UsageError(NAMESAKE)
