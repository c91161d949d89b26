"""What `define` takes: a name, a handler, and what the handler's annotations say."""

from __future__ import annotations

import time
import typing
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pydantic

from workflow_core.database.layout import WORKFLOW_NAME
from workflow_core.errors import ValidationError, WorkflowRedefinedWarning, printable, shown
from workflow_core.limits import Limits, limits_of
from workflow_core.models import PanicConfig, RetryConfig
from workflow_core.serialization import ReturnType
from workflow_core.signatures import takes

if TYPE_CHECKING:
    from workflow_core.context import WorkflowContext

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["WorkflowHandler", "Definition", "Definitions", "SHARED_DEFINITIONS", "make_definition"]

WorkflowHandler: TypeAlias = Callable[["WorkflowContext[Any]"], object]
"""Takes the context; returns the workflow's output, or an awaitable of it."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A workflow.

    Attributes:
        returns: The declared type of its output.
        input_type: The declared type of its input, from ``WorkflowContext[Order]``; ``None`` if none is declared.
        document: The document that it was made of, as JSON, if it is declarative; executions keep it.
        revision: Tells one document from another.
        limits: How many of its executions run, and begin, at the same time on workers.
        retry_json: The first configuration as executions that have no other one keep it.
        panic_json: The same of the second.
        made_at: When it was made, in seconds of the monotonic clock.
    """

    name: str
    handler: WorkflowHandler
    description: str = ""
    version: str = "1.0.0"
    retry_config: RetryConfig = field(default_factory=RetryConfig)
    panic_config: PanicConfig = field(default_factory=PanicConfig)
    returns: ReturnType | None = None
    input_type: ReturnType | None = None
    document: str | None = None
    revision: str | None = None
    limits: Limits | None = None
    made_at: float = field(default_factory=time.monotonic, compare=False)
    retry_json: str = field(init=False, repr=False)
    panic_json: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "retry_json", self.retry_config.model_dump_json())
        object.__setattr__(self, "panic_json", self.panic_config.model_dump_json())

    @property
    def age_ms(self) -> int:
        """How long ago it was made, in milliseconds."""
        return round((time.monotonic() - self.made_at) * 1_000)

    def is_revision_of(self, other: Definition) -> bool:
        """Tell whether both are made of the same document."""
        return self.revision is not None and self.revision == other.revision


class Definitions:
    """Workflows by name: of each name the latest, and those that other modules gave the same name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Definition] = {}
        self._by_module: dict[str, dict[str, Definition]] = {}

    def add(self, definition: Definition, stacklevel: int) -> None:
        """Add a workflow; replace one of the same name, with a warning if its handler is another."""
        known = self._by_name.get(definition.name)
        module = _module(definition)
        if known is not None and known.handler is not definition.handler and not known.is_revision_of(definition):
            before = _module(known)
            elsewhere = f" ({before} defined it first, then {module})" if before != module else ""
            warnings.warn(
                f'Workflow "{definition.name}" is defined again with another handler; the new one replaces it'
                + elsewhere,
                WorkflowRedefinedWarning,
                stacklevel=stacklevel,
            )
        self.replace(definition)

    def rank(self, rank: Callable[[str], int]) -> None:
        """Choose between modules that define the same name: the highest rank is in force, and the latest of equals.

        Args:
            rank: The rank of a module, by its name; what a module of a negative rank defines is not in force.
        """
        for name, modules in self._by_module.items():
            best = max(reversed(modules), key=rank)
            if rank(best) < 0:
                self._by_name.pop(name, None)
            else:
                self._by_name[name] = modules[best]

    def replace(self, definition: Definition) -> None:
        """Add a workflow, or another revision of one, without a warning."""
        self._by_name[definition.name] = definition
        modules, module = self._by_module.setdefault(definition.name, {}), _module(definition)
        modules.pop(module, None)  # so that the latest is the last
        modules[module] = definition

    def get(self, name: str) -> Definition | None:
        """Return a workflow, or ``None``."""
        return self._by_name.get(name)

    def names(self) -> list[str]:
        """Return the names, sorted."""
        return sorted(self._by_name)


def _module(definition: Definition) -> str:
    return str(getattr(definition.handler, "__module__", None))


MISSING: Final = object()
"""Tells a handler that was not given from one that was given as ``None``."""

SHARED_DEFINITIONS = Definitions()
"""Workflows whose handlers are defined at the top level of a module: every engine of the process knows them."""


def is_module_level(handler: Callable[..., object]) -> bool:
    """Tell whether a handler is a property of its module, rather than of the function that made it."""
    return "<locals>" not in getattr(handler, "__qualname__", "<locals>")


def make_definition(
    name: object,
    handler: object,
    description: str | None,
    version: str,
    retry_config: RetryConfig | dict[str, Any] | None,
    panic_config: PanicConfig | dict[str, Any] | None,
    limits: Limits | dict[str, Any] | None = None,
) -> Definition:
    """Validate what `define` was given.

    Raises:
        ValidationError: The name cannot become a directory, the handler is not callable, or a configuration is wrong.
    """
    if not isinstance(name, str) or not WORKFLOW_NAME.fullmatch(name):
        raise ValidationError(
            f"Invalid workflow name {shown(name)}: use 1 to 128 of the characters A-Z a-z 0-9 . _ -, beginning with a "
            "letter or a digit"
        )
    name = str.__str__(name)
    if not callable(handler):
        raise ValidationError(f'Workflow "{name}": the handler must be a function of the context, not {shown(handler)}')
    if not takes(handler, 1):
        raise ValidationError(
            f'Workflow "{name}": the handler is called with the context alone; {shown(handler)} cannot be called so'
        )
    for what, text in (("description", description), ("version", version)):
        if text is not None and (not isinstance(text, str) or printable(text) != text):
            raise ValidationError(f'Workflow "{name}": the {what} must be a text, not {shown(text)}')
    if description is None:
        documented = getattr(handler, "__doc__", None)
        description = printable(documented).strip() if isinstance(documented, str) else ""
    return Definition(
        name=name,
        handler=handler,
        description=description.partition("\n")[0],
        version=version or "1.0.0",
        retry_config=configured(RetryConfig, retry_config),
        panic_config=configured(PanicConfig, panic_config),
        limits=limits_of(limits),
        returns=ReturnType(handler),
        input_type=_declared_input(handler),
    )


_ConfigT = typing.TypeVar("_ConfigT", RetryConfig, PanicConfig)


def configured(cls: type[_ConfigT], given: _ConfigT | dict[str, Any] | None) -> _ConfigT:
    """Return a configuration given as a model, as a dictionary, or not at all.

    Raises:
        ValidationError: It is something else, or a value is out of range.
    """
    if given is None:
        return cls()
    if type(given) is cls:
        return given
    if isinstance(given, cls):  # what a subclass adds could not be read back
        return cls(**{name: getattr(given, name) for name in cls.model_fields})
    if isinstance(given, dict):
        if not all(isinstance(key, str) for key in given):
            raise ValidationError(f"The fields of a {cls.__name__} have names; {shown(given)} has other keys")
        return cls(**given)
    raise ValidationError(f"Expected a {cls.__name__} or a dictionary of its fields, not {type(given).__name__}")


def _declared_input(handler: Callable[..., object]) -> ReturnType | None:
    from workflow_core.context import WorkflowContext  # noqa: PLC0415 - the context needs steps, which need this

    try:
        hints = typing.get_type_hints(handler, include_extras=True)
    except Exception:  # noqa: BLE001 - evaluating another's annotation can raise anything; then none is known
        return None
    for parameter, annotation in hints.items():
        if parameter != "return" and typing.get_origin(annotation) is WorkflowContext:
            (declared,) = typing.get_args(annotation)
            return None if declared is Any or declared is object else ReturnType(None, declared)
    return None


def validated(adapter: pydantic.TypeAdapter[Any], value: object, what: str) -> object:
    """Return a value as its declared type.

    Raises:
        ValidationError: The value does not fit.
    """
    try:
        return adapter.validate_python(value)
    except pydantic.ValidationError as error:
        raise ValidationError.from_pydantic(what, error) from None


def define_workflow(
    choose: Callable[[Callable[..., object]], Definitions],
    name: str,
    handler: Any,  # noqa: ANN401 - validated here
    description: str | None,
    version: str,
    retry_config: RetryConfig | dict[str, Any] | None,
    panic_config: PanicConfig | dict[str, Any] | None,
    limits: Limits | dict[str, Any] | None = None,
) -> Any:  # noqa: ANN401 - the handler, or a decorator of it
    """Define a workflow, at once or as a decorator.

    Args:
        choose: Tells, for a handler, where its definition goes.
        name: The workflow's name.
        handler: Its handler, or `MISSING`.
        description: One line about it.
        version: Its own version.
        retry_config: For executions that are started without one.
        panic_config: For executions that are started without one.
        limits: Of its executions on workers.
    """

    def add(function: Any, stacklevel: int = 3) -> Any:  # noqa: ANN401
        definition = make_definition(name, function, description, version, retry_config, panic_config, limits)
        choose(function).add(definition, stacklevel)
        return function

    if handler is not MISSING:
        return add(handler, stacklevel=5)
    make_definition(name, _nothing, description, version, retry_config, panic_config, limits)
    return add


def _nothing(context: object) -> None:
    """Stand for the handler while the other arguments of a decorator are validated."""
