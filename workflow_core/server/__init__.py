"""The server: an API and a dashboard about an engine's executions, as an ASGI application."""

from workflow_core.server.application import create_app, lifespan
from workflow_core.server.settings import ServerSettings

__all__ = ["ServerSettings", "create_app", "lifespan"]
