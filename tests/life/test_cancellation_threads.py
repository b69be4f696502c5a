"""Cancelled while something runs in a thread: a read of a file, a signature, a digest."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from anyio.lowlevel import checkpoint

from aioencrypt import DefaultCMM, Provider, decrypt_stream, encrypt, encrypt_stream
from aioencrypt.materials import EncryptionMaterials, EncryptionMaterialsRequest
from aioencrypt.runtime.digests import digest_budgets
from aioencrypt.runtime.event_loops import loop_caller
from aioencrypt.runtime.offload import WORKERS, submit
from tests.support.cancelling import (
    Stream,
    Way,
    assert_failed,
    assert_fine,
    assert_left_with_error,
    each_way,
    read_all,
    settle,
    write_all,
)
from tests.support.streaming import KEY, Feed, plaintext_of, sealed, threads_at_work

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]

PLAINTEXT = plaintext_of(10_000)
LONG_PLAINTEXT = plaintext_of(5_000_000)


@each_way
async def test_a_blocking_file_is_left_behind(way: Way) -> None:
    go, reads = threading.Event(), []

    class File:
        def __init__(self) -> None:
            self.reading = anyio.Event()
            self.call = loop_caller()

        def read(self, n: int = -1) -> bytes:
            self.call(self.reading.set)
            reads.append(go.wait(20))
            return b"too late"

    file = File()
    stream = encrypt_stream(file, KEY)
    await stream.__aenter__()
    try:
        await way.when(file.reading, stream.read)
        assert reads == []
        await assert_left_with_error(stream)
    finally:
        go.set()
    while threads_at_work():  # on trio the thread counts to its end
        await checkpoint()
    await assert_fine()


# Threads


@attrs.define
class SlowSigner:
    """A CMM that signs in a thread until it is let go."""

    signing: anyio.Event = attrs.field(factory=anyio.Event)
    go: threading.Event = attrs.field(factory=threading.Event)
    ended: bool = False
    inner: DefaultCMM = attrs.field(factory=lambda: DefaultCMM(KEY))

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        materials = await self.inner.get_encryption_materials(request)
        signer, call = materials.signer, loop_caller()
        assert signer

        def sign(digest: bytes) -> bytes:
            call(self.signing.set)
            assert self.go.wait(20)
            self.ended = True
            return signer(digest)

        return attrs.evolve(materials, signer=sign)

    async def decrypt_materials(self, request: Any) -> Any:
        raise NotImplementedError


IN_THREADS: dict[str, Callable[[Provider, Path], Awaitable[object]]] = {
    "encrypt": lambda cmm, path: encrypt(PLAINTEXT, cmm),
    "encrypt-reader": lambda cmm, path: encrypt(Feed(PLAINTEXT), cmm),
    "encrypt-stream": lambda cmm, path: read_all(encrypt_stream(PLAINTEXT, cmm)),
    "write": lambda cmm, path: write_all(path, cmm, PLAINTEXT),
}


@pytest.mark.parametrize("start", IN_THREADS.values(), ids=IN_THREADS.keys())
@each_way
async def test_in_a_thread_that_signs(
    way: Way, start: Callable[[Provider, Path], Awaitable[object]], tmp_path: Path
) -> None:
    """Everything that the signature needs stays as it is until the thread has ended."""
    cmm = SlowSigner()
    ended: list[bool] = []

    async def use() -> None:
        try:
            await start(cmm, tmp_path / "file")
        finally:
            ended.append(cmm.ended)

    async def let_go() -> None:
        assert ended == []
        assert threads_at_work() == 1
        cmm.go.set()

    await way.during(cmm.signing, use, let_go)
    assert ended == [True]
    assert [*tmp_path.iterdir()] == []
    await assert_fine()


# Digests


@pytest.mark.parametrize("length", [100_000, 5_000_000], ids=["before the signature", "at the bound"])
@each_way
async def test_while_digests_are_pending(way: Way, length: int) -> None:
    """What waits for a thread is dropped, and so is not waited for."""
    go = threading.Event()
    plaintext = LONG_PLAINTEXT[:length]
    message = await sealed(plaintext)
    encrypting, decrypting = encrypt_stream(plaintext, KEY), decrypt_stream(message, KEY)
    budget = digest_budgets.get()
    for _ in range(WORKERS["digests"]):
        submit("digests", lambda: go.wait(60))

    async def cancel_while_it_waits(stream: Stream) -> None:
        waiting = anyio.Event()

        async def watch() -> None:
            while not budget.used:
                await checkpoint()
            await settle()
            waiting.set()

        async with stream, anyio.create_task_group() as group:
            group.start_soon(watch)
            await way.when(waiting, stream.read)
            stream.abandon()
        await assert_failed(stream)
        assert not budget.used

    try:
        await cancel_while_it_waits(encrypting)
        await cancel_while_it_waits(decrypting)
    finally:
        go.set()
    await assert_fine()
