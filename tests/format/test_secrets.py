"""No frame of the format shows key bytes in an error, whatever went wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aioencrypt.errors import CommitmentError, SignatureError, TagError
from aioencrypt.format import AlgorithmSuite, MessageEncryptor
from aioencrypt.format.derivation import derive_message_key
from aioencrypt.runtime.secrets import SecretBytes
from tests.support.messages import DEFAULT_KEYS, build_message, example_message_id
from tests.support.reading import locked, opened, released_by
from tests.support.secrets import assert_no_secrets, leaks
from tests.support.streaming import flipped, plaintext_of

COMMITTING = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
SIGNED = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
HKDF = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256
NO_KDF = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_NO_KDF
KEY = bytes(range(200, 232))


def unlocking(suite: AlgorithmSuite, data_key: bytes) -> None:
    locked(build_message(suite, b"text").data).unlock(data_key)


def writing(**options: object) -> None:
    arguments: dict[str, object] = {
        "message_id": example_message_id(COMMITTING),
        "encryption_context": {},
        "encrypted_data_keys": DEFAULT_KEYS,
    }
    MessageEncryptor(COMMITTING, KEY, **(arguments | options))  # type: ignore[arg-type]


def reading(suite: AlgorithmSuite, frame_length: int | None, position: int) -> None:
    message = build_message(suite, plaintext_of(3000), data_key=KEY, frame_length=frame_length)
    data = flipped(message.data, position if position < 0 else message.header_length + position)
    released_by(opened(message, data))


CASES: dict[str, tuple[type[Exception], Callable[[], object]]] = {
    "commitment": (CommitmentError, lambda: unlocking(COMMITTING, KEY)),
    "header tag": (TagError, lambda: unlocking(HKDF, KEY)),
    "header tag without a KDF": (TagError, lambda: unlocking(NO_KDF, KEY)),
    "no verification key": (SignatureError, lambda: unlocking(SIGNED, KEY)),
    "length of the data key": (ValueError, lambda: unlocking(COMMITTING, KEY[:31])),
    "derivation": (ValueError, lambda: derive_message_key(COMMITTING, KEY[:31], bytes(32))),
    "frame length": (ValueError, lambda: writing(frame_length=0)),
    "message id": (ValueError, lambda: writing(message_id=b"")),
    "no data keys": (ValueError, lambda: writing(encrypted_data_keys=())),
    "many frames": (TagError, lambda: reading(COMMITTING, 100, 500)),
    "one frame": (TagError, lambda: reading(COMMITTING, 2000, 500)),
    "final frame": (TagError, lambda: reading(NO_KDF, 4096, 500)),
    "non-framed": (TagError, lambda: reading(NO_KDF, None, 500)),
    "signature": (SignatureError, lambda: reading(SIGNED, 100, -1)),
}


def secrets_of(data_key: bytes) -> list[bytes]:
    """Return the data key and what is derived from it."""
    suites = (COMMITTING, HKDF, SIGNED)
    derived = [derive_message_key(suite, data_key, example_message_id(suite)).key for suite in suites]
    return [data_key[:31], *map(bytes, derived)]


@pytest.mark.parametrize("case", CASES)
def test_no_error_shows_a_key(case: str) -> None:
    error, call = CASES[case]
    with pytest.raises(error) as caught:
        call()
    assert_no_secrets(caught.value, *secrets_of(KEY))


def test_secrets_in_locals_are_found() -> None:
    """So that the test above can fail: the message id stands in these frames."""
    with pytest.raises(CommitmentError) as caught:
        unlocking(COMMITTING, KEY)
    assert leaks(caught.value, example_message_id(HKDF)[:8])


def test_secret_bytes_are_bytes_that_are_not_shown() -> None:
    secret = SecretBytes(KEY)
    assert secret == KEY
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r}", repr([secret])):
        assert text in ("<32 secret bytes>", "[<32 secret bytes>]")
