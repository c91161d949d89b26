"""Starting executions: what is given is checked, the beginning is recorded once for each id, and then it runs."""

from __future__ import annotations

import contextlib
import functools
import json
import uuid
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pydantic_core

from workflow_core.arguments import validated_id, validated_priority, validated_queue
from workflow_core.clock import to_epoch_ms
from workflow_core.database.dispatch import Dispatch
from workflow_core.database.layout import definition_content
from workflow_core.database.store import ExecutionRecord, HistoryEnd, Lease, NewExecution
from workflow_core.definition import configured, validated
from workflow_core.errors import ExecutionConflictError, ExecutionNotFoundError
from workflow_core.execution import Execution
from workflow_core.interception import patiently
from workflow_core.limits import checked_key
from workflow_core.models import PanicConfig, RetryConfig
from workflow_core.running import Active
from workflow_core.serialization import same_json
from workflow_core.timeouts import validate_timeout

if TYPE_CHECKING:
    from datetime import datetime

    from workflow_core.definition import Definition
    from workflow_core.engine import WorkflowEngine
    from workflow_core.joining import Ended, Joining
    from workflow_core.models import ExecutionStatus
    from workflow_core.running import RunningExecutions


__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["Starting"]


@dataclass(frozen=True, slots=True)
class _Order:
    """An execution that is asked for: everything is checked, and nothing is written."""

    definition: Definition
    execution_id: str
    text: str | None
    value: object
    retry: RetryConfig
    panic: PanicConfig
    timeout_ms: int | None

    def new(self, at: datetime) -> NewExecution:
        """Return what is stored of it when it is accepted."""
        definition, retry, panic = self.definition, self.retry, self.panic
        deadline = None if self.timeout_ms is None else to_epoch_ms(at + timedelta(milliseconds=self.timeout_ms))
        return NewExecution(
            workflow_name=definition.name,
            execution_id=self.execution_id,
            input_data=self.text,
            retry_config=definition.retry_json if retry is definition.retry_config else retry.model_dump_json(),
            panic_config=definition.panic_json if panic is definition.panic_config else panic.model_dump_json(),
            deadline_at=deadline,
            definition_revision=definition.revision,
            definition_document=definition.document,
            fencing_token=to_epoch_ms(at),
        )


class Starting:
    """Starts executions in one engine.

    Args:
        engine: The engine.
        running: The executions that run in it.
        joining: Joins those that were started before.
    """

    def __init__(self, engine: WorkflowEngine, running: RunningExecutions, joining: Joining) -> None:
        self._engine = engine
        self._running = running
        self._joining = joining
        self._known_workflows: set[str] = set()
        self._declared: dict[str, Definition] = {}

    async def begin(
        self,
        name: str,
        execution_id: str | None,
        input_value: object,
        retry_config: RetryConfig | dict[str, Any] | None,
        panic_config: PanicConfig | dict[str, Any] | None,
        timeout_ms: int | None,
        *,
        detach: bool = False,
    ) -> Active | Ended:
        """Begin a new execution, or join the one that has the id already.

        Raises:
            InvalidStateError: No event loop of asyncio's runs here.
            ValidationError: An argument is not acceptable; nothing was written.
            WorkflowNotFoundError: No such workflow is defined.
            ExecutionConflictError: The id is in use for another workflow or another input.
            StorageError: The database cannot be used.
        """
        order = self._order(name, execution_id, input_value, retry_config, panic_config, timeout_ms)
        while True:
            async with self._running.claimed(order.execution_id):
                active = self._running.find(order.execution_id)
                if active is None:
                    found = await self._begin_new(order)
                    if isinstance(found, Active):
                        return found
                else:
                    found = active.execution.record
            self._check_same(found, order)
            with contextlib.suppress(ExecutionNotFoundError):  # a cleanup has removed it since it was read
                return await self._joining.found(found, detach=detach)

    async def enqueue(
        self,
        name: str,
        execution_id: str | None,
        input_value: object,
        retry_config: RetryConfig | dict[str, Any] | None,
        panic_config: PanicConfig | dict[str, Any] | None,
        timeout_ms: int | None,
        queue: str,
        priority: int,
        limit_key: str | None,
    ) -> ExecutionRecord | Active | Ended:
        """Record a new execution for workers to run, or find the one that has the id already.

        A store that has no workers begins it here.

        Raises:
            ValidationError: An argument is not acceptable; nothing was written.
            WorkflowNotFoundError: No such workflow is defined.
            ExecutionConflictError: The id is in use for another workflow or another input.
            StorageError: The database cannot be used.
        """
        store = self._engine.dispatching_store()
        dispatch = Dispatch(validated_queue(queue), validated_priority(priority))
        if limit_key is not None:
            checked_key(limit_key)
        if store is None:
            return await self.begin(
                name, execution_id, input_value, retry_config, panic_config, timeout_ms, detach=True
            )
        order = self._order(name, execution_id, input_value, retry_config, panic_config, timeout_ms)
        definition, limits = order.definition, order.definition.limits
        if limits is not None:
            plain = None if order.text is None or limits.key is None else pydantic_core.from_json(order.text)
            limit_key = limits.key_of(plain, limit_key)
        dispatch = replace(dispatch, limits=limits, limit_key=limit_key)
        if self._declared.get(name) is not definition:
            noted = functools.partial(store.limits_noted, name, limits, definition.age_ms)
            await patiently(self._engine.store, noted)
            self._declared[name] = definition
        at = self._engine.clock.now()
        await self._define(definition, at)
        new = order.new(at)
        found = await patiently(self._engine.store, functools.partial(store.execution_enqueued, new, dispatch, at))
        if found is not None:
            self._check_same(found, order)
            return found
        return _record_of(new, at, "queued", None, dispatch.queue)

    def _order(
        self,
        name: str,
        execution_id: str | None,
        input_value: object,
        retry_config: RetryConfig | dict[str, Any] | None,
        panic_config: PanicConfig | dict[str, Any] | None,
        timeout_ms: int | None,
    ) -> _Order:
        """Check what is given.

        Raises:
            InvalidStateError: No event loop of asyncio's runs here.
            ValidationError: An argument is not acceptable.
            WorkflowNotFoundError: No such workflow is defined.
        """
        self._engine.check_event_loop()
        definition = self._engine.definition(name)
        self._engine.configurations.prepare(name)
        execution_id = str(uuid.uuid4()) if execution_id is None else validated_id(execution_id, self._engine.settings)
        if self._engine.secrets.known:
            self._engine.codec.refuse_secrets(execution_id, "the id of an execution")
        retry = definition.retry_config if retry_config is None else configured(RetryConfig, retry_config)
        panic = definition.panic_config if panic_config is None else configured(PanicConfig, panic_config)
        validate_timeout(f'Workflow "{name}"', timeout_ms)
        text, value = self._encode_input(definition, execution_id, input_value)
        return _Order(definition, execution_id, text, value, retry, panic, timeout_ms)

    async def _define(self, definition: Definition, at: datetime) -> None:
        """Make room for a workflow in the store, once."""
        if definition.name not in self._known_workflows:
            document = {} if definition.document is None else json.loads(definition.document)
            described = definition_content(definition, at, document)
            await self._engine.store.workflow_defined(definition.name, described, at)
            self._known_workflows.add(definition.name)

    async def _begin_new(self, order: _Order) -> Active | ExecutionRecord:
        """Record an execution and launch it; return the record instead if the store knew the id already."""
        definition, at = order.definition, self._engine.clock.now()
        await self._define(definition, at)
        new = order.new(at)
        existing = await self._engine.store.execution_started(new, self._engine.owner, self._engine.lease_expiry(), at)
        if existing is not None:
            return existing
        record = _record_of(new, at, "running", self._engine.owner.owner_id)
        lease = Lease(definition.name, order.execution_id, new.fencing_token)
        end = HistoryEnd(1, at)
        execution = Execution(self._engine, definition, record, lease, order.retry, order.panic, order.value, {}, end)
        execution.opens_with(execution.begun_by, 1, at)
        return self._engine.launch(execution)

    def _encode_input(self, definition: Definition, execution_id: str, value: object) -> tuple[str | None, object]:
        if value is None and definition.input_type is None:
            return None, None
        what = f'input of workflow "{definition.name}", execution "{execution_id}"'
        advice = "declare the type (annotate the handler's parameter as WorkflowContext[...]) or pass plain data"
        declared = definition.input_type
        adapter = declared.adapter() if declared is not None else None
        if adapter is None:
            return self._engine.codec.encode(value, f"the {what}", advice=advice)
        fingerprint = self._engine.codec.fingerprint(value)
        value = validated(adapter, value, what)
        return self._engine.codec.encode(value, f"the {what}", declared, fingerprint, advice=advice)

    @staticmethod
    def _check_same(record: ExecutionRecord, order: _Order) -> None:
        name = order.definition.name
        if record.workflow_name != name:
            raise ExecutionConflictError(
                f'Execution id "{record.execution_id}" is in use for workflow "{record.workflow_name}", so it cannot '
                f'start "{name}"; choose another id'
            )
        if not same_json(record.input_data, order.text):
            raise ExecutionConflictError(
                f'Execution "{record.execution_id}" of workflow "{name}" was started with another input; choose '
                "another id, or start it with the input it had"
            )


def _record_of(
    new: NewExecution, at: datetime, status: ExecutionStatus, owner_id: str | None, queue: str | None = None
) -> ExecutionRecord:
    """Return the row of an execution that was recorded just now."""
    return ExecutionRecord(
        execution_id=new.execution_id,
        workflow_name=new.workflow_name,
        status=status,
        started_at=at,
        completed_at=None,
        restart_attempt=1,
        error_data=None,
        input_data=new.input_data,
        output_data=None,
        retry_config=new.retry_config,
        panic_config=new.panic_config,
        deadline_at=new.deadline_at,
        restart_at=None,
        owner_id=owner_id,
        fencing_token=new.fencing_token,
        definition_revision=new.definition_revision,
        queue=queue,
    )
