"""Makes pages of templates: everything that is printed into them is escaped, and hidden characters are shown."""

from __future__ import annotations

import functools
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import jinja2
import markupsafe
from starlette.responses import HTMLResponse

from workflow_core.clock import from_epoch_ms, to_epoch_ms
from workflow_core.database.dispatch import Dispatches
from workflow_core.report.markup import Markup, escaped, tag
from workflow_core.report.scale import duration_text
from workflow_core.report.sections import count
from workflow_core.server.dashboard import paths
from workflow_core.server.dashboard.icons import badge, icon, label
from workflow_core.server.dashboard.json_tree import json_tree, one_line_json
from workflow_core.views.wording import ago_text, limits_text, rate_text, remaining, took_text

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from datetime import datetime

    from starlette.requests import Request

    from workflow_core.engine import WorkflowEngine
    from workflow_core.server.reading import Reader

__all__ = ["engine_of", "read", "render"]

ResultT = TypeVar("ResultT")

_TEMPLATES: Final = Path(__file__).parent / "templates"
_BRAND: Final = tag(
    "svg",
    tag("path", d="M1 3.5H9V7.5H1ZM6 10.5H17V14.5H6Z"),
    class_="icon",
    viewBox="0 0 18 18",
    aria_hidden="true",
)
_THEME: Final = tag(
    "svg",
    tag("path", d="M9 1A8 8 0 1 1 9 17 8 8 0 0 1 9 1ZM9 3V15A6 6 0 0 0 9 3Z"),
    class_="icon",
    viewBox="0 0 18 18",
    aria_hidden="true",
)


def engine_of(request: Request) -> WorkflowEngine:
    """Return the engine that an application is about."""
    engine: WorkflowEngine = request.app.state.engine
    return engine


async def read(request: Request, function: Callable[[WorkflowEngine], Coroutine[Any, Any, ResultT]]) -> ResultT:
    """Return what a function returns that is given an engine to read from, in the thread that reads.

    Raises:
        StorageError: The database cannot be read.
    """
    reader: Reader = request.app.state.reader
    return await reader(function)


async def render(request: Request, template: str, status_code: int = 200, **context: object) -> HTMLResponse:
    """Make a page, in a thread of its own: a long one keeps no execution of this process waiting.

    Args:
        request: What asks for it.
        template: The name of its template.
        status_code: The status of the response.
        **context: What the template shows.
    """
    now = engine_of(request).clock.now()
    common: dict[str, object] = {
        "base": paths.base_of(request),
        "now": now,
        "now_ms": to_epoch_ms(now),
        "dispatches": isinstance(engine_of(request).bare_store, Dispatches),
        "ago": functools.partial(_ago, now=now),
        "left": functools.partial(_left, now=now),
        "since": functools.partial(_since, now=now),
        "signed_in": getattr(request.app.state.settings, "token", None) is not None,
    }
    reader: Reader = request.app.state.reader
    html = await reader.in_thread(lambda: _environment().get_template(template).render({**common, **context}))
    return HTMLResponse(html, status_code)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        auto_reload=False,
        finalize=_inert,
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["tojson_text"] = functools.partial(json.dumps, ensure_ascii=False)
    environment.globals |= {
        "badge": badge,
        "brand_mark": _BRAND,
        "count": count,
        "duration_text": duration_text,
        "execution_path": paths.execution_path,
        "executions_path": paths.executions_path,
        "icon": icon,
        "json_tree": json_tree,
        "label": label,
        "limits_text": limits_text,
        "moment": _moment,
        "one_line_json": one_line_json,
        "rate_text": rate_text,
        "theme_mark": _THEME,
        "took_text": took_text,
        "value_path": paths.value_path,
        "version": version("pytest-workflow-core"),
        "workflow_path": paths.workflow_path,
    }
    return environment


def _inert(value: object) -> markupsafe.Markup:
    """Return what a template prints as HTML: no text of the user's is any, and characters that hide become visible."""
    if isinstance(value, markupsafe.Markup):
        return value
    return markupsafe.Markup("" if value is None else escaped(value))  # noqa: S704 - escaped here


# Times: in UTC from here, in the reader's own zone when the script runs -----------------------------------------------


def _as_moment(moment: datetime | int) -> datetime:
    return from_epoch_ms(moment) if isinstance(moment, int) else moment


def _time(text: str, moment: datetime, kind: str) -> Markup:
    return tag(
        "time",
        text,
        datetime=moment.isoformat(timespec="milliseconds"),
        data_time=kind,
        title=f"{moment:%Y-%m-%d %H:%M:%S} UTC",
    )


def _moment(moment: datetime | int | None, missing: str = "-") -> Markup:
    if moment is None:
        return escaped(missing)
    at = _as_moment(moment)
    return _time(f"{at:%Y-%m-%d %H:%M:%S} UTC", at, "moment")


def _ago(moment: datetime | int | None, *, now: datetime, missing: str = "-") -> Markup:
    if moment is None:
        return escaped(missing)
    at = _as_moment(moment)
    return _time(ago_text(at, now), at, "ago")


def _left(moment: datetime | int, *, now: datetime) -> Markup:
    """Return the time until a moment, which counts down."""
    at = _as_moment(moment)
    return _time(remaining(to_epoch_ms(at), now), at, "left")


def _since(moment: datetime, *, now: datetime) -> Markup:
    """Return the time since a moment, which counts up."""
    return _time(took_text((now - moment).total_seconds() * 1_000), moment, "since")
