"""Where frames stand, and the work on frames in the middle of a message."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from aioencrypt.errors import (
    MalformedMessageError,
    PolicyError,
    TagError,
    TrailingDataError,
    TruncatedMessageError,
)
from aioencrypt.format import (
    AlgorithmSuite,
    MessageDecryptor,
    SignatureAlgorithm,
    ciphertext_length,
    plaintext_length,
)
from aioencrypt.format.decryptor import open_frames
from aioencrypt.format.frames import MAX_NON_FRAMED_LENGTH, BodyLayout, body_layouts
from tests.support.messages import Message, MessageWriter, build_message, example_data_key
from tests.support.reading import locked, opened
from tests.support.rows import each_row

SIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
UNSIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
V1_SIGNED = AlgorithmSuite.ALG_AES_128_GCM_IV12_TAG16_HKDF_SHA256_ECDSA_P256
V1_UNSIGNED = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_NO_KDF

suites = pytest.mark.parametrize(
    "suite", [SIGNED, UNSIGNED, V1_SIGNED, V1_UNSIGNED], ids=lambda suite: f"{suite.value:04x}"
)


@attrs.frozen
class Shape:
    """What, beside one of its lengths, tells the other length of a message."""

    header_length: int
    frame_length: int
    signature: SignatureAlgorithm | None

    @property
    def arguments(self) -> dict[str, Any]:
        return attrs.asdict(self, recurse=False)


def plaintext_of(length: int) -> bytes:
    return hashlib.shake_128(b"ranges").digest(length)


def layouts_of(message: Message, data: bytes | None = None) -> list[BodyLayout]:
    data = message.data if data is None else data
    return list(body_layouts(locked(data).received, len(data)))


def layout_of(message: Message) -> BodyLayout:
    """Return the first layout that the final frame confirms."""
    layouts = layouts_of(message)
    confirmed = [one.confirmed(message.data[one.frame_start(one.regular_count) :]) for one in layouts]
    return next(layout for layout in confirmed if layout)


@suites
@each_row("frame_length", [1, 2, 31, 32, 33, 64, 200])
def test_the_layout_is_that_of_the_message(suite: AlgorithmSuite, frame_length: int) -> None:
    for length in (0, 1, 2, 31, 32, 33, 63, 64, 65, 100, 128, 199, 200, 201):
        message = build_message(suite, plaintext_of(length), frame_length=frame_length)
        layout = layout_of(message)
        assert layout.plaintext_length == length
        assert layout.header_length == message.header_length
        assert layout.footer_length == len(message.data) - layout.body_end == suite.footer_length
        starts = [place.start for name, place in message.fields.items() if name.endswith(".sequence")]
        # The sequence number of the final frame follows its marker.
        starts[-1] -= 4
        assert [layout.frame_start(index) for index in range(layout.regular_count + 1)] == starts


@suites
@pytest.mark.parametrize("frame_length", [1, 32, 50])
def test_empty_and_full_final_frames_are_found(suite: AlgorithmSuite, frame_length: int) -> None:
    plaintext = plaintext_of(3 * frame_length)
    for full, expected in ((False, (3, 0)), (True, (2, frame_length))):
        message = build_message(suite, plaintext, frame_length=frame_length, full_final_frame=full)
        layout = layout_of(message)
        assert (layout.regular_count, layout.final_length) == expected
        assert layout.plaintext_length == len(plaintext)


@suites
@pytest.mark.parametrize("length", [0, 1, 500])
def test_a_non_framed_body_is_one_final_frame(suite: AlgorithmSuite, length: int) -> None:
    message = build_message(suite, plaintext_of(length), frame_length=None)
    layout = layout_of(message)
    assert (layout.frame_length, layout.regular_count, layout.final_length) == (0, 0, length)
    assert layout.body_end == len(message.data) - suite.footer_length


@pytest.mark.parametrize("suite", [UNSIGNED, V1_UNSIGNED], ids=["v2", "v1"])
def test_an_unsigned_message_has_one_layout_and_cut_off_it_has_none_that_is_confirmed(
    suite: AlgorithmSuite,
) -> None:
    message = build_message(suite, plaintext_of(150), frame_length=50)
    assert len(layouts_of(message)) == 1
    for length in range(message.header_length, len(message.data)):
        for layout in layouts_of(message, message.data[:length]):
            end = message.data[layout.frame_start(layout.regular_count) : length]
            assert layout.confirmed(end) is None, length


@pytest.mark.parametrize("suite", [UNSIGNED, SIGNED], ids=["unsigned", "signed"])
@pytest.mark.parametrize("frame_length", [50, None])
def test_bytes_behind_the_message_are_confirmed_by_nothing(
    suite: AlgorithmSuite, frame_length: int | None
) -> None:
    message = build_message(suite, plaintext_of(150), frame_length=frame_length)
    for more in range(1, 300):
        data = message.data + bytes(more)
        for layout in layouts_of(message, data):
            assert layout.confirmed(data[layout.frame_start(layout.regular_count) :]) is None, more


def with_signature_of(message: Message, length: int) -> bytes:
    """Sign a message until the signature has this length, as writers before the static length did."""
    body_end = message.fields["footer.length"].start
    key = ec.derive_private_key(0xA10E, ec.SECP384R1())
    while True:
        signature = key.sign(message.data[:body_end], ec.ECDSA(hashes.SHA384()))
        if len(signature) == length:
            return message.data[:body_end] + len(signature).to_bytes(2, "big") + signature


@pytest.mark.parametrize("signature_length", [102, 103, 104])
@pytest.mark.parametrize("frame_length", [1, 40, 101])
def test_signatures_of_every_length_are_found(signature_length: int, frame_length: int) -> None:
    for length in (0, 1, 39, 40, 41, 80, 101, 120):
        message = build_message(SIGNED, plaintext_of(length), frame_length=frame_length)
        data = with_signature_of(message, signature_length)
        found = [
            layout.confirmed(data[layout.frame_start(layout.regular_count) :])
            for layout in layouts_of(message, data)
        ]
        [layout] = [layout for layout in found if layout]
        assert layout.plaintext_length == length
        assert layout.footer_length == 2 + signature_length


@suites
@each_row("frame_length", [1, 32, 50, None])
def test_one_length_tells_the_other(suite: AlgorithmSuite, frame_length: int | None) -> None:
    for length in range(105):
        for full in {False, frame_length is not None and length > 0}:
            message = build_message(
                suite, plaintext_of(length), frame_length=frame_length, full_final_frame=full
            )
            shape = Shape(message.header_length, frame_length or 0, suite.signature)
            assert plaintext_length(len(message.data), **shape.arguments) == length
            shorter = 32 if full and frame_length and length % frame_length == 0 else 0
            assert ciphertext_length(length, **shape.arguments) - shorter == len(message.data)


def test_lengths_that_no_message_has_are_refused() -> None:
    shape = Shape(100, 50, None).arguments
    has = {ciphertext_length(length, **shape) for length in range(200)} | {100 + 40 + 50, 100 + 2 * 82 + 8}
    for length in range(300):
        if length not in has:
            with pytest.raises(ValueError, match=f"ciphertext_length is {length}"):
                plaintext_length(length, **shape)


@pytest.mark.parametrize("compute", [ciphertext_length, plaintext_length])
@pytest.mark.parametrize(
    ("length", "shape", "error"),
    [
        (-1, (100, 50, None), ValueError),
        (1.0, (100, 50, None), TypeError),
        (1, (0, 50, None), ValueError),
        (1, (True, 50, None), TypeError),
        (1, (100, -1, None), ValueError),
        (1, (100, 2**32, None), ValueError),
        (1, (100, None, None), TypeError),
        (1, (100, 50, True), TypeError),
        (1, (100, 50, 103), TypeError),
        (1, (100, 50, SIGNED), TypeError),
    ],
)
def test_wrong_lengths_and_shapes_are_refused(
    compute: Callable[..., int], length: Any, shape: tuple[Any, Any, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"length|signature"):
        compute(length, **Shape(*shape).arguments)


def test_a_non_framed_message_has_a_longest_plaintext() -> None:
    shape = Shape(100, 0, None).arguments
    longest = ciphertext_length(MAX_NON_FRAMED_LENGTH, **shape)
    assert plaintext_length(longest, **shape) == MAX_NON_FRAMED_LENGTH
    with pytest.raises(PolicyError, match="non-framed"):
        ciphertext_length(MAX_NON_FRAMED_LENGTH + 1, **shape)
    with pytest.raises(ValueError, match="no message"):
        plaintext_length(longest + 1, **shape)


def test_a_message_without_room_for_a_body_has_no_layout() -> None:
    message = build_message(UNSIGNED, b"", frame_length=50)
    assert layouts_of(message, message.data[: message.header_length]) == []
    assert layouts_of(message, message.data[:-1]) == []
    non_framed = build_message(UNSIGNED, b"", frame_length=None)
    assert layouts_of(non_framed, non_framed.data[:-1]) == []


def test_more_frames_than_the_format_counts_are_no_layout() -> None:
    received = locked(build_message(UNSIGNED, b"", frame_length=1).data).received
    start = len(received.serialized) + 41
    [layout] = body_layouts(received, start + (2**32 - 2) * 33)
    assert layout.regular_count == 2**32 - 2
    assert list(body_layouts(received, start + (2**32 - 1) * 33)) == []


# Opening


def frames_of(message: Message, first: int, stop: int) -> bytes:
    layout = layout_of(message)
    end = layout.body_end if stop > layout.regular_count else layout.frame_start(stop)
    return message.data[layout.frame_start(first) : end]


def opened_frames(
    message: Message, machine: MessageDecryptor, first: int, stop: int, *, last: bool = False
) -> bytes:
    works = open_frames(machine, first, frames_of(message, first, stop), count=stop - first, last=last)
    return b"".join(work.crypt() for work in works)


@suites
@pytest.mark.parametrize("random_ivs", [False, True])
def test_any_frames_open_in_any_order(suite: AlgorithmSuite, random_ivs: bool) -> None:
    plaintext = plaintext_of(95)
    message = build_message(suite, plaintext, frame_length=10, random_ivs=random_ivs)
    machine = opened(message)
    assert opened_frames(message, machine, 9, 10, last=True) == plaintext[90:]
    for first in range(9):
        for stop in range(first + 1, 10):
            assert opened_frames(message, machine, first, stop) == plaintext[10 * first : 10 * stop]
    assert opened_frames(message, machine, 5, 10, last=True) == plaintext[50:]


@suites
def test_the_frames_belong_to_no_digest(suite: AlgorithmSuite) -> None:
    message = build_message(suite, plaintext_of(95), frame_length=10)
    [work] = open_frames(opened(message), 0, frames_of(message, 0, 3), count=3)
    assert work.running is None
    assert work.undigested == ()


@suites
def test_a_non_framed_body_opens(suite: AlgorithmSuite) -> None:
    message = build_message(suite, plaintext_of(95), frame_length=None)
    data = message.data[message.header_length : layout_of(message).body_end]
    [work] = open_frames(opened(message), 0, data, count=1, last=True)
    assert work.crypt() == plaintext_of(95)


def test_a_frame_of_another_place_is_refused_by_its_number_and_by_its_tag() -> None:
    message = build_message(UNSIGNED, plaintext_of(95), frame_length=10)
    machine = opened(message)
    with pytest.raises(MalformedMessageError, match="frame 4 stands where frame 3 belongs"):
        open_frames(machine, 2, frames_of(message, 3, 4), count=1)
    moved = (3).to_bytes(4, "big") + (3).to_bytes(12, "big") + frames_of(message, 3, 4)[16:]
    [work] = open_frames(machine, 2, moved, count=1)
    with pytest.raises(TagError, match="frame 3 fails authentication"):
        work.crypt()


def test_a_frame_of_another_message_is_refused() -> None:
    message = build_message(UNSIGNED, plaintext_of(95), frame_length=10)
    other = build_message(UNSIGNED, plaintext_of(95), frame_length=10, message_id=bytes(32))
    [work] = open_frames(opened(message), 2, frames_of(other, 2, 3), count=1)
    with pytest.raises(TagError):
        work.crypt()


def test_a_final_frame_among_regular_ones_is_refused() -> None:
    # Both are genuine, so that nothing but the layout can tell which is which.
    writer = MessageWriter(UNSIGNED, example_data_key(UNSIGNED), frame_length=10)
    writer.header()
    writer.regular_frame(1, bytes(10))
    writer.final_frame(2, bytes(10))
    machine = opened(writer.message())
    final = writer.data[writer.fields["frame.2.marker"].start :]
    with pytest.raises(MalformedMessageError, match="frame 2 and those after it are not what the header"):
        open_frames(machine, 1, bytes(final), count=1)
    regular = writer.data[writer.fields["frame.1.sequence"].start : writer.fields["frame.2.marker"].start]
    with pytest.raises(MalformedMessageError, match="frame 1 and those after it"):
        open_frames(machine, 0, bytes(regular), count=1, last=True)


@pytest.mark.parametrize("missing", [1, 10, 41, 42])
def test_frames_that_are_not_whole_are_refused(missing: int) -> None:
    message = build_message(UNSIGNED, plaintext_of(95), frame_length=10)
    data = frames_of(message, 2, 4)[:-missing]
    with pytest.raises(MalformedMessageError, match="frame 3 and those after it"):
        open_frames(opened(message), 2, data, count=2)


def test_no_frame_is_refused() -> None:
    message = build_message(UNSIGNED, plaintext_of(95), frame_length=10)
    with pytest.raises(TruncatedMessageError, match="the input ended in the body"):
        open_frames(opened(message), 2, b"", count=1)


def test_bytes_after_the_final_frame_are_refused() -> None:
    message = build_message(UNSIGNED, plaintext_of(95), frame_length=10)
    with pytest.raises(TrailingDataError):
        open_frames(opened(message), 9, frames_of(message, 9, 10) + b"x", count=1, last=True)


def test_header_and_cipher_are_there_when_they_are_known() -> None:
    message = build_message(UNSIGNED, b"", frame_length=10)
    machine = MessageDecryptor()
    with pytest.raises(ValueError, match="the header is not parsed yet"):
        machine.received  # noqa: B018
    machine = locked(message.data)
    assert machine.received.serialized == message.data[: message.header_length]
    with pytest.raises(ValueError, match="the message is not unlocked yet"):
        machine.cipher  # noqa: B018
    machine = opened(message)
    assert attrs.asdict(machine.cipher, recurse=False)["frame_length"] == 10
