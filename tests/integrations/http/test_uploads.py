"""Uploads with aiohttp and with Starlette, over real HTTP: lengths, limits, what is refused."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from aioencrypt import AlgorithmSuite, EncryptionClient, EncryptStream, decrypt
from tests.support.http_services import Service
from tests.support.streaming import (
    KEY,
    UNSIGNED,
    collected,
    in_chunks,
    on_asyncio,
    plaintext_of,
    threads_at_work,
)
from tests.support.watching import CountingKey

pytestmark = [pytest.mark.anyio, on_asyncio]

PLAINTEXT = plaintext_of(500_000)
on_both = pytest.mark.parametrize("kind", ["aiohttp", "asgi"])

clean = pytest.fixture(autouse=True, scope="module")(collected)


class Stored:
    """Takes messages; `whole` are those that came to an end."""

    def __init__(self) -> None:
        self.whole: list[bytes] = []
        self.begun = 0

    async def __call__(self, stream: EncryptStream) -> None:
        self.begun += 1
        self.whole.append(await stream.read())


async def put(service: Service, kind: str, body: Any, **headers: str) -> tuple[int, Any]:
    """Return the status, and the answer."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        service.on(kind) as url,
        aiohttp.ClientSession() as session,
        session.put(url, data=body, headers=fields) as response,
    ):
        answer = await (response.json() if response.status == 200 else response.text())
        return response.status, answer


@on_both
@pytest.mark.parametrize("length", [1, 100_000, len(PLAINTEXT)])
async def test_a_body_with_a_length(kind: str, length: int) -> None:
    stored = Stored()
    service = Service(store=stored, max_length=len(PLAINTEXT), encryption_context={"tenant": "42"})
    status, answer = await put(service, kind, BytesIO(PLAINTEXT[:length]))
    [message] = stored.whole
    assert (status, answer) == (200, {"announced": len(message)})
    plaintext, header = await decrypt(message, KEY)
    assert plaintext == PLAINTEXT[:length]
    assert header.encryption_context["tenant"] == "42"


@on_both
async def test_a_body_in_chunks(kind: str) -> None:
    stored = Stored()
    service = Service(store=stored, max_length=len(PLAINTEXT))
    status, answer = await put(service, kind, in_chunks(PLAINTEXT, 30_000))
    assert (status, answer) == (200, {"announced": None})
    assert (await decrypt(stored.whole[0], KEY)).plaintext == PLAINTEXT


@on_both
async def test_no_body(kind: str) -> None:
    stored = Stored()
    status, _ = await put(Service(store=stored, max_length=0), kind, None)
    assert status == 200
    assert (await decrypt(stored.whole[0], KEY)).plaintext == b""


@on_both
async def test_settings_of_the_message(kind: str) -> None:
    stored = Stored()
    client = EncryptionClient(max_encrypted_data_keys=1)
    service = Service(store=stored, algorithm_suite=UNSIGNED, frame_length=1000, encryption_client=client)
    assert (await put(service, kind, BytesIO(PLAINTEXT)))[0] == 200
    header = (await decrypt(stored.whole[0], KEY)).header
    assert (header.algorithm_suite, header.frame_length) == (UNSIGNED, 1000)
    forbidden = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256
    assert (await put(Service(store=stored, algorithm_suite=forbidden), kind, BytesIO(b"")))[0] == 500


@on_both
async def test_an_encoded_body_has_no_length_that_counts(kind: str) -> None:
    stored = Stored()
    packed = gzip.compress(bytes(300_000))
    service = Service(store=stored, max_length=300_000, upload={"accept_content_encoding": True})
    status, answer = await put(service, kind, BytesIO(packed), Content_Encoding="gzip")
    assert (status, answer) == (200, {"announced": None})
    plaintext = (await decrypt(stored.whole[0], KEY)).plaintext
    assert plaintext == (bytes(300_000) if kind == "aiohttp" else packed)  # aiohttp unpacks it


# Refused


@on_both
@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "deflate", "gzip, br", "Identity", ""])
async def test_a_coded_body_is_taken_only_where_the_caller_says_so(
    kind: str, coding: str, accepted: bool
) -> None:
    stored = Stored()
    service = Service(store=stored, upload={"accept_content_encoding": accepted})
    packed = (zlib if coding == "deflate" else gzip).compress(b"abc")
    status, answer = await put(service, kind, BytesIO(packed), Content_Encoding=coding)
    if accepted or coding in ("Identity", ""):
        assert status == 200
    else:
        assert (status, answer) == (415, "a body with a Content-Encoding is not taken: send it without")
        assert (stored.begun, stored.whole) == (0, [])


@on_both
async def test_a_body_that_says_it_is_too_long_is_refused_before_anything_is_done(kind: str) -> None:
    stored, key = Stored(), CountingKey()
    service = Service(store=stored, max_length=len(PLAINTEXT) - 1, provider=key)
    status, answer = await put(service, kind, BytesIO(PLAINTEXT))
    assert (status, answer) == (413, f"the upload is longer than {len(PLAINTEXT) - 1} bytes")
    assert (stored.begun, key.calls) == (0, [])


@on_both
async def test_a_body_that_grows_too_long_is_refused_while_it_arrives(kind: str) -> None:
    stored = Stored()
    refused = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while not refused.is_set():
            yield bytes(50_000)
            await asyncio.sleep(0)

    service = Service(store=stored, max_length=300_000)
    async with service.on(kind) as url, aiohttp.ClientSession() as session:
        async with session.put(url, data=endless()) as response:
            assert response.status == 413
            assert await response.text() == "the upload is longer than 300000 bytes"
            refused.set()
        assert (stored.begun, stored.whole) == (1, [])
        [error] = service.errors
        if isinstance(error, web.HTTPRequestEntityTooLarge):
            assert error.text == "the upload is longer than 300000 bytes"
        async with session.put(url, data=b"abc") as response:
            assert response.status == 200
    assert len(stored.whole) == 1
    assert threads_at_work() == 0


@pytest.mark.parametrize(
    "body",
    [
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcdefgh\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!",
    ],
    ids=["chunks", "gzip"],
)
async def test_a_malformed_body_is_refused(body: bytes) -> None:
    stored = Stored()
    async with Service(store=stored, upload={"accept_content_encoding": True}).on("aiohttp") as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2][:-1]))
        writer.write(b"PUT / HTTP/1.1\r\nHost: test\r\n" + body)
        assert b" 400 " in await reader.readline()
        writer.transport.abort()
    assert stored.whole == []


# Forms


async def first_part(request: web.Request) -> Any:
    return await (await request.multipart()).next()


def form(data: BytesIO) -> aiohttp.FormData:
    fields = aiohttp.FormData()
    fields.add_field("file", data, filename="report.bin")
    return fields


@pytest.mark.parametrize("length", [0, 1, 100_000, len(PLAINTEXT)])
async def test_a_part_of_a_form(length: int) -> None:
    stored = Stored()
    service = Service(store=stored, max_length=len(PLAINTEXT), pick=first_part)
    status, answer = await put(service, "aiohttp", form(BytesIO(PLAINTEXT[:length])))
    assert (status, answer) == (200, {"announced": None})
    assert (await decrypt(stored.whole[0], KEY)).plaintext == PLAINTEXT[:length]


async def test_a_part_that_is_too_long() -> None:
    stored = Stored()
    service = Service(store=stored, max_length=len(PLAINTEXT) - 1, pick=first_part)
    status, answer = await put(service, "aiohttp", form(BytesIO(PLAINTEXT)))
    assert (status, answer) == (413, f"the upload is longer than {len(PLAINTEXT) - 1} bytes")
    assert stored.whole == []


@pytest.mark.parametrize("cut", [300_000, 299_999, 100])
async def test_a_form_that_ends_inside_a_part_is_refused(cut: int) -> None:
    """Its HTTP is in order: only the boundary is missing."""
    stored = Stored()
    service = Service(store=stored, pick=first_part)
    body = b'--B\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + PLAINTEXT[:cut]
    content_type = "multipart/form-data; boundary=B"
    status, answer = await put(service, "aiohttp", BytesIO(body), Content_Type=content_type)
    assert (status, answer) == (400, "the body is malformed")
    assert stored.whole == []


@pytest.mark.parametrize(("encoding", "status"), [("binary", 200), ("8bit", 200), ("base64", 415)])
async def test_a_part_with_a_transfer_encoding(encoding: str, status: int) -> None:
    stored = Stored()
    service = Service(store=stored, pick=first_part)
    body = f"--B\r\nContent-Transfer-Encoding: {encoding}\r\n\r\ncGxhaW4=\r\n--B--\r\n".encode()
    content_type = "multipart/form-data; boundary=B"
    assert (await put(service, "aiohttp", BytesIO(body), Content_Type=content_type))[0] == status
    assert len(stored.whole) == (status == 200)
