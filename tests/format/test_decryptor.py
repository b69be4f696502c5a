"""The reading machine: its states, and the same events and errors however the bytes come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given, settings, strategies as st

from aioencrypt.errors import (
    TagError,
    TrailingDataError,
)
from aioencrypt.format import (
    AlgorithmSuite,
    ContentType,
    EncryptedDataKey,
)
from tests.support.damage import flips, released_before, truncations
from tests.support.messages import (
    Message,
    Outcome,
    build_message,
    context_bytes,
    decrypt_message,
)
from tests.support.rows import each_row
from tests.support.streaming import plaintext_of

SUITES = list(AlgorithmSuite)
COMMITTING = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
SIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
NO_KDF = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_NO_KDF

few_suites = pytest.mark.parametrize(
    "suite", [NO_KDF, COMMITTING, SIGNED], ids=lambda suite: f"{suite.value:04x}"
)
each_suite = pytest.mark.parametrize("suite", SUITES, ids=lambda suite: f"{suite.value:04x}")

PLAINTEXT = bytes(range(200))
LONG = plaintext_of(60_000)
EDKS = (EncryptedDataKey("one", b"key", b"wrapped"), EncryptedDataKey("two", b"", b""))
# UTF-16 code units put the supplementary character first, UTF-8 last: as JavaScript once sorted.
OTHER_ORDER = [("\U00010000", "first"), ("\uff01", "second"), ("a", "")]

# Plaintext and what `build_message` is to do with it.
SHAPES: dict[str, tuple[bytes, dict[str, Any]]] = {
    "frames of 1": (PLAINTEXT[:9], {"frame_length": 1}),
    "frames of 16": (PLAINTEXT[:40], {"frame_length": 16}),
    "frames of 64": (PLAINTEXT, {"frame_length": 64}),
    "full final frame": (PLAINTEXT[:48], {"frame_length": 16, "full_final_frame": True}),
    "empty final frame": (PLAINTEXT[:48], {"frame_length": 16}),
    "one short frame": (b"short", {"frame_length": 4096}),
    "no plaintext": (b"", {"frame_length": 16}),
    "non-framed": (PLAINTEXT[:40], {"frame_length": None}),
    "empty non-framed": (b"", {"frame_length": None}),
    "random ivs": (PLAINTEXT[:83], {"frame_length": 16, "random_ivs": True}),
    "random iv, non-framed": (PLAINTEXT[:40], {"frame_length": None, "random_ivs": True}),
    "two keys, context": (b"x", {"encrypted_data_keys": EDKS, "encryption_context": {"b": "2", "a": "1"}}),
    "other order": (PLAINTEXT[:20], {"frame_length": 16, "encryption_context": context_bytes(OTHER_ORDER)}),
    "frames in one batch": (PLAINTEXT * 4, {"frame_length": 16}),
}
each_shape = each_row("shape", SHAPES)
CHUNKS: dict[str, int | Sequence[int] | None] = {
    "whole": None,
    "bytes": 1,
    "sevens": 7,
    "odd": [3, 1, 40, 0, 2, 61, 5, 1, 1, 90, 33],
}


def message_of(suite: AlgorithmSuite, shape: str) -> Message:
    plaintext, options = SHAPES[shape]
    return build_message(suite, plaintext, **options)


def contents(message: Message) -> list[bytes]:
    """Return the plaintext frame by frame, without empty ones."""
    length = message.frame_length or len(message.plaintext)
    starts = range(0, len(message.plaintext), max(1, length))
    return [message.plaintext[start : start + length] for start in starts]


def summary(outcome: Outcome) -> tuple[Any, ...]:
    """Return all that does not depend on how the bytes came; frames may be released in batches."""
    error = outcome.error
    # How many bytes have come after the end is chance.
    text = "" if isinstance(error, TrailingDataError) else str(error)
    values = [value for _, value in outcome.events if not isinstance(value, bytes)]
    return outcome.kinds, values, outcome.plaintext, type(error), text


@pytest.mark.spec(
    "client-apis/decrypt.md#parse-the-header", "client-apis/decrypt.md#decrypt-the-message-body"
)
@each_suite
@each_shape
def test_a_message_gives_the_same_events_however_it_comes(suite: AlgorithmSuite, shape: str) -> None:
    message = message_of(suite, shape)
    whole = decrypt_message(message)
    assert whole.error is None
    assert whole.plaintext == message.plaintext
    released = ["Plaintext"] if message.plaintext else []
    assert whole.kinds == ["HeaderParsed", "HeaderVerified", *released, "EndOfMessage"]
    for chunks in CHUNKS.values():
        assert summary(decrypt_message(message, chunks=chunks)) == summary(whole)


@each_suite
@each_shape
def test_the_header_is_what_was_written(suite: AlgorithmSuite, shape: str) -> None:
    message = message_of(suite, shape)
    header = decrypt_message(message).header
    options = SHAPES[shape][1]
    framed = message.frame_length is not None
    assert header.version == suite.version
    assert header.algorithm_suite is suite
    assert header.message_id == message.message_id
    assert header.content_type is (ContentType.FRAMED if framed else ContentType.NON_FRAMED)
    assert header.frame_length == (message.frame_length or 0)
    assert header.commitment == message["commitment"]
    if "encrypted_data_keys" in options:
        assert header.encrypted_data_keys == EDKS
        assert header.encryption_context == {"a": "1", "b": "2"}
    if shape == "other order":
        assert list(header.encryption_context.items()) == OTHER_ORDER


@each_suite
@each_shape
def test_byte_by_byte_every_frame_is_released_on_its_own(suite: AlgorithmSuite, shape: str) -> None:
    message = message_of(suite, shape)
    outcome = decrypt_message(message, chunks=1)
    assert [value for name, value in outcome.events if name == "Plaintext"] == contents(message)


@few_suites
@each_shape
@pytest.mark.parametrize("tail", [b"\0", b"\xff" * 40, "message"])
def test_trailing_bytes_are_the_same_error_however_they_come(
    suite: AlgorithmSuite, shape: str, tail: bytes | str
) -> None:
    message = message_of(suite, shape)
    data = message.data + (tail if isinstance(tail, bytes) else message.data)
    for chunks in (*CHUNKS.values(), [len(message.data)]):
        outcome = decrypt_message(message, data, chunks=chunks)
        assert type(outcome.error) is TrailingDataError
        assert outcome.plaintext == message.plaintext
        assert outcome.kinds[-1] == ("Plaintext" if message.plaintext else "HeaderVerified")


@few_suites
@pytest.mark.parametrize("shape", ["frames of 16", "non-framed", "full final frame", "random ivs"])
def test_damage_is_the_same_error_however_it_comes(suite: AlgorithmSuite, shape: str) -> None:
    message = message_of(suite, shape)
    damages = [*truncations(message), *(damage for damage in flips(message) if damage.what.endswith("bit 5"))]
    for damage in damages:
        whole, sevens, single = (decrypt_message(message, damage.data, chunks=n) for n in (None, 7, 1))
        assert single.error is not None, damage
        assert single.plaintext == released_before(message, damage.field), damage
        for outcome in (whole, sevens):
            assert type(outcome.error) is type(single.error), damage
            assert str(outcome.error) == str(single.error), damage
            if isinstance(outcome.error, TagError):
                # A bad frame keeps back the good ones of its batch.
                assert single.plaintext.startswith(outcome.plaintext), damage
            else:
                assert summary(outcome) == summary(single), damage


@few_suites
@pytest.mark.parametrize("frame_length", [1, 64, 700, 5000, 16384])
def test_long_messages_in_long_pieces(suite: AlgorithmSuite, frame_length: int) -> None:
    """Pieces from 4 KiB on are not copied: frames straddle them, and batches end with them."""
    length = 3000 if frame_length == 1 else 50_001
    message = build_message(suite, LONG[:length], frame_length=frame_length)
    whole = decrypt_message(message)
    assert whole.plaintext == message.plaintext
    assert whole.error is None
    for chunks in (4096, 4999, 20_000, [1, 5000, 3, 9000, 70_000]):
        assert summary(decrypt_message(message, chunks=chunks)) == summary(whole)


def with_bad_byte(message: Message, field: str) -> bytes:
    return message.replaced(field, bytes([message[field][0] ^ 1]) + message[field][1:])


@each_row("number", [1, 2, 50, 99, 100])
@each_row("field", ["iv", "content", "tag"])
def test_the_bad_frame_of_a_batch_is_named(number: int, field: str) -> None:
    message = build_message(COMMITTING, LONG[: 64 * 100 - 1], frame_length=64)
    data = with_bad_byte(message, f"frame.{number}.{field}")
    name = "final frame 100" if number == 100 else f"frame {number}"
    for chunks in (None, 4096, 1000, 1):
        outcome = decrypt_message(message, data, chunks=chunks)
        assert type(outcome.error) is TagError
        assert f"the {name} fails authentication" in str(outcome.error)
        assert isinstance(outcome.error.__cause__, InvalidTag)
        assert LONG[: 64 * (number - 1)].startswith(outcome.plaintext)
        assert len(outcome.plaintext) % 64 == 0


@settings(deadline=None, max_examples=150)
@given(
    suite=st.sampled_from([NO_KDF, COMMITTING, SIGNED]),
    shape=st.sampled_from(sorted(SHAPES)),
    chunks=st.lists(st.integers(0, 120), max_size=30),
    cut=st.integers(0, 300),
)
def test_any_chunks_give_the_same_events(
    suite: AlgorithmSuite, shape: str, chunks: list[int], cut: int
) -> None:
    message = message_of(suite, shape)
    data = message.data[: len(message.data) - cut]
    assert summary(decrypt_message(message, data, chunks=chunks)) == summary(decrypt_message(message, data))
