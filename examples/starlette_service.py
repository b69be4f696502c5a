"""A Starlette service that keeps uploads encrypted. In FastAPI the handlers are the same.

    PUT /files/NAME    encrypts the body as it arrives, into FOLDER/NAME
    GET /files/NAME    decrypts it as it leaves

    python starlette_service.py            sends a file to itself, in process, under a key of its own

To serve it, give `make_app` your provider and any ASGI server the application.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

import aioencrypt
from aioencrypt import MasterKeyProvider, RawAESMasterKey

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def stored(request: Request) -> Path:
    """Return where the file of a request lies."""
    name = request.path_params["name"]
    if not NAME.fullmatch(name):
        raise HTTPException(404)
    return Path(request.app.state.folder, name)


async def upload(request: Request) -> Response:
    """Encrypt the body of the request into a file, which appears when it is whole."""
    path = stored(request)
    context = {"name": path.name}
    writer = aioencrypt.open(path, "wb", provider=request.app.state.provider, encryption_context=context)
    async with writer, aclosing(request.stream()) as body:
        async for chunk in body:
            await writer.write(chunk)
    return JSONResponse({"name": path.name, "message_id": writer.header.message_id.hex()}, 201)


class DecryptedFile(Response):
    """Decrypts a file into the response.

    The stream lives as long as the response does, so it is opened and closed here, not in the handler
    and not in a generator. What is wrong with key or header is an error before the status line; what is
    wrong with the body breaks the connection, so that the client cannot take a part for the whole.
    """

    def __init__(self, path: Path, provider: MasterKeyProvider) -> None:
        super().__init__()
        self._path = path
        self._provider = provider

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = {"name": self._path.name}
        file = aioencrypt.open(self._path, "rb", provider=self._provider, encryption_context=context)
        try:
            async with file as stream:
                response = StreamingResponse(stream, media_type="application/octet-stream")
                await response(scope, receive, send)
                # Either everything was sent, and so verified, or the client has hung up.
                stream.abandon()
        except FileNotFoundError:
            raise HTTPException(404) from None


async def download(request: Request) -> Response:
    return DecryptedFile(stored(request), request.app.state.provider)


def make_app(provider: MasterKeyProvider, folder: Path) -> Starlette:
    """Return the service; it opens the provider when it starts and closes it when it ends."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with provider:
            await provider.warm_up()
            yield

    routes = [
        Route("/files/{name}", upload, methods=["PUT"]),
        Route("/files/{name}", download, methods=["GET"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.provider = provider
    app.state.folder = folder
    return app


async def main() -> None:
    provider = RawAESMasterKey("my-service", "key-2026", wrapping_key=secrets.token_bytes(32))
    data = secrets.token_bytes(3_000_000)
    with TemporaryDirectory() as name:
        app = make_app(provider, Path(name))
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            sent = await client.put("/files/report.bin", content=data)
            print(sent.status_code, sent.json())
            received = await client.get("/files/report.bin")
            print(received.status_code, f"{len(received.content):,} bytes")
            if received.content != data:
                raise SystemExit("the files differ")
            print("the same again")


if __name__ == "__main__":
    asyncio.run(main())
