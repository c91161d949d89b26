"""A page that needs nothing else: no network, no other file, and no data in its script."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from workflow_core.report.drawing import draw_legend, timeline_definitions, timeline_styles
from workflow_core.report.markup import Markup, join, tag
from workflow_core.report.sections import execution_section

if TYPE_CHECKING:
    from datetime import datetime

    from workflow_core.report.model import ExecutionEntry

__all__ = ["execution_page", "key", "page", "written"]


def page(title: str, *body: Markup, script: str = "") -> str:
    """Return a page.

    Args:
        title: What the browser's window is called.
        *body: Its content.
        script: Its script, which is part of the program and holds no data.
    """
    styles = timeline_styles() + _asset("page.css")
    policy = (
        f"default-src 'none'; style-src {_hash(styles)}; script-src {_hash(script)}; base-uri 'none'; "
        "form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(styles)),
    )
    parts = [*body, timeline_definitions(), tag("script", Markup(script)) if script else Markup()]
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', *parts), lang='en')}\n"


def execution_page(execution: ExecutionEntry, written_at: datetime, version: str) -> str:
    """Return a page about one execution.

    Args:
        execution: The execution.
        written_at: When the page is made; aware.
        version: The version of this library, for the reader.
    """
    header = tag(
        "header",
        tag("h1", tag("span", "Execution", class_="kind"), " ", execution.execution_id),
        tag("p", written(written_at), f", pytest-workflow-core {version}", class_="written"),
    )
    main = tag("main", execution_section(execution, "e"), key())
    return page(f"{execution.workflow_name}: {execution.execution_id}", header, main)


def key(explanation: str = "") -> Markup:
    """Return what the signs of the timelines mean, under a title that opens and closes.

    Args:
        explanation: What else is to be known of the scale.
    """
    text = (
        f"{explanation}each event has a place of its own, in the order of the history. Between two events the scale "
        "widens with the time that passed."
    )
    summary = tag("summary", "How to read the timelines")
    return tag("details", summary, join(tag("p", text[0].upper() + text[1:]), draw_legend()), class_="key")


def written(moment: datetime) -> Markup:
    """Return a moment, to read."""
    return tag("time", moment.isoformat(" ", "seconds"), datetime=moment.isoformat())


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> Markup:
    """Return how a content security policy names an inline style or script."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(f"'sha256-{digest}'")
