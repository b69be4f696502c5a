"""Calls from threads into event loops that run and that have ended, work that outlives calls, and timers."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aioencrypt.runtime.event_loops import (
    BackgroundTask,
    LoopLocal,
    call_later,
    is_being_closed,
    loop_caller,
    running_loop,
)
from tests.support.streaming import on_asyncio_and_uvloop

BACKENDS: list[tuple[str, dict[str, Any]]] = [
    ("asyncio", {"debug": True}),
    ("asyncio", {"use_uvloop": True}),
    ("trio", {}),
]
each_backend = pytest.mark.parametrize(("backend", "options"), BACKENDS, ids=["asyncio", "uvloop", "trio"])


def in_thread(function: Callable[[], object]) -> None:
    """Run a function in a thread to its end, while this thread waits."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert failures == []
    assert not thread.is_alive()


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_call_from_a_thread_runs_in_the_loop_without_waiting_for_it() -> None:
    call, called = loop_caller(), anyio.Event()
    idents: list[int] = []

    def function() -> None:
        idents.append(threading.get_ident())
        called.set()

    in_thread(lambda: call(function))  # ends although the loop is held up here
    assert idents == []
    await called.wait()
    assert idents == [threading.get_ident()]


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_call_from_the_loop_itself_comes_soon_and_not_at_once() -> None:
    call, called = loop_caller(), anyio.Event()
    call(called.set)
    assert not called.is_set()
    await called.wait()


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_calls_come_in_order() -> None:
    call, last = loop_caller(), anyio.Event()
    order: list[int] = []

    def calls() -> None:
        for number in range(100):
            call(lambda number=number: order.append(number))  # type: ignore[misc]
        call(last.set)

    in_thread(calls)
    await last.wait()
    assert order == list(range(100))


@each_backend
def test_a_call_into_a_loop_that_has_ended_is_dropped(backend: str, options: dict[str, Any]) -> None:
    calls: list[Callable[[Callable[[], object]], None]] = []
    called: list[int] = []

    async def main() -> None:
        calls.append(loop_caller())

    anyio.run(main, backend=backend, backend_options=options)
    calls[0](lambda: called.append(1))
    in_thread(lambda: calls[0](lambda: called.append(2)))

    async def another() -> None:
        calls[0](lambda: called.append(3))
        await anyio.wait_all_tasks_blocked()

    anyio.run(another, backend=backend, backend_options=options)
    assert called == []


@each_backend
def test_each_loop_is_its_own(backend: str, options: dict[str, Any]) -> None:
    loops: list[object] = []

    async def main() -> None:
        loops.append(running_loop())
        assert running_loop() is loops[-1]
        assert weakref.ref(running_loop())() is loops[-1]

    for _ in range(2):
        anyio.run(main, backend=backend, backend_options=options)
    assert loops[0] is not loops[1]


@pytest.mark.parametrize("function", [running_loop, loop_caller])
def test_outside_of_a_loop(function: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        function()


# Work that outlives the call


REQUEST: ContextVar[str] = ContextVar("REQUEST")


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_task_outlives_the_call_and_the_scopes_that_started_it() -> None:
    task, gate, steps = BackgroundTask(), anyio.Event(), list[str]()

    async def work() -> None:
        steps.append("started")
        await gate.wait()
        steps.append("done")

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group():
            task.start(work)
            scope.cancel()
    assert not task.ended.is_set()
    gate.set()
    await task.ended.wait()
    assert steps == ["started", "done"]


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_task_runs_in_a_copy_of_the_context_of_the_call() -> None:
    task, seen = BackgroundTask(), list[str]()

    async def work() -> None:
        seen.append(REQUEST.get())
        REQUEST.set("changed")

    token = REQUEST.set("first")
    task.start(work)
    REQUEST.set("later")
    await task.ended.wait()
    assert (seen, REQUEST.get()) == (["first"], "later")
    REQUEST.reset(token)


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_task_that_is_cancelled_has_ended_when_it_says_so() -> None:
    task, started, steps = BackgroundTask(), anyio.Event(), list[str]()

    async def work() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            steps.append("cleaned up")

    task.start(work)
    await started.wait()
    task.cancel()
    task.cancel()
    assert not task.ended.is_set()
    await task.ended.wait()
    assert steps == ["cleaned up"]


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_task_that_is_cancelled_before_its_first_step_does_not_get_far() -> None:
    task, steps = BackgroundTask(), list[str]()

    async def work() -> None:
        await checkpoint()
        steps.append("went on")

    task.start(work)
    task.cancel()
    await task.ended.wait()
    assert steps == []


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_cancelling_a_task_that_has_ended_does_nothing() -> None:
    task = BackgroundTask()
    task.start(checkpoint)
    await task.ended.wait()
    task.cancel()
    await checkpoint()


@on_asyncio_and_uvloop
@pytest.mark.anyio
async def test_a_task_that_asyncio_cancels_before_its_first_step_has_ended() -> None:
    task = BackgroundTask()
    before = asyncio.all_tasks()
    task.start(anyio.sleep_forever)
    [started] = asyncio.all_tasks() - before
    started.cancel()
    with anyio.fail_after(10):
        await task.ended.wait()


@each_backend
def test_a_task_ends_with_its_loop(
    backend: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    steps: list[str] = []

    async def work() -> None:
        steps.append("started")
        try:
            await anyio.sleep_forever()
        finally:
            steps.append("ended")

    async def main() -> None:
        BackgroundTask().start(work)
        BackgroundTask().start(anyio.sleep_forever)
        await anyio.wait_all_tasks_blocked()

    anyio.run(main, backend=backend, backend_options=options)
    gc.collect()
    assert steps == ["started", "ended"]
    assert caplog.records == []


# Timers


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_timer_calls_in_the_loop_after_a_while() -> None:
    called, order = anyio.Event(), list[str]()
    call_later(0.02, called.set)
    call_later(0.01, lambda: order.append("first"))
    call_later(0, lambda: order.append("at once"))
    assert not called.is_set()
    with anyio.fail_after(10):
        await called.wait()
    assert order == ["at once", "first"]


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_timer_that_is_stopped_does_not_call() -> None:
    called, order = anyio.Event(), list[str]()
    stop = call_later(0.01, lambda: order.append("stopped"))
    call_later(0.02, called.set)
    stop()
    stop()
    with anyio.fail_after(10):
        await called.wait()
    assert order == []


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_timer_may_be_stopped_after_its_call_and_from_it() -> None:
    called = anyio.Event()

    def function() -> None:
        stop()
        called.set()

    stop = call_later(0, function)
    with anyio.fail_after(10):
        await called.wait()
    stop()
    await checkpoint()


@pytest.mark.anyio
@pytest.mark.every_loop
async def test_a_timer_has_no_context_that_it_would_keep_alive() -> None:
    called, seen = anyio.Event(), list[str]()

    def function() -> None:
        seen.append(REQUEST.get("none"))
        called.set()

    token = REQUEST.set("first")
    call_later(0, function)
    with anyio.fail_after(10):
        await called.wait()
    REQUEST.reset(token)
    assert seen == ["none"]


@each_backend
def test_a_timer_neither_holds_a_loop_up_nor_alive(
    backend: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    stops: list[Callable[[], object]] = []
    loops: list[weakref.ref[object]] = []

    async def main() -> None:
        stops.append(call_later(3600, lambda: pytest.fail("called")))
        loops.append(weakref.ref(running_loop()))
        await anyio.wait_all_tasks_blocked()

    anyio.run(main, backend=backend, backend_options=options)
    gc.collect()
    assert loops[0]() is None
    assert caplog.records == []


# Coroutines that are closed


def test_cleanup_of_a_closed_coroutine_does_not_suspend() -> None:
    told: list[bool] = []

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            told.append(is_being_closed())

    async def main() -> None:
        coroutine = wait()
        coroutine.send(None)
        assert not is_being_closed()
        coroutine.close()

    anyio.run(main)
    assert told == [True]


def test_cleanup_of_a_closed_async_generator_may_suspend() -> None:
    told: list[bool] = []

    async def generate() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            told.append(is_being_closed())
            await anyio.sleep(0)
            told.append(is_being_closed())

    async def main() -> None:
        generator = generate()
        await anext(generator)
        await generator.aclose()

    anyio.run(main)
    assert told == [False, False]


def test_a_closed_loop_is_not_kept_by_what_waited_in_it() -> None:
    loops: LoopLocal[list[object]] = LoopLocal(list)
    loop = asyncio.new_event_loop()

    async def keep() -> None:
        loops.get().append(asyncio.get_running_loop())

    loop.run_until_complete(keep())
    loop.close()
    kept = weakref.ref(loop)
    del loop
    gc.collect()
    assert kept() is not None
    anyio.run(keep)
    gc.collect()
    assert kept() is None
