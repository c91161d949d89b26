"""The document that describes a declarative workflow."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Annotated, Any

import pydantic
from pydantic import Field, Strict

from workflow_core.definitions.checking import check_document
from workflow_core.definitions.expressions import steps_read_by
from workflow_core.definitions.keys import KEYS
from workflow_core.definitions.ordering import Order, order_of
from workflow_core.errors import shown
from workflow_core.limits import Limits
from workflow_core.models import Model, PanicConfig, RetryConfig
from workflow_core.timeouts import LONGEST_MS

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["StepDefinition", "WorkflowDefinition"]

_Text = Annotated[str, Strict()]
_Flag = Annotated[bool, Strict()]


class StepDefinition(pydantic.BaseModel):
    """One step of a declarative workflow.

    Attributes:
        id: Names the step in its workflow.
        type: Its executor: ``log``, ``delay``, ``http``, or one of your own.
        description: One line about it.
        config: What the executor is told; expressions may stand for its values.
        dependencies: The steps that have to succeed before it begins; ``None`` if the document does not say.
        timeout: Longest duration of one attempt, in milliseconds.
        retry_config: Fields of `RetryConfig` that differ from those of the execution.
        circuit_breaker: Fields of `CircuitBreakerConfig`; without it the step has no circuit.
        continue_on_error: Whether other steps go on after this one has failed; ``None`` if the document decides.
    """

    model_config = KEYS

    id: _Text
    type: _Text
    description: _Text = ""
    config: dict[str, Any] = Field(default_factory=dict)
    dependencies: list[_Text] | None = None
    timeout: Annotated[int, Strict(), Field(ge=1, le=LONGEST_MS)] | None = None
    retry_config: dict[str, Any] = Field(default_factory=dict)
    circuit_breaker: dict[str, Any] | None = None
    continue_on_error: _Flag | None = None


class WorkflowDefinition(Model):
    """A declarative workflow: the document in its checked form.

    Keys may be given in camelCase as well. Without any ``dependencies`` in the whole document its steps run one after
    the other; as soon as one step has some, be it an empty list, the steps form a graph, in which steps without
    ``dependencies`` have none, and all that can run at the same time does.

    Attributes:
        name: The workflow's name.
        description: One line about it.
        version: Its own version, for people; revisions of the document are told apart by `digest`.
        steps: Its steps, 1 to 1000.
        output: What an execution returns; expressions may stand for its values.
        continue_on_error: Go on, after a step has failed, with those that do not need it; the execution fails in the
            end. A step's own setting goes before this one.
        retry_config: How failing steps are retried, unless an execution is started with a configuration of its own.
        panic_config: What happens after a panic, likewise.
        limits: How many of its executions run, and begin, at the same time on workers.

    Raises:
        ValidationError: The document has mistakes; all of them are named, each with its path.
    """

    model_config = KEYS

    name: _Text
    description: _Text = ""
    version: _Text = "1.0.0"
    steps: Annotated[list[StepDefinition], Field(min_length=1, max_length=1_000)]
    output: Any = None
    continue_on_error: _Flag = False
    retry_config: RetryConfig = RetryConfig()
    panic_config: PanicConfig = PanicConfig()
    limits: Limits | None = None

    def __init__(self, /, **data: Any) -> None:  # noqa: ANN401 - a document
        cleaned, mistakes = check_document(data, type(self), StepDefinition)
        try:
            pydantic.BaseModel.__init__(self, **cleaned)
        except pydantic.ValidationError as error:
            mistakes.add_pydantic(error, type(self))
        name = f" {shown(data['name'], 150)}" if "name" in data else ""
        mistakes.raise_any(f"workflow definition{name}")

    @functools.cached_property
    def order(self) -> Order:
        """When each step may begin."""
        says = any(step.dependencies is not None for step in self.steps)
        dependencies = {step.id: tuple(step.dependencies or ()) for step in self.steps} if says else None
        references = {step.id: steps_read_by(step.config) for step in self.steps}
        return order_of([step.id for step in self.steps], dependencies, references)

    def continues_after(self, step: StepDefinition) -> bool:
        """Tell whether other steps go on after this one has failed."""
        return self.continue_on_error if step.continue_on_error is None else step.continue_on_error

    def document(self) -> dict[str, Any]:
        """Return the definition as plain data, from which it can be made again; what is as by default is left out."""
        plain: dict[str, Any] = self.model_dump(
            mode="json", exclude={"steps", "retry_config", "panic_config", "limits"}
        )
        kept = {key: value for key, value in plain.items() if value != _PLAIN_DEFAULTS.get(key)}
        for key, config, default in (
            ("retry_config", self.retry_config, RetryConfig()),
            ("panic_config", self.panic_config, PanicConfig()),
        ):
            if config != default:
                kept[key] = config.model_dump(mode="json")
        if self.limits is not None:
            kept["limits"] = self.limits.model_dump(mode="json", exclude_defaults=True)
        return {**kept, "steps": [step.model_dump(mode="json", exclude_defaults=True) for step in self.steps]}

    @functools.cached_property
    def text(self) -> str:
        """The document as JSON in its canonical form: equal definitions have equal texts."""
        return json.dumps(self.document(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @functools.cached_property
    def digest(self) -> str:
        """The revision of the document: 32 hexadecimal digits of the SHA-256 of its canonical text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]


_PLAIN_DEFAULTS = {"description": "", "version": "1.0.0", "output": None, "continue_on_error": False}
