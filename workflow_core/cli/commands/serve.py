"""`workflow serve`: the API and the dashboard."""

from __future__ import annotations

import click

from workflow_core.cli.failures import USAGE, Failure
from workflow_core.cli.invocation import Invocation, make_command

__all__ = ["command"]


@make_command(
    "serve",
    examples="""
workflow serve --app shop
workflow serve --port 9000
""",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8321, show_default=True, type=click.IntRange(0, 65_535), help="The port; 0 for any.")
@click.pass_obj
def command(invocation: Invocation, host: str, port: int) -> None:
    """Serve the API and the dashboard, and run the executions that are started through them."""
    try:
        import uvicorn  # noqa: PLC0415 - only this command needs it

        from workflow_core.server import create_app  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise Failure(
            f'The server needs "{error.name}"; install it with: pip install "pytest-workflow-core[server]"', USAGE
        ) from None
    with invocation.engine(runs_workflows=True) as engine:
        uvicorn.run(create_app(engine), host=host, port=port)
