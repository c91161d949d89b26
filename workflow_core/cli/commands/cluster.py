"""`workflow cluster`: shows workers and queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from workflow_core.cli.invocation import Invocation, epilog_of, make_command
from workflow_core.cli.output import FORMAT_OPTION, print_json, print_line, print_table
from workflow_core.cli.texts import visible
from workflow_core.database.dispatch import dispatching
from workflow_core.interception import patiently
from workflow_core.views.cluster import QUEUE_PARTS, ClusterView, host_name
from workflow_core.views.wording import took_text

if TYPE_CHECKING:
    from workflow_core.database.dispatch import ClusterState, WorkerState

__all__ = ["command"]


_HELD: Final = tuple(part for part in QUEUE_PARTS if part != "ready")
_ALWAYS: Final = ("running", "parked", "limited")
"""What queues hold besides what is ready, and what is shown also where no queue holds any."""

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

    Executions are ready if a worker could begin them, lost if one ran them that gives no sign of life any more, parked
    while they sleep, back off or wait for their restart, and limited or scheduled where a limit lets them wait. The lag
    is the time for which the one that waits longest for a worker has waited.
    """
    with invocation.engine() as engine:
        state = invocation.run(patiently(engine.store, dispatching(engine.bare_store).cluster_state))
    if output_format == "json":
        print_json(ClusterView(state).data())
        return
    if invocation.quiet:
        for worker in (worker for worker in state.workers if worker.is_alive):
            print_line(f"{visible(host_name(worker.host))}:{worker.pid}")
        return
    _show(state)


def _show(state: ClusterState) -> None:
    if not state.queues:
        print_line("No worker and no queue yet: `workflow worker` begins one, and `workflow start --queue` fills one")
        return
    held = [name for name in _HELD if name in _ALWAYS or any(getattr(queue, name) for queue in state.queues)]
    print_table(
        ["Queue", "Ready", "Lag", *(name.capitalize() for name in held), "Workers"],
        [
            [
                queue.queue,
                str(queue.ready),
                took_text(queue.lag_ms),
                *(str(getattr(queue, name)) for name in held),
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
                ", ".join(worker.queues) or "(it stops)",
                f"{worker.running} of {worker.concurrency}" if worker.is_alive else f"{worker.running} lost",
                _heartbeat(worker, state),
            ]
            for worker in ClusterView(state).workers
        ],
        flexible=3,
    )


def _heartbeat(worker: WorkerState, state: ClusterState) -> str:
    ago = took_text(max(0, round((state.read_at - worker.last_heartbeat).total_seconds() * 1_000)))
    return f"{ago} ago" if worker.is_alive else f"{ago} ago, lost"


command.add_command(status)
