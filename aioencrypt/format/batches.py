"""Batches of frames: how many make one, and what one call for all of them needs, made in bulk."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain

from aioencrypt.format.frames import FRAME_HEADER_LENGTH, FRAME_OVERHEAD, SEQUENCE_LENGTH
from aioencrypt.format.suites import IV_LENGTH

# Measured on one core of an AMD EPYC: what a frame costs apart from its length, and what AES-GCM
# moves in a microsecond. Only the order of magnitude matters: it tells short work from long.
_FRAME_MICROSECONDS = 0.8
_BYTES_PER_MICROSECOND = 9000
# One batch, and a half more, fits into what one turn of an event loop may be held up for. Larger ones are
# slower: their buffers go back to the operating system each time, and page faults cost more than AES-GCM.
BATCH_COST = 130
# A little more than a batch is not worth another one.
_STRETCH = 1.5


def frame_cost(length: int) -> float:
    """Estimate the microseconds that sealing or opening a frame of this length takes."""
    return _FRAME_MICROSECONDS + length / _BYTES_PER_MICROSECOND


def batch_frames(frame_length: int, available: int, cost: float = BATCH_COST) -> int:
    """Return how many of the frames that are there make a batch of a cost in microseconds: at least one."""
    batch, stretched = _batch(frame_length, cost)
    return available if available <= stretched else batch


@lru_cache(maxsize=64)
def _batch(frame_length: int, cost: float) -> tuple[int, int]:
    fitting = cost / frame_cost(frame_length)
    return max(1, int(fitting)), max(1, int(_STRETCH * fitting))


def count_regular(pieces: Sequence[memoryview], frame_length: int, sequence: int) -> int:
    """Count the regular frames with the expected header at the start of some pieces.

    The pieces hold whole frames together. Frames with another IV than their sequence number, as
    writers before 2015 made, do not count: they are taken one at a time.
    """
    stride = frame_length + FRAME_OVERHEAD
    headers = [*_headers_in(pieces, stride)]
    expected = _frame_headers(sequence, len(headers))
    if headers == expected:
        return len(headers)
    return next(i for i, header in enumerate(headers) if header != expected[i])


def _headers_in(pieces: Sequence[memoryview], stride: int) -> Iterator[bytes]:
    """Return the frame headers of some pieces, of which some may lie across two pieces."""
    cut, place = b"", 0
    for piece in pieces:
        if cut:
            cut += piece[: FRAME_HEADER_LENGTH - len(cut)]
            if len(cut) < FRAME_HEADER_LENGTH:
                place -= len(piece)
                continue
            yield cut
            cut = b""
            place += stride
        count = (len(piece) - FRAME_HEADER_LENGTH - place) // stride + 1
        if count > 0:
            yield from _headers(count, stride).unpack_from(piece, place)
            place += count * stride
        if place < len(piece):
            cut = bytes(piece[place:])
        place -= len(piece)


def _frame_headers(sequence: int, count: int) -> list[bytes]:
    zeros = bytes(IV_LENGTH - SEQUENCE_LENGTH)
    numbers = (number.to_bytes(4, "big") for number in range(sequence, sequence + count))
    return [number + zeros + number for number in numbers]


@lru_cache(maxsize=64)
def _headers(count: int, stride: int) -> struct.Struct:
    gap = f"{stride - FRAME_HEADER_LENGTH}x"
    return struct.Struct(gap.join([f"{FRAME_HEADER_LENGTH}s"] * count))


@lru_cache(maxsize=64)
def _cutter(length: int, count: int) -> struct.Struct:
    return struct.Struct(f"{length}s" * count)


@lru_cache(maxsize=64)
def slices(offset: int, length: int, stride: int, count: int) -> tuple[slice, ...]:
    """Return where one part of each frame stands, frame after frame."""
    return tuple(slice(i * stride + offset, i * stride + offset + length) for i in range(count))


def each_frame(pieces: Sequence[memoryview], stride: int) -> Iterator[tuple[memoryview, ...]]:
    """Yield each frame of some pieces without a copy, as the views in which it lies."""
    straddling: list[memoryview] = []
    missing = stride
    for piece in pieces:
        place = 0
        while len(piece) - place >= missing:
            yield (*straddling, piece[place : place + missing])
            straddling.clear()
            place += missing
            missing = stride
        if place < len(piece):
            straddling.append(piece[place:])
            missing -= len(piece) - place


def parts_of_frames(
    pieces: Sequence[memoryview], stride: int, offset: int, length: int
) -> Iterator[memoryview]:
    """Yield one part of each frame of some pieces; only frames that lie in several pieces are copied.

    With pieces of 64 KiB and frames of 4 KiB, one frame in sixteen is.
    """
    return chain.from_iterable(_runs_of_parts(pieces, stride, offset, length))


def _runs_of_parts(
    pieces: Sequence[memoryview], stride: int, offset: int, length: int
) -> Iterator[Iterable[memoryview]]:
    straddling: list[memoryview] = []
    missing = 0
    for whole_piece in pieces:
        piece = whole_piece
        if straddling:
            straddling.append(piece[:missing])
            missing -= len(straddling[-1])
            if missing:
                continue
            yield (memoryview(b"".join(straddling))[offset : offset + length],)
            piece = piece[len(straddling[-1]) :]
            straddling = []
        count = len(piece) // stride
        if count:
            yield map(piece.__getitem__, slices(offset, length, stride, count))
        if count * stride < len(piece):
            straddling = [piece[count * stride :]]
            missing = stride - len(straddling[0])


def write_headers(out: memoryview, sequence: int, count: int, stride: int) -> None:
    """Write the headers of consecutive regular frames, column by column instead of frame by frame."""
    numbers = struct.pack(f">{count}I", *range(sequence, sequence + count))
    end = count * stride
    for i in range(SEQUENCE_LENGTH, FRAME_HEADER_LENGTH - SEQUENCE_LENGTH):
        out[i:end:stride] = bytes(count)
    for i in range(SEQUENCE_LENGTH):
        column = numbers[i::SEQUENCE_LENGTH]
        out[i:end:stride] = column
        out[FRAME_HEADER_LENGTH - SEQUENCE_LENGTH + i : end : stride] = column


def ivs_and_aads(
    aad: bytes, place: int, sequence: int, count: int
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Return IVs and AADs of consecutive regular frames; `place` is where an AAD has the sequence number.

    The sequence numbers go into templates column by column: four slice assignments in place of
    three objects for each frame.
    """
    numbers = struct.pack(f">{count}I", *range(sequence, sequence + count))
    ivs, aads = bytearray(IV_LENGTH * count), bytearray(aad * count)
    for i in range(SEQUENCE_LENGTH):
        column = numbers[i::SEQUENCE_LENGTH]
        ivs[IV_LENGTH - SEQUENCE_LENGTH + i :: IV_LENGTH] = column
        aads[place + i :: len(aad)] = column
    return _cutter(IV_LENGTH, count).unpack(ivs), _cutter(len(aad), count).unpack(aads)
