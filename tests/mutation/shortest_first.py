"""Run the short tests first: most mutants die of one of them, and mutmut runs those of a mutant in any order."""

import json
from pathlib import Path

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Sort tests by how long they took when mutmut looked at what they call."""
    known = Path("mutmut-stats.json")
    if known.exists():
        durations = json.loads(known.read_text(encoding="utf-8"))["duration_by_test"]
        items.sort(key=lambda item: durations.get(item.nodeid, 0.0))
