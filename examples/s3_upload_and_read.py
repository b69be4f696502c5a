"""Encrypt into S3 and read it back, whole and in parts; it runs anywhere, against a server that it starts.

    python s3_upload_and_read.py [--size MIB]

The server is moto's, which keeps everything in memory. With a client of your own account the same code
talks to AWS.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from aioencrypt import AlgorithmSuite, MasterKeyProvider, RawAESMasterKey
from aioencrypt.integrations.s3 import S3Client, open_encrypted, open_seekable_encrypted, put_encrypted

MIB = 1024 * 1024
BUCKET, KEY = "my-bucket", "backups/today"
CONTEXT = {"purpose": "backup"}


async def produce(size: int, digest: hashlib._Hash) -> AsyncIterator[bytes]:
    """Be a source whose length nobody knows: each megabyte begins with its number."""
    for number in range(size):
        piece = number.to_bytes(8, "big") + secrets.token_bytes(MIB - 8)
        digest.update(piece)
        yield piece


async def write(client: S3Client, provider: MasterKeyProvider, size: int) -> str:
    digest = hashlib.sha256()
    result = await put_encrypted(
        client,
        BUCKET,
        KEY,
        produce(size, digest),
        provider,
        encryption_context=CONTEXT,
        # Read at random later, which verifies no signature; longer frames are faster.
        algorithm_suite=AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
        frame_length=64 * 1024,
        metadata={"made-by": "an example"},
    )
    print(f"written: {result.ciphertext_length:,} bytes in {result.parts} part(s)")
    return digest.hexdigest()


async def read(client: S3Client, provider: MasterKeyProvider) -> str:
    digest = hashlib.sha256()
    async with open_encrypted(client, BUCKET, KEY, provider, encryption_context=CONTEXT) as stream:
        async for chunk in stream:
            digest.update(chunk)
    return digest.hexdigest()


async def look_up(client: S3Client, provider: MasterKeyProvider, number: int) -> int:
    """Read eight bytes in the middle; little more is fetched."""
    async with open_seekable_encrypted(client, BUCKET, KEY, provider) as stream:
        return int.from_bytes(await stream.read_at(number * MIB, 8), "big")


async def upload_that_breaks(client: S3Client, provider: MasterKeyProvider) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for piece in produce(10, hashlib.sha256()):
            yield piece
        raise ConnectionResetError("the sender hung up")

    await put_encrypted(client, BUCKET, "backups/broken", broken(), provider)


async def main(size: int) -> None:
    provider = RawAESMasterKey("my-backups", "key-2026", wrapping_key=secrets.token_bytes(32))
    async with s3_server() as endpoint, make_client(endpoint) as client:
        await client.create_bucket(Bucket=BUCKET)
        sent = await write(client, provider, size)
        if await read(client, provider) != sent:
            raise SystemExit("the digests differ")
        print("read:    the same again")
        if await look_up(client, provider, size // 2) != size // 2:
            raise SystemExit("the wrong bytes")
        print(f"read:    eight bytes of the {size} MiB")
        try:
            await upload_that_breaks(client, provider)
        except ConnectionResetError as error:
            left = (await client.list_multipart_uploads(Bucket=BUCKET)).get("Uploads", [])
            print(f"broken:  {error}; {len(left)} uploads are left")


@contextlib.asynccontextmanager
async def make_client(endpoint: str) -> AsyncIterator[Any]:
    # Bodies that are not signed need not be hashed in the event loop.
    config = AioConfig(retries={"mode": "standard"}, s3={"payload_signing_enabled": False})
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "example")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "example")
    session = get_session()
    async with session.create_client(
        "s3", region_name="us-east-1", endpoint_url=endpoint, config=config
    ) as client:
        yield client


@contextlib.asynccontextmanager
async def s3_server() -> AsyncIterator[str]:
    """Run moto's server in a process of its own; yields its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await until_it_listens(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def until_it_listens(port: int, process: asyncio.subprocess.Process) -> None:
    for _ in range(300):
        if process.returncode is not None:
            raise SystemExit(f"moto's server ended with {process.returncode}")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        await asyncio.sleep(0.1)
    raise SystemExit("moto's server does not answer")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Encrypt into S3 and read it back.")
    parser.add_argument("--size", type=int, default=32, metavar="MIB", help="32 by default")
    asyncio.run(main(parser.parse_args().size))
