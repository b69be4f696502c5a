"""Time and peak memory as messages, frames, reads and numbers of streams grow: straight lines, or flat.

Each case runs in a process of its own, so that its peak is its own. Decryption gets its message through
a pipe from another process. Memory is read from /proc, elsewhere from `getrusage`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
import ours
import plots
from common import KIB, MIB, Cell, Report, peak_memory, size, start_peak_again

ENCRYPT, DECRYPT = "encrypt", "decrypt"
SERIES = ("length", "frame", "read", "idle", "busy")
_PIECE = 64 * KIB
_IDLE_PART = 128 * KIB
_BUSY_LENGTH = MIB
_READS = 50_000


@attrs.frozen
class Case:
    """One thing to measure; `x` is what grows in its series."""

    series: str
    x: int
    what: str
    suite: str
    length: int
    frame: int = 4 * KIB
    read: int | None = None


def cases(quick: bool) -> Iterator[Case]:
    """Return everything that is measured."""
    base = (4 if quick else 256) * MIB
    lengths = (MIB, 4 * MIB) if quick else tuple(4**i * MIB for i in range(7))
    frames = (4 * KIB, MIB) if quick else tuple(4**i * KIB for i in range(9))
    reads = (1, 64 * KIB) if quick else (1, 16, 256, 4 * KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB)
    numbers = (1, 10) if quick else (1, 10, 100, 1000)
    for what in (ENCRYPT, DECRYPT):
        for suite in ours.SUITES if not quick else ("unsigned",):
            yield from (Case("length", x, what, suite, x) for x in lengths)
            yield from (Case("frame", x, what, suite, base, frame=x) for x in frames)
            yield from (Case("idle", x, what, suite, 2 * _IDLE_PART) for x in numbers)
            yield from (Case("busy", x, what, suite, _BUSY_LENGTH) for x in numbers)
        for x in reads:
            yield Case("read", x, what, "unsigned", min(base, max(MIB // 8, x * _READS)), read=x)


# In the process of a case


async def plaintext(piece: bytes, length: int) -> AsyncIterator[bytes]:
    """Yield the same piece until the length is reached."""
    for start in range(0, length, len(piece)):
        yield piece[: length - start]


def encryption(case: Case, source: Any) -> Any:
    """Return a stream that encrypts."""
    suite = ours.SUITES[case.suite]
    return ours.CLIENT.encrypt_stream(source, ours.KEY, algorithm_suite=suite, frame_length=case.frame)


async def drain(stream: Any, read: int | None = None) -> None:
    """Read a stream to its end, by chunks or by `read` bytes."""
    if read is None:
        async for chunk in stream:
            del chunk  # what was handed out is not the stream's
    else:
        while await stream.read(read):
            pass


async def one_stream(case: Case, piece: bytes) -> float:
    """Return the seconds of one stream."""
    if case.what == ENCRYPT:
        async with encryption(case, plaintext(piece, case.length)) as stream:
            start = time.perf_counter()
            await drain(stream, case.read)
            return time.perf_counter() - start
    command = (sys.executable, __file__, "--produce", json.dumps(attrs.asdict(case)))
    # With the usual limit of its reader, which holds twice as much: that is not memory of ours.
    producer = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert producer.stdout
    async with ours.CLIENT.decrypt_stream(producer.stdout, ours.KEY) as stream:
        start = time.perf_counter()
        await drain(stream, case.read)
        seconds = time.perf_counter() - start
    await producer.wait()
    return seconds


async def produce(case: Case) -> None:
    """Write a message to standard output."""
    async with encryption(case, plaintext(ours.random_data(MIB), case.length)) as stream:
        # Closed by hand: the reader does not wait until this process has ended.
        with os.fdopen(sys.stdout.fileno(), "wb") as sink:
            async for chunk in stream:
                sink.write(chunk)


async def many_streams(case: Case, content: bytes, figures: dict[str, float]) -> None:
    """Measure `x` streams at once; idle ones wait half-way until all do, and their memory is that of then."""
    pieces = ours.cut(content, _PIECE)
    everybody_waits = asyncio.Barrier(case.x)

    async def source() -> AsyncIterator[bytes]:
        for number, piece in enumerate(pieces):
            half_way = case.series == "idle" and number == _IDLE_PART // _PIECE
            # The last one that comes goes on first.
            if half_way and await everybody_waits.wait() == case.x - 1:
                figures["peak"] = peak_memory()
            yield piece

    async def one() -> None:
        encrypting = case.what == ENCRYPT
        opened = encryption(case, source()) if encrypting else ours.CLIENT.decrypt_stream(source(), ours.KEY)
        async with opened as stream:
            await drain(stream)

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(case.x)))
    figures["seconds"] = time.perf_counter() - start
    figures.setdefault("peak", peak_memory())


def run_case(case: Case) -> None:
    """Measure a case here and print the figures."""
    small = ours.message_of(bytes(KIB), case.suite, KIB)
    ours.run(ours.decrypted([small]))
    several = case.series in ("idle", "busy")
    content = ours.random_data(case.length if several else MIB)
    if several and case.what == DECRYPT:
        content = ours.message_of(content, case.suite, case.frame)
    gc.collect()
    start_peak_again()
    idle = peak_memory()
    figures: dict[str, float] = {}
    if several:
        ours.run(many_streams(case, content, figures))
    else:
        figures = {"seconds": ours.run(one_stream(case, content)), "peak": peak_memory()}
    print(json.dumps({"seconds": figures["seconds"], "peak, MiB": (figures["peak"] - idle) / MIB}))


# In the process that asks


def measure(report: Report, quick: bool) -> None:
    """Measure every case in rounds."""
    wanted = list(cases(quick))
    cells = [report.cell(**attrs.asdict(case)) for case in wanted]
    for _ in range(1 if quick else 3):
        for case, cell in zip(wanted, cells, strict=True):
            command = [sys.executable, __file__, "--case", json.dumps(attrs.asdict(case))]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            cell.add(json.loads(output))


def per_mib(cell: Cell) -> float:
    """Return milliseconds for a MiB of plaintext, of all streams together."""
    labels = cell.labels
    streams = labels["x"] if labels["series"] in ("idle", "busy") else 1
    return 1000 * cell.of("seconds").median / (int(labels["length"]) * int(streams) / MIB)


def show(report: Report) -> None:
    """Print what was measured, each series by itself."""
    headers = ("x", "what", "suite", "seconds", "ms per MiB", "of the middle one", "peak above idle, MiB")
    for series in SERIES:
        rows: list[tuple[str, ...]] = []
        cells = [cell for cell in report.cells if cell.labels["series"] == series]
        for cell in cells:
            same = [c for c in cells if c.matches(what=cell.labels["what"], suite=cell.labels["suite"])]
            middle = per_mib(same[len(same) // 2])
            x = cell.labels["x"]
            rows.append(
                (
                    f"{x} streams" if series in ("idle", "busy") else size(x),
                    cell.labels["what"],
                    cell.labels["suite"],
                    f"{cell.of('seconds'):.3f}",
                    f"{per_mib(cell):.2f}",
                    f"{per_mib(cell) / middle:.2f}",
                    f"{cell.of('peak, MiB'):.1f}",
                )
            )
        report.table(f"By {series}:", headers, rows)


def main() -> None:
    """Run the program, or a case of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--produce", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        run_case(Case(**json.loads(arguments.case)))
    elif arguments.produce:
        ours.run(produce(Case(**json.loads(arguments.produce))))
    else:
        report = Report("scaling", arguments.quick)
        measure(report, arguments.quick)
        show(report)
        report.save()
        plots.scaling(report, per_mib)


if __name__ == "__main__":
    main()
