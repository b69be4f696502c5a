"""aiohttp: uploads that are encrypted, downloads that are decrypted, requests whose body is encrypted.

What goes wrong before a response has begun is raised as it is, so that a handler can choose a status.
What goes wrong later breaks the connection: no client takes a part for the whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio

try:
    from aiohttp import BodyPartReader, Payload, web
    from aiohttp.abc import AbstractStreamWriter
except ImportError as _error:
    raise ImportError(
        "aioencrypt.integrations.aiohttp needs aiohttp: pip install 'aioencrypt[aiohttp]'"
    ) from _error

from aioencrypt.client import EncryptionClient, Provider
from aioencrypt.errors import StreamClosedError, StreamError
from aioencrypt.format import AlgorithmSuite
from aioencrypt.integrations.http.conditions import (
    BodyMeter,
    Plan,
    Refusal,
    RequestHead,
    fields_of,
    plan_response,
)
from aioencrypt.integrations.http.download import Download, OpenMessage, etag_of
from aioencrypt.policies import Limits, SignaturePolicy
from aioencrypt.runtime.offload import wait_shielded
from aioencrypt.streams.encrypt import EncryptStream
from aioencrypt.streams.ranges import SeekableSource
from aioencrypt.streams.sources import Source

_READ_LENGTH = 256 * 1024
_PLAIN_ENCODINGS = ("", "7bit", "8bit", "binary", "identity")


class UploadReader:
    """The body of a request, or a part of a multipart form, as a source with a limit.

    Longer bodies are refused with 413: at once where `Content-Length` says it, otherwise when they
    exceed `max_length` bytes. Malformed ones, and those that are not as long as they say, are refused
    with 400. A client that hangs up raises what aiohttp raises.
    """

    def __init__(self, upload: web.BaseRequest | BodyPartReader, *, max_length: int | None) -> None:
        self._upload = upload
        # What a part of a form says about its length, browsers do not, and nobody enforces.
        of_a_part = isinstance(upload, BodyPartReader)
        self._meter = BodyMeter({} if of_a_part else fields_of(upload.headers.items()), max_length)
        self._max_length = max_length
        self._check(self._meter.start())
        if of_a_part and upload.headers.get("Content-Transfer-Encoding", "").lower() not in _PLAIN_ENCODINGS:
            raise web.HTTPUnsupportedMediaType(text="parts with a Content-Transfer-Encoding are not taken")

    @property
    def length(self) -> int | None:
        """The exact length in bytes, where the request says it and it is enforced; otherwise None."""
        return self._meter.length

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Read what arrives, in pieces as they come."""
        while chunk := await self._read():
            self._check(self._meter.add(len(chunk)))
            yield chunk
        self._check(self._meter.end())

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.stream()

    async def _read(self) -> bytes:
        try:
            if not isinstance(self._upload, BodyPartReader):
                return await self._upload.content.readany()
            chunk = await self._upload.read_chunk(_READ_LENGTH)
            if not chunk and not self._upload.at_eof():
                raise ValueError("the body ended before the part did")
        except (web.RequestPayloadError, ValueError) as error:
            raise web.HTTPBadRequest(text="the body is malformed") from error
        return bytes(chunk)

    def _check(self, refusal: Refusal | None) -> None:
        if refusal and refusal.status == 413:
            raise web.HTTPRequestEntityTooLarge(
                max_size=self._max_length or 0, actual_size=self._meter.received, text=refusal.text
            )
        if refusal:
            raise web.HTTPBadRequest(text=refusal.text)


def encrypt_upload(
    upload: web.BaseRequest | BodyPartReader,
    provider: Provider,
    *,
    max_length: int | None,
    encryption_context: Mapping[str, str] | None = None,
    algorithm_suite: AlgorithmSuite | None = None,
    frame_length: int | None = None,
    client: EncryptionClient | None = None,
) -> EncryptStream:
    """Return a stream of the message that an upload is encrypted to; enter it with `async with`.

    `upload` is a request, or a part of a multipart form. What `UploadReader` refuses is raised here or
    from reads: `HTTPRequestEntityTooLarge`, `HTTPBadRequest`. Other arguments and errors:
    `encrypt_stream`; the length of the plaintext is taken from the request.
    """
    reader = UploadReader(upload, max_length=max_length)
    return (client or EncryptionClient()).encrypt_stream(
        reader,
        provider,
        encryption_context=encryption_context,
        algorithm_suite=algorithm_suite,
        frame_length=frame_length,
        plaintext_length=reader.length,
        plaintext_length_bound=max_length,
    )


async def decrypted_response(
    request: web.BaseRequest,
    source: Source | SeekableSource,
    provider: Provider,
    *,
    encryption_context: Mapping[str, str] | None = None,
    signature_policy: SignaturePolicy = SignaturePolicy.ALLOW,
    accept_unverified_signature: bool = False,
    limits: Limits | None = None,
    plaintext_length: int | None = None,
    content_type: str = "application/octet-stream",
    headers: Mapping[str, str] | None = None,
    client: EncryptionClient | None = None,
) -> web.StreamResponse:
    """Answer a request with the plaintext of a message, and close the source; returns the response.

    `source`: what `open_seekable` takes, for `Content-Length` and `Range`, or what `decrypt_stream`
    takes. `accept_unverified_signature`: answer `Range` on signed messages, too, though nobody verifies
    a signature without reading everything. `plaintext_length`: of a source without ranges, enforced.
    `headers`: more of them. Other arguments: `decrypt_stream`.

    Raises what `decrypt_stream` raises, and what the source raises. Up to the first bytes nothing was
    sent, and the request can be answered otherwise; after that the connection is broken. A client
    that hangs up raises what aiohttp raises.
    """
    download = Download(
        source,
        provider,
        encryption_context=encryption_context,
        signature_policy=signature_policy,
        accept_unverified_signature=accept_unverified_signature,
        limits=limits,
        plaintext_length=plaintext_length,
        client=client,
    )
    version = (request.version.major, request.version.minor)
    head = RequestHead(request.method, version, fields_of(request.headers.items()))
    async with download.opened(head) as message:
        given = [("Content-Type", content_type), *(headers or {}).items()]
        plan = plan_response(
            head, etag=etag_of(message), length=message.length, ranges=message.ranges, headers=given
        )
        response = web.StreamResponse(status=plan.status, headers=plan.headers)
        if plan.content:
            await _write(request, response, message, plan)
        else:
            message.abandon()
    await response.prepare(request)
    await response.write_eof()
    return response


async def _write(
    request: web.BaseRequest, response: web.StreamResponse, message: OpenMessage, plan: Plan
) -> None:
    async def write(chunk: bytes) -> None:
        if not response.prepared:
            await response.prepare(request)
        await response.write(chunk)

    try:
        await message.write_to(write, plan.start, plan.end)
    except BaseException:
        # Whatever a handler or a middleware makes of it: nothing can follow what was sent.
        if response.prepared and request.transport is not None:
            request.transport.abort()
        raise


class EncryptedPayload(Payload):
    """The body of a request, encrypted while it is sent; made by `encrypted_payload`. It is sent once."""

    _autoclose = True

    def __init__(self, stream: EncryptStream, content_type: str) -> None:
        super().__init__(stream, content_type=content_type)
        self._stream = stream
        self._size = stream.ciphertext_length
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Raise `TypeError`: the message is never in memory as a whole."""
        raise TypeError("an encrypted payload is sent while it is made, and cannot be had as a whole")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the message; raises `StreamError` the second time."""
        if self._consumed:
            raise StreamError("this payload was sent before, at least in part: make another one")
        self._consumed = True
        try:
            with self._scope:
                async for chunk in self._stream:
                    await writer.write(chunk)
                return
        finally:
            self._ended.set()
        raise StreamClosedError("the payload was left before it was sent")

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Send the message; raises `ValueError` where the request promises another length."""
        if content_length is not None and content_length != self._size:
            raise ValueError(f"Content-Length is {content_length}, and the message has {self._size} bytes")
        await self.write(writer)

    async def stop(self) -> None:
        """End a request that still sends, and wait until it has."""
        if self._consumed:
            self._scope.cancel()
            await wait_shielded(self._ended)


@asynccontextmanager
async def encrypted_payload(
    source: Source,
    provider: Provider,
    *,
    encryption_context: Mapping[str, str] | None = None,
    algorithm_suite: AlgorithmSuite | None = None,
    frame_length: int | None = None,
    plaintext_length: int | None = None,
    content_type: str = "application/octet-stream",
    client: EncryptionClient | None = None,
) -> AsyncIterator[EncryptedPayload]:
    """Open a body for a client's request, to be given as `data=`; the request has to end inside.

    Where `plaintext_length` is given, or known as it is of bytes, the request has the exact
    `Content-Length`; otherwise it is sent in chunks. It is sent once: where a redirect or a retry asks
    for it again, the request fails. If the source fails while it is sent, aiohttp raises a
    `ClientConnectionError` with that error as its cause, and the server gets no complete request.

    Leaving it before it was sent as a whole raises `UnverifiedStreamError`, as of every encrypt stream.
    Arguments and errors: `encrypt_stream`.
    """
    stream = (client or EncryptionClient()).encrypt_stream(
        source,
        provider,
        encryption_context=encryption_context,
        algorithm_suite=algorithm_suite,
        frame_length=frame_length,
        plaintext_length=plaintext_length,
    )
    async with stream:
        payload = EncryptedPayload(stream, content_type)
        try:
            yield payload
        finally:
            await payload.stop()
