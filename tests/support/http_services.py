"""Services for the tests of the HTTP integrations: the same in aiohttp and in Starlette, on a socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import uvicorn
from aiohttp import web
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

import aioencrypt.integrations.aiohttp as on_aiohttp
import aioencrypt.integrations.asgi as on_asgi
from aioencrypt import EncryptStream
from tests.support.streaming import KEY

Arguments = dict[str, Any]
Serve = Callable[..., AbstractAsyncContextManager[str]]


class Ranges:
    """A range source that counts."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.given = 0
        self.sizes = self.closed = 0

    async def size(self) -> int:
        self.sizes += 1
        return len(self.data)

    async def read_range(self, start: int, end: int, /) -> bytes:
        assert not self.closed
        await checkpoint()
        self.given += end - start
        return self.data[start:end]

    async def aclose(self) -> None:
        await checkpoint()  # as connections do, also when their task is being cancelled
        self.closed += 1


class Pieces:
    """An async iterator that counts, and can be closed."""

    def __init__(self, data: bytes, error: Exception | None = None) -> None:
        self.data = data
        self.error = error
        self.given = 0
        self.closed = 0

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        assert not self.closed
        await checkpoint()
        piece = self.data[self.given : self.given + 64 * 1024]
        if not piece:
            if self.error:
                raise self.error
            raise StopAsyncIteration
        self.given += len(piece)
        return piece

    async def aclose(self) -> None:
        await checkpoint()  # as connections do, also when their task is being cancelled
        self.closed += 1


class Service:
    """Answers GET with the plaintext of what `source` gives, and takes PUT, encrypted, with `store`.

    POST is answered with the plaintext of what `source_of` makes of the request.
    """

    def __init__(
        self,
        source: Callable[[], Any] = lambda: b"",
        store: Callable[[EncryptStream], Awaitable[None]] | None = None,
        *,
        provider: Any = KEY,
        max_length: int | None = None,
        pick: Callable[[Any], Awaitable[Any]] | None = None,
        source_of: Callable[[Any], Any] = lambda request: request,
        middleware: Sequence[Middleware] = (),
        handler_cancellation: bool = False,
        upload: Arguments | None = None,
        **options: Any,
    ) -> None:
        self.source = source
        self.store = store
        self.provider = provider
        self.max_length = max_length
        self.pick = pick
        self.source_of = source_of
        self.middleware = middleware
        self.handler_cancellation = handler_cancellation
        self.upload = upload or {}
        self.options = options
        self.errors: list[BaseException] = []
        self.ended = asyncio.Event()

    async def _stored(self, stream: EncryptStream) -> dict[str, Any]:
        async with stream:
            announced = stream.ciphertext_length
            assert self.store
            await self.store(stream)
        return {"announced": announced}

    @asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException as error:
            self.errors.append(error)
            raise
        finally:
            self.ended.set()

    # aiohttp

    async def _get_aiohttp(self, request: web.Request) -> web.StreamResponse:
        async with self._watched():
            return await on_aiohttp.decrypted_response(request, self.source(), self.provider, **self.options)

    async def _post_aiohttp(self, request: web.Request) -> web.StreamResponse:
        async with self._watched():
            source = self.source_of(request)
            return await on_aiohttp.decrypted_response(request, source, self.provider, **self.options)

    async def _put_aiohttp(self, request: web.Request) -> web.Response:
        async with self._watched():
            upload = await self.pick(request) if self.pick else request
            stream = on_aiohttp.encrypt_upload(
                upload, self.provider, max_length=self.max_length, **self.upload, **self.options
            )
            return web.json_response(await self._stored(stream))

    @asynccontextmanager
    async def on_aiohttp(self) -> AsyncIterator[str]:
        app = web.Application(client_max_size=0)
        app.router.add_get("/", self._get_aiohttp)
        app.router.add_put("/", self._put_aiohttp)
        app.router.add_post("/", self._post_aiohttp)
        runner = web.AppRunner(app, handler_cancellation=self.handler_cancellation)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
        finally:
            await runner.cleanup()

    # Starlette

    async def _get_asgi(self, request: Request) -> Response:
        try:
            response = on_asgi.DecryptedResponse(self.source(), self.provider, **self.options)
        except Exception as error:
            self.errors.append(error)
            raise
        return _Watched(response, self._watched)

    async def _post_asgi(self, request: Request) -> Response:
        response = on_asgi.DecryptedResponse(self.source_of(request), self.provider, **self.options)
        return _Watched(response, self._watched)

    async def _put_asgi(self, request: Request) -> Response:
        async with self._watched():
            upload = await self.pick(request) if self.pick else request
            stream = on_asgi.encrypt_upload(
                upload, self.provider, max_length=self.max_length, **self.upload, **self.options
            )
            return JSONResponse(await self._stored(stream))

    @asynccontextmanager
    async def on_asgi(self) -> AsyncIterator[str]:
        routes = [
            Route("/", self._get_asgi),
            Route("/", self._put_asgi, methods=["PUT"]),
            Route("/", self._post_asgi, methods=["POST"]),
        ]
        async with uvicorn_serves(Starlette(routes=routes, middleware=self.middleware)) as url:
            yield url

    def on(self, kind: str) -> AbstractAsyncContextManager[str]:
        """Serve on a socket; gives the URL."""
        return self.on_aiohttp() if kind == "aiohttp" else self.on_asgi()


class _Watched(Response):
    def __init__(self, response: Response, watch: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        super().__init__()
        self._response = response
        self._watch = watch

    async def __call__(self, *arguments: Any) -> None:
        async with self._watch():
            await self._response(*arguments)


@asynccontextmanager
async def uvicorn_serves(app: ASGIApp) -> AsyncIterator[str]:
    """Serve an application with uvicorn in this loop; gives the URL."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=1
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.startup(sockets=[listener])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            await _stop(server)


async def _stop(server: uvicorn.Server) -> None:
    """Do what the server's own `shutdown` does, without its sleeps."""
    for listening in server.servers:
        listening.close()
    async with asyncio.timeout(20):
        while server.server_state.connections or server.server_state.tasks:
            for connection in list(server.server_state.connections):
                connection.shutdown()
            await asyncio.sleep(0.001)
    await server.lifespan.shutdown()
