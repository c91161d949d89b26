"""What makes a document a workflow, beyond the types of its values: ids, step types, configs, order and references."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import pydantic
from pydantic.alias_generators import to_camel

from workflow_core.database.layout import WORKFLOW_NAME
from workflow_core.definitions.executors import broken_type, find_executor, known_types
from workflow_core.definitions.expressions import (
    Expression,
    ExpressionSyntaxError,
    Location,
    Template,
    expressions_of,
)
from workflow_core.definitions.mistakes import Mistakes
from workflow_core.definitions.ordering import CycleError, Needs, ancestors, order_of
from workflow_core.errors import ValidationError, shown
from workflow_core.limits import Limits
from workflow_core.models import CircuitBreakerConfig, PanicConfig, RetryConfig
from workflow_core.serialization import MAX_DEPTH
from workflow_core.step import validate_step_id
from workflow_core.suggestions import did_you_mean

if TYPE_CHECKING:
    from workflow_core.definitions.executor import Executor

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["check_document"]

_Step: TypeAlias = dict[str, Any]


@dataclass(slots=True)
class _Checked:
    """What is known of the steps so far.

    Attributes:
        places: The index of each id's first step.
        dependencies: What each step that has a usable id names; ``None`` as long as no step names any.
    """

    places: dict[str, int] = field(default_factory=dict)
    dependencies: dict[str, tuple[str, ...]] | None = None


def check_document(
    data: Mapping[str, Any], document_model: type[pydantic.BaseModel], step_model: type[pydantic.BaseModel]
) -> tuple[dict[str, Any], Mistakes]:
    """Look a document over.

    Args:
        data: The document.
        document_model: The model of its keys.
        step_model: The model of the keys of a step.

    Returns:
        The document, ready to be validated by its model, with what cannot be validated taken out; and what is wrong.
    """
    mistakes = Mistakes()
    document = dict(data)
    _check_twice(document, document_model, (), mistakes)
    for model in (RetryConfig, PanicConfig, Limits):
        _check_settings(document, model, (), mistakes, as_model=True)
    name = document.get("name")
    if isinstance(name, str) and not WORKFLOW_NAME.fullmatch(name):
        mistakes.add(
            ("name",),
            "use 1 to 128 of the characters A-Z a-z 0-9 . _ -, beginning with a letter or a digit",
            name,
        )
    steps = document.get("steps")
    if isinstance(steps, (list, tuple)):
        document["steps"] = [_as_dict(step) for step in steps]
        _check_steps(document["steps"], step_model, mistakes)
        _check_output(document, mistakes)
    return document, mistakes


def _as_dict(step: object) -> object:
    if isinstance(step, pydantic.BaseModel):
        return step.model_dump(exclude_unset=True)
    return dict(step) if isinstance(step, Mapping) else step


def _check_twice(
    owner: dict[str, Any], model: type[pydantic.BaseModel], location: Location, mistakes: Mistakes
) -> None:
    for name in model.model_fields:
        camel = to_camel(name)
        if camel != name and camel in owner and name in owner:
            mistakes.add((*location, camel), f'is given twice, as "{name}" as well', owner.pop(camel))


def _check_settings(
    owner: dict[str, Any],
    model: type[RetryConfig | PanicConfig | CircuitBreakerConfig | Limits],
    location: Location,
    mistakes: Mistakes,
    *,
    as_model: bool = False,
) -> None:
    """Validate a configuration of retries, panics, a circuit or limits, and leave it there with keys in snake_case."""
    name = _SETTINGS[model]
    key = name if name in owner else to_camel(name)
    given = owner.get(key)
    if given is None:
        owner.pop(key, None)
        return
    if isinstance(given, model):
        owner[key] = given if as_model else given.model_dump(mode="json", exclude_unset=True)
        return
    del owner[key]
    location = (*location, key)
    if not isinstance(given, Mapping):
        mistakes.add(location, f"must be an object with fields of {model.__name__}", given)
        return
    as_given: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for its_key, value in given.items():
        snake = _snake(str(its_key))
        known = snake if snake in model.model_fields else str(its_key)
        as_given[known] = str(its_key)
        settings[known] = value
    try:
        config = model(**settings)
    except ValidationError as error:
        for item in error.errors:
            item["loc"] = (*(as_given.get(str(first), first) for first in item["loc"][:1]), *item["loc"][1:])
        mistakes.add_errors(error.errors, model, location)
        return
    owner[key] = config if as_model else config.model_dump(mode="json", exclude_unset=True)


_SETTINGS: dict[type[pydantic.BaseModel], str] = {
    RetryConfig: "retry_config",
    PanicConfig: "panic_config",
    CircuitBreakerConfig: "circuit_breaker",
    Limits: "limits",
}


def _snake(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f"_{found.group().lower()}", key)


# Steps ---------------------------------------------------------------------------------------------------------------


def _check_steps(steps: list[Any], step_model: type[pydantic.BaseModel], mistakes: Mistakes) -> None:
    checked = _Checked()
    if any(isinstance(step, dict) and step.get("dependencies") is not None for step in steps):
        checked.dependencies = {}
    for index, step in enumerate(steps):
        if isinstance(step, dict):
            location = ("steps", index)
            _check_twice(step, step_model, location, mistakes)
            if step.get("config", {}) is None:
                del step["config"]
            _check_id(step.get("id"), index, checked, mistakes)
            executor = _check_type(step.get("type"), location, mistakes)
            for model in (RetryConfig, CircuitBreakerConfig):
                _check_settings(step, model, location, mistakes)
            _check_config(step, executor, location, mistakes)
            _check_sleep(step, executor, location, mistakes)
    for index, step in enumerate(steps):
        if isinstance(step, dict):
            _check_dependencies(step, index, checked, mistakes)
    _check_references(steps, checked, mistakes)


def _check_id(step_id: object, index: int, checked: _Checked, mistakes: Mistakes) -> None:
    location = ("steps", index, "id")
    if not isinstance(step_id, str):
        return
    try:
        validate_step_id(step_id)
    except ValidationError as error:
        mistakes.add(location, str(error), step_id)
        return
    first = checked.places.setdefault(step_id, index)
    if first != index:
        mistakes.add(
            location, f'"{step_id}" is the id of steps.{first} already; every step needs one of its own', step_id
        )


def _check_type(step_type: object, location: Location, mistakes: Mistakes) -> Executor | None:
    if not isinstance(step_type, str):
        return None
    executor = find_executor(step_type)
    location = (*location, "type")
    if executor is None:
        broken, known = broken_type(step_type), known_types()
        if broken is not None:
            mistakes.add(location, f'the executor of "{step_type}" cannot be loaded: {broken}', step_type)
        else:
            hint = did_you_mean(step_type, known)
            mistakes.add(
                location,
                f'there is no step type "{step_type}"{hint} (types: {", ".join(known)}; register_executor adds others)',
                step_type,
            )
        return None
    missing = executor.what_is_missing()
    if missing is not None:
        mistakes.add(location, f'the step type "{step_type}" {missing}', step_type)
    return executor


def _check_config(step: _Step, executor: Executor | None, location: Location, mistakes: Mistakes) -> None:
    config = step.get("config", {})
    location = (*location, "config")
    if not isinstance(config, Mapping):
        return  # the model says so
    if not _check_plain(config, location, mistakes):
        step["config"] = {}
        return
    templates: list[Location] = []
    for place, template in expressions_of(config):
        templates.append(place)
        if isinstance(template, ExpressionSyntaxError):
            mistakes.add((*location, *place), str(template))
        elif executor is not None and not executor.takes_secrets and _reads_secrets(template):
            mistakes.add(
                (*location, *place), f'a step of type "{step.get("type")}" shows its config, so it takes no secrets'
            )
    if executor is not None and executor.config_model is not None:
        errors = _errors_of(executor.config_model, config)
        literal = [error for error in errors if not any(_overlap(error["loc"], place) for place in templates)]
        mistakes.add_errors(literal, executor.config_model, location)


def _errors_of(model: type[pydantic.BaseModel], config: Mapping[str, Any]) -> list[Any]:
    try:
        model.model_validate(dict(config))
    except pydantic.ValidationError as error:
        return list(error.errors(include_url=False))
    except ValidationError as error:
        return list(error.errors)
    return []


def _overlap(one: Location, other: Location) -> bool:
    """Tell whether one place lies in the other; then an expression may put right what seems wrong there."""
    return all(mine == theirs for mine, theirs in zip(one, other, strict=False))


def _reads_secrets(template: Template) -> bool:
    return any(isinstance(part, Expression) and part.root == "secrets" for part in template)


def _check_plain(value: object, location: Location, mistakes: Mistakes, depth: int = 0) -> bool:
    """Refuse what JSON cannot hold; tell whether all is well."""
    if depth > MAX_DEPTH:
        mistakes.add(location[:10], f"is nested more than {MAX_DEPTH} deep")
        return False
    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return True
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                mistakes.add(location, f"has the key {shown(key, 60)}; keys are texts")
                return False
        looked_over = [_check_plain(item, (*location, key), mistakes, depth + 1) for key, item in value.items()]
        return all(looked_over)
    if isinstance(value, (list, tuple)):
        looked_over = [_check_plain(item, (*location, index), mistakes, depth + 1) for index, item in enumerate(value)]
        return all(looked_over)
    mistakes.add(location, f"is a {type(value).__name__}, {shown(value, 60)}, which JSON cannot hold")
    return False


def _check_sleep(step: _Step, executor: Executor | None, location: Location, mistakes: Mistakes) -> None:
    if executor is None or not executor.sleeps:
        return
    for name in ("timeout", "retry_config", "circuit_breaker"):
        for key in {name, to_camel(name)} & step.keys():
            if step[key] is not None:
                mistakes.add(
                    (*location, key),
                    f'a step of type "{step["type"]}" is a durable sleep and makes no attempts; leave it out',
                )


# Order and references ------------------------------------------------------------------------------------------------


def _check_dependencies(step: _Step, index: int, checked: _Checked, mistakes: Mistakes) -> None:
    step_id, named = step.get("id"), step.get("dependencies")
    usable: list[str] = []
    for place, other in enumerate(named if isinstance(named, (list, tuple)) else ()):
        location = ("steps", index, "dependencies", place)
        if not isinstance(other, str):
            continue  # the model says so
        if other not in checked.places:
            mistakes.add(location, f'there is no step "{other}"{did_you_mean(other, checked.places)}', other)
        elif other in usable:
            mistakes.add(location, f'"{other}" is named twice', other)
        else:
            usable.append(other)
    if checked.dependencies is not None and isinstance(step_id, str) and checked.places.get(step_id) == index:
        checked.dependencies[step_id] = tuple(usable)


def _check_references(steps: list[Any], checked: _Checked, mistakes: Mistakes) -> None:
    ids = list(checked.places)
    reads: Needs = dict.fromkeys(ids, ())
    try:
        order = order_of(ids, checked.dependencies, reads)
    except CycleError as error:
        mistakes.add(("steps",), f"steps wait for each other: {error}", error.cycle)
        return
    for index, step in enumerate(steps):
        if not isinstance(step, dict) or not isinstance(step.get("config"), Mapping):
            continue
        if not isinstance(step.get("id"), str) or checked.places.get(step["id"]) != index:
            continue
        earlier = ancestors(step["id"], order.waits_for)
        for place, template in expressions_of(step["config"]):
            for other in () if isinstance(template, ExpressionSyntaxError) else _steps_of(template):
                location = ("steps", index, "config", *place)
                if other not in checked.places:
                    mistakes.add(location, f'there is no step "{other}"{did_you_mean(other, checked.places)}')
                elif other == step["id"]:
                    mistakes.add(location, "a step cannot read its own result")
                elif other not in earlier:
                    advice = (
                        f'name it in this step\'s dependencies: ["{other}"]'
                        if checked.dependencies is not None
                        else "it comes later; put it before this one"
                    )
                    mistakes.add(location, f'step "{other}" need not have ended when this step begins; {advice}')


def _steps_of(template: Template) -> list[str]:
    return [part.step_id for part in template if isinstance(part, Expression) and part.step_id is not None]


def _check_output(document: dict[str, Any], mistakes: Mistakes) -> None:
    output = document.get("output")
    if not _check_plain(output, ("output",), mistakes):
        del document["output"]
        return
    known = [step["id"] for step in document["steps"] if isinstance(step, dict) and isinstance(step.get("id"), str)]
    for place, template in expressions_of(output):
        location = ("output", *place)
        if isinstance(template, ExpressionSyntaxError):
            mistakes.add(location, str(template))
            continue
        if _reads_secrets(template):
            mistakes.add(location, "an output is stored, so it cannot hold a secret")
        for other in _steps_of(template):
            if other not in known:
                mistakes.add(location, f'there is no step "{other}"{did_you_mean(other, known)}')
