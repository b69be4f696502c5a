"""Buffers after an operation failed: no view on them is left, and no plaintext in them."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
from collections.abc import Awaitable, Callable

import attrs
import pytest

from aioencrypt import (
    AlgorithmSuite,
    DefaultCMM,
    EncryptionError,
    Offload,
    Release,
    SignaturePolicy,
    decrypt_stream,
    open_seekable,
)
from aioencrypt.materials import EncryptionMaterials, EncryptionMaterialsRequest
from aioencrypt.streams.decrypt import decrypt_whole
from tests.support.rows import each_row
from tests.support.streaming import (
    KEY,
    SIGNED,
    UNSIGNED,
    client_for,
    flipped,
    in_chunks,
    on_asyncio,
    plaintext_of,
    sealed,
)

pytestmark = [pytest.mark.anyio, on_asyncio]

MIB = 1 << 20
Operation = Callable[[bytes, AlgorithmSuite], Awaitable[object]]


async def whole(message: bytes, suite: AlgorithmSuite) -> None:
    await client_for(suite).decrypt(message, KEY)


async def whole_in_threads(message: bytes, suite: AlgorithmSuite) -> None:
    await client_for(suite, Offload.THREADS).decrypt(message, KEY)


async def streamed(message: bytes, suite: AlgorithmSuite) -> None:
    async with decrypt_stream(in_chunks(message, 65_537), KEY) as stream:
        await stream.read()


async def seekable(message: bytes, suite: AlgorithmSuite) -> None:
    async with open_seekable(message, KEY, accept_unverified_signature=True) as stream:
        await stream.read()


OPERATIONS: list[Operation] = [whole, whole_in_threads, streamed, seekable]


def views_on_buffers() -> list[object]:
    """Return the objects that views in the process keep exported, apart from `bytes`, which never change."""
    found = []
    for view in [one for one in gc.get_objects() if type(one) is memoryview]:
        try:
            found.append(view.obj)
        except ValueError:
            continue
    return [one for one in found if type(one) is not bytes and one is not None]


# The first frames, a middle one, the last but one and the final frame; short and long ones, one at a time
# and many at once, and one that lies in several pieces and is opened piece by piece.
@each_row("place", [0.1, 0.5, 0.9, -3])
@pytest.mark.parametrize("frame_length", [1000, 4096, 600_000, 2 * MIB])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_no_view_outlives_a_failure(operation: Operation, frame_length: int, place: float) -> None:
    message = await sealed(plaintext_of(MIB + 1), UNSIGNED, frame_length=frame_length)
    position = int(place * len(message)) if place > 0 else len(message) + int(place)
    before = len(views_on_buffers())
    with pytest.raises(EncryptionError) as caught:
        await operation(flipped(message, position), UNSIGNED)
    assert caught.value.__traceback__
    assert len(views_on_buffers()) == before


class FailingSigner(DefaultCMM):
    """A manager whose signer fails, after everything is sealed and digested."""

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        def sign(digest: bytes) -> bytes:
            raise RuntimeError("no")

        return attrs.evolve(await super().get_encryption_materials(request), signer=sign)


async def test_no_view_outlives_a_signer_that_fails() -> None:
    before = len(views_on_buffers())
    with pytest.raises((RuntimeError, EncryptionError)) as caught:
        await client_for(SIGNED).encrypt(plaintext_of(MIB), FailingSigner(KEY))
    assert caught.value.__traceback__
    assert len(views_on_buffers()) == before


def stores_of(error: BaseException) -> list[bytes]:
    """Return what stands in every buffer that is written in place and still there."""
    assert error.__traceback__
    files = [one for one in gc.get_objects() if type(one) is io.BytesIO]
    return [file.getvalue() for file in files if not file.closed]


# Plaintext that is wiped in the loop, and plaintext that is wiped in a thread.
@pytest.mark.parametrize("length", [50_000, 3 * MIB])
@pytest.mark.parametrize("damage", ["final frame", "signature", "cut off", "too long"])
async def test_plaintext_that_fails_authentication_is_wiped(damage: str, length: int) -> None:
    plaintext = b"secrets!" * (length // 8)
    message = await sealed(plaintext, SIGNED)
    bad = {
        "final frame": flipped(message, len(message) - 105 - 1),
        "signature": flipped(message, len(message) - 1),
        "cut off": message[:-1],
        "too long": message + b"x",
    }[damage]
    options = client_for(SIGNED).decrypt_options(
        KEY,
        encryption_context=None,
        signature_policy=SignaturePolicy.ALLOW,
        limits=None,
        release=Release.STREAM,
    )
    with pytest.raises(EncryptionError) as caught:
        # Not `decrypt`, which clears the frames that hold the buffer.
        await decrypt_whole(bad, options)
    stores = [store for store in stores_of(caught.value) if len(store) == len(bad)]
    assert stores
    assert all(store == bytes(len(bad)) for store in stores)


async def test_refused_messages_in_cycles_do_not_end_the_process() -> None:
    """CPython 3.12.1 crashes when it collects a view on a `BytesIO`, and says so when it collects a file."""
    program = """
import asyncio, gc, sys
from aioencrypt import MessageError, RawAESMasterKey, decrypt, decrypt_stream, encrypt

async def streamed(message, key):
    async with decrypt_stream(message, key) as stream:
        await stream.read()

async def main():
    key = RawAESMasterKey("a", "b", wrapping_key=bytes(32))
    message, _ = await encrypt(bytes(20_000), key)
    refused = 0
    for number in range(2000):
        changed = bytearray(message)
        changed[-1 - number * 9 % 20_000] ^= 1
        try:
            await (decrypt if number % 2 else streamed)(bytes(changed), key)
        except MessageError as error:
            saved = error
            refused += 1
        if number % 100 == 0:
            gc.collect()
    print(refused)

asyncio.run(main())
"""
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.stdout, result.stderr, result.returncode) == ("2000\n", "", 0)
