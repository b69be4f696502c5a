"""The delay that a timer of a millisecond sees while streams run at full speed, and their total rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import ours
import plots
from common import KIB, MIB, SCALING, Cell, Report, options, percentile, size, thread_scaling, ticks
from peers import Official, Peer, installed_peers

FRAMES = (4 * KIB, MIB)
STREAMS = (1, 4, 16)
OURS, IN_THREAD, IN_LOOP = "ours", "in threads", "in the loop"
# A thread cannot be stopped in the middle of a message.
_THREAD_MESSAGE = 4 * MIB
_SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


@attrs.define
class Load:
    """What streams have done, and whether they are to go on."""

    done: int = 0
    stopped: bool = False


Worker = Callable[[Load], Awaitable[None]]


@attrs.frozen
class Trial:
    """One thing to measure: so many streams of this kind, in each round for so many ticks."""

    labels: dict[str, Any]
    worker: Worker | None
    ticks: int
    at_most: float = float("inf")


def our_encryption(pieces: list[bytes], suite: str, frame: int) -> Worker:
    """Return a worker that encrypts without end."""

    async def work(load: Load) -> None:
        while not load.stopped:
            async with ours.CLIENT.encrypt_stream(
                ours.source(pieces), ours.KEY, algorithm_suite=ours.SUITES[suite], frame_length=frame
            ) as stream:
                await _drain(stream, load)

    return work


def our_decryption(message: bytes) -> Worker:
    """Return a worker that decrypts a message again and again."""
    pieces = ours.cut(message, MIB, ours.ODD_LENGTH)

    async def work(load: Load) -> None:
        while not load.stopped:
            async with ours.CLIENT.decrypt_stream(ours.source(pieces), ours.KEY) as stream:
                await _drain(stream, load)

    return work


async def _drain(stream: Any, load: Load) -> None:
    async for chunk in stream:
        load.done += len(chunk)
        if load.stopped:
            stream.abandon()
            return


def peer_in_threads(peer: Peer) -> Worker:
    """Return a worker that has a peer encrypt message after message by `asyncio.to_thread`."""

    async def work(load: Load) -> None:
        while not load.stopped:
            await asyncio.to_thread(peer.encrypt)
            load.done += _THREAD_MESSAGE

    return work


def official_in_loop(peer: Official, data: bytes, suite: str, frame: int) -> Worker:
    """Return a worker that reads 64 KiB from the official SDK in each turn of the loop."""

    async def work(load: Load) -> None:
        while not load.stopped:
            for piece in peer.pieces("encrypt", data, suite, frame, 64 * KIB):
                load.done += len(piece)
                await asyncio.sleep(0)
                if load.stopped:
                    return

    return work


async def run(trial: Trial) -> tuple[list[float], float]:
    """Return the delays of the ticker in milliseconds, and the rate of all streams in MB/s."""
    load = Load()
    workers = []
    if trial.worker:
        workers = [asyncio.ensure_future(trial.worker(load)) for _ in range(trial.labels["streams"])]
        await asyncio.sleep(0.05)
    start, done = time.perf_counter(), load.done
    delays = await ticks(trial.ticks, trial.at_most)
    rate = (load.done - done) / (time.perf_counter() - start) / 1e6
    load.stopped = True
    await asyncio.gather(*workers)
    return delays, rate


def our_trials(data: bytes, one: int, many: int) -> list[Trial]:
    """Return our trials; `one` and `many` are the ticks of a round for one stream and for several."""
    trials: list[Trial] = []
    for suite in ours.SUITES:
        for frame in FRAMES:
            workers = {
                "encrypt": our_encryption(ours.cut(data, MIB), suite, frame),
                "decrypt": our_decryption(ours.message_of(data, suite, frame)),
            }
            for direction, worker in workers.items():
                for streams in STREAMS if frame == FRAMES[0] else (1,):
                    labels: dict[str, Any] = {"who": OURS, "suite": suite, "frame": frame}
                    labels |= {"direction": direction, "streams": streams}
                    trials.append(Trial(labels, worker, one if streams == 1 else many))
    return trials


def peer_trials(peers: list[Peer], data: bytes, at_most: float) -> list[Trial]:
    """Return the trials of the peers, each of `at_most` seconds."""
    trials: list[Trial] = []
    for peer in peers:
        part = data[:_THREAD_MESSAGE]
        peer.prepare(part, ours.message_of(part, "unsigned", FRAMES[0]), "unsigned", FRAMES[0])
        workers = {IN_THREAD: peer_in_threads(peer)}
        if type(peer) is Official:
            workers[IN_LOOP] = official_in_loop(peer, data, "unsigned", FRAMES[0])
        for where, worker in workers.items():
            for streams in STREAMS:
                labels: dict[str, Any] = {
                    "who": f"{peer.name}, {where}",
                    "suite": "unsigned",
                    "frame": FRAMES[0],
                }
                labels |= {"direction": "encrypt", "streams": streams}
                trials.append(Trial(labels, worker, 10**6, at_most))
    return trials


def measure(report: Report, trials: list[Trial], rounds: int) -> None:
    """Measure all trials in rounds; the delays of all rounds together count."""
    cells = [report.cell(**trial.labels) for trial in trials]
    delays: list[list[float]] = [[] for _ in trials]
    for _ in range(rounds):
        scaling = thread_scaling()
        for trial, cell, collected in zip(trials, cells, delays, strict=True):
            late, rate = asyncio.run(run(trial))
            collected += late
            cell.add({f"{name} of a round": percentile(late, share) for name, share in _SHARES.items()})
            cell.add({"MB/s": rate, SCALING: scaling})
    for cell, collected in zip(cells, delays, strict=True):
        cell.add({name: percentile(collected, share) for name, share in _SHARES.items()})
        cell.add({"ticks": float(len(collected))})


def show(report: Report) -> None:
    """Print what was measured."""

    def row(cell: Cell) -> list[str]:
        who = cell.labels["who"]
        streams = cell.labels["streams"]
        what = f"{cell.labels['suite']} {cell.labels['direction']}" if streams else ""
        figures = [f"{cell.of(name).median:.2f}" for name in _SHARES]
        spread = f"{cell.of('p99 of a round')}"
        rate = f"{cell.of('MB/s'):.0f}" if streams else ""
        frame = size(cell.labels["frame"]) if streams else ""
        return [who, what, frame, str(streams), *figures, spread, rate, f"{cell.of('ticks').median:.0f}"]

    headers = ("who", "what", "frames", "streams", *(f"{name}, ms" for name in _SHARES))
    headers += ("p99 by round", "total MB/s", "ticks")
    report.table("Delay of a timer of 1 ms:", headers, map(row, report.cells))


def main() -> None:
    """Run the program."""
    quick = options(__doc__).quick
    report = Report("loop_delay", quick)
    peers, report.missing = installed_peers()
    data = ours.random_data((4 if quick else 64) * MIB)
    one, many, at_most, rounds = (50, 20, 0.05, 1) if quick else (5000, 1000, 1.0, 4)
    idle = Trial({"who": "idle", "streams": 0}, None, one)
    measure(report, [idle, *our_trials(data, one, many), *peer_trials(peers, data, at_most)], rounds)
    show(report)
    report.save()
    plots.loop_delay(report)


if __name__ == "__main__":
    main()
