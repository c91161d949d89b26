"""Where a handler's own code, between its steps, may do something else in another process.

What can be observed is observed: `environment_reads` sees what is read from ``os.environ``, and `other_randomness`
makes ``random`` give other numbers. What one process cannot show, the order of a set, is looked for in the source.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import os
import random
import sys
import textwrap
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING

from pytest_workflow.frames import LIBRARIES, users_frame
from pytest_workflow.observed import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["EnvironmentRead", "Suspect", "environment_reads", "other_randomness", "suspects", "unordered_loops"]

_CLOCKS = frozenset({"now", "utcnow", "today", "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter"})
_OF_TIME = frozenset({"time", "datetime", "_datetime", "freezegun"})
_IDS = frozenset({"uuid1", "uuid4"})
_OF_THE_PROCESS = frozenset({"id", "hash"})
_IN_ITS_ORDER = frozenset({"list", "tuple", "iter", "enumerate", "reversed", "dict.fromkeys"})
_MOST_FUNCTIONS = 50


@dataclass(frozen=True, slots=True)
class EnvironmentRead:
    """A variable that a handler read between its steps, and where."""

    name: str
    site: Site


@dataclass(frozen=True, slots=True)
class Suspect:
    """A line of a handler whose value may change from run to run."""

    site: Site
    code: str
    what: str

    def __str__(self) -> str:
        return f"{self.site}: {self.code} is {self.what}"


# Observed ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def environment_reads() -> Iterator[list[EnvironmentRead]]:
    """Note, in the ``with`` block, which variables the user's own code reads; libraries and imports do not count."""
    reads: list[EnvironmentRead] = []
    original = os.environ.encodekey

    def noting(key: str) -> str:
        frame = _reader(sys._getframe(1))
        if frame is not None:
            reads.append(EnvironmentRead(str(key), Site(frame.f_code.co_filename, frame.f_lineno)))
        return original(key)

    os.environ.encodekey = noting
    try:
        yield reads
    finally:
        os.environ.encodekey = original


def _reader(frame: FrameType) -> FrameType | None:
    """Return the frame of the user's code that reads a variable, if such code does."""
    if frame.f_code.co_name != "__getitem__":
        return None
    outer: FrameType | None = frame
    while outer is not None and outer.f_globals.get("__name__") in {"os", "_collections_abc", "collections.abc"}:
        outer = outer.f_back
    if outer is None or outer is not users_frame(outer) or outer.f_code.co_name == "<module>":
        return None
    return None if outer.f_code.co_filename.startswith(LIBRARIES) else outer


@contextlib.contextmanager
def other_randomness() -> Iterator[None]:
    """Let ``random`` give other numbers in the ``with`` block, and go on afterwards as if nothing had been."""
    state = random.getstate()
    random.seed(repr(state))
    try:
        yield
    finally:
        random.setstate(state)


# In the source -------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def suspects(handler: Callable[..., object]) -> tuple[Suspect, ...]:
    """Return the calls, outside steps' functions, whose values change from run to run: a handler's, and those below it.

    Followed are the user's own functions that the code calls by their names, or by the names of their modules.
    """
    found: list[Suspect] = []
    seen: set[object] = set()
    waiting: list[Callable[..., object]] = [handler]
    while waiting and len(seen) < _MOST_FUNCTIONS:
        function = waiting.pop(0)
        seen.add(function)
        for node in _own_nodes(function):
            if isinstance(node, (ast.Call, ast.Subscript)):
                code = ast.unparse(node.func if isinstance(node, ast.Call) else node.value)
                what = _changing(function, code)
                called = _called(function, code)
                if what is not None and called is None:
                    found.append(Suspect(_site(function, node), ast.unparse(node), what))
                elif called is not None and called not in seen:
                    waiting.append(called)
    return tuple(found)


def _called(function: Callable[..., object], code: str) -> Callable[..., object] | None:
    """Return the function of the user's that a dotted name means in a function, if it means one."""
    first, *rest = code.split(".")
    value: object = getattr(inspect.unwrap(function), "__globals__", {}).get(first)
    for name in rest:
        value = vars(value).get(name) if isinstance(value, ModuleType) else None
    if not isinstance(value, FunctionType):
        return None
    return None if inspect.unwrap(value).__code__.co_filename.startswith((*LIBRARIES, "<")) else value


def _changing(function: Callable[..., object], code: str) -> str | None:
    """Tell what a dotted name of a function gives that changes from run to run, if it does."""
    first, *rest = code.split(".")
    value: object = getattr(inspect.unwrap(function), "__globals__", {}).get(first)
    if value is None and code in _OF_THE_PROCESS:
        return "another value in another process"
    if value is os.environ:
        return "the environment"
    names = {rest[-1] if rest else first, getattr(value, "__name__", first).removeprefix("fake_")}
    home = _home(value, first)
    if home in {"random", "secrets"}:
        return "a random number"
    if home == "uuid" and names & _IDS:
        return "a new id"
    if home in _OF_TIME and names & _CLOCKS:
        return "the time"
    return "the environment" if home == "os" and ("environ" in rest or "getenv" in names) else None


def _home(value: object, name: str) -> str:
    """Return the module that a global variable is of, or is; of a name that is none, what an import in place means."""
    if value is None:
        return name
    if isinstance(value, ModuleType):
        return value.__name__
    module = getattr(value, "__module__", None) or type(value).__module__
    return str(module).partition(".")[0]


@functools.lru_cache(maxsize=256)
def unordered_loops(handler: Callable[..., object]) -> tuple[Suspect, ...]:
    """Return the loops of a handler that ask for steps in the order of a set."""
    nodes = list(_own_nodes(handler))
    context = next(iter(inspect.signature(handler).parameters), "") if nodes else ""
    assigned: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            assigned.setdefault(node.targets[0].id, []).append(node.value)
    found = []
    for node in nodes:
        if isinstance(node, ast.For):
            loops: list[tuple[ast.expr, ast.AST]] = [(node.iter, part) for part in node.body]
        elif isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.DictComp)):
            loops = [(generator.iter, node) for generator in node.generators]
        else:
            continue
        for iterated, body in loops:
            if _is_set(iterated, assigned) and _asks(body, context):
                found.append(Suspect(_site(handler, node), ast.unparse(iterated), "a set"))
                break
    return tuple(found)


def _is_set(expression: ast.expr, assigned: dict[str, list[ast.expr]]) -> bool:
    if isinstance(expression, ast.Name):
        values = assigned.get(expression.id, [])
        others = {name: found for name, found in assigned.items() if name != expression.id}
        return bool(values) and all(_is_set(value, others) for value in values)
    if isinstance(expression, ast.Set):
        return not all(isinstance(item, ast.Constant) and isinstance(item.value, int) for item in expression.elts)
    if isinstance(expression, ast.Call):
        function = ast.unparse(expression.func)
        made_of = function in _IN_ITS_ORDER and bool(expression.args) and _is_set(expression.args[0], assigned)
        return made_of or function in {"set", "frozenset"}
    if isinstance(expression, ast.BinOp):
        return _is_set(expression.left, assigned) or _is_set(expression.right, assigned)
    if isinstance(expression, (ast.DictComp, ast.ListComp, ast.GeneratorExp)):
        return _is_set(expression.generators[0].iter, assigned)
    return isinstance(expression, ast.SetComp)


def _asks(body: ast.AST, context: str) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in {"step", "sleep"}
        and isinstance(node.value, ast.Name)
        and node.value.id == context
        for node in ast.walk(body)
    )


def _own_nodes(handler: Callable[..., object]) -> Iterator[ast.AST]:
    """Yield the nodes of a function's source; of functions within it, only the defaults, which it evaluates itself."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(handler)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return
    waiting: list[ast.AST] = [*getattr(tree.body[0], "body", ())] if tree.body else []
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting += [default for default in (*node.args.defaults, *node.args.kw_defaults) if default is not None]
        elif not isinstance(node, ast.ClassDef):
            yield node
            waiting += ast.iter_child_nodes(node)


def _site(handler: Callable[..., object], node: ast.AST) -> Site:
    code = inspect.unwrap(handler).__code__
    return Site(code.co_filename, code.co_firstlineno + getattr(node, "lineno", 1) - 1)
