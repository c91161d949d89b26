"""The pages as they come from the server, without a browser."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from html.parser import HTMLParser

import httpx
import pytest
from fastapi import FastAPI
from starlette.datastructures import QueryParams

from tests.server.conftest import serving
from workflow_core.server.dashboard.filters import Filters
from workflow_core.server.dashboard.json_tree import json_tree
from workflow_core.server.dashboard.strip import draw_strip
from workflow_core.summaries import ExecutionSummary
from workflow_core.views.wording import rate_text

OLDER, NEWER = "Older \u203a", "\u2039 Newer"


class Reading(HTMLParser):
    """What a page holds."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._href: str | None = None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._href = dict(attributes).get("href") if tag == "a" else self._href

    def handle_data(self, data):
        self.text += data
        if self._href and data.strip():
            self.links.setdefault(data.strip(), self._href)
            self._href = None


async def read(served, path, status=200):
    response = await served.client.get(path)
    assert response.status_code == status, response.text
    return Reading(response.text)


@pytest.mark.asyncio
async def test_pages_lead_from_older_to_newer_and_back_while_others_start(directory):
    async with serving(directory, dashboard=True) as served:
        for number in range(120):
            await served.start(f"x-{number:03}")
        first = await read(served, "/executions?workflow=order")
        second = await read(served, first.links[OLDER])
        for number in range(120, 130):
            await served.start(f"x-{number:03}")
        third = await read(served, second.links[OLDER])
        assert OLDER not in third.links
        back = await read(served, third.links[NEWER])
        assert {link for link in back.links if link.startswith("x-")} == {
            link for link in second.links if link.startswith("x-")
        }
        assert "x-129" in (await read(served, back.links[NEWER])).links
        assert "130 executions" in (await read(served, back.links["« Newest"])).text


@pytest.mark.asyncio
async def test_an_empty_store_says_how_to_begin(directory):
    async with serving(directory, dashboard=True, defining=lambda engine: None) as served:
        assert "No executions yet" in (await read(served, "/executions")).text


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/executions?status=odd", 400, "Not a status"),
        ("/executions?before=odd", 400, "Not a cursor"),
        ("/executions?from=yesterday", 400, "is no moment"),
        ("/executions?started=9y", 400, "Not a span"),
        ("/executions/none", 404, "There is no such execution"),
        ("/executions/none/values/input", 404, "There is no such execution"),
        ("/workflows/none", 404, "none"),
        ("/nowhere", 404, "404"),
    ],
)
async def test_what_cannot_be_shown_is_said_on_a_page(directory, path, status, said):
    async with serving(directory, dashboard=True) as served:
        response = await served.client.get(path, headers={"Accept": "text/html"})
        assert response.status_code == status
        page = Reading(response.text)
        assert said in page.text
        assert "Executions" in page.links


@pytest.mark.asyncio
async def test_pages_hold_no_script_and_no_style_of_their_own(directory):
    async with serving(directory, dashboard=True) as served:
        await served.start("order-1", "fails")
        await served.until("order-1", "failed")
        for path in ("/", "/executions", "/executions/order-1", "/workflows/order", "/circuit-breakers", "/logs"):
            response = await served.client.get(path)
            page = Reading(response.text)
            for tag, attributes in page.tags:
                assert "style" not in attributes, (path, tag)
                assert not any(name.startswith("on") for name in attributes), (path, tag)
                assert tag != "style"
                assert tag != "script" or attributes.get("src")
            assert "alert(" not in [tag for tag, _ in page.tags]
            assert "default-src 'none'" in response.headers["content-security-policy"]


@pytest.mark.asyncio
async def test_a_database_that_cannot_be_read_hides_no_other(directory):
    async with serving(directory, dashboard=True) as served:
        await served.start("order-1")
        await served.until("order-1", "completed")
        await served.start("fragile-1", workflow="fragile")
        await served.until("fragile-1", "panicked")
    (directory / "workflows" / "fragile" / "fragile.db").write_bytes(b"not a database, by no means" * 100)
    async with serving(directory, dashboard=True) as served:
        page = await read(served, "/")
        assert "The executions of fragile cannot be read" in page.text
        assert "order" in page.links


@pytest.mark.asyncio
async def test_links_lead_below_the_place_where_the_application_is_mounted(directory):
    async with serving(directory, dashboard=True) as served:
        await served.start("order-1")
        await served.until("order-1", "completed")
        outer = FastAPI()
        outer.mount("/ops", served.app)
        transport = httpx.ASGITransport(outer)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8321") as client:
            for path in ("/ops/", "/ops/executions", "/ops/executions/order-1", "/ops/workflows/order"):
                response = await client.get(path)
                assert response.status_code == 200
                for tag, attributes in Reading(response.text).tags:
                    for name in ("href", "src", "action", "data-start", "data-act"):
                        link = attributes.get(name)
                        assert link is None or link.startswith(("/ops/", "#")), (path, tag, link)
                        if link and name in {"href", "src"} and link.startswith("/ops/"):
                            assert (await client.get(link.partition("#")[0])).status_code == 200, link


def test_a_filter_is_what_its_url_says():
    query = "q=a+b&workflow=order&status=failed&status=panicked&started=24h&before=c2&back=c1"
    filters = Filters.of(QueryParams(query))
    assert [*filters.parameters()] == [*QueryParams(query).multi_items()]
    assert filters.newer().before == "c1"
    assert filters.newer().newer().before == ""
    assert filters.older("c3").newer() == filters
    assert filters.started_after(datetime(2026, 11, 26, tzinfo=UTC)) == datetime(2026, 11, 25, tzinfo=UTC)
    assert Filters.of(QueryParams("to=2026-11-26T08:30")).started_before() == datetime(2026, 11, 26, 8, 30, tzinfo=UTC)


def test_large_values_are_cut_with_a_way_to_the_whole():
    text = json.dumps({"numbers": list(range(5_000)), "text": "x" * 10_000})
    drawn = json_tree(text, "/whole")
    assert drawn.count("/whole") == 2
    assert "4,900 more items" in drawn
    assert "8,000 more characters" in drawn
    assert len(drawn) < 50_000
    deep = "[" * 90 + "]" * 90
    assert json_tree(deep).count("<details") < 50
    assert "&lt;b&gt;" in json_tree('{"<b>": "<b>"}')
    assert "not json" in json_tree("not json")
    assert "datetime" in json_tree('{"$type": "datetime", "value": "2026-11-26T00:00:00+00:00"}')


def test_a_rate_is_never_rounded_up_to_all():
    assert [rate_text(rate) for rate in (1.0, 0.9999, 0.5, None)] == ["100 %", "99.9 %", "50.0 %", "-"]


def test_a_strip_says_what_it_shows():
    began = datetime(2026, 11, 26, tzinfo=UTC)
    one = ExecutionSummary(execution_id="x", workflow_name="order", status="failed", started_at=began)
    assert "Latest 1 executions of order: 1 went wrong" in draw_strip([one], 5, "", "order")
    assert 'href="/mount/executions/x"' in draw_strip([one], 5, "/mount", "order")
