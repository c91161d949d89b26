"""`workflow dev`: the server, started again on each change of the code."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workflow_core.cli.commands.serve import needs_server, refuse_unsafe, serve_options
from workflow_core.cli.failures import FAILED, Failure
from workflow_core.cli.invocation import Invocation, make_command
from workflow_core.cli.output import print_line
from workflow_core.cli.texts import visible

if TYPE_CHECKING:
    from watchfiles import Change

__all__ = ["command"]

_WATCHED = (".py", ".json", ".yaml", ".yml", ".toml")
_STOP_SECONDS = 10


@make_command(
    "dev",
    examples="""
workflow dev --app shop
workflow dev --app shop.workflows:engine --port 9000 --no-open
workflow dev --watch ../library
""",
)
@serve_options
@click.option("--open/--no-open", "open_browser", default=True, show_default=True, help="Open the dashboard.")
@click.option(
    "--watch",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="Watch this as well as the current directory.",
)
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
    watch: tuple[Path, ...],
) -> None:
    """Serve as "workflow serve" does, in a process that is started again on each change of a file.

    What runs at that moment is given back, and the new process goes on with it, with the new code.
    """
    needs_server()
    from watchfiles import run_process  # noqa: PLC0415 - not for help

    from workflow_core.server.serving import ListenError, listen  # noqa: PLC0415
    from workflow_core.server.settings import ServerSettings  # noqa: PLC0415
    from workflow_core.settings import default_directory  # noqa: PLC0415

    refuse_unsafe(host, ServerSettings.from_environment())
    try:
        with listen(host, port) as listener:  # so that a port in use is told once, and the port stays the same
            port = int(listener.getsockname()[1])
    except ListenError as error:
        raise Failure(str(error), FAILED) from None
    words = [sys.executable, "-m", "workflow_core.cli", "serve", "--host", host, "--port", str(port)]
    for name in allowed_hosts:
        words += ["--allowed-host", name]
    words += ["--recover" if recover else "--no-recover"]
    flags = {
        "--no-dashboard": no_dashboard,
        "--behind-proxy": behind_proxy,
        "--access-log": access_log,
        "--open": open_browser and not no_dashboard,
        "--quiet": invocation.quiet,
    }
    words += [flag for flag, given in flags.items() if given]
    if invocation.app is not None:
        words += ["--app", invocation.app]
    if invocation.directory is not None:
        words += ["--directory", str(invocation.directory)]
    state = (invocation.directory or default_directory()).absolute()

    roots = [Path.cwd(), *(path.absolute() for path in watch)]

    def below_its_root(path: Path) -> Path:
        return next((path.relative_to(root) for root in roots if path.is_relative_to(root)), path)

    def is_watched(change: Change, path: str) -> bool:
        del change
        found = Path(path)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in below_its_root(found).parts)
        return found.suffix in _WATCHED and not hidden and state not in found.parents

    def tell(changes: set[tuple[Change, str]]) -> None:
        if not invocation.quiet:
            names = sorted(visible(str(below_its_root(Path(path)))) for _, path in changes)
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            print_line(f"{names[0]}{more} changed; starting again ...")

    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    logging.getLogger("watchfiles").setLevel(logging.ERROR)  # a server that could not start has said so itself
    if not invocation.quiet:
        print_line(f"Watching {', '.join(map(str, roots))} for changes of the code  (Ctrl-C stops)")
    run_process(
        *roots,
        callback=tell,
        target=shlex.join(words),
        target_type="command",
        watch_filter=is_watched,
        sigint_timeout=_STOP_SECONDS,
        sigkill_timeout=1,
    )
