"""Round trips of small messages under a raw AES key: one after another, and 200 at a time.

Once more with a caching manager over the key, which reuses data keys and signing keys.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import ours
import plots
from common import KIB, SCALING, Report, one_round, options, size, thread_scaling
from peers import Official, installed_peers

from aioencrypt import CachingCMM, Provider

SIZES = (16, KIB, 64 * KIB)
AT_ONCE = (1, 200)
OURS, CACHED = "ours", "ours, cached keys"
RoundTrip = Callable[[], Awaitable[None]]


def our_round_trip(data: bytes, suite: str, provider: Provider = ours.KEY) -> RoundTrip:
    """Return our round trip."""

    async def round_trip() -> None:
        message, _ = await ours.CLIENT.encrypt(data, provider, algorithm_suite=ours.SUITES[suite])
        await ours.CLIENT.decrypt(message, provider)

    return round_trip


def official_round_trip(peer: Official, data: bytes, suite: str, in_thread: bool) -> RoundTrip:
    """Return that of the official SDK, in a thread where several run at once."""
    algorithm = peer.algorithm(suite)

    def both() -> None:
        message, _ = peer.client.encrypt(source=data, algorithm=algorithm, **peer.key)
        peer.client.decrypt(source=message, **peer.key)

    async def round_trip() -> None:
        if in_thread:
            await asyncio.to_thread(both)
        else:
            both()

    return round_trip


def timed(round_trip: RoundTrip, count: int, at_once: int) -> Callable[[], float]:
    """Return what gives the microseconds of one of `count` round trips."""

    async def run() -> float:
        await round_trip()
        start = time.perf_counter()
        for _ in range(count):
            if at_once == 1:
                await round_trip()
            else:
                await asyncio.gather(*(round_trip() for _ in range(at_once)))
        return (time.perf_counter() - start) / count / at_once * 1e6

    return lambda: asyncio.run(run())


def measure(report: Report, officials: list[Official], quick: bool) -> None:
    """Measure each suite, size and number at a time."""
    for suite in ours.SUITES:
        for length in SIZES:
            data = ours.random_data(length)
            for at_once in AT_ONCE:
                count = 1 if at_once > 1 else 2 if quick else 100
                together = min(at_once, 5) if quick else at_once
                cached = CachingCMM(ours.KEY, max_age=300)
                contestants = {
                    OURS: timed(our_round_trip(data, suite), count, together),
                    CACHED: timed(our_round_trip(data, suite, cached), count, together),
                }
                for peer in officials:
                    theirs = official_round_trip(peer, data, suite, at_once > 1)
                    contestants[peer.name] = timed(theirs, count, together)
                cell = report.cell(suite=suite, size=length, at_once=at_once)
                for number in range(2 if quick else 7):
                    cell.add({SCALING: thread_scaling(), **one_round(contestants, number)})


def show(report: Report) -> None:
    """Print what was measured."""
    rows = [
        (
            cell.labels["suite"],
            size(cell.labels["size"]),
            str(cell.labels["at_once"]),
            name,
            f"{cell.of(name):.0f}",
            f"{cell.ratio(OURS, name)}",
        )
        for cell in report.cells
        for name in cell.samples
        if name != SCALING
    ]
    headers = ("suite", "size", "at a time", "contestant", "microseconds", "ours / this")
    report.table("Time of a round trip:", headers, rows)


def main() -> None:
    """Run the program."""
    quick = options(__doc__).quick
    report = Report("small_messages", quick)
    peers, missing = installed_peers()
    report.missing = [name for name in missing if name in (Official.name, "MPL keyring")]
    measure(report, [peer for peer in peers if isinstance(peer, Official)], quick)
    show(report)
    report.save()
    plots.small_messages(report)


if __name__ == "__main__":
    main()
