"""Making ``datetime.now()``, ``time.time()`` and friends in the user's code follow the virtual clock, by freezegun.

Entering freezegun costs milliseconds, moving it microseconds. So it is entered once for a block of consecutive tests
on virtual time and moved from then on, and it is left before a test that does not use virtual time.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any, SupportsIndex

import freezegun
import freezegun.api
from pydantic_core import core_schema

if TYPE_CHECKING:
    from datetime import datetime

    from pytest_workflow.clock import VirtualClock

__all__ = ["Freezer"]

_IGNORED = ["pydantic", "_pytest.timing", "xdist", "execnet"]
"""Modules that go on seeing real time: pytest's durations, and pydantic, which compares classes by identity."""

_OURS = ("workflow_core", "pytest_workflow")

_real_sleep = time.sleep


def _teach_pydantic() -> None:
    """Let models that are defined in a test annotate fields with the classes that freezegun puts in place."""

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


class Freezer:
    """Freezegun, entered at most once at a time, and led by a clock."""

    def __init__(self) -> None:
        self._freeze: Any = None
        self._factory: Any = None
        self._clock: VirtualClock | None = None

    @property
    def active(self) -> bool:
        """Whether time is frozen."""
        return self._freeze is not None

    def lead(self, clock: VirtualClock) -> None:
        """Let frozen time follow ``clock`` from now on."""
        self._clock = clock
        if self._freeze is None:
            _teach_pydantic()
            self._freeze = freezegun.freeze_time(clock.now(), ignore=_IGNORED, real_asyncio=True)
            self._factory = self._freeze.start()
            _spare_our_modules()
            time.sleep = self._sleep
        else:
            self._move(clock.now())
        clock.follow(self._move)

    def _move(self, now: datetime) -> None:
        if self._factory is not None:
            self._factory.tick(now.replace(tzinfo=None) - self._factory.time_to_freeze)

    def stop(self) -> None:
        """Let real time return."""
        if self._freeze is not None:
            time.sleep = _real_sleep
            self._freeze.stop()
            self._freeze = self._factory = self._clock = None

    def _sleep(self, seconds: float | SupportsIndex, /) -> None:
        """Stand for ``time.sleep``: in the main thread virtual time passes, elsewhere real time."""
        if self._clock is None or threading.current_thread() is not threading.main_thread():
            _real_sleep(seconds)
        elif float(seconds) < 0:
            raise ValueError("sleep length must be non-negative")
        else:
            self._clock.jump(float(seconds))


def _spare_our_modules() -> None:
    """Give the engine and the harness the real classes back: they read time from their clock alone."""
    api: Any = freezegun.api
    fakes = {id(api.FakeDatetime): api.real_datetime, id(api.FakeDate): api.real_date}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _OURS:
            for attribute, value in list(vars(module).items()):
                if id(value) in fakes:
                    setattr(module, attribute, fakes[id(value)])
