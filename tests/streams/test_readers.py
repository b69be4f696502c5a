"""`read(n)` and `readexactly(n)` mean the same on everything that is read like a stream."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

import aioencrypt
from aioencrypt import IncompleteReadError, Release, decrypt, decrypt_stream, encrypt_stream, open_seekable
from aioencrypt.integrations.s3 import open_encrypted, open_seekable_encrypted
from aioencrypt.rewrap import rewrap_stream
from tests.support.memory_s3 import BUCKET, KEY_NAME, MemoryS3
from tests.support.streaming import KEY, UNSIGNED, in_chunks, on_asyncio, sealed

pytestmark = [pytest.mark.anyio, on_asyncio]

PLAINTEXT = bytes(range(256)) * 10
Reader = AbstractAsyncContextManager[Any]


def stored(message: bytes) -> MemoryS3:
    s3 = MemoryS3()
    s3.put(message)
    return s3


def file(message: bytes, folder: Path) -> Path:
    path = folder / "message"
    path.write_bytes(message)
    return path


# Each opens a reader of a message; what it gives is the plaintext or a message with that plaintext.
READERS: dict[str, Callable[[bytes, Path], Reader]] = {
    "encrypt_stream": lambda message, folder: encrypt_stream(
        in_chunks(PLAINTEXT, 100), KEY, algorithm_suite=UNSIGNED, frame_length=300
    ),
    "decrypt_stream": lambda message, folder: decrypt_stream(in_chunks(message, 100), KEY),
    "verified": lambda message, folder: decrypt_stream(message, KEY, release=Release.VERIFIED),
    "open": lambda message, folder: aioencrypt.open(file(message, folder), "rb", provider=KEY),
    "open_seekable": lambda message, folder: open_seekable(message, KEY),
    "rewrap_stream": lambda message, folder: rewrap_stream(message, KEY, new_provider=KEY),
    "open_encrypted": lambda message, folder: open_encrypted(stored(message), BUCKET, KEY_NAME, KEY),
    "open_seekable_encrypted": lambda message, folder: open_seekable_encrypted(
        stored(message), BUCKET, KEY_NAME, KEY
    ),
}


@pytest.fixture(params=READERS)
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Reader:
    message = await sealed(PLAINTEXT, suite=UNSIGNED, frame_length=300)
    return READERS[request.param](message, tmp_path)


async def plaintext_of(content: bytes) -> bytes:
    return content if content == PLAINTEXT else (await decrypt(content, KEY)).plaintext


@pytest.mark.parametrize("n", [1, 299, 300, 301, 10_000])
async def test_read_returns_up_to_n_bytes_and_none_at_the_end_only(opened: Reader, n: int) -> None:
    async with opened as reader:
        parts = []
        while part := await reader.read(n):
            parts.append(part)
            assert len(part) <= n
        assert await reader.read(n) == await reader.read() == await reader.read(-1) == b""
    assert await plaintext_of(b"".join(parts)) == PLAINTEXT


async def test_read_without_a_number_returns_all_that_remains(opened: Reader) -> None:
    async with opened as reader:
        assert await reader.read(0) == b""
        content = await reader.readexactly(1)
        assert reader.tell() == 1
        content += await reader.read()
    assert await plaintext_of(content) == PLAINTEXT


async def test_readexactly_loses_nothing_at_the_end(opened: Reader) -> None:
    async with opened as reader:
        assert await reader.readexactly(0) == b""
        content = await reader.readexactly(1000)
        with pytest.raises(IncompleteReadError) as caught:
            await reader.readexactly(1_000_000)
        assert reader.tell() == len(content) == 1000
        rest = await reader.read()
        assert (caught.value.partial, caught.value.expected) == (rest, 1_000_000)
        with pytest.raises(IncompleteReadError):
            await reader.readexactly(1)
        assert await reader.readexactly(0) == b""
    assert await plaintext_of(content + rest) == PLAINTEXT


async def test_a_number_is_an_int(opened: Reader) -> None:
    async with opened as reader:
        for wrong in ("1", 1.0, True, None):
            for method in (reader.read, reader.readexactly):
                with pytest.raises(TypeError, match=r"^n must be an int, not "):
                    await method(wrong)
        with pytest.raises(ValueError, match=r"^n is -1; it must be 0 or more$"):
            await reader.readexactly(-1)
        assert await plaintext_of(await reader.read()) == PLAINTEXT
