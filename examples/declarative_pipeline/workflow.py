"""A workflow that a document describes, with step types of one's own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pydantic

from workflow_core import Workflow
from workflow_core.definitions import ExecutorContext, Failure, Result, Success, register_executor

SALES = {"north": 120, "south": 80}
"""Stands for the shops, which have no network here."""


class FetchSales(pydantic.BaseModel, extra="forbid"):
    """What a step of type ``fetch-sales`` is told."""

    shop: str
    day: str


class Add(pydantic.BaseModel, extra="forbid"):
    """What a step of type ``add`` is told."""

    amounts: list[int]


@register_executor("fetch-sales", config_model=FetchSales)
async def fetch_sales(config: FetchSales, context: ExecutorContext) -> Result[dict[str, int], str]:
    """Ask a shop what it has sold."""
    await asyncio.sleep(0.1)
    context.logger.info("asked the shop in the %s", config.shop)
    if config.shop not in SALES:
        return Failure(f"there is no shop in the {config.shop}", retryable=False)
    return Success({"amount": SALES[config.shop]})


@register_executor("add", config_model=Add)
def add(config: Add, _context: ExecutorContext) -> int:
    """Add amounts up."""
    return sum(config.amounts)


Workflow.define_declarative(Path(__file__).with_name("pipeline.yaml"))


def main() -> None:
    """Run the example on the default engine."""
    result = Workflow.run("declarative-pipeline", "sales-2026-01-01", {"day": "2026-01-01"})
    print(result.status, result.output)


if __name__ == "__main__":
    main()
