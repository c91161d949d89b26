"""The page about workers and queues in a real browser, on a server whose database is a real PostgreSQL."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.dashboard_browser import COLOURS, Visitor, Windows, browsing, check_access, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

    from tests.nursery import Nursery

psycopg = pytest.importorskip("psycopg")
pytest.importorskip("procrastinate")
pytestmark = pytest.mark.timeout(120)

LONG = f"mail-{'x' * 35}"
LOOKS = (({}, None), ({"color_scheme": "dark"}, COLOURS), ({"viewport": {"width": 360, "height": 740}}, None))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def windows(browser: Browser) -> Windows:
    return Windows(browser)


@pytest.fixture(scope="module")
def address(
    postgres_url: str, browser: Browser, server_nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    schema = f"t_{os.getpid()}_cluster"
    directory: Path = tmp_path_factory.mktemp("cluster")
    try:
        variables = {"WORKFLOW_DATABASE_URL": postgres_url, "WORKFLOW_DATABASE_SCHEMA": schema}
        with serving(directory, popen=server_nursery.popen, **variables) as address:
            yield address
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("SET client_min_messages = warning")
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


@pytest.fixture
def visit(windows: Windows, address: str) -> Iterator[Callable[..., Visitor]]:
    """Let somebody visit, with options of the browser; what no page may do is checked when they leave."""
    visitors: list[Visitor] = []

    def come(**options: Any) -> Visitor:
        visitors.append(Visitor(windows, address, **options))
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.leave()


def hand_over(visitor: Visitor, workflow: str, execution_id: str, queue: str) -> None:
    body = {"execution_id": execution_id, "queue": queue}
    assert visitor.api.post(f"/workflows/{workflow}/executions", json=body).status_code == 202


def test_queues_fill_and_empty_before_ones_eyes(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    page = visitor.open("/workflows/waiting")
    page.keyboard.press("g")
    page.keyboard.press("w")
    page.wait_for_url("**/cluster")
    page.locator("#workers .is-alive").wait_for()
    page.evaluate("window.notReloaded = true")
    for number in range(3):
        hand_over(visitor, "waiting", f"live-{number}", "default")
    hand_over(visitor, "patient", "nobody", "mail")
    page.locator("#workers", has_text="2 of 2").wait_for()
    page.locator("#q-default [data-part=ready]", has_text="1").wait_for()
    assert page.locator("#q-default rect.part-running").count() == 1
    page.locator("#unserved", has_text="Nobody works on mail").wait_for()
    for number in range(3):
        visitor.api.post(f"/executions/live-{number}/cancel")
    page.locator("#workers", has_text="0 of 2").wait_for()
    assert page.evaluate("window.notReloaded")

    page = visitor.open("/executions/nobody")
    assert page.locator("#place").inner_text().strip().startswith("Ready for")
    assert "workflow worker --app module --queue mail" in page.locator("#no-worker").inner_text()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the execution").click()
    page.locator("#status", has_text="cancelled").wait_for()
    assert page.locator("#place").count() == 0


def test_the_form_hands_an_execution_to_a_queue(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.expected = ("status of 422",)
    page = visitor.open("/workflows/patient")
    page.get_by_label("Execution id").fill("handed-over")
    page.get_by_label("Queue").fill("not a queue")
    page.get_by_role("button", name="Start", exact=True).click()
    page.locator("#start-queue-error", has_text="pattern").wait_for()
    page.get_by_label("Queue").fill("default")
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/executions/handed-over")
    page.locator("#status", has_text="sleeping").wait_for()
    page.locator("#queue a").click()
    page.wait_for_url("**/cluster#q-default")
    page.locator("#q-default [data-part=parked]", has_text="1").wait_for()
    visitor.api.post("/executions/handed-over/cancel")


def test_nothing_keeps_people_out(visit: Callable[..., Visitor]) -> None:
    for look, rules in LOOKS:
        visitor = visit(**look)
        hand_over(visitor, "patient", "axe", LONG)
        for path in ("/cluster", "/executions/axe", *([] if look else ["/workflows/patient"])):
            check_access(visitor.open(path), rules)
