"""300 encryptions of 64 KiB at once, with a KMS in a process of its own that answers in 20 ms.

Warm: with clients that are there. Cold: what a program does first, with the clients to be made. Providers of
the official SDK must not be shared by threads, so each of its threads makes one of its own.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager

import ours
import plots
from common import KIB, SCALING, Cell, Report, cores, options, percentile, thread_scaling

from aioencrypt import KMSMasterKeyProvider

LATENCY = 0.02
MESSAGE = 64 * KIB
# As many as our own clients have.
_CONNECTIONS = 50
OURS, BARE = "ours", "bare GenerateDataKey"
DEFAULT_EXECUTOR, THREADS = "official SDK, default executor", "official SDK, 64 threads"
Call = Callable[[], Awaitable[object]]
Maker = Callable[[], AbstractAsyncContextManager[Call]]


@contextmanager
def kms() -> Iterator[str]:
    """Run the KMS, and point all AWS clients at it; yields the ARN of a key."""
    command = [sys.executable, "-m", "aioencrypt.testing.kms", "--latency", str(LATENCY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            url, key_arn = (process.stdout.readline().strip() for _ in range(2))
            os.environ.update(
                AWS_ENDPOINT_URL_KMS=url,
                AWS_ACCESS_KEY_ID="benchmarks",
                AWS_SECRET_ACCESS_KEY="benchmarks",
                AWS_DEFAULT_REGION=key_arn.split(":")[3],
                AWS_EC2_METADATA_DISABLED="true",
                AWS_CONFIG_FILE=os.devnull,
                AWS_SHARED_CREDENTIALS_FILE=os.devnull,
            )
            yield key_arn
        finally:
            process.terminate()


@asynccontextmanager
async def our_call(key_arn: str, data: bytes) -> AsyncIterator[Call]:
    """Yield our encryption."""
    async with KMSMasterKeyProvider([key_arn]) as provider:
        yield functools.partial(ours.CLIENT.encrypt, data, provider)


@asynccontextmanager
async def bare_call(key_arn: str) -> AsyncIterator[Call]:
    """Yield the call to KMS alone."""
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    config = AioConfig(max_pool_connections=_CONNECTIONS, retries={"mode": "standard"})
    async with get_session().create_client("kms", config=config) as client:
        yield functools.partial(client.generate_data_key, KeyId=key_arn, NumberOfBytes=32)


@asynccontextmanager
async def official_call(key_arn: str, data: bytes, threads: int | None) -> AsyncIterator[Call]:
    """Yield the official SDK, in an executor of its own or in the default one."""
    import aws_encryption_sdk

    client, local = aws_encryption_sdk.EncryptionSDKClient(), threading.local()

    def encrypt() -> None:
        if not hasattr(local, "provider"):
            local.provider = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[key_arn])
        client.encrypt(source=data, key_provider=local.provider)

    loop = asyncio.get_running_loop()
    # As large as the default one, which would stay.
    with ThreadPoolExecutor(threads or min(32, cores() + 4)) as executor:
        yield lambda: loop.run_in_executor(executor, encrypt)


async def together(call: Call, count: int, start: float) -> dict[str, float]:
    """Start so many calls at once; return calls in a second since `start`, and how long they took, in ms."""

    async def one() -> float:
        started = time.perf_counter()
        await call()
        return (time.perf_counter() - started) * 1000

    times = await asyncio.gather(*(one() for _ in range(count)))
    rate = count / (time.perf_counter() - start)
    return {"rate": rate, "p50": percentile(times, 0.5), "p99": percentile(times, 0.99)}


async def cold(make: Maker, count: int) -> dict[str, float]:
    """Do the same with clients that are made within the time."""
    start = time.perf_counter()
    async with make() as call:
        return await together(call, count, start)


async def measure(report: Report, key_arn: str, count: int, rounds: int) -> None:
    """Measure all in rounds."""
    data = ours.random_data(MESSAGE)
    cell = report.cell(count=count)
    makers: dict[str, Maker] = {
        BARE: functools.partial(bare_call, key_arn),
        OURS: functools.partial(our_call, key_arn, data),
    }
    if importlib.util.find_spec("aws_encryption_sdk"):
        for name, threads in {DEFAULT_EXECUTOR: None, THREADS: 64}.items():
            makers[name] = functools.partial(official_call, key_arn, data, threads)
    else:
        report.missing.append("official SDK")
    async with AsyncExitStack() as stack:
        calls = {name: await stack.enter_async_context(make()) for name, make in makers.items()}
        for call in calls.values():
            await together(call, count, 0)
        for _ in range(rounds):
            cell.add({SCALING: thread_scaling()})
            for name, call in calls.items():
                add(cell, f"{name}, warm", await together(call, count, time.perf_counter()))
                add(cell, f"{name}, cold", await cold(makers[name], count))


def add(cell: Cell, name: str, figures: dict[str, float]) -> None:
    """Add the figures of a contestant."""
    cell.add({f"{name}: {figure}": value for figure, value in figures.items()})


def show(report: Report) -> None:
    """Print what was measured."""
    cell = report.cells[0]
    for state in ("warm", "cold"):
        names = [name.removesuffix(": rate") for name in cell.samples if name.endswith(f"{state}: rate")]
        rows = [
            (
                name,
                f"{cell.of(f'{name}: rate'):.0f}",
                f"{cell.ratio(f'{OURS}, {state}: rate', f'{name}: rate')}",
                f"{cell.of(f'{name}: p50'):.0f}",
                f"{cell.of(f'{name}: p99'):.0f}",
            )
            for name in names
        ]
        headers = ("contestant", "per second", "ours / this", "p50, ms", "p99, ms")
        report.table(f"{cell.labels['count']} at once, {state}:", headers, rows)


def main() -> None:
    """Run the program."""
    quick = options(__doc__).quick
    report = Report("concurrency", quick)
    count, rounds = (8, 1) if quick else (300, 5)
    with kms() as key_arn:
        asyncio.run(measure(report, key_arn, count, rounds))
    show(report)
    report.save()
    plots.concurrency(report)


if __name__ == "__main__":
    main()
