"""Slow clients, and clients that hang up: with aiohttp and with Starlette, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web
from starlette.requests import ClientDisconnect

from aioencrypt import EncryptStream
from tests.support.cancelling import settle
from tests.support.http_services import Pieces, Ranges, Service
from tests.support.streaming import (
    UNSIGNED,
    assert_idle,
    collected,
    on_asyncio_and_uvloop,
    plaintext_of,
    sealed,
)

pytestmark = [pytest.mark.anyio, on_asyncio_and_uvloop]

LENGTH = 32 * 1024 * 1024
# What sockets and transports hold back, in both kernels' buffers at their largest.
BUFFERED = 12 * 1024 * 1024
# Enough turns of the loop for a server that nothing holds back.
TURNS = 3000
on_both = pytest.mark.parametrize("kind", ["aiohttp", "asgi"])
ranged = pytest.mark.parametrize("make", [Pieces, Ranges], ids=["plain source", "ranges"])

clean = pytest.fixture(autouse=True, scope="module")(collected)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    connection = socket.socket()
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        connection.setsockopt(socket.SOL_SOCKET, option, 64 * 1024)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", int(url.split(":")[2][:-1])))
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def large_message() -> bytes:
    return await sealed(bytes(LENGTH), UNSIGNED, frame_length=64 * 1024)


# Slow clients


@on_both
@ranged
async def test_a_client_that_reads_slowly_stops_the_reading_of_the_source(kind: str, make: Any) -> None:
    source = make(await large_message())
    async with Service(lambda: source).on(kind) as url, connected(url) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        received = 0
        await turns()
        assert 0 < source.given <= BUFFERED
        while chunk := await reader.read(1024 * 1024):
            received += len(chunk)
            assert source.given <= received + BUFFERED
    assert received >= LENGTH
    assert source.given >= LENGTH
    assert source.closed == 1


@on_both
async def test_a_service_that_stores_slowly_stops_the_client(kind: str) -> None:
    waiting, go_on = asyncio.Event(), asyncio.Event()
    stored = sent = 0

    async def store(stream: EncryptStream) -> None:
        nonlocal stored
        async for chunk in stream:
            stored += len(chunk)
            waiting.set()
            await go_on.wait()

    async def send(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < LENGTH:
            writer.write(bytes(64 * 1024))
            await writer.drain()
            sent += 64 * 1024

    service = Service(store=store)
    async with service.on(kind) as url, connected(url) as (reader, writer):
        writer.write(f"PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: {LENGTH}\r\n\r\n".encode())
        sending = asyncio.create_task(send(writer))
        await waiting.wait()
        await turns()
        assert sent <= BUFFERED
        go_on.set()
        await sending
        assert b" 200 OK" in await reader.readline()
    assert stored > LENGTH


# Clients that hang up


@on_both
@ranged
@pytest.mark.parametrize("cancels", [False, True])
@pytest.mark.parametrize(
    "asked", ["GET / HTTP/1.1\r\n\r\n", 'POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"id": 1}']
)
async def test_a_client_that_hangs_up_in_a_download(kind: str, make: Any, cancels: bool, asked: str) -> None:
    source = make(await large_message())
    service = Service(lambda: source, source_of=lambda _: source, handler_cancellation=cancels)
    async with service.on(kind) as url:
        async with connected(url) as (reader, writer):
            writer.write(asked.replace("\r\n", "\r\nHost: test\r\n", 1).encode())
            await reader.readexactly(100_000)
        await service.ended.wait()
        assert source.given <= BUFFERED
        assert source.closed == 1
    assert_ended_by_the_client(service, kind, cancels)
    await settle()
    assert_idle()


def assert_ended_by_the_client(service: Service, kind: str, cancels: bool) -> None:
    if kind == "asgi":
        assert service.errors == []
    else:
        [error] = service.errors
        cancelled = cancels and isinstance(error, asyncio.CancelledError)
        assert cancelled or isinstance(error, ConnectionResetError)


@on_both
async def test_a_client_that_hangs_up_while_the_source_is_waited_for(kind: str) -> None:
    """Nothing is written meanwhile, so that nothing fails: the servers tell of it in other ways."""

    class Stalling(Pieces):
        async def __anext__(self) -> bytes:
            if self.given >= 500_000:
                await asyncio.sleep(1000)
            return await super().__anext__()

    source = Stalling(await large_message())
    service = Service(lambda: source, handler_cancellation=True)
    async with service.on(kind) as url:
        async with connected(url) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            await reader.readexactly(300_000)
        await service.ended.wait()
        assert source.closed == 1
    assert_ended_by_the_client(service, kind, cancels=True)
    await settle()
    assert_idle()


@on_both
async def test_a_file_is_closed_when_the_client_hangs_up(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "message"
    path.write_bytes(await large_message())
    service = Service(lambda: path)
    async with service.on(kind) as url:
        async with connected(url) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            await reader.readexactly(100_000)
            assert str(path) in [file.path for file in psutil.Process().open_files()]
        await service.ended.wait()
        assert str(path) not in [file.path for file in psutil.Process().open_files()]


@on_both
@pytest.mark.parametrize("head", ["Content-Length: 3000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("cancels", [False, True])
async def test_a_client_that_hangs_up_in_an_upload(kind: str, head: str, cancels: bool) -> None:
    stored: list[bytes] = []
    started = asyncio.Event()
    complete = False

    async def store(stream: EncryptStream) -> None:
        nonlocal complete
        async for chunk in stream:
            stored.append(chunk)
            started.set()
        complete = True

    service = Service(store=store, handler_cancellation=cancels)
    async with service.on(kind) as url:
        async with connected(url) as (_, writer):
            body = b"30000\r\n" + bytes(0x30000) + b"\r\n" if "chunked" in head else bytes(200_000)
            writer.write(f"PUT / HTTP/1.1\r\nHost: test\r\n{head}\r\n\r\n".encode() + body)
            await started.wait()
        await service.ended.wait()
    [error] = service.errors
    if kind == "asgi":
        assert type(error) is ClientDisconnect
    elif cancels:
        assert isinstance(error, asyncio.CancelledError)
    else:
        assert isinstance(error, ConnectionError | web.HTTPBadRequest)
    assert not complete
    await settle()
    assert_idle()


# Many at once


@on_both
async def test_many_clients_at_once(kind: str) -> None:
    plaintext = plaintext_of(1_000_000)
    message = await sealed(plaintext, UNSIGNED)
    service = Service(lambda: message)
    async with service.on(kind) as url, aiohttp.ClientSession() as session:

        async def part(number: int) -> None:
            start = number * 9001
            headers = {"Range": f"bytes={start}-{start + 50_000}"}
            async with session.get(url, headers=headers) as response:
                assert response.status == 206
                assert await response.read() == plaintext[start : start + 50_001]

        await asyncio.gather(*map(part, range(100)))
    assert_idle()
