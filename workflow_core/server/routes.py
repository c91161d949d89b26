"""What the guards ask of a request: its path below the mount, its headers, and who sent it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.types import Scope

__all__ = ["SAFE_METHODS", "client_of", "header", "headers", "is_api", "path_below_mount"]

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def headers(scope: Scope, name: bytes) -> list[bytes]:
    """Return the values of a header, one for each time that it was sent."""
    return [value for key, value in scope["headers"] if key == name]


def header(scope: Scope, name: bytes) -> str | None:
    """Return the value of a header; ``None`` if it was not sent."""
    found = headers(scope, name)
    return found[0].decode("latin-1") if found else None


def path_below_mount(scope: Scope) -> str:
    """Return the path of a request as the application's own routes know it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in {"/", ""}:
        return path[len(root) :] or "/"
    return path


def is_api(scope: Scope) -> bool:
    """Tell whether a request is for the API, and not for a page."""
    path = path_below_mount(scope)
    return path == "/api" or path.startswith("/api/")


def client_of(scope: Scope) -> str:
    """Return the address of who sent a request."""
    client = scope.get("client")
    return str(client[0]) if client else ""
