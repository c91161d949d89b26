"""The order workflow on the harness: each service fails once, and nothing is charged or sent twice."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from examples.order_processing import workflow as order_workflow
from examples.order_processing.__main__ import main, read_order
from examples.order_processing.models import Order, Outcome
from examples.order_processing.services import NetworkError, Services
from examples.order_processing.workflow import use_services
from pytest_workflow import StepCompleted, StepFailed, StepRetrying, StepSkipped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_workflow import VirtualClock, WorkflowFaults, WorkflowHarness

SAMPLE = Path(__file__).parent / "orders" / "sample.json"


@pytest.fixture
def services() -> Iterator[Services]:
    before, replacement = order_workflow.services, Services()
    use_services(replacement)
    yield replacement
    use_services(before)


def order(**simulation: object) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(SAMPLE.read_text(encoding="utf-8"))
    return {**plain, "simulation": simulation}


def effects(services: Services) -> list[str]:
    return [str(effect["effect"]) for effect in services.effects()]


def test_an_order_without_trouble(workflow: WorkflowHarness, services: Services) -> None:
    result = workflow.run("order-processing", "o-1", order())
    assert result.status == "completed"
    assert isinstance(result.output, Outcome)
    assert result.output.payment.method == "card"
    workflow.history(result).assert_order(
        "validate-order", "process-payment", "reserve-inventory", "create-shipping", "send-confirmation"
    )
    assert effects(services) == ["charge", "reserve", "reserve", "label", "notify", "status"]


def test_a_declined_card_is_replaced_by_another_method(workflow: WorkflowHarness, services: Services) -> None:
    result = workflow.run("order-processing", "o-1", order(declined_methods=["card", "wallet"]))
    assert result.output.payment.method == "invoice"
    assert workflow.history(result).of("process-payment") == [
        StepFailed(attempt=1, error="PaymentDeclinedError"),
        StepCompleted(handled_by="catch"),
    ]
    assert len(services.effects("charge")) == 1


def test_an_open_circuit_queues_the_payment(
    workflow: WorkflowHarness, workflow_faults: WorkflowFaults, services: Services
) -> None:
    workflow_faults.open_circuit("process-payment")
    result = workflow.run("order-processing", "o-1", order())
    assert result.output.payment.method == "queued"
    assert StepSkipped("process-payment") in list(workflow.history(result))
    assert effects(services) == ["queue-payment", "notify", "status"]
    assert services.effects("status")[0]["status"] == "awaiting-payment"
    assert result.output.shipment is None


def test_a_payment_that_nobody_takes_is_final(workflow: WorkflowHarness, services: Services) -> None:
    result = workflow.run("order-processing", "o-1", order(declined_methods=["card", "wallet", "invoice"]))
    assert result.status == "failed"
    history = workflow.history(result)
    history.assert_attempts("process-payment", 1)
    history.assert_attempts("try-alternative-payment", 1)
    assert effects(services) == ["charge-declined"] * 3


def test_a_carrier_outage_is_waited_for(
    workflow: WorkflowHarness, workflow_clock: VirtualClock, services: Services
) -> None:
    result = workflow.run("order-processing", "o-1", order(carrier_outages=2))
    assert result.status == "completed"
    history = workflow.history(result)
    assert history.of("create-shipping") == [
        StepFailed(attempt=1, error="NetworkError"),
        StepRetrying(backoff_ms=1_000),
        StepFailed(attempt=2, error="NetworkError"),
        StepRetrying(backoff_ms=2_000),
        StepCompleted(attempt=3),
    ]
    history.assert_slept("shipping-retry-1", 1_000)
    history.assert_slept("shipping-retry-2", 2_000)
    assert [wait.kind for wait in workflow_clock.sleeps] == ["sleep", "backoff", "sleep", "backoff"]


def test_an_endless_carrier_outage_leaves_the_parcel_to_a_person(workflow: WorkflowHarness, services: Services) -> None:
    result = workflow.run("order-processing", "o-1", order(carrier_outages=99))
    assert result.status == "completed"
    assert result.output.shipment.manual
    workflow.history(result).assert_attempts("create-shipping", 5)
    workflow.history(result).assert_backoff("create-shipping", [1_000, 2_000, 4_000, 8_000])
    assert len(services.effects("manual-shipping-task")) == 1


def test_a_broken_label_printer_leaves_the_parcel_to_a_person(
    workflow: WorkflowHarness, workflow_faults: WorkflowFaults, services: Services
) -> None:
    workflow_faults.fail("create-shipping", RuntimeError("printer on fire"))
    result = workflow.run("order-processing", "o-1", order())
    assert result.output.shipment.manual
    assert len(services.effects("manual-shipping-task")) == 1


def test_lost_goods_are_refunded_once(workflow: WorkflowHarness, services: Services) -> None:
    result = workflow.run("order-processing", "o-1", order(failing_reservations=5))
    assert result.status == "failed"
    assert len(services.effects("refund")) == 1
    workflow.history(result).assert_never_ran("create-shipping")


def test_missing_goods_are_replaced_by_an_offer(workflow: WorkflowHarness, services: Services) -> None:
    simulation = {"out_of_stock": ["hand-grinder"], "alternatives": {"hand-grinder": "electric-grinder"}}
    result = workflow.run("order-processing", "o-1", order(**simulation))
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.type == "InvalidOrderError"
    assert effects(services) == ["notify"]


def test_missing_goods_without_an_alternative_fail_at_once(workflow: WorkflowHarness, services: Services) -> None:
    result = workflow.run("order-processing", "o-1", order(out_of_stock=["hand-grinder"]))
    assert result.error is not None
    assert (result.error.type, result.error.message) == ("InvalidOrderError", "not enough hand-grinder in stock")
    workflow.history(result).assert_attempts("validate-order", 1)
    assert effects(services) == []


def test_a_service_asked_twice_takes_effect_once() -> None:
    services, plain = Services(), Order.model_validate(order())

    async def charge_twice() -> list[str]:
        return [await services.charge(plain, "card"), await services.charge(plain, "card")]

    assert asyncio.run(charge_twice()) == ["TX-order-1001-card"] * 2
    assert len(services.effects("charge")) == 1


def test_a_lost_confirmation_does_not_fail_the_order(
    workflow: WorkflowHarness, workflow_faults: WorkflowFaults, services: Services
) -> None:
    workflow_faults.fail("send-confirmation", NetworkError("mail is down", 421))
    result = workflow.run("order-processing", "o-1", order())
    assert result.status == "completed"
    assert not result.output.confirmed
    assert effects(services)[-2:] == ["follow-up", "status"]


def test_a_crash_in_the_back_off_charges_nothing_twice(
    workflow: WorkflowHarness, workflow_clock: VirtualClock, services: Services
) -> None:
    workflow.run("order-processing", "o-1", order(carrier_outages=2), detach=True)
    workflow_clock.advance(2_500)
    workflow.reopen()
    result = workflow.wait("o-1")
    assert result.status == "completed"
    assert len(services.effects("charge")) == 1
    assert (workflow_clock.now() - workflow_clock.start).total_seconds() == 6


def test_the_command_shows_a_stored_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], services: Services
) -> None:
    monkeypatch.setenv("WORKFLOW_DIR", str(tmp_path / "state"))
    path = tmp_path / "order.json"
    path.write_text(json.dumps(order(declined_methods=["card"])), encoding="utf-8")
    assert main([str(path)]) == 0
    first = capsys.readouterr().out
    assert "try-alternative-payment" in first
    assert str(tmp_path / "state" / "workflows" / "order-processing" / "order-processing.db") in first
    outbox = tmp_path / "state" / "order-processing-outbox.jsonl"
    before = outbox.read_text(encoding="utf-8")
    assert main([str(path)]) == 0
    assert "stored result" in capsys.readouterr().out
    assert outbox.read_text(encoding="utf-8") == before


def test_an_order_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    path.write_text(json.dumps(order()), encoding="utf-8-sig")
    assert read_order(path).order_id == order()["order_id"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "cannot read"), ("{", "is not JSON"), ('{"order_id": "../x"}', "order_id")],
    ids=["missing", "no-json", "invalid"],
)
def test_a_bad_file_is_a_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, complaint: str
) -> None:
    path = tmp_path / "order.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert main([str(path)]) == 2
    assert complaint in capsys.readouterr().err
