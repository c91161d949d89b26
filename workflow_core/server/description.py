"""The API's description of itself (OpenAPI)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workflow_core.server.problems import Mistake, Problem

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["describe"]

_WITHOUT_TOKEN = "/api/health/live"  # noqa: S105 - a path


def describe(app: FastAPI, *, with_token: bool) -> None:
    """Complete the description that an application gives of itself.

    Args:
        app: The application.
        with_token: Whether it asks for a token.
    """
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            description = made()
            schemas = description.setdefault("components", {}).setdefault("schemas", {})
            for model in (Problem, Mistake):
                schemas[model.__name__] = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas[model.__name__].pop("$defs", None)
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            if with_token:
                description["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                description["security"] = [{"token": []}]
                description["paths"][_WITHOUT_TOKEN]["get"]["security"] = []
            app.openapi_schema = description
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the description
