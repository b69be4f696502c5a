"""The table of what is to be reached, with a mark for each row, from the results of the other programs.

Marks: reached; short; machine contended (a signed row, while two threads with SHA-384 had less than 1.7
times the rate of one); not measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import concurrency
import data
import imports
import loop_delay
import small_messages
import versus_peers
from common import GIB, IDLE, KIB, MIB, QUIET_SCALING, RESULTS, SCALING, Cell, Spread, size, spread, table

REACHED, SHORT, CONTENDED, NOT_MEASURED = "reached", "short", "machine contended", "not measured"
DIRECTIONS = ("encrypt", "decrypt")
# Of the limit, for pieces of 1 MiB and of 64 KiB: encrypt, decrypt.
UNSIGNED_FLOORS = {
    4 * KIB: {MIB: (0.60, 0.55), 64 * KIB: (0.50, 0.40)},
    64 * KIB: {MIB: (0.70, 0.65), 64 * KIB: (0.50, 0.50)},
    MIB: {MIB: (0.65, 0.55), 64 * KIB: (0.40, 0.40)},
}
SIGNED_FLOORS = {
    4 * KIB: {MIB: (0.85, 0.85), 64 * KIB: (0.70, 0.55)},
    64 * KIB: {MIB: (0.85, 0.85), 64 * KIB: (0.70, 0.70)},
    MIB: {MIB: (0.85, 0.85), 64 * KIB: (0.70, 0.70)},
}
FLOORS = {"unsigned": UNSIGNED_FLOORS, "signed": SIGNED_FLOORS}
STREAM_MEMORY, IDLE_MEMORY = 8, 64


@attrs.frozen
class Row:
    """What was asked, what came out, and whether that is enough."""

    what: str
    asked: str
    measured: str
    mark: str


@attrs.frozen
class Run:
    """The results of one program, or nothing."""

    program: str
    content: dict[str, Any] = attrs.field(factory=dict)
    cells: tuple[Cell, ...] = ()

    def find(self, **labels: Any) -> Cell | None:
        """Return the cell with these labels."""
        return next((cell for cell in self.cells if cell.matches(**labels)), None)


def load(program: str) -> Run:
    """Read the results of a program."""
    path = RESULTS / f"{program}.json"
    if not path.is_file():
        return Run(program)
    content = json.loads(path.read_text())
    return Run(program, content, tuple(Cell(**cell) for cell in content["cells"]))


def at_least(what: str, floor: float, cell: Cell | None, name: str, base: str, signed: bool = False) -> Row:
    """Ask for a ratio of at least so much."""
    return _compared(what, f"at least {floor:g}", cell, name, base, lambda ratio: ratio >= floor, signed)


def at_most(what: str, ceiling: float, cell: Cell | None, name: str, base: str, signed: bool = False) -> Row:
    """Ask for a ratio of at most so much."""
    return _compared(what, f"at most {ceiling:g}", cell, name, base, lambda ratio: ratio <= ceiling, signed)


def _compared(
    what: str,
    asked: str,
    cell: Cell | None,
    name: str,
    base: str,
    enough: Callable[[float], bool],
    signed: bool,
) -> Row:
    if cell is None or name not in cell.samples or base not in cell.samples:
        return Row(what, asked, "", NOT_MEASURED)
    ratio = cell.ratio(name, base)
    return Row(what, asked, f"{ratio}", _mark(enough(ratio.median), cell if signed else None))


def _mark(enough: bool, signed: Cell | None) -> str:
    """Return the mark of a row; of a signed one with the cell that knows how free the machine was."""
    if signed is not None and signed.of(SCALING).median < QUIET_SCALING:
        return CONTENDED
    return REACHED if enough else SHORT


# The rows, in the order of the table


def of_the_limit(run: Run) -> Iterator[Row]:
    """Ask how near streams come to the bare primitives."""
    for suite, frames in FLOORS.items():
        for frame, pieces in frames.items():
            for length, floors in pieces.items():
                for direction, floor in zip(DIRECTIONS, floors, strict=True):
                    cell = run.find(suite=suite, frame=frame, direction=direction)
                    what = f"{suite}, frames of {size(frame)}, {direction}"
                    what += f", pieces of {size(length)}: of the limit"
                    name = versus_peers.ours_in(length)
                    yield at_least(what, floor, cell, name, versus_peers.LIMIT, suite == "signed")
    for frame, pieces in UNSIGNED_FLOORS.items():
        for direction, floor in zip(DIRECTIONS, pieces[MIB], strict=True):
            cell = run.find(suite="unsigned", frame=frame, direction=direction)
            what = f"unsigned, frames of {size(frame)}, `{direction}` of bytes: of the limit"
            yield at_least(what, floor, cell, versus_peers.WHOLE, versus_peers.LIMIT)


def like_with_like(run: Run) -> Iterator[Row]:
    """Ask whether streams are faster than those of the peers."""
    peers = {
        "unsigned": ("official SDK", "MPL keyring", "pyrage", "tink"),
        "signed": ("official SDK", "MPL keyring"),
    }
    for suite, names in peers.items():
        for frame in versus_peers.FRAMES:
            for direction in DIRECTIONS:
                cell = run.find(suite=suite, frame=frame, direction=direction)
                for name in names:
                    what = f"{suite}, frames of {size(frame)}, {direction}: of {name}"
                    floor = _peer_floor(suite, frame, name)
                    yield at_least(what, floor, cell, versus_peers.ours_in(MIB), name, suite == "signed")


def _peer_floor(suite: str, frame: int, peer: str) -> float:
    if suite == "signed":
        return 0.95 if frame == MIB else 1.0
    return 6.0 if frame == 4 * KIB and peer == "official SDK" else 1.0


def delays(run: Run) -> Iterator[Row]:
    """Ask what other tasks notice of streams."""
    idle = run.find(who="idle")
    for suite in FLOORS:
        for direction in DIRECTIONS:
            labels = {"who": loop_delay.OURS, "suite": suite, "direction": direction}
            for frame in loop_delay.FRAMES:
                one = run.find(streams=1, frame=frame, **labels)
                what = f"one stream, {suite}, frames of {size(frame)}, {direction}"
                yield _delay(what, "p99", 1, one, idle)
                yield _delay(what, "p99.9", 5, one, idle)
            frame = loop_delay.FRAMES[0]
            one, many = (run.find(streams=number, frame=frame, **labels) for number in (1, 16))
            what = f"16 streams, {suite}, {direction}"
            yield _delay(what, "p99", 5, many, idle)
            yield _total(
                f"{what}: total rate of one stream's", 0.9 if suite == "unsigned" else 0.85, many, one
            )


def _delay(what: str, name: str, allowance: int, cell: Cell | None, idle: Cell | None) -> Row:
    asked = f"idle + {allowance} ms"
    what = f"{what}: delay {name}"
    if cell is None or idle is None:
        return Row(what, asked, "", NOT_MEASURED)
    delay, base = cell.of(name).median, idle.of(name).median
    signed = cell if cell.labels["suite"] == "signed" else None
    measured = f"{delay:.2f} ms, idle {base:.2f} ms, {cell.of('ticks').median:.0f} ticks"
    return Row(what, asked, measured, _mark(delay <= base + allowance, signed))


def _total(what: str, floor: float, many: Cell | None, one: Cell | None) -> Row:
    asked = f"at least {floor:g}"
    if many is None or one is None:
        return Row(what, asked, "", NOT_MEASURED)
    pairs = zip(many.samples["MB/s"], one.samples["MB/s"], strict=True)
    ratio = spread([several / single for several, single in pairs])
    return Row(
        what, asked, f"{ratio}", _mark(ratio.median >= floor, many if many.matches(suite="signed") else None)
    )


def messages(run: Run) -> Iterator[Row]:
    """Ask what a small message takes."""
    ceilings = {
        "unsigned": {"official SDK": 0.3, "MPL keyring": 0.05},
        "signed": {"official SDK": 0.7, "MPL keyring": 0.3},
    }
    for suite, peers in ceilings.items():
        cell = run.find(suite=suite, size=KIB, at_once=1)
        for name, ceiling in peers.items():
            what = f"message of 1 KiB, round trip, {suite}: time of {name}'s"
            yield at_most(what, ceiling, cell, small_messages.OURS, name, suite == "signed")


def kms(run: Run) -> Iterator[Row]:
    """Ask what is left of the rate of KMS."""
    # The floors against the official SDK were found cold: most of its time goes into making clients.
    floors = {
        f"{concurrency.BARE}, warm": 0.5,
        f"{concurrency.DEFAULT_EXECUTOR}, cold": 3.5,
        f"{concurrency.THREADS}, cold": 20,
        f"{concurrency.DEFAULT_EXECUTOR}, warm": 1,
        f"{concurrency.THREADS}, warm": 1,
    }
    cell = run.cells[0] if run.cells else None
    for name, floor in floors.items():
        mine = f"{concurrency.OURS}, {name.rpartition(', ')[2]}: rate"
        what = f"encryptions of 64 KiB under KMS, signed: rate of {name}"
        yield at_least(what, floor, cell, mine, f"{name}: rate", True)


def memory(run: Run) -> Iterator[Row]:
    """Ask what a stream holds."""
    for direction in DIRECTIONS:
        by_length = [cell for cell in run.cells if cell.matches(series="length", what=direction)]
        longest = max((cell.labels["x"] for cell in by_length), default=4 * GIB)
        yield _peak(f"{direction} of 1 MiB to {size(longest)}", STREAM_MEMORY, by_length)
        by_frame = [cell for cell in run.cells if cell.matches(series="frame", what=direction)]
        short = [cell for cell in by_frame if cell.labels["x"] <= MIB]
        yield _peak(f"{direction}, frames up to 1 MiB", STREAM_MEMORY, short)
        for frame in sorted({cell.labels["x"] for cell in by_frame} - {cell.labels["x"] for cell in short}):
            cells = [cell for cell in by_frame if cell.labels["x"] == frame]
            yield _peak(f"{direction}, frames of {size(frame)}", 3 * frame // MIB + STREAM_MEMORY, cells)
        idle = [cell for cell in run.cells if cell.matches(series="idle", what=direction, x=1000)]
        yield _peak(f"1,000 idle streams, {direction}", IDLE_MEMORY, idle)


def _peak(what: str, ceiling: int, cells: list[Cell]) -> Row:
    what, asked = f"memory above idle: {what}", f"at most {ceiling} MiB"
    if not cells:
        return Row(what, asked, "", NOT_MEASURED)
    peaks: list[Spread] = [cell.of("peak, MiB") for cell in cells]
    highest = max(peaks, key=lambda peak: peak.median)
    return Row(what, asked, f"{highest:.1f} MiB", REACHED if highest.median <= ceiling else SHORT)


def importing(run: Run) -> Iterator[Row]:
    """Ask what `import aioencrypt` takes."""
    cell = run.cells[0] if run.cells else None
    yield at_most("`import aioencrypt`: time of its three needs", 2, cell, imports.OURS, imports.BASE)
    yield at_most("the same with what the first stream loads", 2, cell, imports.USED, imports.BASE)
    found = sorted(set(cell.labels["packages"]) & {"aiobotocore", "botocore"}) if cell else []
    mark = NOT_MEASURED if cell is None else SHORT if found else REACHED
    yield Row("`import aioencrypt`: loads aiobotocore", "no", ", ".join(found) or "no", mark)


def living(run: Run) -> Iterator[Row]:
    """Ask what random reads cost, and what other tasks of a service notice of encryption."""
    reads = run.find(what=data.READS)
    length = size(reads.labels["length"]) if reads else size(GIB)
    what = f"random reads of {size(data.PART)}, {length}"
    yield at_most(f"{what}: time of the same ranges by `os.pread`", 2.5, reads, data.OURS, data.PREAD)
    for name, ceiling in ((data.FRAMES_OF_A_READ, 2), (data.HEADERS, 1), (data.FINAL_FRAMES, 1)):
        yield _count(f"{what}: fetched, {name}", ceiling, reads, name)
    for framework in data.NEEDS:
        service = run.find(what=data.SERVICE, framework=framework)
        for phase in (data.UPLOADS, data.DOWNLOADS, data.ALL):
            mine, theirs = (f"{mode}, {phase}: {data.P99}" for mode in (data.ENCRYPTED, data.PLAIN))
            yield at_most(f"{framework}, {phase}: p99 delay of the plain service's", 3, service, mine, theirs)


def _count(what: str, ceiling: int, cell: Cell | None, name: str) -> Row:
    if cell is None:
        return Row(what, f"at most {ceiling}", "", NOT_MEASURED)
    most = max(cell.samples[name])
    return Row(what, f"at most {ceiling}", f"{most:.0f}", REACHED if most <= ceiling else SHORT)


CHECKS: dict[str, tuple[Callable[[Run], Iterator[Row]], ...]] = {
    "versus_peers": (of_the_limit, like_with_like),
    "loop_delay": (delays,),
    "small_messages": (messages,),
    "concurrency": (kms,),
    "scaling": (memory,),
    "imports": (importing,),
    "data": (living,),
}


def main() -> None:
    """Print the table, and what the machine was like."""
    runs = [load(program) for program in CHECKS]
    rows = [row for run in runs for check in CHECKS[run.program] for row in check(run)]
    print("# Reach\n")
    for run in runs:
        print(f"- {_origin(run)}")
    print()
    print(
        table(("what", "asked", "measured, median (quartiles)", "mark"), [attrs.astuple(row) for row in rows])
    )
    marks = [row.mark for row in rows]
    counts = [f"{marks.count(mark)} {mark}" for mark in (REACHED, SHORT, CONTENDED, NOT_MEASURED)]
    print(f"\n{', '.join(counts)}.")


def _origin(run: Run) -> str:
    """Say when a program ran, and what its controls were."""
    if not run.content:
        return f"{run.program}: not run"
    controls = run.content["controls"]
    shown = ", ".join(f"{name} {spread(controls[name]).median:.2f}" for name in (SCALING, IDLE[1]))
    quick = ", quick: the figures mean nothing" if run.content["quick"] else ""
    return f"{run.program}: {run.content['started']}{quick} ({shown})"


if __name__ == "__main__":
    main()
