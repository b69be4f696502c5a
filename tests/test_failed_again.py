"""Whatever failed before fails again, and its traceback does not grow with each call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

import aioencrypt
from aioencrypt import DecryptWriter, Release, decrypt_stream, encrypt_stream, open_seekable
from aioencrypt.format import MessageDecryptor
from aioencrypt.rewrap import rewrap_stream
from tests.support.secrets import errors_of
from tests.support.streaming import KEY, SIGNED, UNSIGNED, flipped, on_asyncio, plaintext_of, sealed

pytestmark = [pytest.mark.anyio, on_asyncio]

TIMES = 200
Call = Callable[[], Awaitable[object]]


async def failing() -> AsyncIterator[bytes]:
    yield b"text"
    raise OSError("the source fails")


async def spoiled() -> bytes:
    return flipped(await sealed(plaintext_of(5000), UNSIGNED, frame_length=1000), -2500)


async def machine(folder: Path) -> AsyncIterator[Call]:
    decryptor = MessageDecryptor()
    decryptor.receive(b"\x07" * 100)

    async def call() -> object:
        return decryptor.next_event()

    yield call


async def decrypting(folder: Path) -> AsyncIterator[Call]:
    stream = decrypt_stream(await spoiled(), KEY)
    await stream.__aenter__()
    yield stream.read
    await stream.aclose()


async def verified(folder: Path) -> AsyncIterator[Call]:
    stream = decrypt_stream(await spoiled(), KEY, release=Release.VERIFIED)
    await stream.__aenter__()
    yield lambda: anext(stream)
    await stream.aclose()


async def pushing(folder: Path) -> AsyncIterator[Call]:
    async def sink(data: bytes) -> None: ...

    writer = DecryptWriter(sink, KEY)
    await writer.__aenter__()
    message = await spoiled()
    yield lambda: writer.write(message)
    await writer.abort()


async def rewrapping(folder: Path) -> AsyncIterator[Call]:
    stream = rewrap_stream(await spoiled(), KEY, new_provider=KEY, verify=True)
    await stream.__aenter__()
    yield stream.read
    await stream.aclose()


async def encrypting(folder: Path) -> AsyncIterator[Call]:
    stream = encrypt_stream(failing(), KEY, algorithm_suite=SIGNED)
    await stream.__aenter__()
    yield stream.read
    await stream.aclose()


async def seeking(folder: Path) -> AsyncIterator[Call]:
    stream = open_seekable(await spoiled(), KEY)
    await stream.__aenter__()
    yield lambda: stream.read_at(0, 5000)
    await stream.aclose()


async def writing(folder: Path) -> AsyncIterator[Call]:
    writer = aioencrypt.open(folder / "message", "wb", provider=KEY, plaintext_length=2)
    await writer.__aenter__()
    yield lambda: writer.write(b"text")
    await writer.abort()


def length(error: BaseException) -> int:
    """Count the entries of all tracebacks of an error."""
    count = 0
    for one in errors_of(error):
        trace = one.__traceback__
        while trace:
            count, trace = count + 1, trace.tb_next
    return count


@pytest.mark.parametrize(
    "make", [machine, decrypting, verified, pushing, rewrapping, encrypting, seeking, writing]
)
async def test_failing_again_keeps_tracebacks_short(
    make: Callable[[Path], AsyncIterator[Call]], tmp_path: Path
) -> None:
    async for call in make(tmp_path):
        lengths = []
        for _ in range(TIMES):
            with pytest.raises(Exception) as caught:  # noqa: PT011 (which one, other tests tell)
                await call()
            lengths.append(length(caught.value))
        assert max(lengths[3:]) <= max(lengths[:3])
