"""The shell command that runs a test again as it ran: what a failure ends with."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    import pytest

__all__ = ["command"]


def command(item: pytest.Item, options: Iterable[str] = (), *, plans: bool = True) -> str:
    """Return the command that runs one test again, to be pasted into a shell where pytest was started.

    It has the options of this run that decide what a workflow test does: the configuration, the store and the plans.

    Args:
        item: The test.
        options: Further options.
        plans: Whether the fault plans of the command line belong to it.
    """
    return shlex.join(["pytest", *_configuration(item.config), _name(item), *_kept(item.config, plans=plans), *options])


def _name(item: pytest.Item) -> str:
    """Return the node id as it is counted from where pytest was started, not from its root directory."""
    path, *inside = item.nodeid.split("::")
    here = os.path.relpath(item.config.rootpath / path, item.config.invocation_params.dir)
    return "::".join([here.replace(os.sep, "/"), *inside])


def _configuration(config: pytest.Config) -> list[str]:
    option = config.option
    return [
        *(["-c", str(option.inifilename)] if getattr(option, "inifilename", None) else []),
        *([f"--rootdir={option.rootdir}"] if getattr(option, "rootdir", None) else []),
        *(argument for each in _overridden(option) for argument in ("-o", each)),
    ]


def _overridden(option: argparse.Namespace) -> list[str]:
    given = getattr(option, "override_ini", None) or ()
    # pytest itself notes there how strict it is
    return [each for each in dict.fromkeys(given) if not each.startswith("strict_")]


def _kept(config: pytest.Config, *, plans: bool) -> list[str]:
    store = config.getoption("--workflow-store")
    return [
        *([f"--workflow-store={store}"] if store else []),
        *(f"--workflow-faults={plan}" for plan in config.getoption("--workflow-faults") if plans),
    ]
