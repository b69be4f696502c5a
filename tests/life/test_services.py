"""Streams and providers in web services: start and stop, and clients that hang up half-way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import httpx
import psutil
import pytest
from aiohttp import web
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message

import aioencrypt
from aioencrypt import (
    AWSConnection,
    KMSMasterKeyProvider,
    ProviderClosedError,
    decrypt,
    encrypt,
    encrypt_stream,
)
from aioencrypt.testing import InMemoryKMS
from aioencrypt.testing.kms import run_in_thread
from tests.support.cancelling import settle
from tests.support.examples import load
from tests.support.streaming import (
    KEY,
    assert_idle,
    on_asyncio_and_uvloop,
    plaintext_of,
    sealed,
    threads_at_work,
)

pytestmark = pytest.mark.anyio

PLAINTEXT = plaintext_of(3_000_000)
REGIONS = ("us-east-1", "eu-west-1")

upload_service = load("upload_service")
starlette_service = load("starlette_service")


@pytest.fixture(scope="module")
def kms() -> InMemoryKMS:
    return InMemoryKMS()


@pytest.fixture(scope="module")
def url(kms: InMemoryKMS) -> Iterator[str]:
    with run_in_thread(kms) as url:
        yield url


@pytest.fixture
def provider(kms: InMemoryKMS, url: str) -> KMSMasterKeyProvider:
    return KMSMasterKeyProvider(
        [kms.create_key(region=region) for region in REGIONS], connection=AWSConnection(kms=url)
    )


async def assert_closed(provider: KMSMasterKeyProvider) -> None:
    with pytest.raises(ProviderClosedError):
        await encrypt(b"abc", provider)


def open_files(folder: Path) -> list[str]:
    return [file.path for file in psutil.Process().open_files() if Path(file.path).parent == folder]


# Start and stop


@on_asyncio_and_uvloop
async def test_a_provider_in_cleanup_ctx(provider: KMSMasterKeyProvider, tmp_path: Path) -> None:
    app = upload_service.make_app(provider, tmp_path)
    runner = web.AppRunner(app)
    await assert_closed(provider)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

            async def both_ways(name: str) -> None:
                async with session.put(f"/files/{name}", data=BytesIO(PLAINTEXT)) as sent:
                    assert sent.status == 201
                async with session.get(f"/files/{name}") as received:
                    assert await received.read() == PLAINTEXT

            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(both_ways, f"file-{number}")
    finally:
        # Another task than the one that started.
        await asyncio.create_task(runner.cleanup())
    await assert_closed(provider)
    assert open_files(tmp_path) == []
    await settle()
    assert_idle()


class Lifespan:
    """Drives the lifespan of an ASGI application in a task of its own, as servers do."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        self._received: asyncio.Queue[Message] = asyncio.Queue()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}

        async def serve() -> None:
            await self._app(scope, self._sent.get, self._received.put)

        task = asyncio.create_task(serve())
        await self._say("startup")
        try:
            yield
        finally:
            await self._say("shutdown")
            await task

    async def _say(self, what: str) -> None:
        await self._sent.put({"type": f"lifespan.{what}"})
        answer = await self._received.get()
        assert answer["type"] == f"lifespan.{what}.complete", answer


@on_asyncio_and_uvloop
async def test_a_provider_in_a_starlette_lifespan(provider: KMSMasterKeyProvider, tmp_path: Path) -> None:
    app = starlette_service.make_app(provider, tmp_path)
    await assert_closed(provider)
    transport = httpx.ASGITransport(app)
    async with (
        Lifespan(app).running(),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        assert (await client.put("/files/name", content=PLAINTEXT)).status_code == 201
        assert (await client.get("/files/name")).content == PLAINTEXT
    await assert_closed(provider)
    assert_idle()
    async with Lifespan(starlette_service.make_app(provider, tmp_path)).running():
        message = (tmp_path / "name").read_bytes()
        assert (await decrypt(message, provider)).plaintext == PLAINTEXT
    await assert_closed(provider)


# Clients that hang up


class Service:
    """A service on a socket, with a look at how its handlers end."""

    def __init__(self, folder: Path, *, cancels: bool) -> None:
        self.app = web.Application(client_max_size=0, middlewares=[self._watch])
        self.app.router.add_put("/stream", self._stream)
        self.app.router.add_put("/writer", self._writer)
        self.app.router.add_get("/file", self._download)
        self.folder = folder
        self.cancels = cancels
        self.ended: list[BaseException | None] = []
        self.end = anyio.Event()

    async def _stream(self, request: web.Request) -> web.Response:
        with (self.folder / "partial").open("wb") as file:
            try:
                async with encrypt_stream(request.content, KEY) as stream:
                    async for chunk in stream:
                        file.write(chunk)
            except BaseException:
                (self.folder / "partial").unlink()
                raise
        return web.Response()

    async def _writer(self, request: web.Request) -> web.Response:
        async with aioencrypt.open(self.folder / "file", "wb", provider=KEY) as writer:
            async for chunk in request.content.iter_any():
                await writer.write(chunk)
        return web.Response()

    async def _download(self, request: web.Request) -> web.StreamResponse:
        async with aioencrypt.open(self.folder / "file", "rb", provider=KEY) as stream:
            response = web.StreamResponse()
            await response.prepare(request)
            async for chunk in stream:
                await response.write(chunk)
        return response

    @web.middleware
    async def _watch(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
        except BaseException as error:
            self.ended.append(error)
            raise
        else:
            self.ended.append(None)
            return response
        finally:
            self.end.set()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        runner = web.AppRunner(self.app, handler_cancellation=self.cancels)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            reader, writer = await asyncio.open_connection("127.0.0.1", runner.addresses[0][1])
            yield reader, writer
            writer.transport.abort()
            with anyio.fail_after(20):
                await self.end.wait()
            await settle()
        finally:
            writer.transport.abort()
            await runner.cleanup()
        await settle()

    def assert_ended_by_the_client(self, *, writing: bool = False) -> None:
        assert len(self.ended) == 1
        kinds: tuple[type[BaseException], ...] = (asyncio.CancelledError,) if self.cancels else ()
        if writing or not self.cancels:  # a write may fail before aiohttp cancels the handler
            kinds += (ConnectionError, aiohttp.ClientError, web.RequestPayloadError)
        assert isinstance(self.ended[0], kinds)


cancelling = pytest.mark.parametrize("cancels", [True, False], ids=["cancelled handler", "failing handler"])


uploads = pytest.mark.parametrize("path", ["/stream", "/writer"])


def upload_of(path: str, sent: int) -> bytes:
    """Return the first bytes of a request."""
    head = f"PUT {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(PLAINTEXT)}\r\n\r\n"
    return head.encode() + PLAINTEXT[:sent]


@cancelling
@uploads
@pytest.mark.parametrize("sent", [0, 10, 1_000_000])
@on_asyncio_and_uvloop
async def test_a_client_that_hangs_up_in_an_upload(
    cancels: bool, path: str, sent: int, tmp_path: Path
) -> None:
    service = Service(tmp_path, cancels=cancels)
    async with service.connected() as (_, writer):
        writer.write(upload_of(path, sent))
        await writer.drain()
        while not any(tmp_path.iterdir()):  # until the handler has opened its file
            await asyncio.sleep(0)
    service.assert_ended_by_the_client()
    assert [*tmp_path.iterdir()] == []
    assert open_files(tmp_path) == []
    assert_idle()


@cancelling
@pytest.mark.parametrize("received", [100, 100_000])
@on_asyncio_and_uvloop
async def test_a_client_that_hangs_up_in_a_download(cancels: bool, received: int, tmp_path: Path) -> None:
    plaintext = PLAINTEXT * 6  # more than sockets buffer
    (tmp_path / "file").write_bytes(await sealed(plaintext))
    service = Service(tmp_path, cancels=cancels)
    async with service.connected() as (reader, writer):
        writer.write(b"GET /file HTTP/1.1\r\nHost: test\r\n\r\n")
        await reader.readexactly(received)
    service.assert_ended_by_the_client(writing=True)
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]
    assert open_files(tmp_path) == []
    assert_idle()


@pytest.mark.parametrize("chunks", [0, 1, 5])
@on_asyncio_and_uvloop
async def test_a_client_that_hangs_up_on_starlette(chunks: int, tmp_path: Path) -> None:
    app = starlette_service.make_app(KEY, tmp_path)
    body: list[Message] = [
        {"type": "http.request", "body": PLAINTEXT[:100_000], "more_body": True} for _ in range(chunks)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return body.pop() if body else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "PUT", "path": "/files/name", "headers": [], "query_string": b""}
    async with app.router.lifespan_context(app):
        with pytest.raises(ClientDisconnect):
            await app(scope, receive, send)
    assert all(message.get("status", 500) == 500 for message in sent)
    assert [*tmp_path.iterdir()] == []
    assert open_files(tmp_path) == []
    assert_idle()


@uploads
@on_asyncio_and_uvloop
async def test_a_service_that_stops_in_the_middle_of_an_upload(path: str, tmp_path: Path) -> None:
    """aiohttp gives its handlers time, and then cancels all tasks that are left."""
    service = Service(tmp_path, cancels=False)
    runner = web.AppRunner(service.app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    _, writer = await asyncio.open_connection("127.0.0.1", runner.addresses[0][1])
    writer.write(upload_of(path, 1_000_000))
    while not any(tmp_path.iterdir()):
        await asyncio.sleep(0)
    await runner.cleanup()
    await service.end.wait()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    while threads_at_work():
        await asyncio.sleep(0)
    await settle()
    assert [*tmp_path.iterdir()] == []
    assert open_files(tmp_path) == []
    assert_idle()
