"""`workflow completion`: the script that completes this command in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from workflow_core.cli.invocation import make_command

__all__ = ["command"]


@make_command(
    "completion",
    examples="""
workflow completion bash >> ~/.bashrc
workflow completion zsh >> ~/.zshrc
workflow completion fish > ~/.config/fish/completions/workflow.fish
""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes this command in a shell."""
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"There is no completion for {shell}")
    click.echo(found(ctx.find_root().command, {}, "workflow", "_WORKFLOW_COMPLETE").source())
