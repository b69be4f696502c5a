"""Everything that docs/streams.md lists as a source, as a type checker sees it."""

from __future__ import annotations

import asyncio
import gzip
import io
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import aiohttp
import anyio
import httpx
from aiohttp import web
from anyio.abc import ByteReceiveStream
from starlette.datastructures import UploadFile
from starlette.requests import Request

from aioencrypt import (
    DecryptStream,
    EncryptStream,
    RawAESMasterKey,
    SeekableDecryptStream,
    decrypt_stream,
    encrypt_stream,
    open_seekable,
)
from aioencrypt.streams import Source

key = RawAESMasterKey("tests", "typing", wrapping_key=bytes(32))


async def chunks() -> AsyncIterator[bytes]:
    yield b""


async def files(path: Path, file: IO[bytes], binary: BinaryIO) -> None:
    sources: list[Source] = [b"", bytearray(), memoryview(b""), chunks(), file, binary, io.BytesIO()]
    with gzip.open(path) as unpacked, tempfile.SpooledTemporaryFile() as spooled, path.open("rb") as opened:
        sources += [unpacked, spooled, opened, gzip.GzipFile(path), tempfile.TemporaryFile()]
        encrypt_stream(unpacked, key)
        encrypt_stream(spooled, key)
        encrypt_stream(opened, key)
        decrypt_stream(file, key)
    async with await anyio.open_file(path, "rb") as asynchronous:
        encrypt_stream(asynchronous, key)


async def frameworks(
    request: web.Request, starlette: Request, upload: UploadFile, response: aiohttp.ClientResponse
) -> None:
    encrypt_stream(request, key)
    encrypt_stream(request.content, key)
    encrypt_stream(starlette, key)
    encrypt_stream(starlette.stream(), key)
    encrypt_stream(upload, key)
    decrypt_stream(response, key)
    decrypt_stream(response.content, key)
    async with httpx.AsyncClient() as client, client.stream("GET", "https://example.com") as answer:
        decrypt_stream(answer, key)
        decrypt_stream(answer.aiter_bytes(), key)


async def streams(reader: asyncio.StreamReader, receiving: ByteReceiveStream, body: Any) -> None:
    encrypt_stream(reader, key)
    encrypt_stream(receiving, key)
    encrypt_stream(body, key)
    writing: EncryptStream = encrypt_stream(b"", key)
    reading: DecryptStream = decrypt_stream(writing, key)
    encrypt_stream(reading, key)
    seekable: SeekableDecryptStream = open_seekable("message.aws", key)
    encrypt_stream(seekable, key)


def wrong() -> None:
    encrypt_stream("text", key)  # type: ignore[arg-type]
    encrypt_stream(io.StringIO(), key)  # type: ignore[arg-type]
    encrypt_stream([b"a"], key)  # type: ignore[arg-type]
