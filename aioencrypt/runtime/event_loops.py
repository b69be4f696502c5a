"""What outlives a call or comes from other threads: the one file that names asyncio and trio."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any
from weakref import ref

from anyio import CancelScope, Event

Call = Callable[[], object]

# asyncio itself does not keep tasks alive.
_tasks: set[asyncio.Task[None]] = set()


def _running_trio() -> Any:
    """Return the module trio where it runs the caller, None where asyncio does."""
    trio = sys.modules.get("trio")
    return trio if trio is not None and trio.lowlevel.in_trio_run() else None


def on_trio() -> bool:
    """Tell whether trio runs the caller."""
    return _running_trio() is not None


def running_loop() -> object:
    """Return an object that stands for the running event loop, and can be referenced weakly."""
    if trio := _running_trio():
        token: object = trio.lowlevel.current_trio_token()
        return token
    return asyncio.get_running_loop()


def loop_caller() -> Callable[[Call], None]:
    """Return a function that makes the running loop call something soon, callable in any thread.

    It does not wait, unlike `anyio.from_thread.run_sync`, which would hold a worker up for a turn of
    the loop. When the loop has ended nobody can wait for the call, and it is dropped.
    """
    if trio := _running_trio():
        schedule, ended = trio.lowlevel.current_trio_token().run_sync_soon, trio.RunFinishedError
    else:
        schedule, ended = asyncio.get_running_loop().call_soon_threadsafe, RuntimeError

    def call(function: Call) -> None:
        try:
            schedule(function)
        except ended:
            return

    return call


class BackgroundTask:
    """Work that outlives the call that starts it. Whoever starts it ends it, with `cancel`.

    When the loop ends before, the work is cancelled with it. `ended` is set when the work is over, in
    whichever way. Made and used in one loop.
    """

    def __init__(self) -> None:
        self.ended: Event = Event()
        self._scope = CancelScope()

    def start(self, function: Callable[[], Awaitable[object]]) -> None:
        """Run a function, in a copy of the caller's context.

        It keeps its errors to itself: nobody is there to be told, and trio ends the program for them.
        """
        if trio := _running_trio():
            trio.lowlevel.spawn_system_task(self._run, function, context=copy_context())
            return
        task = asyncio.get_running_loop().create_task(self._run(function))
        _tasks.add(task)
        task.add_done_callback(self._forget)

    def cancel(self) -> None:
        """Cancel the work; it may take a while to end."""
        self._scope.cancel()

    async def _run(self, function: Callable[[], Awaitable[object]]) -> None:
        try:
            with self._scope:
                await function()
        finally:
            self.ended.set()

    def _forget(self, task: asyncio.Task[None]) -> None:
        _tasks.discard(task)
        # A task that is cancelled before its first step runs nothing at all.
        self.ended.set()


def call_later(seconds: float, function: Call) -> Call:
    """Make the running loop call something after a while; returns what prevents that, in this loop.

    The call is dropped when the loop ends before. It has no context, which it would keep alive.
    """
    if trio := _running_trio():
        task = BackgroundTask()

        async def wait() -> None:
            await trio.sleep(seconds)
            function()

        Context().run(task.start, wait)
        return task.cancel
    # A timer holds its loop, which must not live on with whoever may want to stop the timer.
    timer = ref(asyncio.get_running_loop().call_later(seconds, function, context=Context()))

    def stop() -> None:
        if (waiting := timer()) is not None:
            waiting.cancel()

    return stop
