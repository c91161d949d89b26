"""The workflows that all engines of a process share, kept apart from test to test."""

import contextlib

from workflow_core.definition import SHARED_DEFINITIONS


@contextlib.contextmanager
def scoped(*, empty=False):
    """Forget, at the end of the ``with`` block, what was defined in it; begin it without any workflow if ``empty``."""
    by_name, by_module = SHARED_DEFINITIONS._by_name, SHARED_DEFINITIONS._by_module
    SHARED_DEFINITIONS._by_name, SHARED_DEFINITIONS._by_module = {}, {}
    if not empty:
        SHARED_DEFINITIONS._by_name = dict(by_name)
        SHARED_DEFINITIONS._by_module = {name: dict(modules) for name, modules in by_module.items()}
    try:
        yield
    finally:
        SHARED_DEFINITIONS._by_name, SHARED_DEFINITIONS._by_module = by_name, by_module
