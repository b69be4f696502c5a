"""The ciphertext blobs: any bytes are a blob or a refusal, and no two contexts are the same one."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from aioencrypt.testing.kms import blobs
from aioencrypt.testing.kms.errors import Refusal

ACCOUNT = "111122223333"
KEY = bytes(range(32))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
CONTEXTS = st.dictionaries(TEXT, TEXT, max_size=4)


@given(st.binary(max_size=100), st.from_regex(r"[A-Za-z0-9_-]{1,60}", fullmatch=True), CONTEXTS)
def test_what_is_sealed_opens(plaintext: bytes, key_id: str, context: dict[str, str]) -> None:
    blob = blobs.parse(blobs.seal(KEY, ACCOUNT, key_id, plaintext, context))
    assert (blob.account, blob.key_id) == (ACCOUNT, key_id)
    assert blobs.unseal(KEY, blob, dict(reversed(context.items()))) == plaintext


@given(CONTEXTS, CONTEXTS)
def test_another_context_does_not_open(context: dict[str, str], other: dict[str, str]) -> None:
    blob = blobs.parse(blobs.seal(KEY, ACCOUNT, "id", b"secret", context))
    if context == other:
        assert blobs.unseal(KEY, blob, other) == b"secret"
    else:
        with pytest.raises(Refusal, match="InvalidCiphertextException"):
            blobs.unseal(KEY, blob, other)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: b"\x01" + data))
def test_any_bytes_are_refused_unless_they_were_sealed(data: bytes) -> None:
    with pytest.raises(Refusal, match="InvalidCiphertextException"):
        blobs.parse(data)


def test_long_key_ids() -> None:
    blob = blobs.parse(blobs.seal(KEY, ACCOUNT, "k" * 1024, b"secret", {}))
    assert blob.key_id == "k" * 1024


def test_nothing_secret_is_shown() -> None:
    blob = blobs.parse(blobs.seal(KEY, ACCOUNT, "id", b"secret", {}))
    assert repr(blob) == "Blob(account='111122223333', key_id='id')"
