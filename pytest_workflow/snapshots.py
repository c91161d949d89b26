"""Histories as plain data that is the same in every run, and their comparison with syrupy's stored snapshots."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from pytest_workflow.history import History
from workflow_core.events import UNSET, Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pytest
    from syrupy.assertion import SnapshotAssertion

__all__ = ["NormalizedEvent", "normalized", "snapshot_of_histories"]

NormalizedEvent: TypeAlias = dict[str, str | int | float | bool | None]
"""One event as plain data: its class as ``event``, its time as ``at_ms``, and the fields that it has."""

_MISSING = (
    "the fixture workflow_snapshot stores its snapshots with syrupy, which is not {state}: "
    "pip install 'pytest-workflow-core[snapshot]'{remedy}. With inline-snapshot write "
    "assert normalized(workflow.history(result)) == snapshot() instead, with pytest_workflow.normalized"
)

_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t]+[^\n]*(?:\n|$)|\n)+")
_SOURCE_LINE = re.compile(r'File "(?:[^"]*[\\/])?([^"\\/]+)", line \d+')
_ADDRESS = re.compile(r"\bat 0x[0-9A-Fa-f]+")
_TEMPORARY = re.compile(
    r"(?:\b[A-Za-z]:)?[^\s\"'(),:]*[\\/]pytest-of-[^\\/\s]+[\\/]pytest-\d+(?:[\\/]popen-gw\d+)?(?=[\\/])"
)
_UUID = re.compile(r"\b[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b")


def normalized(history: Iterable[Event], hide: Mapping[str, str] | None = None) -> list[NormalizedEvent]:
    """Return a history as plain data that is equal in every run, process and version of Python.

    Times are virtual milliseconds since the first event. In texts, UUIDs become ``<execution>`` and ``<uuid-1>``,
    ``<uuid-2>`` and so on, in the order in which they appear; addresses in memory, tracebacks, line numbers and
    temporary directories of pytest are masked. Positions and the execution's id are left out.

    Args:
        history: What ``workflow.history`` returned, or a part of it.
        hide: Further texts to replace, such as ``{str(tmp_path): "<tmp>"}``.

    Raises:
        TypeError: Something in it is not an event that happened.
    """
    events = list(history)
    for event in events:
        if not isinstance(event, Event) or event.at is UNSET:
            raise TypeError(
                f"normalized() takes a history, as workflow.history(...) returns it; {event!r} never happened"
            )
    mask = _Mask(hide or {})
    return [_normalized(event, events[0], mask) for event in events]


def _normalized(event: Event, first: Event, mask: _Mask) -> NormalizedEvent:
    elapsed_ms = round((event.at - first.at).total_seconds() * 1_000, 3)
    plain: NormalizedEvent = {
        "event": type(event).__name__,
        "at_ms": int(elapsed_ms) if elapsed_ms.is_integer() else elapsed_ms,
    }
    for name, value in event.named_fields().items():
        if isinstance(value, (bool, int, float)):
            plain[name] = value
        else:
            plain[name] = mask(str(value), event.execution_id)
    return plain


class _Mask:
    """Replaces what differs from run to run; the same UUID by the same name."""

    def __init__(self, hide: Mapping[str, str]) -> None:
        self._hide = hide
        self._names: dict[str, str] = {}

    def __call__(self, text: str, execution_id: str) -> str:
        def name_of(found: re.Match[str]) -> str:
            uuid = found.group().lower()
            if uuid == execution_id.lower():
                return "<execution>"
            return self._names.setdefault(uuid, f"<uuid-{len(self._names) + 1}>")

        for hidden, shown in self._hide.items():
            text = text.replace(hidden, shown)
        text = _TRACEBACK.sub("<traceback>\n", text)
        text = _SOURCE_LINE.sub(r'File "\1", line ...', text)
        text = _ADDRESS.sub("at 0x...", text)
        text = _TEMPORARY.sub("<tmp>", text)
        return _UUID.sub(name_of, text)


def snapshot_of_histories(request: pytest.FixtureRequest) -> SnapshotAssertion:
    """Return syrupy's fixture ``snapshot``, which takes histories, alone or within other data.

    A missing syrupy fails the test.

    Args:
        request: The request of a fixture.
    """
    import pytest  # noqa: PLC0415 - normalized() works without it

    try:
        from syrupy.assertion import SnapshotAssertion  # noqa: PLC0415 - optional
    except ImportError:
        found = False
    else:
        found = True
    if not found:  # outside of the handler, whose error would be shown as well
        pytest.fail(_MISSING.format(state="installed", remedy=""), pytrace=False)
    if not request.config.pluginmanager.hasplugin("syrupy"):
        pytest.fail(_MISSING.format(state="active", remedy=", and run pytest without -p no:syrupy"), pytrace=False)
    snapshot = request.getfixturevalue("snapshot")
    if not isinstance(snapshot, SnapshotAssertion):
        pytest.fail(
            f"the fixture snapshot is not syrupy's but a {type(snapshot).__module__}.{type(snapshot).__qualname__}; "
            "workflow_snapshot needs syrupy's: rename the other fixture, or remove the other plugin",
            pytrace=False,
        )
    temporary = str(request.getfixturevalue("tmp_path_factory").getbasetemp())

    def plain(*, data: object, path: object) -> object:
        del path
        return normalized(data, hide={temporary: "<tmp>"}) if isinstance(data, History) else data

    return snapshot.with_defaults(matcher=plain)
