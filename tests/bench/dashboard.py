"""Measure the dashboard on many executions: the server's time for each page, and a browser's until the first content.

    python tests/bench/dashboard.py [--executions 10000] [--rounds 7]

The rows are copied from one real execution, because only their number matters here; reading takes the usual way.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import httpx

from tests.server import dashboard_shop
from tests.server.dashboard_browser import browsing, serving
from workflow_core import Settings, WorkflowEngine

PAGES = (
    "/",
    "/executions",
    "/executions?workflow=hopeless",
    "/executions?status=failed&status=panicked",
    "/executions?workflow=hopeless&status=completed&started=24h",
    "/executions?q=copy-1234",
    "/executions?q=nowhere-to-be-found",
    "/workflows/hopeless",
    "/executions/original",
)
FIRST_CONTENT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


async def original(directory: Path) -> None:
    engine = WorkflowEngine(settings=Settings(directory=directory))
    engine.define("hopeless", dashboard_shop.hopeless)
    async with engine:
        await engine.start_and_wait("hopeless", "original")


def copied(directory: Path, count: int) -> None:
    database = sqlite3.connect(directory / "workflows" / "hopeless" / "hopeless.db")
    columns = [row[1] for row in database.execute("PRAGMA table_info(executions)")]
    row = dict(zip(columns, database.execute("SELECT * FROM executions").fetchone(), strict=True))
    now = datetime.now(UTC)
    rows = []
    for number in range(count):
        began = now - timedelta(seconds=5 * number)
        status = ("completed", "completed", "completed", "completed", "failed", "cancelled")[number % 6]
        rows.append(
            row
            | {
                "id": f"copy-{number}",
                "status": status,
                "started_at": began.isoformat(timespec="microseconds"),
                "completed_at": (began + timedelta(milliseconds=40 + number % 500)).isoformat(timespec="microseconds"),
                "error_message": row["error_message"] if status == "failed" else None,
            }
        )
    names = ", ".join(columns)
    marks = ", ".join(f":{column}" for column in columns)
    with database:
        database.executemany(f"INSERT INTO executions ({names}) VALUES ({marks})", rows)
    database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        asyncio.run(original(directory))
        copied(directory, options.executions)
        with serving(directory) as address, browsing() as browser, httpx.Client(trust_env=False) as client:
            page = browser.new_page()
            print(f"{options.executions:,} executions; medians of {options.rounds}, in milliseconds")
            print(f"{'page':62} {'server':>8} {'first content':>14}")
            for path in PAGES:
                served, painted = [], []
                client.get(address + path)
                for _ in range(options.rounds):
                    began = time.perf_counter()
                    client.get(address + path).raise_for_status()
                    served.append((time.perf_counter() - began) * 1_000)
                    page.goto(address + path)
                    page.wait_for_timeout(50)
                    painted.append(page.evaluate(FIRST_CONTENT) or float("nan"))
                print(f"{path:62} {statistics.median(served):8.1f} {statistics.median(painted):14.1f}")


if __name__ == "__main__":
    main()
