"""The expressions of declarative workflows, such as ``${steps.fetch.data.items[0].name}``; nothing is ever evaluated.

An expression is a root, a path into it, and perhaps a default::

    expression = "${" root { "." name | "[" index "]" | "[" string "]" } [ ":-" default ] "}"
    root       = "input" | "steps" | "variables" | "secrets" | "execution"

A text that is one expression takes the value as it is; in a longer text the value becomes text. ``$${`` stands for the
characters ``${``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time
from typing import Any, Protocol, TypeAlias

from workflow_core.errors import NonRetryableError
from workflow_core.suggestions import did_you_mean

__all__ = [
    "Expression",
    "ExpressionError",
    "ExpressionSyntaxError",
    "Location",
    "Roots",
    "Template",
    "expressions_of",
    "parse",
    "resolve",
    "steps_read_by",
]

Location: TypeAlias = tuple[int | str, ...]
"""Where a value lies in a document."""

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]*"
_PART = re.compile(rf"\.(?P<name>{_NAME})|\[(?P<index>-?\d{{1,9}})\]|\[(?P<key>\"(?:[^\"\\]|\\.)*\")\]")
_ROOT = re.compile(_NAME)
_ROOTS = {
    "input": "the input of the execution, as in ${input.order_id}",
    "steps": "the result of an earlier step, as in ${steps.fetch.data}",
    "variables": "a variable of config.json, as in ${variables.BATCH_SIZE}",
    "secrets": "a secret of config.json, as in ${secrets.API_KEY}",
    "execution": "the execution itself, as in ${execution.id}",
}
_LONGEST = 1_000


class ExpressionSyntaxError(ValueError):
    """A text is no expression of this language."""


class ExpressionError(NonRetryableError):
    """An expression has no value in this execution; another attempt would meet the same."""


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression.

    Attributes:
        text: As it was written, with its braces.
        root: What it begins with.
        path: The names and indexes that follow.
        has_default: Whether there is a default.
        default: What stands in for a value that is missing or null.
    """

    text: str
    root: str
    path: Location
    has_default: bool = False
    default: object = None

    @property
    def step_id(self) -> str | None:
        """The step whose result it reads, if any."""
        return str(self.path[0]) if self.root == "steps" else None


Template: TypeAlias = tuple[str | Expression, ...]
"""A text in its parts."""


class Roots(Protocol):
    """What expressions read."""

    def root(self, expression: Expression) -> tuple[object, Location]:
        """Return the value to begin with, and the path that is left to follow.

        Raises:
            ExpressionError: There is no such value.
        """


def parse(text: str) -> Template:
    """Take a text apart.

    Raises:
        ExpressionSyntaxError: An expression in it is malformed.
    """
    parts: list[str | Expression] = []
    literal, position = "", 0
    while (start := text.find("${", position)) >= 0:
        if start > position and text[start - 1] == "$":
            literal += text[position : start - 1] + "${"
            position = start + 2
            continue
        end = _end(text, start)
        literal += text[position:start]
        if literal:
            parts.append(literal)
        literal, position = "", end
        parts.append(_expression(text[start:end]))
    literal += text[position:]
    return (*parts, literal) if literal or not parts else tuple(parts)


def _end(text: str, start: int) -> int:
    quoted = False
    position = start + 2
    while position < len(text):
        character = text[position]
        if quoted and character == "\\":
            position += 1
        elif character == '"':
            quoted = not quoted
        elif character == "}" and not quoted:
            return position + 1
        position += 1
    raise ExpressionSyntaxError(
        f"{text[start : start + 60]!r} has no end: write }} after it, or $${{ for the characters ${{"
    )


def _expression(text: str) -> Expression:
    inner = text[2:-1].strip()
    if len(inner) > _LONGEST:
        raise ExpressionSyntaxError(f"an expression of more than {_LONGEST} characters: {text[:60]!r}...")
    found = _ROOT.match(inner)
    root = found.group() if found is not None else ""
    if root not in _ROOTS:
        raise ExpressionSyntaxError(_unknown_root(text, root or inner))
    position, path = len(root), list[int | str]()
    while (part := _PART.match(inner, position)) is not None:
        if part["name"] is not None:
            path.append(part["name"])
        elif part["index"] is not None:
            path.append(int(part["index"]))
        else:
            path.append(_quoted(text, part["key"]))
        position = part.end()
    rest = inner[position:].lstrip()
    if rest and not rest.startswith(":-"):
        raise ExpressionSyntaxError(
            f'{text} cannot be read from {rest[:20]!r} on: a path goes on with .name, [0] or ["a name"], and ends with '
            "} or a default, :-value"
        )
    expression = Expression(text, root, tuple(path), bool(rest), _default(rest[2:].strip()) if rest else None)
    _check(expression)
    return expression


def _unknown_root(text: str, root: str) -> str:
    if root == "env":
        return (
            f"{text}: the environment cannot be read; name a variable or a secret of config.json, whose value may be "
            "env:NAME"
        )
    return f"{text} begins with none of {', '.join(_ROOTS)}{did_you_mean(root, _ROOTS)}"


def _quoted(text: str, quoted: str) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        raise ExpressionSyntaxError(f"{text}: {quoted} is no text in the manner of JSON") from None


def _default(text: str) -> object:
    """Return a default as the JSON value that it is, or else as text."""
    try:
        value = json.loads(text, parse_constant=lambda _: text)
    except ValueError:
        return text
    return value if value is None or isinstance(value, (str, int, float, bool)) else text


def _check(expression: Expression) -> None:
    path, root = expression.path, expression.root
    if root != "input" and not (path and isinstance(path[0], str)):
        raise ExpressionSyntaxError(f"{expression.text} has to name {_ROOTS[root]}")
    if root == "secrets" and (len(path) != 1 or expression.has_default):
        raise ExpressionSyntaxError(f"{expression.text}: a secret is a text, and has neither parts nor a default")
    if root == "execution" and path != ("id",):
        raise ExpressionSyntaxError(f"{expression.text}: of the execution, its id can be read: ${{execution.id}}")


def expressions_of(
    value: object, location: Location = ()
) -> Iterator[tuple[Location, Template | ExpressionSyntaxError]]:
    """Yield the templates in a document's value, each with its place; instead of a malformed one, what is wrong."""
    if isinstance(value, str):
        if "${" in value:
            try:
                yield location, parse(value)
            except ExpressionSyntaxError as error:
                yield location, error
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from expressions_of(item, (*location, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from expressions_of(item, (*location, index))


def steps_read_by(value: object) -> tuple[str, ...]:
    """Return the steps whose results a document's value reads."""
    found: dict[str, None] = {}
    for _, template in expressions_of(value):
        if not isinstance(template, ExpressionSyntaxError):
            ids = (part.step_id for part in template if isinstance(part, Expression))
            found.update((step_id, None) for step_id in ids if step_id is not None)
    return tuple(found)


def resolve(value: Any, roots: Roots) -> Any:  # noqa: ANN401 - a value of JSON
    """Return a document's value with the values of its expressions in their places.

    Raises:
        ExpressionError: An expression has no value.
    """
    if isinstance(value, str):
        return _filled(parse(value), roots) if "${" in value else value
    if isinstance(value, Mapping):
        return {key: resolve(item, roots) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [resolve(item, roots) for item in value]
    return value


def _filled(template: Template, roots: Roots) -> object:
    if len(template) == 1 and isinstance(template[0], Expression):
        return _value(template[0], roots)
    return "".join(part if isinstance(part, str) else _as_text(_value(part, roots)) for part in template)


def _value(expression: Expression, roots: Roots) -> object:
    try:
        value, rest = roots.root(expression)
        value = _followed(expression, value, rest)
    except ExpressionError:
        if expression.has_default:
            return expression.default
        raise
    return expression.default if value is None and expression.has_default else value


def _followed(expression: Expression, value: Any, path: Location) -> object:  # noqa: ANN401 - a value of JSON
    for done, part in enumerate(path, start=len(expression.path) - len(path)):
        is_there = (
            part in value
            if isinstance(part, str) and isinstance(value, Mapping)
            else isinstance(part, int) and isinstance(value, (list, tuple)) and -len(value) <= part < len(value)
        )
        if not is_there:
            whole = "".join(f"[{item}]" if isinstance(item, int) else f".{item}" for item in expression.path[:done])
            raise ExpressionError(
                f"{expression.text} has no value: {expression.root}{whole} is {_described(value)}; give it a default, "
                "as in ${input.limit:-10}, if it may be missing"
            )
        value = value[part]
    return value


def _described(value: object) -> str:
    """Tell what a value is, without telling the value."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        names = ", ".join(str(key) for key in list(value)[:10])
        return f"an object with {names}{', ...' if len(value) > 10 else ''}" if names else "an empty object"  # noqa: PLR2004
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return {bool: "a truth value", int: "a number", float: "a number", str: "a text"}.get(
        type(value), f"a {type(value).__name__}"
    )


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (date, time)):
        return value.isoformat()
    if value is None or isinstance(value, (bool, int, float, Mapping, list, tuple)):
        return json.dumps(value, default=_as_text, ensure_ascii=False)
    return str(value)
