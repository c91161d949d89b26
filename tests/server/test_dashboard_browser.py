"""The dashboard in a real browser, on a real server whose databases other processes write as well."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.server import dashboard_shop as shop
from tests.server.dashboard_browser import COLOURS, Visitor, Windows, browsing, check_access, serving
from workflow_core import Settings, WorkflowEngine

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)

ORDER = {"customer": "ada", "items": [{"sku": "lamp", "quantity": 2}, {"sku": "bulb"}]}
SEEN = """() => {
  window.seen = [];
  const note = () => {
    for (const each of document.querySelectorAll("#status .status, #steps .status")) {
      const text = each.textContent.trim();
      if (!window.seen.includes(text)) window.seen.push(text);
    }
  };
  const changes = {subtree: true, childList: true, characterData: true};
  new MutationObserver(note).observe(document.getElementById("main"), changes);
  note();
}"""


@pytest.fixture(scope="module")
def browser():
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def windows(browser):
    return Windows(browser)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("dashboard")


@pytest.fixture(scope="module")
def address(directory, browser, server_nursery):
    with serving(directory, popen=server_nursery.popen) as address:
        yield address


@pytest.fixture
def visit(windows, address):
    """Let somebody visit, with options of the browser; what no page may do is checked when they leave."""
    visitors = []

    def come(**options):
        visitors.append(Visitor(windows, address, **options))
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.leave()


@pytest.fixture
def visitor(visit):
    return visit()


def status(page, text):
    page.locator("#status", has_text=text).wait_for()


def test_an_execution_is_started_and_watched_through_retry_sleep_panic_and_restart(visitor):
    page = visitor.open("/workflows/journey")
    page.get_by_label("Input, as JSON").fill('{"from": "here"}')
    page.get_by_label("Execution id").fill("journey-1")
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/executions/journey-1")
    page.evaluate(SEEN)
    page.evaluate("window.notReloaded = true")
    page.locator("#waits").wait_for()
    status(page, "completed")
    seen = page.evaluate("window.seen")
    assert [text for text in seen if text in {"retrying", "sleeping", "panicked", "completed"}] != []
    assert {"retrying", "sleeping", "panicked", "completed"} <= set(seen)
    assert page.evaluate("window.notReloaded")
    assert page.locator("#facts").inner_text().count("1 restart") == 1
    assert page.locator("#output").inner_text().count('"loaded"') == 1
    assert page.locator("#history tr", has_text="ExecutionRestarted").count() == 1
    assert page.locator("#timeline .wt-panic").count() >= 1


def test_the_timeline_leads_to_the_history(visitor):
    visitor.start("hopeless", "timeline-1")
    page = visitor.open("/executions/timeline-1")
    status(page, "failed")
    page.locator("#only-problems").check()
    row = page.locator("#history tr", has_text="StepCompleted")
    assert not row.is_visible()
    page.locator("#timeline a.wt-event[aria-label^='prepare']").click()
    assert row.is_visible()
    assert row.evaluate("row => row === document.activeElement")
    page.locator("#timeline .wt").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "prepare" in page.evaluate("document.activeElement.getAttribute('aria-label')")


def test_an_execution_is_cancelled_after_a_question(visitor):
    visitor.start("waiting", "cancel-1")
    page = visitor.open("/executions/cancel-1")
    status(page, "running")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Keep it as it is").click()
    assert visitor.api.get("/executions/cancel-1").json()["status"] == "running"
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the execution").click()
    status(page, "cancelled")
    page.locator("#toasts", has_text="Cancelled.").wait_for()
    assert page.get_by_role("button", name="Cancel").count() == 0
    assert visitor.api.get("/executions/cancel-1").json()["status"] == "cancelled"


def test_a_failed_execution_is_restarted(visitor):
    visitor.start("hopeless", "restart-1")
    page = visitor.open("/executions/restart-1")
    status(page, "failed")
    page.get_by_role("button", name="Restart").click()
    page.get_by_role("button", name="Restart the execution").click()
    status(page, "completed")
    assert "delivered at last" in page.locator("#steps").inner_text()


def test_what_is_refused_is_said(visitor):
    visitor.expected = ("status of 409",)
    visitor.start("waiting", "refused-1")
    page = visitor.open("/executions/refused-1")
    page.get_by_role("button", name="Cancel").click()
    visitor.api.post("/executions/refused-1/cancel").raise_for_status()
    page.get_by_role("button", name="Cancel the execution").click()
    toast = page.get_by_role("alert")
    toast.wait_for()
    assert "cancelled already" in toast.inner_text()


def test_mistakes_in_an_input_are_shown_beside_it(visitor):
    visitor.expected = ("status of 422",)
    page = visitor.open("/workflows/order")
    field = page.get_by_label("Input, as JSON")
    start = page.get_by_role("button", name="Start", exact=True)
    field.fill("{customer: 1}")
    start.click()
    assert "This is not JSON" in page.locator("#start-input-error").inner_text()
    assert field.evaluate("field => field === document.activeElement")
    visitor.start("order", "meanwhile-1", ORDER)
    page.get_by_role("link", name="meanwhile-1").wait_for()  # the page was brought up to date around the form
    assert "This is not JSON" in page.locator("#start-input-error").inner_text()
    field.fill('{"customer": "ada"}')
    start.click()
    page.locator("#start-form", has_text="items").wait_for()
    assert "ada" in field.input_value()
    visitor.start("order", "like-1", ORDER)
    page = visitor.open("/workflows/order?input_of=like-1")
    assert json.loads(page.get_by_label("Input, as JSON").input_value())["customer"] == "ada"


def test_a_circuit_is_closed(visitor):
    visitor.start("guarded", "guarded-1")
    visitor.start("guarded", "guarded-2")
    page = visitor.open("/circuit-breakers")
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Close the circuit").click()
    page.locator("#main .status", has_text="closed").wait_for()
    assert visitor.api.get("/circuits").json()["circuits"][0]["status"] == "closed"


def test_executions_of_another_process_appear_while_their_page_is_open(visitor, directory):
    page = visitor.open("/executions?workflow=patient&status=sleeping")
    details = page.locator("#exactly")
    details.locator("summary").click()
    page.get_by_label("Search ids and errors").focus()

    async def elsewhere():
        engine = WorkflowEngine(settings=Settings(directory=directory, recover_on_start=False))
        async with engine:
            engine.define("patient", shop.patient)
            await engine.start("patient", "other-process", detach=True)
            await asyncio.to_thread(page_has_it.wait)

    import threading

    page_has_it = threading.Event()
    other = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    other.start()
    try:
        page.locator("#results", has_text="other-process").wait_for()
    finally:
        page_has_it.set()
        other.join()
    assert details.evaluate("details => details.open")  # what was opened stays open, and the focus where it was
    assert page.evaluate("document.activeElement.id") == "q"


def test_typed_text_survives_what_happens_around_it(visitor):
    page = visitor.open("/workflows/guarded")
    field = page.get_by_label("Input, as JSON")
    field.fill('{"half": ')
    field.evaluate("field => field.setSelectionRange(2, 6)")
    visitor.start("guarded", "around-1")
    page.locator("#latest", has_text="around-1").wait_for()
    assert field.input_value() == '{"half": '
    assert field.evaluate("field => [field.selectionStart, field.selectionEnd]") == [2, 6]
    assert field.evaluate("field => field === document.activeElement")


def test_filters_work_while_they_are_typed_and_back_goes_back(visitor):
    for number in range(3):
        visitor.start("hopeless", f"filter-{number}", {"message": f"reason {number} of three"})
    page = visitor.open("/executions?workflow=hopeless")
    page.locator("tr", has_text="reason 2 of three").wait_for()
    page.get_by_label("Search ids and errors").fill("reason 1 of")
    page.wait_for_url(re.compile("q=reason"))
    page.locator("#results", has_not_text="reason 2 of three").wait_for()
    assert page.locator("#results tbody tr").count() == 1
    page.get_by_text("completed", exact=True).first.click()
    page.locator("#nothing", has_text="No execution fits the filter").wait_for()
    page.go_back()
    page.locator("tr", has_text="reason 1 of three").wait_for()
    assert not page.locator("input[value=completed]").is_checked()
    assert page.get_by_label("Search ids and errors").input_value() == "reason 1 of"


def test_the_keyboard_reaches_everything(visitor):
    visitor.start("waiting", "keyboard-1")
    page = visitor.open("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("g")
    page.keyboard.press("e")
    page.wait_for_url("**/executions")
    page.locator("#live:not([hidden])").wait_for()
    page.keyboard.press("?")
    assert page.get_by_role("dialog", name="Keyboard").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("keyboard-1")
    page.wait_for_url(re.compile("q=keyboard-1"))
    page.locator("#results", has_text="keyboard-1").wait_for()
    page.locator("#count", has_text="1 found").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/executions/keyboard-1")
    page.locator("#live:not([hidden])").wait_for()
    for _ in range(30):
        if page.evaluate("document.activeElement.textContent") == "Cancel":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    status(page, "cancelled")


def test_hostile_texts_are_inert(visitor):
    visitor.start("hostile", "hostile-1", {text: text for text in shop.HOSTILE})
    page = visitor.open("/executions/hostile-1")
    status(page, "failed")
    paths = ["/executions/hostile-1", "/executions?workflow=hostile", "/", "/workflows/hostile", "/logs"]
    for path in [*paths, "/workflows/hostile?input_of=hostile-1", f"/executions?q={shop.HOSTILE[0]}"]:
        page = visitor.open(path)
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        assert "pwned" not in page.title()
        assert page.locator("main img, main script, main svg[onload], main a[href^=javascript]").count() == 0
    text = visitor.open("/executions/hostile-1").locator("main").inner_text()
    assert "<img src=x onerror=" in text
    assert "{{7*7}}" in text
    assert "\\u202egnp.exe" in text
    assert "\u202e" not in text
    value = visitor.open("/executions/hostile-1/values/input")
    assert value.locator("img, script:not([src])").count() == 0


@pytest.mark.parametrize(
    ("options", "rules"),
    [({}, None), ({"color_scheme": "dark"}, COLOURS), ({"viewport": {"width": 360, "height": 740}}, None)],
    ids=["light", "dark", "phone"],
)
def test_nothing_keeps_people_out(visit, options, rules):
    visitor = visit(**options)
    visitor.start("hopeless", "axe-1", {"message": "for axe"})
    visitor.start("patient", "axe-2")
    visitor.start("guarded", "axe-3")
    visitor.expected = ("status of 404", "status of 400")
    paths = ["/", "/executions", "/executions/axe-1", "/executions/axe-2", "/workflows/order", "/circuit-breakers"]
    if not options:
        paths += ["/executions?q=nothing-like-it", "/executions?status=odd", "/executions/none"]
        paths += ["/logs?workflow=hopeless"]  # lines of all levels, and not of all tests: each is as the others
    for path in paths:
        check_access(visitor.open(path), rules)


def test_everything_can_be_read_without_a_script(visit):
    visitor = visit(java_script_enabled=False)
    visitor.start("hopeless", "plain-1", {"message": "in plain HTML"})
    page = visitor.open("/")
    page.get_by_role("link", name="Executions", exact=True).click()
    page.get_by_label("Search ids and errors").fill("plain-1")
    page.get_by_role("button", name="Apply").click()
    page.get_by_role("link", name="plain-1").click()
    page.wait_for_url("**/executions/plain-1")  # and for its style
    text = page.locator("main").inner_text()
    assert "in plain HTML" in text
    assert "workflow restart plain-1" in text
    assert not page.locator("button.needs-script").first.is_visible()


def test_a_theme_is_chosen_and_kept(visitor):
    page = visitor.open("/")
    page.get_by_role("button", name="Colours").click()
    page.get_by_role("button", name="Colours").click()
    page = visitor.open("/executions")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 25, 31)"


def test_a_lost_connection_is_said_and_recovers(visitor):
    visitor.expected = ("Failed to load resource", "ERR_INTERNET_DISCONNECTED", "ERR_")
    page = visitor.open("/executions")
    page.locator("#live[data-state=live]").wait_for()
    page.context.set_offline(True)
    page.locator("#live[data-state=lost]").wait_for()
    page.context.set_offline(False)
    page.locator("#live[data-state=live]").wait_for()


def test_a_token_is_asked_for(windows, server_nursery, tmp_path: Path):
    token = "a token of a server in a test"  # noqa: S105 - for this test alone
    with serving(tmp_path, token, popen=server_nursery.popen) as address:
        visitor = Visitor(windows, address)
        visitor.expected = ("status of 401",)
        page = visitor.open("/executions?status=failed&q=a+b")
        page.get_by_label("Token").fill("another token")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("alert").wait_for()
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(re.compile("executions.status=failed&q=a.b"))
        assert page.get_by_label("Search ids and errors").input_value() == "a b"
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/login")
        visitor.leave()
