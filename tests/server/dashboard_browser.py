"""A real browser on a real server, and what no page may ever do."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]

RECORDER = """
addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective}`));
"""


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


class Visitor:
    """Somebody who looks at pages, and notices everything that no page may do.

    Args:
        browser: The browser.
        address: The server's address.
        options: Options of the browser's context, such as ``color_scheme``.
    """

    def __init__(self, browser: Browser, address: str, **options: Any) -> None:
        self.address = address
        self.api = httpx.Client(base_url=f"{address}/api", timeout=30, trust_env=False)
        self.noticed: list[str] = []
        self.expected: tuple[str, ...] = ()
        self._context = browser.new_context(**options)
        self._context.set_default_timeout(15_000)
        self.page = self._context.new_page()
        self.page.add_init_script(RECORDER)
        self.page.on("console", lambda said: self._notice(said.type in {"error", "warning"}, f"console: {said.text}"))
        self.page.on("pageerror", lambda error: self._notice(True, f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self._notice(True, f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on(
            "request", lambda request: self._notice(not request.url.startswith(address), f"request: {request.url}")
        )

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
        self._context.close()
        self.api.close()
        assert self.noticed == []
