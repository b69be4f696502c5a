"""Frame arithmetic: the number, length and position of the frames in a message.

Specification: data-format/message-body.md.

A regular frame is ``sequence number (4) | IV (12) | content | tag (16)``. The final frame starts with an
additional ``FF FF FF FF`` and has the length of its content (4) after the IV. The IV of a frame is its
sequence number, big-endian, in 12 bytes.

All regular frames have the same length, so the header length, frame length and message length determine the
position of each frame. They are unauthenticated until the final frame is decrypted: its tag covers its kind,
number and length, and a message has exactly one.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from aioencrypt.format.header import ContentType, ReceivedHeader
from aioencrypt.format.suites import IV_LENGTH, TAG_LENGTH

SEQUENCE_LENGTH = 4
FRAME_HEADER_LENGTH = SEQUENCE_LENGTH + IV_LENGTH
FRAME_OVERHEAD = FRAME_HEADER_LENGTH + TAG_LENGTH
FINAL_HEADER_LENGTH = SEQUENCE_LENGTH + FRAME_HEADER_LENGTH + 4
FINAL_OVERHEAD = FINAL_HEADER_LENGTH + TAG_LENGTH
FINAL_MARKER = b"\xff\xff\xff\xff"
MAX_FRAMES = 0xFFFFFFFF
NON_FRAMED_HEADER_LENGTH = IV_LENGTH + 8
MAX_NON_FRAMED_LENGTH = 2**36 - 32

# The shortest DER signature: two integers of one byte.
_MIN_SIGNATURE_LENGTH = 8
_NON_FRAMED_OVERHEAD = NON_FRAMED_HEADER_LENGTH + TAG_LENGTH


def starts_frame(start: bytes, index: int, *, final: bool) -> bool:
    """Tell whether `data`, which may be incomplete, starts the regular or final frame with this index."""
    expected = FINAL_MARKER * final + (index + 1).to_bytes(SEQUENCE_LENGTH, "big")
    return expected.startswith(start[: len(expected)])


def frame_count(plaintext_length: int, frame_length: int) -> int:
    """Return the number of frames in a message that we write: full regular frames and a shorter final frame.

    The final frame is empty if the plaintext length is a multiple of the frame length. The specification
    also allows a full final frame, which saves 32 bytes, but aws-encryption-sdk for Python 2.4.0 to 3.3.1
    rejects it.
    """
    return plaintext_length // frame_length + 1


def body_length(plaintext_length: int, frame_length: int) -> int:
    """Return the length in bytes of a body that we write."""
    regular = frame_count(plaintext_length, frame_length) - 1
    return plaintext_length + regular * FRAME_OVERHEAD + FINAL_OVERHEAD


def iv(sequence: int) -> bytes:
    """Return the IV of a frame."""
    return sequence.to_bytes(IV_LENGTH, "big")


@attrs.frozen
class BodyLayout:
    """The positions of the parts of a body. All lengths are in bytes.

    `frame_length` is 0 for a non-framed body, which counts as one final frame. `footer_length` is the
    length of what follows the
    """

    header_length: int
    frame_length: int
    regular_count: int
    final_length: int
    footer_length: int

    @property
    def plaintext_length(self) -> int:
        """The length of the plaintext."""
        return self.regular_count * self.frame_length + self.final_length

    @property
    def longest_frame(self) -> int:
        """The length of the longest frame, or of the non-framed body."""
        return self.frame_length if self.regular_count else self.final_length

    @property
    def final_overhead(self) -> int:
        """The length of the final frame without its content."""
        return FINAL_OVERHEAD if self.frame_length else _NON_FRAMED_OVERHEAD

    @property
    def body_end(self) -> int:
        """The end of the body, from the start of the message."""
        return self.frame_start(self.regular_count) + self.final_overhead + self.final_length

    def frame_start(self, index: int) -> int:
        """Return the start of a frame, from the start of the message; the first frame has index 0."""
        return self.header_length + index * (self.frame_length + FRAME_OVERHEAD)

    def confirmed(self, end: bytes) -> BodyLayout | None:
        """Return the layout with the length that the final frame states; None if there is no final frame.

        `end` is the message from the start of the final frame on. It is not authenticated here.
        """
        if self.frame_length:
            number = (self.regular_count + 1).to_bytes(SEQUENCE_LENGTH, "big")
            if not end.startswith(FINAL_MARKER + number):
                return None
            length = end[FINAL_HEADER_LENGTH - 4 : FINAL_HEADER_LENGTH]
        else:
            length = end[IV_LENGTH:NON_FRAMED_HEADER_LENGTH]
        final_length = int.from_bytes(length, "big")
        footer = end[self.final_overhead + final_length :]
        if self.final_overhead + final_length > len(end) or not _is_footer(footer, bool(self.footer_length)):
            return None
        return attrs.evolve(self, final_length=final_length, footer_length=len(footer))


def _is_footer(footer: bytes, signed: bool) -> bool:
    if not signed:
        return not footer
    return len(footer) >= 2 and int.from_bytes(footer[:2], "big") == len(footer) - 2


def body_layouts(received: ReceivedHeader, message_length: int) -> Iterator[BodyLayout]:
    """Yield the possible layouts of a message of this length; they differ in the number of frames.

    An unsigned message has at most one. DER signatures differ in length, so a signed message may have more;
    the first one assumes the length that all SDKs write today.
    """
    signature = received.header.algorithm_suite.signature
    footers = [0]
    if signature:
        others = range(signature.max_signature_length, _MIN_SIGNATURE_LENGTH - 1, -1)
        footers = [2 + length for length in (signature.signature_length, *others)]
    seen = set()
    for footer in footers:
        layout = _layout(received, message_length, footer)
        if layout and layout.regular_count not in seen:
            seen.add(layout.regular_count)
            yield layout


def _layout(received: ReceivedHeader, message_length: int, footer_length: int) -> BodyLayout | None:
    header_length = len(received.serialized)
    content = message_length - header_length - footer_length
    if received.header.content_type is ContentType.NON_FRAMED:
        content -= _NON_FRAMED_OVERHEAD
        return BodyLayout(header_length, 0, 0, content, footer_length) if content >= 0 else None
    frame_length = received.header.frame_length
    count, final_length = divmod(content - FINAL_OVERHEAD, frame_length + FRAME_OVERHEAD)
    if not 0 <= count < MAX_FRAMES or final_length > frame_length:
        return None
    return BodyLayout(header_length, frame_length, count, final_length, footer_length)
