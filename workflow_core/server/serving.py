"""Serving the application by uvicorn: listening, saying so, and stopping in an orderly way."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
from typing import TYPE_CHECKING, Any

import uvicorn

from workflow_core.errors import WorkflowCoreError
from workflow_core.secrets import REDACTION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastapi import FastAPI

__all__ = ["ListenError", "allow_many_files", "is_loopback", "listen", "serve", "url_of"]

_MOST_FILES = 65_536
_BACKLOG = 512

_GRACE_SECONDS = 5
"""How long requests that are under way may go on when the server stops."""


class ListenError(WorkflowCoreError):
    """The server cannot listen where it was told to."""


def is_loopback(host: str) -> bool:
    """Tell whether a host, by name or address, is this machine as only itself can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return host == "localhost"
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def allow_many_files() -> None:
    """Let this process open as many files as the system lets it: each workflow has a database of its own."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ModuleNotFoundError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: An address or a name.
        port: The port; 0 for any that is free.

    Raises:
        ListenError: The port is in use, or there is no such address here.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return _listening(family, address)
    except (OSError, UnicodeError, OverflowError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            raise ListenError(
                f"Port {port} of {host} is in use, perhaps by another server of this kind; choose another one with "
                "--port, or any that is free with --port 0"
            ) from None
        if number == errno.EACCES:
            raise ListenError(f"This user may not listen on port {port}; choose one from 1024 on") from None
        raise ListenError(f"Nothing can listen on {host}, port {port}: {error}") from None


def _listening(family: int, address: Any) -> socket.socket:  # noqa: ANN401 - as each family has it
    """Return a socket that names its protocol: asyncio sends small answers at once (TCP_NODELAY) on such ones alone."""
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket, host: str) -> str:
    """Return the URL by which a browser of this machine reaches a server.

    Args:
        listener: Its socket.
        host: What it was told to listen on.
    """
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"  # noqa: PLR2004 - the version of IP
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"


async def serve(
    app: FastAPI,
    listener: socket.socket,
    stop: asyncio.Event,
    when_ready: Callable[[], object],
    *,
    access_log: bool = False,
    behind_proxy: bool = False,
) -> None:
    """Serve an application until the event is set.

    Args:
        app: What `create_app` returned.
        listener: Where to listen.
        stop: Ends it: requests that are under way are answered, streams end, and executions are given back.
        when_ready: Called when requests are answered.
        access_log: Whether each request is logged.
        behind_proxy: Whether ``X-Forwarded-For`` and ``X-Forwarded-Proto`` of a proxy on this machine are believed.
    """
    log = logging.getLogger("uvicorn.error")
    log.addFilter(REDACTION)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=access_log,
        lifespan="on",
        proxy_headers=behind_proxy,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        ws="none",
    )
    server = _Server(config, app, when_ready)
    stopping = asyncio.create_task(_stop(server, stop), name="workflow server stop")
    try:
        await server.serve([listener])
    except asyncio.CancelledError:
        log.disabled = True  # it would show where its parts are cut off
        raise
    finally:
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        listener.close()


async def _stop(server: uvicorn.Server, stop: asyncio.Event) -> None:
    await stop.wait()
    server.should_exit = True


class _Server(uvicorn.Server):
    """A server whose streams end when it stops, and which leaves the signals to whoever runs it."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, when_ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._app = app
        self._when_ready = when_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin, and say so."""
        await super().startup(sockets)
        if self.started:
            self._when_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, which nobody else would, and then everything."""
        self._app.state.changes.end()
        await super().shutdown(sockets)
