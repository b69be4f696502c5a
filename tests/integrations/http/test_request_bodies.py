"""Responses that decrypt the body of their own request, and requests whose body somebody else has read."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import anyio
import pytest
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import Message

import aioencrypt.integrations.aiohttp as on_aiohttp
import aioencrypt.integrations.asgi as on_asgi
from aioencrypt import StreamError
from tests.support.http_services import Pieces, Service
from tests.support.streaming import KEY, UNSIGNED, collected, in_chunks, on_asyncio, plaintext_of, sealed

pytestmark = pytest.mark.anyio

PLAINTEXT = plaintext_of(1_000_000)
on_both = pytest.mark.parametrize("kind", ["aiohttp", "asgi"])

clean = pytest.fixture(autouse=True, scope="module")(collected)


def reader(request: Any) -> Any:
    made: Any = on_asgi.UploadReader if hasattr(request, "stream") else on_aiohttp.UploadReader
    return made(request, max_length=None)


async def pieces(request: Any) -> AsyncIterator[bytes]:
    async for chunk in reader(request).stream():
        yield chunk


SOURCES: dict[str, Callable[[Any], Any]] = {
    "the request": lambda request: request,
    "its stream": lambda request: request.stream() if hasattr(request, "stream") else request.content,
    "a reader": reader,
    "a generator": pieces,
}


async def pass_on(request: Any, call_next: Any) -> Any:
    return await call_next(request)


@on_both
@on_asyncio
@pytest.mark.parametrize("source_of", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize(
    "middleware", [(), (Middleware(BaseHTTPMiddleware, dispatch=pass_on),)], ids=["", "middleware"]
)
async def test_a_response_decrypts_the_body_of_its_own_request(
    kind: str, source_of: Callable[[Any], Any], chunked: bool, middleware: Any
) -> None:
    message = await sealed(PLAINTEXT, UNSIGNED)
    service = Service(source_of=source_of, middleware=middleware)
    async with service.on(kind) as url, aiohttp.ClientSession() as session:
        for data, status in ((message, 200), (b"", 500)):
            body = in_chunks(data, 50_000) if chunked else data
            async with session.post(url, data=body) as response:
                received = await response.read()
                assert (response.status, received == PLAINTEXT) == (status, status == 200)


def scope(method: str, **headers: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "path": "/",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }


@pytest.mark.parametrize("plain", [True, False], ids=["plain source", "ranges"])
async def test_a_middleware_that_replays_the_body_does_not_hold_up_the_loop(plain: bool) -> None:
    """It answers each `receive` at once, and never tells of the end of the connection."""
    message = await sealed(PLAINTEXT, UNSIGNED)
    received = 0
    sent: list[Message] = []

    async def receive() -> Message:
        nonlocal received
        received += 1
        assert received < 100, "the response does nothing but receive"
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)
        for _ in range(3):
            await anyio.sleep(0)

    response = on_asgi.DecryptedResponse(Pieces(message) if plain else message, KEY)
    await response(scope("GET"), receive, send)
    assert b"".join(part.get("body", b"") for part in sent) == PLAINTEXT
    assert received <= 2


async def test_a_disconnect_behind_a_replayed_body_still_ends_the_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aioencrypt.integrations.asgi._REPLAY_SECONDS", 0)
    source = Pieces(await sealed(PLAINTEXT))
    messages = [{"type": "http.request", "body": b"", "more_body": False}] * 20

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await anyio.sleep_forever()

    await on_asgi.DecryptedResponse(source, KEY)(scope("GET"), receive, send)
    assert source.closed == 1


@on_both
@on_asyncio
async def test_a_compressed_body_that_is_cut_off_is_not_stored(kind: str) -> None:
    stored: list[bytes] = []

    async def store(stream: Any) -> None:
        stored.append(await stream.read())

    cut = gzip.compress(PLAINTEXT)[:-100_000]
    async with (
        Service(store=store).on(kind) as url,
        aiohttp.ClientSession() as session,
        session.put(url, data=cut, headers={"Content-Encoding": "gzip"}) as response,
    ):
        assert response.status == 415
        assert response.headers["Accept-Encoding"] == "identity"
    assert stored == []


@on_asyncio
@pytest.mark.parametrize("body", [b"abc", PLAINTEXT, b""])
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_that_was_read_before_makes_no_empty_message(body: bytes, chunked: bool) -> None:
    stored: list[bytes] = []

    async def store(stream: Any) -> None:
        stored.append(await stream.read())

    async def read_first(request: Any) -> Any:
        while await request.content.readany():
            pass
        return request

    data = in_chunks(body, 50_000) if chunked else body
    service = Service(store=store, pick=read_first)
    async with (
        service.on("aiohttp") as url,
        aiohttp.ClientSession() as session,
        session.put(url, data=data) as response,
    ):
        assert response.status == (500 if body else 200)
    assert len(stored) == (not body)
    assert [type(error) for error in service.errors] == [StreamError] * bool(body)


# Forms


FORMS: dict[str, tuple[str, bytes]] = {
    "no form": ("application/octet-stream", b"abc"),
    "a form that is not multipart": ("application/x-www-form-urlencoded", b"file=abc"),
    "no boundary": ("multipart/form-data", b"--B\r\n\r\nabc\r\n--B--\r\n"),
    "an empty boundary": ('multipart/form-data; boundary=""', b"abc"),
    "nothing": ("multipart/form-data; boundary=B", b""),
    "another boundary": ("multipart/form-data; boundary=B", b"--C\r\n\r\nabc\r\n--C--\r\n"),
    "no part of that name": (
        "multipart/form-data; boundary=B",
        b'--B\r\nContent-Disposition: form-data; name="other"\r\n\r\nabc\r\n--B--\r\n',
    ),
    "a form in a form": (
        "multipart/form-data; boundary=B",
        b'--B\r\nContent-Disposition: form-data; name="file"\r\n'
        b"Content-Type: multipart/mixed; boundary=C\r\n\r\n--C\r\n\r\nabc\r\n--C--\r\n--B--\r\n",
    ),
    "a form in a form, without a boundary": (
        "multipart/form-data; boundary=B",
        b"--B\r\nContent-Type: multipart/mixed\r\n\r\nabc\r\n--B--\r\n",
    ),
    "malformed headers": ("multipart/form-data; boundary=B", b"--B\r\nno header\r\n\r\nabc\r\n--B--\r\n"),
    "too many headers": ("multipart/form-data; boundary=B", b"--B\r\n" + b"A: b\r\n" * 9000),
    "a long header": ("multipart/form-data; boundary=B", b"--B\r\nA: " + b"b" * 100_000),
    "a part that is cut off": (
        "multipart/form-data; boundary=B",
        b'--B\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc',
    ),
    "a skipped part that is cut off": ("multipart/form-data; boundary=B", b"--B\r\n\r\nabc"),
    "a charset that is none": (
        "multipart/form-data; boundary=B",
        b'--B\r\nContent-Disposition: form-data; name="_charset_"\r\n\r\n' + b"x" * 100 + b"\r\n--B--\r\n",
    ),
}


@on_asyncio
@pytest.mark.parametrize(("content_type", "body"), FORMS.values(), ids=FORMS)
async def test_a_form_that_cannot_be_read_is_a_mistake_of_the_client(content_type: str, body: bytes) -> None:
    stored: list[bytes] = []

    async def store(stream: Any) -> None:
        stored.append(await stream.read())

    service = Service(store=store, pick=lambda request: on_aiohttp.form_part(request, "file"))
    async with (
        service.on("aiohttp") as url,
        aiohttp.ClientSession() as session,
        session.put(url, data=body, headers={"Content-Type": content_type}) as response,
    ):
        assert response.status == 400
    assert stored == []


@on_asyncio
async def test_the_part_of_a_form_that_has_the_name() -> None:
    stored: list[bytes] = []

    async def store(stream: Any) -> None:
        stored.append(await stream.read())

    form = aiohttp.FormData()
    form.add_field("comment", "quarterly figures")
    form.add_field("file", b"abc", filename="report")
    service = Service(store=store, pick=lambda request: on_aiohttp.form_part(request, "file"))
    async with (
        service.on("aiohttp") as url,
        aiohttp.ClientSession() as session,
        session.put(url, data=form) as response,
    ):
        assert response.status == 200
    assert len(stored) == 1
