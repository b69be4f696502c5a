"""A web service that keeps uploads encrypted under AWS KMS.

    PUT /files/NAME    encrypts the body as it arrives, into FOLDER/NAME
    GET /files/NAME    decrypts it as it leaves

Run it with your own keys, one or several, and the standard AWS credentials:

    python upload_service.py FOLDER KEY_ARN [KEY_ARN ...]
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import anyio
from aiohttp import web

import aioencrypt
from aioencrypt import KMSMasterKeyProvider, MasterKeyProvider, encrypt_stream

PROVIDER = web.AppKey("provider", MasterKeyProvider)
FOLDER = web.AppKey("folder", Path)


async def upload(request: web.Request) -> web.Response:
    """Encrypt the body of the request into a file that appears only when it is whole."""
    name, folder = request.match_info["name"], request.app[FOLDER]
    partial = folder / f".{uuid4().hex}.partial"
    context = {"name": name}
    try:
        async with (
            encrypt_stream(request.content, request.app[PROVIDER], encryption_context=context) as stream,
            await anyio.open_file(partial, "wb") as file,
        ):
            async for chunk in stream:
                await file.write(chunk)
        await anyio.Path(partial).replace(folder / name)
    except BaseException:
        partial.unlink(missing_ok=True)  # at once: an await might be cancelled
        raise
    return web.json_response({"name": name, "message_id": stream.header.message_id.hex()}, status=201)


async def download(request: web.Request) -> web.StreamResponse:
    """Decrypt a file into the response.

    What is wrong with key or header is an error before the status line. What is wrong with the body
    breaks the connection, so that the client cannot take a part for the whole.
    """
    name, folder = request.match_info["name"], request.app[FOLDER]
    context = {"name": name}
    file = aioencrypt.open(folder / name, "rb", provider=request.app[PROVIDER], encryption_context=context)
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    try:
        async with file as stream:
            await response.prepare(request)
            async for chunk in stream:
                await response.write(chunk)
    except FileNotFoundError:
        raise web.HTTPNotFound from None
    await response.write_eof()
    return response


def make_app(provider: MasterKeyProvider, folder: Path) -> web.Application:
    """Return the service; it opens the provider when it starts and closes it when it ends."""

    async def open_provider(app: web.Application) -> AsyncIterator[None]:
        async with provider:
            await provider.warm_up()
            yield

    app = web.Application(client_max_size=0)
    app[PROVIDER] = provider
    app[FOLDER] = folder
    app.cleanup_ctx.append(open_provider)
    app.router.add_put("/files/{name:[A-Za-z0-9_-][A-Za-z0-9._-]*}", upload)
    app.router.add_get("/files/{name:[A-Za-z0-9_-][A-Za-z0-9._-]*}", download)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep uploads encrypted under AWS KMS.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("key_arn", nargs="+", help="the first key generates data keys; each one can decrypt")
    parser.add_argument("--endpoint-url", help="another KMS endpoint, for tests")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    try:
        provider = KMSMasterKeyProvider(arguments.key_arn, endpoint_url=arguments.endpoint_url)
    except ValueError as error:
        parser.error(str(error))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    web.run_app(make_app(provider, arguments.folder), host=arguments.host, port=arguments.port)


if __name__ == "__main__":
    main()
