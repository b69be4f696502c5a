"""Sources from a network: each library serves for real, its handler hands the source to the test."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, cast

import aiobotocore.session
import aiohttp
import anyio
import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from anyio.lowlevel import checkpoint
from botocore.response import StreamingBody
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aioencrypt import StreamError, decrypt, encrypt
from aioencrypt.integrations.aiohttp import UploadReader
from aioencrypt.streams import Source
from tests.support.moto import moto_server
from tests.support.streaming import KEY, in_chunks, on_asyncio, on_asyncio_and_uvloop, plaintext_of

PLAINTEXT = plaintext_of(3_000_001)

Factory = Callable[[bytes], AbstractAsyncContextManager[Source]]


async def check_round_trip(make: Factory, plaintext: bytes = PLAINTEXT) -> None:
    """Encrypt from a source and decrypt from another of its kind."""
    async with make(plaintext) as source:
        message, _ = await encrypt(source, KEY)
    async with make(message) as source:
        decrypted, _ = await decrypt(source, KEY)
    assert decrypted == plaintext


# asyncio


@asynccontextmanager
async def as_asyncio_reader(data: bytes) -> AsyncIterator[Source]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for chunk in in_chunks(data, 100_000):
            writer.write(chunk)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    yield reader
    assert not writer.is_closing()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@pytest.mark.anyio
@on_asyncio_and_uvloop
async def test_asyncio_stream_reader() -> None:
    await check_round_trip(as_asyncio_reader)


# aiohttp, as a server


class Handler:
    """A handler that hands a source to the test, and answers when the test is done with it."""

    def __init__(self, pick: Callable[[web.Request], Awaitable[Any]]) -> None:
        self.pick = pick
        self.picked: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.done = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        try:
            self.picked.set_result(await self.pick(request))
        except Exception as error:
            self.picked.set_exception(error)
        await self.done.wait()
        return web.Response(text="fine")


def aiohttp_server(pick: Callable[[web.Request], Awaitable[Any]], multipart: bool = False) -> Factory:
    @asynccontextmanager
    async def make(data: bytes) -> AsyncIterator[Source]:
        handler = Handler(pick)
        app = web.Application()
        app.router.add_put("/", handler.handle)
        body: Any = in_chunks(data, 70_000)
        if multipart:
            form = aiohttp.MultipartWriter()
            form.append(body)
            body = form
        async with TestServer(app) as server, aiohttp.ClientSession() as session:
            answer = asyncio.create_task(session.put(server.make_url("/"), data=body))
            await asyncio.wait((answer, handler.picked), return_when=asyncio.FIRST_COMPLETED)
            assert handler.picked.done(), await answer
            try:
                yield handler.picked.result()
            finally:
                handler.done.set()
            async with await answer as response:
                assert await response.text() == "fine"

    return make


async def content(request: web.Request) -> Any:
    return request.content


async def request_itself(request: web.Request) -> Any:
    return request


async def first_part(request: web.Request) -> Any:
    return await (await request.multipart()).next()


@pytest.mark.anyio
@on_asyncio_and_uvloop
@pytest.mark.parametrize("pick", [content, request_itself])
async def test_aiohttp_request(pick: Callable[[web.Request], Awaitable[Any]]) -> None:
    await check_round_trip(aiohttp_server(pick))


@pytest.mark.anyio
@on_asyncio_and_uvloop
async def test_aiohttp_body_part_reader() -> None:
    await check_round_trip(aiohttp_server(first_part, multipart=True))


# aiohttp, as a client


@asynccontextmanager
async def as_aiohttp_response(data: bytes) -> AsyncIterator[Any]:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=in_chunks(data, 50_000))

    app = web.Application()
    app.router.add_get("/", handler)
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession() as session,
        session.get(server.make_url("/")) as response,
    ):
        yield response
        assert response.content.at_eof()
        assert response.status == 200


@asynccontextmanager
async def as_aiohttp_response_content(data: bytes) -> AsyncIterator[Source]:
    async with as_aiohttp_response(data) as response:
        yield response.content


@pytest.mark.anyio
@on_asyncio_and_uvloop
@pytest.mark.parametrize("make", [as_aiohttp_response, as_aiohttp_response_content])
async def test_aiohttp_response(make: Factory) -> None:
    await check_round_trip(make)


# Starlette, called by httpx


def starlette_app(pick: Callable[[Request], Awaitable[Any]], multipart: bool = False) -> Factory:
    @asynccontextmanager
    async def make(data: bytes) -> AsyncIterator[Source]:
        picked: list[Any] = []
        arrived, done = anyio.Event(), anyio.Event()

        async def handler(request: Request) -> Response:
            picked.append(await pick(request))
            arrived.set()
            await done.wait()
            return Response("fine")

        async def call() -> None:
            transport = httpx.ASGITransport(Starlette(routes=[Route("/", handler, methods=["PUT"])]))
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                body: dict[str, Any] = (
                    {"files": {"file": ("name", data)}} if multipart else {"content": in_chunks(data, 70_000)}
                )
                assert (await client.put("/", **body)).text == "fine"

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await arrived.wait()
            yield picked[0]
            done.set()

    return make


async def starlette_request(request: Request) -> Any:
    return request


async def starlette_stream(request: Request) -> Any:
    return request.stream()


async def upload(request: Request) -> Any:
    form = await request.form()
    file = form["file"]
    assert isinstance(file, UploadFile)
    return file


@pytest.mark.anyio
@pytest.mark.parametrize("pick", [starlette_request, starlette_stream])
async def test_starlette_request(pick: Callable[[Request], Awaitable[Any]]) -> None:
    await check_round_trip(starlette_app(pick))


@pytest.mark.anyio
@pytest.mark.parametrize("length", [1000, 3_000_000], ids=["in-memory", "on-disk"])
async def test_starlette_upload_file(length: int) -> None:
    files: list[UploadFile] = []

    async def pick(request: Request) -> Any:
        files.append(await upload(request))
        return files[-1]

    await check_round_trip(starlette_app(pick, multipart=True), plaintext_of(length))
    assert [file.file.closed for file in files] == [False, False]
    for file in files:
        await file.close()


# httpx, from a socket


@asynccontextmanager
async def as_httpx_response(data: bytes) -> AsyncIterator[Source]:
    async with AsyncExitStack() as stack:
        listeners = await stack.enter_async_context(await anyio.create_tcp_listener(local_host="127.0.0.1"))
        listener = cast(anyio.abc.SocketListener, listeners.listeners[0])

        async def serve() -> None:
            async with await listener.accept() as connection:
                await connection.receive()
                await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                async for chunk in in_chunks(data, 40_000):
                    await connection.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                await connection.send(b"0\r\n\r\n")

        group = await stack.enter_async_context(anyio.create_task_group())
        group.start_soon(serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        client = await stack.enter_async_context(httpx.AsyncClient())
        async with client.stream("GET", f"http://127.0.0.1:{port}/") as response:
            yield response
            await checkpoint()


@pytest.mark.anyio
async def test_httpx_response() -> None:
    await check_round_trip(as_httpx_response)


# aiobotocore


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.mark.anyio
@on_asyncio
async def test_aiobotocore_streaming_body(s3: str) -> None:
    session = aiobotocore.session.get_session()
    async with session.create_client("s3", endpoint_url=s3, region_name="us-east-1") as client:
        await client.create_bucket(Bucket="bucket")

        @asynccontextmanager
        async def make(data: bytes) -> AsyncIterator[Source]:
            await client.put_object(Bucket="bucket", Key="key", Body=data)
            body = (await client.get_object(Bucket="bucket", Key="key"))["Body"]
            yield body
            assert body.tell() == len(data)
            assert body.raw_stream.status == 200
            body.close()

        await check_round_trip(make)


@pytest.mark.anyio
@on_asyncio
async def test_a_part_of_a_form_that_is_cut_off_makes_no_message() -> None:
    """The request is in order, the form in it ends without the boundary of its part."""
    caught: list[Exception] = []

    async def put(request: web.Request) -> web.Response:
        part = await (await request.multipart()).next()
        try:
            await encrypt(cast(Source, part), KEY)
        except (EOFError, ValueError) as error:
            caught.append(error)
        return web.Response()

    app = web.Application()
    app.router.add_put("/", put)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        for length in (0, 100, 200_000):
            form = b'--B\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + bytes(length)
            headers = {"Content-Type": "multipart/form-data; boundary=B"}
            async with session.put(server.make_url("/"), data=form, headers=headers) as answer:
                assert answer.status == 200
    assert len(caught) == 3


@pytest.mark.anyio
@on_asyncio
@pytest.mark.parametrize("how", ["read", "iterated"])
async def test_a_request_that_was_read_before_never_makes_an_empty_message(how: str) -> None:
    results: list[Any] = []

    async def put(request: web.Request) -> web.Response:
        if how == "read":
            await request.read()
        else:
            async for _ in request.content.iter_any():
                pass
        for source in (request, request.content):
            try:
                message, _ = await encrypt(cast(Source, source), KEY)
                results.append((await decrypt(message, KEY)).plaintext)
            except StreamError as error:
                results.append(type(error))
        return web.Response()

    app = web.Application()
    app.router.add_put("/", put)
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession() as session,
        session.put(server.make_url("/"), data=in_chunks(b"abc" * 100, 50)) as answer,
    ):
        assert answer.status == 200
    assert results == [b"abc" * 100 if how == "read" else StreamError, StreamError]


@pytest.mark.anyio
@on_asyncio
@pytest.mark.parametrize("how", ["read", "release", "next part", "not at all"])
@pytest.mark.parametrize("content", [b"", b"abc" * 100], ids=["empty", "part"])
async def test_a_part_that_was_read_before_never_makes_an_empty_message(how: str, content: bytes) -> None:
    results: list[Any] = []

    async def put(request: web.Request) -> web.Response:
        form = await request.multipart()
        part = await form.next()
        assert isinstance(part, aiohttp.BodyPartReader)
        if how == "next part":
            await form.next()
        elif how != "not at all":
            await getattr(part, how)()
        try:
            UploadReader(part, max_length=None)
            results.append((await decrypt((await encrypt(part, KEY)).ciphertext, KEY)).plaintext)
        except StreamError as error:
            results.append(type(error))
        with pytest.raises(StreamError):
            UploadReader(part, max_length=None)
        with pytest.raises(StreamError):
            await encrypt(part, KEY)
        return web.Response()

    form = aiohttp.FormData()
    form.add_field("file", content, filename="file")
    app = web.Application(client_max_size=1000)
    app.router.add_put("/", put)
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession() as session,
        session.put(server.make_url("/"), data=form) as answer,
    ):
        assert answer.status == 200
    assert results == [content if how == "not at all" else StreamError]


@pytest.mark.anyio
@on_asyncio
async def test_a_generator_that_was_used_up_is_refused() -> None:
    chunks = in_chunks(b"abc", 1)
    assert [chunk async for chunk in chunks] == [b"a", b"b", b"c"]
    with pytest.raises(StreamError, match="read to its end"):
        await encrypt(chunks, KEY)


@pytest.mark.anyio
@on_asyncio
async def test_a_body_of_boto3_is_read_as_a_file() -> None:
    body = StreamingBody(io.BytesIO(b"abc" * 1000), 3000)  # type: ignore[no-untyped-call,unused-ignore]
    message, _ = await encrypt(cast(Source, body), KEY)
    assert (await decrypt(message, KEY)).plaintext == b"abc" * 1000
