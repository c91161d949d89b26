"""Complex business workflow with validation: the example on the harness."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from examples.validated_order.workflow import Shipment, sample_order
from workflow_core import ValidationError

if TYPE_CHECKING:
    from pytest_workflow import VirtualClock, WorkflowDatabase, WorkflowHarness


def test_the_order_ships(workflow: WorkflowHarness, workflow_clock: VirtualClock) -> None:
    result = workflow.run("validated-order-processing", input=sample_order())
    assert isinstance(result.output, Shipment)
    assert result.output.estimated_delivery == workflow_clock.now() + timedelta(days=7)
    history = workflow.history(result)
    history.assert_attempts("check-inventory", 2)
    history.assert_slept("payment-delay", 2_000)


def test_a_bad_order_is_refused_before_anything_is_written(
    workflow: WorkflowHarness, workflow_db: WorkflowDatabase
) -> None:
    bad = {**sample_order().model_dump(mode="json"), "items": []}
    with pytest.raises(ValidationError) as caught:
        workflow.run("validated-order-processing", input=bad)
    assert caught.value.errors[0]["loc"] == ("items",)
    assert workflow_db.executions() == []
