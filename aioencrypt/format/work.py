"""The output of the state machines: heavy work as values, and the events of the reading machine.

A work is immutable and shares only the running digest with its machine. The `crypt` methods of several
works may run in any order and in any thread. Their `digest` methods must run one at a time, in the order in
which the machine returned the works. `cost` estimates the time of `crypt` in microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Self

import attrs

from aioencrypt.format.batches import frame_cost
from aioencrypt.format.body import BodyCipher
from aioencrypt.format.frames import FINAL_OVERHEAD, FRAME_OVERHEAD
from aioencrypt.format.header import MessageHeader
from aioencrypt.format.signing import RunningDigest, verify
from aioencrypt.format.suites import SignatureAlgorithm

# Microseconds for P-384, the slower of the two curves; up to 50 % more on older processors.
VERIFY_COST = 380
SIGN_COST = 150


class Output:
    """A buffer that is written in place, part by part, and becomes `bytes` without another copy.

    `BytesIO` returns its internal `bytes` object if no view on it is open. Leaving `with` releases every
    view: the traceback of an error may keep views alive, and CPython 3.12.1 crashes when it collects a
    cycle that holds a view on a `BytesIO`.
    """

    def __init__(self, length: int) -> None:
        self._store = BytesIO(bytes(length))
        self._views = [self._store.getbuffer()]
        self.used: int = 0

    def reserve(self, length: int) -> memoryview:
        """Return the next part for writing. Do not keep a view on it after writing."""
        part = self._views[0][self.used : self.used + length]
        self._views.append(part)
        self.used += length
        return part

    def finish(self) -> bytes:
        """Return all reserved parts as `bytes`, and release every view."""
        self.release()
        self._store.truncate(self.used)
        return self._store.getvalue()

    def wipe(self) -> None:
        """Overwrite all reserved parts: AES-GCM writes plaintext before it has verified the tag."""
        self._views[0][: self.used] = bytes(self.used)

    def release(self) -> None:
        """Release every view; the buffer is neither read nor written any more."""
        for view in self._views:
            view.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _filled(length: int, fill: Callable[[memoryview], None]) -> bytes:
    """Return the `bytes` that `fill` wrote; on failure, wipe the buffer."""
    with Output(length) as output:
        try:
            fill(output.reserve(length))
        except BaseException:
            output.wipe()
            raise
        return output.finish()


@attrs.frozen
class SealWork:
    """Encrypt consecutive frames; if `final_length` is given, the last one is the final frame."""

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
        """The number of bytes that `crypt` returns."""
        length = self.regular_count * (self.cipher.frame_length + FRAME_OVERHEAD)
        return length if self.final_length is None else length + FINAL_OVERHEAD + self.final_length

    @property
    def cost(self) -> float:
        """The microseconds that `crypt` takes, estimated."""
        cost = self.regular_count * frame_cost(self.cipher.frame_length)
        return cost if self.final_length is None else cost + frame_cost(self.final_length)

    def crypt(self) -> bytes:
        """Return the encrypted frames."""
        return _filled(self.output_length, self.crypt_into)

    def crypt_into(self, out: memoryview) -> None:
        """Write the encrypted frames into a buffer of `output_length` bytes."""
        if self.regular_count:
            self.cipher.seal_regular(self.sequence, self.regular, out)
        if self.final_length is not None:
            start = self.regular_count * (self.cipher.frame_length + FRAME_OVERHEAD)
            final_sequence = self.sequence + self.regular_count
            self.cipher.seal_final(final_sequence, self.final, self.final_length, out, start)

    def digest(self, sealed: bytes | memoryview) -> None:
        """Add the output of `crypt` to the digest of a signed message."""
        if self.running:
            self.running.update((*self.undigested, sealed))


@attrs.frozen
class OpenWork:
    """Decrypt consecutive frames or a whole non-framed body."""

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
        """Return the plaintext; on `TagError` it has been wiped."""
        return _filled(self.output_length, self.open_into)

    def digest(self) -> None:
        """Add the received frames to the digest of a signed message."""
        if self.running:
            pieces: Iterable[bytes | memoryview] = (*self.undigested, *self.serialized)
            self.running.update(pieces)


@attrs.frozen
class VerifyWork:
    """Verify the signature, after everything before it has been digested."""

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
    """More bytes are needed: pass them to `receive`, or ``b""`` at the end of input."""


@attrs.frozen
class HeaderParsed:
    """The header is complete but unverified: use it only to request materials, then call `unlock`."""

    header: MessageHeader


@attrs.frozen
class HeaderVerified:
    """The commitment and the tag of the header are verified."""

    header: MessageHeader


@attrs.frozen
class Plaintext:
    """Plaintext that may be released."""

    data: bytes = attrs.field(repr=False)


@attrs.frozen
class EndOfMessage:
    """Everything is verified, and the input has ended."""


Event = NeedData | HeaderParsed | HeaderVerified | OpenWork | VerifyWork | Plaintext | EndOfMessage
