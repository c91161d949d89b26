"""`workflow cluster`: shows workers and queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from workflow_core.cli.invocation import Invocation, epilog_of, make_command
from workflow_core.cli.output import FORMAT_OPTION, print_json, print_line, print_table
from workflow_core.cli.texts import visible
from workflow_core.database.dispatch import dispatching
from workflow_core.views.cluster import ClusterView, host_name
from workflow_core.views.wording import took_text

if TYPE_CHECKING:
    from workflow_core.database.dispatch import ClusterState, WorkerState

__all__ = ["command"]


_EXAMPLES = """
workflow cluster status
workflow cluster status --format json | jq '.queues[].lag_ms'
watch workflow cluster status
"""


@click.group("cluster", epilog=epilog_of(_EXAMPLES), context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Look at the workers of a PostgreSQL database, and at the queues that they serve."""


@make_command("status", examples=_EXAMPLES)
@FORMAT_OPTION
@click.pass_obj
def status(invocation: Invocation, output_format: str) -> None:
    """Show workers, queues, and how far these lag behind.

    The lag is the time for which the execution that is ready longest has been waiting for a worker.
    """
    with invocation.engine() as engine:
        state = invocation.run(dispatching(engine.bare_store).cluster_state())
    if output_format == "json":
        print_json(ClusterView(state).data())
        return
    if invocation.quiet:
        for worker in state.workers:
            print_line(f"{visible(host_name(worker.host))}:{worker.pid}")
        return
    _show(state)


def _show(state: ClusterState) -> None:
    if not state.queues:
        print_line("No worker and no queue yet: `workflow worker` begins one, and `workflow start --queue` fills one")
        return
    print_table(
        ["Queue", "Ready", "Lag", "Running", "Parked", "Limited", "Workers"],
        [
            [
                queue.queue,
                str(queue.ready),
                "-" if queue.lag_ms is None else took_text(queue.lag_ms),
                str(queue.running),
                str(queue.parked),
                str(queue.limited),
                str(queue.workers),
            ]
            for queue in state.queues
        ],
        flexible=0,
    )
    print_line()
    if not state.workers:
        print_line("No worker runs.")
        return
    print_table(
        ["Worker", "Host", "PID", "Queues", "Running", "Heartbeat"],
        [
            [
                str(worker.worker_id),
                host_name(worker.host),
                str(worker.pid),
                ", ".join(worker.queues),
                f"{worker.running} of {worker.concurrency}",
                _heartbeat(worker, state),
            ]
            for worker in state.workers
        ],
        flexible=3,
    )


def _heartbeat(worker: WorkerState, state: ClusterState) -> str:
    ago = took_text(max(0, round((state.read_at - worker.last_heartbeat).total_seconds() * 1_000)))
    return f"{ago} ago" if worker.is_alive else f"{ago} ago, lost"


command.add_command(status)
