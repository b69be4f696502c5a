"""The two machines: one writes a message, one reads it. Neither does I/O.

A machine parses, orders and decides. Heavy work is a `Work` value that it hands out; `settle` brings
the result back, and there, and nowhere else, it is decided what may be released.

Reading (client-apis/decrypt.md), the states and what ends each of them:

    HEADER  bytes until the header is complete          -> LOCKED
    LOCKED  the header is parsed, nothing is verified;
            `unlock` brings the data key, and
            commitment and header tag are checked       -> BODY
    BODY    frames until the final one, or a non-framed
            body                                        -> FOOTER, or END without a signature
    FOOTER  the signature                               -> END
    END     nothing may follow but the end of input     -> DONE
    FAILED  from anywhere, for good
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from functools import partial

import attrs

from aioencrypt.errors import (
    EncryptionError,
    LimitError,
    MalformedMessageError,
    PlaintextLengthError,
    PolicyError,
    SignatureError,
    TrailingDataError,
    TruncatedMessageError,
)
from aioencrypt.format import body
from aioencrypt.format.body import BodyCipher
from aioencrypt.format.derivation import derive_message_key
from aioencrypt.format.header import (
    MAX_FRAME_LENGTH,
    ContentType,
    EncryptedDataKey,
    MessageHeader,
    ReceivedHeader,
    authenticate_header,
    parse_header,
)
from aioencrypt.format.signing import RunningDigest, Signer, sign_static_length
from aioencrypt.format.suites import TAG_LENGTH, AlgorithmSuite
from aioencrypt.format.wire import ByteQueue
from aioencrypt.format.work import OpenWork, SealWork, VerifyWork, Work


class MessageEncryptor:
    """Writes one framed message: `start`, then `seal` until `last`, then `finish`.

    Raises `ValueError` for a frame length outside 1 to 2**32 - 1, a message id of the wrong length,
    or a signer where the suite has none (or the reverse), and `PolicyError` where the plaintext
    needs more than 2**32 - 1 frames. `plaintext_length` is the exact length in bytes,
    `plaintext_length_bound` an upper bound; `authenticated_context` is the serialization of pairs
    that are authenticated but not stored.
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
    ) -> None:
        if not 1 <= frame_length <= MAX_FRAME_LENGTH:
            raise ValueError(f"frame_length is {frame_length}; it must be 1 to {MAX_FRAME_LENGTH}")
        if len(message_id) != algorithm_suite.message_id_length:
            raise ValueError(f"message_id has {len(message_id)} bytes, not {algorithm_suite.message_id_length}")
        if (signer is None) is algorithm_suite.signed:
            raise ValueError(f"{algorithm_suite.name} and the signer do not fit: a signed suite has one, others none")
        if plaintext_length is not None:
            _check_frames(body.frame_count(plaintext_length, frame_length), frame_length)
        key = derive_message_key(algorithm_suite, data_key, message_id)
        self._cipher = BodyCipher(key, message_id, frame_length)
        self.header = MessageHeader(
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
        self._unsigned: tuple[bytes, ...] = (self._header,)
        self._plaintext_length = plaintext_length
        self._bound = plaintext_length_bound
        self._pending = ByteQueue()
        self._length = 0
        self._sequence = 1
        self._unsettled: deque[SealWork] = deque()
        self._ended = False

    @property
    def ciphertext_length(self) -> int | None:
        """The exact length of the message in bytes, None where the plaintext length is not known."""
        if self._plaintext_length is None:
            return None
        length = body.body_length(self._plaintext_length, self.header.frame_length)
        return len(self._header) + length + self.header.algorithm_suite.footer_length

    @property
    def batch_length(self) -> int:
        """The number of bytes to give to one `seal`, so that its work stays short."""
        return body.batch_frames(self.header.frame_length) * self.header.frame_length

    def start(self) -> bytes:
        """Return the serialized header."""
        return self._header

    def seal(self, plaintext: bytes, last: bool = False) -> SealWork:
        """Take plaintext and return the work for every frame that is complete now.

        A full frame waits for the next byte or the end, because the last frame of a message is the
        final frame also when it is full. Raises `PlaintextLengthError`, or `LimitError` for the bound
        and `PolicyError` for too many frames, before any of this plaintext is sealed.
        """
        if self._ended:
            raise ValueError("seal() after the last plaintext")
        self._check_length(self._length + len(plaintext), last)
        self._length += len(plaintext)
        self._pending.append(plaintext)
        frame_length = self.header.frame_length
        count = max(0, len(self._pending) - 1) // frame_length
        final_length = len(self._pending) - count * frame_length if last else None
        _check_frames(self._sequence + count, frame_length)
        work = SealWork(
            self._cipher,
            self._sequence,
            self._pending.take_pieces(count * frame_length),
            count,
            self._pending.take_pieces(final_length or 0),
            final_length,
            self._running,
            self._unsigned,
        )
        self._unsigned = () if work.output_length else self._unsigned
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
        """Say that the result of the oldest work is there and, for a signed suite, in the digest."""
        if not self._unsettled or self._unsettled[0] is not work:
            raise ValueError("work is settled in the order in which it was handed out")
        self._unsettled.popleft()

    def finish(self) -> bytes:
        """Return the footer: empty for an unsigned suite; signing takes a fraction of a millisecond."""
        if not self._ended or self._unsettled:
            raise ValueError("finish() before the last work is settled")
        algorithm = self.header.algorithm_suite.signature
        if algorithm is None or self._signer is None or self._running is None:
            return b""
        signature = sign_static_length(algorithm, self._signer, self._running.finish())
        return len(signature).to_bytes(2, "big") + signature


def _check_frames(count: int, frame_length: int) -> None:
    if count > body.MAX_FRAMES:
        raise PolicyError(
            f"the plaintext needs {count} frames of {frame_length} bytes, above the {body.MAX_FRAMES} "
            "of the message format; raise frame_length"
        )


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


Event = NeedData | HeaderParsed | HeaderVerified | Work | Plaintext | EndOfMessage


class State(enum.Enum):
    """Where a `MessageDecryptor` stands; the text at the top of this file is the table."""

    HEADER = enum.auto()
    LOCKED = enum.auto()
    BODY = enum.auto()
    FOOTER = enum.auto()
    END = enum.auto()
    DONE = enum.auto()
    FAILED = enum.auto()


_NEXT = {
    State.HEADER: {State.LOCKED},
    State.LOCKED: {State.BODY},
    State.BODY: {State.FOOTER, State.END},
    State.FOOTER: {State.END},
    State.END: {State.DONE},
    State.DONE: set(),
    State.FAILED: set(),
}


class MessageDecryptor:
    """Reads one message: `receive` bytes, then `next_event` until it says `NeedData`.

    All lengths are in bytes, None is no limit: `max_header_length` of the header,
    `max_frame_length` of a frame or a non-framed body, `max_plaintext_length` of the whole. A breach
    is a `LimitError` from the length field, before the bytes are there. Errors are sticky.
    """

    def __init__(
        self,
        *,
        max_header_length: int | None = None,
        max_encrypted_data_keys: int | None = None,
        max_frame_length: int | None = None,
        max_plaintext_length: int | None = None,
    ) -> None:
        self.state = State.HEADER
        self._queue = ByteQueue()
        self._wanted = 0
        self._input_ended = False
        self._parser = parse_header(
            self._queue, max_length=max_header_length, max_encrypted_data_keys=max_encrypted_data_keys
        )
        self._received: ReceivedHeader | None = None
        self._max_frame_length = max_frame_length
        self._max_plaintext_length = max_plaintext_length
        self._events: deque[Event] = deque()
        self._unsettled: deque[Work] = deque()
        self._withheld: Plaintext | None = None
        self._failure: EncryptionError | None = None
        self._unsigned: tuple[bytes, ...] = ()
        self._sequence = 1
        self._plaintext_length = 0

    def receive(self, data: bytes) -> None:
        """Take the next bytes of the message; ``b""`` is the end of input."""
        if self._input_ended:
            raise ValueError("receive() after the end of input")
        if data:
            self._queue.append(data)
        else:
            self._input_ended = True

    def next_event(self) -> Event:
        """Return what comes next. Raises `MessageError` and `LimitError`, again and again."""
        if self._failure:
            raise self._failure
        try:
            return self._advance()
        except EncryptionError as error:
            self.fail(error)
            raise

    def fail(self, error: EncryptionError) -> None:
        """Fail for good with the error of a work; what was withheld is dropped."""
        self._failure = self._failure or error
        self.state = State.FAILED
        self._withheld = None
        self._events.clear()
        self._queue.clear()

    def _move(self, state: State) -> None:
        if state not in _NEXT[self.state]:
            raise ValueError(f"no way from {self.state.name} to {state.name}")
        self.state = state
        self._wanted = 0

    def _advance(self) -> Event:
        if self._events:
            return self._events.popleft()
        match self.state:
            case State.HEADER:
                return self._next_header()
            case State.LOCKED:
                raise ValueError("next_event() before unlock()")
            case State.BODY:
                work = self._next_frames() if self._framed else self._next_non_framed()
            case State.FOOTER:
                work = self._next_footer()
            case _:
                return self._next_end()
        if work is None:
            return self._need_data()
        self._unsettled.append(work)
        return work

    def _need_data(self) -> NeedData:
        if self._input_ended:
            raise TruncatedMessageError(f"the input ended in the {self.state.name.lower()} of the message")
        return NeedData()

    def _missing(self, wanted: int) -> bool:
        """Tell whether the queue is shorter than this, and remember it: no parse is tried before."""
        self._wanted = wanted
        return len(self._queue) < wanted

    def _next_header(self) -> Event:
        if len(self._queue) < self._wanted:
            return self._need_data()
        try:
            self._wanted = next(self._parser)
        except StopIteration as stop:
            received: ReceivedHeader = stop.value
            self._received = received
            self._check_frame_length(received.header.frame_length)
            self._move(State.LOCKED)
            return HeaderParsed(received.header)
        return self._need_data()

    def _check_frame_length(self, length: int, what: str = "the frame length in the header") -> None:
        if self._max_frame_length is not None and length > self._max_frame_length:
            raise LimitError("max_frame_length", limit=self._max_frame_length, actual=length, what=what)

    @property
    def _framed(self) -> bool:
        return self._header.content_type is ContentType.FRAMED

    @property
    def _header(self) -> MessageHeader:
        if self._received is None:
            raise ValueError("the header is not parsed yet")
        return self._received.header

    def unlock(
        self, data_key: bytes, *, verification_key: bytes | None = None, authenticated_context: bytes = b""
    ) -> None:
        """Verify the header with the data key; the next event is `HeaderVerified`.

        `verification_key` is the compressed point of a signed suite. Raises `CommitmentError`,
        `TagError`, `SignatureError` where the verification key is missing, and `ValueError` for a
        data key of the wrong length.
        """
        if self.state is not State.LOCKED or self._received is None:
            raise ValueError(f"unlock() in state {self.state.name}")
        header = self._header
        algorithm = header.algorithm_suite.signature
        try:
            if algorithm and verification_key is None:
                raise SignatureError("the message is signed, but no verification key is there")
            key = derive_message_key(header.algorithm_suite, data_key, header.message_id)
            self._received.verify(key, authenticated_context)
        except EncryptionError as error:
            self.fail(error)
            raise
        self._cipher = BodyCipher(key, header.message_id, header.frame_length)
        self._verification_key = verification_key
        self._running = RunningDigest(algorithm) if algorithm else None
        self._unsigned = (self._received.serialized,)
        self._move(State.BODY)
        self._events.append(HeaderVerified(header))

    def _take_unsigned(self) -> tuple[bytes, ...]:
        unsigned, self._unsigned = self._unsigned, ()
        return unsigned

    def _add_length(self, length: int) -> None:
        total = self._plaintext_length + length
        if self._max_plaintext_length is not None and total > self._max_plaintext_length:
            raise LimitError(
                "max_plaintext_length",
                limit=self._max_plaintext_length,
                actual=total,
                what="the length of the plaintext, so far,",
            )
        self._plaintext_length = total

    def _next_frames(self) -> Work | None:
        if len(self._queue) < self._wanted:
            return None
        if self._missing(body.SEQUENCE_LENGTH):
            return None
        length = self._header.frame_length
        stride = length + body.FRAME_OVERHEAD
        front = self._queue.front()
        count = min(len(front) // stride, body.batch_frames(length), body.MAX_FRAMES - self._sequence)
        count = count and body.count_regular(front[: count * stride], length, self._sequence)
        if count:
            return self._open_regular(count, stride)
        start = self._queue.peek(body.SEQUENCE_LENGTH)
        if start == body.FINAL_MARKER:
            return self._next_final()
        if int.from_bytes(start, "big") != self._sequence:
            raise MalformedMessageError(
                f"frame {int.from_bytes(start, 'big')} stands where frame {self._sequence} belongs"
            )
        self._check_plaintext_limit(length)
        return None if self._missing(stride) else self._open_regular(1, stride)

    def _check_plaintext_limit(self, length: int) -> None:
        """Refuse a frame from its header on, before its bytes are there."""
        self._add_length(length)
        self._plaintext_length -= length

    def _open_regular(self, count: int, stride: int) -> Work:
        length = self._header.frame_length
        self._add_length(count * length)
        pieces = self._queue.take_pieces(count * stride)
        open_into = partial(self._cipher.open_regular, self._sequence, pieces)
        self._sequence += count
        self._wanted = 0
        unsigned = self._take_unsigned()
        return OpenWork(pieces, count * length, count, False, open_into, self._running, unsigned)

    def _next_final(self) -> Work | None:
        if self._missing(body.FINAL_HEADER_LENGTH):
            return None
        header = self._queue.peek(body.FINAL_HEADER_LENGTH)
        sequence = int.from_bytes(header[4:8], "big")
        length = int.from_bytes(header[-4:], "big")
        if sequence != self._sequence:
            raise MalformedMessageError(f"final frame {sequence} stands where frame {self._sequence} belongs")
        if length > self._header.frame_length:
            raise MalformedMessageError(
                f"the final frame has {length} bytes, more than the frame length {self._header.frame_length}"
            )
        self._check_plaintext_limit(length)
        if self._missing(body.FINAL_OVERHEAD + length):
            return None
        nonce = header[8 : 8 + body.IV_LENGTH]
        open_final = partial(self._cipher.open_final, sequence, nonce)
        return self._open_last(body.FINAL_HEADER_LENGTH, length, open_final)

    def _next_non_framed(self) -> Work | None:
        if len(self._queue) < self._wanted or self._missing(body.NON_FRAMED_HEADER_LENGTH):
            return None
        header = self._queue.peek(body.NON_FRAMED_HEADER_LENGTH)
        length = int.from_bytes(header[body.IV_LENGTH :], "big")
        if length > body.MAX_NON_FRAMED_LENGTH:
            raise MalformedMessageError(f"the non-framed body has {length} bytes, more than AES-GCM allows")
        self._check_frame_length(length, "the length of the non-framed body")
        self._check_plaintext_limit(length)
        if self._missing(body.NON_FRAMED_HEADER_LENGTH + length + TAG_LENGTH):
            return None
        open_body = partial(self._cipher.open_non_framed, header[: body.IV_LENGTH])
        return self._open_last(body.NON_FRAMED_HEADER_LENGTH, length, open_body)

    def _open_last(self, header_length: int, length: int, open_into: partial[None]) -> Work:
        self._add_length(length)
        header = self._queue.take_pieces(header_length)
        sealed = self._queue.take_pieces(length + TAG_LENGTH)
        self._move(State.FOOTER if self._running else State.END)
        return OpenWork(
            (*header, *sealed), length, 1, True, partial(open_into, sealed), self._running, self._take_unsigned()
        )

    def _next_footer(self) -> Work | None:
        algorithm = self._header.algorithm_suite.signature
        if algorithm is None or self._running is None or self._verification_key is None:
            raise ValueError("an unsigned message has no footer")
        if len(self._queue) < self._wanted or self._missing(2):
            return None
        length = int.from_bytes(self._queue.peek(2), "big")
        if not 0 < length <= algorithm.max_signature_length:
            raise MalformedMessageError(
                f"the signature has {length} bytes; one on {algorithm.curve} has at most {algorithm.max_signature_length}"
            )
        if self._missing(2 + length):
            return None
        signature = self._queue.take(2 + length)[2:]
        self._move(State.END)
        return VerifyWork(algorithm, self._verification_key, signature, self._running)

    def _next_end(self) -> Event:
        if self.state is State.DONE:
            return EndOfMessage()
        if len(self._queue):
            raise TrailingDataError(f"at least {len(self._queue)} bytes follow the end of the message")
        if self._unsettled or not self._input_ended:
            return NeedData()
        self._move(State.DONE)
        return EndOfMessage()

    def settle(self, work: Work, result: bytes) -> None:
        """Bring back the result of the oldest work: here it is decided what is released.

        Plaintext of a frame follows its tag; the last frame of a signed message, and a non-framed
        body of one, wait for the signature (client-apis/decrypt.md#decrypt-the-message-body).
        """
        if not self._unsettled or self._unsettled[0] is not work:
            raise ValueError("work is settled in the order in which it was handed out")
        self._unsettled.popleft()
        if isinstance(work, VerifyWork):
            if self._withheld:
                self._events.append(self._withheld)
            self._withheld = None
        elif isinstance(work, OpenWork) and work.last and self._running:
            self._withheld = Plaintext(result) if result else None
        elif result:
            self._events.append(Plaintext(result))
