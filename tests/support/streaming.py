"""What the tests of streams share: keys, clients, plaintext, sources, and a look at what is left running."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import anyio
import pytest

from aioencrypt import AlgorithmSuite, CommitmentPolicy, EncryptionClient, Limits, Offload, RawAESMasterKey
from aioencrypt.runtime.offload import loop_states
from aioencrypt.streams import Source

SIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
UNSIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
KEY = RawAESMasterKey("tests", "streams", wrapping_key=bytes(range(32)))

ASYNCIO = pytest.param(("asyncio", {"debug": True}), id="asyncio")
UVLOOP = pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")

# In place of the fixture, for what asyncio has and trio has not.
on_asyncio = pytest.mark.parametrize("anyio_backend", [ASYNCIO])
on_asyncio_and_uvloop = pytest.mark.parametrize("anyio_backend", [ASYNCIO, UVLOOP])


def plaintext_of(length: int) -> bytes:
    """Return bytes that repeat nowhere near a frame or a batch."""
    return hashlib.shake_128(b"plaintext").digest(length)


def client_for(suite: AlgorithmSuite, offload: Offload = Offload.AUTO) -> EncryptionClient:
    """Return a client that writes and reads a suite."""
    policy = (
        CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
        if suite.committing
        else CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT
    )
    return EncryptionClient(commitment_policy=policy, offload=offload, limits=Limits(max_frame_length=None))


async def sealed(plaintext: bytes, suite: AlgorithmSuite = SIGNED, **options: Any) -> bytes:
    """Return a message."""
    client = client_for(suite)
    return (await client.encrypt(plaintext, KEY, algorithm_suite=suite, **options)).ciphertext


async def opened(message: Source, suite: AlgorithmSuite = SIGNED, **options: Any) -> bytes:
    """Return the plaintext of a message."""
    return (await client_for(suite).decrypt(message, KEY, **options)).plaintext


async def in_chunks(data: bytes, length: int) -> AsyncGenerator[bytes, None]:
    """Yield data in pieces, a turn of the loop before each."""
    for start in range(0, len(data), length):
        await anyio.sleep(0)
        yield data[start : start + length]


def flipped(message: bytes, position: int) -> bytes:
    """Return a message with one bit changed."""
    changed = bytearray(message)
    changed[position] ^= 1
    return bytes(changed)


class Feed:
    """A reader that gives one piece for each read, and counts the reads."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.reads = 0

    async def read(self, n: int = -1) -> bytes:
        self.reads += 1
        await anyio.sleep(0)
        return self.pieces.pop(0) if self.pieces else b""


class Stalling:
    """A reader that gives pieces and then waits for ever; `stalled` is set when it waits."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.stalled = anyio.Event()

    async def read(self, n: int = -1) -> bytes:
        if self.pieces:
            return self.pieces.pop(0)
        self.stalled.set()
        await anyio.sleep_forever()
        return b""


def is_again(error: BaseException, first: BaseException) -> bool:
    """Tell whether an error is the first one again, as a fresh exception: a traceback must not grow."""
    return type(error) is type(first) and error.args == first.args and error.__cause__ is first


def threads_at_work() -> int:
    """Count the worker threads that this library keeps busy for this loop."""
    state = loop_states.get()
    return state.hops + state.reads


def tasks_left() -> list[str]:
    """Name the asyncio tasks apart from this one and the test runner's."""
    try:
        current = asyncio.current_task()
    except RuntimeError:  # trio: a nursery cannot leave tasks behind
        return []
    names = [repr(task) for task in asyncio.all_tasks() if task is not current]
    return [name for name in names if "run_tests_in_task" not in name and "_call_in_runner" not in name]


def comes_true(condition: Callable[[], bool]) -> bool:
    """Collect garbage until a condition holds.

    A thread that woke the loop last may be on its way back from that call, which holds the loop.
    """
    for _ in range(1000):
        gc.collect()
        if condition():
            return True
        time.sleep(0.01)
    return False


def assert_idle() -> None:
    """Assert that nothing of this library goes on in this loop."""
    assert threads_at_work() == 0
    assert not loop_states.get().lane.held
    assert tasks_left() == []


def collected() -> Iterator[None]:
    """Collect what a test left, so that its warnings are those of the test. Body of a fixture."""
    yield
    gc.collect()
