"""What the machines hand out: heavy work as values, for any thread, and the events of the reading machine.

A work is immutable and shares nothing with its machine but the running digest. `crypt` of several
works may run in any order and in any thread; `digest` runs in the order in which the machine handed
the works out, one at a time. `cost` is an estimate of `crypt`, in microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Self

import attrs

from aioencrypt.format.body import BodyCipher, frame_cost
from aioencrypt.format.frames import FINAL_OVERHEAD, FRAME_OVERHEAD
from aioencrypt.format.header import MessageHeader
from aioencrypt.format.signing import RunningDigest, verify
from aioencrypt.format.suites import SignatureAlgorithm

# Microseconds for P-384, the slower of the two curves: up to half as much again on older processors.
VERIFY_COST = 380
SIGN_COST = 150


class Output:
    """A buffer that is written in place, part after part, and becomes `bytes` without a second copy.

    `BytesIO` hands its inner object out as it is while no view on it is open. Leaving `with` releases every
    view: some may live in the traceback of an error, and CPython 3.12.1 crashes when it collects a cycle
    with a view on a `BytesIO` in it.
    """

    def __init__(self, length: int) -> None:
        self._store = BytesIO(bytes(length))
        self._views = [self._store.getbuffer()]
        self.used: int = 0

    def reserve(self, length: int) -> memoryview:
        """Return the next part, to be written; take no view of it that lives longer than the writing."""
        part = self._views[0][self.used : self.used + length]
        self._views.append(part)
        self.used += length
        return part

    def finish(self) -> bytes:
        """Return what was reserved; releases every view."""
        self.release()
        self._store.truncate(self.used)
        return self._store.getvalue()

    def wipe(self) -> None:
        """Overwrite what was reserved: AES-GCM writes plaintext before it knows whether the tag is right."""
        self._views[0][: self.used] = bytes(self.used)

    def release(self) -> None:
        """Release every view; nothing reads or writes the buffer any more."""
        for view in self._views:
            view.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _filled(length: int, fill: Callable[[memoryview], None]) -> bytes:
    """Return `bytes` that `fill` wrote; on failure the buffer is wiped."""
    with Output(length) as output:
        try:
            fill(output.reserve(length))
        except BaseException:
            output.wipe()
            raise
        return output.finish()


@attrs.frozen
class SealWork:
    """Consecutive frames to seal; the last of them is the final frame where `final_length` is given."""

    cipher: BodyCipher
    sequence: int
    regular: tuple[memoryview, ...] = attrs.field(repr=False)
    regular_count: int
    final: tuple[memoryview, ...] = attrs.field(repr=False)
    final_length: int | None
    running: RunningDigest | None = attrs.field(repr=False)
    undigested: tuple[bytes, ...] = attrs.field(repr=False)

    @property
    def output_length(self) -> int:
        """The number of bytes that `crypt` makes."""
        length = self.regular_count * (self.cipher.frame_length + FRAME_OVERHEAD)
        return length if self.final_length is None else length + FINAL_OVERHEAD + self.final_length

    @property
    def cost(self) -> float:
        """The microseconds that `crypt` takes, estimated."""
        cost = self.regular_count * frame_cost(self.cipher.frame_length)
        return cost if self.final_length is None else cost + frame_cost(self.final_length)

    def crypt(self) -> bytes:
        """Return the sealed frames."""
        return _filled(self.output_length, self.crypt_into)

    def crypt_into(self, out: memoryview) -> None:
        """Do the cryptography into a buffer of `output_length` bytes."""
        if self.regular_count:
            self.cipher.seal_regular(self.sequence, self.regular, out)
        if self.final_length is not None:
            start = self.regular_count * (self.cipher.frame_length + FRAME_OVERHEAD)
            final_sequence = self.sequence + self.regular_count
            self.cipher.seal_final(final_sequence, self.final, self.final_length, out, start)

    def digest(self, sealed: bytes | memoryview) -> None:
        """Add what `crypt` made to the digest of a signed message."""
        if self.running:
            self.running.update((*self.undigested, sealed))


@attrs.frozen
class OpenWork:
    """Consecutive frames, or a whole non-framed body, to open."""

    serialized: tuple[memoryview, ...] = attrs.field(repr=False)
    output_length: int
    count: int
    last: bool
    open_into: Callable[[memoryview], None] = attrs.field(repr=False)
    running: RunningDigest | None = attrs.field(repr=False)
    undigested: tuple[bytes, ...] = attrs.field(repr=False)

    @property
    def input_length(self) -> int:
        """The number of bytes that `digest` covers."""
        return sum(map(len, self.serialized))

    @property
    def cost(self) -> float:
        """The microseconds that `crypt` takes, estimated."""
        return self.count * frame_cost(self.output_length // self.count)

    def crypt(self) -> bytes:
        """Return the plaintext; raises `TagError`, and then nothing of it exists."""
        return _filled(self.output_length, self.open_into)

    def digest(self) -> None:
        """Add the frames, as they came, to the digest of a signed message."""
        if self.running:
            pieces: Iterable[bytes | memoryview] = (*self.undigested, *self.serialized)
            self.running.update(pieces)


@attrs.frozen
class VerifyWork:
    """The signature to verify, after the digests of everything before it."""

    algorithm: SignatureAlgorithm
    verification_key: bytes
    signature: bytes = attrs.field(repr=False)
    running: RunningDigest = attrs.field(repr=False)

    @property
    def cost(self) -> float:
        """The microseconds that `crypt` takes, estimated."""
        return VERIFY_COST

    def crypt(self) -> bytes:
        """Return nothing; raises `SignatureError`."""
        verify(self.algorithm, self.verification_key, self.signature, self.running.finish())
        return b""


Work = SealWork | OpenWork | VerifyWork


@attrs.frozen
class NeedData:
    """More bytes are needed: `receive` them, or ``b""`` at the end of input."""


@attrs.frozen
class HeaderParsed:
    """The header is complete but not verified: for the materials request only. Answer with `unlock`."""

    header: MessageHeader


@attrs.frozen
class HeaderVerified:
    """Commitment and tag of the header are right."""

    header: MessageHeader


@attrs.frozen
class Plaintext:
    """Plaintext that may be released."""

    data: bytes = attrs.field(repr=False)


@attrs.frozen
class EndOfMessage:
    """Everything is verified, and the input has ended."""


Event = NeedData | HeaderParsed | HeaderVerified | OpenWork | VerifyWork | Plaintext | EndOfMessage
