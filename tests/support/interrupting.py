"""Interrupt an operation at any of its suspensions, in every way that ends one, and look for what is left.

A suspension is counted in the task of the operation and in every task that it starts, on asyncio. Each
drive has an event loop of its own, because some interruptions end the loop.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
import types
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import anyio
import attrs

from aioencrypt import EncryptionError, decrypt, encrypt
from aioencrypt.runtime.digests import digest_budgets
from aioencrypt.runtime.offload import WORKERS, loop_states, submit
from tests.support.streaming import KEY, tasks_left

WAYS = ("cancel", "cancel twice", "scope", "cancel a child", "close", "interrupt", "loop closed")
# What a drive may take; it hangs otherwise.
_SECONDS = 30.0


class Operation(Protocol):
    """A public operation in a world of its own; `left` names what it left open there."""

    async def prepare(self) -> None: ...

    async def run(self) -> object: ...

    async def finish(self) -> None: ...

    def left(self) -> list[str]: ...

    @property
    def has_connections(self) -> bool: ...

    @property
    def has_children(self) -> bool: ...


class Interruption:
    """Counts the suspensions of an operation and acts at one of them."""

    def __init__(self, way: str, number: int) -> None:
        self.way = way
        self.number = number
        self.count = 0
        self.fired = False
        self.scope: anyio.CancelScope | None = None
        self.task: asyncio.Task[Any] | None = None

    def at_suspension(self, inner: Coroutine[Any, Any, Any], child: bool) -> BaseException | None:
        """Act if this is the suspension; return what to throw into the coroutine."""
        if (self.way in ("close", "loop closed") and child) or (self.way == "cancel a child" and not child):
            return None
        number, self.count = self.count, self.count + 1
        if number != self.number and not (self.way == "cancel twice" and number == self.number + 1):
            return None
        self.fired = True
        assert self.task is not None
        match self.way:
            case "cancel" | "cancel twice":
                self.task.cancel()
            case "scope":
                assert self.scope is not None
                self.scope.cancel()
            case "cancel a child":
                current = asyncio.current_task()
                assert current
                current.cancel()
            case "close":
                inner.close()
                raise Closed
            case "interrupt":
                return KeyboardInterrupt()
            case "loop closed":
                asyncio.get_running_loop().stop()
        return None

    @types.coroutine
    def drive(self, inner: Coroutine[Any, Any, Any], child: bool) -> Generator[Any, Any, Any]:
        """Run a coroutine and act at its suspensions, before the event loop gets to know."""
        step: Callable[[], Any] = partial(inner.send, None)
        try:
            while True:
                try:
                    suspended = step()
                except StopIteration as stop:
                    return stop.value
                if (error := self.at_suspension(inner, child)) is not None:
                    step = partial(inner.throw, error)
                    continue
                try:
                    sent = yield suspended
                except GeneratorExit:
                    inner.close()
                    raise
                except BaseException as error:
                    step = partial(inner.throw, error)
                else:
                    step = partial(inner.send, sent)
        finally:
            del inner, step


class Closed(BaseException):
    """The coroutine was closed."""


@attrs.define
class Drive:
    """One drive of an operation: whether it got as far as the suspension, how it ended, what it left."""

    reached: bool
    error: BaseException | None
    left: list[str]


def drive(make: Callable[[], Operation], way: str, number: int, folder: Path) -> Drive:
    """Run an operation, interrupt it, and check everything that must hold then."""
    with warnings.catch_warnings():
        # A coroutine that is closed before its first step, in a loop that is closed.
        warnings.simplefilter("ignore")
        hook = sys.unraisablehook

        def hide_refusals(unraisable: Any) -> None:
            # A `finally` of a coroutine that is collected closes a writer that its loop has dropped.
            if not isinstance(unraisable.exc_value, EncryptionError):
                hook(unraisable)

        sys.unraisablehook = hide_refusals
        try:
            return _drive(make(), Interruption(way, number), folder)
        finally:
            gc.collect()
            sys.unraisablehook = hook


def _drive(operation: Operation, interruption: Interruption, folder: Path) -> Drive:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    closes = interruption.way == "loop closed"
    try:
        loop.run_until_complete(operation.prepare())
        files, descriptors = _files(folder), _descriptors()
        state = loop.run_until_complete(_state())
        error = _run(loop, operation, interruption)
        if closes and interruption.fired:
            loop.close()  # the task lives on, and keeps no file open
            loop = asyncio.new_event_loop()
            state = loop.run_until_complete(_state())
            gc.collect()
        # Connections are closed by awaiting, which nobody can once the loop is gone.
        opened = (list) if closes and operation.has_connections else operation.left
        left = _leftovers(loop, lambda: opened() + _left(state, folder, files, descriptors))
        if interruption.way in ("close", "loop closed") and operation.has_children:
            # Task groups wait for their tasks, which nobody can there: Python says so.
            error = None if isinstance(error, RuntimeError) and "GeneratorExit" in str(error) else error
        if not isinstance(error, _EXPECTED) and error is not None:
            left.append(f"raised {error!r}")
        loop.run_until_complete(operation.finish())
        loop.run_until_complete(asyncio.wait_for(_works(), _SECONDS))
        return Drive(interruption.fired, error, left)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


_EXPECTED = (asyncio.CancelledError, KeyboardInterrupt, Closed, EncryptionError, anyio.ClosedResourceError)


def _run(
    loop: asyncio.AbstractEventLoop, operation: Operation, interruption: Interruption
) -> BaseException | None:
    """Run the operation in a task; return what it raised. Ends its other tasks as `asyncio.run` does."""

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(_as_coroutine(interruption, coroutine), loop=loop, **options)

    async def main() -> None:
        interruption.task = asyncio.current_task()
        if interruption.way == "scope":
            with anyio.CancelScope() as interruption.scope:
                await interruption.drive(_coroutine(operation.run()), False)
        else:
            await interruption.drive(_coroutine(operation.run()), False)

    task: asyncio.Task[None] = asyncio.Task(main(), loop=loop)
    loop.set_task_factory(make)
    handle = loop.call_later(_SECONDS, loop.stop)
    try:
        loop.run_until_complete(task)
    except BaseException as error:
        if interruption.way == "loop closed" and interruption.fired:
            return None
        if not task.done() and not isinstance(error, KeyboardInterrupt):
            return TimeoutError(f"hangs after {_SECONDS} seconds")
        if isinstance(error, KeyboardInterrupt):
            _cancel_all(loop)
        return error
    finally:
        if not loop.is_closed():
            handle.cancel()
            loop.set_task_factory(None)
    return None


async def _as_coroutine(interruption: Interruption, coroutine: Any) -> Any:
    return await interruption.drive(coroutine, True)


def _coroutine(awaitable: Awaitable[Any]) -> Coroutine[Any, Any, Any]:
    assert isinstance(awaitable, Coroutine)
    return awaitable


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel all tasks and let them end, as `asyncio.run` does for Ctrl-C."""

    async def end() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_SECONDS)

    loop.run_until_complete(end())


async def _state() -> tuple[Any, Any]:
    return loop_states.get(), digest_budgets.get()


def _leftovers(loop: asyncio.AbstractEventLoop, look: Callable[[], list[str]]) -> list[str]:
    """Look until nothing is left, for a while: threads end, and what waits for them."""
    end = time.monotonic() + 5
    while True:
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
        gc.collect()
        left = look()
        left += loop.run_until_complete(_tasks())
        if not left or time.monotonic() > end:
            return left
        for kind in WORKERS:
            submit(kind, lambda: None).result()


async def _tasks() -> list[str]:
    return [f"the task {name}" for name in tasks_left()]


def _left(state: tuple[Any, Any], folder: Path, files: set[str], descriptors: list[str]) -> list[str]:
    offload, budget = state
    left = []
    if offload.hops or offload.reads:
        left.append("a job in a thread")
    if offload.lane.held:
        left.append("the lane")
    if budget.used:
        left.append(f"{budget.used} bytes of the budget of digests")
    left += [f"the file {name}" for name in sorted(_files(folder) - files)]
    left += [f"the descriptor of {name}" for name in _more(_descriptors(), descriptors)]
    return left


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".kept"}


def _descriptors() -> list[str]:
    """Return what the descriptors of this process stand for, where the system tells."""
    names = []
    for descriptor in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
        try:
            name = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:  # that of the listing
            continue
        if not name.startswith(("anon_inode", "socket", "/proc", "/dev")):
            names.append(name)
    return names


def _more(now: list[str], before: list[str]) -> list[str]:
    rest = list(before)
    return [name for name in now if name not in rest or rest.remove(name)]  # type: ignore[func-returns-value]


async def _works() -> None:
    message, _ = await encrypt(bytes(100_000), KEY)
    assert (await decrypt(message, KEY)).plaintext == bytes(100_000)
