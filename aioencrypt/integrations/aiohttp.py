"""aiohttp: encrypt uploads, decrypt downloads, and send encrypted request bodies.

Errors before the response starts are raised unchanged, so that a handler can choose a status. Errors after
that break the connection, so that no client takes a partial response for a complete one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime

import anyio

from aioencrypt.runtime.secrets import hides_arguments

try:
    from aiohttp import BodyPartReader, Payload, web
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_exceptions import HttpProcessingError
except ImportError as _error:
    raise ImportError(
        "aioencrypt.integrations.aiohttp needs aiohttp: pip install 'aioencrypt[aiohttp]'"
    ) from _error

from aioencrypt.client import EncryptionClient, Provider
from aioencrypt.errors import StreamClosedError, StreamError
from aioencrypt.format import AlgorithmSuite
from aioencrypt.integrations.http.conditions import (
    BodyMeter,
    Refusal,
    RequestHead,
    check_status,
    descriptive_headers,
    fields_of,
)
from aioencrypt.integrations.http.download import Answer, Download
from aioencrypt.policies import Limits, Release, SignaturePolicy
from aioencrypt.providers.base import MasterKeyProvider
from aioencrypt.runtime.offload import wait_shielded
from aioencrypt.streams.encrypt import EncryptStream
from aioencrypt.streams.ranges import SeekableSource
from aioencrypt.streams.sources import Source, open_source

__all__ = [
    "EncryptedPayload",
    "UploadReader",
    "connection_broken",
    "decrypted_response",
    "encrypt_upload",
    "encrypted_payload",
    "form_part",
    "get_provider",
    "open_provider",
]


def __dir__() -> list[str]:
    return __all__


_DEFAULT_TYPE = "application/octet-stream"
# What is raised while a body is parsed: forms in forms are a RecursionError in the end, and aiohttp up to
# 3.13 asserts that a form does not end early.
_MALFORMED = (
    web.RequestPayloadError,
    HttpProcessingError,
    ValueError,
    RuntimeError,
    AssertionError,
    EOFError,
)
_PLAIN_ENCODINGS = ("", "7bit", "8bit", "binary", "identity")


class UploadReader:
    """The body of a request, or a part of a multipart form, as a source with a length limit.

    A body longer than `max_length` bytes is rejected with 413, at once if its `Content-Length` says so. A
    malformed body, or one whose length does not match its headers, is rejected with 400. A body with a
    `Content-Encoding` is rejected with 415, because aiohttp does not notice a truncated compressed body;
    `accept_content_encoding=True` accepts it, decompressed by aiohttp. If the client disconnects, aiohttp's
    exception is raised.
    """

    def __init__(
        self,
        upload: web.BaseRequest | BodyPartReader,
        *,
        max_length: int | None,
        accept_content_encoding: bool = False,
    ) -> None:
        of_a_part = isinstance(upload, BodyPartReader)
        self._body = open_source(upload if isinstance(upload, BodyPartReader) else upload.content)
        fields = fields_of(upload.headers.items())
        if of_a_part:
            # What a part of a form says about its length, browsers do not, and nobody enforces.
            fields.pop("content-length", None)
        self._meter = BodyMeter(fields, max_length, accept_content_encoding=accept_content_encoding)
        self._max_length = max_length
        self._check(self._meter.start())
        if of_a_part and upload.headers.get("Content-Transfer-Encoding", "").lower() not in _PLAIN_ENCODINGS:
            raise web.HTTPUnsupportedMediaType(text="parts with a Content-Transfer-Encoding are not taken")

    @property
    def length(self) -> int | None:
        """The exact length in bytes if the request states it and it is enforced; otherwise None."""
        return self._meter.length

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of the body as they arrive."""
        while chunk := await self._read():
            self._check(self._meter.add(len(chunk)))
            yield chunk
        self._check(self._meter.end())

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.stream()

    async def _read(self) -> bytes:
        try:
            return await self._body.read()
        except _MALFORMED as error:
            raise web.HTTPBadRequest(text="the body is malformed") from error

    def _check(self, refusal: Refusal | None) -> None:
        if refusal and refusal.status == 413:
            raise web.HTTPRequestEntityTooLarge(
                max_size=self._max_length or 0, actual_size=self._meter.received, text=refusal.text
            )
        if refusal:
            kind = web.HTTPUnsupportedMediaType if refusal.status == 415 else web.HTTPBadRequest
            raise kind(text=refusal.text, headers=refusal.headers)


async def form_part(request: web.BaseRequest, name: str) -> BodyPartReader:
    """Return the part of a multipart form with this name, skipping the parts before it. Read it immediately.

    Raises `HTTPBadRequest` if the body is not a form, is malformed, or has no such part.
    """
    if not request.content_type.startswith("multipart/"):
        raise web.HTTPBadRequest(text="the body is not a form: send multipart/form-data")
    try:
        async for part in await request.multipart():
            # Parts that are forms themselves have no name.
            if isinstance(part, BodyPartReader) and part.name == name:
                return part
    except _MALFORMED as error:
        raise web.HTTPBadRequest(text="the form is malformed") from error
    raise web.HTTPBadRequest(text="the form lacks a part that is needed")


@hides_arguments
def encrypt_upload(
    upload: web.BaseRequest | BodyPartReader,
    provider: Provider,
    *,
    max_length: int | None,
    encryption_context: Mapping[str, str] | None = None,
    algorithm_suite: AlgorithmSuite | None = None,
    frame_length: int | None = None,
    accept_content_encoding: bool = False,
    encryption_client: EncryptionClient | None = None,
) -> EncryptStream:
    """Return a stream of the message that an upload is encrypted to; enter it with `async with`.

    `upload` is a request, or a part of a multipart form. The plaintext length is taken from the request.
    Raises the errors of `UploadReader`, here or from reads: `HTTPRequestEntityTooLarge`, `HTTPBadRequest`,
    `HTTPUnsupportedMediaType`. Other arguments and errors: see `encrypt_stream`.
    """
    reader = UploadReader(upload, max_length=max_length, accept_content_encoding=accept_content_encoding)
    return (encryption_client or EncryptionClient()).encrypt_stream(
        reader,
        provider,
        encryption_context=encryption_context,
        algorithm_suite=algorithm_suite,
        frame_length=frame_length,
        plaintext_length=reader.length,
        plaintext_length_bound=max_length,
    )


@hides_arguments
async def decrypted_response(
    request: web.BaseRequest,
    source: Source | SeekableSource,
    provider: Provider,
    *,
    encryption_context: Mapping[str, str] | None = None,
    signature_policy: SignaturePolicy = SignaturePolicy.ALLOW,
    accept_unverified_signature: bool = False,
    limits: Limits | None = None,
    release: Release = Release.STREAM,
    plaintext_length: int | None = None,
    status: int = 200,
    content_type: str = _DEFAULT_TYPE,
    filename: str | None = None,
    etag: str | None = None,
    last_modified: datetime | float | None = None,
    headers: Mapping[str, str] | None = None,
    encryption_client: EncryptionClient | None = None,
) -> web.StreamResponse:
    """Respond to a request with the plaintext of a message, and close the source; return the response.

    `source`: a source of `open_seekable` allows `Content-Length` and `Range`; sources of `decrypt_stream`
    work, too. `accept_unverified_signature`: also answer `Range` for signed messages, although partial
    reads cannot verify a signature. `release`: `Release.VERIFIED` sends nothing before everything is
    verified, and answers `Range` with the whole content. `plaintext_length`: the length for a source
    without ranges, enforced. `filename`: the name under which browsers save the content. `etag`,
    `last_modified`: the validators for conditions; by default the message id, and no date. `headers`:
    additional headers. Other arguments: see `decrypt_stream`.

    Raises the errors of `decrypt_stream` and of the source. Before the first bytes, nothing has been sent
    and the handler may respond otherwise; after that, the connection is broken and `connection_broken`
    returns True. If the client disconnects, aiohttp's exception is raised.
    """
    check_status("status", status)
    described = descriptive_headers(headers, etag=etag, last_modified=last_modified, filename=filename)
    given = [*(headers or {}).items(), *described]
    if "content-type" not in fields_of(given):
        given.append(("Content-Type", content_type))
    elif content_type != _DEFAULT_TYPE:
        raise ValueError("Content-Type is given twice: give content_type= or the header")
    download = Download(
        source,
        provider,
        encryption_context=encryption_context,
        signature_policy=signature_policy,
        accept_unverified_signature=accept_unverified_signature,
        limits=limits,
        release=release,
        plaintext_length=plaintext_length,
        encryption_client=encryption_client,
    )
    version = (request.version.major, request.version.minor)
    head = RequestHead(request.method, version, fields_of(request.headers.items()))
    return await _respond(request, download.opened(head, given, status))


async def _respond(
    request: web.BaseRequest, opening: AbstractAsyncContextManager[Answer]
) -> web.StreamResponse:
    response: web.StreamResponse | None = None

    async def write(chunk: bytes) -> None:
        assert response is not None
        if not response.prepared:
            await response.prepare(request)
        await response.write(chunk)

    try:
        async with opening as answer:
            response = web.StreamResponse(status=answer.plan.status, headers=answer.plan.headers)
            await answer.write_to(write)
    except BaseException:
        # Whatever a handler or a middleware makes of it: nothing can follow what was sent. Nothing is
        # awaited after this, because servers may cancel the handler of a connection that is gone.
        if response is not None and response.prepared and request.transport is not None:
            request.transport.abort()
        raise
    await response.prepare(request)
    await response.write_eof()
    return response


def connection_broken(request: web.BaseRequest) -> bool:
    """Return whether `decrypted_response` failed after the response had started.

    Then a handler that maps errors to statuses must raise the error unchanged, so that aiohttp logs it.
    """
    return request.transport is None or request.transport.is_closing()


class EncryptedPayload(Payload):
    """A request body that is encrypted while it is sent, once; created by `encrypted_payload`."""

    def __init__(self, stream: EncryptStream, content_type: str) -> None:
        super().__init__(stream, content_type=content_type)
        self._stream = stream
        self._begun = False
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    @property
    def size(self) -> int | None:
        """The length of the message in bytes, or None if it is not known."""
        return self._stream.ciphertext_length

    @property
    def consumed(self) -> bool:
        """Whether sending has started, so that the message cannot be sent again."""
        return self._begun

    @property
    def autoclose(self) -> bool:
        """True: `encrypted_payload` closes the stream."""
        return True

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Raise `TypeError`: the message is never in memory as a whole."""
        raise TypeError("an encrypted payload is sent while it is made, and cannot be had as a whole")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the message; raises `StreamError` the second time."""
        if self._begun:
            raise StreamError("this payload was sent before, at least in part: make another one")
        self._begun = True
        try:
            with self._scope:
                async for chunk in self._stream:
                    await writer.write(chunk)
                return
        finally:
            self._ended.set()
        raise StreamClosedError("the payload was left before it was sent")

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Send the message; raises `ValueError` if the request announces a different length."""
        if content_length is not None and content_length != self.size:
            length = "an unknown length" if self.size is None else f"{self.size} bytes"
            raise ValueError(f"Content-Length is {content_length}, and the message has {length}")
        await self.write(writer)

    async def stop(self) -> None:
        """Stop a request that is still sending, and wait until it has ended."""
        if self._begun:
            self._scope.cancel()
            await wait_shielded(self._ended)


@hides_arguments
def encrypted_payload(
    source: Source,
    provider: Provider,
    *,
    encryption_context: Mapping[str, str] | None = None,
    algorithm_suite: AlgorithmSuite | None = None,
    frame_length: int | None = None,
    plaintext_length: int | None = None,
    content_type: str = "application/octet-stream",
    encryption_client: EncryptionClient | None = None,
) -> AbstractAsyncContextManager[EncryptedPayload]:
    """Open an encrypted body for a client request: pass it as `data=`, and finish inside `async with`.

    If the plaintext length is known, the request has an exact `Content-Length`; otherwise it is chunked.
    The body can be sent only once: a request fails if a redirect or a retry needs it again. If the source
    fails, aiohttp raises `ClientConnectionError` with that error as its cause, and the server receives no
    complete request.

    Leaving before the body was sent completely raises `UnverifiedStreamError`. Arguments and errors: see
    `encrypt_stream`.
    """
    stream = (encryption_client or EncryptionClient()).encrypt_stream(
        source,
        provider,
        encryption_context=encryption_context,
        algorithm_suite=algorithm_suite,
        frame_length=frame_length,
        plaintext_length=plaintext_length,
    )
    return _sent_inside(stream, content_type)


@asynccontextmanager
async def _sent_inside(stream: EncryptStream, content_type: str) -> AsyncIterator[EncryptedPayload]:
    async with stream:
        payload = EncryptedPayload(stream, content_type)
        try:
            yield payload
        finally:
            await payload.stop()


class _Opened:
    def __init__(self, provider: MasterKeyProvider) -> None:
        self.provider: MasterKeyProvider | None = provider


_OPENED = web.AppKey("aioencrypt_provider", _Opened)


@asynccontextmanager
async def open_provider(app: web.Application, provider: MasterKeyProvider) -> AsyncIterator[None]:
    """Open a provider for the handlers of an application; use it in a function of `cleanup_ctx`.

    The provider creates its clients before the first request and closes them after the last. `get_provider`
    returns it. Raises `RuntimeError` if the application has a provider already.
    """
    if (before := app.get(_OPENED)) and before.provider:
        raise RuntimeError("this application has a provider: join several in a MultiMasterKeyProvider")
    async with provider:
        await provider.warm_up()
        # A started application cannot be changed, so clear the value instead of removing it.
        opened = app[_OPENED] = _Opened(provider)
        try:
            yield
        finally:
            opened.provider = None


def get_provider(request: web.Request) -> MasterKeyProvider:
    """Return the provider that `open_provider` opened for this application or one that contains it.

    Raises `RuntimeError` if none is open.
    """
    opened = request.config_dict.get(_OPENED)
    if opened is None or opened.provider is None:
        raise RuntimeError("no provider is open: use open_provider() in the cleanup_ctx of the application")
    found: MasterKeyProvider = opened.provider
    return found
