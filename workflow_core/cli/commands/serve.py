"""`workflow serve`: the API and the dashboard."""

from __future__ import annotations

import os
import threading
import webbrowser
from typing import TYPE_CHECKING, Any, TypeVar

import click

from workflow_core.cli.failures import FAILED, USAGE, Failure
from workflow_core.cli.invocation import Invocation, make_command
from workflow_core.cli.output import print_line
from workflow_core.cli.texts import workflows_text

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from workflow_core.engine import WorkflowEngine
    from workflow_core.server.settings import ServerSettings

__all__ = ["command", "needs_server", "refuse_unsafe", "serve_options"]

FunctionT = TypeVar("FunctionT", bound="Callable[..., Any]")

_RELOADED = "WATCHFILES_CHANGES"
"""Set by `workflow dev`: which files have changed since the process before began; ``[]`` in the first one."""


def serve_options(function: FunctionT) -> FunctionT:
    """Give a command the options of a server."""
    options = [
        click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on."),
        click.option(
            "--port", default=8321, show_default=True, type=click.IntRange(0, 65_535), help="The port; 0 for any."
        ),
        click.option(
            "--allowed-host",
            "allowed_hosts",
            multiple=True,
            metavar="NAME",
            help="A name by which clients call the server, such as that of a reverse proxy; *.NAME for all below it.",
        ),
        click.option("--no-dashboard", is_flag=True, help="Serve the API alone."),
        click.option(
            "--recover/--no-recover",
            default=True,
            show_default=True,
            help="Take over the executions that another process has left.",
        ),
        click.option(
            "--behind-proxy", is_flag=True, help="Believe the X-Forwarded headers of a reverse proxy on this machine."
        ),
        click.option("--access-log", is_flag=True, help="Log each request; needs LOG_LEVEL=info."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@make_command(
    "serve",
    examples="""
workflow serve --app shop
workflow serve --port 9000 --open
WORKFLOW_SERVER_TOKEN=... workflow serve --host 0.0.0.0 --allowed-host workflows.example.org
curl -X POST localhost:8321/api/workflows/order/executions --json '{"input": {"item": "book"}}'
""",
)
@serve_options
@click.option("--open", "open_browser", is_flag=True, help="Open the dashboard in a browser.")
@click.pass_obj
def command(
    invocation: Invocation,
    host: str,
    port: int,
    allowed_hosts: tuple[str, ...],
    no_dashboard: bool,  # noqa: FBT001 - click passes options by name
    recover: bool,  # noqa: FBT001
    behind_proxy: bool,  # noqa: FBT001
    access_log: bool,  # noqa: FBT001
    open_browser: bool,  # noqa: FBT001
) -> None:
    """Serve the API and the dashboard, and run the executions that are started through them.

    Only this machine can reach it. To listen on another address, put a token into the environment variable
    WORKFLOW_SERVER_TOKEN; clients send it as "Authorization: Bearer TOKEN", and people log in with it once. Ctrl-C and
    SIGTERM stop the server in an orderly way: what runs is given back, and the next process goes on with it.
    """
    needs_server()
    from workflow_core.cli.interruption import Interrupted, run_until_stopped  # noqa: PLC0415 - not for help
    from workflow_core.server import ServerSettings, create_app  # noqa: PLC0415
    from workflow_core.server.serving import ListenError, allow_many_files, listen, serve, url_of  # noqa: PLC0415

    settings = ServerSettings.from_environment(
        allowed_hosts=(f"[{host}]" if ":" in host else host, *allowed_hosts), dashboard=not no_dashboard
    )
    refuse_unsafe(host, settings)
    allow_many_files()
    with invocation.engine(runs_workflows=True) as engine:
        engine.settings = engine.settings.model_copy(update={"recover_on_start": recover})
        app = create_app(engine, settings)
        try:
            listener = listen(host, port)
        except ListenError as error:
            raise Failure(str(error), FAILED) from None
        url = url_of(listener, host)

        def when_ready() -> None:
            _say(invocation, engine, url)
            if open_browser and os.environ.get(_RELOADED, "[]") == "[]":
                # A browser for the terminal is waited for; the server is not to wait with it.
                threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

        def work(stop: asyncio.Event) -> Any:  # noqa: ANN401 - a coroutine
            return serve(app, listener, stop, when_ready, access_log=access_log, behind_proxy=behind_proxy)

        try:
            run_until_stopped(work, passed_on=_RELOADED in os.environ)
        except Interrupted as interrupted:
            raise Failure("Interrupted.", interrupted.exit_code) from None


def needs_server() -> None:
    """Say so if what a server needs is not installed.

    Raises:
        Failure: It is not.
    """
    try:
        import fastapi  # noqa: F401, PLC0415 - only these commands need them
        import jinja2  # noqa: F401, PLC0415
        import prometheus_client  # noqa: F401, PLC0415
        import uvicorn  # noqa: F401, PLC0415
        import watchfiles  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        raise Failure(
            f'The server needs "{error.name}"; install it with: pip install "pytest-workflow-core[server]"', USAGE
        ) from None


def refuse_unsafe(host: str, settings: ServerSettings) -> None:
    """Refuse to listen where others can reach it without a token.

    Raises:
        Failure: That was asked for.
    """
    from workflow_core.server.serving import is_loopback  # noqa: PLC0415 - not for help
    from workflow_core.server.settings import TOKEN_VARIABLE  # noqa: PLC0415

    if settings.token is None and not is_loopback(host):
        raise Failure(
            f"{host} can be reached from other machines, and whoever reaches the server can run workflows: set "
            f"{TOKEN_VARIABLE} to a token, made for example by "
            "`python -c 'import secrets; print(secrets.token_urlsafe())'`, or listen on 127.0.0.1",
            USAGE,
        )


def _say(invocation: Invocation, engine: WorkflowEngine, url: str) -> None:
    if invocation.quiet:
        print_line(url)
        return
    names = engine.workflow_names()
    print_line(f"Serving {workflows_text(names)} of {engine.store.location()} at {url}  (Ctrl-C stops it)")
    if not names:
        print_line("No workflow can be started here: name the module that defines them with --app, or create one")
