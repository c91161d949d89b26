"""The step type ``http``: one request, bounded in time and size, that is safe to repeat."""

from workflow_core.definitions.http.config import HttpConfig
from workflow_core.definitions.http.errors import HttpRefusedError, HttpResponseError, HttpTransportError
from workflow_core.definitions.http.sending import request

__all__ = ["HttpConfig", "HttpRefusedError", "HttpResponseError", "HttpTransportError", "request"]
