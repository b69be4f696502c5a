"""What a raw RSA key may be made of, and where it works."""

from __future__ import annotations

import base64
import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from aioencrypt import ProviderError, RawRSAMasterKey, RSAPadding, decrypt, encrypt
from tests.support.providers import asking
from tests.support.rsa_keys import private_pem, public_pem, rsa_key

pytestmark = pytest.mark.anyio


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


# Keys that are none of ours


@pytest.mark.spec("framework/raw-rsa-keyring.md#initialization")
def test_no_key_at_all() -> None:
    with pytest.raises(ValueError, match=r"^give public_key to encrypt, private_key to decrypt, or both$"):
        RawRSAMasterKey("mine", "kéy", padding=RSAPadding.PKCS1)


def pem(label: str, der: bytes) -> bytes:
    lines = base64.encodebytes(der)
    return f"-----BEGIN {label}-----\n".encode() + lines + f"-----END {label}-----\n".encode()


@pytest.mark.spec("framework/raw-rsa-keyring.md#public-key", "framework/raw-rsa-keyring.md#private-key")
@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"not PEM",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN PUBLIC KEY-----\n!!!!\n-----END PUBLIC KEY-----\n",
    ],
)
def test_pem_that_cannot_be_loaded(garbage: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        made(public_key=garbage)
    with pytest.raises(ValueError):  # noqa: PT011
        made(private_key=garbage)


def test_pem_of_the_other_half() -> None:
    with pytest.raises(ValueError, match="public key"):
        made(public_key=private_pem(rsa_key()))
    with pytest.raises(ValueError, match="private key"):
        made(private_key=public_pem(rsa_key()))


async def test_a_public_key_in_der_as_kms_gives_it() -> None:
    der = rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    writer, reader = made(public_key=der), made(private_key=rsa_key())
    message, _ = await encrypt(b"plaintext", writer)
    assert (await decrypt(message, reader)).plaintext == b"plaintext"


def test_bytes_that_are_no_public_key() -> None:
    with pytest.raises(ValueError, match=r"^public_key is not a valid public key in PEM or DER: "):
        made(public_key=b"\0\1")


@pytest.mark.spec("framework/raw-rsa-keyring.md#public-key", "framework/raw-rsa-keyring.md#private-key")
@pytest.mark.parametrize(
    "other",
    [ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()],
    ids=["EC", "Ed25519"],
)
def test_keys_of_another_kind(other: Any) -> None:
    public = other.public_key()
    for key in (public, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)):
        with pytest.raises(TypeError, match=r"^public_key is not an RSA public key: give PEM or DER bytes"):
            made(public_key=key)
    for key in (other, other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())):
        with pytest.raises(TypeError, match=r"^private_key is not an RSA private key: give PEM bytes"):
            made(private_key=key)


@pytest.mark.parametrize("form", ["other half", "text", "path", "bytearray", "number"])
def test_what_is_no_key(form: str) -> None:
    text = private_pem(rsa_key()).decode()
    wrong: Any = {"text": text, "path": "key.pem", "bytearray": bytearray(text.encode()), "number": 2048}
    with pytest.raises(TypeError, match="public_key is not an RSA public key"):
        made(public_key=wrong.get(form, rsa_key()))
    with pytest.raises(TypeError, match="private_key is not an RSA private key"):
        made(private_key=wrong.get(form, rsa_key().public_key()))


def test_pem_of_a_kind_that_nobody_knows() -> None:
    """`cryptography` has an exception of its own for it."""
    rsa_encryption, unknown = bytes.fromhex("2a864886f70d010101"), bytes.fromhex("2a864886f70d01017f")
    public = rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    private = rsa_key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match=r"^public_key is not a valid public key") as caught:
        made(public_key=pem("PUBLIC KEY", public.replace(rsa_encryption, unknown)))
    assert isinstance(caught.value.__cause__, UnsupportedAlgorithm)
    with pytest.raises(ValueError, match=r"^private_key is not a valid private key"):
        made(private_key=pem("PRIVATE KEY", private.replace(rsa_encryption, unknown)))


def test_encrypted_pem() -> None:
    encrypted = private_pem(rsa_key(), BestAvailableEncryption(b"password"))
    with pytest.raises(ValueError, match=r"^private_key is encrypted PEM: load it with cryptography's"):
        made(private_key=encrypted)


@pytest.mark.spec(
    "framework/raw-rsa-keyring.md#padding-scheme", "framework/raw-rsa-keyring.md#supported-padding-schemes"
)
@pytest.mark.parametrize("wrong", ["pkcs", None, padding.PKCS1v15(), 1])
def test_paddings_that_do_not_exist(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^padding (is|must be) "):
        made(wrong)


def test_paddings_are_named_by_value_too() -> None:
    assert [kind.value for kind in RSAPadding] == [
        "pkcs1",
        "oaep-sha1",
        "oaep-sha256",
        "oaep-sha384",
        "oaep-sha512",
    ]


@pytest.mark.parametrize(("bits", "kind"), [(1024, RSAPadding.OAEP_SHA512), (1024, RSAPadding.OAEP_SHA384)])
async def test_a_key_that_is_too_small_for_the_padding(bits: int, kind: RSAPadding) -> None:
    """OAEP with SHA-384 takes 98 bytes, which leaves 30 of 1024 bits."""
    pair = rsa_key("of a size", bits)
    key = made(kind, public_key=pair.public_key(), private_key=pair)
    with pytest.raises(ProviderError, match=f"1024 bits is too small .* 32 bytes with {kind.name}") as caught:
        await encrypt(b"", key)
    [attempt] = caught.value.attempts
    assert attempt.operation == "generate"
    assert isinstance(attempt.error.__cause__, ValueError)


# The key itself


@pytest.mark.spec("framework/raw-rsa-keyring.md#initialization")
@pytest.mark.parametrize(("namespace", "name"), [("aws-kms", "a"), ("aws-kms-x", "a"), ("mine", "a" * 65516)])
def test_names_are_checked(namespace: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"^key_name"):
        RawRSAMasterKey(namespace, name, padding=RSAPadding.PKCS1, private_key=rsa_key())


def test_what_it_says_of_itself() -> None:
    assert (made().provider_id, made().key_id) == ("mine", "kéy")
    assert repr(made()) == "RawRSAMasterKey('mine', 'kéy')"


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_is_not_copied(duplicate: Callable[[object], object]) -> None:
    for key in (made(), made(public_key=rsa_key().public_key())):
        with pytest.raises(
            TypeError, match="RawRSAMasterKey holds key bytes and cannot be pickled or copied; create"
        ):
            duplicate(key)


@RSAPrivateKey.register
@RSAPublicKey.register
@attrs.frozen
class Watched:
    """A key of `cryptography` that notes the thread in which it is used."""

    key: Any
    threads: list[int] = attrs.field(factory=list)

    @property
    def key_size(self) -> int:
        return int(self.key.key_size)

    def public_key(self) -> Any:
        return self.key.public_key()

    def public_numbers(self) -> object:
        return self.key.public_numbers()

    def encrypt(self, plaintext: bytes, padding: object) -> bytes:
        self.threads.append(threading.get_ident())
        return bytes(self.key.encrypt(plaintext, padding))

    def decrypt(self, ciphertext: bytes, padding: object) -> bytes:
        self.threads.append(threading.get_ident())
        return bytes(self.key.decrypt(ciphertext, padding))


async def test_the_slow_half_works_in_a_thread() -> None:
    """A private operation takes a millisecond, a public one a fraction of what a hop costs."""
    public: Any = Watched(rsa_key().public_key())
    private: Any = Watched(rsa_key())
    key = made(public_key=public, private_key=private)
    data_key, encrypted = await key.generate_data_key(asking())
    assert (await key.decrypt_data_key(asking(encrypted))).data_key == data_key
    assert public.threads == [threading.get_ident()]
    assert len(private.threads) == 1
    assert private.threads != public.threads
