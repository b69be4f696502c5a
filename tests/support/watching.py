"""A master key that counts its calls, and a way to act at each suspension of a coroutine."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio

from aioencrypt.materials import DataKey, DataKeyRequest, EncryptedDataKey, MasterKey
from tests.support.message_writer import DEFAULT_KEYS, example_data_key

resource: Any
try:
    import resource
except ImportError:  # Windows
    resource = None


class CountingKey(MasterKey):
    """Owns the encrypted data keys of `build_message`, gives its data keys, and counts the calls.

    It binds no encryption context, as an RSA key.
    """

    provider_id = "test"
    key_id = "key"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def owns_data_key(self, encrypted_data_key: EncryptedDataKey) -> bool:
        return encrypted_data_key.provider_id == self.provider_id

    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        self.calls.append("generate")
        return DataKey(example_data_key(request.algorithm_suite)), DEFAULT_KEYS[0]

    async def encrypt_data_key(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        self.calls.append("encrypt")
        return DEFAULT_KEYS[0]

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        self.calls.append("decrypt")
        return DataKey(example_data_key(request.algorithm_suite))


@types.coroutine
def watched(awaitable: Awaitable[Any], on_suspend: Callable[[], None]) -> Generator[Any, Any, Any]:
    """Await something and call a function whenever it suspends, before the event loop gets to know."""
    inner: Any = awaitable.__await__()
    go_on = partial(next, inner)
    while True:
        try:
            suspended = go_on()
        except StopIteration as stop:
            return stop.value
        on_suspend()
        try:
            sent = yield suspended
        except BaseException as error:
            go_on = partial(inner.throw, error)
        else:
            go_on = partial(inner.send, sent)


async def cancelled_at(number: int, awaitable: Awaitable[Any], *, by_task: bool = False) -> bool:
    """Await something and cancel it at its suspension of this number; tell whether it had that many.

    `by_task` cancels as asyncio itself does, otherwise a cancel scope of anyio.
    """
    count = 0

    def on_suspend() -> None:
        nonlocal count
        if count == number:
            cancel()
        count += 1

    if by_task:

        async def run() -> None:
            await watched(awaitable, on_suspend)

        task = asyncio.create_task(run())
        cancel: Callable[[], object] = task.cancel
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
    else:
        with anyio.CancelScope() as scope:
            cancel = scope.cancel
            await watched(awaitable, on_suspend)
    return count > number


@contextmanager
def file_size_limit(length: int) -> Iterator[None]:
    """Let no file of this process grow above a length: what a full disk does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
