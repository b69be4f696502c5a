"""Limits of the reading machine: from the length field, before the bytes arrive, at no cost in memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from aioencrypt.errors import LimitError, MalformedMessageError, TruncatedMessageError
from aioencrypt.format import (
    AlgorithmSuite,
    EncryptedDataKey,
    MessageDecryptor,
    NeedData,
)
from tests.support.messages import (
    Message,
    MessageWriter,
    build_message,
    decrypt_message,
    example_data_key,
    u16,
)
from tests.support.reading import opened, released_by
from tests.support.rows import each_row

HKDF = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256
COMMITTING = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
SIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
EDKS = tuple(EncryptedDataKey("provider", b"key %d" % i, bytes(20)) for i in range(3))
FRAME = 16
PLAINTEXT = bytes(range(100))
CHUNKS = (None, 1, 50)

each_suite = pytest.mark.parametrize("suite", [HKDF, COMMITTING, SIGNED], ids=["v1", "v2", "signed"])


def message_of(suite: AlgorithmSuite, *, framed: bool = True) -> Message:
    return build_message(
        suite,
        PLAINTEXT,
        frame_length=FRAME if framed else None,
        encryption_context={"key": "value"},
        encrypted_data_keys=EDKS,
    )


def figures(error: object) -> tuple[str, int, int]:
    assert isinstance(error, LimitError), error
    return error.parameter, error.limit, error.actual


def fails_at(data: bytes, **limits: Any) -> tuple[int, tuple[str, int, int]]:
    """Feed a header byte by byte; return how many bytes it took to fail, and the figures."""
    machine = MessageDecryptor(**limits)
    for position in range(len(data)):
        machine.receive(data[position : position + 1])
        try:
            assert isinstance(machine.next_event(), NeedData)
        except LimitError as error:
            return position + 1, figures(error)
    raise AssertionError("no limit was met")


# The header


@each_suite
def test_a_header_may_be_as_long_as_the_limit(suite: AlgorithmSuite) -> None:
    message = message_of(suite)
    limit = message.header_length
    for chunks in CHUNKS:
        outcome = decrypt_message(message, chunks=chunks, max_header_length=limit)
        assert outcome.plaintext == PLAINTEXT
        assert outcome.error is None
        outcome = decrypt_message(message, chunks=chunks, max_header_length=limit - 1)
        assert figures(outcome.error) == ("max_header_length", limit - 1, limit)
        assert outcome.events == ()


@each_suite
@pytest.mark.parametrize(
    "field", ["context_length", "edk.0.id_length", "edk.0.info_length", "edk.2.ciphertext_length"]
)
def test_a_length_in_the_header_above_the_limit_is_refused_before_its_bytes(
    suite: AlgorithmSuite, field: str
) -> None:
    message = message_of(suite)
    data = message.replaced(field, u16(0xFFFF))
    stop = message.fields[field].stop
    count, found = fails_at(data, max_header_length=1000)
    assert count == stop
    assert found == ("max_header_length", 1000, stop + 0xFFFF)


@pytest.mark.spec(
    "client-apis/decrypt.md#parse-the-header", "client-apis/client.md#maximum-number-of-encrypted-data-keys"
)
@each_suite
def test_too_many_encrypted_data_keys_are_refused_from_their_count(suite: AlgorithmSuite) -> None:
    """client-apis/decrypt.md#parse-the-header: as soon as that can be determined, process no more bytes."""
    message = message_of(suite)
    stop = message.fields["edk_count"].stop
    assert fails_at(message.data, max_encrypted_data_keys=2) == (stop, ("max_encrypted_data_keys", 2, 3))
    for chunks in CHUNKS:
        assert decrypt_message(message, chunks=chunks, max_encrypted_data_keys=3).error is None
        outcome = decrypt_message(message, chunks=chunks, max_encrypted_data_keys=2)
        assert figures(outcome.error) == ("max_encrypted_data_keys", 2, 3)
        assert "max_encrypted_data_keys=2; raise max_encrypted_data_keys" in str(outcome.error)


# The body


@each_suite
def test_frames_may_be_as_long_as_the_limit(suite: AlgorithmSuite) -> None:
    message = message_of(suite)
    for chunks in CHUNKS:
        assert decrypt_message(message, chunks=chunks, max_frame_length=FRAME).error is None
        outcome = decrypt_message(message, chunks=chunks, max_frame_length=FRAME - 1)
        assert figures(outcome.error) == ("max_frame_length", FRAME - 1, FRAME)
        assert outcome.kinds == ["HeaderParsed", "HeaderVerified"]


@each_suite
@pytest.mark.parametrize("form", ["regular", "full final", "short final"])
@each_row("chunks", CHUNKS)
def test_the_frame_limit_is_about_frames_that_come(
    suite: AlgorithmSuite, form: str, chunks: int | None
) -> None:
    """A header may say any frame length: a frame costs what it is long, from its first bytes on."""
    length = {"regular": 300, "full final": 300, "short final": 250}[form]
    message = build_message(
        suite, bytes(length), frame_length=2**31 if form == "short final" else 300, full_final_frame=True
    )
    if form == "regular":
        message = build_message(suite, bytes(length), frame_length=300)
    assert decrypt_message(message, chunks=chunks, max_frame_length=length).plaintext == bytes(length)
    outcome = decrypt_message(message, chunks=chunks, max_frame_length=length - 1)
    assert figures(outcome.error) == ("max_frame_length", length - 1, length)
    assert outcome.plaintext == b""
    # Nothing of the frame but its header need be there.
    last = "frame.1.sequence" if form == "regular" else "frame.1.length"
    machine = opened(message, message.data[: message.fields[last].stop], max_frame_length=length - 1)
    with pytest.raises(
        LimitError, match=f"the length of {'frame' if form == 'regular' else 'final frame'} 1"
    ):
        machine.next_event()


@each_suite
def test_a_non_framed_body_is_a_frame(suite: AlgorithmSuite) -> None:
    message = message_of(suite, framed=False)
    length = len(PLAINTEXT)
    for chunks in CHUNKS:
        assert decrypt_message(message, chunks=chunks, max_frame_length=length).error is None
        outcome = decrypt_message(message, chunks=chunks, max_frame_length=length - 1)
        assert figures(outcome.error) == ("max_frame_length", length - 1, length)
        assert outcome.kinds == ["HeaderParsed", "HeaderVerified"]
    machine = opened(message, message.data[: message.fields["body.length"].stop], max_frame_length=length - 1)
    with pytest.raises(LimitError, match="the length of the non-framed body is 100"):
        machine.next_event()


@each_suite
@each_row("limit", [0, 1, 15, 16, 17, 31, 32, 48, 95, 96, 97, 99, 100, 101])
def test_the_plaintext_may_be_as_long_as_the_limit(suite: AlgorithmSuite, limit: int) -> None:
    """What stands before the frame that passes the limit is released, however the bytes come."""
    message = message_of(suite)
    for chunks in CHUNKS:
        outcome = decrypt_message(message, chunks=chunks, max_plaintext_length=limit)
        if limit >= len(PLAINTEXT):
            assert outcome.error is None
            assert outcome.plaintext == PLAINTEXT
            continue
        whole = limit // FRAME * FRAME
        assert figures(outcome.error) == ("max_plaintext_length", limit, min(whole + FRAME, len(PLAINTEXT)))
        assert outcome.plaintext == PLAINTEXT[:whole]


@each_suite
@pytest.mark.parametrize(
    ("framed", "limit", "field", "actual"),
    [
        (True, 15, "frame.1.sequence", 16),
        (True, 47, "frame.3.sequence", 48),
        (True, 99, "frame.7.length", 100),
        (False, 99, "body.length", 100),
    ],
)
def test_the_frame_that_passes_the_limit_is_refused_from_its_header(
    suite: AlgorithmSuite, framed: bool, limit: int, field: str, actual: int
) -> None:
    message = message_of(suite, framed=framed)
    stop = message.fields[field].stop
    machine = opened(message, message.data[: stop - 1], max_plaintext_length=limit)
    assert released_by(machine) == (PLAINTEXT[: limit // FRAME * FRAME] if framed else b"")
    machine.receive(message.data[stop - 1 : stop])
    with pytest.raises(LimitError) as caught:
        machine.next_event()
    assert figures(caught.value) == ("max_plaintext_length", limit, actual)


def test_no_plaintext_is_within_every_limit() -> None:
    for frame_length in (FRAME, None):
        message = build_message(COMMITTING, b"", frame_length=frame_length)
        assert decrypt_message(message, max_plaintext_length=0).error is None


# What is claimed and never comes


def claiming(suite: AlgorithmSuite, *, frame_length: int | None) -> MessageDecryptor:
    """Return a machine behind an authentic header."""
    writer = MessageWriter(suite, example_data_key(suite), frame_length=frame_length)
    writer.header()
    return opened(writer.message())


@each_suite
@pytest.mark.parametrize("body", ["regular", "final", "non-framed"])
def test_a_claimed_length_costs_no_memory(suite: AlgorithmSuite, body: str) -> None:
    """Without a limit a frame of 4 GiB, or a body of 64 GiB, is allowed; until it comes it is a number."""
    frame_length = 2**32 - 1
    starts = {
        "regular": (1).to_bytes(4, "big") + (1).to_bytes(12, "big"),
        "final": b"\xff" * 4
        + (1).to_bytes(4, "big")
        + (1).to_bytes(12, "big")
        + frame_length.to_bytes(4, "big"),
        "non-framed": (1).to_bytes(12, "big") + (2**36 - 32).to_bytes(8, "big"),
    }
    tracemalloc.start()
    try:
        machine = claiming(suite, frame_length=None if body == "non-framed" else frame_length)
        for piece in (starts[body], *[bytes(100)] * 100):
            machine.receive(piece)
            assert isinstance(machine.next_event(), NeedData)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000
    machine.receive(b"")
    with pytest.raises(TruncatedMessageError, match="in the body"):
        machine.next_event()


def test_a_long_frame_in_single_bytes_costs_no_object_for_each() -> None:
    message = build_message(COMMITTING, bytes(100_000), frame_length=60_000)
    machine = opened(message)
    released = b""
    tracemalloc.start()
    try:
        for position in range(message.header_length, len(message.data)):
            machine.receive(message.data[position : position + 1])
            released += released_by(machine)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert released == bytes(100_000)
    assert peak < 1_000_000


@each_suite
def test_a_small_message_with_the_longest_frame_length(suite: AlgorithmSuite) -> None:
    message = build_message(suite, PLAINTEXT, frame_length=2**32 - 1)
    for chunks in CHUNKS:
        outcome = decrypt_message(message, chunks=chunks)
        assert outcome.plaintext == PLAINTEXT
        assert outcome.error is None
        assert outcome.header.frame_length == 2**32 - 1


@pytest.mark.spec("data-format/message-body.md#encrypted-content-length")
@pytest.mark.parametrize("length", [2**36 - 31, 2**63, 2**64 - 1])
def test_a_non_framed_body_that_aes_gcm_does_not_allow(length: int) -> None:
    """data-format/message-body.md#encrypted-content-length: at most 2^36 - 32."""
    machine = claiming(COMMITTING, frame_length=None)
    machine.receive(bytes(12) + length.to_bytes(8, "big"))
    with pytest.raises(MalformedMessageError, match=f"the non-framed body has {length} bytes"):
        machine.next_event()


def test_a_refused_header_is_refused_for_good() -> None:
    message = message_of(COMMITTING)
    machine = MessageDecryptor(max_header_length=1)
    machine.receive(message.data)
    with pytest.raises(LimitError) as first:
        machine.next_event()
    with pytest.raises(LimitError) as again:
        machine.next_event()
    assert again.value.__cause__ is first.value
    with pytest.raises(ValueError, match="in state FAILED"):
        machine.unlock(message.data_key)
