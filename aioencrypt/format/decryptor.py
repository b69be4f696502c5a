"""The state machine that reads a message.

It parses the message and decides what is released; it does no I/O. It hands out heavy work as `Work` values,
and `settle` returns the results to it. Only `settle` decides what is released. The states, and what ends each
of them (client-apis/decrypt.md):

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

import copy
import enum
from collections import deque
from functools import partial

from aioencrypt.errors import (
    EncryptionError,
    LimitError,
    MalformedMessageError,
    SignatureError,
    TrailingDataError,
    TruncatedMessageError,
)
from aioencrypt.format import frames
from aioencrypt.format.batches import BATCH_COST, batch_frames, count_regular
from aioencrypt.format.body import BodyCipher
from aioencrypt.format.header import ReceivedHeader, parse_header
from aioencrypt.format.signing import RunningDigest
from aioencrypt.format.suites import IV_LENGTH, TAG_LENGTH
from aioencrypt.format.wire import ByteQueue, immutable
from aioencrypt.format.work import (
    EndOfMessage,
    Event,
    HeaderParsed,
    HeaderVerified,
    NeedData,
    OpenWork,
    Plaintext,
    VerifyWork,
)
from aioencrypt.runtime.secrets import SecretBytes

_NEED_DATA, _END = NeedData(), EndOfMessage()


class State(enum.IntEnum):
    """The state of a `MessageDecryptor`; `_NEXT` is the table of transitions."""

    HEADER = enum.auto()
    LOCKED = enum.auto()
    BODY = enum.auto()
    FOOTER = enum.auto()
    END = enum.auto()
    DONE = enum.auto()
    FAILED = enum.auto()


_NEXT = {
    State.HEADER: {State.LOCKED, State.FAILED},
    State.LOCKED: {State.BODY, State.FAILED},
    State.BODY: {State.FOOTER, State.END, State.FAILED},
    State.FOOTER: {State.END, State.FAILED},
    State.END: {State.DONE, State.FAILED},
    State.DONE: {State.FAILED},
    State.FAILED: {State.FAILED},
}


class MessageDecryptor:
    """Read one message: call `receive` with bytes, then `next_event` until it returns `NeedData`.

    The limits are in bytes, None means no limit: `max_header_length`, `max_frame_length` (for each frame that
    arrives, or a non-framed body) and `max_plaintext_length` (for the whole message). A length field that
    exceeds a limit raises `LimitError` before the content is buffered. `net_v4_0_0_retry`: see
    `ReceivedHeader.unlock`. `batch_cost` is the longest time of one work, in microseconds. Errors are final.
    """

    def __init__(
        self,
        *,
        max_header_length: int | None = None,
        max_encrypted_data_keys: int | None = None,
        max_frame_length: int | None = None,
        max_plaintext_length: int | None = None,
        net_v4_0_0_retry: bool = False,
        batch_cost: float = BATCH_COST,
    ) -> None:
        self.state: State = State.HEADER
        self._queue = ByteQueue()
        # Parse again only when the queue holds this many bytes, so that input byte by byte costs no more.
        self._wanted = 1
        self._input_ended = False
        self._parser = parse_header(
            self._queue, max_length=max_header_length, max_encrypted_data_keys=max_encrypted_data_keys
        )
        self._received: ReceivedHeader | None = None
        # 0 for a non-framed body.
        self._frame_length = 0
        self._cipher: BodyCipher | None = None
        self._verification_key: bytes | None = None
        self._running: RunningDigest | None = None
        self._max_frame_length = max_frame_length
        self._max_plaintext_length = max_plaintext_length
        self._net_v4_0_0_retry = net_v4_0_0_retry
        self._batch_cost = batch_cost
        self._events: deque[Event] = deque()
        self._unsettled: deque[OpenWork | VerifyWork] = deque()
        self._withheld: Plaintext | None = None
        self._failure: EncryptionError | None = None
        self._undigested: tuple[bytes, ...] = ()
        self._sequence = 1
        self._plaintext_length = 0

    @classmethod
    def resume(cls, unlocked: MessageDecryptor, sequence: int) -> MessageDecryptor:
        """Return a machine that starts in the body of an unlocked message, at the frame with this number.

        It computes no digest, so it cannot verify a signature.
        """
        machine = cls()
        machine._accept(unlocked.received)
        machine._begin_body(unlocked.cipher, sequence=sequence)
        return machine

    def receive(self, data: bytes | memoryview) -> None:
        """Add the next bytes of the message; ``b""`` marks the end of input."""
        if self._input_ended:
            raise ValueError("receive() after the end of input")
        if data := immutable(data):
            self._queue.append(data)
        else:
            self._input_ended = True

    def next_event(self) -> Event:
        """Return the next event. Raises `MessageError` and `LimitError`, and the same error from then on."""
        if self._failure:
            # A copy, because raising the same exception again extends its traceback each time.
            raise copy.copy(self._failure) from self._failure
        try:
            return self._advance()
        except EncryptionError as error:
            self.fail(error)
            raise

    def fail(self, error: EncryptionError) -> None:
        """Make an error of a work final, and drop all buffered data and withheld plaintext."""
        self._failure = self._failure or error
        self.close()

    def close(self) -> None:
        """Drop all buffered data and withheld plaintext. The machine cannot be used any more."""
        self._move(State.FAILED)
        self._withheld = None
        self._events.clear()
        self._queue.clear()

    def _move(self, state: State) -> None:
        if state not in _NEXT[self.state]:
            raise ValueError(f"no transition from {self.state.name} to {state.name}")
        self.state = state
        self._wanted = 0

    def _advance(self) -> Event:
        if self._events:
            return self._events.popleft()
        work: OpenWork | VerifyWork | None
        match self.state:
            case State.HEADER:
                return self._next_header()
            case State.LOCKED:
                raise ValueError("next_event() before unlock()")
            case State.BODY:
                work = self._next_frames() if self._frame_length else self._next_non_framed()
            case State.FOOTER:
                work = self._next_footer()
            case State.FAILED:
                raise ValueError("next_event() of a closed machine")
            case _:
                return self._next_end()
        if work is None:
            return self._need_data()
        self._unsettled.append(work)
        return work

    def _need_data(self) -> NeedData:
        if self._input_ended:
            raise TruncatedMessageError(f"the input ended in the {self.state.name.lower()} of the message")
        return _NEED_DATA

    def _missing(self, wanted: int) -> bool:
        """Tell whether fewer than `wanted` bytes have arrived; if so, parse again only when they have."""
        self._wanted = wanted
        return len(self._queue) < wanted

    def _next_header(self) -> Event:
        if len(self._queue) < self._wanted:
            return self._need_data()
        try:
            self._wanted = next(self._parser)
        except StopIteration as stop:
            received: ReceivedHeader = stop.value
            self._accept(received)
            return HeaderParsed(received.header)
        return self._need_data()

    def _accept(self, received: ReceivedHeader) -> None:
        self._received = received
        self._frame_length = received.header.frame_length
        self._move(State.LOCKED)

    def _begin_body(
        self, cipher: BodyCipher, running: RunningDigest | None = None, sequence: int = 1
    ) -> None:
        self._cipher = cipher
        self._running = running
        self._sequence = sequence
        self._move(State.BODY)

    def _check_limits(self, length: int, what: str) -> None:
        """Reject a frame above a limit by its header, before its content is buffered."""
        if self._max_frame_length is not None and length > self._max_frame_length:
            raise LimitError("max_frame_length", limit=self._max_frame_length, actual=length, what=what)
        total = self._plaintext_length + length
        if self._max_plaintext_length is not None and total > self._max_plaintext_length:
            raise LimitError(
                "max_plaintext_length",
                limit=self._max_plaintext_length,
                actual=total,
                what="the length of the plaintext, so far,",
            )

    @property
    def received(self) -> ReceivedHeader:
        """The received header, unverified before `unlock`; raises `ValueError` before it is parsed."""
        if self._received is None:
            raise ValueError("the header is not parsed yet")
        return self._received

    @property
    def cipher(self) -> BodyCipher:
        """The cipher of the body; raises `ValueError` before `unlock`."""
        if self._cipher is None:
            raise ValueError("the message is not unlocked yet")
        return self._cipher

    def unlock(
        self, data_key: bytes, *, verification_key: bytes | None = None, authenticated_context: bytes = b""
    ) -> None:
        """Verify the header with the data key; the next event is `HeaderVerified`.

        `verification_key` is a compressed point, required for signed suites. Raises `CommitmentError`,
        `TagError`, `SignatureError` if the verification key is missing, and `ValueError` for a data key of
        the wrong length.
        """
        data_key = SecretBytes(data_key)
        if self.state is not State.LOCKED or self._received is None:
            raise ValueError(f"unlock() in state {self.state.name}")
        header = self._received.header
        algorithm = header.algorithm_suite.signature
        try:
            if algorithm and verification_key is None:
                raise SignatureError("the message is signed, but there is no verification key")
            key = self._received.unlock(data_key, authenticated_context, self._net_v4_0_0_retry)
        except EncryptionError as error:
            self.fail(error)
            raise
        self._verification_key = verification_key
        self._undigested = (self._received.serialized,)
        cipher = BodyCipher(key, header.message_id, header.frame_length)
        self._begin_body(cipher, RunningDigest(algorithm) if algorithm else None)
        self._events.append(HeaderVerified(header))

    def _take_undigested(self) -> tuple[bytes, ...]:
        undigested, self._undigested = self._undigested, ()
        return undigested

    def _next_frames(self) -> OpenWork | None:
        available = len(self._queue)
        if available < self._wanted or self._missing(frames.SEQUENCE_LENGTH):
            return None
        length = self._frame_length
        stride = length + frames.FRAME_OVERHEAD
        allowed = self._max_frame_length is None or length <= self._max_frame_length
        if allowed and (complete := available // stride):
            batch = batch_frames(length, complete, self._batch_cost)
            count = min(batch, self._frames_allowed(length))
            pieces = self._queue.peek_pieces(count * stride)
            if count := count_regular(pieces, length, self._sequence):
                return self._open_regular(count, stride)
        start = self._queue.peek(frames.SEQUENCE_LENGTH)
        if start == frames.FINAL_MARKER:
            return self._next_final()
        if int.from_bytes(start, "big") != self._sequence:
            raise MalformedMessageError(
                f"frame {int.from_bytes(start, 'big')} stands where frame {self._sequence} belongs"
            )
        self._check_limits(length, f"the length of frame {self._sequence}")
        return None if self._missing(stride) else self._open_regular(1, stride)

    def _frames_allowed(self, length: int) -> int:
        """Return how many regular frames the limits allow. With 0, the caller checks the next one alone."""
        most = frames.MAX_FRAMES - self._sequence
        if self._max_plaintext_length is None:
            return most
        return min(most, (self._max_plaintext_length - self._plaintext_length) // length)

    def _open_regular(self, count: int, stride: int) -> OpenWork:
        length = count * self._frame_length
        self._plaintext_length += length
        pieces = self._queue.take_pieces(count * stride)
        open_into = partial(self.cipher.open_regular, self._sequence, pieces)
        self._sequence += count
        self._wanted = 0
        return OpenWork(pieces, length, count, False, open_into, self._running, self._take_undigested())

    def _next_final(self) -> OpenWork | None:
        if self._missing(frames.FINAL_HEADER_LENGTH):
            return None
        header = self._queue.peek(frames.FINAL_HEADER_LENGTH)
        sequence = int.from_bytes(header[4:8], "big")
        length = int.from_bytes(header[-4:], "big")
        if sequence != self._sequence:
            raise MalformedMessageError(f"final frame {sequence} stands where frame {self._sequence} belongs")
        if length > self._frame_length:
            raise MalformedMessageError(
                f"the final frame has {length} bytes, more than the frame length {self._frame_length}"
            )
        self._check_limits(length, f"the length of final frame {sequence}")
        if self._missing(frames.FINAL_OVERHEAD + length):
            return None
        nonce = header[8 : 8 + IV_LENGTH]
        open_final = partial(self.cipher.open_final, sequence, nonce)
        return self._open_last(frames.FINAL_HEADER_LENGTH, length, open_final)

    def _next_non_framed(self) -> OpenWork | None:
        if len(self._queue) < self._wanted or self._missing(frames.NON_FRAMED_HEADER_LENGTH):
            return None
        header = self._queue.peek(frames.NON_FRAMED_HEADER_LENGTH)
        length = int.from_bytes(header[IV_LENGTH:], "big")
        if length > frames.MAX_NON_FRAMED_LENGTH:
            raise MalformedMessageError(f"the non-framed body has {length} bytes, more than AES-GCM allows")
        self._check_limits(length, "the length of the non-framed body")
        if self._missing(frames.NON_FRAMED_HEADER_LENGTH + length + TAG_LENGTH):
            return None
        open_body = partial(self.cipher.open_non_framed, header[:IV_LENGTH])
        return self._open_last(frames.NON_FRAMED_HEADER_LENGTH, length, open_body)

    def _open_last(self, header_length: int, length: int, open_into: partial[None]) -> OpenWork:
        self._plaintext_length += length
        header = self._queue.take_pieces(header_length)
        sealed = self._queue.take_pieces(length + TAG_LENGTH)
        self._move(State.FOOTER if self._running else State.END)
        return OpenWork(
            (*header, *sealed),
            length,
            1,
            True,
            partial(open_into, sealed),
            self._running,
            self._take_undigested(),
        )

    def _next_footer(self) -> VerifyWork | None:
        algorithm = self.received.header.algorithm_suite.signature
        if algorithm is None or self._running is None or self._verification_key is None:
            raise ValueError("an unsigned message has no footer")
        if len(self._queue) < self._wanted or self._missing(2):
            return None
        length = int.from_bytes(self._queue.peek(2), "big")
        if not 0 < length <= algorithm.max_signature_length:
            raise MalformedMessageError(
                f"the signature has {length} bytes; one on {algorithm.curve} has at most "
                f"{algorithm.max_signature_length}"
            )
        if self._missing(2 + length):
            return None
        signature = self._queue.take(2 + length)[2:]
        self._move(State.END)
        return VerifyWork(algorithm, self._verification_key, signature, self._running)

    def _next_end(self) -> Event:
        if self.state is State.DONE:
            return _END
        if len(self._queue):
            raise TrailingDataError(f"at least {len(self._queue)} bytes follow the end of the message")
        if self._unsettled or not self._input_ended:
            return _NEED_DATA
        self._move(State.DONE)
        return _END

    def settle(self, work: OpenWork | VerifyWork, result: bytes) -> None:
        """Return the result of the oldest work to the machine, which decides what to release.

        The plaintext of a frame is released after its tag is verified. The last frame and a non-framed body
        of a signed message also wait for the signature (client-apis/decrypt.md#decrypt-the-message-body).
        """
        if not self._unsettled or self._unsettled[0] is not work:
            raise ValueError("works must be settled in the order in which the machine returned them")
        self._unsettled.popleft()
        if self.state is State.FAILED:
            return  # closed while the work ran: nothing is released
        if isinstance(work, VerifyWork):
            if self._withheld:
                self._events.append(self._withheld)
            self._withheld = None
        elif work.last and self._running:
            self._withheld = Plaintext(result) if result else None
        elif result:
            self._events.append(Plaintext(result))


def open_frames(
    opened: MessageDecryptor, index: int, data: bytes | memoryview, *, count: int, last: bool = False
) -> list[OpenWork]:
    """Return the work to decrypt consecutive frames of an unlocked message, starting at `index`.

    `data` holds exactly `count` frames; `last` says whether the last one is the final frame. The frames are
    checked as if all previous ones had been read, but are not digested. Raises `MalformedMessageError`.
    """
    machine = MessageDecryptor.resume(opened, index + 1)
    machine.receive(data)
    works: list[OpenWork] = []
    while isinstance(event := machine.next_event(), OpenWork):
        works.append(event)
    if sum(work.count for work in works) != count or works[-1].last is not last:
        raise MalformedMessageError(f"frame {index + 1} and those after it are not what the header announces")
    return works
