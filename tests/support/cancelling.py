"""Every way to cancel, once and twice in a row, as one table."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from anyio.lowlevel import checkpoint

import aioencrypt
from aioencrypt import (
    DecryptStream,
    EncryptStream,
    Provider,
    StreamError,
    UnverifiedStreamError,
    decrypt,
    encrypt,
)
from tests.support.streaming import KEY, assert_idle, plaintext_of
from tests.support.watching import watched

Stream = EncryptStream | DecryptStream
Cancel = Callable[[], object]
Operation = Callable[[Cancel], Coroutine[Any, Any, object]]
"""What is cancelled; it is given the function that cancels it."""


async def _by_task(operation: Operation) -> bool:
    def cancel() -> None:
        task.cancel()

    task = asyncio.create_task(operation(cancel))
    await asyncio.wait([task])
    if task.cancelled():
        return True
    task.result()
    return False


async def settle() -> None:
    """Let the loop turn until whatever can end has ended; anyio's own function sleeps for that."""
    for _ in range(12):
        await checkpoint()


def _one_after_the_other(cancels: Sequence[Cancel]) -> Cancel:
    rest = iter(cancels)
    return lambda: next(rest, lambda: None)()


async def _by_timeout(operation: Operation) -> bool:
    ended = False

    def expire(timeout: asyncio.Timeout) -> None:
        if not ended:
            timeout.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(None) as outer, asyncio.timeout(None) as inner:
            try:
                await operation(_one_after_the_other([lambda: expire(inner), lambda: expire(outer)]))
            finally:
                ended = True
    except TimeoutError:
        return True
    finally:
        task = asyncio.current_task()
        assert task
        assert task.cancelling() == 0
    return False


async def _by_scope(operation: Operation) -> bool:
    with anyio.CancelScope() as outer, anyio.CancelScope() as inner:
        await operation(_one_after_the_other([inner.cancel, outer.cancel]))
    return inner.cancelled_caught or outer.cancelled_caught


async def _by_deadline(operation: Operation) -> bool:
    with anyio.move_on_after(math.inf) as outer, anyio.move_on_after(math.inf) as inner:

        def expire(scope: anyio.CancelScope) -> None:
            scope.deadline = anyio.current_time()

        await operation(_one_after_the_other([lambda: expire(inner), lambda: expire(outer)]))
    return inner.cancelled_caught or outer.cancelled_caught


@attrs.frozen
class Way:
    """Runs an operation that cancels itself, or is cancelled; `run` tells whether that came through.

    What else the operation raises comes through `run` unchanged.
    """

    name: str
    run: Callable[[Operation], Awaitable[bool]]
    twice: bool = False

    async def when(self, reached: anyio.Event, operation: Callable[[], Awaitable[object]]) -> None:
        """Run an operation and cancel it when something is reached; it must end cancelled."""
        await self.during(reached, operation, checkpoint)

    async def during(
        self,
        reached: anyio.Event,
        operation: Callable[[], Awaitable[object]],
        then: Callable[[], Awaitable[None]],
    ) -> None:
        """The same; await `then` when it is cancelled, and need not have ended."""

        async def cancellable(cancel: Cancel) -> None:
            async def watch() -> None:
                await reached.wait()
                for _ in range(1 + self.twice):
                    cancel()
                    await settle()
                await then()

            watcher.append(watch)
            started.set()
            await operation()

        async def watch() -> None:
            await started.wait()
            await watcher[0]()

        watcher: list[Callable[[], Awaitable[None]]] = []
        started = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            assert await self.run(cancellable), "the operation was not cancelled"

    async def at(self, number: int, operation: Callable[[], Awaitable[object]]) -> tuple[bool, bool]:
        """Cancel an operation at its suspension of this number; say if it got there, and if it was cancelled.

        A scope may come too late where the operation ends in the same turn.
        """
        count = 0

        async def cancellable(cancel: Cancel) -> None:
            def on_suspend() -> None:
                nonlocal count
                if count == number or (self.twice and count == number + 1):
                    cancel()
                count += 1

            await watched(operation(), on_suspend)

        cancelled = await self.run(cancellable)
        reached = count > number
        assert cancelled is reached or (reached and self.run is not _by_task)
        return reached, cancelled


_FUNCTIONS = {"task": _by_task, "timeout": _by_timeout, "scope": _by_scope, "deadline": _by_deadline}
_BACKENDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "asyncio": (
        ("asyncio", {"debug": True}),
        ("task", "task-twice", "timeout", "scope", "scope-twice", "deadline"),
    ),
    "uvloop": (("asyncio", {"use_uvloop": True}), ("task-twice",)),
    "trio": (("trio", {}), ("scope", "deadline-twice")),
}


def _cases(backends: Sequence[str]) -> list[Any]:
    return [
        pytest.param(
            backend,
            Way(way, _FUNCTIONS[way.removesuffix("-twice")], way.endswith("-twice")),
            id=f"{loop}-{way}",
        )
        for loop, (backend, ways) in _BACKENDS.items()
        if loop in backends
        for way in ways
    ]


# In place of the fixture: each loop with its ways. The second is for what takes long.
each_way = pytest.mark.parametrize(("anyio_backend", "way"), _cases(["asyncio", "uvloop", "trio"]))
each_way_without_uvloop = pytest.mark.parametrize(("anyio_backend", "way"), _cases(["asyncio", "trio"]))


async def assert_fine() -> None:
    """Assert that nothing goes on, and that the library works in this loop, threads and digests included."""
    assert_idle()
    plaintext = plaintext_of(100_000)
    message, _ = await encrypt(plaintext, KEY)
    assert (await decrypt(message, KEY)).plaintext == plaintext
    assert_idle()


async def read_all(stream: Stream) -> bytes:
    async with stream:
        return await stream.read()


async def write_all(path: Path, provider: Provider, plaintext: bytes) -> None:
    async with aioencrypt.open(path, "wb", provider=provider, frame_length=1000) as writer:
        await writer.write(plaintext)


async def assert_failed(stream: Stream) -> None:
    """Assert that a cancelled stream has failed for good, and that leaving it says so."""
    for use in (stream.read, stream.readline, stream.__anext__):
        with pytest.raises(StreamError, match="the stream failed before, with Cancelled"):
            await use()


async def assert_left_with_error(stream: Stream) -> None:
    await assert_failed(stream)
    with pytest.raises(UnverifiedStreamError) as caught:
        await stream.__aexit__(None, None, None)
    assert caught.value.__cause__ is None
    await assert_failed(stream)
