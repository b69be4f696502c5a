"""What the tests of reading from S3 share: an object, both ways to read it, errors of connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aioencrypt import DecryptStream, SeekableDecryptStream
from aioencrypt.integrations.s3 import open_encrypted, open_seekable_encrypted, ranges as s3_ranges
from tests.support.memory_s3 import BUCKET, KEY_NAME, MemoryS3
from tests.support.streaming import KEY, UNSIGNED, plaintext_of, sealed

FRAME = 10_000
PLAINTEXT = plaintext_of(20 * FRAME + 100)
OTHER = PLAINTEXT[::-1]


async def stored(plaintext: bytes = PLAINTEXT, suite: Any = UNSIGNED, **options: Any) -> MemoryS3:
    client = MemoryS3()
    client.put(await sealed(plaintext, suite, **{"frame_length": FRAME} | options))
    return client


def opened(client: MemoryS3, **options: Any) -> DecryptStream:
    return open_encrypted(client, BUCKET, KEY_NAME, KEY, **options)


def seekable(client: MemoryS3, **options: Any) -> SeekableDecryptStream:
    return open_seekable_encrypted(client, BUCKET, KEY_NAME, KEY, **options)


async def read(client: MemoryS3, **options: Any) -> bytes:
    async with opened(client, **options) as stream:
        return await stream.read()


async def read_seekable(client: MemoryS3, **options: Any) -> bytes:
    async with seekable(client, **options) as stream:
        return await stream.read()


@pytest.fixture
def short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the object in many ranges: of 20,000, 40,000, 40,000, ... bytes."""
    monkeypatch.setattr(s3_ranges, "_FIRST_RANGE", 2 * FRAME)
    monkeypatch.setattr(s3_ranges, "_LONGEST_RANGE", 4 * FRAME)


def ranges(client: MemoryS3) -> list[str | None]:
    return [call.get("Range") for call in client.called("get")]


Read = Callable[..., Awaitable[bytes]]
each_kind = pytest.mark.parametrize("read_all", [read, read_seekable], ids=["stream", "seekable"])


def reset() -> ConnectionError:
    return ConnectionResetError("by peer")


def named(name: str, base: str = "Exception") -> Exception:
    """Return an error of a library that is not ours, known by the name of its family."""
    family = type(base, (Exception,), {})
    error: Exception = type(name, (family,), {})("as told")
    return error
