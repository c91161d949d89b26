"""Workers and queues by the API, the metrics and the pages, on a real PostgreSQL with a worker in this process."""

import asyncio
import contextlib

import pytest

from workflow_core import Settings, WorkflowEngine
from workflow_core.database.dispatch import QueueState
from workflow_core.limits import Limits
from workflow_core.server.dashboard.bars import queue_bar
from workflow_core.views.cluster import QUEUE_PARTS

from .conftest import serving
from .test_dashboard_pages import Reading, read

psycopg = pytest.importorskip("psycopg")
worker_module = pytest.importorskip("workflow_core.cluster.worker")
from workflow_core.cluster.settings import WorkerSettings  # noqa: E402

FAST = Settings(poll_interval_ms=10, sync_handlers="inline")
NOT_HERE = "Workers need PostgreSQL, and the state is in"


def define(engine):
    @engine.define("plain")
    async def plain(ctx):
        return await ctx.step("double", lambda: 2 * ctx.input)

    @engine.define("waiting")
    async def waiting(ctx):
        await ctx.step("wait", asyncio.Event().wait)

    @engine.define("sleeper")
    async def sleeper(ctx):
        await ctx.sleep("nap", 300_000)

    @engine.define("limited", limits=Limits(concurrency=1))
    async def limited(ctx):
        await ctx.step("wait", asyncio.Event().wait)

    @engine.define("rated", limits=Limits(starts=1, period_ms=3_600_000))
    async def rated(ctx):
        return "begun"


@pytest.fixture
def serve(make_postgres_store, directory):
    """Let a server serve a schema of PostgreSQL."""

    def serve(**settings):
        return serving(directory, store=make_postgres_store(), defining=define, **settings)

    return serve


@pytest.fixture
def working(make_postgres_store, postgres_queue):
    """Let a worker work on the same schema for the time of an ``async with`` block."""

    @contextlib.asynccontextmanager
    async def work(*queues, concurrency=3):
        engine = WorkflowEngine(make_postgres_store(), settings=FAST)
        define(engine)
        settings = WorkerSettings(
            queues=queues or ("default",), concurrency=concurrency, poll_ms=50, rest_ms=1, grace_ms=0
        )
        stop, ready = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(worker_module.Worker(engine, settings).run(stop, ready.set))
        wait = asyncio.create_task(ready.wait())
        await asyncio.wait([task, wait], return_when=asyncio.FIRST_COMPLETED)
        try:
            yield
        finally:
            stop.set()
            wait.cancel()
            await task
            await engine.aclose()

    return work


async def enqueue(served, workflow, execution_id, status=202, **body):
    body = {"execution_id": execution_id, "queue": "default", **body}
    return await served.post(f"/api/workflows/{workflow}/executions", status, json=body)


async def stands(served, execution_id, place):
    async with asyncio.timeout(20):
        while (found := await served.get(f"/api/executions/{execution_id}"))["dispatch"]["place"] != place:
            await asyncio.sleep(0.01)  # another task, and a server, are waited for
    return found


async def lose_a_worker(store, queues=("default", "mail")):
    """Note a worker that gave its last sign of life an hour ago."""
    await store.make_queue()
    ((worker_id,),) = await store.fetch(
        "INSERT INTO {s}.procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 hour') RETURNING id"
    )
    await store.fetch(
        "INSERT INTO {s}.workers (worker_id, host, pid, queues, concurrency, heartbeat) VALUES"
        " (%(id)s, '<b>gone/boot', 4711, %(queues)s, 8, interval '10 seconds') RETURNING 1",
        {"id": worker_id, "queues": list(queues)},
    )
    return worker_id


@pytest.mark.asyncio
async def test_an_execution_is_handed_to_workers_and_can_be_waited_for(serve, working):
    async with serve() as served:
        queued = await enqueue(served, "plain", "e-1", input=21, priority=7)
        assert (queued["status"], queued["owner"], queued["interrupted"]) == ("queued", None, False)
        dispatch = queued["dispatch"]
        assert (dispatch["queue"], dispatch["priority"], dispatch["place"]) == ("default", 7, "ready")
        assert dispatch["workers"] == 0 and dispatch["since"] and dispatch["until"] is None
        for path in ("/api/executions?status=queued", "/api/executions?search=e-1&status=queued"):
            assert [each["execution_id"] for each in (await served.get(path))["executions"]] == ["e-1"]
        assert (await served.get("/api/workflows/plain"))["executions_by_status"] == {"queued": 1}
        async with working():
            answer = await served.client.post(
                "/api/workflows/plain/executions?wait_ms=20000",
                json={"execution_id": "e-1", "input": 21, "queue": "default"},
            )
        assert (answer.status_code, answer.json()["output"]) == (200, 42)
        assert answer.json()["dispatch"]["place"] == "ended"
        here = await served.start("e-2", workflow="waiting")
        assert here.json()["dispatch"] is None


@pytest.mark.asyncio
async def test_lists_name_queues_and_show_those_of_one(serve):
    async with serve(dashboard=True) as served:
        for number, queue in enumerate(("mail", "default", "mail", "mail")):
            await enqueue(served, "plain", f"e-{number}", input=1, queue=queue)
        page = await served.get("/api/executions?queue=mail&limit=2")
        assert [(each["execution_id"], each["queue"]) for each in page["executions"]] == [
            ("e-3", "mail"),
            ("e-2", "mail"),
        ]
        rest = await served.get(f"/api/executions?queue=mail&limit=2&cursor={page['next']}")
        assert ([each["execution_id"] for each in rest["executions"]], rest["next"]) == (["e-0"], None)
        assert (await served.get("/api/executions?queue=mail&search=E-2"))["executions"][0]["execution_id"] == "e-2"
        assert "characters" in (await served.get("/api/executions?queue=%3Cb%3E", 422))["detail"]
        refused = await served.post("/api/workflows/plain/executions", 422, json={"input": 1, "queue": "workflow_core"})
        assert "workers keep themselves going with it" in refused["detail"]
        shown = (await served.client.get("/executions?queue=mail")).text
        assert "<option selected>mail</option>" in shown
        assert "e-3" in shown and "e-1" not in shown
        hostile = await served.client.get("/executions?queue=%3Cscript%3Ealert(1)%3C/script%3E")
        assert hostile.status_code == 400
        assert "<script>alert(1)" not in hostile.text


@pytest.mark.asyncio
async def test_where_there_are_no_workers_there_are_no_queues(directory):
    async with serving(directory, dashboard=True) as served:
        assert NOT_HERE in (await served.get("/api/executions?queue=mail", 409))["detail"]
        assert 'name="queue"' not in (await served.client.get("/executions")).text


@pytest.mark.asyncio
async def test_each_execution_says_where_it_stands(serve, working):
    async with serve() as served, working(concurrency=5):
        await enqueue(served, "plain", "other", input=1, queue="mail")
        await enqueue(served, "sleeper", "parked")
        await enqueue(served, "limited", "first")
        await stands(served, "first", "running")
        await enqueue(served, "limited", "second", limit_key="ada")
        assert (await served.post("/api/workflows/rated/executions?wait_ms=20000", json={"queue": "default"}))["output"]
        await enqueue(served, "rated", "later")
        assert (await stands(served, "second", "limited"))["dispatch"]["limit_key"] == "ada"
        assert (await stands(served, "later", "scheduled"))["dispatch"]["until"] is not None
        parked = await stands(served, "parked", "parked")
        assert (parked["status"], parked["dispatch"]["workers"]) == ("sleeping", 1)
        assert parked["dispatch"]["until"] == parked["steps"]["nap"]["wake_at"]
        cluster = await served.get("/api/cluster")
        numbers = ("queue", "ready", "scheduled", "limited", "running", "lost", "parked", "workers")
        assert [tuple(queue[name] for name in numbers) for queue in cluster["queues"]] == [
            ("default", 0, 1, 1, 1, 0, 1, 1),
            ("mail", 1, 0, 0, 0, 0, 0, 0),
        ]
        assert cluster["queues"][0]["lag_ms"] == 0 and cluster["queues"][1]["lag_ms"] >= 0
        (worker,) = cluster["workers"]
        assert (worker["queues"], worker["running"], worker["concurrency"]) == (["default"], 1, 5)
        metrics = (await served.client.get("/api/metrics")).text
        for line in (
            'workflow_queue_executions{queue="default",state="limited"} 1.0',
            'workflow_queue_executions{queue="default",state="scheduled"} 1.0',
            'workflow_queue_executions{queue="default",state="running"} 1.0',
            'workflow_queue_executions{queue="mail",state="ready"} 1.0',
            'workflow_queue_lag_seconds{queue="default"} 0.0',
            'workflow_queue_workers{queue="mail"} 0.0',
            'workflow_workers{state="alive"} 1.0',
            'workflow_worker_slots{state="used"} 1.0',
            'workflow_worker_slots{state="free"} 4.0',
            'workflow_executions{status="queued",workflow="rated"} 1.0',
        ):
            assert line in metrics


@pytest.mark.asyncio
async def test_a_database_that_was_never_used_by_workers_is_only_read(serve, make_postgres_store):
    async with serve() as served:
        empty = await served.get("/api/cluster")
        assert (empty["workers"], empty["queues"]) == ([], [])
        assert "workflow_workers" not in (await served.client.get("/api/metrics")).text
        tables = "SELECT to_regclass(%(name)s)"
        store = make_postgres_store()
        assert await store.fetch(tables, {"name": f"{store.schema}.procrastinate_jobs"}) == [(None,)]


@pytest.mark.asyncio
async def test_a_database_without_workers_says_so_and_starts_nothing(directory):
    async with serving(directory, defining=define) as served:
        for problem in (await served.get("/api/cluster", 409), await enqueue(served, "plain", "e-1", 409)):
            assert problem["type"] == "urn:workflow:problem:no-workers"
            assert problem["detail"].startswith(NOT_HERE) and "WORKFLOW_DATABASE_URL" in problem["detail"]
        await served.get("/api/executions/e-1", 404)
        assert "workflow_workers" not in (await served.client.get("/api/metrics")).text


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("body", "mistake"),
    [
        ({"queue": None, "priority": 1}, 'only with "queue"'),
        ({"queue": None, "limit_key": "ada"}, 'only with "queue"'),
        ({"queue": "no spaces"}, "body.queue"),
        ({"queue": "q" * 41}, "body.queue"),
        ({"priority": 1_000_001}, "body.priority"),
        ({"priority": True}, "body.priority"),
        ({"limit_key": "k" * 256}, "body.limit_key"),
        ({"limit_key": "\0"}, "A key of limits"),
    ],
)
async def test_what_cannot_be_handed_over_is_refused(serve, body, mistake):
    async with serve() as served:
        problem = await enqueue(served, "plain", "e-1", 422, **body)
        assert mistake in problem["detail"]
        await served.get("/api/executions/e-1", 404)


@pytest.mark.asyncio
async def test_the_page_says_how_to_begin_and_who_is_lost(serve, make_postgres_store):
    async with serve(dashboard=True) as served:
        page = await read(served, "/cluster")
        assert "workflow worker --app shop" in page.text
        assert page.links["Cluster"] == "/cluster"
        store = make_postgres_store()
        lost = await lose_a_worker(store)
        await enqueue(served, "limited", "first", queue="mail", priority=3)
        await enqueue(served, "limited", "second", queue="mail", limit_key="<i>ada")
        page = await read(served, "/cluster")
        assert "1 lost" in page.text and "Nobody works on mail" in page.text and "4711 on <b>gone" in page.text
        rows = [attributes["id"] for tag, attributes in page.tags if tag == "tr" and "id" in attributes]
        assert rows[:2] == ["q-default", "q-mail"]
        assert not any("style" in attributes for _, attributes in page.tags)
        assert "Limits, with workers1 at once" in "".join((await read(served, "/workflows/limited")).text.split("\n"))
        first = await read(served, "/executions/first")
        assert "Ready for" in first.text and "(priority 3)" in first.text and "--queue mail" in first.text
        second = await read(served, "/executions/second")
        assert (
            "(priority 0)" in second.text
            and "Limited: the limits of its workflow" in second.text
            and "<i>ada" in second.text
        )
        assert "queued" in (await read(served, "/executions?status=queued")).text
        conninfo, schema = store.connection_string()
        with psycopg.connect(conninfo, options=f"-c search_path={schema}") as connection:
            connection.execute(
                "WITH job AS (UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s RETURNING id)"
                " UPDATE dispatches d SET state = 'claimed' FROM job WHERE d.job_id = job.id",
                (lost,),
            )
        assert "1 execution that ran there goes on as soon as" in (await read(served, "/cluster")).text
        state = await served.get("/api/cluster")
        (worker,), queue = state["workers"], state["queues"][1]
        assert (queue["queue"], queue["running"], queue["lost"]) == ("mail", 0, 1)
        assert queue["lag_ms"] >= 3_600_000
        assert "Lost: its worker gives no sign of life" in (await read(served, "/executions/first")).text
        assert (worker["host"], worker["is_alive"], worker["running"]) == ("<b>gone", False, 1)
        metrics = (await served.client.get("/api/metrics")).text
        assert 'workflow_workers{state="lost"} 1.0' in metrics and 'workflow_worker_slots{state="free"} 0.0' in metrics


@pytest.mark.asyncio
async def test_a_page_of_a_database_without_workers_does_not_speak_of_them(directory):
    async with serving(directory, defining=define, dashboard=True) as served:
        overview = await read(served, "/")
        assert "Cluster" not in overview.links and "queued" not in overview.text
        assert "queued" not in (await read(served, "/executions")).text
        response = await served.client.get("/cluster", headers={"Accept": "text/html"})
        assert response.status_code == 409
        assert NOT_HERE in Reading(response.text).text


@pytest.mark.parametrize(
    ("numbers", "greatest", "widths"),
    [
        ({}, 0, []),
        ({"running": 5, "ready": 5}, 10, [75, 75]),
        ({"ready": 1}, 1_000_000, [3]),
        ({"running": 1_000_000, "ready": 1, "parked": 1, "limited": 1}, 1_000_003, [141, 3, 3, 3]),
    ],
)
def test_a_bar_shows_what_is_there_and_is_never_too_long(numbers, greatest, widths):
    parts = {**dict.fromkeys(QUEUE_PARTS, 0), **numbers}
    drawn = Reading(str(queue_bar(QueueState("q", lag_ms=0, workers=0, **parts), greatest)))
    shown = [round(float(each["width"])) for tag, each in drawn.tags if tag == "rect" and each["class"] != "bar-ground"]
    assert shown == widths


@pytest.mark.asyncio
async def test_the_longest_name_of_a_queue_fits(serve, working):
    longest = "q" * 40
    async with serve() as served, working(longest):
        answer = await served.client.post(
            "/api/workflows/plain/executions?wait_ms=20000", json={"input": 1, "queue": longest}
        )
        assert (answer.status_code, answer.json()["output"]) == (200, 2)
