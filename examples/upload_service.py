"""A web service that keeps uploads encrypted under AWS KMS.

    GET /              a page to send files and get them back
    PUT /files/NAME    encrypts the body as it arrives, into FOLDER/NAME
    GET /files/NAME    decrypts it as it leaves, or the part of it that `Range` asks for

Run it with your own keys, one or several, and the standard AWS credentials:

    python upload_service.py FOLDER KEY_ARN [KEY_ARN ...]
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

from aiohttp import web

import aioencrypt
from aioencrypt import AlgorithmSuite, AWSConnection, KMSMasterKeyProvider, MasterKeyProvider
from aioencrypt.integrations.aiohttp import (
    UploadReader,
    decrypted_response,
    get_provider,
    open_provider,
)

FOLDER = web.AppKey("folder", Path)
# No file system takes names of more than 255 bytes, and a file has a longer one while it is written.
NAME = "{name:[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}}"
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


async def page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(PAGE, headers=PAGE_HEADERS)


async def upload(request: web.Request) -> web.Response:
    """Encrypt the body of the request into a file, which appears when it is whole."""
    name = request.match_info["name"]
    reader = UploadReader(request, max_length=MAX_LENGTH)
    writer = aioencrypt.open(
        request.app[FOLDER] / name,
        "wb",
        provider=get_provider(request),
        encryption_context={"name": name},
        algorithm_suite=SUITE,
        frame_length=64 * 1024,
        plaintext_length=reader.length,
    )
    async with writer, aclosing(reader.stream()) as body:
        async for chunk in body:
            await writer.write(chunk)
    return web.json_response({"name": name, "message_id": writer.header.message_id.hex()}, status=201)


async def download(request: web.Request) -> web.StreamResponse:
    """Decrypt a file into the response.

    What is wrong with key or header is an error before the status line. What is wrong with the body
    breaks the connection, so that the client cannot take a part for the whole.
    """
    name = request.match_info["name"]
    try:
        return await decrypted_response(
            request,
            request.app[FOLDER] / name,
            get_provider(request),
            encryption_context={"name": name},
            filename=name,
            headers=FILE_HEADERS,
        )
    except FileNotFoundError:
        raise web.HTTPNotFound from None


def make_app(provider: MasterKeyProvider, folder: Path) -> web.Application:
    """Return the service; it opens the provider when it starts and closes it when it ends."""

    async def keep_provider(app: web.Application) -> AsyncIterator[None]:
        async with open_provider(app, provider):
            yield

    app = web.Application()
    app[FOLDER] = folder
    app.cleanup_ctx.append(keep_provider)
    app.router.add_get("/", page)
    app.router.add_put(f"/files/{NAME}", upload)
    app.router.add_get(f"/files/{NAME}", download)
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
        provider = KMSMasterKeyProvider(
            arguments.key_arn, connection=AWSConnection(kms=arguments.endpoint_url)
        )
    except ValueError as error:
        parser.error(str(error))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    web.run_app(make_app(provider, arguments.folder), host=arguments.host, port=arguments.port)


if __name__ == "__main__":
    main()
