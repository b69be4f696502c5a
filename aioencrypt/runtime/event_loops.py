"""State, tasks, timers and calls that belong to an event loop. The one file that names asyncio and trio.

Every function runs in the thread of the running loop, except the function that `loop_caller` returns: any
thread may call that.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack, suppress
from contextvars import Context, copy_context
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakSet, finalize, ref

from anyio import CancelScope, Event

T = TypeVar("T")
Call = Callable[[], object]

_SECONDS_OF_A_CENTURY = 100 * 365 * 24 * 3600

# asyncio keeps weak references to tasks only.
_tasks: set[asyncio.Task[None]] = set()


def _running_trio() -> Any:
    """Return the module trio if trio runs the caller, None if asyncio does."""
    trio = sys.modules.get("trio")
    return trio if trio is not None and trio.lowlevel.in_trio_run() else None


def on_trio() -> bool:
    """Tell whether trio runs the caller."""
    return _running_trio() is not None


def running_loop() -> object:
    """Return an object that identifies the running event loop and supports weak references."""
    if trio := _running_trio():
        token: object = trio.lowlevel.current_trio_token()
        return token
    return asyncio.get_running_loop()


def find_loop() -> object | None:
    """Return the running event loop, or None: a coroutine may be closed after its loop."""
    try:
        return running_loop()
    except RuntimeError:
        return None


def is_being_closed() -> bool:
    """Tell whether the calling coroutine is being closed, and so must not suspend any more.

    `coroutine.close()` and the garbage collector raise `GeneratorExit` where the coroutine waits; so does a
    loop that was closed with tasks pending. Cleanup that suspends then never continues. An async generator
    that is closed may suspend: there the exception starts at its `yield`.
    """
    error = sys.exception()
    while error is not None and not isinstance(error, GeneratorExit):
        error = error.__context__
    if error is None or (traceback := error.__traceback__) is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return not traceback.tb_frame.f_code.co_flags & inspect.CO_ASYNC_GENERATOR


class LoopLocal(Generic[T]):
    """One value for each event loop, made when the loop first asks for it and dropped with the loop.

    Loops in several threads may call `get` at once: each of them reads and writes its own entry only. The
    value must not hold its loop, or it keeps the loop alive. (anyio's `RunVar` does the same in three
    microseconds, a tenth of the time of a small message.)
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: WeakKeyDictionary[object, T] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._values)

    def get(self) -> T:
        """Return the value of the running loop."""
        loop = running_loop()
        value = self._values.get(loop)
        if value is None:
            self._drop_closed()
            value = self._values[loop] = self._make()
        return value

    def find(self) -> T | None:
        """Return the value of the running loop, if the loop has one and there is a loop."""
        loop = find_loop()
        return None if loop is None else self._values.get(loop)

    def _drop_closed(self) -> None:
        """Drop the values of closed loops. A lock in a value holds the task that waited, and so its loop."""
        for loop in list(self._values):
            if isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed():
                del self._values[loop]

    def all(self) -> list[T]:
        """Return the values of all living loops. Their owner must guard what it does with them."""
        return list(self._values.values())


class Droppable(Protocol):
    """A resource that is closed without waiting."""

    def drop(self) -> None:
        """Let go of everything."""
        ...


class _LoopEnd:
    """Collected when its loop is closed, because nothing but a timer of the loop holds it."""

    def __call__(self) -> None:
        """Do nothing, after a century."""


def drop_with_loop(resource: Droppable) -> None:
    """Drop a resource when the running loop is closed, in the thread that closes the loop.

    A loop that is closed while tasks wait does not cancel them. The caller or anyio may keep such a task,
    and so its open files, until the program ends. This function does not keep the resource alive.
    """
    _dropped_with_loop.get().add(resource)


def _make_dropped_with_loop() -> WeakSet[Droppable]:
    resources: WeakSet[Droppable] = WeakSet()
    if not on_trio():  # trio ends no loop before its tasks
        # asyncio calls nobody when a loop is closed. But a closed loop lets go of its timers, and of nothing
        # else that a caller can give it. So one timer for each loop holds what the loop would not keep.
        end = _LoopEnd()
        finalize(end, _drop_all, resources)
        asyncio.get_running_loop().call_later(_SECONDS_OF_A_CENTURY, end, context=Context())
    return resources


def _drop_all(resources: WeakSet[Droppable]) -> None:
    with ExitStack() as stack:  # drops all of them, whatever the first ones raise
        for resource in list(resources):
            stack.callback(resource.drop)


_dropped_with_loop = LoopLocal(_make_dropped_with_loop)


def loop_caller() -> Callable[[Call], None]:
    """Return a function that schedules a call in the running loop, from any thread.

    It returns at once; `anyio.from_thread.run_sync` would block a worker thread for one loop iteration. It
    drops the call if the loop has ended, because then no task can wait for it.
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


def start_in_loop(loop: Any, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start a function in an event loop of asyncio, from any thread. Does nothing if the loop has ended."""

    def start() -> None:
        task = loop.create_task(function())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    with suppress(RuntimeError):
        loop.call_soon_threadsafe(start)


class BackgroundTask:
    """Work that outlives the call that starts it. Its owner ends it with `cancel`, in the same loop.

    A loop that ends cancels the work. `ended` is set when the work is over, whether it returned, raised, was
    cancelled, or never started.
    """

    def __init__(self) -> None:
        self.ended: Event = Event()
        self._scope = CancelScope()

    def start(self, function: Callable[[], Awaitable[object]]) -> None:
        """Run a function in a copy of the caller's context.

        The function must handle its own errors: no task awaits it, and trio ends the program for an error
        in a system task.
        """
        if trio := _running_trio():
            trio.lowlevel.spawn_system_task(self._run, function, context=copy_context())
            return
        task = asyncio.get_running_loop().create_task(self._run(function))
        _tasks.add(task)
        task.add_done_callback(self._forget)

    def cancel(self) -> None:
        """Cancel the work. Wait for `ended` to know that it is over."""
        self._scope.cancel()

    async def _run(self, function: Callable[[], Awaitable[object]]) -> None:
        try:
            with self._scope:
                await function()
        finally:
            self.ended.set()

    def _forget(self, task: asyncio.Task[None]) -> None:
        _tasks.discard(task)
        # A task that is cancelled before its first step never enters `_run`.
        self.ended.set()


def call_later(seconds: float, function: Call) -> Call:
    """Make the running loop call a function later. Returns a function that cancels the timer, in this loop.

    A loop that ends drops the call. The call runs in an empty context, because a timer would keep the
    caller's context alive.
    """
    if trio := _running_trio():
        task = BackgroundTask()

        async def wait() -> None:
            await trio.sleep(seconds)
            function()

        Context().run(task.start, wait)
        return task.cancel
    # A timer holds its loop. The caller may keep `stop` for longer than the loop lives.
    timer = ref(asyncio.get_running_loop().call_later(seconds, function, context=Context()))

    def stop() -> None:
        if (waiting := timer()) is not None:
            waiting.cancel()

    return stop
