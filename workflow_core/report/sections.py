"""The parts of a page about executions: one execution, one history."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING

from workflow_core.report.drawing import draw_timeline
from workflow_core.report.markup import Child, Markup, join, tag
from workflow_core.report.model import EventEntry
from workflow_core.report.scale import duration_text, since_start

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workflow_core.events import Event
    from workflow_core.report.model import ErrorEntry, ExecutionEntry

__all__ = ["badge", "count", "execution_section", "history_table", "seconds_text", "texts"]

_STATUS_SIGNS = {"completed": "✓", "failed": "✗", "cancelled": "■", "panicked": "✸", "sleeping": "◔"}

_COLUMNS = ("#", "Time", "Event", "Step", "Attempt", "Details")


def badge(text: str, sign: str) -> Markup:
    """Return a status with its sign; its colour comes from the style sheet."""
    return tag("span", tag("span", sign, aria_hidden="true"), " ", text, class_=f"badge is-{text}")


def count(number: int, singular: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {singular}{'' if number == 1 else 's'}"


def seconds_text(seconds: float) -> str:
    """Return a real duration to read, rounded to milliseconds."""
    return duration_text(round(seconds * 1_000))


def execution_section(execution: ExecutionEntry, anchor: str) -> Markup:
    """Return one execution: its timeline, its data and its history.

    Args:
        execution: The execution.
        anchor: What the ids of its events begin with; each execution of a page needs another.
    """
    events = execution.history()
    name = f"{execution.workflow_name}, {execution.execution_id}"
    data = [("Input", execution.input), ("Output", execution.output), ("Error", execution.error)]
    parts = [
        tag(
            "h4",
            badge(execution.status, _STATUS_SIGNS.get(execution.status, "▸")),
            " ",
            execution.workflow_name,
            " ",
            tag("code", execution.execution_id),
        ),
        draw_timeline(events, execution.faults, title=f"Timeline of {name}", anchor=anchor),
        tag("div", *(texts(title, text) for title, text in data if text is not None), class_="data"),
        _faults(execution),
        history_table(events, name, anchor, results=_results(execution), errors=execution.errors),
    ]
    if execution.left_out:
        parts.append(tag("p", f"{count(execution.left_out, 'later event')} not shown.", class_="note"))
    return tag("section", *parts, class_="execution", aria_label=f"Execution {name}")


def _results(execution: ExecutionEntry) -> dict[int, str]:
    """Return the stored results by the event that brought them."""
    stored = {step.step_id: step.result for step in execution.steps if step.result is not None}
    return {
        event.seq: stored[event.step_id]
        for event in execution.events
        if event.type in {"StepCompleted", "StepSkipped"} and event.step_id in stored
    }


def _faults(execution: ExecutionEntry) -> Markup:
    if not execution.faults:
        return Markup()
    entries = [
        tag("li", tag("code", fault.description), f" after event {fault.after_seq}") for fault in execution.faults
    ]
    title = tag("summary", "Faults that struck ", tag("span", len(entries), class_="number"))
    return tag("details", title, tag("ul", *entries), class_="faults")


# Histories -----------------------------------------------------------------------------------------------------------


def history_table(
    events: Sequence[Event],
    name: str,
    anchor: str,
    *,
    results: dict[int, str] | None = None,
    errors: Iterable[ErrorEntry] = (),
) -> Markup:
    """Return the events of one execution as a table.

    Args:
        events: The history, oldest first.
        name: What it belongs to, for the caption.
        anchor: What the ids of the rows begin with, as in `draw_timeline`.
        results: What steps returned, as text, by the event that brought it.
        errors: The errors of the steps, oldest first.
    """
    left: defaultdict[tuple[str | None, int | None], deque[ErrorEntry]] = defaultdict(deque)
    for found in errors:
        left[found.step_id, found.attempt].append(found)
    rows = []
    for event in events:
        entry = EventEntry.of(event)
        of_attempt = left.get((entry.step_id, entry.attempt)) if entry.type == "StepFailed" else None
        error = of_attempt.popleft() if of_attempt else None
        cells: tuple[Child, ...] = (
            tag("th", entry.seq, scope="row"),
            tag("td", since_start(events, event), class_="time"),
            tag("td", tag("span", entry.type, class_=f"event is-{entry.type}")),
            tag("td", entry.step_id or ""),
            tag("td", "" if entry.attempt is None else entry.attempt, class_="number"),
            tag("td", _details(entry, (results or {}).get(entry.seq), error), class_="details"),
        )
        rows.append(tag("tr", *cells, id=f"{anchor}-{entry.seq}", tabindex="-1"))
    table = tag(
        "table",
        tag("caption", f"History of {name}"),
        tag("thead", tag("tr", *(tag("th", column, scope="col") for column in _COLUMNS))),
        tag("tbody", *rows),
    )
    title = tag("summary", "History ", tag("span", count(len(rows), "event"), class_="number"))
    region = tag("div", table, class_="scrolls", role="region", aria_label=f"History of {name}", tabindex="0")
    return tag("details", title, region, class_="history", open=True)


def _details(entry: EventEntry, result: str | None, error: ErrorEntry | None) -> Markup:
    shown: list[Markup] = []
    named = dict(entry.details)
    kind, message = named.pop("error", None), named.pop("message", None)
    if kind is not None:
        shown.append(tag("p", tag("b", str(kind)), f": {message}" if message else "", class_="message"))
    for name, value in named.items():
        if value is not None:
            text = duration_text(float(str(value))) if name.endswith("_ms") else str(value)
            shown.append(tag("span", f"{name.removesuffix('_ms').replace('_', ' ')} {text}", class_="field"))
    if result is not None:
        is_short = "\n" not in result and len(result) <= 60  # noqa: PLR2004 - what fits into a line of the table
        shown.append(
            tag("span", "result ", tag("code", result), class_="field") if is_short else texts("Result", result)
        )
    if error is not None and error.stack:
        shown.append(texts("Traceback", error.stack))
    return join(*shown)


def texts(title: str, text: str, *, opened: bool = False) -> Markup:
    """Return a text of several lines under a title that opens and closes; a short one stands beside its title."""
    if "\n" not in text and len(text) <= 80 and not opened:  # noqa: PLR2004 - what fits into a line of a phone, twice
        return tag("p", tag("b", title), " ", tag("code", text), class_="short")
    return tag("details", tag("summary", title), tag("pre", text, tabindex="0"), class_="text", open=opened)
