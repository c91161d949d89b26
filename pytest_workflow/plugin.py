"""The plugin for ``-p pytest_workflow.plugin``, where its entry point does not load it.

The foreign distribution pytest-workflow keeps its own plugin in a module of this name. If both are installed, pytest
imports this one, and is told that they cannot be; otherwise it would end with a traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_workflow import entry

if TYPE_CHECKING:
    import pytest

entry.refuse_namesake()


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Load the plugin, unless it is loaded."""
    if not pluginmanager.is_registered(entry):
        pluginmanager.register(entry, "workflow_core")
