"""The integration with Starlette and FastAPI as a type checker sees it.

A line with `type: ignore` must be an error: mypy complains about each that is none.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import assert_type

import httpx
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

import aioencrypt.integrations.asgi as on_asgi
from aioencrypt import (
    EncryptionClient,
    EncryptStream,
    Limits,
    MasterKeyProvider,
    RawAESMasterKey,
    Release,
    SignaturePolicy,
)
from aioencrypt.streams import RangeSource

key = RawAESMasterKey("tests", "typing", wrapping_key=bytes(32))
client = EncryptionClient()


async def uploads(request: Request, socket: WebSocket) -> None:
    reader = on_asgi.UploadReader(request, max_length=10)
    assert_type(reader.length, int | None)
    assert_type(reader.stream(), AsyncGenerator[bytes, None])
    assert_type(client.encrypt_stream(reader, key), EncryptStream)
    assert_type(
        on_asgi.encrypt_upload(request, key, max_length=None, encryption_client=client), EncryptStream
    )
    on_asgi.UploadReader(request)  # type: ignore[call-arg]
    on_asgi.encrypt_upload(socket, key, max_length=None)  # type: ignore[arg-type]


def downloads(ranges: RangeSource, request: Request, found: httpx.Response) -> Response:
    on_asgi.DecryptedResponse(b"abc", key)
    on_asgi.DecryptedResponse(request, key)
    on_asgi.DecryptedResponse(found, key)
    on_asgi.DecryptedResponse(on_asgi.UploadReader(request, max_length=None), key)
    on_asgi.DecryptedResponse("path", key, limits=Limits(), background=BackgroundTask(print))
    on_asgi.DecryptedResponse(5, key)  # type: ignore[arg-type]
    return on_asgi.DecryptedResponse(
        ranges,
        key,
        encryption_context={"a": "b"},
        signature_policy=SignaturePolicy.REQUIRE,
        accept_unverified_signature=True,
        media_type="text/plain",
        headers={"X": "Y"},
        encryption_client=client,
        release=Release.VERIFIED,
        status_code=203,
        filename="report",
        etag="v7",
        last_modified=5,
    )


async def providers(starlette: Starlette, fastapi: FastAPI, request: Request, socket: WebSocket) -> None:
    async with on_asgi.open_provider(starlette, key), on_asgi.open_provider(fastapi, key):
        assert_type(on_asgi.get_provider(request), MasterKeyProvider)
        assert_type(on_asgi.get_provider(socket), MasterKeyProvider)
    on_asgi.open_provider(starlette, b"key")  # type: ignore[arg-type]
