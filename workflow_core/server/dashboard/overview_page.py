"""The first page: all workflows at a glance, and what needs somebody."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from operator import attrgetter
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
from workflow_core.views.statistics import WorkflowStatistics, read_statistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.engine import WorkflowEngine
    from workflow_core.models import ExecutionStatus
    from workflow_core.report.markup import Markup
    from workflow_core.summaries import ExecutionSummary
    from workflow_core.views.circuits import CircuitView

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_STRIP: Final = 30
_WRONG: Final = 5
_WINDOW: Final = timedelta(hours=24)
_NOT_AT_REST: Final[Sequence[ExecutionStatus]] = ("queued", "running", "sleeping", "restarting", "panicked")


@dataclass(frozen=True, slots=True)
class _Row:
    """One workflow.

    Attributes:
        overview: What is known of it.
        problem: Why no more can be read; ``None`` if it can.
        statistics: What became of the executions of the window; ``None`` if there are none.
        strip: Its latest executions.
    """

    overview: Overview
    problem: str | None
    statistics: WorkflowStatistics | None
    strip: Markup

    @property
    def total(self) -> int:
        """How many executions there are."""
        return sum(self.overview.counts.values())

    @property
    def rate(self) -> float | None:
        """Completed ones of those that completed or failed in the window."""
        return None if self.statistics is None else self.statistics.success_rate

    @property
    def has_durations(self) -> bool:
        """Whether any completed in the window."""
        return self.statistics is not None and self.statistics.p50_ms is not None

    @property
    def now(self) -> list[tuple[str, int]]:
        """How many of them are not at rest, by status."""
        counts = {} if self.problem is not None else self.overview.counts
        return [(status, counts[status]) for status in _NOT_AT_REST if counts.get(status)]


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
    latest = heapq.merge(*wrong, key=attrgetter("position"), reverse=True)
    return _Overview(
        rows,
        [(status, totals[status]) for status in possible_statuses(engine)],
        list(itertools.islice(latest, _WRONG)),
        [circuit for circuit in circuits if circuit.status != "closed"],
        engine.bare_store.location(),
    )


async def _row(engine: WorkflowEngine, overview: Overview, base: str) -> _Row:
    if overview.problem is not None or not overview.counts:
        return _bare_row(overview, base, overview.problem)
    statistics = await read_statistics(engine, overview.name, _WINDOW)
    latest = await engine.list_executions(overview.name, limit=_STRIP)
    return _Row(overview, None, statistics, draw_strip(latest, _STRIP, base, overview.name))


def _bare_row(overview: Overview, base: str, problem: str | None) -> _Row:
    return _Row(overview, problem, None, draw_strip((), _STRIP, base, overview.name))
