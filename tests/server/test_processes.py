"""`workflow serve` and `workflow dev` as real processes: how they start, what they refuse, and how they stop."""

import asyncio
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.server.plain_http import client_of
from workflow_core.cli.application import run
from workflow_core.cli.commands.serve import refuse_unsafe
from workflow_core.cli.failures import Failure
from workflow_core.server import ServerSettings
from workflow_core.server.serving import ListenError, is_loopback, listen, url_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and process groups")

SHOP = """
import asyncio

from workflow_core import Workflow, WorkflowContext


@Workflow.define("night")
async def night(ctx: WorkflowContext):
    await ctx.sleep("sleep", 100_000)


@Workflow.define("blocks")
async def blocks(ctx: WorkflowContext):
    import time
    await ctx.step("block", lambda: time.sleep(30))


@Workflow.define("quick")
async def quick(ctx: WorkflowContext):
    return await ctx.step("s", lambda: 1)
"""


@pytest.fixture
def serve(tmp_path, server_nursery):
    """Start a server in a process; return it with its URL."""
    (tmp_path / "night_shop.py").write_text(SHOP)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WORKFLOW_")}
    environment |= {"WORKFLOW_DIR": str(tmp_path / "state"), "PYTHONUNBUFFERED": "1"}
    processes = []

    def start(*arguments, command="serve", **more):
        words = [sys.executable, "-m", "workflow_core.cli", command, "--port", "0", "--app", "night_shop", "--quiet"]
        process = server_nursery.popen(
            [*words, *arguments],
            cwd=tmp_path,
            env=environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        processes.append(process)
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), process.communicate(timeout=20)
        return process, url

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ended(process):
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_stopped_gives_back_what_runs_and_ends_streams(serve, number):
    process, url = serve()
    with client_of(url) as client:
        for name in ("night", "blocks"):
            assert client.post(f"/api/workflows/{name}/executions", json={"execution_id": name}).status_code == 202
        with client.stream("GET", "/api/events") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "event: connected"
            process.send_signal(number)
            assert list(lines)[-1:] == [""]
    code, _, err = ended(process)
    assert (code, err) == (0, "")
    process, url = serve("--no-recover")
    with client_of(url) as client:
        found = client.get("/api/executions/night").json()
        assert (found["status"], found["interrupted"]) == ("sleeping", True)
        assert client.post("/api/executions/night/resume").status_code == 202
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0
    process, url = serve()
    with client_of(url) as client:
        assert not client.get("/api/executions/night").json()["interrupted"]
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0


def test_a_server_reads_while_others_write(serve, tmp_path, server_nursery):
    _, url = serve()
    writer = """
import asyncio, sys
sys.path.insert(0, ".")
import night_shop
from workflow_core import WorkflowEngine
async def main():
    engine = WorkflowEngine()
    print("ready", flush=True)
    for number in range(40):
        await engine.start("quick", f"q-{number}")
    await engine.aclose()
asyncio.run(main())
"""
    other = server_nursery.popen(
        [sys.executable, "-c", writer],
        cwd=tmp_path,
        env=os.environ | {"WORKFLOW_DIR": str(tmp_path / "state")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert other.stdout.readline() == "ready\n"
    seen = set()
    with client_of(url) as client:
        while len(seen) < 40:
            response = client.get("/api/executions?limit=100")
            assert response.status_code == 200, response.text
            found = {each["execution_id"] for each in response.json()["executions"]}
            if len(found) > len(seen):
                assert client.post("/api/workflows/quick/executions", json={}).status_code in {200, 202}
            seen |= {execution_id for execution_id in found if execution_id.startswith("q-")}
    assert ended(other) == (0, "", "")


def test_a_server_answers_to_the_names_that_it_is_given(serve):
    _, url = serve("--allowed-host", "workflows.example.org")
    with client_of(url) as client:
        answers = [
            client.get("/api/workflows", headers={"Host": host}).status_code
            for host in ("workflows.example.org", "other.example.org")
        ]
    assert answers[0] == 200
    assert answers[1] >= 400


def test_a_server_behind_a_proxy_that_logs_requests_and_has_no_pages(serve):
    options = ["--no-dashboard", "--no-recover", "--behind-proxy", "--access-log"]
    process, url = serve(*options, LOG_LEVEL="info")
    with client_of(url) as client:
        assert client.get("/", headers={"Accept": "text/html", "X-Forwarded-For": "192.0.2.7"}).status_code == 404
    process.send_signal(signal.SIGTERM)
    assert "192.0.2.7" in ended(process)[2]


def test_the_dashboard_is_opened_in_a_browser(serve, tmp_path):
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\necho "$1" > opened.part && mv opened.part opened\n')
    browser.chmod(0o755)
    process, url = serve("--open", BROWSER=str(browser))
    with client_of(url) as client:
        while not (tmp_path / "opened").exists():
            assert client.get("/").status_code == 200
    assert (tmp_path / "opened").read_text().strip() == url
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0


def test_the_code_changes_and_the_server_starts_again(serve, tmp_path, tmp_path_factory):
    library = tmp_path_factory.mktemp("library")
    process, url = serve("--no-open", "--watch", str(library), command="dev")
    with client_of(url) as client:
        assert client.post("/api/workflows/night/executions", json={"execution_id": "n"}).status_code == 202
    (tmp_path / "night_shop.py").write_text(SHOP.replace('"quick"', '"quicker"'))
    assert process.stdout.readline().strip() == url
    with client_of(url) as client:
        defined = [each["name"] for each in client.get("/api/workflows").json()["workflows"] if each["defined"]]
        assert defined == ["blocks", "night", "quicker"]
        assert not client.get("/api/executions/n").json()["interrupted"]
    (library / "helper.py").write_text("")
    assert process.stdout.readline().strip() == url
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0


def test_ctrl_c_reaches_the_server_twice_and_is_one_for_it(serve):
    process, url = serve("--no-open", command="dev")
    with client_of(url) as client:
        assert client.post("/api/workflows/night/executions", json={"execution_id": "n"}).status_code == 202
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    code, _, err = ended(process)
    assert (code, err) == (0, "")


def test_a_second_signal_ends_a_server_at_once_and_says_no_more_than_that(serve):
    process, url = serve()
    with client_of(url) as client:
        assert client.post("/api/workflows/blocks/executions", json={"execution_id": "b"}).status_code == 202
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert ended(process)[::2] == (130, "Interrupted.\n")


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORKFLOW_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("WORKFLOW_APP", raising=False)
    monkeypatch.delenv("WORKFLOW_SERVER_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = run(list(arguments))
        return code, capsys.readouterr().err

    return call


@pytest.mark.parametrize("name", ["serve", "dev"])
def test_a_port_that_is_in_use_is_one_clear_error(command, name):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, err = command(name, "--port", str(port))
    assert code == 1
    assert err.count("\n") == 1
    assert f"Port {port} of 127.0.0.1 is in use" in err


@pytest.mark.parametrize("name", ["serve", "dev"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104 - that is what is refused
def test_others_reach_a_server_with_a_token_alone(command, name, host):
    code, err = command(name, "--host", host, "--port", "0")
    assert code == 2
    assert "WORKFLOW_SERVER_TOKEN" in err
    refuse_unsafe("127.0.0.1", ServerSettings())
    refuse_unsafe(host, ServerSettings(token="x" * 16))
    with pytest.raises(Failure):
        refuse_unsafe(host, ServerSettings())


def test_a_weak_token_is_refused_and_not_shown(command, monkeypatch):
    monkeypatch.setenv("WORKFLOW_SERVER_TOKEN", "weak")
    code, err = command("serve", "--port", "0")
    assert code == 2
    assert "at least 16" in err
    assert "weak" not in err.replace("token_urlsafe", "")


def test_addresses():
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost") and is_loopback("127.9.9.9")
    assert not is_loopback("0.0.0.0") and not is_loopback("::") and not is_loopback("nowhere.invalid")  # noqa: S104
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert url_of(listener, "127.0.0.1") == f"http://127.0.0.1:{port}"
        assert url_of(listener, "0.0.0.0") == f"http://127.0.0.1:{port}"  # noqa: S104
        assert url_of(listener, "::") == f"http://[::1]:{port}"
        assert url_of(listener, "localhost") == f"http://localhost:{port}"
    for host in ("192.0.2.1", "nowhere.invalid", "x" * 300, "\0"):
        with pytest.raises((ListenError, ValueError)):
            listen(host, 0)


def test_small_answers_are_sent_at_once():
    """Without TCP_NODELAY each answer waits some 40 ms for the acknowledgement of its headers."""

    async def main():
        accepted = asyncio.get_running_loop().create_future()
        with listen("127.0.0.1", 0) as listener:
            server = await asyncio.start_server(lambda _, writer: accepted.set_result(writer), sock=listener)
            _, client = await asyncio.open_connection(*listener.getsockname())
            writer = await accepted
            assert writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for each in (writer, client):
                each.close()
                await each.wait_closed()
            server.close()
            await server.wait_closed()

    asyncio.run(main())


def test_what_is_missing_is_named(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, err = command("serve")
    assert code == 2
    assert 'pip install "pytest-workflow-core[server]"' in err
