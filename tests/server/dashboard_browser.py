"""A real browser on a real server, and what no page may ever do."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.plain_http import client_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]

RECORDER = """
addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective}`));
"""


COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
"""The rules of axe-core that ask for colours: the others find in another colour scheme what they find in the first."""


def missing(what: str) -> None:
    """Skip a test that needs something of this machine; fail where everything has to be there."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@contextlib.contextmanager
def serving(
    directory: Path, *arguments: str, popen: Callable[..., Any] = subprocess.Popen, **environment: str
) -> Iterator[str]:
    """Run a server with arguments and variables of its environment, and give its address."""
    process = popen(
        [sys.executable, "-m", "tests.server.dashboard_server", str(directory), *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, "the server did not start"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=20)


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    """Start a browser."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        missing("Playwright is not installed: pip install -e '.[dev]'")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        except Error as error:
            missing(f"No Chromium to be started: {str(error)[:200]}")
        try:
            yield browser
        finally:
            browser.close()


def check_access(page: Page, options: Mapping[str, Any] | None = None) -> None:
    """Fail if a page keeps people out, by the rules of axe-core, or is wider than its window.

    Args:
        page: The page.
        options: Options of axe-core, such as `COLOURS`; by default all of its rules.
    """
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        missing("axe-core is not installed: pip install -e '.[dev]'")
    violations = Axe().run(page, options={"resultTypes": ["violations"], **(options or {})}).response["violations"]
    assert [f"{page.url} {each['id']}: {each['nodes'][0]['html']}" for each in violations] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), page.url


class Windows:
    """Windows of a browser, in which visitors look at pages: to make one costs more than most of the pages.

    Args:
        browser: The browser.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._free: dict[str, Page] = {}

    def take(self, options: Mapping[str, Any]) -> Page:
        """Return the page of a window with these options, in which nobody has been or that was left as new."""
        if found := self._free.pop(str(options), None):
            return found
        context = self._browser.new_context(**options)
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.add_init_script(RECORDER)
        return page

    def give_back(self, page: Page, options: Mapping[str, Any], address: str) -> None:
        """Let the next visitor have a window, with nothing that a page has stored there."""
        page.goto("about:blank")
        page.context.clear_cookies()
        tools = page.context.new_cdp_session(page)
        tools.send("Storage.clearDataForOrigin", {"origin": address, "storageTypes": "all"})
        tools.detach()
        self._free[str(options)] = page


class Visitor:
    """Somebody who looks at pages, and notices everything that no page may do.

    Args:
        windows: The windows of the browser.
        address: The server's address.
        options: Options of the browser's context, such as ``color_scheme``.
    """

    def __init__(self, windows: Windows, address: str, **options: Any) -> None:
        self.address = address
        self.api = client_of(f"{address}/api", timeout=30, trust_env=False)
        self.noticed: list[str] = []
        self.expected: tuple[str, ...] = ()
        self.page = windows.take(options)
        self._windows, self._options = windows, options
        self._listeners: dict[str, Callable[..., None]] = {
            "console": lambda said: self._notice(said.type in {"error", "warning"}, f"console: {said.text}"),
            "pageerror": lambda error: self._notice(True, f"error: {error}"),
            "dialog": lambda dialog: (self._notice(True, f"dialog: {dialog.message}"), dialog.dismiss()),
            "request": lambda request: self._notice(not request.url.startswith(address), f"request: {request.url}"),
        }
        for event, listener in self._listeners.items():
            self.page.on(event, listener)

    def _notice(self, is_wrong: bool, what: str) -> None:
        if is_wrong and not any(text in what for text in self.expected):
            self.noticed.append(what)

    def open(self, path: str) -> Page:
        self.page.goto(self.address + path)
        return self.page

    def start(self, workflow: str, execution_id: str, given: object = None) -> None:
        answer = self.api.post(f"/workflows/{workflow}/executions", json={"execution_id": execution_id, "input": given})
        assert answer.status_code in {200, 202}, answer.text

    def leave(self) -> None:
        """Leave, and fail if anything was noticed."""
        self.page.title()  # what happened before has been told by then
        for event, listener in self._listeners.items():
            self.page.remove_listener(event, listener)
        self._windows.give_back(self.page, self._options, self.address)
        self.api.close()
        assert self.noticed == []
