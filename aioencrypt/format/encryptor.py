"""The state machine that writes a message. It does no I/O, and hands out encryption as `SealWork` values.

Specification: client-apis/encrypt.md.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping, Sequence

from aioencrypt.errors import LimitError, PlaintextLengthError, PolicyError
from aioencrypt.format.batches import BATCH_COST, batch_frames
from aioencrypt.format.body import BodyCipher
from aioencrypt.format.derivation import derive_message_key
from aioencrypt.format.frames import MAX_FRAMES, check_frame_count, message_length
from aioencrypt.format.header import (
    MAX_FRAME_LENGTH,
    ContentType,
    EncryptedDataKey,
    MessageHeader,
    authenticate_header,
)
from aioencrypt.format.signing import KeySigner, RunningDigest, Signer, sign_static_length
from aioencrypt.format.suites import AlgorithmSuite
from aioencrypt.format.wire import ByteQueue, immutable
from aioencrypt.format.work import SIGN_COST, SealWork
from aioencrypt.runtime.secrets import SecretBytes


class MessageEncryptor:
    """Write one framed message: call `start`, then `seal` until `last`, then `finish`.

    `plaintext_length` is the exact length in bytes, `plaintext_length_bound` an upper bound;
    `authenticated_context` is the serialization of the pairs that are authenticated but not stored.
    `batch_cost` is the longest time of one work, in microseconds. Raises `ValueError` for a frame length
    outside 1 to 2**32 - 1, a message id of the wrong length, or a signer that does not fit the suite, and
    `PolicyError` if the plaintext needs more than 2**32 - 1 frames.
    """

    def __init__(
        self,
        algorithm_suite: AlgorithmSuite,
        data_key: bytes,
        *,
        message_id: bytes,
        encryption_context: Mapping[str, str],
        encrypted_data_keys: Sequence[EncryptedDataKey],
        frame_length: int = 4096,
        plaintext_length: int | None = None,
        plaintext_length_bound: int | None = None,
        authenticated_context: bytes = b"",
        signer: Signer | None = None,
        batch_cost: float = BATCH_COST,
    ) -> None:
        data_key = SecretBytes(data_key)
        _check_arguments(algorithm_suite, message_id, frame_length, signer)
        if plaintext_length is not None:
            check_frame_count(plaintext_length, frame_length)
        key = derive_message_key(algorithm_suite, data_key, message_id)
        self._cipher = BodyCipher(key, message_id, frame_length)
        self.header: MessageHeader = MessageHeader(
            algorithm_suite.version,
            algorithm_suite,
            message_id,
            encryption_context,
            tuple(encrypted_data_keys),
            ContentType.FRAMED,
            frame_length,
            key.commitment or b"",
        )
        header_body = self.header.serialize_body()
        authentication = authenticate_header(header_body, self.header.version, key, authenticated_context)
        self._header = header_body + authentication
        self._signer = signer
        self._running = RunningDigest(algorithm_suite.signature) if algorithm_suite.signature else None
        self._undigested: tuple[bytes, ...] = (self._header,)
        self._plaintext_length = plaintext_length
        self._bound = plaintext_length_bound
        self._pending = ByteQueue()
        self._batch_cost = batch_cost
        self._length = 0
        self._max_length = MAX_FRAMES * frame_length - 1
        self._sequence = 1
        self._unsettled: deque[SealWork] = deque()
        self._ended = False
        self._failure: PolicyError | None = None

    @property
    def ciphertext_length(self) -> int | None:
        """The exact length of the message in bytes; None if the plaintext length is not known."""
        return None if self._plaintext_length is None else self.length_for(self._plaintext_length)

    def length_for(self, plaintext_length: int) -> int:
        """Return the length in bytes of the message with a plaintext of this length."""
        signature = self.header.algorithm_suite.signature
        return message_length(plaintext_length, len(self._header), self.header.frame_length, signature)

    def batch_length(self, available: int) -> int:
        """Return how many of the available bytes to pass to one `seal`, so that its work stays short."""
        frame_length = self.header.frame_length
        frames = -(-available // frame_length)
        return min(available, batch_frames(frame_length, frames, self._batch_cost) * frame_length)

    def start(self) -> bytes:
        """Return the serialized header."""
        return self._header

    def receive(self, plaintext: bytes | memoryview) -> None:
        """Add plaintext for the next `seal`; raises the errors of `seal`."""
        self._receive(plaintext, last=False)

    def _receive(self, plaintext: bytes | memoryview, last: bool) -> None:
        if self._failure:
            raise copy.copy(self._failure) from self._failure
        if self._ended:
            raise ValueError("seal() after the last plaintext")
        plaintext = immutable(plaintext)
        length = self._length + len(plaintext)
        try:
            self._check_length(length, last)
            if length > self._max_length:
                check_frame_count(length, self.header.frame_length)
        except PolicyError as error:
            self._failure = error
            raise
        self._length = length
        self._pending.append(plaintext)

    def seal(self, plaintext: bytes | memoryview = b"", last: bool = False) -> SealWork:
        """Add plaintext and return the work for all frames that are now complete.

        A full frame never waits for more plaintext: if none follows, the final frame is empty. Raises
        `PlaintextLengthError`, `LimitError` for the bound, and `PolicyError` for too many frames, before
        any of this plaintext is encrypted. Errors are final.
        """
        self._receive(plaintext, last)
        frame_length = self.header.frame_length
        count, rest = divmod(len(self._pending), frame_length)
        final_length = rest if last else None
        undigested: tuple[bytes, ...] = ()
        if count or last:  # the header is digested with the first work that has output
            undigested, self._undigested = self._undigested, ()
        work = SealWork(
            self._cipher,
            self._sequence,
            self._pending.take_pieces(count * frame_length),
            count,
            self._pending.take_pieces(final_length or 0),
            final_length,
            self._running,
            undigested,
        )
        self._sequence += count
        self._ended = last
        self._unsettled.append(work)
        return work

    def _check_length(self, length: int, last: bool) -> None:
        expected = self._plaintext_length
        if expected is not None and (length > expected or (last and length < expected)):
            raise PlaintextLengthError(expected=expected, actual=length)
        if expected is None and self._bound is not None and length > self._bound:
            raise LimitError(
                "plaintext_length_bound", limit=self._bound, actual=length, what="the length of the plaintext"
            )

    def settle(self, work: SealWork) -> None:
        """Report that the oldest work is encrypted. Its digest must end before `finish`, not before this."""
        if not self._unsettled or self._unsettled[0] is not work:
            raise ValueError("works must be settled in the order in which the machine returned them")
        self._unsettled.popleft()

    @property
    def finish_cost(self) -> float:
        """The estimated time of `finish` in microseconds; unknown for a user-supplied signer."""
        return SIGN_COST if isinstance(self._signer, KeySigner) else float("inf")

    def finish(self) -> bytes:
        """Return the footer, empty for an unsigned suite."""
        if self._failure:
            raise copy.copy(self._failure) from self._failure
        if not self._ended or self._unsettled:
            raise ValueError("finish() before the last work is settled")
        algorithm = self.header.algorithm_suite.signature
        if algorithm is None or self._signer is None or self._running is None:
            return b""
        signature = sign_static_length(algorithm, self._signer, self._running.finish())
        return len(signature).to_bytes(2, "big") + signature


def _check_arguments(
    algorithm_suite: AlgorithmSuite, message_id: bytes, frame_length: int, signer: Signer | None
) -> None:
    if not 1 <= frame_length <= MAX_FRAME_LENGTH:
        raise ValueError(f"frame_length is {frame_length}; it must be 1 to {MAX_FRAME_LENGTH}")
    if len(message_id) != algorithm_suite.message_id_length:
        raise ValueError(f"message_id has {len(message_id)} bytes, not {algorithm_suite.message_id_length}")
    if (signer is None) is algorithm_suite.signed:
        raise ValueError(
            f"{algorithm_suite.name} and the signer do not fit: a signed suite has one, others none"
        )
