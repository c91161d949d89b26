"""Calling the functions of users: in which thread, in whose turn, and what becomes of what they return and raise."""

import asyncio
import functools
import threading
from datetime import timedelta

import pytest

from workflow_core.invoking import invoked, is_coroutine_function


def call(clock, function, *args, in_thread=False):
    return asyncio.run(invoked(function, args, clock, in_thread=in_thread))


async def adding(first, second):
    await asyncio.sleep(0)
    return first + second, threading.get_ident()


class Adding:
    def __call__(self, first, second):
        return adding(first, second)


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize(
    "function",
    [adding, functools.partial(adding), Adding(), lambda *given: adding(*reversed(given))],
    ids=["function", "partial", "object", "lambda"],
)
def test_what_is_asynchronous_runs_in_the_event_loop_however_it_is_written(clock, function, in_thread):
    assert call(clock, function, 1, 2, in_thread=in_thread) == (3, threading.get_ident())


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_plain_function_runs_where_it_is_to_run(clock, in_thread):
    thread, *given = call(clock, lambda *given: (threading.get_ident(), *given), 1, 2, in_thread=in_thread)
    assert given == [1, 2]
    assert (thread != threading.get_ident()) == in_thread


def test_a_function_that_stops_an_iteration_in_a_thread_says_so(clock):
    with pytest.raises(RuntimeError) as caught:
        call(clock, lambda: next(iter(())), in_thread=True)
    assert str(caught.value) == "the function raised StopIteration"
    assert isinstance(caught.value.__cause__, StopIteration)


@pytest.mark.parametrize("took_ms", [0, 1])
@pytest.mark.parametrize("fails", [False, True])
def test_timers_that_fell_due_while_a_function_ran_have_their_turn_before_it_returns(clock, took_ms, fails):
    happened = []

    def function():
        happened.append("called")
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: loop.call_soon(happened.append, "timer"))
        clock.time += timedelta(milliseconds=took_ms)
        if fails:
            raise ValueError("no")

    async def scenario():
        beside = asyncio.ensure_future(note())
        try:
            await invoked(function, (), clock, in_thread=False)
        except ValueError:
            happened.append("failed")
        seen = list(happened)
        await beside
        return seen

    async def note():
        happened.append("beside")

    expected = ["beside", "called", *["timer"] * took_ms, *["failed"] * fails]
    assert asyncio.run(scenario()) == expected


def test_what_was_written_with_async_def_is_known_without_calling_it():
    class Everything:
        def __getattr__(self, name):
            return self

    assert is_coroutine_function(adding)
    assert not is_coroutine_function(lambda: adding(1, 2))
    assert not is_coroutine_function(functools.partial(adding))
    assert not is_coroutine_function(Everything())


def test_tasks_beside_a_function_that_ends_at_once_find_it_running(clock):
    happened = []

    async def main():
        loop = asyncio.get_running_loop()

        def run_at_once(executor, job):
            done = loop.create_future()
            done.set_result(job())
            return done

        async def call():
            await invoked(lambda: happened.append("called"), (), clock, in_thread=True)
            happened.append("returned")

        async def look():
            happened.append("looked")

        loop.run_in_executor = run_at_once
        await asyncio.gather(call(), look())

    asyncio.run(main())
    assert happened == ["called", "looked", "returned"]
