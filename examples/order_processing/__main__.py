"""Process one order on a real SQLite database, with live progress and the history at the end."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pydantic
from tabulate import tabulate

from examples.order_processing.models import Order
from examples.order_processing.services import Services
from examples.order_processing.workflow import use_services
from workflow_core import (
    ExecutionNotFoundError,
    ExecutionResult,
    StorageError,
    WorkflowCoreError,
    WorkflowEngine,
    hookimpl,
)
from workflow_core.events import Event, StepEvent
from workflow_core.settings import default_directory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

EXAMPLES = """\
examples:
  python -m examples.order_processing examples/order_processing/orders/sample.json
  WORKFLOW_DIR=/tmp/shop python -m examples.order_processing my-order.json

Press Ctrl-C while it waits for the carrier, then run the same command again: it goes on where it was.
Run it once more when it has ended: it shows the stored result and does nothing again.
"""


class Progress:
    """Prints every event as it happens."""

    def __init__(self) -> None:
        self._begin: datetime | None = None

    @hookimpl
    def on_event(self, event: Event) -> None:
        """Print one line."""
        self._begin = self._begin or event.at
        elapsed = (event.at - self._begin).total_seconds()
        print(f"  {elapsed:7.3f}s  {type(event).__name__:<20} {_describe(event)}".rstrip(), flush=True)


def _describe(event: Event) -> str:
    fields = event.named_fields()
    step = f"{fields.pop('step_id'):<24} " if isinstance(event, StepEvent) else ""
    return step + " ".join(f"{name}={value}" for name, value in fields.items())


def read_order(path: Path) -> Order:
    """Read an order from a JSON file.

    Raises:
        ValueError: The file cannot be read or holds no valid order; the message says what is wrong.
    """
    try:
        return Order.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    except pydantic.ValidationError as error:
        mistakes = [f"  {'.'.join(map(str, item['loc'])) or 'order'}: {item['msg']}" for item in error.errors()]
        raise ValueError("\n".join([f"{path} holds no valid order:", *mistakes])) from error


async def process(engine: WorkflowEngine, order: Order) -> ExecutionResult:
    """Start the order's workflow, go on with it, or show its stored result."""
    try:
        known: ExecutionResult | None = await engine.get_status(order.order_id)
    except ExecutionNotFoundError:
        known = None
    if known is None:
        print(f"Processing {order.order_id}: {len(order.items)} items, {order.total} in total")
    elif known.status in {"completed", "failed", "cancelled"}:
        print(f"{order.order_id} was processed before; this is the stored result, nothing runs again.")
    else:
        print(f"{order.order_id} was interrupted ({known.status}); going on where it was.")
    return await engine.start_and_wait("order-processing", order.order_id, order)


async def show(engine: WorkflowEngine, result: ExecutionResult, outbox: Path) -> None:
    """Print the history as a table, the outcome, and where everything lies."""
    history = await engine.history(result.execution_id)
    begin = history[0].at
    rows = [
        (event.seq, f"+{(event.at - begin).total_seconds():.3f}s", type(event).__name__, _describe(event))
        for event in history
    ]
    print("\nHistory")
    print(tabulate(rows, headers=("#", "time", "event", "details"), disable_numparse=True))
    print(f"\nStatus:   {result.status}" + (f" ({result.error})" if result.error else ""))
    if isinstance(result.output, pydantic.BaseModel):
        print(f"Outcome:  {result.output.model_dump_json()}")
    print(f"Database: {engine.store.location(result.workflow_name)}")
    print(f"Outbox:   {outbox}")


async def run(order: Order, directory: Path) -> int:
    """Process an order, and return the exit code."""
    outbox = directory / "order-processing-outbox.jsonl"
    use_services(Services(outbox))
    engine = WorkflowEngine(plugins=[Progress()])
    try:
        result = await process(engine, order)
        await show(engine, result, outbox)
    finally:
        await engine.aclose()
    return 0 if result.status == "completed" else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.order_processing",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("order", type=Path, help="JSON file with the order")
    options = parser.parse_args(arguments)
    try:
        order = read_order(options.order)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        return asyncio.run(run(order, default_directory()))
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again: it goes on where it was.", file=sys.stderr)
        return 130
    except StorageError as error:
        print(error, file=sys.stderr)
        return 4
    except WorkflowCoreError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
