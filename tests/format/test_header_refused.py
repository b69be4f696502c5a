"""What is refused of a header: every malformed field, base64, and what is above a limit."""

from __future__ import annotations

import base64
import gzip
import zlib
from collections.abc import Callable

import pytest

from aioencrypt.errors import LimitError, MalformedMessageError
from aioencrypt.format import AlgorithmSuite
from tests.support.headers import V1, V2, each_suite, each_version, message_of, parse, parsed
from tests.support.messages import context_bytes, u16, u32
from tests.support.rows import each_row

# Field, other bytes of the same length, and the error.
MALFORMED_IN_ALL = [
    ("version", b"\x00", "this is not a message: it starts with 0x00, not with version 1 or 2"),
    ("version", b"\x03", "this is not a message: it starts with 0x03, not with version 1 or 2"),
    ("version", b"\xff", "this is not a message: it starts with 0xff, not with version 1 or 2"),
    ("suite", u16(0), "algorithm suite 0x0000 is unknown"),
    ("suite", u16(0x7801), "algorithm suite 0x7801 is unknown"),
    ("context", u16(0) + bytes(32), "the encryption context in the header is not empty but counts no pairs"),
    ("context", b"\xff" * 34, "a length in the encryption context in the header passes its end"),
    ("edk_count", u16(0), "the header has no encrypted data key"),
    ("content_type", b"\x00", "content type 0 is unknown"),
    ("content_type", b"\x03", "content type 3 is unknown"),
    ("content_type", b"\xff", "content type 255 is unknown"),
    ("frame_length", u32(0), "the frame length 0 does not fit content type 2"),
]
MALFORMED = {
    V1: [
        *MALFORMED_IN_ALL,
        ("type", b"\x00", "message type 0x00 is unknown; only 0x80 is"),
        ("type", b"\x81", "message type 0x81 is unknown; only 0x80 is"),
        ("suite", u16(0x0478), "algorithm suite 0x0478 does not belong to version 1 messages"),
        ("suite", u16(0x0578), "algorithm suite 0x0578 does not belong to version 1 messages"),
        *(
            ("reserved", u32(1 << shift), "the reserved bytes of the header are not zero")
            for shift in (0, 8, 31)
        ),
        *(("iv_length", bytes([n]), f"the IV length is {n}; the suite has 12") for n in (0, 11, 13, 255)),
    ],
    V2: [
        *MALFORMED_IN_ALL,
        ("suite", u16(0x0014), "algorithm suite 0x0014 does not belong to version 2 messages"),
        ("suite", u16(0x0378), "algorithm suite 0x0378 does not belong to version 2 messages"),
    ],
}


@pytest.mark.spec(
    "data-format/message-header.md#version-1",
    "data-format/message-header.md#type",
    "data-format/message-header.md#algorithm-suite-id",
    "data-format/message-header.md#encrypted-data-key-count",
    "data-format/message-header.md#content-type",
    "data-format/message-header.md#reserved",
    "data-format/message-header.md#iv-length",
    "client-apis/decrypt.md#algorithm-suite",
)
@pytest.mark.parametrize(
    ("suite", "field", "new", "text"),
    [
        pytest.param(suite, *case, id=f"v{suite.version}-{case[0]}-{case[1][:4].hex()}")
        for suite, cases in MALFORMED.items()
        for case in cases
    ],
)
def test_a_malformed_field(suite: AlgorithmSuite, field: str, new: bytes, text: str) -> None:
    message = message_of(suite)
    assert len(new) == len(message[field])
    data = message.replaced(field, new)
    # It is refused with its last byte: no more is waited for, and not one is guessed.
    end = message.fields[field].stop
    assert isinstance(parse(data[: end - 1]), int)
    for fed in (data[:end], data):
        with pytest.raises(MalformedMessageError) as caught:
            parse(fed)
        assert str(caught.value) == text


@pytest.mark.spec("data-format/message-header.md#frame-length")
@each_version
def test_a_non_framed_body_has_no_frame_length(suite: AlgorithmSuite) -> None:
    data = message_of(suite, frame_length=None).replaced("frame_length", u32(1))
    with pytest.raises(MalformedMessageError, match=r"^the frame length 1 does not fit content type 1$"):
        parse(data)


@pytest.mark.spec("framework/structures.md#key-value-pair-entries")
@each_version
def test_a_key_of_the_context_that_comes_twice(suite: AlgorithmSuite) -> None:
    message = message_of(suite, encryption_context=context_bytes([("k", "v"), ("k", "v")]))
    with pytest.raises(MalformedMessageError, match=r"has the key 'k' twice$"):
        parse(message.data)


@each_suite
@each_row("encode", [base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes])
def test_base64_is_recognized(suite: AlgorithmSuite, encode: Callable[[bytes], bytes]) -> None:
    text = encode(message_of(suite).data)
    assert parse(text[:1]) == 1
    for data in (text[:2], text):
        with pytest.raises(MalformedMessageError) as caught:
            parse(data)
        assert str(caught.value) == "this looks like a message encoded in base64: decode it first"


BLOB = bytes.fromhex("0102030078") + bytes(100)


@each_row("prefix", [b"\n", b"\r\n ", b"\xef\xbb\xbf", b'"', b"'", b"b'", b'\xef\xbb\xbf "'])
@each_suite
def test_base64_behind_something_is_recognized(suite: AlgorithmSuite, prefix: bytes) -> None:
    with pytest.raises(MalformedMessageError, match=r"base64, behind .*: remove those and decode it first"):
        parse(prefix + base64.b64encode(message_of(suite).data))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (BLOB, "a bare CiphertextBlob of AWS KMS: .* Decrypt operation of AWS KMS"),
        (bytes.fromhex("0102020078"), "a bare CiphertextBlob of AWS KMS:"),
        (base64.b64encode(BLOB), "a bare CiphertextBlob of AWS KMS, encoded in base64: decode it first;"),
        (b'"' + base64.b64encode(BLOB), "a bare CiphertextBlob of AWS KMS, encoded in base64"),
        (gzip.compress(b"text", mtime=0), "gzip: decompress it first"),
        (b"BZh9", "compressed data: decompress it first"),
        (b"-----BEGIN RSA PRIVATE KEY-----", "PEM: give the message"),
        (b"age-encryption.org/v1", "an age file: decrypt it with age"),
        (b"-----BEGIN AGE ENCRYPTED FILE-----", "an age file"),
        (b"-----BEGIN PGP MESSAGE-----", "an OpenPGP message"),
        (b"Salted__1234", "the output of openssl enc"),
        (b'{"message": "AYAD"}', "JSON: take the message out of it"),
        (b"\n [", "JSON"),
        (b"<?xml version", "XML or HTML"),
        (b"<!DOCTYPE html>", "XML or HTML"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"02047801ab", "a message encoded in hexadecimal: decode it first"),
        (b"0x02047801ab", "a message encoded in hexadecimal"),
        (b"\\x0180", "a message encoded in hexadecimal"),
        (b"02:05:78", "a message encoded in hexadecimal"),
        (b'\xef\xbb\xbf"02 05 78"\n', "a message encoded in hexadecimal"),
        ("AYAD".encode("utf-16"), "text in UTF-16"),
        ("AgV4".encode("utf-16-le"), "text in UTF-16"),
        (b"data:text/plain;base64,AgV4", "a data URL: decode what follows its comma"),
        (base64.b64encode(base64.b64encode(b"\x02\x05\x78\x00")), "a message encoded in base64 twice"),
        (base64.b64encode(base64.b64encode(b"\x01\x80\x03\x78")), "a message encoded in base64 twice"),
        (b"\n\x02\x05\x78", "a message behind blanks or a byte order mark: remove those"),
        (b"\xef\xbb\xbf\x01\x80", "a message behind blanks or a byte order mark: remove those"),
        (repr(b"\x02\x05\x78").encode(), "the repr of bytes: give the bytes themselves"),
        (BLOB.hex().encode(), "a bare CiphertextBlob of AWS KMS, encoded in hexadecimal"),
        (b"PK\x03\x04", "a ZIP archive: take the message out of it"),
        (zlib.compress(b"text"), "compressed data: decompress it first"),
        (b"--boundary\r\nContent-Type: a/b", "a multipart body: take the message out of its part"),
        (b"HTTP/1.1 200 OK", "an HTTP response: give its body"),
        (base64.b64encode(b"Salted__1234"), "the output of openssl enc"),
        (b"gAAAAABk", "a Fernet token"),
        (b"eyJhbGciOi", "a JSON Web Token"),
    ],
    ids=lambda value: value[:12].hex() if isinstance(value, bytes) else "",
)
def test_what_is_given_in_place_of_a_message_is_named(data: bytes, text: str) -> None:
    with pytest.raises(MalformedMessageError, match=f"^this looks like {text}"):
        parse(data)


@pytest.mark.parametrize("data", [b"A message", b"AZ", b"A\x80"])
def test_what_only_starts_like_base64(data: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="starts with 0x41"):
        parse(data)


LENGTH_FIELDS = ["context_length", "edk.0.id_length", "edk.0.info_length", "edk.1.ciphertext_length"]


@each_version
@pytest.mark.parametrize("field", LENGTH_FIELDS)
def test_a_limit_is_met_with_the_length_field(suite: AlgorithmSuite, field: str) -> None:
    message = message_of(suite)
    end = message.fields[field].stop
    data = message.replaced(field, u16(60000))[:end]
    assert parse(data) == 60000
    assert parse(data, max_length=end + 60000) == 60000
    with pytest.raises(LimitError) as caught:
        parse(data, max_length=end + 59999)
    error = caught.value
    assert (error.parameter, error.limit, error.actual) == ("max_header_length", end + 59999, end + 60000)
    assert str(error) == (
        f"the length of the header is {end + 60000}, above max_header_length={end + 59999}; "
        "raise max_header_length if this is expected"
    )


@each_version
def test_the_limit_is_the_length_of_the_whole_header(suite: AlgorithmSuite) -> None:
    message = message_of(suite)
    length = message.header_length
    assert parsed(message.data, max_length=length).serialized == message.data[:length]
    for data in (message.data, message.data[: message.fields["header_tag"].start]):
        with pytest.raises(LimitError) as caught:
            parse(data, max_length=length - 1)
        assert (caught.value.limit, caught.value.actual) == (length - 1, length)


@each_version
def test_the_limit_of_encrypted_data_keys(suite: AlgorithmSuite) -> None:
    message = message_of(suite)
    assert len(parsed(message.data, max_encrypted_data_keys=5).header.encrypted_data_keys) == 5
    for data in (message.data, message.data[: message.fields["edk_count"].stop]):
        with pytest.raises(LimitError) as caught:
            parse(data, max_encrypted_data_keys=4)
        error = caught.value
        assert (error.parameter, error.limit, error.actual) == ("max_encrypted_data_keys", 4, 5)
        assert str(error) == (
            "the number of encrypted data keys is 5, above max_encrypted_data_keys=4; "
            "raise max_encrypted_data_keys if this is expected"
        )


@each_version
def test_no_key_is_worse_than_a_key_too_many(suite: AlgorithmSuite) -> None:
    data = message_of(suite).replaced("edk_count", u16(0))
    with pytest.raises(MalformedMessageError, match="no encrypted data key"):
        parse(data, max_encrypted_data_keys=0)
