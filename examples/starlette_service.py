"""A Starlette service that keeps uploads encrypted. In FastAPI the handlers are the same.

    GET /              a page to send files and get them back
    PUT /files/NAME    encrypts the body as it arrives, into FOLDER/NAME
    GET /files/NAME    decrypts it as it leaves, or the part of it that `Range` asks for

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
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

import aioencrypt
from aioencrypt import AlgorithmSuite, MasterKeyProvider, RawAESMasterKey
from aioencrypt.integrations.asgi import DecryptedResponse, UploadReader, get_provider, open_provider

# No file system takes names of more than 255 bytes, and a file has a longer one while it is written.
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
PAGE = Path(__file__).with_name("upload_page.html")
MAX_LENGTH = 1024**3
# This service alone writes and reads, so that a signature would tell it nothing, and would keep it from
# answering `Range`.
SUITE = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'"
}
# A stranger's file is never shown as a page of this site.
FILE_HEADERS = {"X-Content-Type-Options": "nosniff"}


async def page(request: Request) -> Response:
    return FileResponse(PAGE, headers=PAGE_HEADERS)


def stored(request: Request) -> Path:
    """Return where the file of a request lies."""
    name = request.path_params["name"]
    if not NAME.fullmatch(name):
        raise HTTPException(404)
    return Path(request.app.state.folder, name)


async def upload(request: Request) -> Response:
    """Encrypt the body of the request into a file, which appears when it is whole."""
    path = stored(request)
    reader = UploadReader(request, max_length=MAX_LENGTH)
    writer = aioencrypt.open(
        path,
        "wb",
        provider=get_provider(request),
        encryption_context={"name": path.name},
        algorithm_suite=SUITE,
        frame_length=64 * 1024,
        plaintext_length=reader.length,
    )
    async with writer, aclosing(reader.stream()) as body:
        async for chunk in body:
            await writer.write(chunk)
    return JSONResponse({"name": path.name, "message_id": writer.header.message_id.hex()}, 201)


async def download(request: Request) -> Response:
    """Decrypt a file into the response.

    What is wrong with key or header is an error before the status line. What is wrong with the body
    breaks the connection, so that the client cannot take a part for the whole.
    """
    path = stored(request)
    return DecryptedResponse(
        path,
        get_provider(request),
        encryption_context={"name": path.name},
        filename=path.name,
        headers=FILE_HEADERS,
    )


async def not_found(request: Request, error: Exception) -> Response:
    return Response("Not Found", 404)


def make_app(provider: MasterKeyProvider, folder: Path) -> Starlette:
    """Return the service; it opens the provider when it starts and closes it when it ends."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_provider(app, provider):
            yield

    routes = [
        Route("/", page),
        Route("/files/{name}", upload, methods=["PUT"]),
        Route("/files/{name}", download, methods=["GET"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={FileNotFoundError: not_found})
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
            part = await client.get("/files/report.bin", headers={"Range": "bytes=1000000-1999999"})
            print(part.status_code, f"{len(part.content):,} bytes")
            if received.content != data or part.content != data[1_000_000:2_000_000]:
                raise SystemExit("the files differ")
            print("the same again")


if __name__ == "__main__":
    asyncio.run(main())
