"""What a list of executions is asked for, as its URL says it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from workflow_core.errors import ValidationError
from workflow_core.summaries import statuses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.datastructures import QueryParams

    from workflow_core.models import ExecutionStatus

__all__ = ["SPANS", "Filters"]

SPANS: Final[Mapping[str, tuple[str, timedelta]]] = {
    "1h": ("the last hour", timedelta(hours=1)),
    "24h": ("the last 24 hours", timedelta(hours=24)),
    "7d": ("the last 7 days", timedelta(days=7)),
    "30d": ("the last 30 days", timedelta(days=30)),
}
"""How long ago executions can have been started at most, by what stands in the URL."""

_LONGEST_SEARCH: Final = 300
_LONGEST_WAY_BACK: Final = 20


@dataclass(frozen=True, slots=True)
class Filters:
    """A filter and a place in the list.

    Attributes:
        span: One of `SPANS`, or empty.
        start: Started then or later, as it was written: a time in ISO 8601, in UTC if it names no zone.
        end: Started earlier than that, likewise.
        queue: Handed to the workers of this queue.
        search: Part of an id, of an error, or of other texts.
        before: The cursor behind which the page begins; empty for the first page.
        back: The cursors of the pages between the first one and this one, so that the way back shows what was seen.
    """

    workflow: str = ""
    status: tuple[str, ...] = ()
    span: str = ""
    start: str = ""
    end: str = ""
    queue: str = ""
    search: str = ""
    before: str = ""
    back: tuple[str, ...] = ()

    @classmethod
    def of(cls, query: QueryParams) -> Filters:
        """Read a URL's query."""
        return cls(
            workflow=query.get("workflow", ""),
            status=tuple(dict.fromkeys(name for name in query.getlist("status") if name)),
            span=query.get("started", ""),
            start=query.get("from", ""),
            end=query.get("to", ""),
            queue=query.get("queue", ""),
            search=query.get("q", "").strip()[:_LONGEST_SEARCH],
            before=query.get("before", ""),
            back=tuple(query.getlist("back")[-_LONGEST_WAY_BACK:]),
        )

    @property
    def narrows(self) -> bool:
        """Whether some executions may be left out."""
        return bool(self.workflow or self.status or self.span or self.start or self.end or self.queue or self.search)

    def statuses(self) -> Sequence[ExecutionStatus] | None:
        """Return the statuses.

        Raises:
            ValidationError: One is none.
        """
        return statuses(self.status) if self.status else None  # type: ignore[arg-type] # that is what it finds out

    def started_after(self, now: datetime) -> datetime | None:
        """Return from when on executions were started.

        Raises:
            ValidationError: The text is no moment.
        """
        if self.span:
            if self.span not in SPANS:
                raise ValidationError(f"Not a span of time: {self.span!r:.50}; use {', '.join(SPANS)}")
            return now - SPANS[self.span][1]
        return _moment("from", self.start)

    def started_before(self) -> datetime | None:
        """Return before when executions were started.

        Raises:
            ValidationError: The text is no moment.
        """
        return _moment("to", self.end)

    def parameters(self) -> list[tuple[str, str]]:
        """Return it as it stands in a URL."""
        named = [
            ("q", self.search),
            ("workflow", self.workflow),
            ("queue", self.queue),
            *(("status", status) for status in self.status),
            ("started", self.span),
            ("from", self.start),
            ("to", self.end),
            ("before", self.before),
            *(("back", cursor) for cursor in self.back),
        ]
        return [(name, value) for name, value in named if value]

    def older(self, cursor: str) -> Filters:
        """Return the page that begins behind a place, and from which the way back leads here."""
        way = (*self.back, self.before)[-_LONGEST_WAY_BACK:] if self.before else ()
        return replace(self, before=cursor, back=way)

    def newer(self) -> Filters:
        """Return the page that this one was reached from."""
        return replace(self, before=self.back[-1] if self.back else "", back=self.back[:-1])

    def newest(self) -> Filters:
        """Return the first page."""
        return replace(self, before="", back=())


def _moment(name: str, text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValidationError(
            f'"{name}" is no moment: {text!r:.100}; write a time such as 2026-11-26T08:30, in UTC'
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
