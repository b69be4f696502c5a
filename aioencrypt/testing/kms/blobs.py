"""The ciphertext blobs of the in-memory KMS: AES-256-GCM over key name and encryption context.

A blob, integers big-endian::

    1   version, 0x01
    12  account of the key, ASCII digits
    2   length of the key id
    n   key id, UTF-8
    8   the first bytes of the SHA-256 of all of the above
    12  IV
    m   ciphertext
    16  tag

A caller must not rely on any of it: blobs of AWS are opaque, and those of another `InMemoryKMS` cannot
be opened. The digest is there because the service looks the key up before it can check the tag: without
it a flipped bit in the key id would read "no such key", and not "this is not a ciphertext".
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aioencrypt.testing.kms.errors import Refusal

_VERSION = b"\x01"
_ACCOUNT_LENGTH = 12
_DIGEST_LENGTH = 8
_IV_LENGTH = 12
_TAG_LENGTH = 16
_KEY_ID_AT = len(_VERSION) + _ACCOUNT_LENGTH + 2
_AAD_PREFIX = b"aioencrypt in-memory KMS"


@attrs.frozen
class Blob:
    """A parsed ciphertext blob; its digest is checked, its tag is not."""

    account: str
    key_id: str
    header: bytes = attrs.field(repr=False)
    iv: bytes = attrs.field(repr=False)
    sealed: bytes = attrs.field(repr=False)


def seal(key: bytes, account: str, key_id: str, plaintext: bytes, context: Mapping[str, str]) -> bytes:
    """Return a new blob. The same arguments give another one each time."""
    name = key_id.encode()
    header = _VERSION + account.encode("ascii") + len(name).to_bytes(2, "big") + name
    iv = os.urandom(_IV_LENGTH)
    return header + _digest(header) + iv + AESGCM(key).encrypt(iv, plaintext, _aad(header, context))


def parse(data: bytes) -> Blob:
    """Return the parts of a blob. Raises a refusal (InvalidCiphertextException) for anything else."""
    if len(data) < _KEY_ID_AT or data[:1] != _VERSION:
        raise _invalid()
    name_end = _KEY_ID_AT + int.from_bytes(data[_KEY_ID_AT - 2 : _KEY_ID_AT], "big")
    iv_at = name_end + _DIGEST_LENGTH
    sealed_at = iv_at + _IV_LENGTH
    header = data[:name_end]
    if len(data) < sealed_at + _TAG_LENGTH or data[name_end:iv_at] != _digest(header):
        raise _invalid()
    return Blob(
        account=header[len(_VERSION) : _KEY_ID_AT - 2].decode("latin-1"),
        key_id=header[_KEY_ID_AT:].decode(errors="replace"),
        header=header,
        iv=data[iv_at:sealed_at],
        sealed=data[sealed_at:],
    )


def unseal(key: bytes, blob: Blob, context: Mapping[str, str]) -> bytes:
    """Return the plaintext. Raises a refusal (InvalidCiphertextException) if the tag does not match."""
    try:
        return AESGCM(key).decrypt(blob.iv, blob.sealed, _aad(blob.header, context))
    except InvalidTag:
        raise _invalid() from None


def _invalid() -> Refusal:
    # AWS gives no message with it either, so that nobody learns what was wrong
    return Refusal("InvalidCiphertextException", "")


def _digest(header: bytes) -> bytes:
    return hashlib.sha256(header).digest()[:_DIGEST_LENGTH]


def _aad(header: bytes, context: Mapping[str, str]) -> bytes:
    """Bind key name and context. Every part carries its length, so that no two contexts look alike."""
    pairs = sorted((name.encode(), value.encode()) for name, value in context.items())
    parts = [_AAD_PREFIX, len(header).to_bytes(4, "big"), header, len(pairs).to_bytes(4, "big")]
    for pair in pairs:
        for text in pair:
            parts += (len(text).to_bytes(4, "big"), text)
    return b"".join(parts)
