"""Errors as problem details (RFC 9457): what a client is told, and what of it the API's description says."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from workflow_core import errors
from workflow_core.secrets import REDACTION
from workflow_core.server.routes import is_api
from workflow_core.views.json_text import json_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from fastapi import FastAPI
    from starlette.requests import Request

    from workflow_core.secrets import Secrets

__all__ = [
    "ErrorPage",
    "Mistake",
    "Problem",
    "ProblemError",
    "ProblemResponse",
    "add_handlers",
    "documented",
    "problem_of",
]

ErrorPage: TypeAlias = "Callable[[Request, int, str, str], Awaitable[Response]]"
"""Makes a page of a problem: given the request, the status, the title and the detail."""

logger = logging.getLogger("workflow_core.server")
logger.addFilter(REDACTION)

_SOON, _LATER = "2", "60"
"""Seconds after which a database that cannot be used is worth another try."""


class Mistake(BaseModel):
    """One mistake in a request.

    Attributes:
        loc: Where it is, such as ``["query", "limit"]``.
        msg: What is wrong.
        type: The kind of mistake.
    """

    loc: list[str | int]
    msg: str
    type: str


class Problem(BaseModel):
    """Why a request was not carried out, as problem details (RFC 9457).

    Attributes:
        type: Tells one kind of problem from another, for programs; ``about:blank`` if the status says it all.
        title: The kind, for people.
        status: The HTTP status.
        detail: What is wrong in this case, and what to do about it.
        instance: What was asked for.
        errors: The single mistakes of a request that is not acceptable.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None
    instance: str | None = None
    errors: list[Mistake] | None = Field(default=None)


class ProblemResponse(Response):
    """An answer with a problem's details."""

    media_type = "application/problem+json"

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(json_bytes(problem.model_dump(exclude_none=True)), status_code=problem.status, headers=headers)


@dataclass
class ProblemError(Exception):
    """Raise this to answer with a problem."""

    status: int
    detail: str
    kind: str | None = None
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True)
class _Kind:
    status: int
    name: str
    title: str


_KINDS: Final[dict[type[Exception], _Kind]] = {
    errors.ValidationError: _Kind(422, "not-acceptable", "The request is not acceptable"),
    errors.WorkflowNotFoundError: _Kind(404, "workflow-not-found", "There is no such workflow"),
    errors.ExecutionNotFoundError: _Kind(404, "execution-not-found", "There is no such execution"),
    errors.ExecutionConflictError: _Kind(409, "execution-conflict", "The id is in use for another execution"),
    errors.InvalidStateError: _Kind(409, "invalid-state", "The execution's status does not allow this"),
    errors.LeaseLostError: _Kind(409, "lease-lost", "Another process has taken the execution over"),
    errors.ConfigurationError: _Kind(409, "configuration", "The workflow's configuration is wrong"),
    errors.StorageError: _Kind(503, "storage", "A database cannot be used"),
    errors.WorkflowCoreError: _Kind(500, "engine", "The engine failed"),
}


def problem_of(error: Exception, instance: str | None = None) -> tuple[Problem, Mapping[str, str] | None]:
    """Return an error as a problem, and the headers that go with it.

    Args:
        error: The error.
        instance: The path that was asked for.
    """
    if isinstance(error, RequestValidationError):
        mistakes = [Mistake(loc=_place(item), msg=str(item["msg"]), type=str(item["type"])) for item in error.errors()]
        text = "; ".join(f"{'.'.join(map(str, each.loc))}: {each.msg}" for each in mistakes)
        return _problem(_KINDS[errors.ValidationError], text, instance, mistakes), None
    if isinstance(error, ProblemError):
        kind = "about:blank" if error.kind is None else _type(error.kind)
        title = HTTPStatus(error.status).phrase
        return Problem(
            type=kind, title=title, status=error.status, detail=error.detail, instance=instance
        ), error.headers
    if isinstance(error, HTTPException):
        title = HTTPStatus(error.status_code).phrase
        detail = None if error.detail == title else error.detail
        return Problem(title=title, status=error.status_code, detail=detail, instance=instance), error.headers
    for cls, known in _KINDS.items():
        if isinstance(error, cls):
            given = error.errors if isinstance(error, errors.ValidationError) else []
            mistakes = [Mistake(loc=_place(item), msg=item["msg"], type=item["type"]) for item in given]
            headers = None
            if isinstance(error, errors.StorageError):
                headers = {"retry-after": _SOON if error.is_transient else _LATER}
            return _problem(known, errors.error_text(error), instance, mistakes), headers
    title = HTTPStatus.INTERNAL_SERVER_ERROR.phrase
    detail = "The server made a mistake; its log says more."
    return Problem(title=title, status=500, detail=detail, instance=instance), None


def _problem(kind: _Kind, detail: str, instance: str | None, mistakes: list[Mistake]) -> Problem:
    return Problem(
        type=_type(kind.name),
        title=kind.title,
        status=kind.status,
        detail=detail,
        instance=instance,
        errors=mistakes or None,
    )


def _type(name: str) -> str:
    return f"urn:workflow:problem:{name}"


def _place(item: Any) -> list[str | int]:  # noqa: ANN401 - an item of pydantic's or of FastAPI's list
    return [part if isinstance(part, (str, int)) else str(part) for part in item["loc"]]


def add_handlers(app: FastAPI, secrets: Secrets, error_page: ErrorPage | None) -> None:
    """Let an application answer every error with a problem.

    Args:
        app: The application.
        secrets: What is masked in the texts of errors.
        error_page: Makes the page that a browser is shown instead, outside of the API.
    """

    async def handle(request: Request, error: Exception) -> Response:
        problem, headers = problem_of(error, request.url.path)
        if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        if secrets.known:
            problem = Problem.model_validate(secrets.redact_all(problem.model_dump()))
        if error_page is None or is_api(request.scope) or "text/html" not in request.headers.get("accept", ""):
            return ProblemResponse(problem, headers)
        page = await error_page(request, problem.status, problem.title, problem.detail or "")
        page.headers.update(headers or {})
        return page

    for cls in (ProblemError, HTTPException, RequestValidationError, errors.WorkflowCoreError):
        app.add_exception_handler(cls, handle)


_SAID: Final[dict[int, str]] = {
    400: "The body is not JSON, or is nested too deeply.",
    401: "A token is needed, and none or a wrong one was shown.",
    403: "The request comes from another site.",
    404: "There is no such thing.",
    409: "The state of things does not allow this.",
    413: "The body is too large.",
    415: "The body is not declared as `application/json`.",
    421: "The request is meant for another host.",
    422: "The request is not acceptable; `errors` names the mistakes.",
    429: "Too many requests; `Retry-After` says when to come again.",
    500: "The server made a mistake.",
    503: "A database cannot be used; `Retry-After` says when to come again.",
}

_EXAMPLES: Final[dict[int, Problem]] = {
    404: Problem(
        type=_type("execution-not-found"),
        title="There is no such execution",
        status=404,
        detail='No execution "order-1001" in /var/lib/workflow',
        instance="/api/executions/order-1001",
    ),
    409: Problem(
        type=_type("invalid-state"),
        title="The execution's status does not allow this",
        status=409,
        detail='Execution "order-1001" of workflow "order" is completed already',
        instance="/api/executions/order-1001/cancel",
    ),
    422: Problem(
        type=_type("not-acceptable"),
        title="The request is not acceptable",
        status=422,
        detail="query.limit: Input should be greater than or equal to 1",
        instance="/api/executions",
        errors=[
            Mistake(loc=["query", "limit"], msg="Input should be greater than or equal to 1", type="greater_than_equal")
        ],
    ),
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of problems, for ``responses`` of a route or of a router."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        content: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/Problem"}}
        if status in _EXAMPLES:
            content["example"] = _EXAMPLES[status].model_dump(exclude_none=True)
        described[status] = {"description": _SAID[status], "content": {"application/problem+json": content}}
    return described
