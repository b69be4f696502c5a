"""The integration with aiohttp as a type checker sees it.

A line with `type: ignore` must be an error: mypy complains about each that is none.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_type

import aiohttp
from aiohttp import BodyPartReader, web

import aioencrypt.integrations.aiohttp as on_aiohttp
from aioencrypt import (
    AlgorithmSuite,
    CachingCMM,
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


async def uploads(request: web.Request, part: BodyPartReader) -> None:
    reader = on_aiohttp.UploadReader(request, max_length=None)
    on_aiohttp.UploadReader(part, max_length=10)
    assert_type(reader.length, int | None)
    assert_type(reader.stream(), AsyncGenerator[bytes, None])
    assert_type(aiter(reader), AsyncIterator[bytes])
    assert_type(client.encrypt_stream(reader, key), EncryptStream)
    stream = on_aiohttp.encrypt_upload(
        part,
        CachingCMM(key, max_age=60),
        max_length=5,
        encryption_context={"a": "b"},
        algorithm_suite=AlgorithmSuite(0x0478),
        frame_length=10,
        encryption_client=client,
    )
    assert_type(stream, EncryptStream)
    on_aiohttp.UploadReader(request)  # type: ignore[call-arg]
    on_aiohttp.encrypt_upload(request, key)  # type: ignore[call-arg]
    on_aiohttp.UploadReader(b"abc", max_length=None)  # type: ignore[arg-type]


async def downloads(request: web.Request, ranges: RangeSource) -> None:
    response = await on_aiohttp.decrypted_response(
        request,
        ranges,
        key,
        encryption_context={"a": "b"},
        signature_policy=SignaturePolicy.ALLOW,
        accept_unverified_signature=True,
        limits=Limits(),
        content_type="text/plain",
        headers={"X": "Y"},
        encryption_client=client,
        release=Release.VERIFIED,
        status=203,
        filename="report",
        etag="v7",
        last_modified=datetime.now(UTC),
    )
    assert_type(response, web.StreamResponse)
    assert_type(on_aiohttp.connection_broken(request), bool)
    assert_type(await on_aiohttp.form_part(request, "file"), BodyPartReader)
    await on_aiohttp.decrypted_response(request, request, key, last_modified=5.0)
    for source in (b"abc", Path("file"), request.content):
        await on_aiohttp.decrypted_response(request, source, key, plaintext_length=5)
    await on_aiohttp.decrypted_response(request, 5, key)  # type: ignore[arg-type]
    await on_aiohttp.decrypted_response(request, b"", key, {"a": "b"})  # type: ignore[call-arg]


async def providers(app: web.Application, request: web.Request) -> None:
    async with on_aiohttp.open_provider(app, key):
        assert_type(on_aiohttp.get_provider(request), MasterKeyProvider)
    on_aiohttp.open_provider(app, b"key")  # type: ignore[arg-type]


async def requests(session: aiohttp.ClientSession) -> None:
    made = on_aiohttp.encrypted_payload(b"abc", key, plaintext_length=3, content_type="text/plain")
    as_base: AbstractAsyncContextManager[on_aiohttp.EncryptedPayload] = made
    async with as_base as payload:
        assert_type(payload, on_aiohttp.EncryptedPayload)
        assert_type(payload.size, int | None)
        async with session.put("/", data=payload):
            pass
