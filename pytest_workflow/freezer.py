"""Making ``datetime.now()``, ``time.time()`` and friends in the user's code follow the virtual clock, by freezegun.

Entering freezegun costs milliseconds, moving it nothing: it asks its factory for the time, and that factory is here. So
it is entered once for a block of consecutive tests on virtual time, shows real time between two of them, and is left
before a test that does not use virtual time.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from datetime import UTC
from datetime import datetime as real_datetime
from typing import TYPE_CHECKING, Any, SupportsIndex

import freezegun
import freezegun.api
from pydantic_core import core_schema

from pytest_workflow.clock import sleep_in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from pytest_workflow.clock import VirtualClock

__all__ = ["Freezer"]

_REAL_TIME = (
    *("_pytest", "pytest_timeout", "pytest_benchmark", "hypothesis", "coverage", "xdist", "execnet"),
    *("threading", "multiprocessing", "queue", "concurrent", "subprocess", "socketserver", "selectors"),
)
"""Modules that see real time always: they measure tests, or wait for what virtual time cannot bring."""

_UNTOUCHED = (*_REAL_TIME, "pydantic", "workflow_core", "pytest_workflow")
"""Modules whose own names stay as they are: besides, pydantic compares classes by identity, and the engine and the
harness read time from their clock alone. What these call in the user's code is on virtual time nevertheless."""

_EVERYTHING = ("",)

_real_sleep = time.sleep


def _teach_others() -> None:
    """Let pydantic models defined in a test, and sqlite3, take the classes that freezegun puts in place."""

    def datetime_schema(cls: type, source: object, handler: object) -> core_schema.CoreSchema:
        del cls, source, handler
        return core_schema.datetime_schema()

    def date_schema(cls: type, source: object, handler: object) -> core_schema.CoreSchema:
        del cls, source, handler
        return core_schema.date_schema()

    fake_datetime: Any = freezegun.api.FakeDatetime
    fake_date: Any = freezegun.api.FakeDate
    fake_date.__get_pydantic_core_schema__ = classmethod(date_schema)
    fake_datetime.__get_pydantic_core_schema__ = classmethod(datetime_schema)
    sqlite3.register_adapter(fake_datetime, lambda moment: moment.isoformat(" "))
    sqlite3.register_adapter(fake_date, lambda day: day.isoformat())


class Freezer:
    """Freezegun, entered at most once at a time, and led by a clock."""

    def __init__(self) -> None:
        self._freeze: Any = None
        self._clock: VirtualClock | None = None
        self._nested = False
        self._limit = 0
        self._fake_sleep = self._sleep  # one object, so that it can be found again in modules that took it
        self._slept_in: dict[tuple[str, int], list[str]] = {}

    @property
    def active(self) -> bool:
        """Whether freezegun is entered."""
        return self._freeze is not None

    def __call__(self) -> real_datetime:
        """Return the time that freezegun shows: naive, in UTC."""
        now = real_datetime.now(UTC) if self._clock is None else self._clock.now()
        return now.replace(tzinfo=None)

    def lead(self, clock: VirtualClock) -> None:
        """Let the user's code see the time of ``clock``."""
        if self._freeze is None:
            self._enter()
        self._clock = clock
        self._set_callers(_REAL_TIME)

    def release(self) -> None:
        """Let the user's code see real time until the next `lead`."""
        if self._freeze is None:
            return
        self._clock = None
        self._set_callers(_EVERYTHING)
        if self._nested:
            self.stop()

    def _enter(self) -> None:
        _teach_others()
        # If a fixture of the user's froze time for longer than a test, its freeze must not be left before ours.
        self._nested = bool(freezegun.api.freeze_factories)
        freeze = freezegun.freeze_time("2000-01-01", ignore=list(_UNTOUCHED), real_asyncio=True)
        factory: Any = freeze.start()
        self._freeze = freeze
        freezegun.api.freeze_factories[freezegun.api.freeze_factories.index(factory)] = self  # type: ignore[call-overload]
        # Who asks decides, not who called whom: a function of the user's in a thread, or called back by a library
        # that is to see real time, is the user's.
        self._limit, freezegun.api.call_stack_inspection_limit = freezegun.api.call_stack_inspection_limit, 1
        time.sleep = self._fake_sleep
        for module, name in self._sleepers():
            setattr(module, name, self._fake_sleep)

    def stop(self) -> None:
        """Let real time return for good."""
        if self._freeze is None:
            return
        freeze, self._freeze, self._clock = self._freeze, None, None
        late = set(sys.modules) - freeze.modules_at_start if freeze.modules_at_start else set()
        reals = {**getattr(freeze, "reals", {}), id(self._fake_sleep): _real_sleep}
        time.sleep = _real_sleep
        for module, name in self._sleepers():
            setattr(module, name, _real_sleep)
        freeze.stop()
        freezegun.api.call_stack_inspection_limit = self._limit
        for name in late:  # freezegun leaves the fakes in modules that it was told to ignore
            namespace = getattr(sys.modules.get(name), "__dict__", {})
            for attribute, value in list(namespace.items()):
                if id(value) in reals and name.partition(".")[0] != "freezegun":
                    namespace[attribute] = reals[id(value)]

    def _set_callers(self, real: tuple[str, ...]) -> None:
        """Choose the modules whose calls are answered with real time."""
        place = freezegun.api.freeze_factories.index(self)  # type: ignore[arg-type] # freezegun asks for a call alone
        freezegun.api.ignore_lists[place] = real

    # Sleeping --------------------------------------------------------------------------------------------------------

    def _sleep(self, seconds: float | SupportsIndex, /) -> None:
        """Stand for ``time.sleep``: virtual time passes, in the test's thread and in those of its event loop."""
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if self._clock is None or caller.startswith(_REAL_TIME):
            _real_sleep(seconds)
        elif float(seconds) < 0:
            raise ValueError("sleep length must be non-negative")
        elif self._clock.is_ours():
            self._clock.jump(float(seconds))
        elif not sleep_in_thread(float(seconds)):
            _real_sleep(seconds)

    def _sleepers(self) -> Iterator[tuple[ModuleType, str]]:
        """Find who imported ``time.sleep`` by name; a module is searched once."""
        for key, module in list(sys.modules.items()):
            namespace = getattr(module, "__dict__", None)
            if namespace is None or key == "time" or key.startswith(_UNTOUCHED):
                continue
            names = self._slept_in.get((key, id(module)))
            if names is None:
                names = [name for name, value in list(namespace.items()) if value is _real_sleep]
                self._slept_in[key, id(module)] = names
            for name in names:
                yield module, name
