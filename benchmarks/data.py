"""Where encrypted data lives: random reads of a file, rewrapping it, and HTTP services that keep uploads.

Random reads stand beside one `os.pread` hop for each of the same ranges, rewrapping beside a copy of the
file, and the services beside the same ones without encryption.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import ours
import plots
import service
from common import GIB, KIB, MIB, Cell, Report, one_round, options, percentile, seconds, size

from aioencrypt import AlgorithmSuite, CommitmentPolicy, EncryptionClient, RawAESMasterKey
from aioencrypt.errors import ProviderError
from aioencrypt.format.frames import FRAME_OVERHEAD
from aioencrypt.rewrap import rewrap_file
from aioencrypt.runtime.offload import in_file_thread
from aioencrypt.streams.ranges import FileRangeSource

FRAME = PART = 64 * KIB
READS, OURS, PREAD, PREAD_IN_OUR_HOP = "random reads", "ours", "pread, to_thread", "pread, our hop"
FRAMES_OF_A_READ, HEADERS, FINAL_FRAMES = "frames of a read, most", "header", "final frame"
REWRAP, COPY = "rewrap", "copy and fsync"
IN_PLACE, COPIED, REENCRYPTED = "version 1, in place", "version 1, copied", "version 2, re-encrypted"
SERVICE, ENCRYPTED, PLAIN = "service", "encrypted", "plain"
UPLOADS, DOWNLOADS, ALL = "uploads", "downloads", "all"
P99, RATE, MEMORY = "p99, ms", "MB/s", "memory, MiB"
NEEDS = {service.AIOHTTP: ("aiohttp",), service.STARLETTE: ("aiohttp", "starlette", "uvicorn")}
NEW_KEY = RawAESMasterKey(ours.NAMESPACE, "new", wrapping_key=ours.KEY_BYTES[::-1])
V1_SUITE = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256
V1_CLIENT = EncryptionClient(commitment_policy=CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT)
# The plaintext repeats, so that any part of it is known, but never at the place of another frame.
_BLOCK = ours.random_data(MIB + 1)
_REPEATED = _BLOCK * 2

Range = tuple[int, int]
Hop = Callable[[Callable[[], bytes]], Awaitable[bytes]]


@attrs.frozen
class Sizes:
    """How much is measured."""

    length: int
    reads: int
    rounds: int
    uploads: int
    upload: int


FULL, QUICK = Sizes(GIB, 1000, 5, 100, 10 * MIB), Sizes(4 * MIB, 20, 1, 5, MIB)


# A file to read and to rewrap


def plaintext(start: int, length: int) -> bytes:
    """Return a part of the plaintext, of up to a megabyte."""
    at = start % len(_BLOCK)
    return _REPEATED[at : at + length]


async def make(path: Path, length: int, client: EncryptionClient, suite: AlgorithmSuite) -> None:
    """Write the message."""
    opened = client.open(path, "wb", provider=ours.KEY, algorithm_suite=suite, frame_length=FRAME)
    async with opened as writer:
        for start in range(0, length, MIB):
            await writer.write(plaintext(start, min(MIB, length - start)))


class CountingFile(FileRangeSource):
    """A file that remembers what is read of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.ranges: list[Range] = []

    async def read_range(self, start: int, end: int, /) -> bytes:
        self.ranges.append((start, end))
        return await super().read_range(start, end)


async def fetched(path: Path, offsets: Sequence[int], figures: dict[str, float]) -> list[Range]:
    """Read and compare, and count; return the ranges that were read, one for each read."""
    file = CountingFile(path)
    length = await file.size()
    ranges: list[Range] = []
    async with ours.CLIENT.open_seekable(file, ours.KEY) as stream:
        opening, frames = list(file.ranges), [0]
        for offset in offsets:
            file.ranges.clear()
            assert await stream.read_at(offset, PART) == plaintext(offset, PART), "the results differ"
            if file.ranges:
                count, rest = divmod(sum(end - start for start, end in file.ranges), FRAME + FRAME_OVERHEAD)
                assert not rest, "a part of a frame was fetched"
                frames.append(count)
                ranges.append((file.ranges[0][0], file.ranges[-1][1]))
    everything = opening + ranges
    figures[FRAMES_OF_A_READ] = max(frames)
    figures[HEADERS] = sum(start == 0 for start, _ in everything)
    figures[FINAL_FRAMES] = sum(end == length for _, end in everything)
    return everything


async def by_us(path: Path, offsets: Sequence[int]) -> float:
    """Read parts of the plaintext; returns seconds."""
    start = time.perf_counter()
    async with ours.CLIENT.open_seekable(path, ours.KEY) as stream:
        for offset in offsets:
            assert len(await stream.read_at(offset, PART)) == PART
    return time.perf_counter() - start


async def by_pread(path: Path, ranges: Sequence[Range], hop: Hop) -> float:
    """Read ranges of the file, each in a hop to a thread; returns seconds."""
    await hop(bytes)  # there is a thread
    start = time.perf_counter()
    descriptor = os.open(path, os.O_RDONLY)
    for first, end in ranges:
        assert len(await hop(functools.partial(os.pread, descriptor, end - first, first))) == end - first
    os.close(descriptor)
    return time.perf_counter() - start


def readers(path: Path, offsets: Sequence[int], ranges: Sequence[Range]) -> dict[str, Callable[[], float]]:
    """Return what reads at these offsets, and these ranges."""
    return {
        OURS: lambda: ours.run(by_us(path, offsets)),
        PREAD: lambda: ours.run(by_pread(path, ranges, asyncio.to_thread)),
        PREAD_IN_OUR_HOP: lambda: ours.run(by_pread(path, ranges, in_file_thread)),
    }


def measure_reads(report: Report, path: Path, sizes: Sizes) -> None:
    """Read at random, elsewhere in each round."""
    cell = report.cell(what=READS, length=sizes.length, reads=sizes.reads)
    choice = random.Random(1)
    for number in range(2 * sizes.rounds):
        offsets = [choice.randrange(sizes.length - PART) for _ in range(sizes.reads)]
        figures: dict[str, float] = {}
        ranges = ours.run(fetched(path, offsets, figures))
        cell.add({**one_round(readers(path, offsets, ranges), number), **figures})


# Rewrapping


async def rewrapped(path: Path, reencrypted: bool, **options: Any) -> float:
    """Rewrap to the new key; returns seconds."""
    start = time.perf_counter()
    result = await rewrap_file(path, ours.KEY, new_provider=NEW_KEY, **options)
    taken = time.perf_counter() - start
    assert result.reencrypted is reencrypted
    return taken


async def check(path: Path, length: int) -> None:
    """See that all of the plaintext is there under the new key, and nothing under the old one."""
    position = 0
    async with V1_CLIENT.open(path, "rb", provider=NEW_KEY) as stream:
        async for chunk in stream:
            for start in range(0, len(chunk), MIB):
                part = chunk[start : start + MIB]
                assert part == plaintext(position, len(part)), "the plaintext differs"
                position += len(part)
    assert position == length
    try:
        async with V1_CLIENT.open(path, "rb", provider=ours.KEY):
            pass
    except ProviderError:
        return
    raise AssertionError("the old key opens it still")


def rewrapping(path: Path, length: int, target: Path, reencrypted: bool, **options: Any) -> float:
    """Rewrap into a file of its own, and look at it; returns seconds of the first."""
    taken = ours.run(rewrapped(path, reencrypted, destination=target, **options))
    ours.run(check(target, length))
    target.unlink()
    return taken


def in_place(path: Path, length: int) -> float:
    """Rewrap a file in its place, look at it, and rewrap it back; returns seconds of the first."""
    before = path.stat()
    taken = ours.run(rewrapped(path, False, in_place=True, encryption_client=V1_CLIENT))
    after = path.stat()
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)
    ours.run(check(path, length))
    ours.run(rewrap_file(path, NEW_KEY, new_provider=ours.KEY, in_place=True, encryption_client=V1_CLIENT))
    return taken


def copying(path: Path, target: Path) -> float:
    """Copy a file to the disk; returns seconds."""

    def copy() -> None:
        shutil.copyfile(path, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())

    taken = seconds(copy)
    target.unlink()
    return taken


def measure_rewrap(report: Report, v1: Path, v2: Path, sizes: Sizes) -> None:
    """Rewrap to another key in all three ways."""
    cell, target, length = report.cell(what=REWRAP, length=sizes.length), v1.with_name("target"), sizes.length
    contestants: dict[str, Callable[[], float]] = {
        COPY: lambda: copying(v2, target),
        IN_PLACE: lambda: in_place(v1, length),
        COPIED: lambda: rewrapping(v1, length, target, False, encryption_client=V1_CLIENT),
        REENCRYPTED: lambda: rewrapping(v2, length, target, True),
    }
    for number in range(sizes.rounds):
        os.sync()  # what others wrote is no part of it
        cell.add(one_round(contestants, number))


# Services


@attrs.frozen
class Uploads:
    """What is sent: the same bytes, each time turned a little further, and their digests."""

    data: memoryview
    digests: list[bytes]

    def parts(self, number: int) -> tuple[memoryview, memoryview]:
        """Return an upload as two parts."""
        return self.data[number * 4099 :], self.data[: number * 4099]


def make_uploads(sizes: Sizes) -> Uploads:
    """Make what is sent."""
    uploads = Uploads(memoryview(ours.random_data(sizes.upload)), [])
    for number in range(sizes.uploads):
        uploads.digests.append(hashlib.sha256(b"".join(uploads.parts(number))).digest())
    return uploads


@contextmanager
def serving(framework: str, mode: str, folder: Path) -> Iterator[str]:
    """Run a service in a process of its own; yields its URL."""
    command = [sys.executable, str(Path(__file__).with_name("service.py")), framework, str(folder)]
    command += ["--plain"] if mode == PLAIN else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


async def put(session: Any, uploads: Uploads, number: int) -> None:
    """Send an upload."""

    async def body() -> AsyncIterator[memoryview]:
        for part in uploads.parts(number):
            for start in range(0, len(part), PART):
                yield part[start : start + PART]

    headers = {"Content-Length": str(len(uploads.data))}
    async with session.put(f"/files/{number}", data=body(), headers=headers) as response:
        assert response.status == 201, response.status


async def get(session: Any, uploads: Uploads, number: int) -> None:
    """Get an upload back in two ranges, and compare digests."""
    digest, middle = hashlib.sha256(), len(uploads.data) // 2 + number * 4099
    for asked in (f"0-{middle - 1}", f"{middle}-"):
        async with session.get(f"/files/{number}", headers={"Range": f"bytes={asked}"}) as response:
            assert response.status == 206, response.status
            async for chunk in response.content.iter_any():
                digest.update(chunk)
    assert digest.digest() == uploads.digests[number], "the digests differ"


async def load(url: str, uploads: Uploads) -> dict[str, float]:
    """Send everything at once, then get everything at once; return figures of the service."""
    import aiohttp

    figures: dict[str, float] = {}
    delays: list[float] = []
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        await put(session, uploads, 0)
        await get(session, uploads, 0)
        for what, action in ((UPLOADS, put), (DOWNLOADS, get)):
            async with session.post("/begin"):
                start = time.perf_counter()
            await asyncio.gather(*(action(session, uploads, n) for n in range(len(uploads.digests))))
            taken = time.perf_counter() - start
            async with session.get("/figures") as response:
                found = await response.json()
            delays += found["delays"]
            figures[f"{what}: {P99}"] = percentile(found["delays"], 0.99)
            figures[f"{what}: {RATE}"] = len(uploads.data) * len(uploads.digests) / taken / 1e6
            figures[f"{what}: {MEMORY}"] = found["memory"]
    figures[f"{ALL}: {P99}"] = percentile(delays, 0.99)
    return figures


def measure_services(report: Report, sizes: Sizes) -> None:
    """Load each service in both modes, in alternating order."""
    uploads = make_uploads(sizes)
    modes = [ENCRYPTED, PLAIN]
    for framework, needs in NEEDS.items():
        missing = [name for name in needs if not importlib.util.find_spec(name)]
        if missing:
            report.missing += sorted(set(missing) - set(report.missing))
            continue
        cell = report.cell(what=SERVICE, framework=framework, uploads=sizes.uploads, size=sizes.upload)
        for _ in range(min(3, sizes.rounds)):
            for mode in modes:
                with TemporaryDirectory() as folder, serving(framework, mode, Path(folder)) as url:
                    figures = ours.run(load(url, uploads))
                cell.add({f"{mode}, {name}": figure for name, figure in figures.items()})
            modes.reverse()


# All of it


def show(report: Report) -> None:
    """Print what was measured."""
    by_kind: dict[str, list[Cell]] = {}
    for cell in report.cells:
        by_kind.setdefault(cell.labels["what"], []).append(cell)
    (reads,), (rewrap,) = by_kind[READS], by_kind[REWRAP]
    rows = [
        (name, f"{reads.of(name):.3f}", f"{reads.ratio(OURS, name)}")
        for name in (OURS, PREAD, PREAD_IN_OUR_HOP)
    ]
    title = f"{reads.labels['reads']} reads of {size(PART)}, {size(reads.labels['length'])}:"
    report.table(title, ("contestant", "seconds", "ours / this"), rows)
    counts = (FRAMES_OF_A_READ, HEADERS, FINAL_FRAMES)
    report.table("Fetched:", counts, [[f"{max(reads.samples[name]):.0f}" for name in counts]])
    rows = [(name, f"{rewrap.of(name):.4f}", f"{rewrap.ratio(name, COPY):.3f}") for name in rewrap.samples]
    title = f"Rewrapping a file, unsigned, {size(rewrap.labels['length'])}:"
    report.table(title, ("what", "seconds", "this / copy"), rows)
    for cell in by_kind.get(SERVICE, []):
        show_service(report, cell)


def show_service(report: Report, cell: Cell) -> None:
    """Print what was measured of a service."""
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(name.partition(", ")[2] for name in cell.samples):
        mine, theirs = f"{ENCRYPTED}, {name}", f"{PLAIN}, {name}"
        ratio = "" if MEMORY in name else f"{cell.ratio(mine, theirs)}"
        rows.append((name, f"{cell.of(mine):.1f}", f"{cell.of(theirs):.1f}", ratio))
    labels = cell.labels
    title = f"{labels['framework']}, {labels['uploads']} at once, {size(labels['size'])} each:"
    report.table(title, ("what", ENCRYPTED, PLAIN, f"{ENCRYPTED} / {PLAIN}"), rows)


def main() -> None:
    """Run the program."""
    quick = options(__doc__).quick
    sizes = QUICK if quick else FULL
    report = Report("data", quick)
    with TemporaryDirectory() as folder:
        v1, v2 = Path(folder, "v1"), Path(folder, "v2")
        ours.run(make(v1, sizes.length, V1_CLIENT, V1_SUITE))
        ours.run(make(v2, sizes.length, ours.CLIENT, ours.SUITES["unsigned"]))
        measure_reads(report, v2, sizes)
        report.measure_controls()
        measure_rewrap(report, v1, v2, sizes)
    measure_services(report, sizes)
    show(report)
    report.save()
    plots.data(report)


if __name__ == "__main__":
    main()
