"""Starlette and FastAPI: uploads that are encrypted, downloads that are decrypted, a provider for handlers.

What goes wrong before a response has begun is raised as it is, so that exception handlers can choose a
status. What goes wrong later breaks the connection: no client takes a part for the whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager

import anyio
from anyio.lowlevel import checkpoint

try:
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.exceptions import HTTPException
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response
    from starlette.types import Message, Receive, Scope, Send
except ImportError as _error:
    raise ImportError(
        "aioencrypt.integrations.asgi needs Starlette: pip install 'aioencrypt[asgi]'"
    ) from _error

from aioencrypt.client import EncryptionClient, Provider
from aioencrypt.format import AlgorithmSuite
from aioencrypt.integrations.http.conditions import (
    BodyMeter,
    Plan,
    Refusal,
    RequestHead,
    fields_of,
    plan_response,
)
from aioencrypt.integrations.http.download import Download, etag_of
from aioencrypt.policies import Limits, SignaturePolicy
from aioencrypt.providers.base import MasterKeyProvider
from aioencrypt.streams.encrypt import EncryptStream
from aioencrypt.streams.ranges import SeekableSource
from aioencrypt.streams.sources import Source


class UploadReader:
    """The body of a request as a source with a limit.

    Longer bodies are refused with 413: at once where `Content-Length` says it, otherwise when they
    exceed `max_length` bytes. Those that are not as long as they say are refused with 400. A client
    that hangs up raises Starlette's `ClientDisconnect`.
    """

    def __init__(self, request: Request, *, max_length: int | None) -> None:
        self._request = request
        self._meter = BodyMeter(fields_of(request.headers.items()), max_length)
        _check(self._meter.start())

    @property
    def length(self) -> int | None:
        """The exact length in bytes, where the request says it and it is enforced; otherwise None."""
        return self._meter.length

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Read what arrives, in pieces as they come."""
        async with aclosing(self._request.stream()) as body:
            async for chunk in body:
                _check(self._meter.add(len(chunk)))
                yield chunk
        _check(self._meter.end())

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.stream()


def _check(refusal: Refusal | None) -> None:
    if refusal:
        raise HTTPException(refusal.status, refusal.text)


def encrypt_upload(
    request: Request,
    provider: Provider,
    *,
    max_length: int | None,
    encryption_context: Mapping[str, str] | None = None,
    algorithm_suite: AlgorithmSuite | None = None,
    frame_length: int | None = None,
    client: EncryptionClient | None = None,
) -> EncryptStream:
    """Return a stream of the message that the body of a request is encrypted to; enter it with `async with`.

    What `UploadReader` refuses is raised here or from reads, as `HTTPException` 413 and 400. Other
    arguments and errors: `encrypt_stream`; the length of the plaintext is taken from the request.
    """
    reader = UploadReader(request, max_length=max_length)
    return (client or EncryptionClient()).encrypt_stream(
        reader,
        provider,
        encryption_context=encryption_context,
        algorithm_suite=algorithm_suite,
        frame_length=frame_length,
        plaintext_length=reader.length,
        plaintext_length_bound=max_length,
    )


class DecryptedResponse(Response):
    """Answers a request with the plaintext of a message, and closes the source.

    `source`: what `open_seekable` takes, for `Content-Length` and `Range`, or what `decrypt_stream`
    takes. `accept_unverified_signature`: answer `Range` on signed messages, too, though nobody verifies
    a signature without reading everything. `plaintext_length`: of a source without ranges, enforced.
    Other arguments: `decrypt_stream`, and Starlette's `Response`.

    Raises `ValueError` and `TypeError` here. The message is opened when the response is sent: then
    comes what `decrypt_stream` and the source raise. Up to the first bytes nothing was sent, and
    exception handlers can answer otherwise; after that the connection is broken. A client that hangs
    up ends the response quietly.
    """

    def __init__(
        self,
        source: Source | SeekableSource,
        provider: Provider,
        *,
        encryption_context: Mapping[str, str] | None = None,
        signature_policy: SignaturePolicy = SignaturePolicy.ALLOW,
        accept_unverified_signature: bool = False,
        limits: Limits | None = None,
        plaintext_length: int | None = None,
        media_type: str = "application/octet-stream",
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
        client: EncryptionClient | None = None,
    ) -> None:
        super().__init__(headers=headers, media_type=media_type, background=background)
        self._download = Download(
            source,
            provider,
            encryption_context=encryption_context,
            signature_policy=signature_policy,
            accept_unverified_signature=accept_unverified_signature,
            limits=limits,
            plaintext_length=plaintext_length,
            client=client,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        failure: Exception | None = None
        async with anyio.create_task_group() as group:

            async def end_with_the_client() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            async def send_to_the_client(message: Message) -> None:
                try:
                    await send(message)
                except OSError:  # the client has hung up
                    group.cancel_scope.cancel()
                    await checkpoint()

            group.start_soon(end_with_the_client)
            try:
                await self._answer(_head(scope), send_to_the_client)
            except Exception as error:  # raised below, outside the group, which would wrap it
                failure = error
            group.cancel_scope.cancel()
        if failure:
            try:
                raise failure
            finally:
                del failure
        if self.background is not None:
            await self.background()

    async def _answer(self, head: RequestHead, send: Send) -> None:
        begun = False

        async def begin(plan: Plan) -> None:
            nonlocal begun
            begun = True
            headers = [
                (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in plan.headers
            ]
            await send({"type": "http.response.start", "status": plan.status, "headers": headers})

        async def write(chunk: bytes) -> None:
            if not begun:
                await begin(plan)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

        async with self._download.opened(head) as message:
            plan = plan_response(
                head,
                etag=etag_of(message),
                length=message.length,
                ranges=message.ranges,
                headers=_decoded(self.raw_headers),
            )
            if plan.content:
                await message.write_to(write, plan.start, plan.end)
            else:
                message.abandon()
        if not begun:
            await begin(plan)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _head(scope: Scope) -> RequestHead:
    major, _, minor = scope.get("http_version", "1.1").partition(".")
    return RequestHead(scope["method"], (int(major), int(minor or 0)), fields_of(_decoded(scope["headers"])))


def _decoded(headers: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _encoded(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


@asynccontextmanager
async def open_provider(app: Starlette, provider: MasterKeyProvider) -> AsyncIterator[None]:
    """Open a provider for the handlers of an application: the body of a lifespan, or a part of it.

    Its clients are made before the first request, and closed after the last. `get_provider` returns it.
    """
    async with provider:
        await provider.warm_up()
        app.state.aioencrypt_provider = provider
        try:
            yield
        finally:
            del app.state.aioencrypt_provider


def get_provider(connection: HTTPConnection) -> MasterKeyProvider:
    """Return the provider that `open_provider` opened: a dependency for FastAPI, and for any handler.

    Raises `RuntimeError` where no lifespan has opened one.
    """
    provider = getattr(connection.app.state, "aioencrypt_provider", None)
    if provider is None:
        raise RuntimeError("no provider is open: use open_provider() in the lifespan of the application")
    found: MasterKeyProvider = provider
    return found
