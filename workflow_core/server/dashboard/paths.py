"""Where the pages are, for links."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request

__all__ = ["base_of", "execution_path", "executions_path", "value_path", "workflow_path"]


def base_of(request: Request) -> str:
    """Return what the paths of all pages begin with: nothing, or where the application is mounted."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def execution_path(execution_id: str) -> str:
    """Return the path of the page about an execution."""
    return f"/executions/{quote(execution_id, safe=':')}"


def value_path(execution_id: str, kind: str, step_id: str | None = None) -> str:
    """Return the path of a stored value as it is: ``input``, ``output``, or the ``result`` of a step."""
    query = "" if step_id is None else f"?{urlencode({'step': step_id})}"
    return f"{execution_path(execution_id)}/values/{kind}{query}"


def workflow_path(name: str) -> str:
    """Return the path of the page about a workflow."""
    return f"/workflows/{quote(name, safe='')}"


def executions_path(parameters: Iterable[tuple[str, str]]) -> str:
    """Return the path of a list of executions."""
    query = urlencode([(name, value) for name, value in parameters if value])
    return f"/executions?{query}" if query else "/executions"
