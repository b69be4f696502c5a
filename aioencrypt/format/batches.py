"""Encrypt and decrypt many frames in one call: batch sizes, and the IVs and AADs of a whole batch.

`BatchCipher.aad` returns the AAD of every frame, also of those that `body.py` processes one at a time.

Specification: data-format/message-body.md, data-format/message-body-aad.md.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from operator import length_hint

import attrs
from cryptography.exceptions import InvalidTag

from aioencrypt.errors import TagError
from aioencrypt.format.derivation import MessageKey
from aioencrypt.format.frames import FRAME_HEADER_LENGTH, FRAME_OVERHEAD, SEQUENCE_LENGTH
from aioencrypt.format.suites import IV_LENGTH, TAG_LENGTH

REGULAR = b"AWSKMSEncryptionClient Frame"

# Longer frames that straddle pieces are processed piece by piece: assembling them causes page faults that
# take six times as long as the cryptography. Shorter frames would lose a quarter of their speed that way.
INCREMENTAL_LENGTH = 512 * 1024
# From this number of frames on, one call for all of them is faster than one each: 8 to 12 % at 4 KiB.
_MANY = 4

# Measured on one core of an AMD EPYC: the fixed cost of a frame in microseconds, and the bytes that AES-GCM
# processes per microsecond. Only the order of magnitude matters: it tells short work from long.
_FRAME_MICROSECONDS = 0.8
_BYTES_PER_MICROSECOND = 9000
# One and a half batches fit into the time budget of one event loop iteration. Larger batches are slower: the
# allocator returns their buffers to the operating system, and the page faults cost more than AES-GCM.
BATCH_COST = 130
# A batch may grow by this factor, so that a small remainder does not become a batch of its own.
_STRETCH = 1.5


def frame_cost(length: int) -> float:
    """Estimate the microseconds to encrypt or decrypt a frame of this length."""
    return _FRAME_MICROSECONDS + length / _BYTES_PER_MICROSECOND


def batch_frames(frame_length: int, available: int, cost: float = BATCH_COST) -> int:
    """Return how many of the available frames fit into a batch of `cost` microseconds; at least one."""
    batch, stretched = _batch(frame_length, cost)
    return available if available <= stretched else batch


@lru_cache(maxsize=64)
def _batch(frame_length: int, cost: float) -> tuple[int, int]:
    fitting = cost / frame_cost(frame_length)
    return max(1, int(fitting)), max(1, int(_STRETCH * fitting))


def count_regular(pieces: Sequence[memoryview], frame_length: int, sequence: int) -> int:
    """Count the regular frames with the expected header at the start of `pieces`.

    Together, the pieces hold whole frames. A frame whose IV is not its sequence number, as from writers
    before 2015, ends the count: such frames are processed one at a time.
    """
    stride = frame_length + FRAME_OVERHEAD
    headers = _headers_in(pieces, stride)
    expected = _frame_headers(sequence, len(headers))
    if headers == expected:
        return len(headers)
    return next(i for i, header in enumerate(headers) if header != expected[i])


def _headers_in(pieces: Sequence[memoryview], stride: int) -> list[bytes]:
    """Return the frame headers in `pieces`; a header may straddle two pieces."""
    headers: list[bytes] = []
    cut, place = b"", 0
    for piece in pieces:
        if cut:
            cut += piece[: FRAME_HEADER_LENGTH - len(cut)]
            if len(cut) < FRAME_HEADER_LENGTH:
                place -= len(piece)
                continue
            headers.append(cut)
            cut = b""
            place += stride
        count = (len(piece) - FRAME_HEADER_LENGTH - place) // stride + 1
        if count > 0:
            headers += _headers(count, stride).unpack_from(piece, place)
            place += count * stride
        if place < len(piece):
            cut = bytes(piece[place:])
        place -= len(piece)
    return headers


def _frame_headers(sequence: int, count: int) -> list[bytes]:
    zeros = bytes(IV_LENGTH - SEQUENCE_LENGTH)
    numbers = range(sequence, sequence + count)
    return [(at := number.to_bytes(4, "big")) + zeros + at for number in numbers]


@lru_cache(maxsize=64)
def _headers(count: int, stride: int) -> struct.Struct:
    gap = f"{stride - FRAME_HEADER_LENGTH}x"
    return struct.Struct(gap.join([f"{FRAME_HEADER_LENGTH}s"] * count))


@lru_cache(maxsize=64)
def _cutter(length: int, count: int) -> struct.Struct:
    return struct.Struct(f"{length}s" * count)


@lru_cache(maxsize=64)
def slices(offset: int, length: int, stride: int, count: int) -> tuple[slice, ...]:
    """Return the slice of one part in each frame, frame by frame."""
    return tuple(slice(i * stride + offset, i * stride + offset + length) for i in range(count))


def parts_of_frames(
    pieces: Sequence[memoryview], stride: int, offset: int, length: int
) -> Iterator[memoryview]:
    """Yield one part of each frame in `pieces`; copies only frames that straddle pieces.

    With pieces of 64 KiB and frames of 4 KiB, that is one frame in sixteen.
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
    """Write the headers of consecutive regular frames, one column of all headers at a time."""
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
    """Return the IVs and AADs of consecutive regular frames; `place` is the offset of the number in `aad`.

    The sequence numbers are written into templates column by column: four slice assignments instead of
    three objects per frame.
    """
    numbers = struct.pack(f">{count}I", *range(sequence, sequence + count))
    ivs, aads = bytearray(IV_LENGTH * count), bytearray(aad * count)
    for i in range(SEQUENCE_LENGTH):
        column = numbers[i::SEQUENCE_LENGTH]
        ivs[IV_LENGTH - SEQUENCE_LENGTH + i :: IV_LENGTH] = column
        aads[place + i :: len(aad)] = column
    return _cutter(IV_LENGTH, count).unpack(ivs), _cutter(len(aad), count).unpack(aads)


@attrs.frozen
class BatchCipher(ABC):
    """Encrypt and decrypt the regular frames of one message. Stateless: methods may run in any thread.

    Methods slice `out` only during the call. So when the caller releases `out`, no view on its buffer is
    left, even if a traceback keeps frames alive.
    """

    key: MessageKey
    message_id: bytes = attrs.field(repr=False)
    frame_length: int

    def aad(self, content: bytes, sequence: int, length: int) -> bytes:
        """Return the AAD of a frame, or of a non-framed body."""
        return b"%b%b%b%b" % (
            self.message_id,
            content,
            sequence.to_bytes(4, "big"),
            length.to_bytes(8, "big"),
        )

    def _ivs_and_aads(self, sequence: int, count: int) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        place = len(self.message_id) + len(REGULAR)
        return ivs_and_aads(self.aad(REGULAR, 0, self.frame_length), place, sequence, count)

    def seal_regular(self, sequence: int, pieces: Sequence[memoryview], out: memoryview) -> None:
        """Encrypt whole frames of plaintext into the start of `out`, beginning with this sequence number."""
        count = sum(map(len, pieces)) // self.frame_length
        seal = self._seal_many if self._in_one_call(count) else self._seal_each
        seal(sequence, count, pieces, out)

    def open_regular(self, sequence: int, pieces: Sequence[memoryview], out: memoryview) -> None:
        """Decrypt whole regular frames with checked headers into `out`; raises `TagError`."""
        count = len(out) // self.frame_length
        decrypt = self._open_many if self._in_one_call(count) else self._open_each
        decrypt(sequence, count, pieces, out)

    def _in_one_call(self, count: int) -> bool:
        return count >= _MANY and self.frame_length <= INCREMENTAL_LENGTH

    @abstractmethod
    def _seal_each(self, sequence: int, count: int, pieces: Sequence[memoryview], out: memoryview) -> None:
        """Encrypt frames one at a time."""

    @abstractmethod
    def _open_each(self, sequence: int, count: int, pieces: Sequence[memoryview], out: memoryview) -> None:
        """Decrypt frames one at a time; raises `TagError`."""

    def _seal_many(self, sequence: int, count: int, pieces: Sequence[memoryview], out: memoryview) -> None:
        length, stride = self.frame_length, self.frame_length + FRAME_OVERHEAD
        ivs, aads = self._ivs_and_aads(sequence, count)
        write_headers(out, sequence, count, stride)
        plaintexts = parts_of_frames(pieces, length, 0, length)
        targets = map(
            out.__getitem__, slices(FRAME_HEADER_LENGTH, stride - FRAME_HEADER_LENGTH, stride, count)
        )
        deque(map(self.key.aead.encrypt_into, ivs, plaintexts, aads, targets), maxlen=0)

    def _open_many(self, sequence: int, count: int, pieces: Sequence[memoryview], out: memoryview) -> None:
        length, stride = self.frame_length, self.frame_length + FRAME_OVERHEAD
        ivs, aads = self._ivs_and_aads(sequence, count)
        sealed = parts_of_frames(pieces, stride, FRAME_HEADER_LENGTH, length + TAG_LENGTH)
        targets = map(out.__getitem__, slices(0, length, length, count))
        waiting = iter(ivs)
        try:
            deque(map(self.key.aead.decrypt_into, waiting, sealed, aads, targets), maxlen=0)
        except InvalidTag as error:
            # `map` has taken the IVs up to that of the bad frame.
            bad = sequence + count - 1 - length_hint(waiting)
            raise tag_error(f"frame {bad}") from error


def tag_error(what: str) -> TagError:
    """Return the error for a frame or body that fails authentication."""
    return TagError(f"the {what} fails authentication: it was changed, or is out of place")
