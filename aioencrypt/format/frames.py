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

from aioencrypt.errors import PolicyError
from aioencrypt.format.header import MAX_FRAME_LENGTH, ReceivedHeader
from aioencrypt.format.suites import IV_LENGTH, TAG_LENGTH, SignatureAlgorithm
from aioencrypt.runtime.arguments import check_int, check_type

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
    """Tell whether `start`, which may be incomplete, begins the regular or final frame with this index."""
    expected = FINAL_MARKER * final + (index + 1).to_bytes(SEQUENCE_LENGTH, "big")
    return expected.startswith(start[: len(expected)])


def check_frame_count(plaintext_length: int, frame_length: int) -> None:
    """Raise `PolicyError` for a plaintext that needs more frames than the format can count."""
    count = plaintext_length // frame_length + 1
    if count > MAX_FRAMES:
        raise PolicyError(
            f"the plaintext needs {count} frames of {frame_length} bytes, above the {MAX_FRAMES} "
            "of the message format; raise frame_length"
        )


def message_length(
    plaintext_length: int, header_length: int, frame_length: int, signature: SignatureAlgorithm | None
) -> int:
    """Return `ciphertext_length` of arguments that were checked before."""
    footer_length = 2 + signature.signature_length if signature else 0
    overhead = _NON_FRAMED_OVERHEAD
    if frame_length:
        overhead = plaintext_length // frame_length * FRAME_OVERHEAD + FINAL_OVERHEAD
    return header_length + plaintext_length + overhead + footer_length


def ciphertext_length(
    plaintext_length: int, *, header_length: int, frame_length: int, signature: SignatureAlgorithm | None
) -> int:
    """Return the length of the message that this library writes for a plaintext of a known length.

    All lengths are in bytes. The other arguments stand in the result of `inspect_message`: `frame_length`
    is 0 for a non-framed message, and `signature` is `algorithm_suite.signature`. A plaintext of whole
    frames gets an empty final frame. SDKs that write a full final frame need 32 bytes less.

    Raises `TypeError` and `ValueError` for wrong arguments, `PolicyError` for a plaintext that is too long.
    """
    check_int("plaintext_length", plaintext_length, 0)
    _check_shape(header_length, frame_length, signature)
    if frame_length:
        check_frame_count(plaintext_length, frame_length)
    elif plaintext_length > MAX_NON_FRAMED_LENGTH:
        raise PolicyError(
            f"a non-framed message holds at most {MAX_NON_FRAMED_LENGTH} bytes, not {plaintext_length}"
        )
    return message_length(plaintext_length, header_length, frame_length, signature)


def plaintext_length(
    ciphertext_length: int, *, header_length: int, frame_length: int, signature: SignatureAlgorithm | None
) -> int:
    """Return the length of the plaintext of a message whose length is known: `ciphertext_length` inverted.

    Knows messages that end with an empty final frame and those that end with a full one. Nothing is
    verified. Signatures of other writers differ in length by a few bytes: then the result may be as much
    too large or too small.

    Raises `TypeError` for wrong arguments, and `ValueError` where no message has this length.
    """
    check_int("ciphertext_length", ciphertext_length, 0)
    _check_shape(header_length, frame_length, signature)
    for layout in _layouts(ciphertext_length, header_length, frame_length, signature):
        return layout.plaintext_length
    raise ValueError(
        f"ciphertext_length is {ciphertext_length}; no message with header_length={header_length}, "
        f"frame_length={frame_length} and signature={signature and signature.name} has this length"
    )


def _check_shape(header_length: int, frame_length: int, signature: SignatureAlgorithm | None) -> None:
    check_int("header_length", header_length, 1)
    check_int("frame_length", frame_length, 0, MAX_FRAME_LENGTH)
    if signature is not None:
        check_type("signature", signature, SignatureAlgorithm, ": give algorithm_suite.signature")


def iv(sequence: int) -> bytes:
    """Return the IV of a frame."""
    return sequence.to_bytes(IV_LENGTH, "big")


@attrs.frozen
class BodyLayout:
    """The positions of the parts of a body. All lengths are in bytes.

    `frame_length` is 0 for a non-framed body, which counts as one final frame. `footer_length` is the
    length of everything after the body.
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
    """Return the possible layouts of a message of this length; they differ in the number of frames.

    An unsigned message has at most one. DER signatures differ in length, so a signed message may have more;
    the first one assumes the length that all SDKs write today.
    """
    header = received.header
    return _layouts(
        message_length, len(received.serialized), header.frame_length, header.algorithm_suite.signature
    )


def _layouts(
    message_length: int, header_length: int, frame_length: int, signature: SignatureAlgorithm | None
) -> Iterator[BodyLayout]:
    footers = [0]
    if signature:
        others = range(signature.max_signature_length, _MIN_SIGNATURE_LENGTH - 1, -1)
        footers = [2 + length for length in (signature.signature_length, *others)]
    seen = set()
    for footer in footers:
        layout = _layout(message_length - header_length - footer, header_length, frame_length, footer)
        if layout and layout.regular_count not in seen:
            seen.add(layout.regular_count)
            yield layout


def _layout(body_length: int, header_length: int, frame_length: int, footer_length: int) -> BodyLayout | None:
    if not frame_length:
        content = body_length - _NON_FRAMED_OVERHEAD
        fits = 0 <= content <= MAX_NON_FRAMED_LENGTH
        return BodyLayout(header_length, 0, 0, content, footer_length) if fits else None
    count, final_length = divmod(body_length - FINAL_OVERHEAD, frame_length + FRAME_OVERHEAD)
    if not 0 <= count < MAX_FRAMES or final_length > frame_length:
        return None
    return BodyLayout(header_length, frame_length, count, final_length, footer_length)
