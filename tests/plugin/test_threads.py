"""Work outside the event loop: threads that sleep, wait for each other or work, and child processes."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from pytest_workflow import WorkflowStuckError
from pytest_workflow.loops import Attachment
from workflow_core import Settings

pytestmark = pytest.mark.timeout(30)


def real_seconds(perf_counter=time.perf_counter):
    """A default argument is out of freezegun's reach."""
    return perf_counter()


def really_sleep(seconds, sleep=time.sleep):
    """Work that a thread does for a while."""
    sleep(seconds)


@pytest.fixture
def graces(monkeypatch):
    """Shorter graces: what never comes is given up sooner."""
    monkeypatch.setattr("pytest_workflow.threads.LOCK_GRACE_SECONDS", 0.1)
    monkeypatch.setattr("pytest_workflow.threads.OUTSIDE_GRACE_SECONDS", 0.3)
    monkeypatch.setattr("pytest_workflow.loops.OUTSIDE_GRACE_SECONDS", 0.3)


# Threads of an event loop that closes ---------------------------------------------------------------------------------


class SlowToEnd(ThreadPoolExecutor):
    """Its threads are still being joined when nothing is left to do in the event loop."""

    def shutdown(self, wait=True, **options):
        really_sleep(0.05)
        super().shutdown(wait, **options)


def test_threads_are_joined_in_no_virtual_time(workflow_clock):
    async def run():
        asyncio.get_running_loop().set_default_executor(SlowToEnd())
        return await asyncio.to_thread(lambda: 1)

    assert asyncio.run(run()) == 1
    assert workflow_clock.monotonic() == 0


# Jobs that nobody waits for any longer -------------------------------------------------------------------------------


def test_a_step_whose_thread_outsleeps_its_time_out_is_retried(workflow, workflow_clock):
    @workflow.define("late")
    async def late(ctx):
        return await ctx.step("call", lambda: asyncio.to_thread(time.sleep, 5), timeout_ms=1_000)

    result = workflow.run("late")
    assert (result.status, result.steps["call"].attempt) == ("failed", 3)
    assert workflow_clock.monotonic() == pytest.approx(1 + 1 + 1 + 2 + 1)  # three attempts, two back-offs


def test_a_thread_may_outsleep_several_time_outs(workflow_clock):
    async def twice():
        for _ in range(2):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(time.sleep, 5), 1)

    workflow_clock.run(twice())
    assert workflow_clock.monotonic() == pytest.approx(2)


class TestThreadedHandlers:
    @pytest.fixture
    def workflow_settings(self):
        return Settings(sync_handlers="thread")

    def test_a_plain_function_may_outsleep_its_time_out(self, workflow):
        @workflow.define("late")
        async def late(ctx):
            return await ctx.step("call", lambda: time.sleep(5), timeout_ms=1_000)

        assert workflow.run("late").status == "failed"


# Threads that wait for something -------------------------------------------------------------------------------------


def test_threads_that_sleep_one_after_the_other(workflow_clock, graces):
    lock = threading.Lock()

    def job():
        with lock:
            time.sleep(1)

    async def three():
        await asyncio.gather(*(asyncio.to_thread(job) for _ in range(3)))

    workflow_clock.run(three())
    assert workflow_clock.monotonic() == pytest.approx(3)


def test_a_thread_that_waits_for_the_event_loop(workflow_clock, graces):
    async def there_and_back():
        loop = asyncio.get_running_loop()
        return await asyncio.to_thread(
            lambda: asyncio.run_coroutine_threadsafe(asyncio.sleep(5, "slept"), loop).result(20)
        )

    assert workflow_clock.run(there_and_back()) == "slept"
    assert workflow_clock.monotonic() == pytest.approx(5)


def test_a_thread_that_waits_for_ever_is_named(workflow_clock, graces):
    gate = threading.Event()

    async def wait():
        await asyncio.to_thread(gate.wait)

    with pytest.raises(WorkflowStuckError) as raised:
        workflow_clock.run(wait())
    gate.set()
    message = str(raised.value)
    assert "no code is runnable, and no timer is set" in message
    assert "outside the event loop, nothing has come for a while from:" in message
    assert 'Event.wait in thread "asyncio_0"' in message
    assert "workflow_clock.outside_work()" in message


def test_time_goes_on_past_a_thread_that_stands_still(workflow_clock, graces):
    gate = threading.Event()

    async def wait():
        asyncio.get_running_loop().call_later(3_600, gate.set)
        await asyncio.to_thread(gate.wait)

    workflow_clock.run(wait())
    assert workflow_clock.monotonic() == pytest.approx(3_600)


def test_a_thread_that_computes_is_not_given_up(workflow_clock):
    def compute():
        until = real_seconds() + 0.6
        while real_seconds() < until:
            pass
        return "computed"

    async def guarded():
        return await asyncio.wait_for(asyncio.to_thread(compute), 1)

    assert workflow_clock.run(guarded()) == "computed"
    assert workflow_clock.monotonic() == 0


def test_a_thread_that_works_for_a_while_is_waited_for(workflow_clock):
    """Longer than threads may wait for each other."""

    async def guarded():
        await asyncio.wait_for(asyncio.to_thread(really_sleep, 1.2), 1)

    workflow_clock.run(guarded())
    assert workflow_clock.monotonic() == 0


# Threads that the event loop does not know ---------------------------------------------------------------------------


def test_a_foreign_thread_may_take_a_while(workflow_clock):
    async def wait():
        loop, answer = asyncio.get_running_loop(), asyncio.Event()
        threading.Timer(0.4, loop.call_soon_threadsafe, [answer.set]).start()
        await answer.wait()

    workflow_clock.run(wait())


def test_a_foreign_thread_is_named(workflow_clock, graces):
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait, name="the importer")
    thread.start()

    async def wait():
        await asyncio.Event().wait()

    with pytest.raises(WorkflowStuckError, match='thread "the importer"'):
        workflow_clock.run(wait())
    gate.set()
    thread.join()


def test_an_idle_worker_is_nothing_to_wait_for(workflow_clock, monkeypatch):
    looks, look = [], Attachment._outside

    def looking(attachment):
        looks.append(look(attachment))
        return looks[-1]

    monkeypatch.setattr(Attachment, "_outside", looking)

    async def wait():
        await asyncio.to_thread(int)
        await asyncio.Event().wait()

    with pytest.raises(WorkflowStuckError) as raised:
        workflow_clock.run(wait())
    assert "outside" not in str(raised.value)
    assert looks
    assert not [work for works in looks for work in works if work.description], "it is waited for"


# anyio ---------------------------------------------------------------------------------------------------------------


def test_a_worker_of_anyio_is_waited_for(workflow_clock):
    async def guarded():
        with anyio.fail_after(1):
            await anyio.to_thread.run_sync(really_sleep, 0.4)

    workflow_clock.run(guarded())
    assert workflow_clock.monotonic() == 0


def test_a_worker_of_anyio_sleeps_on_virtual_time(workflow_clock):
    async def guarded():
        with anyio.move_on_after(10) as scope:
            await anyio.to_thread.run_sync(time.sleep, 3_600, abandon_on_cancel=True)
        assert scope.cancelled_caught
        await anyio.to_thread.run_sync(time.sleep, 60)

    began = real_seconds()
    workflow_clock.run(guarded())
    assert workflow_clock.monotonic() == pytest.approx(70)
    assert real_seconds() - began < 10


# Child processes -----------------------------------------------------------------------------------------------------

SLOW = "import sys, time; time.sleep(0.4); print('done')"


def test_a_child_process_is_waited_for(workflow_clock):
    async def guarded():
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", SLOW, stdout=pipe)
        return await asyncio.wait_for(child.communicate(), 1)

    assert workflow_clock.run(guarded())[0].strip() == b"done"
    assert workflow_clock.monotonic() == 0


def test_a_child_process_without_pipes_is_waited_for(workflow_clock):
    async def guarded():
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", SLOW, stdout=asyncio.subprocess.DEVNULL)
        return await child.wait()

    assert workflow_clock.run(guarded()) == 0


def test_a_child_process_that_never_ends_may_be_timed_out(workflow_clock, graces):
    async def guarded():
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print('ready', flush=True); input()", stdin=-1, stdout=-1
        )
        await child.stdout.readline()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(child.wait(), 60)
        child.kill()
        await child.communicate()

    workflow_clock.run(guarded())
    assert workflow_clock.monotonic() == pytest.approx(60)
