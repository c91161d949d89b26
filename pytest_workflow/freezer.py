"""Making ``datetime.now()``, ``time.time()`` and friends in the user's code follow the virtual clock, by freezegun.

Entering freezegun costs milliseconds, moving it nothing: it asks its factory for the time, and that factory is here. So
it is entered once for a block of consecutive tests on virtual time, shows real time between two of them, and is left
before a test that does not use virtual time.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
import weakref
from datetime import UTC, timedelta
from datetime import datetime as real_datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any, SupportsIndex

import freezegun
import freezegun.api
from pydantic_core import core_schema

from pytest_workflow.threads import sleep_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_workflow.clock import VirtualClock

__all__ = ["Freezer"]

_REAL_TIME = (
    *("_pytest", "pytest_timeout", "pytest_benchmark", "hypothesis", "coverage", "xdist", "execnet"),
    *("threading", "multiprocessing", "queue", "concurrent", "subprocess", "socketserver", "selectors"),
    *("pytest_workflow.crashes", "pytest_workflow.power"),
)
"""Modules that see real time always: they measure tests, or wait for what virtual time cannot bring."""

_UNTOUCHED = (*_REAL_TIME, "pydantic", "workflow_core", "pytest_workflow")
"""Modules whose own names stay as they are: besides, pydantic compares classes by identity, and the engine and the
harness read time from their clock alone. What these call in the user's code is on virtual time nevertheless."""

_EVERYTHING = ("",)

_real_sleep = time.sleep
_real_ctime = time.ctime
_real_asctime = time.asctime
_real_localtime = time.localtime
_fake_localtime = freezegun.api.fake_localtime

_REALS: dict[int, Callable[..., Any]] = {id(real): real for real in (_real_sleep, _real_ctime, _real_asctime)}
"""Functions that freezegun leaves alone."""

_found: weakref.WeakKeyDictionary[ModuleType, tuple[int, list[str]]] = weakref.WeakKeyDictionary()
"""By which names modules have them, each with how many names it had when it was searched: to search takes long."""


def _names(module: ModuleType, namespace: dict[str, Any], *, is_nested: bool) -> list[str]:
    """Return by which names a module has functions that freezegun leaves alone; it is searched again if it has grown.

    A module that is searched while another freeze lasts may have the stand-ins of that one: this is not remembered.
    """
    can_be_remembered = isinstance(module, ModuleType) and type(module).__hash__ is object.__hash__
    known = _found.get(module) if can_be_remembered else None
    if known is not None and known[0] == len(namespace):
        return known[1]
    names = [name for name, value in list(namespace.items()) if id(value) in _REALS]
    if can_be_remembered and not is_nested:
        _found[module] = len(namespace), names
    return names


def _localtime(seconds: float | None = None) -> time.struct_time:
    """Stand for freezegun's ``time.localtime``, whose answers lack the offset that pydantic asks for."""
    if seconds is None and not sys._getframe(1).f_globals.get("__name__", "").startswith(_REAL_TIME):
        seconds = freezegun.api.fake_time()
    return _real_localtime(seconds)


_localtime.__name__ = _fake_localtime.__name__  # freezegun knows its own by their names


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


@functools.cache
def _teach_reality() -> None:
    """Let a class that was derived from freezegun's in a test tell real time where nothing is frozen any more."""
    api: Any = freezegun.api

    def teach(fake: Any, name: str) -> None:  # noqa: ANN401 - freezegun's classes are replaced in part
        frozen = vars(fake)[name].__func__

        def tell(cls: type, /, *args: object, **options: object) -> object:
            if api.freeze_factories:
                return frozen(cls, *args, **options)
            return getattr(super(fake, cls), name)(*args, **options)

        setattr(fake, name, classmethod(tell))

    def offset() -> timedelta | None:
        return api.tz_offsets[-1] if api.tz_offsets else real_datetime.now().astimezone().utcoffset()

    for fake, name in ((api.FakeDatetime, "now"), (api.FakeDatetime, "utcnow"), (api.FakeDate, "today")):
        teach(fake, name)
    api.FakeDatetime._tz_offset = staticmethod(offset)


class Freezer:
    """Freezegun, entered for a block of tests, and led by a clock."""

    def __init__(self) -> None:
        self._freeze: Any = None
        self._inner: Any = None
        self._clock: VirtualClock | None = None
        self._nested = False
        self._limit = 0
        # One object each, so that they can be found again in modules that took them.
        self._fakes: dict[Callable[..., Any], Callable[..., Any]] = {
            _real_sleep: self._sleep,
            _real_ctime: self._ctime,
            _real_asctime: self._asctime,
        }
        self._patched: list[tuple[ModuleType, str, Callable[..., Any]]] = []

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
        elif not self._is_topmost():
            self._inner = self._freeze_once_more()
        self._clock = clock
        self._set_callers(_REAL_TIME)

    @contextlib.contextmanager
    def led_by(self, clock: VirtualClock) -> Iterator[None]:
        """Let the user's code see the time of another clock in the ``with`` block, unless it has frozen time itself."""
        before = self._clock
        if before is None or not self._is_topmost():
            yield
            return
        self.lead(clock)
        try:
            yield
        finally:
            self.lead(before)

    def release(self) -> None:
        """Let the user's code see real time until the next `lead`."""
        self._clock = None
        self._set_callers(_EVERYTHING)
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.stop()
        if self._nested:
            self.stop()

    # Freezegun keeps a stack of freezes, takes the topmost away whoever leaves, and undoes its patches with the last
    # one. A fixture of the user's may freeze time as well, for longer than a test: then ours goes on top for the test
    # alone, and what lies below is left when it is the topmost again.

    def _is_topmost(self) -> bool:
        return bool(freezegun.api.freeze_factories) and freezegun.api.freeze_factories[-1] is self  # type: ignore[comparison-overlap] # freezegun asks for a call alone

    def _freeze_once_more(self) -> Any:  # noqa: ANN401 - freezegun's class is private
        freeze = freezegun.freeze_time("2000-01-01", ignore=list(_UNTOUCHED), real_asyncio=True)
        freeze.start()
        factories: list[Any] = freezegun.api.freeze_factories
        factories[-1] = self
        return freeze

    def _enter(self) -> None:
        _teach_pydantic()
        _teach_reality()
        api: Any = freezegun.api
        self._nested = bool(api.freeze_factories)
        api.fake_localtime = _localtime
        self._freeze = self._freeze_once_more()
        # Who asks decides, not who called whom: a function of the user's in a thread, or called back by a library
        # that is to see real time, is the user's.
        self._limit, api.call_stack_inspection_limit = api.call_stack_inspection_limit, 1
        self._patched = list(self._places())
        for module, name, real in self._patched:
            setattr(module, name, self._fakes[real])

    def stop(self) -> None:
        """Let real time return for good, unless a freeze of the user's is on top of ours."""
        if self._freeze is None or not self._is_topmost():
            return
        freeze, self._freeze = self._freeze, None
        late = set(sys.modules) - freeze.modules_at_start if freeze.modules_at_start else set()
        reals = {**getattr(freeze, "reals", {}), **{id(fake): real for real, fake in self._fakes.items()}}
        for module, name, real in self._patched:
            setattr(module, name, real)
        self._patched = []
        freeze.stop()
        api: Any = freezegun.api
        api.call_stack_inspection_limit = self._limit
        api.fake_localtime = _fake_localtime
        for name in late:  # freezegun leaves the fakes in modules that it was told to ignore
            namespace = getattr(sys.modules.get(name), "__dict__", {})
            for attribute, value in list(namespace.items()):
                if id(value) in reals and name.partition(".")[0] != "freezegun":
                    namespace[attribute] = reals[id(value)]

    # Functions that freezegun leaves alone ---------------------------------------------------------------------------

    def _ctime(self, seconds: float | None = None, /) -> str:
        """Stand for ``time.ctime``."""
        return _real_ctime(freezegun.api.fake_time() if seconds is None and self._is_virtual(2) else seconds)

    def _asctime(self, moment: time.struct_time | None = None, /) -> str:
        """Stand for ``time.asctime``."""
        if moment is None:
            moment = _localtime() if self._is_virtual(2) else _real_localtime()
        return _real_asctime(moment)

    def _is_virtual(self, depth: int) -> bool:
        """Tell whether the caller so many frames above is to see virtual time."""
        caller = sys._getframe(depth).f_globals.get("__name__", "")
        return self._clock is not None and not caller.startswith(_REAL_TIME)

    def _set_callers(self, real: tuple[str, ...]) -> None:
        """Choose the modules whose calls are answered with real time."""
        factories: list[Any] = freezegun.api.freeze_factories
        for place, factory in enumerate(factories):
            if factory is self:
                freezegun.api.ignore_lists[place] = real

    def _sleep(self, seconds: float | SupportsIndex, /) -> None:
        """Stand for ``time.sleep``: virtual time passes, in the test's thread and in those of its event loop."""
        if self._clock is None or not self._is_virtual(2):
            _real_sleep(seconds)
        elif float(seconds) < 0:
            raise ValueError("sleep length must be non-negative")
        elif self._clock.is_ours():
            self._clock.jump(float(seconds))
        elif not sleep_in_thread(float(seconds)):
            _real_sleep(seconds)

    def _places(self) -> Iterator[tuple[ModuleType, str, Callable[..., Any]]]:
        """Find who has the functions that freezegun leaves alone, ``time`` first."""
        for real in self._fakes:
            yield time, real.__name__, real
        for key, module in list(sys.modules.items()):
            namespace = getattr(module, "__dict__", None)
            if namespace is None or key == "time" or key.startswith(_UNTOUCHED):
                continue
            for name in _names(module, namespace, is_nested=self._nested):
                value = id(namespace.get(name))
                if value in _REALS:
                    yield module, name, _REALS[value]
