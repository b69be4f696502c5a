"""The message header: fields, parsing, serialization and authentication.

Specification: data-format/message-header.md.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Generator, Mapping, Sequence

import attrs
from cryptography.exceptions import InvalidTag

from aioencrypt.errors import LimitError, MalformedMessageError, TagError
from aioencrypt.format.context import parse_context, read_only, serialize_context
from aioencrypt.format.derivation import MessageKey, derive_message_key
from aioencrypt.format.suites import IV_LENGTH, SUITES, TAG_LENGTH, AlgorithmSuite
from aioencrypt.format.wire import ByteQueue, Cursor, Short

MAX_FRAME_LENGTH = 0xFFFFFFFF

_TYPE_CUSTOMER_AED = 0x80
_RESERVED = bytes(4)
_HEADER_IV = bytes(IV_LENGTH)
# An empty context as .NET 4.0.0 serialized it. The specification serializes it as no bytes at all.
_NO_PAIRS = bytes(2)
# Data often mistaken for a message: its first bytes, what it is, and what to do.
# Base64 of version 1 (01 80) starts with AY, that of version 2 (02 04, 02 05) with Ag.
_KMS_ADVICE = "it holds one encrypted value and no message; decrypt it with the Decrypt operation of AWS KMS"
# Found before the data: blanks, a byte order mark, the quotes of a literal.
_BEFORE = rb"(\xef\xbb\xbf|\s|b?[\"'])"
_LOOK_ALIKES: tuple[tuple[bytes, str, str], ...] = (
    (rb"A[Yg]", "a message encoded in base64", "decode it first"),
    (
        _BEFORE + rb"+A[Yg]",
        "a message encoded in base64, behind blanks, a byte order mark or a quote",
        "remove those and decode it first",
    ),
    (rb"QV[kl]|QW[cd]", "a message encoded in base64 twice", "decode it twice first"),
    (rb"data:[^,]*;base64,", "a data URL", "decode what follows its comma"),
    (rb"\xff\xfe|\xfe\xff|A\0[Yg]\0", "text in UTF-16", "give the bytes of the message"),
    (
        _BEFORE + rb"*(0x|\\x)?(01[ :]?80|02[ :]?0[45])[0-9a-fA-F :]*[\s\"']*\Z",
        "a message encoded in hexadecimal",
        "decode it first",
    ),
    (
        rb"(\xef\xbb\xbf|\s)+(\x01\x80|\x02[\x04\x05])",
        "a message behind blanks or a byte order mark",
        "remove those",
    ),
    (rb"b[\"']\\x0[12]", "the repr of bytes", "give the bytes themselves"),
    (rb"\x01[\x01\x02][\x01-\x03]\x00x", "a bare CiphertextBlob of AWS KMS", _KMS_ADVICE),
    (
        _BEFORE + rb"*AQ[EI][BCD]",
        "a bare CiphertextBlob of AWS KMS, encoded in base64",
        f"decode it first; {_KMS_ADVICE}",
    ),
    (
        _BEFORE + rb"*010[12]0[1-3]0078",
        "a bare CiphertextBlob of AWS KMS, encoded in hexadecimal",
        f"decode it first; {_KMS_ADVICE}",
    ),
    (rb"\x1f\x8b", "gzip", "decompress it first"),
    (rb"PK[\x03\x05][\x04\x06]", "a ZIP archive", "take the message out of it"),
    (
        rb"\x28\xb5\x2f\xfd|BZh|\xfd7zXZ\x00|\x04\x22\x4d\x18|x[\x01\x5e\x9c\xda]|7z\xbc\xaf",
        "compressed data",
        "decompress it first",
    ),
    (rb"age-encryption\.org/|-----BEGIN AGE", "an age file", "decrypt it with age"),
    (rb"\s*-----BEGIN PGP", "an OpenPGP message", "decrypt it with GnuPG"),
    (rb"\s*-----BEGIN ", "PEM", "give the message, not a key or a certificate"),
    (rb"--[^\s-]+\r\n", "a multipart body", "take the message out of its part"),
    (rb"HTTP/[12]", "an HTTP response", "give its body"),
    (rb"Salted__|U2FsdGVkX1", "the output of openssl enc", "decrypt it with openssl"),
    (rb"gAAAA", "a Fernet token", "decrypt it with Fernet"),
    (rb"eyJ", "a JSON Web Token", "decrypt or verify it with a JOSE library"),
    (rb"(\xef\xbb\xbf|\s)*[{\[]", "JSON", "take the message out of it, and decode that"),
    (rb"(\xef\xbb\xbf|\s)*<[?!a-zA-Z]", "XML or HTML", "an error page of a server, perhaps: look at it"),
    (rb"version https://git-lfs", "a Git LFS pointer", "fetch the file with git lfs pull"),
)
# The number of bytes to compare: the longest of these prefixes, with leading blanks.
_LOOK_ALIKE_LENGTH = 64


class ContentType(enum.IntEnum):
    """The content type of the body. Non-framed bodies are read but never written."""

    NON_FRAMED = 1
    FRAMED = 2


_CONTENT_TYPES = {member.value: member for member in ContentType}


@attrs.frozen
class EncryptedDataKey:
    """The data key, encrypted under one master key.

    Invalid UTF-8 in a provider id, as aws-encryption-sdk for Python before 4.0.1 wrote, is kept as surrogate
    escapes, so that the entry compares and serializes unchanged.
    """

    provider_id: str
    provider_info: bytes
    ciphertext: bytes = attrs.field(repr=False)

    def serialize(self) -> bytes:
        """Return the serialized entry; raises `ValueError` for a field of more than 65,535 bytes."""
        serialized, provider_id = b"", self.provider_id.encode("utf-8", "surrogateescape")
        for field in (provider_id, self.provider_info, self.ciphertext):
            if len(field) > 0xFFFF:
                raise ValueError(
                    "a field of an encrypted data key is longer than the 65,535 bytes of the message format"
                )
            serialized += len(field).to_bytes(2, "big") + field
        return serialized


@attrs.frozen
class MessageHeader:
    """The fields of a header. `frame_length` is in bytes, and 0 for a non-framed message.

    `encryption_context` holds the pairs that the message stores.
    """

    version: int
    algorithm_suite: AlgorithmSuite
    message_id: bytes
    encryption_context: Mapping[str, str] = attrs.field(converter=read_only)
    encrypted_data_keys: tuple[EncryptedDataKey, ...]
    content_type: ContentType
    frame_length: int
    commitment: bytes = b""

    def serialize_body(self) -> bytes:
        """Return the header without its authentication; raises `ValueError` if a field does not fit."""
        suite = self.algorithm_suite
        context = serialize_context(self.encryption_context)
        keys = _serialize_keys(self.encrypted_data_keys)
        start = bytes([self.version]) if self.version == 2 else bytes([self.version, _TYPE_CUSTOMER_AED])
        parts = [start, suite.id_bytes, self.message_id, len(context).to_bytes(2, "big"), context]
        parts += [keys, bytes([self.content_type])]
        if self.version == 1:
            parts += [_RESERVED, bytes([IV_LENGTH])]
        parts += [self.frame_length.to_bytes(4, "big"), self.commitment]
        return b"".join(parts)


def _serialize_keys(keys: Sequence[EncryptedDataKey]) -> bytes:
    if not 0 < len(keys) <= 0xFFFF:
        raise ValueError(f"a message has 1 to 65,535 encrypted data keys, not {len(keys)}")
    return len(keys).to_bytes(2, "big") + b"".join([key.serialize() for key in keys])


@attrs.frozen
class ReceivedHeader:
    """A parsed header with the exact bytes that its tag covers."""

    header: MessageHeader
    body: bytes = attrs.field(repr=False)
    iv: bytes
    tag: bytes

    @property
    def serialized(self) -> bytes:
        """The whole header, exactly as received."""
        return self.body + (self.iv if self.header.version == 1 else b"") + self.tag

    def unlock(self, data_key: bytes, authenticated_context: bytes, net_v4_0_0_retry: bool) -> MessageKey:
        """Derive the message key and verify the header with it; raises the errors of `verify`.

        With `net_v4_0_0_retry`, a tag that fails is verified again as version 4.0.0 of the SDK for .NET
        computed it: that version omitted the message id when it derived keys for suites without key
        commitment, and serialized an empty `authenticated_context`.
        """
        suite, message_id = self.header.algorithm_suite, self.header.message_id
        key = derive_message_key(suite, data_key, message_id)
        try:
            self.verify(key, authenticated_context)
        except TagError:
            if not net_v4_0_0_retry:
                raise
            key = derive_message_key(suite, data_key, message_id if suite.committing else b"")
            self.verify(key, authenticated_context or _NO_PAIRS)
        return key

    def with_data_keys(
        self, keys: Sequence[EncryptedDataKey], key: MessageKey, authenticated_context: bytes, iv: bytes
    ) -> bytes:
        """Return this verified header with other encrypted data keys; all other bytes stay the same.

        `iv` must never have been used with this key. Version 2 does not store the IV; it is always zero.
        """
        header = self.header
        start = (2 if header.version == 1 else 1) + len(header.algorithm_suite.id_bytes + header.message_id)
        start += 2 + int.from_bytes(self.body[start : start + 2], "big")
        end = start + len(_serialize_keys(header.encrypted_data_keys))
        body = self.body[:start] + _serialize_keys(keys) + self.body[end:]
        try:
            self.verify(key, authenticated_context)
        except TagError:
            authenticated_context = authenticated_context or _NO_PAIRS  # as .NET 4.0.0 did, see unlock
        iv = iv if header.version == 1 else _HEADER_IV
        return body + authenticate_header(body, header.version, key, authenticated_context, iv)

    def verify(self, key: MessageKey, authenticated_context: bytes) -> None:
        """Verify the commitment and the tag; raises `CommitmentError` or `TagError`.

        `authenticated_context` is the serialization of the pairs that are authenticated but not stored.
        Specification: client-apis/decrypt.md#verify-the-header.
        """
        if self.header.algorithm_suite.committing:
            key.check_commitment(self.header.commitment)
        try:
            key.aead.decrypt(self.iv, self.tag, self.body + authenticated_context)
        except InvalidTag as error:
            raise TagError(
                "the header fails authentication: it was changed, the data key is another message's, "
                "or the encryption context is not the one it was written with"
            ) from error


def authenticate_header(
    body: bytes, version: int, key: MessageKey, authenticated_context: bytes, iv: bytes = _HEADER_IV
) -> bytes:
    """Return the header authentication for a header body (client-apis/encrypt.md#construct-the-header).

    A version 1 header stores `iv`; version 2 always uses the default.
    """
    tag = key.aead.encrypt(iv, b"", body + authenticated_context)
    return (iv if version == 1 else b"") + tag


def parse_header(
    queue: ByteQueue, *, max_length: int | None = None, max_encrypted_data_keys: int | None = None
) -> Generator[int, None, ReceivedHeader]:
    """Parse a header from a queue; yield the number of missing bytes, and return the unverified header.

    Each parsed entry is committed, so a header that arrives byte by byte costs no more than one that arrives
    whole. Raises `MalformedMessageError`, and `LimitError` as soon as a length field exceeds the limit.
    """
    cursor = Cursor(queue, max_length, "max_header_length", "the length of the header")
    start: tuple[AlgorithmSuite, bytes, Mapping[str, str], int] | None = None
    keys: list[EncryptedDataKey] = []
    while True:
        try:
            start = start or _parse_start(cursor, max_encrypted_data_keys)
            cursor.commit()
            suite, message_id, context, count = start
            while len(keys) < count:
                keys.append(_parse_encrypted_data_key(cursor))
                cursor.commit()
            content_type, frame_length, commitment, iv, tag = _parse_end(cursor, suite)
            break
        except Short as short:
            cursor.roll_back()
            missing = short.missing
        yield missing
    body = cursor.taken(without=_authentication_length(suite.version))
    cursor.finish()
    header = MessageHeader(
        suite.version, suite, message_id, context, tuple(keys), content_type, frame_length, commitment
    )
    return ReceivedHeader(header, body, iv, tag)


def _parse_start(cursor: Cursor, maximum: int | None) -> tuple[AlgorithmSuite, bytes, Mapping[str, str], int]:
    suite = _parse_suite(cursor, _parse_version(cursor))
    message_id = cursor.take(suite.message_id_length)
    return suite, message_id, parse_context(cursor.sized()), _parse_count(cursor, maximum)


def _parse_version(cursor: Cursor) -> int:
    version = cursor.number(1)
    if version not in (1, 2):
        if version == ord("A"):
            cursor.take(1)  # a single letter does not prove base64
        raise MalformedMessageError(
            _look_alike(cursor)
            or f"this is not a message: it starts with {version:#04x}, not with version 1 or 2"
        )
    if version == 1 and (message_type := cursor.number(1)) != _TYPE_CUSTOMER_AED:
        raise MalformedMessageError(
            _look_alike(cursor) or f"message type {message_type:#04x} is unknown; only 0x80 is"
        )
    return version


def _look_alike(cursor: Cursor) -> str | None:
    """Return what the input looks like and what to do, judged by the bytes received so far."""
    start = cursor.ahead(_LOOK_ALIKE_LENGTH)
    for pattern, kind, advice in _LOOK_ALIKES:
        if re.match(pattern, start):
            return f"this looks like {kind}: {advice}"
    return None


def _parse_suite(cursor: Cursor, version: int) -> AlgorithmSuite:
    suite_id = cursor.number(2)
    suite = SUITES.get(suite_id)
    if suite is None:
        raise MalformedMessageError(f"algorithm suite {suite_id:#06x} is unknown")
    if suite.version != version:
        raise MalformedMessageError(
            f"algorithm suite {suite_id:#06x} does not belong to version {version} messages"
        )
    return suite


def _parse_count(cursor: Cursor, maximum: int | None) -> int:
    count = cursor.number(2)
    if count == 0:
        raise MalformedMessageError("the header has no encrypted data key")
    if maximum is not None and count > maximum:
        raise LimitError(
            "max_encrypted_data_keys", limit=maximum, actual=count, what="the number of encrypted data keys"
        )
    return count


def _parse_encrypted_data_key(cursor: Cursor) -> EncryptedDataKey:
    provider_id = cursor.sized().decode("utf-8", "surrogateescape")
    return EncryptedDataKey(provider_id, cursor.sized(), cursor.sized())


def _parse_end(cursor: Cursor, suite: AlgorithmSuite) -> tuple[ContentType, int, bytes, bytes, bytes]:
    value = cursor.number(1)
    content_type = _CONTENT_TYPES.get(value)
    if content_type is None:
        raise MalformedMessageError(f"content type {value} is unknown")
    if suite.version == 1:
        _parse_reserved(cursor)
    frame_length = cursor.number(4)
    if (frame_length == 0) is not (content_type is ContentType.NON_FRAMED):
        raise MalformedMessageError(
            f"the frame length {frame_length} does not fit content type {content_type:d}"
        )
    commitment = cursor.take(suite.suite_data_length)
    iv = cursor.take(IV_LENGTH) if suite.version == 1 else _HEADER_IV
    return content_type, frame_length, commitment, iv, cursor.take(TAG_LENGTH)


def _parse_reserved(cursor: Cursor) -> None:
    if cursor.take(len(_RESERVED)) != _RESERVED:
        raise MalformedMessageError("the reserved bytes of the header are not zero")
    if (iv_length := cursor.number(1)) != IV_LENGTH:
        raise MalformedMessageError(f"the IV length is {iv_length}; the suite has {IV_LENGTH}")


def _authentication_length(version: int) -> int:
    return TAG_LENGTH + (IV_LENGTH if version == 1 else 0)
