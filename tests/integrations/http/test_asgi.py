"""What is particular to Starlette and FastAPI: applications called in process, on every event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import anyio
import httpx
import pytest
from anyio.lowlevel import checkpoint
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from aioencrypt import (
    KMSMasterKeyProvider,
    MasterKeyProvider,
    MessageError,
    ProviderClosedError,
    TagError,
    decrypt,
    encrypt,
)
from aioencrypt.integrations.asgi import (
    DecryptedResponse,
    UploadReader,
    encrypt_upload,
    get_provider,
    open_provider,
)
from aioencrypt.testing import InMemoryKMS
from tests.support.cancelling import settle
from tests.support.http_services import Pieces, Service
from tests.support.streaming import (
    KEY,
    UNSIGNED,
    assert_idle,
    collected,
    flipped,
    on_asyncio,
    plaintext_of,
    sealed,
)

pytestmark = pytest.mark.anyio

PLAINTEXT = plaintext_of(1_000_000)
Opened = Annotated[MasterKeyProvider, Depends(get_provider)]

clean = pytest.fixture(autouse=True, scope="module")(collected)


def client_of(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def app_of(response: Any, **options: Any) -> Starlette:
    """Return an application that answers with what a function makes."""

    async def handler(request: Request) -> Response:
        made: Response = response()
        return made

    return Starlette(routes=[Route("/", handler)], **options)


def scope(method: str = "GET", *, spec_version: str = "2.3", **headers: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": spec_version},
        "http_version": "1.1",
        "method": method,
        "path": "/",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }


async def connected() -> Message:
    """Receive nothing more from a client that waits for its answer."""
    await anyio.sleep_forever()
    raise AssertionError


# Downloads


async def test_a_download() -> None:
    message = await sealed(PLAINTEXT, UNSIGNED)
    async with client_of(app_of(lambda: DecryptedResponse(message, KEY, media_type="text/csv"))) as client:
        whole = await client.get("/")
        assert (whole.status_code, whole.content) == (200, PLAINTEXT)
        assert whole.headers["content-length"] == str(len(PLAINTEXT))
        assert whole.headers["content-type"] == "text/csv; charset=utf-8"
        part = await client.get("/", headers={"Range": "bytes=5-9"})
        assert (part.status_code, part.content) == (206, PLAINTEXT[5:10])
    await settle()
    assert_idle()


async def test_a_message_that_turns_out_bad() -> None:
    message = flipped(await sealed(PLAINTEXT, UNSIGNED), 700_000)
    async with client_of(app_of(lambda: DecryptedResponse(message, KEY))) as client:
        with pytest.raises(TagError):
            await client.get("/")
    await settle()
    assert_idle()


@pytest.mark.parametrize("bad", [700_000, 5])
async def test_a_bad_message_behind_a_middleware(bad: int) -> None:
    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    message = flipped(await sealed(PLAINTEXT, UNSIGNED), bad)
    middleware = [Middleware(BaseHTTPMiddleware, dispatch=pass_on)]
    app = app_of(lambda: DecryptedResponse(message, KEY), middleware=middleware)
    async with client_of(app) as client:
        with pytest.raises(MessageError):
            await client.get("/")


@on_asyncio
@pytest.mark.parametrize("middlewares", [1, 2])
@pytest.mark.parametrize("length", [None, len(PLAINTEXT)], ids=["in chunks", "with Content-Length"])
async def test_a_middleware_cannot_end_a_bad_message_as_if_it_were_complete(
    middlewares: int, length: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """`BaseHTTPMiddleware` ends the body whatever was raised behind it, and tells of the error afterwards."""

    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    source = Pieces(flipped(await sealed(PLAINTEXT), 700_000))
    middleware = [Middleware(BaseHTTPMiddleware, dispatch=pass_on)] * middlewares
    service = Service(lambda: source, middleware=middleware, plaintext_length=length)
    async with service.on("asgi") as url, aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert source.closed == 1
    assert "a response broke off: TagError(" in caplog.text


async def test_an_exception_handler_chooses_the_status_of_what_goes_wrong_before() -> None:
    async def refused(request: Request, error: Exception) -> Response:
        return PlainTextResponse("this file cannot be read", 422)

    async def missing(request: Request, error: Exception) -> Response:
        return PlainTextResponse("no such file", 404)

    handlers = {MessageError: refused, FileNotFoundError: missing}
    message = flipped(await sealed(PLAINTEXT), 5)
    async with client_of(
        app_of(lambda: DecryptedResponse(message, KEY), exception_handlers=handlers)
    ) as client:
        assert (await client.get("/")).status_code == 422
    nowhere = Path("/nowhere/message")
    async with client_of(
        app_of(lambda: DecryptedResponse(nowhere, KEY), exception_handlers=handlers)
    ) as client:
        assert (await client.get("/")).status_code == 404


async def test_headers_that_are_set_later() -> None:
    def respond() -> Response:
        response = DecryptedResponse(message, KEY, headers={"Content-Type": "image/png", "X-One": "1"})
        response.headers["X-Two"] = "2"
        response.set_cookie("a", "b")
        response.set_cookie("c", "d")
        return response

    message = await sealed(b"abc")
    async with client_of(app_of(respond)) as client:
        headers = (await client.get("/")).headers
    assert [headers["x-one"], headers["x-two"], headers["content-type"]] == ["1", "2", "image/png"]
    assert len(headers.get_list("set-cookie")) == 2
    assert headers.get_list("content-length") == ["3"]


@pytest.mark.parametrize("status", [204, 206, 304])
async def test_a_status_that_is_set_later_and_has_no_content_is_refused(status: int) -> None:
    def respond() -> Response:
        response = DecryptedResponse(message, KEY)
        response.status_code = status
        return response

    message = await sealed(b"abc")
    async with client_of(app_of(respond)) as client:
        with pytest.raises(ValueError, match=f"^status_code is {status}; it must be 200 to 599"):
            await client.get("/")


async def test_a_background_task_runs_after_the_response() -> None:
    done: list[str] = []
    message = await sealed(b"abc")
    task = BackgroundTask(done.append, "done")  # a plain function: Starlette runs it in a thread
    async with client_of(app_of(lambda: DecryptedResponse(message, KEY, background=task))) as client:
        assert (await client.get("/")).content == b"abc"
    assert done == ["done"]


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_a_client_that_hangs_up_ends_the_response_quietly(spec_version: str) -> None:
    """Before 2.4 a server tells of it by a message alone, after it by an error of `send`, too."""
    source = Pieces(await sealed(PLAINTEXT))
    gone = anyio.Event()
    sent: list[Message] = []

    async def receive() -> Message:
        await gone.wait()
        if spec_version == "2.4":
            await anyio.sleep_forever()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            gone.set()
            if spec_version == "2.4":
                raise OSError("the client has hung up")
            await checkpoint()

    await DecryptedResponse(source, KEY)(scope(spec_version=spec_version), receive, send)
    assert sent[0]["status"] == 200
    assert all(message["more_body"] for message in sent[1:])
    assert source.closed == 1
    await settle()
    assert_idle()


async def test_an_error_of_the_source_is_not_the_client_hanging_up() -> None:
    source = Pieces((await sealed(PLAINTEXT))[:600_000], OSError("disk"))
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(OSError, match="disk"):
        await DecryptedResponse(source, KEY)(scope(), connected, send)
    assert all(message.get("more_body", True) for message in sent)


async def test_a_response_that_is_cancelled_closes_its_source() -> None:
    source = Pieces(await sealed(PLAINTEXT))

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            request.cancel()
        await checkpoint()

    with anyio.CancelScope() as request:
        await DecryptedResponse(source, KEY)(scope(), connected, send)
    assert request.cancelled_caught
    assert source.closed == 1


async def test_a_generator_is_closed() -> None:
    message = await sealed(PLAINTEXT)

    async def pieces() -> AsyncGenerator[bytes, None]:
        try:
            for start in range(0, len(message), 100_000):
                yield message[start : start + 100_000]
        finally:
            await checkpoint()
            closed.append(True)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the client has hung up")

    closed: list[bool] = []
    await DecryptedResponse(pieces(), KEY)(scope(), connected, send)
    assert closed == [True]


async def test_a_source_that_cannot_be_closed_is_told() -> None:
    class Bad(Pieces):
        async def aclose(self) -> None:
            raise RuntimeError("cannot be closed")

    source = Bad(await sealed(b"abc"))
    async with client_of(app_of(lambda: DecryptedResponse(source, KEY))) as client:
        with pytest.raises(RuntimeError, match="cannot be closed"):
            await client.get("/")


async def test_a_source_that_does_not_close_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(Pieces):
        async def aclose(self) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                self.closed += 1

    monkeypatch.setattr("aioencrypt.integrations.http.download._CLOSING_SECONDS", 0.01)
    source = Stuck(await sealed(b"abc"))
    async with client_of(app_of(lambda: DecryptedResponse(source, KEY))) as client:
        assert (await client.get("/")).content == b"abc"
    assert source.closed == 1


# Uploads


async def uploads(request: Request) -> Response:
    reader = UploadReader(request, max_length=2_000_000)
    return PlainTextResponse(b"".join([chunk async for chunk in reader]).hex() + f" {reader.length}")


async def test_a_reader_can_be_iterated() -> None:
    app = Starlette(routes=[Route("/", uploads, methods=["PUT"])])
    async with client_of(app) as client:
        assert (await client.put("/", content=b"\x01\x02")).text == "0102 2"


async def test_a_reader_that_is_left_lets_the_body_go() -> None:
    closed: list[bool] = []

    class Watched(Request):
        async def stream(self) -> AsyncGenerator[bytes, None]:
            try:
                yield b"abc"
                yield b"def"
            finally:
                closed.append(True)

    stream = encrypt_upload(Watched(scope("PUT"), connected), KEY, max_length=4)
    with pytest.raises(HTTPException, match="413"):
        async with stream:
            await stream.read()
    assert closed == [True]
    reader = UploadReader(Watched(scope("PUT"), connected), max_length=None).stream()
    assert await anext(reader) == b"abc"
    await reader.aclose()
    assert closed == [True, True]


async def test_a_body_that_ends_before_its_length_is_refused() -> None:
    """Servers see to that; whoever calls the application otherwise may not."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"abc", "more_body": False}

    request = Request(scope("PUT", **{"content-length": "4"}), receive)
    stream = encrypt_upload(request, KEY, max_length=None)
    with pytest.raises(HTTPException, match="400: the body does not have the 4 bytes"):
        async with stream:
            await stream.read()


async def test_a_client_that_hangs_up_in_an_upload() -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": PLAINTEXT, "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        await checkpoint()
        return messages.pop(0)

    stored = []
    with pytest.raises(ClientDisconnect):
        async with encrypt_upload(Request(scope("PUT"), receive), KEY, max_length=None) as stream:
            stored = [chunk async for chunk in stream]
    assert stored == []
    await settle()
    assert_idle()


# FastAPI


def fastapi_app(provider: MasterKeyProvider, stored: dict[str, bytes]) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_provider(app, provider):
            yield

    app = FastAPI(lifespan=lifespan)

    @app.put("/{name}", status_code=201)
    async def upload(name: str, request: Request, provider: Opened) -> dict[str, int]:
        context = {"name": name}
        async with encrypt_upload(request, provider, max_length=10_000, encryption_context=context) as stream:
            stored[name] = await stream.read()
        return {"length": len(stored[name])}

    @app.get("/{name}")
    async def download(name: str, provider: Opened) -> Response:
        return DecryptedResponse(stored[name], provider, encryption_context={"name": name})

    return app


@on_asyncio
async def test_fastapi() -> None:
    kms = InMemoryKMS()
    provider = KMSMasterKeyProvider(
        [kms.create_key(region="us-east-1")], connection=kms.connection("us-east-1")
    )
    stored: dict[str, bytes] = {}
    app = fastapi_app(provider, stored)
    async with app.router.lifespan_context(app), client_of(app) as client:
        sent = await client.put("/report", content=b"quarterly figures")
        assert (sent.status_code, sent.json()) == (201, {"length": len(stored["report"])})
        received = await client.get("/report")
        assert (received.status_code, received.content) == (200, b"quarterly figures")
        assert received.headers["content-length"] == "17"
        refused = await client.put("/large", content=bytes(10_001))
        assert refused.status_code == 413
        assert refused.json() == {"detail": "the upload is longer than 10000 bytes"}
    assert (await decrypt(stored["report"], provider)).plaintext == b"quarterly figures"
    assert [*stored] == ["report"]


async def test_without_a_lifespan_there_is_no_provider() -> None:
    async with client_of(fastapi_app(KEY, {"report": b""})) as client:
        with pytest.raises(RuntimeError, match=r"^no provider is open: use open_provider\(\)"):
            await client.get("/report")


@on_asyncio
async def test_a_provider_is_open_as_long_as_the_application() -> None:
    kms = InMemoryKMS()
    key = kms.create_key(region="us-east-1")

    class Watched(KMSMasterKeyProvider):
        warmed = 0

        async def warm_up(self) -> None:
            self.warmed += 1

    provider = Watched([key], connection=kms.connection("us-east-1"))
    app = Starlette()
    async with open_provider(app, provider):
        assert app.state.aioencrypt_provider is provider
        assert provider.warmed == 1
        await encrypt(b"abc", provider)
        with pytest.raises(RuntimeError, match=r"^this application has a provider"):
            async with open_provider(app, provider):
                pass
        async with open_provider(Starlette(), provider):  # a mounted one
            pass
        assert app.state.aioencrypt_provider is provider
    assert not hasattr(app.state, "aioencrypt_provider")


async def test_a_provider_that_cannot_be_opened_stops_the_application() -> None:
    class Broken(type(KEY)):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__("tests", "broken", wrapping_key=bytes(32))

        async def warm_up(self) -> None:
            raise ProviderClosedError("not today")

    app = Starlette()
    with pytest.raises(ProviderClosedError, match="not today"):
        async with open_provider(app, Broken()):
            pass
    assert not hasattr(app.state, "aioencrypt_provider")
