"""What the pages of the documentation leave to their readers, and what is done with what they define."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx
from aiobotocore.session import get_session
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from starlette.applications import Starlette
from starlette.routing import Route

from aioencrypt import (
    Attempt,
    AWSConnection,
    KMSMasterKeyProvider,
    ProviderError,
    RawAESMasterKey,
    ServiceError,
    decrypt,
    encrypt,
)
from aioencrypt.testing import InMemoryKMS
from tests.support.branch_keys import World
from tests.support.docs_http import serve_aiohttp, serve_asgi
from tests.support.examples import load
from tests.support.kms_pairs import rsa_kms_key
from tests.support.pages import ROOT, snippets

FIGURES = b"quarterly figures" * 1000
STORED = web.AppKey("stored", bytes)


async def names_left_to_readers(page: str, kms: InMemoryKMS) -> dict[str, Any]:
    """Return the names that the snippets of a page use and do not define."""
    names: dict[str, Any] = {"__name__": "page"}
    match page:
        case "docs/kms.md":
            names |= await _kms_names(kms)
        case "docs/kms-asymmetric.md":
            rsa_kms_key(kms, key_id="5678cdef-34cd-56ef-78ab-567890abcdef")
            kms.create_key(key_id="6789def0-45ef-67ab-89cd-67890abcdef0", key_spec="ECC_NIST_P384")
        case "docs/hierarchical-keys.md":
            world = await World.new().with_table()
            names["store"] = world.store()
            for branch_key_id in ("tenant-42", "tenant-43"):
                await world.store().create_key(branch_key_id, {"made for": "this page"})
        case "docs/local-keys.md":
            old = RawAESMasterKey("my-service", "2026", wrapping_key=bytes(32))
            new = RawAESMasterKey("my-service", "2027", wrapping_key=bytes(range(32)))
            old_message, _ = await encrypt(b"attack at dawn", old)
            names |= {"provider_2026": old, "provider_2027": new, "old_message": old_message}
        case "docs/own-keys.md":
            example = load("own_master_key")
            names |= {"KeyService": example.KeyService, "service": example.KeyService()}
        case "docs/s3.md":
            async with get_session().create_client("s3") as client:
                await client.create_bucket(Bucket="my-bucket")
        case "docs/message-format.md":
            names["message"] = documented_message()
        case "docs/streams.md":
            stored = bytearray()
            names |= {"store": _storing(stored), "load": lambda: _chunks(stored), "stored": stored}
        case "docs/errors.md":
            names["load"] = lambda request: _chunks(request.app[STORED])
    return names


async def _kms_names(kms: InMemoryKMS) -> dict[str, Any]:
    denied = kms.create_key(region="us-east-1")
    far = kms.create_key(region="ap-southeast-2")
    ready = kms.clients("us-east-1", "ap-southeast-2")
    message, _ = await encrypt(
        b"attack at dawn", KMSMasterKeyProvider([denied, far], connection=AWSConnection(kms=ready))
    )
    kms.deny(denied, "Decrypt")
    kms.outage("ap-southeast-2")
    return {
        "DENIED": denied,
        "UNREACHABLE": far,
        "message_under_both": message,
        "new_grant": lambda: kms.create_grant(denied, "Decrypt"),
    }


def _storing(stored: bytearray) -> Any:
    async def store(chunk: bytes) -> None:
        stored.extend(chunk)

    return store


async def _chunks(data: bytearray | bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1000):
        yield bytes(data[start : start + 1000])


def documented_message() -> bytes:
    """Return the bytes of the annotated message."""
    [dump] = snippets(ROOT / "docs/message-format.md", "hexdump")
    return b"".join(bytes.fromhex(line[7:54]) for line in dump.text.splitlines())


async def after(page: str, names: dict[str, Any], kms: InMemoryKMS) -> None:
    """Use the handlers that the snippets of a page only define, and look at what they did."""
    match page:
        case "docs/aiohttp.md":
            await serve_aiohttp(names)
        case "docs/asgi.md":
            await serve_asgi(names)
        case "docs/streams.md":
            await _serve_streams(names)
        case "docs/errors.md":
            await _serve_errors(names)
        case "docs/kms.md":
            assert [call.operation for call in kms.calls if call.grant_tokens] == ["GenerateDataKey"]
            await _serve_kms(names)


async def _serve_streams(names: dict[str, Any]) -> None:
    app = web.Application()
    app.router.add_put("/{name}", names["upload"])
    app.router.add_get("/{name}", names["download"])
    stored: bytearray = names["stored"]
    async with TestClient(TestServer(app)) as client:
        await _round_trip(client, stored)
        stored[-1] ^= 1
        broken = await client.get("/report")
        assert broken.status == 200
        await _assert_breaks(broken)
    routes = [Route("/{name}", names["starlette_upload"], methods=["PUT"])]
    async with _starlette_client(Starlette(routes=routes)) as http:
        stored.clear()
        assert (await http.put("/report", content=FIGURES)).status_code == 201
        assert (await decrypt(bytes(stored), names["provider"])).plaintext == FIGURES


async def _round_trip(client: TestClient[Any, Any], stored: bytearray) -> None:
    sent = await client.put("/report", data=FIGURES)
    assert sent.status == 201
    assert b"figures" not in stored
    assert await (await client.get("/report")).read() == FIGURES
    assert (await client.get("/another")).status == 500  # the context says otherwise


async def _assert_breaks(response: aiohttp.ClientResponse) -> None:
    try:
        await response.read()
    except aiohttp.ClientPayloadError:
        return
    raise AssertionError("the client took a part for the whole")


def _starlette_client(app: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page")


async def _serve_errors(names: dict[str, Any]) -> None:
    message, provider = names["message"], names["provider"]
    signed_end = message[:-1] + bytes([message[-1] ^ 1])
    long = (await encrypt(FIGURES, provider)).ciphertext
    impostors, _ = await encrypt(b"attack at dawn", names["impostor"])
    for stored, status in ((message, 200), (message[:10], 422), (b"nonsense", 422), (impostors, 500)):
        response = await _download(names, stored)
        assert response[0] == status, stored
    assert (await _download(names, message))[1] == b"attack at dawn"
    for broken in (signed_end, long[:-1]):
        status, body = await _download(names, broken)
        assert (status, body) == (200, None)
    attempt = Attempt("decrypt", "aws-kms", "key", ServiceError("slow down", retryable=True))
    assert isinstance(names["status"](ProviderError("failed", [attempt])), web.HTTPServiceUnavailable)


async def _download(names: dict[str, Any], stored: bytes) -> tuple[int, bytes | None]:
    """Return status and body, None for a connection that broke."""
    app = web.Application()
    app[STORED] = stored
    app.router.add_get("/", names["download"])
    async with TestClient(TestServer(app)) as client:
        response = await client.get("/")
        try:
            return response.status, await response.read()
        except aiohttp.ClientPayloadError:
            return response.status, None


async def _serve_kms(names: dict[str, Any]) -> None:
    async with TestClient(TestServer(names["app"])) as client:
        message = await (await client.post("/encrypt", data=FIGURES)).read()
    async with KMSMasterKeyProvider([names["EU"]]) as provider:
        assert (await decrypt(message, provider)).plaintext == FIGURES
    # httpx gives an application no lifespan, so its state comes from here.
    app = names["starlette_app"]
    async with app.router.lifespan_context(app) as state:
        transport = httpx.ASGITransport(_WithState(app, state))
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as http:
            message = (await http.post("/encrypt", content=FIGURES)).content
    async with KMSMasterKeyProvider([names["US"]]) as provider:
        assert (await decrypt(message, provider)).plaintext == FIGURES


class _WithState:
    def __init__(self, app: Starlette, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app({**scope, "state": dict(self._state)}, receive, send)
