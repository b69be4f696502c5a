"""The main job, on this machine, without an account.

Starts a KMS (moto, over HTTP), creates two keys in two regions, starts the service of
`upload_service.py`, uploads a file to it and downloads it again from another process, compares, and
lets the official Python SDK decrypt what was stored.

    python demo.py [FILE] [--size MIB]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import psutil
from aiobotocore.session import get_session
from aiohttp import web
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from upload_service import make_app

from aioencrypt import AWSConnection, KMSMasterKeyProvider

MIB = 1024 * 1024
REGIONS = ("us-east-1", "eu-west-1")
TICK = 0.001


async def client(method: str, url: str, path: Path) -> None:
    """Be the other process: upload or download, and report progress as lines of JSON."""
    digest = hashlib.sha256()
    done = reported = 0

    def count(chunk: bytes) -> None:
        nonlocal done, reported
        digest.update(chunk)
        done += len(chunk)
        if done - reported >= 2 * MIB:
            reported = done
            print(json.dumps({"done": done}), flush=True)

    async def body() -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, MIB):
                count(chunk)
                yield chunk

    timeout = aiohttp.ClientTimeout(total=None)
    start = time.perf_counter()
    async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session:
        if method == "upload":
            await session.put(url, data=body())
        else:
            async with session.get(url) as response:
                async for chunk in response.content.iter_any():
                    count(chunk)
    seconds = time.perf_counter() - start
    print(json.dumps({"done": done, "sha256": digest.hexdigest(), "seconds": seconds}), flush=True)


async def transfer(method: str, url: str, path: Path, size: int) -> tuple[str, float]:
    """Run the client process and show its progress; returns digest and seconds."""
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--client", method, "--url", url, str(path), stdout=asyncio.subprocess.PIPE
    )
    report: dict[str, Any] = {}
    with Progress(*columns, console=Console()) as progress:
        task = progress.add_task(method, total=size)
        assert process.stdout
        async for line in process.stdout:
            report = json.loads(line)
            progress.update(task, completed=report["done"])
    if await process.wait() or "sha256" not in report:
        raise SystemExit(f"the {method} failed")
    return report["sha256"], report["seconds"]


@contextlib.asynccontextmanager
async def loop_delays() -> AsyncIterator[list[float]]:
    """Measure how late a timer of one millisecond fires, in milliseconds."""
    delays: list[float] = []

    async def tick() -> None:
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            delays.append((time.perf_counter() - due) * 1000)

    task = asyncio.create_task(tick())
    try:
        yield delays
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def kms_server() -> AsyncIterator[str]:
    """Run moto's server in a process of its own; yields its URL."""
    port = free_port()
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


def create_keys(endpoint: str) -> list[str]:
    clients = [boto3.client("kms", region_name=region, endpoint_url=endpoint) for region in REGIONS]
    return [client.create_key()["KeyMetadata"]["Arn"] for client in clients]


@contextlib.asynccontextmanager
async def service(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def official_digest(path: Path, keys: list[str]) -> str:
    """Decrypt a file with the official SDK."""
    import aws_encryption_sdk

    provider = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=keys)
    digest = hashlib.sha256()
    sdk = aws_encryption_sdk.EncryptionSDKClient()
    with path.open("rb") as source, sdk.stream(mode="d", source=source, key_provider=provider) as stream:
        while chunk := stream.read(64 * 1024):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def plaintext_file(given: Path | None, size: int, folder: Path) -> Iterator[Path]:
    if given:
        yield given
        return
    path = folder / "plaintext"
    with path.open("wb") as file:
        for _ in range(size):
            file.write(os.urandom(MIB))
    yield path


def check_same(*, sent: str, received: str, official: str) -> None:
    if not sent == received == official:
        raise SystemExit(f"digests differ: sent {sent}, received {received}, official SDK {official}")


def peak_memory() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


async def demo(given: Path | None, size: int) -> None:
    console = Console()
    with tempfile.TemporaryDirectory() as name, plaintext_file(given, size, Path(name)) as plaintext:
        folder = Path(name) / "store"
        folder.mkdir()
        length = plaintext.stat().st_size
        async with kms_server() as endpoint:
            keys = await asyncio.to_thread(create_keys, endpoint)
            console.print(f"KMS on {endpoint}, keys:", *keys, sep="\n  ")
            session = get_session()
            calls: list[str] = []
            session.register("before-call.kms", lambda model, **_: calls.append(model.name))
            provider = KMSMasterKeyProvider(keys, connection=AWSConnection(session=session, kms=endpoint))
            async with service(make_app(provider, folder)) as url, loop_delays() as delays:
                idle = psutil.Process().memory_info().rss / MIB
                await asyncio.sleep(0.5)
                delays.clear()
                up, up_seconds = await transfer("upload", f"{url}/files/demo", plaintext, length)
                down, down_seconds = await transfer("download", f"{url}/files/demo", plaintext, length)
            stored = folder / "demo"
            report(console, length, stored.stat().st_size, (up_seconds, down_seconds), calls, delays, idle)
            os.environ["AWS_ENDPOINT_URL_KMS"] = endpoint
            official = await asyncio.to_thread(official_digest, stored, keys)
        check_same(sent=up, received=down, official=official)
        console.print(f"sha256 {up}: sent, received and decrypted by the official SDK, all the same.")


def report(
    console: Console,
    plaintext: int,
    stored: int,
    seconds: tuple[float, float],
    calls: list[str],
    delays: list[float],
    idle: float,
) -> None:
    rates = [plaintext / MIB / duration for duration in seconds]
    p99 = statistics.quantiles(delays, n=100)[98]
    counts = ", ".join(f"{calls.count(name)} {name}" for name in dict.fromkeys(calls))
    console.print(f"plaintext {plaintext:,} bytes, stored {stored:,} bytes ({stored - plaintext:,} more)")
    console.print(f"upload {rates[0]:,.0f} MiB/s, download {rates[1]:,.0f} MiB/s, over HTTP on loopback")
    console.print(f"{len(calls)} KMS calls: {counts}")
    console.print(f"event loop delay of the service: p99 {p99:.1f} ms, max {max(delays):.1f} ms")
    console.print(
        f"peak memory of the service: {peak_memory():.0f} MiB, {peak_memory() - idle:.0f} above idle"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Encrypt an upload and decrypt a download, end to end.")
    parser.add_argument("file", type=Path, nargs="?", help="the file to send; without it one is made")
    parser.add_argument("--size", type=int, default=256, help="MiB of the file that is made (default 256)")
    parser.add_argument("--client", choices=("upload", "download"), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        asyncio.run(client(arguments.client, arguments.url, arguments.file))
        return
    if arguments.file and not arguments.file.is_file():
        parser.error(f"{arguments.file} is not a file")
    # The account that moto makes up; nothing leaves this machine.
    os.environ.update(
        AWS_ACCESS_KEY_ID="demo",
        AWS_SECRET_ACCESS_KEY="demo",
        AWS_DEFAULT_REGION=REGIONS[0],
        AWS_EC2_METADATA_DISABLED="true",
    )
    asyncio.run(demo(arguments.file, arguments.size))


if __name__ == "__main__":
    main()
