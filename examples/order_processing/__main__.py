"""Process one order on a real SQLite database, with live progress and the steps in a table at the end."""

from __future__ import annotations

import argparse
import asyncio
import codecs
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pydantic

if not __package__:  # run as a file or a directory, rather than with -m
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.order_processing.models import Order
from examples.order_processing.progress import Progress, history_table
from examples.order_processing.services import Services
from examples.order_processing.workflow import use_services
from workflow_core import (
    ExecutionConflictError,
    ExecutionNotFoundError,
    ExecutionResult,
    Settings,
    StorageError,
    WorkflowCoreError,
    WorkflowEngine,
)
from workflow_core.models import TERMINAL_STATUSES
from workflow_core.settings import default_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLE = Path(__file__).parent / "orders" / "sample.json"

EXAMPLES = """\
examples:
  python -m examples.order_processing                            the sample order
  python -m examples.order_processing my-order.json              another one
  python -m examples.order_processing --directory /tmp/shop      with the state in /tmp/shop

Press Ctrl-C while it waits for the carrier, or kill it, then run the same command again: it goes on where it was.
Run it once more when it has ended: it shows the stored result and runs nothing again.

exit codes: 0 the order is done, 1 it failed, 2 the order file is not usable, 4 the database is not, 130 interrupted
"""


def read_order(path: Path) -> Order:
    """Read an order from a JSON file.

    Raises:
        ValueError: The file cannot be read or holds no valid order; the message says what is wrong.
    """
    try:
        return Order.model_validate_json(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except pydantic.ValidationError as error:
        mistakes = [f"  {'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors()]
        if error.errors()[0]["type"] == "json_invalid":
            raise ValueError(f"{path} is not JSON: {error.errors()[0]['msg']}") from error
        raise ValueError("\n".join([f"{path} holds no valid order:", *mistakes])) from error


async def run(order: Order, directory: Path) -> ExecutionResult:
    """Process an order, go on with it, or look its stored result up; print what happens and what came of it."""
    subject = f"Order {order.order_id} of {order.customer_id}, {order.total} in total"
    outbox = directory / "order-processing-outbox.jsonl"
    use_services(Services(outbox))
    progress = Progress(subject)
    settings = Settings(directory=directory, recover_on_start=False)  # other orders are none of this command's business

    def explain_silence() -> None:
        if not progress.begun:
            print(f"{subject}: another process is at it; waiting for its result", flush=True)

    async with WorkflowEngine(plugins=[progress], settings=settings) as engine:
        try:
            stored = (await engine.get_status(order.order_id)).status in TERMINAL_STATUSES
        except ExecutionNotFoundError:
            stored = False
        silence = asyncio.get_running_loop().call_later(1.0, explain_silence)
        try:
            result = await engine.start_and_wait("order-processing", order.order_id, order)
        finally:
            silence.cancel()
        if stored:
            print(f"{subject}: was processed before; this is the stored result, nothing runs again")
        print(f"\n{history_table(result, await engine.history(order.order_id))}\n")
        _show_outcome(result)
        print(f"\nDatabase: {engine.store.location(result.workflow_name)}")
        print(f"Outbox:   {outbox} (what the services did)")
    return result


def _show_outcome(result: ExecutionResult) -> None:
    print(f"Status:   {result.status}" + (f" ({result.error})" if result.error else ""))
    if isinstance(result.output, pydantic.BaseModel):
        print(f"Outcome:  {result.output.model_dump_json(exclude={'order_id'})}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.order_processing",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("order", type=Path, nargs="?", default=SAMPLE, help="JSON file with the order (the sample)")
    parser.add_argument("--directory", type=Path, help="where the state lives ($WORKFLOW_DIR, or ~/.workflow)")
    options = parser.parse_args(arguments)
    try:
        order = read_order(options.order)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        result = asyncio.run(run(order, (options.directory or default_directory()).absolute()))
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again: it goes on where it was.", file=sys.stderr)
        return 130
    except ExecutionConflictError as error:
        print(f"{options.order}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has gone; the order is safe in the database
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except StorageError as error:
        print(error, file=sys.stderr)
        return 4
    except WorkflowCoreError as error:
        print(error, file=sys.stderr)
        return 1
    return 0 if result.status == "completed" else 1


if __name__ == "__main__":
    sys.exit(main())
