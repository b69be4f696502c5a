"""Calls from threads into event loops that run, and into those that have ended."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from aioencrypt.background import loop_caller, running_loop

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
async def test_a_call_from_the_loop_itself_comes_soon_and_not_at_once() -> None:
    call, called = loop_caller(), anyio.Event()
    call(called.set)
    assert not called.is_set()
    await called.wait()


@pytest.mark.anyio
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
