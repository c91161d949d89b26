"""Kills children of its own with SIGKILL at durable points of the order workflow, and leaves their databases.

Called with a scenario and a directory. Reads one place to die from each line of stdin, forks a child that runs the
scenario on the file ``PLACE-NUMBER.db`` in the directory and kills itself there, and answers each line with the signal
that ended it.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))

from examples.order_processing import workflow as order_workflow
from examples.order_processing.services import Services
from pytest_workflow.clock import VirtualClock
from pytest_workflow.environment import Environment
from pytest_workflow.observation import Place
from workflow_core import NonRetryableError, hookimpl

if TYPE_CHECKING:
    from pytest_workflow.faults import WorkflowFaults
    from pytest_workflow.harness import WorkflowHarness
    from workflow_core.hookspecs import DurablePoint

SAMPLE = Path(order_workflow.__file__).parent / "orders" / "sample.json"


def with_order(workflow: WorkflowHarness, execution_id: str, **more: object) -> None:
    """Run an order."""
    order_workflow.use_services(Services())
    order = json.loads(SAMPLE.read_text(encoding="utf-8"))
    workflow.run("order-processing", execution_id, {**order, **more}, {"max_attempts": 5})


def troubled(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    """Run an order through retries, a declined card and a panic with a restart."""
    workflow_faults.fail("validate-order", ConnectionError("503"), attempts=[1, 2], occurrence=None, workflow="order-*")
    workflow_faults.panic("reserve-inventory", "out of memory")
    trouble = {"declined_methods": ["card", "wallet"], "carrier_outages": 2, "failing_notifications": 1}
    with_order(workflow, "o-1", simulation=trouble)


def refused(workflow: WorkflowHarness, workflow_faults: WorkflowFaults) -> None:
    """Run an order that fails at once, and another one into an open circuit."""
    workflow_faults.fail("validate-order", NonRetryableError("no such customer"), occurrence=1)
    with_order(workflow, "o-1")
    workflow_faults.open_circuit("process-payment")
    with_order(workflow, "o-2", order_id="order-1002")


SCENARIOS = {scenario.__name__: scenario for scenario in (troubled, refused)}


class Killer:
    """Kills the process at one place."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._count = 0

    @hookimpl(trylast=True)
    def before_durable_point(self, point: DurablePoint) -> None:
        """Strike before the transaction."""
        if (point.name, point.step_id) == (self._place.point, self._place.step_id):
            self._count += 1
            if self._place.when == "before" and self._count == self._place.nth:
                os.kill(os.getpid(), signal.SIGKILL)

    @hookimpl
    def after_durable_point(self, point: DurablePoint) -> None:
        """Strike after the commit."""
        if (point.name, point.step_id) == (self._place.point, self._place.step_id) and self._count == self._place.nth:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Answer each line."""
    scenario, directory = SCENARIOS[sys.argv[1]], Path(sys.argv[2])
    gc.freeze()  # a collection in a child would copy every page that it shares with this process
    for number, line in enumerate(sys.stdin):
        place = Place.parse(line)
        child = os.fork()
        if child == 0:
            try:
                environment = Environment(VirtualClock(), directory / f"{number}.db", plugins=[Killer(place)])
                scenario(environment.harness, environment.faults)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, flush=True)


if __name__ == "__main__":
    main()
