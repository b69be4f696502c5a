"""The official Python SDK as the other side: its clients, and keys that both sides have.

It has two kinds of keys: legacy master key providers, and the keyrings of the Material Providers
Library (MPL).
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any, Literal

import attrs
import pytest
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
from aws_cryptographic_material_providers.mpl.models import (
    AesWrappingAlg,
    CreateMultiKeyringInput,
    CreateRawAesKeyringInput,
    CreateRawRsaKeyringInput,
    PaddingScheme,
)
from aws_encryption_sdk import Algorithm, CommitmentPolicy as OfficialPolicy, EncryptionSDKClient
from aws_encryption_sdk.identifiers import EncryptionKeyType, WrappingAlgorithm
from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
from aws_encryption_sdk.key_providers.raw import RawMasterKey, RawMasterKeyProvider
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from aioencrypt import AlgorithmSuite, RawAESMasterKey, RawRSAMasterKey, RSAPadding
from aioencrypt.materials import MasterKey

Kind = Literal["legacy", "mpl"]
KINDS: tuple[Kind, ...] = ("legacy", "mpl")

kinds = pytest.mark.parametrize("kind", KINDS)
suites = pytest.mark.parametrize("suite", AlgorithmSuite, ids=lambda suite: f"{suite.value:04x}")

_NAMESPACE = "interop größe"
_PADDINGS = {
    RSAPadding.PKCS1: (WrappingAlgorithm.RSA_PKCS1, PaddingScheme.PKCS1),
    RSAPadding.OAEP_SHA1: (WrappingAlgorithm.RSA_OAEP_SHA1_MGF1, PaddingScheme.OAEP_SHA1_MGF1),
    RSAPadding.OAEP_SHA256: (WrappingAlgorithm.RSA_OAEP_SHA256_MGF1, PaddingScheme.OAEP_SHA256_MGF1),
    RSAPadding.OAEP_SHA384: (WrappingAlgorithm.RSA_OAEP_SHA384_MGF1, PaddingScheme.OAEP_SHA384_MGF1),
    RSAPadding.OAEP_SHA512: (WrappingAlgorithm.RSA_OAEP_SHA512_MGF1, PaddingScheme.OAEP_SHA512_MGF1),
}
_AES = {
    128: (WrappingAlgorithm.AES_128_GCM_IV12_TAG16_NO_PADDING, AesWrappingAlg.ALG_AES128_GCM_IV12_TAG16),
    192: (WrappingAlgorithm.AES_192_GCM_IV12_TAG16_NO_PADDING, AesWrappingAlg.ALG_AES192_GCM_IV12_TAG16),
    256: (WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING, AesWrappingAlg.ALG_AES256_GCM_IV12_TAG16),
}


@cache
def mpl() -> Any:
    """Return the entry point of the MPL."""
    return AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())


@attrs.frozen
class SharedKey:
    """One wrapping key, as all sides have it."""

    ours: MasterKey
    legacy: Any = attrs.field(repr=False)
    keyring: Any = attrs.field(repr=False)

    def official(self, kind: Kind) -> dict[str, Any]:
        """Return the argument that names this key to an official client."""
        return {"key_provider": self.legacy} if kind == "legacy" else {"keyring": self.keyring}


@cache
def aes_key(bits: int, name: str = "schlüssel") -> SharedKey:
    """Return an AES key; the same key every time."""
    wrapping_key = (name.encode() * bits)[: bits // 8]
    legacy_algorithm, algorithm = _AES[bits]
    return SharedKey(
        RawAESMasterKey(_NAMESPACE, name, wrapping_key=wrapping_key),
        RawMasterKey(
            provider_id=_NAMESPACE,
            key_id=name,
            wrapping_key=WrappingKey(legacy_algorithm, wrapping_key, EncryptionKeyType.SYMMETRIC),
        ),
        mpl().create_raw_aes_keyring(
            CreateRawAesKeyringInput(
                key_namespace=_NAMESPACE, key_name=name, wrapping_key=wrapping_key, wrapping_alg=algorithm
            )
        ),
    )


@cache
def _rsa_pair(name: str) -> tuple[bytes, bytes]:
    """Return a private and a public key as PEM, one pair for each name."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return (
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


@cache
def rsa_key(padding: RSAPadding, name: str = "schlüssel") -> SharedKey:
    """Return an RSA key with a padding; the same key every time."""
    private, public = _rsa_pair(name)
    legacy_algorithm, scheme = _PADDINGS[padding]
    return SharedKey(
        RawRSAMasterKey(_NAMESPACE, name, padding=padding, public_key=public, private_key=private),
        RawMasterKey(
            provider_id=_NAMESPACE,
            key_id=name,
            wrapping_key=WrappingKey(legacy_algorithm, private, EncryptionKeyType.PRIVATE),
        ),
        mpl().create_raw_rsa_keyring(
            CreateRawRsaKeyringInput(
                key_namespace=_NAMESPACE,
                key_name=name,
                padding_scheme=scheme,
                public_key=public,
                private_key=private,
            )
        ),
    )


class _LegacyKeys(RawMasterKeyProvider):  # type: ignore[misc]
    """A legacy provider of several master keys, in the order in which they are added."""

    provider_id = _NAMESPACE

    def __init__(self) -> None:
        self.wrapping_keys: dict[bytes, Any] = {}

    def _get_raw_key(self, key_id: bytes) -> Any:
        return self.wrapping_keys[key_id]


def all_of(kind: Kind, *keys: SharedKey) -> dict[str, Any]:
    """Return the argument that gives several keys to an official client; the first generates."""
    if kind == "mpl":
        rings = [key.keyring for key in keys]
        several = CreateMultiKeyringInput(generator=rings[0], child_keyrings=rings[1:])
        return {"keyring": mpl().create_multi_keyring(several)}
    provider = _LegacyKeys()
    for key in keys:
        provider.wrapping_keys[key.legacy.key_id] = key.legacy.config.wrapping_key
        provider.add_master_key(key.legacy.key_id)
    return {"key_provider": provider}


def official_client(suite: AlgorithmSuite) -> Any:
    """Return an official client that writes and reads a suite."""
    policy = (
        OfficialPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
        if suite.committing
        else OfficialPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT
    )
    return EncryptionSDKClient(commitment_policy=policy)


def official_algorithm(suite: AlgorithmSuite) -> Any:
    """Return a suite as the official SDK has it."""
    return Algorithm.get_by_id(suite.value)


def write(
    plaintext: bytes,
    key: dict[str, Any],
    suite: AlgorithmSuite,
    *,
    encryption_context: dict[str, str] | None = None,
    frame_length: int = 4096,
) -> bytes:
    """Encrypt with the official SDK."""
    message, _ = official_client(suite).encrypt(
        source=plaintext,
        algorithm=official_algorithm(suite),
        encryption_context=encryption_context or {},
        frame_length=frame_length,
        **key,
    )
    return bytes(message)


def read(
    message: bytes,
    key: dict[str, Any],
    suite: AlgorithmSuite,
    *,
    encryption_context: dict[str, str] | None = None,
) -> tuple[bytes, Any]:
    """Decrypt with the official SDK; `encryption_context` holds pairs that the message lacks."""
    absent = {"encryption_context": encryption_context} if encryption_context else {}
    plaintext, header = official_client(suite).decrypt(source=message, **key, **absent)
    return plaintext, header


def write_in_pieces(
    plaintext: bytes, key: dict[str, Any], suite: AlgorithmSuite, *, frame_length: int, piece: int
) -> list[bytes]:
    """Encrypt with the streaming interface of the official SDK, reading `piece` bytes at a time."""
    stream = official_client(suite).stream(
        mode="encrypt",
        source=io.BytesIO(plaintext),
        algorithm=official_algorithm(suite),
        frame_length=frame_length,
        **key,
    )
    return _pieces(stream, piece)


def read_in_pieces(
    message: bytes, key: dict[str, Any], suite: AlgorithmSuite, *, piece: int, mode: str = "decrypt"
) -> list[bytes]:
    """Decrypt with the streaming interface of the official SDK, reading `piece` bytes at a time."""
    stream = official_client(suite).stream(mode=mode, source=io.BytesIO(message), **key)
    return _pieces(stream, piece)


def _pieces(stream: Any, length: int) -> list[bytes]:
    with stream:
        return list(iter(lambda: stream.read(length), b""))
