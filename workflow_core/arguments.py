"""What an engine is asked with: ids, names, moments and numbers, checked before anything is read or written."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

from workflow_core.clock import as_utc
from workflow_core.database.layout import WORKFLOW_NAME
from workflow_core.errors import ValidationError, shown
from workflow_core.settings import Settings
from workflow_core.summaries import Listing, statuses

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from workflow_core.models import ExecutionStatus

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = [
    "EXECUTION_ID",
    "MAINTENANCE_QUEUE",
    "QUEUE_NAME",
    "aware",
    "check_parts",
    "listing",
    "named_workflow",
    "up_to_ten_thousand",
    "validated_id",
    "validated_name",
    "validated_priority",
    "validated_queue",
]

QUEUE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
"""The name of a queue: it ends that of a channel of PostgreSQL's ``NOTIFY``, which takes 63 bytes in all."""

MAINTENANCE_QUEUE = "workflow_core"
"""The queue of the jobs that keep the others going; every worker serves it, and nobody else may use it."""

_GREATEST_PRIORITY = 1_000_000

EXECUTION_ID = re.compile(r"[A-Za-z0-9._:-]{1,255}")
"""What an execution may be called, unless the settings say UUIDs."""

_LONGEST_PAGE = 10_000
_LONGEST_SEARCH = 1_000


def check_parts(store: object, clock: object, plugins: object, settings: object) -> None:
    """Refuse what an engine cannot be made of; ``None`` is what it makes itself.

    Raises:
        ValidationError: One of them is something else, such as a path in the place of a store.
    """
    if store is not None and not hasattr(store, "workflow"):
        raise ValidationError(
            f"The store of an engine is one such as SQLiteStore(path), not {shown(store)}; Settings(directory=...) "
            "names a runtime directory"
        )
    if clock is not None and not hasattr(clock, "call_at"):
        raise ValidationError(f"The clock of an engine is one such as SystemClock(), not {shown(clock)}")
    if settings is not None and not isinstance(settings, Settings):
        raise ValidationError(f"The settings of an engine are Settings(...), not {shown(settings)}")
    if isinstance(plugins, (str, bytes)) or not hasattr(plugins, "__iter__"):
        raise ValidationError(f"The plugins of an engine are a list of objects, not {shown(plugins)}")


def validated_id(execution_id: object, settings: Settings) -> str:
    """Return the id of an execution as it is stored.

    Raises:
        ValidationError: It is not acceptable.
    """
    plain = str.__str__(execution_id) if isinstance(execution_id, str) else ""
    if settings.execution_id_format == "uuid":
        try:
            if str(uuid.UUID(plain)) == plain.lower():
                return plain.lower()
        except ValueError:
            pass
        raise ValidationError(f"Invalid execution id {shown(execution_id, 300)}: a UUID is required")
    if EXECUTION_ID.fullmatch(plain):
        return plain
    raise ValidationError(
        f"Invalid execution id {shown(execution_id, 300)}: use 1 to 255 of the characters A-Z a-z 0-9 . _ : -"
    )


def named_workflow(workflow_name: object) -> str:
    """Return the name of a workflow, which need not be defined here.

    Raises:
        ValidationError: It is not the name of a workflow.
    """
    if isinstance(workflow_name, str) and WORKFLOW_NAME.fullmatch(workflow_name):
        return workflow_name
    raise ValidationError(f"Not the name of a workflow: {shown(workflow_name, 300)}")


def validated_name(workflow_name: str | None) -> str | None:
    """Return the name of a workflow, which need not be defined here; ``None`` for all of them.

    Raises:
        ValidationError: It is not the name of a workflow.
    """
    return None if workflow_name is None else named_workflow(workflow_name)


def aware(what: str, moment: datetime | None) -> datetime | None:
    """Return a moment in UTC; ``what`` names it in the error message.

    Raises:
        ValidationError: It is no datetime, or has no time zone and could mean anything.
    """
    if moment is None:
        return None
    try:
        return as_utc(moment)
    except (ValueError, AttributeError, OverflowError):
        raise ValidationError(f"{what} must be a datetime with a time zone, not {shown(moment, 300)}") from None


def listing(
    workflow_name: str | None,
    status: ExecutionStatus | Iterable[ExecutionStatus] | None,
    started_after: datetime | None,
    started_before: datetime | None,
    search: str | None,
    queue: str | None = None,
) -> Listing:
    """Return which executions a list is asked to hold.

    Raises:
        ValidationError: An argument is not acceptable.
    """
    if search is not None and (not isinstance(search, str) or len(search) > _LONGEST_SEARCH):
        raise ValidationError(f"search must be a text of at most {_LONGEST_SEARCH} characters, not {shown(search)}")
    return Listing(
        validated_name(workflow_name),
        statuses(status),
        aware("started_after", started_after),
        aware("started_before", started_before),
        (search or "").strip() or None,
        None if queue is None else validated_queue(queue),
    )


def up_to_ten_thousand(what: str, number: object) -> int:
    """Return how many of something one query or transaction takes at most; ``what`` names it in the error message.

    Raises:
        ValidationError: It is no whole number from 1 to 10,000.
    """
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= _LONGEST_PAGE:
        raise ValidationError(f"{what} must be a number from 1 to {_LONGEST_PAGE}, not {shown(number, 300)}")
    return number


def validated_queue(queue: str) -> str:
    """Return the name of a queue.

    Raises:
        ValidationError: It is not acceptable.
    """
    if not isinstance(queue, str) or not QUEUE_NAME.fullmatch(queue):
        raise ValidationError(
            f"Invalid queue {shown(queue)}: use 1 to 40 of the characters A-Z a-z 0-9 . _ -, beginning with a letter "
            "or a digit"
        )
    if queue == MAINTENANCE_QUEUE:
        raise ValidationError(f'Invalid queue "{queue}": workers keep themselves going with it; choose another name')
    return str.__str__(queue)


def validated_priority(priority: int) -> int:
    """Return a priority.

    Raises:
        ValidationError: It is not acceptable.
    """
    if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > _GREATEST_PRIORITY:
        raise ValidationError(
            f"A priority must be a whole number from {-_GREATEST_PRIORITY} to {_GREATEST_PRIORITY}, not "
            f"{shown(priority)}"
        )
    return int(priority)
