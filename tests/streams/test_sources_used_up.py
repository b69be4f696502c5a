"""Every kind of source used twice: the second use gives the same bytes, or fails, and is never empty."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import aiofiles
import anyio
import httpx
import pytest
from anyio.streams.file import FileReadStream
from botocore.response import StreamingBody
from starlette.datastructures import UploadFile
from starlette.requests import Request

from aioencrypt import StreamError, decrypt, decrypt_stream, encrypt, encrypt_stream, open_seekable
from tests.support.streaming import KEY, UNSIGNED, in_chunks, on_asyncio, sealed

pytestmark = [pytest.mark.anyio, on_asyncio]

PLAINTEXT = b"abc" * 1000

Make = Callable[[AsyncExitStack, Path], Awaitable[Any]]


class Iterator:
    def __init__(self) -> None:
        self.file = io.BytesIO(PLAINTEXT)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not (chunk := self.file.read(1000)):
            raise StopAsyncIteration
        return chunk


class Reader:
    def __init__(self) -> None:
        self.file = io.BytesIO(PLAINTEXT)

    async def read(self, n: int = -1) -> bytes:
        return self.file.read(n)


class Unhashable(Reader):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashable)


async def stream_reader(stack: AsyncExitStack, path: Path) -> Any:
    reader = asyncio.StreamReader()
    reader.feed_data(PLAINTEXT)
    reader.feed_eof()
    return reader


async def object_stream(stack: AsyncExitStack, path: Path) -> Any:
    send, receive = anyio.create_memory_object_stream[bytes](10)
    stack.enter_context(receive)
    with send:
        await send.send(PLAINTEXT)
    return receive


async def starlette_request(stack: AsyncExitStack, path: Path) -> Any:
    async def receive() -> Any:
        return {"type": "http.request", "body": PLAINTEXT, "more_body": False}

    return Request({"type": "http", "method": "PUT", "headers": []}, receive)


async def httpx_response(stack: AsyncExitStack, path: Path) -> Any:
    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncGenerator[bytes, None]:
            yield PLAINTEXT

    return httpx.Response(200, stream=Body())


async def seekable(stack: AsyncExitStack, path: Path) -> Any:
    return await stack.enter_async_context(open_seekable(await sealed(PLAINTEXT, UNSIGNED), KEY))


async def decrypting(stack: AsyncExitStack, path: Path) -> Any:
    return await stack.enter_async_context(decrypt_stream(await sealed(PLAINTEXT), KEY))


async def encrypting(stack: AsyncExitStack, path: Path) -> Any:
    return await stack.enter_async_context(encrypt_stream(PLAINTEXT, KEY))


async def as_anyio(stack: AsyncExitStack, path: Path) -> Any:
    return (await decrypting(stack, path)).as_anyio()


async def aiofile(stack: AsyncExitStack, path: Path) -> Any:
    return await stack.enter_async_context(aiofiles.open(path, "rb"))


async def anyio_file(stack: AsyncExitStack, path: Path) -> Any:
    return await stack.enter_async_context(await anyio.open_file(path, "rb"))


async def anyio_file_stream(stack: AsyncExitStack, path: Path) -> Any:
    return await stack.enter_async_context(await FileReadStream.from_path(path))


async def plain_file(stack: AsyncExitStack, path: Path) -> Any:
    return stack.enter_context(path.open("rb"))


def simply(make: Callable[[], Any]) -> Make:
    async def made(stack: AsyncExitStack, path: Path) -> Any:
        return make()

    return made


KINDS: dict[str, Make] = {
    "bytes": simply(lambda: PLAINTEXT),
    "bytearray": simply(lambda: bytearray(PLAINTEXT)),
    "memoryview": simply(lambda: memoryview(PLAINTEXT)),
    "generator": simply(lambda: in_chunks(PLAINTEXT, 100)),
    "iterator": simply(Iterator),
    "reader": simply(Reader),
    "unhashable": simply(Unhashable),
    "BytesIO": simply(lambda: io.BytesIO(PLAINTEXT)),
    "boto3": simply(lambda: StreamingBody(io.BytesIO(PLAINTEXT), len(PLAINTEXT))),  # type: ignore[no-untyped-call,unused-ignore]
    "upload": simply(lambda: UploadFile(io.BytesIO(PLAINTEXT))),
    "file": plain_file,
    "aiofiles": aiofile,
    "anyio-file": anyio_file,
    "anyio-file-stream": anyio_file_stream,
    "object-stream": object_stream,
    "stream-reader": stream_reader,
    "starlette": starlette_request,
    "httpx": httpx_response,
    "seekable": seekable,
    "decrypt": decrypting,
    "encrypt": encrypting,
    "as-anyio": as_anyio,
}

# What the owner of a source raises itself.
ERRORS = (StreamError, RuntimeError, httpx.StreamConsumed)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_second_use_of_a_source_is_never_an_empty_message(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(PLAINTEXT)
    async with AsyncExitStack() as stack:
        source = await KINDS[kind](stack, path)
        message, _ = await encrypt(source, KEY)
        first = (await decrypt(message, KEY)).plaintext
        assert first
        try:
            again, _ = await encrypt(source, KEY)
        except ERRORS:
            return
        assert (await decrypt(again, KEY)).plaintext == first


@pytest.mark.parametrize(
    "kind", ["BytesIO", "upload", "file", "aiofiles", "anyio-file", "seekable", "decrypt", "encrypt", "boto3"]
)
async def test_a_source_that_the_caller_read_before_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(PLAINTEXT)
    async with AsyncExitStack() as stack:
        source = await KINDS[kind](stack, path)
        read = source.read()
        assert await read if not isinstance(read, bytes) else read
        with pytest.raises(StreamError, match="read to its end"):
            await encrypt(source, KEY)


async def test_a_file_is_used_again_after_seek() -> None:
    file = io.BytesIO(PLAINTEXT)
    for _ in range(3):
        message, _ = await encrypt(file, KEY)
        assert (await decrypt(message, KEY)).plaintext == PLAINTEXT
        file.seek(0)


@pytest.mark.parametrize("kind", [io.BytesIO, lambda: in_chunks(b"", 1), asyncio.StreamReader])
async def test_an_empty_source_is_an_empty_message(kind: Callable[[], Any]) -> None:
    source = kind()
    if isinstance(source, asyncio.StreamReader):
        source.feed_eof()
    message, _ = await encrypt(cast(Any, source), KEY)
    assert (await decrypt(message, KEY)).plaintext == b""


async def test_a_seekable_stream_is_iterated_again_only_after_seek() -> None:
    async with open_seekable(await sealed(PLAINTEXT, UNSIGNED), KEY) as stream:
        assert b"".join([chunk async for chunk in stream]) == PLAINTEXT
        with pytest.raises(StreamError, match=r"iterated to its end: seek\(0\)"):
            aiter(stream)
        stream.seek(0)
        assert b"".join([chunk async for chunk in stream]) == PLAINTEXT
