"""The order of frames: data-format/message-body.md#framed-data, data-format/message-body-aad.md."""

from __future__ import annotations

import re

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from aioencrypt.errors import MalformedMessageError, TagError, TrailingDataError, TruncatedMessageError
from aioencrypt.format import AlgorithmSuite
from tests.support.messages import Message, MessageWriter, build_message, decrypt_message, example_data_key
from tests.support.reading import opened, released_by

COMMITTING = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
SIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
FRAME = 8

Frame = tuple[str, int, bytes]
FIRST, SECOND, THIRD = [("regular", 1, b"11111111"), ("regular", 2, b"22222222"), ("final", 3, b"333")]
FULL, EMPTY = ("final", 3, b"33333333"), ("final", 3, b"")


def message_with(frames: list[Frame], suite: AlgorithmSuite = COMMITTING) -> Message:
    """Write frames as they are given, each with its right tag."""
    writer = MessageWriter(suite, example_data_key(suite), frame_length=FRAME)
    writer.header()
    for kind, sequence, content in frames:
        (writer.final_frame if kind == "final" else writer.regular_frame)(sequence, content)
    writer.footer()
    return writer.message(b"".join(content for _, _, content in frames))


@pytest.mark.spec(
    "client-apis/decrypt.md#decrypt-the-message-body", "data-format/message-body.md#final-frame"
)
@pytest.mark.parametrize("last", [THIRD, FULL, EMPTY], ids=["short", "full", "empty"])
def test_the_final_frame_has_up_to_the_frame_length(last: Frame) -> None:
    message = message_with([FIRST, SECOND, last])
    for chunks in (None, 1):
        outcome = decrypt_message(message, chunks=chunks)
        assert outcome.error is None
        assert outcome.plaintext == message.plaintext


BAD_ORDERS: dict[str, tuple[list[Frame], int, str]] = {
    "starts at 0": ([("regular", 0, b"00000000"), FIRST, SECOND, THIRD], 0, "frame 0 stands where frame 1"),
    "starts at 2": ([SECOND, THIRD], 0, "frame 2 stands where frame 1"),
    "swapped": ([SECOND, FIRST, THIRD], 0, "frame 2 stands where frame 1"),
    "twice": ([FIRST, FIRST, SECOND, THIRD], 1, "frame 1 stands where frame 2"),
    "dropped": ([FIRST, THIRD], 1, "final frame 3 stands where frame 2"),
    "final frame first": ([THIRD, FIRST, SECOND], 0, "final frame 3 stands where frame 1"),
    "final frame with another number": ([FIRST, SECOND, ("final", 2, b"3")], 2, "final frame 2 stands where"),
    "final frame numbered 0": ([("final", 0, b"")], 0, "final frame 0 stands where frame 1"),
    "too long a final frame": ([FIRST, ("final", 2, b"222222222")], 1, "has 9 bytes, more than .* 8"),
}


@pytest.mark.spec(
    "client-apis/decrypt.md#decrypt-the-message-body", "data-format/message-body.md#sequence-number"
)
@pytest.mark.parametrize(("frames", "good", "text"), BAD_ORDERS.values(), ids=BAD_ORDERS)
@pytest.mark.parametrize("suite", [COMMITTING, SIGNED], ids=["unsigned", "signed"])
def test_frames_out_of_order(suite: AlgorithmSuite, frames: list[Frame], good: int, text: str) -> None:
    message = message_with(frames, suite)
    for chunks in (None, 1, 45):
        outcome = decrypt_message(message, chunks=chunks)
        assert type(outcome.error) is MalformedMessageError
        assert re.search(text, str(outcome.error))
        assert outcome.plaintext == b"".join(content for _, _, content in frames[:good])


@pytest.mark.spec("data-format/message-body.md#final-frame")
def test_frames_after_the_final_frame() -> None:
    for frames in ([FIRST, SECOND, THIRD, THIRD], [FIRST, SECOND, THIRD, ("regular", 4, b"44444444")]):
        outcome = decrypt_message(message_with(frames))
        assert type(outcome.error) is TrailingDataError
        assert outcome.plaintext == b"1111111122222222333"


@pytest.mark.spec("data-format/message-body.md#final-frame")
def test_a_message_without_a_final_frame_is_cut() -> None:
    outcome = decrypt_message(message_with([FIRST, SECOND]))
    assert type(outcome.error) is TruncatedMessageError
    assert outcome.plaintext == b"1111111122222222"


def moved(message: Message, number: int, target: int, other: Message) -> bytes:
    """Put the content of a frame of another message into a frame, under the number that belongs there."""
    data = message.data
    for field in ("iv", "content", "tag"):
        changed = attrs.evolve(message, data=data)
        data = changed.replaced(f"frame.{target}.{field}", other[f"frame.{number}.{field}"])
    return data


@pytest.mark.parametrize(("number", "target"), [(2, 1), (1, 2), (3, 1), (1, 3)])
def test_a_frame_belongs_to_its_place(number: int, target: int) -> None:
    """data-format/message-body-aad.md: kind and number of a frame are authenticated."""
    message = message_with([FIRST, SECOND, FULL])
    outcome = decrypt_message(message, moved(message, number, target, message), chunks=1)
    assert type(outcome.error) is TagError
    assert f"frame {target} fails" in str(outcome.error)
    assert outcome.plaintext == message.plaintext[: (target - 1) * FRAME]


def test_a_frame_belongs_to_its_message() -> None:
    """data-format/message-body-aad.md: the message id is authenticated, also where the key is the same."""
    suite = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_NO_KDF
    plaintext = b"three frames in all"
    messages = [
        build_message(suite, plaintext, message_id=bytes([i] * 16), frame_length=FRAME) for i in (1, 2)
    ]
    outcome = decrypt_message(messages[0], moved(messages[0], 2, 2, messages[1]), chunks=1)
    assert type(outcome.error) is TagError
    assert outcome.plaintext == plaintext[:FRAME]


@pytest.mark.spec(
    "data-format/message-body.md#sequence-number", "data-format/message-body.md#sequence-number-1"
)
@settings(deadline=None, max_examples=150)
@given(
    frames=st.lists(
        st.tuples(st.sampled_from(["regular", "final"]), st.integers(0, 4), st.binary(max_size=FRAME + 1)),
        max_size=5,
    ),
    chunks=st.sampled_from([None, 1, 30]),
)
def test_only_frames_in_order_are_a_message(frames: list[Frame], chunks: int | None) -> None:
    frames = [(kind, n, data.ljust(FRAME)[:FRAME] if kind == "regular" else data) for kind, n, data in frames]
    outcome = decrypt_message(message_with(frames), chunks=chunks)
    in_order = [number for _, number, _ in frames] == list(range(1, len(frames) + 1))
    kinds = [kind for kind, _, _ in frames]
    right = in_order and kinds == [*["regular"] * (len(frames) - 1), "final"] and len(frames[-1][2]) <= FRAME
    assert (outcome.error is None) is right
    whole = b"".join(content for _, _, content in frames)
    assert outcome.plaintext == whole if right else whole.startswith(outcome.plaintext)


def test_the_last_numbers() -> None:
    """data-format/message-body.md#framed-data: 2^32 - 1 frames; the last number marks a final frame."""
    last = 0xFFFFFFFF
    message = message_with([("regular", last - 1, b"12345678"), ("final", last, b"9")])
    machine = opened(message, message.data)
    machine._sequence = last - 1
    assert released_by(machine) == b"123456789"


@pytest.mark.spec("data-format/message-body.md#sequence-number-end")
def test_no_regular_frame_has_the_number_of_the_end() -> None:
    last = 0xFFFFFFFF
    message = message_with([("regular", last - 1, b"12345678"), ("regular", last, b"12345678")])
    machine = opened(message, message.data)
    machine._sequence = last - 1
    with pytest.raises(MalformedMessageError, match="final frame"):
        released_by(machine)
