"""Starlette and FastAPI: encrypt uploads, decrypt downloads, and open a provider for handlers.

Errors before the response starts are raised unchanged, so that exception handlers can choose a status.
Errors after that break the connection, so that no client takes a partial response for a complete one.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import datetime

import anyio
from anyio.lowlevel import checkpoint

from aioencrypt.runtime.secrets import hides_arguments

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
from aioencrypt.errors import StreamError
from aioencrypt.format import AlgorithmSuite
from aioencrypt.integrations.http.conditions import (
    BodyMeter,
    Plan,
    Refusal,
    RequestHead,
    check_status,
    descriptive_headers,
    fields_of,
)
from aioencrypt.integrations.http.download import Download
from aioencrypt.policies import Limits, Release, SignaturePolicy
from aioencrypt.providers.base import MasterKeyProvider
from aioencrypt.streams.encrypt import EncryptStream
from aioencrypt.streams.ranges import SeekableSource
from aioencrypt.streams.sources import Source

__all__ = ["DecryptedResponse", "UploadReader", "encrypt_upload", "get_provider", "open_provider"]


def __dir__() -> list[str]:
    return __all__


_logger = logging.getLogger("aioencrypt")
# How often a middleware is asked for a disconnect while it repeats a body that is complete.
_REPLAY_SECONDS = 1.0


class UploadReader:
    """The body of a request as a source with a length limit.

    A body longer than `max_length` bytes is rejected with 413, at once if its `Content-Length` says so. A
    body whose length does not match its headers is rejected with 400, and one with a `Content-Encoding`
    with 415; `accept_content_encoding=True` accepts it as it is, still encoded. If the client disconnects,
    Starlette's `ClientDisconnect` is raised.
    """

    def __init__(
        self, request: Request, *, max_length: int | None, accept_content_encoding: bool = False
    ) -> None:
        self._request = request
        self._meter = BodyMeter(
            fields_of(request.headers.items()), max_length, accept_content_encoding=accept_content_encoding
        )
        _check(self._meter.start())

    @property
    def length(self) -> int | None:
        """The exact length in bytes if the request states it and it is enforced; otherwise None."""
        return self._meter.length

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of the body as they arrive."""
        async with aclosing(self._request.stream()) as body:
            async for chunk in body:
                _check(self._meter.add(len(chunk)))
                yield chunk
        _check(self._meter.end())

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.stream()


def _check(refusal: Refusal | None) -> None:
    if refusal:
        raise HTTPException(refusal.status, refusal.text, headers=refusal.headers)


@hides_arguments
def encrypt_upload(
    request: Request,
    provider: Provider,
    *,
    max_length: int | None,
    encryption_context: Mapping[str, str] | None = None,
    algorithm_suite: AlgorithmSuite | None = None,
    frame_length: int | None = None,
    accept_content_encoding: bool = False,
    encryption_client: EncryptionClient | None = None,
) -> EncryptStream:
    """Return a stream of the message that the body of a request is encrypted to; enter it with `async with`.

    The plaintext length is taken from the request. Raises the `HTTPException` of `UploadReader`, here or
    from reads. Other arguments and errors: see `encrypt_stream`.
    """
    reader = UploadReader(request, max_length=max_length, accept_content_encoding=accept_content_encoding)
    return (encryption_client or EncryptionClient()).encrypt_stream(
        reader,
        provider,
        encryption_context=encryption_context,
        algorithm_suite=algorithm_suite,
        frame_length=frame_length,
        plaintext_length=reader.length,
        plaintext_length_bound=max_length,
    )


class DecryptedResponse(Response):
    """A response with the plaintext of a message; it closes the source.

    `source`: a source of `open_seekable` allows `Content-Length` and `Range`; sources of `decrypt_stream`
    work, too. `accept_unverified_signature`: also answer `Range` for signed messages, although partial
    reads cannot verify a signature. `release`: `Release.VERIFIED` sends nothing before everything is
    verified, and answers `Range` with the whole content. `plaintext_length`: the length for a source
    without ranges, enforced. `filename`: the name under which browsers save the content. `etag`,
    `last_modified`: the validators for conditions; by default the message id, and no date. Other arguments:
    see `decrypt_stream` and Starlette's `Response`.

    Raises `ValueError` and `TypeError` here. Sending the response opens the message and raises the errors
    of `decrypt_stream` and of the source. Before the first bytes, exception handlers may respond otherwise;
    after that, the connection is broken. If the client disconnects, the response ends quietly.
    """

    @hides_arguments
    def __init__(
        self,
        source: Source | SeekableSource,
        provider: Provider,
        *,
        encryption_context: Mapping[str, str] | None = None,
        signature_policy: SignaturePolicy = SignaturePolicy.ALLOW,
        accept_unverified_signature: bool = False,
        limits: Limits | None = None,
        release: Release = Release.STREAM,
        plaintext_length: int | None = None,
        status_code: int = 200,
        media_type: str = "application/octet-stream",
        filename: str | None = None,
        etag: str | None = None,
        last_modified: datetime | float | None = None,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
        encryption_client: EncryptionClient | None = None,
    ) -> None:
        check_status("status_code", status_code)
        super().__init__(
            status_code=status_code, headers=headers, media_type=media_type, background=background
        )
        described = descriptive_headers(headers, etag=etag, last_modified=last_modified, filename=filename)
        self.headers.update(dict(described))
        self._source_is_request = isinstance(source, Request | UploadReader)
        self._download = Download(
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        check_status("status_code", self.status_code)  # it may be set later
        head = _head(scope)
        failure: BaseException | None = None
        ended = False
        async with anyio.create_task_group() as group:
            client = _Client(receive, send, head.body_length, group.cancel_scope)
            if not self._may_read_request(head):
                client.watch()
            group.start_soon(client.wait_until_it_hangs_up)
            headers = _decoded(self.raw_headers)
            try:
                async with self._download.opened(head, headers, self.status_code) as answer:
                    client.expect(answer.plan)
                    await answer.write_to(client.write)
                await client.end()
                ended = True
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # raised below, outside the group, which would wrap it
                failure = error
                if isinstance(error, Exception):
                    await client.break_off(error)
            group.cancel_scope.cancel()
        if not (ended or failure or client.hung_up):
            failure = StreamError("the response was cancelled, and not by its caller")
            await client.break_off(failure)
        if failure:
            try:
                raise failure
            finally:
                del failure
        if self.background is not None:
            await self.background()

    def _may_read_request(self, head: RequestHead) -> bool:
        """Return whether the source may wait for messages of the request, which nobody else must take."""
        if self._download.ranged:
            return False
        return self._source_is_request or head.body_length != 0 or head.method not in ("GET", "HEAD")


class _Client:
    """Gets the response, which begins with the first bytes, or at the end; ends it by hanging up."""

    def __init__(
        self, receive: Receive, send: Send, body_length: int | None, response: anyio.CancelScope
    ) -> None:
        self._receive = receive
        self._send = send
        self._body_length = body_length
        self._response = response
        self._messages_are_ours = anyio.Event()
        self._plan = Plan(200, [])
        self._begun = False
        self._written = 0
        self.hung_up: bool = False

    def watch(self) -> None:
        """Take the messages of the request, one of which says that the client has hung up."""
        self._messages_are_ours.set()

    async def wait_until_it_hangs_up(self) -> None:
        await self._messages_are_ours.wait()
        complete = False
        while (message := await self._receive())["type"] != "http.disconnect":
            # A middleware that replays the body may answer at once, each time.
            await anyio.sleep(_REPLAY_SECONDS if complete else 0)
            complete = not message.get("more_body", False)
        self._hang_up()

    def _hang_up(self) -> None:
        self.hung_up = True
        self._response.cancel()

    def expect(self, plan: Plan) -> None:
        """Set the status and the headers, once the message is open."""
        self._plan = plan
        self._count(0)

    async def write(self, chunk: bytes) -> None:
        await self._begin()
        await self._pass_on({"type": "http.response.body", "body": chunk, "more_body": True})
        self._count(len(chunk))

    async def end(self) -> None:
        await self._begin()
        await self._pass_on({"type": "http.response.body", "body": b"", "more_body": False})

    async def break_off(self, failure: Exception) -> None:
        """Keep middleware from ending a response that failed as if it were complete.

        Starlette's `BaseHTTPMiddleware` sends an end after any error behind it, unless the last event says
        that a file follows. That event has no path here, so that no server takes it.
        """
        if not self._begun:
            return
        try:
            with suppress(Exception):  # what is raised is the failure
                await self._send({"type": "http.response.pathsend"})
        except BaseException:
            # The middleware fails, too, and its error hides ours.
            _logger.error("a response broke off: %r", failure)
            raise

    async def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            headers = [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in self._plan.headers
            ]
            status = self._plan.status
            await self._pass_on({"type": "http.response.start", "status": status, "headers": headers})

    async def _pass_on(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:  # the client has hung up
            self._hang_up()
            await checkpoint()

    def _count(self, written: int) -> None:
        self._written += written
        # A message is longer than its plaintext: if it is the body of the request, all of that was read.
        if self._body_length is not None and self._written >= self._body_length:
            self.watch()


def _head(scope: Scope) -> RequestHead:
    major, _, minor = scope.get("http_version", "1.1").partition(".")
    return RequestHead(scope["method"], (int(major), int(minor or 0)), fields_of(_decoded(scope["headers"])))


def _decoded(headers: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


@asynccontextmanager
async def open_provider(app: Starlette, provider: MasterKeyProvider) -> AsyncIterator[None]:
    """Open a provider for the handlers of an application; use it in the lifespan.

    The provider creates its clients before the first request and closes them after the last. `get_provider`
    returns it. Mounted applications have their own state: open a provider for each that needs one. Raises
    `RuntimeError` if the application has a provider already.
    """
    if hasattr(app.state, "aioencrypt_provider"):
        raise RuntimeError("this application has a provider: join several in a MultiMasterKeyProvider")
    async with provider:
        await provider.warm_up()
        app.state.aioencrypt_provider = provider
        try:
            yield
        finally:
            del app.state.aioencrypt_provider


def get_provider(connection: HTTPConnection) -> MasterKeyProvider:
    """Return the provider that `open_provider` opened; use it in handlers, or as a FastAPI dependency.

    Raises `RuntimeError` if no lifespan has opened one.
    """
    provider = getattr(connection.app.state, "aioencrypt_provider", None)
    if provider is None:
        raise RuntimeError("no provider is open: use open_provider() in the lifespan of the application")
    found: MasterKeyProvider = provider
    return found
