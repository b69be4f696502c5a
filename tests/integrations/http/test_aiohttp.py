"""What is particular to aiohttp, and what both integrations say where their library is missing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from aioencrypt import KMSMasterKeyProvider, TagError, encrypt
from aioencrypt.integrations.aiohttp import UploadReader, decrypted_response, get_provider, open_provider
from aioencrypt.testing import InMemoryKMS
from tests.support.http_services import Service
from tests.support.streaming import KEY, UNSIGNED, flipped, on_asyncio, sealed


def request_with(body: bytes, length: int) -> web.Request:
    """Return a request as servers hand none on: its body may have another length than it says."""
    loop = asyncio.get_running_loop()
    stream = aiohttp.StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    stream.feed_data(body)
    stream.feed_eof()
    return make_mocked_request("PUT", "/", headers={"Content-Length": str(length)}, payload=stream)


@pytest.mark.anyio
@on_asyncio
async def test_a_reader_can_be_iterated() -> None:
    reader = UploadReader(request_with(b"abc", 3), max_length=3)
    assert reader.length == 3
    assert b"".join([chunk async for chunk in reader]) == b"abc"


@pytest.mark.anyio
@on_asyncio
@pytest.mark.parametrize("length", [2, 4])
async def test_a_body_of_another_length_than_it_says_is_refused(length: int) -> None:
    reader = UploadReader(request_with(b"abc", length), max_length=None)
    with pytest.raises(web.HTTPBadRequest) as caught:
        async for _ in reader:
            pass
    assert caught.value.text == f"the body does not have the {length} bytes that its Content-Length announced"


@pytest.mark.anyio
@on_asyncio
async def test_a_middleware_that_answers_for_a_broken_response_cannot_complete_it() -> None:
    @web.middleware
    async def answer_all(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
        except TagError:
            return web.Response(text="sorry")
        return response

    async def handler(request: web.Request) -> web.StreamResponse:
        return await decrypted_response(request, message, KEY)

    message = flipped(await sealed(bytes(1_000_000), UNSIGNED), 700_000)
    app = web.Application(middlewares=[answer_all])
    app.router.add_get("/", handler)
    async with TestClient(TestServer(app)) as client:
        response = await client.get("/")
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


@pytest.mark.anyio
@on_asyncio
async def test_an_error_after_the_beginning_is_raised_also_where_the_server_cancels_handlers() -> None:
    message = flipped(await sealed(bytes(1_000_000), UNSIGNED), 700_000)
    service = Service(lambda: message, handler_cancellation=True)
    async with service.on("aiohttp") as url, aiohttp.ClientSession() as session:
        async with session.get(url) as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        await service.ended.wait()
    assert [type(error) for error in service.errors] == [TagError]


@pytest.mark.anyio
@on_asyncio
async def test_a_provider_is_open_as_long_as_the_application() -> None:
    kms = InMemoryKMS()
    key = kms.create_key(region="us-east-1")
    provider = KMSMasterKeyProvider([key], connection=kms.connection("us-east-1"))

    async def keep(app: web.Application) -> AsyncIterator[None]:
        async with open_provider(app, provider):
            yield

    async def handler(request: web.Request) -> web.Response:
        requests.append(request)
        assert get_provider(request) is provider
        return web.Response(body=(await encrypt(b"abc", get_provider(request))).ciphertext)

    requests: list[web.Request] = []
    app, inner = web.Application(), web.Application()
    app.cleanup_ctx.append(keep)
    for part in (app, inner):
        part.router.add_get("/", handler)
    app.add_subapp("/inner", inner)
    async with TestClient(TestServer(app)) as client:
        for path in ("/", "/inner/"):
            assert (await client.get(path)).status == 200
        with pytest.raises(RuntimeError, match=r"^this application has a provider"):
            async with open_provider(app, provider):
                pass
        assert (await client.get("/")).status == 200
    with pytest.raises(RuntimeError, match=r"^no provider is open: use open_provider\(\)"):
        get_provider(requests[0])


@pytest.mark.anyio
@on_asyncio
async def test_without_open_provider_there_is_none() -> None:
    with pytest.raises(RuntimeError, match=r"^no provider is open: use open_provider\(\)"):
        get_provider(make_mocked_request("GET", "/"))


@pytest.mark.parametrize(
    ("module", "library", "message"),
    [
        ("aiohttp", "aiohttp", "needs aiohttp: pip install 'aioencrypt[aiohttp]'"),
        ("asgi", "starlette", "needs Starlette: pip install 'aioencrypt[asgi]'"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(module: str, library: str, message: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; import aioencrypt.integrations.{module}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == f"ImportError: aioencrypt.integrations.{module} {message}"
