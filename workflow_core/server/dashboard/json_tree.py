"""Stored values as trees that open and close, made here, so that they can be read without any script."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from workflow_core.report.markup import Markup, join, tag

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["json_tree", "one_line_json"]

_MOST_CHILDREN: Final = 100
_MOST_NODES: Final = 2_000
_LONGEST_TEXT: Final = 2_000
_LONGEST_LINE: Final = 72
_DEEPEST: Final = 40
_OPEN_DEPTH: Final = 2
_FEW: Final = 5
_TYPE: Final = "$type"

_Value = bool | int | float | str | list["_Value"] | dict[str, "_Value"] | None


def json_tree(text: str, whole: str | None = None) -> Markup:
    """Return a stored value as nested lists.

    Args:
        text: The value as JSON; what is none, such as a damaged value, is shown as it is.
        whole: Where all of it can be read, for values that are too large to be drawn.
    """
    try:
        value: _Value = json.loads(text)
    except (ValueError, RecursionError):
        return tag("pre", _cut(text), class_="plain", tabindex="0")
    return tag("div", _Tree(whole).draw(value, 0), class_="json")


def one_line_json(text: str | None, longest: int = _LONGEST_LINE) -> str | None:
    """Return a stored value if it fits into one line, else ``None``."""
    if text is None or len(text) > longest or "\n" in text:
        return None
    return text


class _Tree:
    """Draws one value, and stops when it has drawn enough."""

    def __init__(self, whole: str | None) -> None:
        self._whole = whole
        self._left = _MOST_NODES

    def draw(self, value: _Value, depth: int) -> Markup:
        self._left -= 1
        match value:
            case {"$type": "declared", "value": inner}:
                return self.draw(inner, depth)
            case dict() if set(value) == {_TYPE, "value"} and not isinstance(value["value"], (dict, list)):
                return join(tag("span", str(value[_TYPE]), class_="j-type"), " ", self.draw(value["value"], depth + 1))
            case dict():
                pairs = ((tag("span", key, class_="j-key"), child) for key, child in value.items())
                return self._group(value, pairs, len(value), "{", "}", "key", depth)
            case list():
                numbered = ((tag("span", number, class_="j-index"), child) for number, child in enumerate(value))
                return self._group(value, numbered, len(value), "[", "]", "item", depth)
            case str():
                return self._text(value)
            case None:
                return tag("span", "null", class_="j-null")
            case bool():
                return tag("span", "true" if value else "false", class_="j-bool")
        return tag("span", str(value), class_="j-number")

    def _group(
        self,
        value: dict[str, _Value] | list[_Value],
        children: Iterator[tuple[Markup, _Value]],
        size: int,
        opening: str,
        closing: str,
        noun: str,
        depth: int,
    ) -> Markup:
        if not size:
            return tag("span", opening + closing, class_="j-empty")
        if depth >= _DEEPEST:
            return tag("code", _cut(json.dumps(value, ensure_ascii=False)))
        rows: list[Markup] = []
        for key, child in children:
            if len(rows) >= _MOST_CHILDREN or self._left <= 0:
                break
            rows.append(tag("li", key, tag("span", ": ", class_="j-colon"), self.draw(child, depth + 1)))
        if len(rows) < size:
            rows.append(tag("li", self._rest(size - len(rows), noun), class_="j-rest"))
        opened = depth < _OPEN_DEPTH or (depth < 2 * _OPEN_DEPTH and size <= _FEW)
        counted = f"{size:,} {noun}{'' if size == 1 else 's'}"
        summary = tag("summary", tag("span", opening, class_="j-bracket"), " ", tag("span", counted, class_="j-size"))
        return tag("details", summary, tag("ul", *rows), class_="j-group", open=opened)

    def _rest(self, left_out: int, noun: str) -> Markup:
        text = f"{left_out:,} more {noun}{'' if left_out == 1 else 's'}"
        return tag("a", f"{text}: the whole value", href=self._whole) if self._whole else Markup(text)

    def _text(self, text: str) -> Markup:
        shown = json.dumps(text[:_LONGEST_TEXT], ensure_ascii=False)
        if len(text) <= _LONGEST_TEXT:
            if "\n" in text:
                return tag(
                    "details",
                    tag("summary", tag("span", _first_line(text), class_="j-string")),
                    tag("pre", text, tabindex="0"),
                    class_="j-long",
                )
            return tag("span", shown, class_="j-string")
        beyond = f" … {len(text) - _LONGEST_TEXT:,} more characters"
        more: Sequence[Markup] = [tag("a", "the whole value", href=self._whole)] if self._whole else []
        return join(tag("span", shown[:-1], class_="j-string"), tag("span", beyond, " ", *more, class_="j-rest"))


def _first_line(text: str) -> str:
    first, _, rest = text.partition("\n")
    lines = rest.count("\n") + 2
    return f"{json.dumps(first[:_LONGEST_LINE], ensure_ascii=False)[:-1]} … {lines:,} lines"


def _cut(text: str) -> str:
    beyond = len(text) - _LONGEST_TEXT
    return f"{text[:_LONGEST_TEXT]} … {beyond:,} more characters" if beyond > 0 else text
