"""The first page: all workflows at a glance, and what needs somebody."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from workflow_core.errors import StorageError
from workflow_core.server.dashboard.paths import base_of
from workflow_core.server.dashboard.rendering import read, render
from workflow_core.server.dashboard.strip import draw_strip
from workflow_core.views.circuits import read_circuits
from workflow_core.views.cluster import possible_statuses
from workflow_core.views.overviews import Overview, read_overviews
from workflow_core.views.statistics import read_statistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.engine import WorkflowEngine
    from workflow_core.report.markup import Markup
    from workflow_core.summaries import ExecutionSummary
    from workflow_core.views.circuits import CircuitView

__all__ = ["rate_text", "router"]

router = APIRouter(include_in_schema=False)

_STRIP: Final = 30
_WRONG: Final = 5
_WINDOW: Final = timedelta(hours=24)
_NOT_AT_REST: Final = ("queued", "running", "sleeping", "restarting", "panicked")


@dataclass(frozen=True, slots=True)
class _Row:
    """One workflow.

    Attributes:
        now: How many executions are not at rest, by status.
        rate: Completed ones of those that completed or failed in the window.
    """

    name: str
    description: str
    problem: str | None
    total: int
    last: datetime | None
    now: Sequence[tuple[str, int]]
    rate: float | None
    rate_text: str
    p50_ms: float | None
    p95_ms: float | None
    strip: Markup


@dataclass(frozen=True, slots=True)
class _Overview:
    rows: Sequence[_Row]
    totals: Sequence[tuple[str, int]]
    wrong: Sequence[ExecutionSummary]
    circuits: Sequence[CircuitView]
    location: str


@router.get("/", response_class=HTMLResponse)
async def overview(request: Request) -> Response:
    """Show all workflows."""
    base = base_of(request)
    found = await read(request, lambda engine: _read(engine, base))
    return await render(
        request,
        "overview.html",
        rows=found.rows,
        totals=found.totals,
        wrong=found.wrong,
        circuits=found.circuits,
        location=found.location,
    )


def rate_text(rate: float | None) -> str:
    """Return a rate in per cent; never rounded up to 100, because one failure is worth a look."""
    if rate is None:
        return "-"
    return "100 %" if rate >= 1 else f"{min(rate * 100, 99.9):.1f} %"


async def _read(engine: WorkflowEngine, base: str) -> _Overview:
    rows, wrong, totals = [], [], Counter[str]()
    since = engine.clock.now() - _WINDOW
    for each in await read_overviews(engine):
        totals.update(each.counts)
        try:
            rows.append(await _row(engine, each, base))
            wrong.append(
                await engine.list_executions(each.name, ("failed", "panicked"), started_after=since, limit=_WRONG)
            )
        except StorageError as error:
            rows.append(_bare_row(each, base, str(error)))
    circuits, _ = await read_circuits(engine)
    latest = heapq.merge(*wrong, key=lambda found: (found.started_at, found.execution_id), reverse=True)
    return _Overview(
        rows,
        [(status, totals[status]) for status in possible_statuses(engine)],
        list(itertools.islice(latest, _WRONG)),
        [circuit for circuit in circuits if circuit.status != "closed"],
        engine.bare_store.location(),
    )


async def _row(engine: WorkflowEngine, each: Overview, base: str) -> _Row:
    if each.problem is not None or not each.counts:
        return _bare_row(each, base, each.problem)
    statistics = await read_statistics(engine, each.name, _WINDOW)
    latest = await engine.list_executions(each.name, limit=_STRIP)
    return _Row(
        name=each.name,
        description=each.description,
        problem=None,
        total=sum(each.counts.values()),
        last=each.last_execution_at,
        now=[(status, each.counts[status]) for status in _NOT_AT_REST if each.counts.get(status)],
        rate=statistics.success_rate,
        rate_text=rate_text(statistics.success_rate),
        p50_ms=statistics.p50_ms,
        p95_ms=statistics.p95_ms,
        strip=draw_strip(latest, _STRIP, base, each.name),
    )


def _bare_row(each: Overview, base: str, problem: str | None) -> _Row:
    return _Row(
        name=each.name,
        description=each.description,
        problem=problem,
        total=sum(each.counts.values()),
        last=each.last_execution_at,
        now=(),
        rate=None,
        rate_text="-",
        p50_ms=None,
        p95_ms=None,
        strip=draw_strip((), _STRIP, base, each.name),
    )
