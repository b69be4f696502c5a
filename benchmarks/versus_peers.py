"""Streams against the bare primitives, and against the peers: rates of the same data in the same run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Literal

import ours
import plots
from common import KIB, MIB, SCALING, Cell, Report, one_round, options, seconds, size, thread_scaling
from peers import Official, Peer, installed_peers

FRAMES = (4 * KIB, 64 * KIB, MIB)
PIECES = (MIB, 64 * KIB)
LIMIT, WHOLE, THREAD = "limit", "ours, bytes", "official SDK in a thread"
Direction = Literal["encrypt", "decrypt"]
Contestants = dict[str, Callable[[], float]]


def ours_in(pieces: int) -> str:
    """Return the name of our stream over pieces of a length."""
    return f"ours, {size(pieces)}"


def rate(length: int, measure: Callable[[], float]) -> Callable[[], float]:
    """Turn seconds into MB/s of plaintext."""
    return lambda: length / measure() / 1e6


async def in_thread(function: Callable[[], None]) -> float:
    """Run a function as programs do that have no better; returns seconds."""
    start = time.perf_counter()
    await asyncio.to_thread(function)
    return time.perf_counter() - start


def our_contestants(
    direction: Direction, suite: str, frame: int, data: bytes, message: bytes, whole: int
) -> Contestants:
    """Return the limit and our own; `whole` is how many bytes are encrypted at once."""
    contestants: Contestants = {}
    if suite == "signed":
        contestants[LIMIT] = rate(len(data), lambda: ours.bare_digest(data))
    elif direction == "encrypt":
        contestants[LIMIT] = rate(len(data), lambda: ours.bare_encrypt(data, frame))
    else:
        sealed = ours.bare_frames(data, frame)
        contestants[LIMIT] = rate(len(data), lambda: ours.bare_decrypt(sealed, frame))
    for length in PIECES:
        contestants[ours_in(length)] = rate(
            len(data), _our_stream(direction, suite, frame, data, message, length)
        )
    part = data[:whole]
    part_message = ours.message_of(part, suite, frame)
    if direction == "encrypt":
        contestants[WHOLE] = rate(whole, lambda: ours.run(ours.encrypted_whole(part, suite, frame)))
    else:
        contestants[WHOLE] = rate(whole, lambda: ours.run(ours.decrypted_whole(part_message)))
    return contestants


def _our_stream(
    direction: Direction, suite: str, frame: int, data: bytes, message: bytes, length: int
) -> Callable[[], float]:
    if direction == "encrypt":
        plaintext = ours.cut(data, length)
        return lambda: ours.run(ours.encrypted(plaintext, suite, frame))
    pieces = ours.cut(message, length, ours.ODD_LENGTH)
    return lambda: ours.run(ours.decrypted(pieces))


def peer_contestants(peers: list[Peer], direction: Direction, length: int) -> Contestants:
    """Return the peers, which are prepared."""
    contestants: Contestants = {}
    for peer in peers:
        call = peer.encrypt if direction == "encrypt" else peer.decrypt
        contestants[peer.name] = rate(length, lambda call=call: seconds(call))  # type: ignore[misc]
        if type(peer) is Official:
            contestants[THREAD] = rate(length, lambda call=call: ours.run(in_thread(call)))  # type: ignore[misc]
    return contestants


def measure(report: Report, peers: list[Peer], data: bytes, rounds: int) -> None:
    """Measure each suite, frame length and direction."""
    for suite in ours.SUITES:
        able = [peer for peer in peers if suite in peer.suites]
        for frame in FRAMES:
            message = ours.message_of(data, suite, frame)
            for peer in able:
                peer.prepare(data, message, suite, frame)
            directions: tuple[Direction, ...] = ("encrypt", "decrypt")
            for direction in directions:
                cell = report.cell(suite=suite, frame=frame, direction=direction)
                contestants = our_contestants(direction, suite, frame, data, message, len(data) // 4)
                contestants |= peer_contestants(able, direction, len(data))
                for number in range(rounds):
                    cell.add({SCALING: thread_scaling(), **one_round(contestants, number)})
                show(report, cell)


def show(report: Report, cell: Cell) -> None:
    """Print one cell."""
    mine = ours_in(MIB)
    names = [name for name in cell.samples if name != SCALING]
    rows = [
        (name, f"{cell.of(name):.0f}", f"{cell.ratio(name, LIMIT)}", f"{cell.ratio(mine, name)}")
        for name in names
    ]
    labels = cell.labels
    title = f"{labels['suite']}, frames of {size(labels['frame'])}, {labels['direction']}"
    headers = ("contestant", "MB/s", "of the limit", f"{mine} / this")
    report.table(f"{title} ({SCALING}: {cell.of(SCALING)}):", headers, rows)


def main() -> None:
    """Run the program."""
    quick = options(__doc__).quick
    report = Report("versus_peers", quick)
    peers, report.missing = installed_peers()
    data = ours.random_data((4 if quick else 256) * MIB)
    measure(report, peers, data, rounds=2 if quick else 5)
    report.save()
    plots.versus_peers(report)


if __name__ == "__main__":
    main()
