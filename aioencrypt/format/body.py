"""Seal and open the frames of a message body.

Specification: data-format/message-body.md, data-format/message-body-aad.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from aioencrypt.errors import TagError
from aioencrypt.format.batches import ivs_and_aads, slices, write_headers
from aioencrypt.format.derivation import MessageKey
from aioencrypt.format.frames import (
    FINAL_HEADER_LENGTH,
    FINAL_MARKER,
    FRAME_HEADER_LENGTH,
    FRAME_OVERHEAD,
    SEQUENCE_LENGTH,
    iv,
)
from aioencrypt.format.suites import TAG_LENGTH

_REGULAR = b"AWSKMSEncryptionClient Frame"
_FINAL = b"AWSKMSEncryptionClient Final Frame"
_NON_FRAMED = b"AWSKMSEncryptionClient Single Block"

# Longer frames that straddle pieces are sealed and opened piece by piece: assembling one whole costs page
# faults that take six times as long as the cryptography. Shorter frames lose a quarter that way.
_INCREMENTAL_LENGTH = 512 * 1024
# Frames that lie in several pieces are copied into one buffer, up to so many bytes, for one call to do them
# all: with pieces of 64 KiB and frames of 4 KiB from 0.70 to 0.90 of the bare loop. The buffers are kept, one
# for each thread that is at it, as new ones would go back to the operating system each time.
_COPIED_LENGTH = 1024 * 1024
_spare: list[memoryview] = []
# `AESGCM` takes at most 2**31 - 1 bytes; far below it, pieces keep the time between two checks of a
# thread for the interpreter short.
_STEP = 16 * 1024 * 1024
# From this number of frames on, one call for all of them beats a call for each: 8 to 12 % at 4 KiB.
_MANY = 4


def _runs(pieces: Sequence[memoryview], unit: int) -> Iterator[tuple[memoryview, ...]]:
    """Cut pieces into whole units without a copy.

    A tuple of one is a contiguous run of any number of units, a longer one is a single unit that
    straddles pieces.
    """
    straddling: list[memoryview] = []
    missing = 0
    for whole_piece in pieces:
        piece = whole_piece
        if straddling:
            straddling.append(piece[:missing])
            missing -= len(straddling[-1])
            if missing:
                continue
            yield tuple(straddling)
            piece = piece[len(straddling[-1]) :]
            straddling = []
        run = len(piece) - len(piece) % unit
        if run:
            yield (piece[:run],)
        if run < len(piece):
            straddling = [piece[run:]]
            missing = unit - len(straddling[0])


def _whole_units(pieces: Sequence[memoryview], unit: int) -> Iterator[tuple[memoryview, ...]]:
    """Cut pieces into whole units as `_runs` does, after copying them together where that is worth it."""
    length = sum(map(len, pieces))
    each_is_one = length == len(pieces) * unit
    if len(pieces) == 1 or each_is_one or unit > _INCREMENTAL_LENGTH or length > _COPIED_LENGTH:
        yield from _runs(pieces, unit)
        return
    try:
        copy = _spare.pop()
    except IndexError:
        copy = memoryview(bytearray(_COPIED_LENGTH))
    try:
        end = 0
        for piece in pieces:
            start, end = end, end + len(piece)
            copy[start:end] = piece
        yield (copy[:length],)
    finally:
        _spare.append(copy)


@attrs.frozen
class BodyCipher:
    """Seals and opens the frames of one message. Stateless: calls may run in any thread."""

    key: MessageKey
    message_id: bytes = attrs.field(repr=False)
    frame_length: int

    def _aad(self, content: bytes, sequence: int, length: int) -> bytes:
        return b"%b%b%b%b" % (
            self.message_id,
            content,
            sequence.to_bytes(4, "big"),
            length.to_bytes(8, "big"),
        )

    def _ivs_and_aads(self, sequence: int, count: int) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        place = len(self.message_id) + len(_REGULAR)
        return ivs_and_aads(self._aad(_REGULAR, 0, self.frame_length), place, sequence, count)

    def seal_regular(self, sequence: int, pieces: Sequence[memoryview], out: memoryview) -> None:
        """Seal whole frames of plaintext into `out`, from this sequence number on."""
        stride = self.frame_length + FRAME_OVERHEAD
        for run in _whole_units(pieces, self.frame_length):
            count = len(run[0]) // self.frame_length if len(run) == 1 else 1
            target, out = out[: count * stride], out[count * stride :]
            if count >= _MANY:
                self._seal_many(sequence, count, run[0], target)
            else:
                self._seal_each(sequence, count, run, target)
            sequence += count

    def _seal_each(self, sequence: int, count: int, run: tuple[memoryview, ...], out: memoryview) -> None:
        length = self.frame_length
        for i in range(count):
            frame = out[i * (length + FRAME_OVERHEAD) :][: length + FRAME_OVERHEAD]
            nonce = iv(sequence + i)
            frame[:FRAME_HEADER_LENGTH] = nonce[-SEQUENCE_LENGTH:] + nonce
            content = run if len(run) > 1 else (run[0][i * length : (i + 1) * length],)
            self._seal(nonce, content, self._aad(_REGULAR, sequence + i, length), frame[FRAME_HEADER_LENGTH:])

    def _seal_many(self, sequence: int, count: int, source: memoryview, out: memoryview) -> None:
        stride = self.frame_length + FRAME_OVERHEAD
        ivs, aads = self._ivs_and_aads(sequence, count)
        write_headers(out, sequence, count, stride)
        plaintexts = map(source.__getitem__, slices(0, self.frame_length, self.frame_length, count))
        targets = map(
            out.__getitem__, slices(FRAME_HEADER_LENGTH, stride - FRAME_HEADER_LENGTH, stride, count)
        )
        deque(map(self.key.aead.encrypt_into, ivs, plaintexts, aads, targets), maxlen=0)

    def seal_final(self, sequence: int, pieces: Sequence[memoryview], length: int, out: memoryview) -> None:
        """Seal the final frame, with `length` bytes of plaintext, into `out`."""
        nonce = iv(sequence)
        header = FINAL_MARKER + nonce[-SEQUENCE_LENGTH:] + nonce + length.to_bytes(4, "big")
        out[:FINAL_HEADER_LENGTH] = header
        self._seal(nonce, pieces, self._aad(_FINAL, sequence, length), out[FINAL_HEADER_LENGTH:])

    def _seal(self, nonce: bytes, pieces: Sequence[memoryview], aad: bytes, out: memoryview) -> None:
        length = len(out) - TAG_LENGTH
        if _at_once(pieces, length):
            self.key.aead.encrypt_into(nonce, _joined(pieces), aad, out)
            return
        context = Cipher(AES(self.key.key), GCM(nonce)).encryptor()
        context.authenticate_additional_data(aad)
        _update(context, pieces, out[:length])
        context.finalize()
        out[length:] = context.tag

    def open_regular(self, sequence: int, pieces: Sequence[memoryview], out: memoryview) -> None:
        """Open whole regular frames, headers checked before, into `out`; raises `TagError`."""
        stride = self.frame_length + FRAME_OVERHEAD
        for run in _whole_units(pieces, stride):
            count = len(run[0]) // stride if len(run) == 1 else 1
            target, out = out[: count * self.frame_length], out[count * self.frame_length :]
            if count >= _MANY:
                self._open_many(sequence, count, run[0], target)
            else:
                self._open_each(sequence, count, run, target)
            sequence += count

    def _open_each(self, sequence: int, count: int, run: tuple[memoryview, ...], out: memoryview) -> None:
        length = self.frame_length
        stride = length + FRAME_OVERHEAD
        for i in range(count):
            frame = run if len(run) > 1 else (run[0][i * stride : (i + 1) * stride],)
            header, sealed = _split(frame, FRAME_HEADER_LENGTH)
            aad = self._aad(_REGULAR, sequence + i, length)
            target = out[i * length : (i + 1) * length]
            self._open(header[SEQUENCE_LENGTH:], sealed, aad, target, f"frame {sequence + i}")

    def _open_many(self, sequence: int, count: int, source: memoryview, out: memoryview) -> None:
        stride = self.frame_length + FRAME_OVERHEAD
        ivs, aads = self._ivs_and_aads(sequence, count)
        sealed = map(
            source.__getitem__, slices(FRAME_HEADER_LENGTH, stride - FRAME_HEADER_LENGTH, stride, count)
        )
        targets = map(out.__getitem__, slices(0, self.frame_length, self.frame_length, count))
        try:
            deque(map(self.key.aead.decrypt_into, ivs, sealed, aads, targets), maxlen=0)
        except InvalidTag:
            # One frame of the batch is bad: one by one tells which.
            self._open_each(sequence, count, (source,), out)
            raise

    def open_final(self, sequence: int, nonce: bytes, sealed: Sequence[memoryview], out: memoryview) -> None:
        """Open content and tag of the final frame into `out`; raises `TagError`."""
        aad = self._aad(_FINAL, sequence, len(out))
        self._open(nonce, sealed, aad, out, f"final frame {sequence}")

    def open_non_framed(self, nonce: bytes, sealed: Sequence[memoryview], out: memoryview) -> None:
        """Open content and tag of a non-framed body into `out`; raises `TagError`."""
        self._open(nonce, sealed, self._aad(_NON_FRAMED, 1, len(out)), out, "body")

    def _open(
        self, nonce: bytes, sealed: Sequence[memoryview], aad: bytes, out: memoryview, what: str
    ) -> None:
        """Open one frame. On a bad tag `out` holds plaintext that nobody may see: the caller wipes it."""
        try:
            if _at_once(sealed, len(out)):
                self.key.aead.decrypt_into(nonce, _joined(sealed), aad, out)
                return
            context = Cipher(AES(self.key.key), GCM(nonce)).decryptor()
            context.authenticate_additional_data(aad)
            content, tag = _split_end(sealed, TAG_LENGTH)
            _update(context, content, out)
            context.finalize_with_tag(tag)
        except InvalidTag as error:
            raise TagError(f"the {what} fails authentication: it was changed, or is out of place") from error


def _at_once(pieces: Sequence[memoryview], length: int) -> bool:
    """Tell whether one call on contiguous bytes beats a call for each piece."""
    return length <= (_STEP if len(pieces) == 1 else _INCREMENTAL_LENGTH)


def _joined(pieces: Sequence[memoryview]) -> bytes | memoryview:
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _split(pieces: Sequence[memoryview], length: int) -> tuple[bytes, tuple[memoryview, ...]]:
    """Split off the first `length` bytes as bytes; what follows stays views."""
    if len(pieces[0]) >= length:
        return bytes(pieces[0][:length]), (pieces[0][length:], *pieces[1:])
    following, rest = _split(pieces[1:], length - len(pieces[0]))
    return bytes(pieces[0]) + following, rest


def _split_end(pieces: Sequence[memoryview], length: int) -> tuple[tuple[memoryview, ...], bytes]:
    """Split off the last `length` bytes as bytes."""
    last = pieces[-1]
    if len(last) >= length:
        return (*pieces[:-1], last[: len(last) - length]), bytes(last[len(last) - length :])
    rest, preceding = _split_end(pieces[:-1], length - len(last))
    return rest, preceding + bytes(last)


def _update(context: CipherContext, pieces: Sequence[memoryview], out: memoryview) -> None:
    """Run pieces through a cipher into `out`, which is as long as they are together.

    `update_into` asks for room for one block more than it writes, so the last bytes go the way that
    copies.
    """
    room = AES.block_size // 8 - 1
    for piece in pieces:
        for start in range(0, len(piece), _STEP):
            step = piece[start : start + _STEP]
            head = min(len(step), max(0, len(out) - room))
            if head:
                context.update_into(step[:head], out)
            if head < len(step):
                out[head : len(step)] = context.update(step[head:])
            out = out[len(step) :]
