"""The header: parsed and serialized, whole and in pieces, and authenticated."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given, settings, strategies as st

from aioencrypt.errors import CommitmentError, TagError
from aioencrypt.format import AlgorithmSuite, ContentType, EncryptedDataKey, MessageHeader
from aioencrypt.format.derivation import MessageKey, derive_message_key
from aioencrypt.format.header import ReceivedHeader, authenticate_header
from aioencrypt.format.wire import ByteQueue
from tests.support.headers import (
    CONTEXT,
    KEYS,
    V1,
    V2,
    each_suite,
    each_version,
    message_of,
    parse,
    parsed,
    parsed_in_pieces,
    part,
)
from tests.support.messages import (
    Message,
    MessageWriter,
    context_bytes,
    cut,
    example_data_key,
    example_message_id,
    sized,
)
from tests.support.rows import each_row

# A provider id that was cut off in the middle of a character.
ODD = EncryptedDataKey(b"caf\xc3".decode(errors="surrogateescape"), b"info", b"wrapped")

each_content_type = pytest.mark.parametrize("frame_length", [None, 1, 4096, 2**32 - 1])


@pytest.mark.spec("client-apis/decrypt.md#parse-the-header", "data-format/message-header.md#structure")
@each_row("suite", AlgorithmSuite)
@each_content_type
def test_a_header_is_parsed_into_its_fields(suite: AlgorithmSuite, frame_length: int | None) -> None:
    message = message_of(suite, frame_length)
    queue = ByteQueue()
    queue.append(message.data)
    received = parse(queue)
    assert isinstance(received, ReceivedHeader)
    assert received.header == MessageHeader(
        version=2 if suite.committing else 1,
        algorithm_suite=suite,
        message_id=example_message_id(suite),
        encryption_context=CONTEXT,
        encrypted_data_keys=KEYS,
        content_type=ContentType.FRAMED if frame_length else ContentType.NON_FRAMED,
        frame_length=frame_length or 0,
        commitment=message["commitment"],
    )
    assert received.body == part(message, "version", "commitment")
    assert received.iv == bytes(12)
    assert received.tag == message["header_tag"]
    assert received.serialized == message.data[: message.header_length]
    # What follows the header is left alone.
    assert queue.take(len(queue)) == message.data[message.header_length :]


@pytest.mark.spec(
    "client-apis/encrypt.md#construct-the-header",
    "data-format/message-header.md#structure",
    "framework/algorithm-suites.md#message-format-version",
    "framework/algorithm-suites.md#supported-algorithm-suite-data",
)
@each_row("suite", AlgorithmSuite)
@each_content_type
def test_a_header_is_serialized_as_the_specification_says(
    suite: AlgorithmSuite, frame_length: int | None
) -> None:
    message = message_of(suite, frame_length)
    header = parsed(message.data).header
    assert header.serialize_body() == part(message, "version", "commitment")


@pytest.mark.spec(
    "client-apis/encrypt.md#construct-the-header",
    "data-format/message-header.md#structure",
    "data-format/message-header.md#header-body-version-10",
    "data-format/message-header.md#header-body-version-20",
    "data-format/message-header.md#version-1",
    "data-format/message-header.md#type",
    "data-format/message-header.md#key-value-pairs-length",
    "data-format/message-header.md#key-value-pairs",
    "data-format/message-header.md#algorithm-suite-data",
    "data-format/message-header.md#reserved",
    "data-format/message-header.md#iv-length",
)
@pytest.mark.parametrize(
    ("suite", "data"),
    [
        pytest.param(
            V1,
            "01 80 0178 6465666768696a6b6c6d6e6f70717273"
            "0008 0001 0001 6b 0001 76"
            "0001 0001 70 0002 6969 0003 636363"
            "02 00000000 0c 00001000",
            id="v1",
        ),
        pytest.param(
            V2,
            "02 0478 6465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f80818283"
            "0000"
            "0001 0001 70 0002 6969 0003 636363"
            "02 00001000" + "cc" * 32,
            id="v2",
        ),
    ],
)
def test_the_bytes_of_a_header(suite: AlgorithmSuite, data: str) -> None:
    header = MessageHeader(
        suite.version,
        suite,
        example_message_id(suite),
        {"k": "v"} if suite is V1 else {},
        (EncryptedDataKey("p", b"ii", b"ccc"),),
        ContentType.FRAMED,
        4096,
        b"\xcc" * suite.suite_data_length,
    )
    assert header.serialize_body() == bytes.fromhex(data)


PROVIDER_IDS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=10),
    st.binary(max_size=10).map(lambda data: data.decode("utf-8", "surrogateescape")),
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=10)
ENTRIES = st.builds(EncryptedDataKey, PROVIDER_IDS, st.binary(max_size=10), st.binary(max_size=10))


@st.composite
def headers(draw: st.DrawFn) -> MessageHeader:
    suite = draw(st.sampled_from(AlgorithmSuite))
    content_type = draw(st.sampled_from(ContentType))
    framed = content_type is ContentType.FRAMED
    return MessageHeader(
        suite.version,
        suite,
        draw(st.binary(min_size=suite.message_id_length, max_size=suite.message_id_length)),
        draw(st.dictionaries(TEXT, TEXT, max_size=3)),
        tuple(draw(st.lists(ENTRIES, min_size=1, max_size=4))),
        content_type,
        draw(st.integers(1, 2**32 - 1)) if framed else 0,
        draw(st.binary(min_size=suite.suite_data_length, max_size=suite.suite_data_length)),
    )


@settings(deadline=None, max_examples=100)
@given(header=headers(), chunks=st.lists(st.integers(1, 60), max_size=30), tail=st.binary(max_size=5))
def test_parse_after_serialize_is_identity_however_it_comes(
    header: MessageHeader, chunks: list[int], tail: bytes
) -> None:
    iv = bytes(range(12)) if header.version == 1 else b""
    body = header.serialize_body()
    data = body + iv + bytes(range(16))
    received = parsed(data + tail)
    assert received == ReceivedHeader(header, body, iv or bytes(12), bytes(range(16)))
    assert received.serialized == data
    assert parsed_in_pieces(cut(data + tail, chunks), len(data)) == received
    assert parsed_in_pieces(cut(data, 1), len(data)) == received


@pytest.mark.spec("client-apis/decrypt.md#parse-the-header")
@each_version
def test_a_header_that_is_cut_off_waits_for_no_more_than_the_rest(suite: AlgorithmSuite) -> None:
    data = message_of(suite).data[: message_of(suite).header_length]
    for length in range(len(data)):
        missing = parse(data[:length])
        assert isinstance(missing, int)
        assert 0 < missing <= len(data) - length


def test_long_fields_are_waited_for_whole() -> None:
    long = EncryptedDataKey("p", b"i" * 65535, b"c" * 65535)
    message = message_of(V2, encrypted_data_keys=[long, long], encryption_context={"k": "v" * 65000})
    start = message.fields["edk.1.ciphertext"].start
    assert parse(message.data[:start]) == 65535
    assert parse(message.data[: start + 35]) == 65500
    assert parsed(message.data).header.encrypted_data_keys == (long, long)


@each_version
def test_a_provider_id_that_is_no_text_is_kept(suite: AlgorithmSuite) -> None:
    message = message_of(suite, encrypted_data_keys=[ODD, KEYS[0]])
    header = parsed(message.data).header
    assert message["edk.0.id"] == b"caf\xc3"
    assert header.encrypted_data_keys == (ODD, KEYS[0])
    assert header.encrypted_data_keys[0].provider_id not in ("caf", "caf\u00c3", "caf\ufffd")
    assert header.serialize_body() == part(message, "version", "commitment")


def test_as_many_keys_as_the_format_holds() -> None:
    header = parsed(message_of(V2).data).header
    full = attrs.evolve(header, encrypted_data_keys=(KEYS[3],) * 65535)
    received = parsed(full.serialize_body() + bytes(16))
    assert received.header == full
    for keys in ((), (KEYS[3],) * 65536):
        with pytest.raises(ValueError, match=rf"1 to 65,535 encrypted data keys, not {len(keys)}$"):
            attrs.evolve(header, encrypted_data_keys=keys).serialize_body()


FITTING, TOO_LONG = b"x" * 65535, b"x" * 65536


def test_fields_of_a_key_as_long_as_the_format_holds() -> None:
    key = EncryptedDataKey(FITTING.decode(), FITTING, FITTING)
    assert key.serialize() == sized(FITTING) * 3


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(EncryptedDataKey(TOO_LONG.decode(), b"", b""), id="provider id"),
        pytest.param(EncryptedDataKey("\u00df" * 32768, b"", b""), id="bytes, not characters"),
        pytest.param(EncryptedDataKey("", TOO_LONG, b""), id="provider info"),
        pytest.param(EncryptedDataKey("", b"", TOO_LONG), id="ciphertext"),
    ],
)
def test_a_field_of_a_key_that_is_too_long(key: EncryptedDataKey) -> None:
    header = attrs.evolve(parsed(message_of(V1).data).header, encrypted_data_keys=(KEYS[0], key))
    for serialize in (key.serialize, header.serialize_body):
        with pytest.raises(ValueError, match=r"longer than the 65,535 bytes of the message format$"):
            serialize()


def test_a_context_that_is_too_long() -> None:
    header = attrs.evolve(parsed(message_of(V1).data).header, encryption_context={"k": "v" * 65535})
    with pytest.raises(ValueError, match=r"above the 65535 of the message format$"):
        header.serialize_body()


def test_the_context_of_a_header_cannot_be_changed() -> None:
    context: Any = {"k": "v"}
    header = attrs.evolve(parsed(message_of(V2).data).header, encryption_context=context)
    context["k"] = "changed"
    assert header.encryption_context == {"k": "v"}
    held: Any = header.encryption_context
    with pytest.raises(TypeError):
        held["k"] = "changed"


def test_no_value_and_no_wrapped_key_is_in_a_repr() -> None:
    received = parsed(message_of(V2, encryption_context={"k": "secret"}).data)
    for shown in (repr(received), repr(received.header)):
        assert "secret" not in shown
        assert "wrapped" not in shown
        assert "<1 pairs>" in shown
        assert "arn:1" in shown


def key_of(message: Message) -> MessageKey:
    return derive_message_key(message.suite, message.data_key, message.message_id)


TAG_ERROR = (
    "the header fails authentication: it was changed, the data key is another message's, "
    "or the encryption context is not the one it was written with"
)


def assert_tag_error(received: ReceivedHeader, key: MessageKey, authenticated_context: bytes = b"") -> None:
    with pytest.raises(TagError) as caught:
        received.verify(key, authenticated_context)
    assert str(caught.value) == TAG_ERROR
    assert isinstance(caught.value.__cause__, InvalidTag)


STORED_ELSEWHERE = context_bytes([("not", "stored")])


@pytest.mark.spec(
    "client-apis/encrypt.md#construct-the-header",
    "client-apis/decrypt.md#verify-the-header",
    "framework/structures.md#structure-1",
)
@each_row("suite", AlgorithmSuite)
@pytest.mark.parametrize("context", [b"", STORED_ELSEWHERE], ids=["stored", "not stored"])
def test_the_tag_covers_the_header_and_what_is_not_stored(suite: AlgorithmSuite, context: bytes) -> None:
    message = message_of(suite, authenticated_context=context)
    key, received = key_of(message), parsed(message.data)
    received.verify(key, context)
    authentication = authenticate_header(received.body, received.header.version, key, context)
    assert received.body + authentication == message.data[: message.header_length]
    other = b"" if context else STORED_ELSEWHERE
    assert_tag_error(received, key, other)
    assert_tag_error(received, key, context + b"\x00")


# Two keys that UTF-8 and UTF-16 code units sort differently, in the order of old JavaScript writers.
UNSORTED = context_bytes([("\U00010000", "first"), ("\uff01", "second"), ("a", "last")])


@pytest.mark.spec("client-apis/decrypt.md#verify-the-header")
@each_suite
def test_the_tag_covers_the_bytes_as_they_came(suite: AlgorithmSuite) -> None:
    message = message_of(suite, encryption_context=UNSORTED)
    received = parsed(message.data)
    assert received.header.serialize_body() != received.body
    received.verify(key_of(message), b"")
    sorted_again = attrs.evolve(received, body=received.header.serialize_body())
    assert_tag_error(sorted_again, key_of(message))


@pytest.mark.spec("client-apis/decrypt.md#verify-the-header")
def test_the_header_iv_of_version_1_is_the_one_that_came() -> None:
    message = message_of(V1, random_ivs=True)
    received = parsed(message.data)
    assert received.iv == message["header_iv"] != bytes(12)
    assert received.serialized == message.data[: message.header_length]
    received.verify(key_of(message), b"")
    assert_tag_error(parsed(message.replaced("header_iv", bytes(12))), key_of(message))


@pytest.mark.spec("client-apis/decrypt.md#verify-the-header")
@each_version
def test_every_byte_counts(suite: AlgorithmSuite) -> None:
    """Apart from the commitment, which has an error of its own."""
    message = message_of(suite)
    received, key = parsed(message.data), key_of(message)
    commitment = message.fields["commitment"]
    for position in range(len(received.body)):
        if position not in commitment:
            body = bytearray(received.body)
            body[position] ^= 0x80
            assert_tag_error(attrs.evolve(received, body=bytes(body)), key)
    for position in range(16):
        tag = bytearray(received.tag)
        tag[position] ^= 1
        assert_tag_error(attrs.evolve(received, tag=bytes(tag)), key)


@each_suite
def test_another_key(suite: AlgorithmSuite) -> None:
    message = message_of(suite)
    other = derive_message_key(suite, bytes(suite.data_key_length), message.message_id)
    if suite.committing:
        with pytest.raises(CommitmentError, match="not the one that the message commits to"):
            parsed(message.data).verify(other, b"")
    else:
        assert_tag_error(parsed(message.data), other)


@pytest.mark.spec("client-apis/decrypt.md#get-the-decryption-materials")
@pytest.mark.parametrize("suite", [suite for suite in AlgorithmSuite if suite.committing])
def test_the_commitment_is_compared_also_where_the_tag_is_right(suite: AlgorithmSuite) -> None:
    """As in a message that was made to open under two keys."""
    for position in range(32):
        forger = MessageWriter(suite, example_data_key(suite))
        commitment = bytearray(forger.commitment)
        commitment[position] ^= 1
        forger.commitment = bytes(commitment)
        forger.header()
        received, key = parsed(bytes(forger.data)), key_of(forger.message())
        key.aead.decrypt(received.iv, received.tag, received.body)
        with pytest.raises(CommitmentError, match="not the one that the message commits to"):
            received.verify(key, b"")


def test_a_suite_without_commitment_has_none_to_compare() -> None:
    message = message_of(V1)
    received = parsed(message.data)
    assert received.header.commitment == b""
    received.verify(attrs.evolve(key_of(message), commitment=b"of something else"), b"")
