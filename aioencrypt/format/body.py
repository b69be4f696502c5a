"""Encrypt and decrypt single frames of a message body, and non-framed bodies.

Specification: data-format/message-body.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from aioencrypt.format.batches import INCREMENTAL_LENGTH, REGULAR, BatchCipher, tag_error
from aioencrypt.format.frames import (
    FINAL_HEADER_LENGTH,
    FINAL_MARKER,
    FRAME_HEADER_LENGTH,
    FRAME_OVERHEAD,
    SEQUENCE_LENGTH,
    iv,
)
from aioencrypt.format.suites import TAG_LENGTH

_FINAL = b"AWSKMSEncryptionClient Final Frame"
_NON_FRAMED = b"AWSKMSEncryptionClient Single Block"

# `AESGCM` takes at most 2**31 - 1 bytes. Far smaller pieces let a worker thread release the GIL often.
_STEP = 16 * 1024 * 1024


def each_frame(pieces: Sequence[memoryview], stride: int) -> Iterator[tuple[memoryview, ...]]:
    """Yield each frame in `pieces` as a tuple of views, without a copy."""
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


@attrs.frozen
class BodyCipher(BatchCipher):
    """Encrypt and decrypt the frames of one message, or its non-framed body."""

    def _seal_each(self, sequence: int, count: int, pieces: Sequence[memoryview], out: memoryview) -> None:
        length, stride = self.frame_length, self.frame_length + FRAME_OVERHEAD
        for number, content in enumerate(each_frame(pieces, length), sequence):
            start = (number - sequence) * stride
            nonce = iv(number)
            out[start : start + FRAME_HEADER_LENGTH] = nonce[-SEQUENCE_LENGTH:] + nonce
            self._seal(
                nonce, content, self.aad(REGULAR, number, length), out, start + FRAME_HEADER_LENGTH, length
            )

    def seal_final(
        self, sequence: int, pieces: Sequence[memoryview], length: int, out: memoryview, start: int = 0
    ) -> None:
        """Encrypt the final frame, with `length` bytes of plaintext, into `out` at `start`."""
        nonce = iv(sequence)
        header = FINAL_MARKER + nonce[-SEQUENCE_LENGTH:] + nonce + length.to_bytes(4, "big")
        out[start : start + FINAL_HEADER_LENGTH] = header
        aad = self.aad(_FINAL, sequence, length)
        self._seal(nonce, pieces, aad, out, start + FINAL_HEADER_LENGTH, length)

    def _seal(
        self,
        nonce: bytes,
        pieces: Sequence[memoryview],
        aad: bytes,
        out: memoryview,
        start: int,
        length: int,
    ) -> None:
        end = start + length
        if _at_once(pieces, length):
            self.key.aead.encrypt_into(nonce, _joined(pieces), aad, out[start : end + TAG_LENGTH])
            return
        context = Cipher(AES(self.key.key), GCM(nonce)).encryptor()
        context.authenticate_additional_data(aad)
        _update(context, pieces, out, start, end)
        context.finalize()
        out[end : end + TAG_LENGTH] = context.tag

    def _open_each(self, sequence: int, count: int, pieces: Sequence[memoryview], out: memoryview) -> None:
        length, stride = self.frame_length, self.frame_length + FRAME_OVERHEAD
        for number, frame in enumerate(each_frame(pieces, stride), sequence):
            header, sealed = _split(frame, FRAME_HEADER_LENGTH)
            aad = self.aad(REGULAR, number, length)
            start = (number - sequence) * length
            self._open(header[SEQUENCE_LENGTH:], sealed, aad, out, start, length, f"frame {number}")

    def open_final(self, sequence: int, nonce: bytes, sealed: Sequence[memoryview], out: memoryview) -> None:
        """Decrypt the content of the final frame into `out`; raises `TagError`."""
        length = len(out)
        self._open(
            nonce, sealed, self.aad(_FINAL, sequence, length), out, 0, length, f"final frame {sequence}"
        )

    def open_non_framed(self, nonce: bytes, sealed: Sequence[memoryview], out: memoryview) -> None:
        """Decrypt a non-framed body into `out`; raises `TagError`."""
        self._open(nonce, sealed, self.aad(_NON_FRAMED, 1, len(out)), out, 0, len(out), "body")

    def _open(
        self,
        nonce: bytes,
        sealed: Sequence[memoryview],
        aad: bytes,
        out: memoryview,
        start: int,
        length: int,
        what: str,
    ) -> None:
        """Decrypt one frame. On a bad tag, `out` holds unauthenticated plaintext: the caller must wipe it."""
        end = start + length
        try:
            if _at_once(sealed, length):
                self.key.aead.decrypt_into(nonce, _joined(sealed), aad, out[start:end])
                return
            context = Cipher(AES(self.key.key), GCM(nonce)).decryptor()
            context.authenticate_additional_data(aad)
            content, tag = _split_end(sealed, TAG_LENGTH)
            _update(context, content, out, start, end)
            context.finalize_with_tag(tag)
        except InvalidTag as error:
            raise tag_error(what) from error


def _at_once(pieces: Sequence[memoryview], length: int) -> bool:
    """Tell whether one call on contiguous bytes is faster than a call for each piece."""
    return length <= (_STEP if len(pieces) == 1 else INCREMENTAL_LENGTH)


def _joined(pieces: Sequence[memoryview]) -> bytes | memoryview:
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _split(pieces: Sequence[memoryview], length: int) -> tuple[bytes, tuple[memoryview, ...]]:
    """Split off the first `length` bytes as bytes; the rest stays views."""
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


def _update(
    context: CipherContext, pieces: Sequence[memoryview], out: memoryview, start: int, end: int
) -> None:
    """Run pieces through a cipher into `out`, from `start` up to `end`; `end - start` is their total length.

    `update_into` needs room for one block more than it writes, so the last bytes use `update`, which copies.
    """
    room = AES.block_size // 8 - 1
    for piece in pieces:
        for place in range(0, len(piece), _STEP):
            step = piece[place : place + _STEP]
            head = min(len(step), max(0, end - start - room))
            if head:
                context.update_into(step[:head], out[start:end])
            if head < len(step):
                out[start + head : start + len(step)] = context.update(step[head:])
            start += len(step)
