"""Requests of aiohttp's client whose body is encrypted while it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aioencrypt import (
    PlaintextLengthError,
    ProviderError,
    StreamClosedError,
    StreamError,
    UnverifiedStreamError,
    decrypt,
)
from aioencrypt.integrations.aiohttp import encrypted_payload
from tests.support.cancelling import settle
from tests.support.providers import OwnKey
from tests.support.streaming import (
    KEY,
    UNSIGNED,
    assert_idle,
    collected,
    in_chunks,
    on_asyncio_and_uvloop,
    plaintext_of,
)

pytestmark = [pytest.mark.anyio, on_asyncio_and_uvloop]

PLAINTEXT = plaintext_of(1_000_000)

clean = pytest.fixture(autouse=True, scope="module")(collected)


class Server:
    """Takes PUT: `bodies` are those that arrived whole, with their headers."""

    def __init__(self) -> None:
        self.bodies: list[tuple[Any, bytes]] = []
        self.errors: list[BaseException] = []
        self.reading = asyncio.Event()
        self.ended = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        self.reading.set()
        try:
            self.bodies.append((request.headers, await request.read()))
        except BaseException as error:
            self.errors.append(error)
            raise
        finally:
            self.ended.set()
        return web.Response(text="taken")

    async def redirect(self, request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("/")

    async def refuse(self, request: web.Request) -> web.Response:
        return web.Response(status=403)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[aiohttp.ClientSession]:
        app = web.Application(client_max_size=10**9)
        app.router.add_put("/", self.take)
        app.router.add_put("/redirect", self.redirect)
        app.router.add_put("/refuse", self.refuse)
        async with (
            TestServer(app) as server,
            aiohttp.ClientSession(server.make_url("/")) as session,
        ):
            yield session
        await settle()
        assert_idle()


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield bytes(64 * 1024)
        await asyncio.sleep(0)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("length", [0, 1, 4096, len(PLAINTEXT)])
async def test_a_body_arrives_with_its_exact_length_where_it_is_known(known: bool, length: int) -> None:
    server = Server()
    source: Any = PLAINTEXT[:length] if known else in_chunks(PLAINTEXT[:length], 70_000)
    async with (
        server.serving() as session,
        encrypted_payload(source, KEY, encryption_context={"tenant": "42"}) as payload,
        session.put("/", data=payload) as response,
    ):
        assert await response.text() == "taken"
    [(headers, body)] = server.bodies
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers.get("Content-Length") == (str(len(body)) if known else None)
    plaintext, header = await decrypt(body, KEY)
    assert plaintext == PLAINTEXT[:length]
    assert header.encryption_context["tenant"] == "42"


async def test_settings() -> None:
    server = Server()
    payload = encrypted_payload(
        in_chunks(PLAINTEXT, 70_000),
        KEY,
        algorithm_suite=UNSIGNED,
        frame_length=1000,
        plaintext_length=len(PLAINTEXT),
        content_type="application/x-encrypted",
    )
    async with server.serving() as session, payload as data, session.put("/", data=data) as response:
        assert response.status == 200
    [(headers, body)] = server.bodies
    assert (headers["Content-Length"], headers["Content-Type"]) == (str(len(body)), "application/x-encrypted")
    header = (await decrypt(body, KEY)).header
    assert (header.algorithm_suite, header.frame_length) == (UNSIGNED, 1000)


async def test_a_part_of_a_form() -> None:
    server = Server()
    async with (
        server.serving() as session,
        encrypted_payload(PLAINTEXT, KEY) as payload,
    ):
        form = aiohttp.MultipartWriter("form-data")
        form.append_payload(payload)
        async with session.put("/", data=form) as response:
            assert response.status == 200
    [(headers, body)] = server.bodies
    assert headers["Content-Length"] == str(len(body))
    message = body.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--" + form.boundary.encode() + b"--")[0]
    assert (await decrypt(message, KEY)).plaintext == PLAINTEXT


async def test_a_key_that_fails_fails_before_the_request() -> None:
    class NoKey(OwnKey):
        async def generate_data_key(self, request: Any) -> Any:
            raise OSError("no key today")

    with pytest.raises(ProviderError):
        async with encrypted_payload(b"", NoKey("name")):
            pass


async def test_a_redirect_cannot_send_it_again() -> None:
    server = Server()
    async with server.serving() as session:
        # a ClientPayloadError, or in older versions our own as a ClientConnectionError
        with pytest.raises(aiohttp.ClientError):
            async with (
                encrypted_payload(b"abc", KEY) as payload,
                session.put("/redirect", data=payload),
            ):
                pass
    assert server.bodies == []


async def test_a_second_request_cannot_send_it_again() -> None:
    server = Server()
    async with server.serving() as session, encrypted_payload(b"abc", KEY) as payload:
        async with session.put("/", data=payload):
            pass
        with pytest.raises(aiohttp.ClientConnectionError) as caught:
            await session.put("/", data=payload)
        assert type(caught.value.__cause__) is StreamError
        assert "was sent before" in str(caught.value.__cause__)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("length", [None, 2_000_000])
@pytest.mark.parametrize("error", [KeyError("disk"), RuntimeError("gone")], ids=["KeyError", "RuntimeError"])
async def test_a_source_that_fails_never_makes_a_whole_request(length: int | None, error: Exception) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield PLAINTEXT
        raise error

    server = Server()
    async with server.serving() as session:
        with pytest.raises(aiohttp.ClientConnectionError) as caught:
            async with encrypted_payload(failing(), KEY, plaintext_length=length) as payload:
                await session.put("/", data=payload)
        assert caught.value.__cause__ is error
        await server.ended.wait()
    assert server.bodies == []
    assert len(server.errors) == 1


async def test_a_source_that_is_too_short_never_makes_a_whole_request() -> None:
    server = Server()
    async with server.serving() as session:
        with pytest.raises(aiohttp.ClientConnectionError) as caught:
            async with encrypted_payload(in_chunks(b"abc", 1), KEY, plaintext_length=4) as payload:
                await session.put("/", data=payload)
        assert isinstance(caught.value.__cause__, PlaintextLengthError)
    assert server.bodies == []


@pytest.mark.parametrize("known", [True, False])
async def test_a_request_that_promises_another_length_fails(known: bool) -> None:
    server = Server()
    source: Any = b"abc" if known else in_chunks(b"abc", 1)
    async with server.serving() as session:
        with pytest.raises(aiohttp.ClientConnectionError) as caught:
            async with encrypted_payload(source, KEY) as payload:
                await session.put("/", data=payload, headers={"Content-Length": "100"})
        assert isinstance(caught.value.__cause__, ValueError)
        assert str(caught.value.__cause__).startswith("Content-Length is 100, and the message has ")
    assert server.bodies == []


async def test_a_server_that_answers_early_gets_no_whole_message() -> None:
    server = Server()
    async with server.serving() as session:
        statuses = []
        with pytest.raises(UnverifiedStreamError):
            async with (
                encrypted_payload(endless(), KEY) as payload,
                session.put("/refuse", data=payload) as response,
            ):
                statuses.append(response.status)
        assert statuses == [403]


async def test_a_payload_that_is_left_while_it_is_sent_ends_the_request() -> None:
    server = Server()
    async with server.serving() as session:
        with pytest.raises(UnverifiedStreamError):  # noqa: PT012 (leaving raises)
            async with encrypted_payload(endless(), KEY) as payload:
                request = asyncio.create_task(session._request("PUT", "/", data=payload))
                await server.reading.wait()
        with pytest.raises(aiohttp.ClientConnectionError) as caught:
            await request
        assert type(caught.value.__cause__) is StreamClosedError
        await server.ended.wait()
    assert server.bodies == []


async def test_a_request_that_is_cancelled_is_not_sent_on() -> None:
    server = Server()
    closed = asyncio.Event()

    async def source() -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in endless():
                yield chunk
        finally:
            closed.set()

    async with server.serving() as session:

        async def send() -> None:
            async with (
                encrypted_payload(pieces, KEY) as payload,
                session.put("/", data=payload),
            ):
                pass

        pieces = source()
        task = asyncio.create_task(send())
        await server.reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await pieces.aclose()
        await server.ended.wait()
    assert closed.is_set()
    assert server.bodies == []


async def test_a_payload_that_nobody_sends_is_told() -> None:
    with pytest.raises(UnverifiedStreamError):
        async with encrypted_payload(b"abc", KEY):
            pass


async def test_a_payload_cannot_be_had_as_a_whole() -> None:
    with pytest.raises(TypeError, match="cannot be had as a whole"):
        async with encrypted_payload(b"abc", KEY) as payload:
            payload.decode()
