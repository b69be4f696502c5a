"""Compressed bodies that a library unpacks: cut off, they look whole, so that they are not encrypted."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aioencrypt import TruncatedMessageError, decrypt, encrypt, encrypt_stream
from aioencrypt.integrations.aiohttp import encrypted_payload
from tests.support.streaming import KEY, on_asyncio, plaintext_of, sealed

pytestmark = [pytest.mark.anyio, on_asyncio]

PLAINTEXT = plaintext_of(100_000)


@asynccontextmanager
async def answer(library: str, body: bytes, coding: str | None) -> AsyncIterator[Any]:
    """Give the response of a library's client."""

    async def respond(request: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Encoding": coding} if coding else {})

    app = web.Application()
    app.router.add_get("/", respond)
    async with TestServer(app) as server:
        if library == "aiohttp":
            async with aiohttp.ClientSession() as session, session.get(server.make_url("/")) as response:
                yield response
        else:
            async with (
                httpx.AsyncClient() as client,
                client.stream("GET", str(server.make_url("/"))) as found,
            ):
                yield found


libraries = pytest.mark.parametrize("library", ["aiohttp", "httpx"])


@libraries
@pytest.mark.parametrize("coding", ["gzip", "GZip"])
async def test_a_compressed_response_is_not_encrypted(library: str, coding: str) -> None:
    async with answer(library, gzip.compress(PLAINTEXT)[:-10_000], coding) as response:
        with pytest.raises(ValueError, match=f"Content-Encoding '{coding}'.*cut off"):
            await encrypt(response, KEY)
        with pytest.raises(ValueError, match="Accept-Encoding: identity"):
            encrypt_stream(response, KEY)
        with pytest.raises(ValueError, match="to encrypt it all the same"):
            async with encrypted_payload(response, KEY):
                pass


@libraries
async def test_a_compressed_response_is_encrypted_where_the_caller_takes_its_content(library: str) -> None:
    async with answer(library, gzip.compress(PLAINTEXT), "gzip") as response:
        source = response.content if library == "aiohttp" else response.aiter_bytes()
        message = (await encrypt(source, KEY)).ciphertext
    assert (await decrypt(message, KEY)).plaintext == PLAINTEXT


@libraries
@pytest.mark.parametrize("coding", [None, "identity"])
async def test_a_response_without_a_coding_is_encrypted(library: str, coding: str | None) -> None:
    async with answer(library, PLAINTEXT, coding) as response:
        message = (await encrypt(response, KEY)).ciphertext
    assert (await decrypt(message, KEY)).plaintext == PLAINTEXT


@libraries
async def test_a_compressed_response_is_decrypted_because_a_message_has_an_end(library: str) -> None:
    packed = gzip.compress(await sealed(PLAINTEXT))
    async with answer(library, packed, "gzip") as response:
        assert (await decrypt(response, KEY)).plaintext == PLAINTEXT
    async with answer(library, packed[:-10_000], "gzip") as response:
        with pytest.raises(TruncatedMessageError):
            await decrypt(response, KEY)


async def test_a_compressed_request_is_not_encrypted() -> None:
    found: list[Exception] = []

    async def handler(request: web.Request) -> web.Response:
        try:
            encrypt_stream(request, KEY)
        except ValueError as error:
            found.append(error)
        return web.Response()

    app = web.Application()
    app.router.add_put("/", handler)
    headers = {"Content-Encoding": "gzip"}
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession(server.make_url("/")) as session,
        session.put("/", data=gzip.compress(b"abc"), headers=headers) as response,
    ):
        assert response.status == 200
    assert len(found) == 1
