"""Raw RSA keys, compared with RSA of `cryptography`. Specification: framework/raw-rsa-keyring.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    PrivateFormat,
)

from aioencrypt import (
    AlgorithmSuite,
    MultiMasterKeyProvider,
    ProviderError,
    RawRSAMasterKey,
    RSAPadding,
    TagError,
    decrypt,
    encrypt,
)
from aioencrypt.materials import DataKey, EncryptedDataKey
from tests.support.messages import example_data_key
from tests.support.providers import CONTEXT, SUITE, asking
from tests.support.rows import each_row
from tests.support.rsa_keys import private_pem, public_pem, rsa_key
from tests.support.streaming import on_asyncio

pytestmark = pytest.mark.anyio

DATA_KEY = DataKey(example_data_key(SUITE))
HASHES: dict[RSAPadding, hashes.HashAlgorithm] = {
    RSAPadding.OAEP_SHA1: hashes.SHA1(),
    RSAPadding.OAEP_SHA256: hashes.SHA256(),
    RSAPadding.OAEP_SHA384: hashes.SHA384(),
    RSAPadding.OAEP_SHA512: hashes.SHA512(),
}
each_padding = pytest.mark.parametrize("kind", RSAPadding, ids=lambda kind: kind.value)
DOES_NOT_OPEN = "the encrypted data key cannot be decrypted: another RSA key or padding"


def scheme(kind: RSAPadding) -> padding.AsymmetricPadding:
    if kind is RSAPadding.PKCS1:
        return padding.PKCS1v15()
    return padding.OAEP(padding.MGF1(HASHES[kind]), HASHES[kind], None)


def made(
    kind: RSAPadding = RSAPadding.OAEP_SHA256,
    *,
    name: str = "kéy",
    public_key: RSAPublicKey | bytes | None = None,
    private_key: RSAPrivateKey | bytes | None = None,
) -> RawRSAMasterKey:
    """Make a key: the first one, both halves, where none is given."""
    if public_key is None and private_key is None:
        public_key, private_key = rsa_key().public_key(), rsa_key()
    return RawRSAMasterKey("mine", name, padding=kind, public_key=public_key, private_key=private_key)


def entry(ciphertext: bytes, namespace: str = "mine", info: bytes = "kéy".encode()) -> EncryptedDataKey:
    return EncryptedDataKey(namespace, info, ciphertext)


def wrapped(
    kind: RSAPadding = RSAPadding.OAEP_SHA256, data_key: bytes = DATA_KEY.plaintext
) -> EncryptedDataKey:
    return entry(rsa_key().public_key().encrypt(data_key, scheme(kind)))


async def refused(key: RawRSAMasterKey, encrypted: EncryptedDataKey, text: str = DOES_NOT_OPEN) -> None:
    with pytest.raises(ProviderError) as caught:
        await key.decrypt_data_key(asking(encrypted))
    [attempt] = caught.value.attempts
    assert (attempt.operation, attempt.provider_id, attempt.key_id) == ("decrypt", "mine", "kéy")
    assert str(attempt.error) == text


# The format


@pytest.mark.spec(
    "framework/raw-rsa-keyring.md#onencrypt",
    "framework/raw-rsa-keyring.md#padding-scheme",
    "framework/keyring-interface.md#key-provider-info",
)
@each_padding
@each_row("suite", AlgorithmSuite)
@on_asyncio
async def test_what_it_writes(kind: RSAPadding, suite: AlgorithmSuite) -> None:
    data_key, generated = await made(kind).generate_data_key(asking(suite=suite))
    assert len(data_key.plaintext) == suite.data_key_length
    encrypted = await made(kind).encrypt_data_key(data_key, asking(suite=suite))
    for written in (generated, encrypted):
        assert (written.provider_id, written.provider_info) == ("mine", "kéy".encode())
        assert len(written.ciphertext) == 256
        assert rsa_key().decrypt(written.ciphertext, scheme(kind)) == data_key.plaintext
    assert generated.ciphertext != encrypted.ciphertext


@pytest.mark.spec("framework/raw-rsa-keyring.md#ondecrypt", "framework/raw-rsa-keyring.md#padding-scheme")
@each_padding
async def test_what_it_reads(kind: RSAPadding) -> None:
    key, encrypted = made(kind), wrapped(kind)
    opened = await key.decrypt_data_key(asking(encrypted))
    assert (opened.data_key, opened.encrypted_data_key, opened.master_key) == (DATA_KEY, encrypted, key)


@pytest.mark.spec("framework/raw-rsa-keyring.md#public-key", "framework/raw-rsa-keyring.md#private-key")
@pytest.mark.parametrize("bits", [1024, 3072, 4096])
@on_asyncio
async def test_keys_of_other_sizes(bits: int) -> None:
    pair = rsa_key("of a size", bits)
    key = made(public_key=pair.public_key(), private_key=pair)
    encrypted = await key.encrypt_data_key(DATA_KEY, asking())
    assert len(encrypted.ciphertext) == bits // 8
    assert (await key.decrypt_data_key(asking(encrypted))).data_key == DATA_KEY


@pytest.mark.spec("framework/raw-rsa-keyring.md#onencrypt")
async def test_data_keys_are_new_each_time() -> None:
    keys = {(await made().generate_data_key(asking()))[0].plaintext for _ in range(20)}
    assert len(keys) == 20


async def test_the_context_is_bound_by_the_header_alone() -> None:
    encrypted = await made().encrypt_data_key(DATA_KEY, asking(context=CONTEXT))
    opened = await made().decrypt_data_key(asking(encrypted, context={"other": "context"}))
    assert opened.data_key == DATA_KEY
    message, _ = await encrypt(b"attack at dawn", made(), encryption_context=CONTEXT)
    changed = message.replace(b"tenant\x00\x0242", b"tenant\x00\x0243")
    assert changed != message
    with pytest.raises(TagError):
        await decrypt(changed, made())


@pytest.mark.spec("framework/raw-rsa-keyring.md#ondecrypt")
@pytest.mark.parametrize(
    ("namespace", "info", "owned"),
    [
        ("mine", "kéy".encode(), True),
        ("mine", b"key", False),
        ("mine", "kéy".encode("latin-1"), False),
        ("mine", "kéy".encode() + b"\0", False),
        ("mine", "ké".encode(), False),
        ("mine", b"", False),
        ("Mine", "kéy".encode(), False),
        ("", "kéy".encode(), False),
        ("mine\udce9", "kéy".encode(), False),
    ],
)
@on_asyncio
async def test_which_data_keys_it_owns(namespace: str, info: bytes, owned: bool) -> None:
    """It tries those and no others."""
    encrypted = entry(wrapped().ciphertext, namespace, info)
    assert made().owns_data_key(encrypted) is owned
    if owned:
        assert (await made().decrypt_data_key(asking(encrypted))).data_key == DATA_KEY
    else:
        with pytest.raises(ProviderError) as caught:
            await made().decrypt_data_key(asking(encrypted))
        assert caught.value.attempts == ()


# The two halves, in every form

PUBLIC_FORMS: dict[str, Callable[[], RSAPublicKey | bytes]] = {
    "object": lambda: rsa_key().public_key(),
    "PEM": lambda: public_pem(rsa_key()),
    "PEM with CRLF": lambda: public_pem(rsa_key()).replace(b"\n", b"\r\n"),
}
PRIVATE_FORMS: dict[str, Callable[[], RSAPrivateKey | bytes]] = {
    "object": rsa_key,
    "PKCS8": lambda: private_pem(rsa_key()),
    "PKCS1": lambda: private_pem(rsa_key(), form=PrivateFormat.TraditionalOpenSSL),
    "PKCS8 with CRLF": lambda: private_pem(rsa_key()).replace(b"\n", b"\r\n"),
}


@pytest.mark.spec("framework/raw-rsa-keyring.md#ondecrypt")
@pytest.mark.parametrize("public", PUBLIC_FORMS.values(), ids=PUBLIC_FORMS)
async def test_the_public_half_encrypts_and_does_not_decrypt(public: Callable[[], Any]) -> None:
    writer = made(public_key=public())
    encrypted = await writer.encrypt_data_key(DATA_KEY, asking())
    assert rsa_key().decrypt(encrypted.ciphertext, scheme(RSAPadding.OAEP_SHA256)) == DATA_KEY.plaintext
    assert writer.owns_data_key(encrypted)
    await refused(writer, encrypted, "this RSA key has no private_key, so it cannot decrypt")


@pytest.mark.spec("framework/raw-rsa-keyring.md#onencrypt")
@pytest.mark.parametrize("private", PRIVATE_FORMS.values(), ids=PRIVATE_FORMS)
async def test_the_private_half_decrypts_and_does_not_encrypt(private: Callable[[], Any]) -> None:
    """The specification forbids to derive the public half."""
    reader = made(private_key=private())
    assert (await reader.decrypt_data_key(asking(wrapped()))).data_key == DATA_KEY
    message = "this RSA key has no public_key, so it cannot encrypt"
    with pytest.raises(ProviderError, match=message):
        await reader.encrypt_data_key(DATA_KEY, asking())
    with pytest.raises(ProviderError, match=message) as caught:
        await encrypt(b"", reader)
    assert [attempt.operation for attempt in caught.value.attempts] == ["generate"]


async def test_one_writes_and_another_reads() -> None:
    writer = made(public_key=public_pem(rsa_key()))
    reader = made(private_key=private_pem(rsa_key()))
    message, _ = await encrypt(b"attack at dawn", writer, encryption_context=CONTEXT)
    assert (await decrypt(message, reader)).plaintext == b"attack at dawn"
    with pytest.raises(ProviderError, match="has no private_key"):
        await decrypt(message, writer)


# What does not open


@pytest.mark.spec("framework/raw-rsa-keyring.md#ondecrypt")
@pytest.mark.parametrize("kind", HASHES, ids=lambda kind: kind.value)
async def test_another_private_key(kind: RSAPadding) -> None:
    stranger = made(kind, private_key=rsa_key("other"))
    with pytest.raises(ProviderError) as caught:
        await stranger.unwrap_data_key(wrapped(kind), asking())
    assert str(caught.value) == DOES_NOT_OPEN
    assert isinstance(caught.value.__cause__, ValueError)


async def test_another_private_key_with_pkcs1() -> None:
    """OpenSSL gives random bytes of a random length then; now and then they are as long as a data key."""
    other = rsa_key("other")
    encrypted = wrapped(RSAPadding.PKCS1)
    while opens_as_a_data_key(other, encrypted):
        encrypted = wrapped(RSAPadding.PKCS1)
    await refused(made(RSAPadding.PKCS1, private_key=other), encrypted)


def opens_as_a_data_key(key: RSAPrivateKey, encrypted: EncryptedDataKey) -> bool:
    try:
        return len(key.decrypt(encrypted.ciphertext, padding.PKCS1v15())) == len(DATA_KEY.plaintext)
    except ValueError:
        return False


@each_padding
@each_row("written", RSAPadding)
@on_asyncio
async def test_another_padding(kind: RSAPadding, written: RSAPadding) -> None:
    encrypted = wrapped(written)
    if kind is written:
        assert (await made(kind).decrypt_data_key(asking(encrypted))).data_key == DATA_KEY
    else:
        while kind is RSAPadding.PKCS1 and opens_as_a_data_key(rsa_key(), encrypted):
            encrypted = wrapped(written)
        await refused(made(kind), encrypted)


@on_asyncio
async def test_ciphertexts_that_are_changed_cut_or_extended() -> None:
    right = wrapped().ciphertext
    changed = [right[:-1] + bytes([right[-1] ^ 1]), bytes([right[0] ^ 1]) + right[1:]]
    for ciphertext in (*changed, b"", right[:-1], right[1:], right + b"\0", bytes(256), b"\xff" * 256):
        await refused(made(), entry(ciphertext))


@each_padding
@each_row("length", [0, 16, 31, 33])
async def test_a_data_key_of_the_wrong_length(kind: RSAPadding, length: int) -> None:
    encrypted = wrapped(kind, bytes(length))
    with pytest.raises(ProviderError) as caught:
        await made(kind).decrypt_data_key(asking(encrypted))
    assert len(caught.value.attempts) == 1


@pytest.mark.spec("framework/raw-rsa-keyring.md#ondecrypt")
async def test_the_next_is_tried() -> None:
    first = made(private_key=rsa_key("other"))
    edks = [entry(bytes(256)), wrapped()]
    opened = await MultiMasterKeyProvider(None, first, made()).decrypt_data_key(asking(*edks))
    assert opened.encrypted_data_key == edks[1]
