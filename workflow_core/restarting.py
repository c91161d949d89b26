"""Beginning a panicked or failed execution again, on the same rows."""

from __future__ import annotations

from dataclasses import replace

from workflow_core.clock import to_epoch_ms
from workflow_core.events import ExecutionRestarted
from workflow_core.execution import Execution

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["restarted"]


async def restarted(execution: Execution, *, by_hand: bool = False) -> Execution:
    """Begin an execution again: completed steps are kept; all others get their attempts back.

    Args:
        execution: The run of it that has ended.
        by_hand: Somebody asked for it: the time that the execution may take begins anew.

    Returns:
        The execution to run from now on, on a new lease.
    """
    seq, at = execution.next_seq(), execution.now()
    attempt = execution.restart_attempt + 1
    deadline_at = execution.record.deadline_at
    if by_hand and deadline_at is not None:
        deadline_at = to_epoch_ms(at) + deadline_at - to_epoch_ms(execution.record.started_at)
    lease = await execution.store.execution_restarted(
        execution.lease, execution.engine.owner, execution.engine.lease_expiry(), attempt, deadline_at, seq, at
    )
    steps, end = await execution.store.load_steps(execution.definition.name, execution.execution_id)
    record = replace(
        execution.record,
        status="restarting",
        restart_attempt=attempt,
        deadline_at=deadline_at,
        error_data=None,
        completed_at=None,
    )
    again = Execution(
        execution.engine,
        execution.definition,
        record,
        lease,
        execution.retry_config,
        execution.panic_config,
        execution.codec.decode(record.input_data, execution.definition.input_type, f"the input of {execution}"),
        steps,
        end,
    )
    again.opens_with(ExecutionRestarted(attempt), end.seq, end.at)
    again.run_began_at = end.at
    again.has_failed = execution.has_failed or execution.status == "failed"
    return again
