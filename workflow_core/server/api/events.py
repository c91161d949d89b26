"""Live changes as server-sent events: of all workflows, and of one execution, as they come."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from workflow_core.database.store import ExecutionRecord
from workflow_core.engine import WorkflowEngine
from workflow_core.errors import ExecutionNotFoundError, StorageError
from workflow_core.events import Event
from workflow_core.server.api.dependencies import ExecutionId, Live, Read, ServedSettings
from workflow_core.server.problems import documented
from workflow_core.stored import is_at_rest, load_record
from workflow_core.views.execution_data import event_data
from workflow_core.views.json_text import json_text

__all__ = ["router"]

router = APIRouter(tags=["live"])

_LOOKED_BACK = 100
"""How many positions behind the latest event a missing one may still appear, because its write was tried again."""

_TRY_AGAIN_MS = 500

_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


@router.get("/events", response_class=EventSourceResponse, responses=_STREAM)
async def changes(live: Live, settings: ServedSettings) -> AsyncIterator[ServerSentEvent]:
    """Tell, as it happens, which workflows have changed, whichever process wrote them.

    The first event is `connected`: what was read before it may be out of date. Then `changed` follows, with
    `{"workflows": [...]}` for all that has changed since the last one. Comments keep the connection open.
    """
    async with live.listening() as listener:
        yield _event("connected", {"poll_interval_ms": settings.poll_interval_ms})
        while True:
            names = await listener.next(settings.heartbeat_ms)
            if listener.ended:
                return
            yield _event("changed", {"workflows": sorted(names)}) if names else _heartbeat()


async def _existing(execution_id: ExecutionId, read: Read) -> ExecutionRecord:
    return await read(lambda engine: load_record(engine, execution_id))


@router.get(
    "/executions/{execution_id}/events",
    response_class=EventSourceResponse,
    responses={**_STREAM, **documented(404)},
)
async def execution_events(
    record: Annotated[ExecutionRecord, Depends(_existing)],
    read: Read,
    live: Live,
    settings: ServedSettings,
    *,
    after: Annotated[int, Query(ge=0, le=2**53, description="Only events behind this position.")] = 0,
    until_rest: Annotated[bool, Query(description="End when nothing happens to it any more by itself.")] = False,
    last_event_id: Annotated[
        str | None, Header(description="Sent by a browser that connects again: nothing is missed.")
    ] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Send the history of an execution, and go on with each event as it is committed, by whichever process.

    An event of the history is sent as `history`, with its position as `seq`; `status` follows whenever the status has
    changed, and `problem` when a database cannot be read for a while; `removed` is the last one if a cleanup removes
    the execution. The id of each is a position up to which all was sent, so after a reconnect an event may come a
    second time, and none is missed.
    """
    begin = int(last_event_id) if last_event_id and _is_position(last_event_id) else after
    sending = _Sending(record.execution_id, record.workflow_name, begin)
    async with live.listening() as listener:
        changed, hindered = True, False
        while not listener.ended:
            if changed or hindered:
                try:
                    found = await read(sending.read)
                    hindered = False
                except ExecutionNotFoundError as error:
                    yield _event("removed", {"detail": str(error)})
                    return
                except StorageError as error:  # no change need tell of what was missed
                    if not hindered:
                        yield _event("problem", {"detail": str(error)})
                    found, hindered = [], True
                for sent in found:
                    yield sent
                if until_rest and sending.at_rest:
                    return
            names = await listener.next(_TRY_AGAIN_MS if hindered else settings.heartbeat_ms)
            changed = record.workflow_name in names
            if not names and not listener.ended:
                yield _heartbeat()


class _Sending:
    """What was sent of one execution, and what is new.

    Args:
        execution_id: The execution.
        workflow_name: Its workflow.
        floor: The position up to which everything was sent.
    """

    def __init__(self, execution_id: str, workflow_name: str, floor: int) -> None:
        self._execution_id = execution_id
        self._workflow_name = workflow_name
        self._floor = floor
        self._beyond: set[int] = set()
        self._status: tuple[str, int] | None = None
        self.at_rest = False

    async def read(self, engine: WorkflowEngine) -> list[ServerSentEvent]:
        """Return what is new.

        Raises:
            ExecutionNotFoundError: It was removed.
        """
        record = await load_record(engine, self._execution_id)
        workflow = engine.store.workflow(self._workflow_name)
        events = await workflow.load_events(self._workflow_name, self._execution_id, self._floor)
        new = [event for event in events if event.seq not in self._beyond]
        sent = [self._sent(event) for event in new]
        self._settle()
        status = record.status, record.restart_attempt
        self.at_rest = is_at_rest(record)
        if status != self._status:
            self._status = status
            data = {"status": record.status, "restart_attempt": record.restart_attempt, "at_rest": self.at_rest}
            sent.append(_event("status", data, self._floor))
        return sent

    def _sent(self, event: Event) -> ServerSentEvent:
        self._beyond.add(event.seq)
        while self._floor + 1 in self._beyond:
            self._floor += 1
            self._beyond.discard(self._floor)
        return _event("history", event_data(event), self._floor)

    def _settle(self) -> None:
        """Give up what has been missing for long: a write that was refused leaves a position that nothing fills."""
        if self._beyond and max(self._beyond) - self._floor > _LOOKED_BACK:
            self._floor = max(self._beyond) - _LOOKED_BACK
            self._beyond = {seq for seq in self._beyond if seq > self._floor}


def _event(name: str, data: object, position: int | None = None) -> ServerSentEvent:
    text = json_text(data)
    return ServerSentEvent(event=name, raw_data=text, id=None if position is None else str(position))


def _heartbeat() -> ServerSentEvent:
    return ServerSentEvent(comment="nothing new")


def _is_position(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15  # noqa: PLR2004 - more digits than any history has
