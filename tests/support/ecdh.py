"""EC keys for tests, and encrypted data keys of key agreement made as the specification describes them."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from aioencrypt import KMSECDHMasterKey, RawECDHMasterKey
from aioencrypt.materials import EncryptedDataKey
from aioencrypt.testing import InMemoryKMS, InMemoryKMSClient
from tests.support.aws import connected
from tests.support.kms import Around
from tests.support.messages import sorted_context
from tests.support.providers import CONTEXT

CURVES: dict[str, ec.EllipticCurve] = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
# Bytes of a compressed public key, and of a whole provider info.
POINT_LENGTHS = {"p256": 33, "p384": 49, "p521": 67}
INFO_LENGTHS = {"p256": 75, "p384": 107, "p521": 143}
SALT = bytes(range(100, 132))
DATA_KEY = bytes(range(32))


def ec_key(name: str, curve: str = "p256") -> ec.EllipticCurvePrivateKey:
    """Return the same private key for a name and a curve, within one run."""
    return _made(name, curve)


@lru_cache
def _made(name: str, curve: str) -> ec.EllipticCurvePrivateKey:
    del name
    return ec.generate_private_key(CURVES[curve])


def private_pem(
    key: ec.EllipticCurvePrivateKey,
    encryption: KeySerializationEncryption | None = None,
    form: PrivateFormat = PrivateFormat.PKCS8,
) -> bytes:
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


def public_der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the compressed public key."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def provider_info(sender: bytes, recipient: bytes) -> bytes:
    """Return the provider info for two compressed public keys."""
    return b"\x01" + len(recipient).to_bytes(4, "big") + recipient + len(sender).to_bytes(4, "big") + sender


def kdf(secret: bytes, label: bytes, salt: bytes) -> bytes:
    """Return 64 bytes of the counter mode of NIST SP 800-108 with HMAC-SHA-384."""
    blocks = [
        hmac.digest(
            secret, counter.to_bytes(4, "big") + label + b"\0" + salt + (512).to_bytes(4, "big"), "sha384"
        )
        for counter in (1, 2)
    ]
    return b"".join(blocks)[:64]


def entry(
    sender: ec.EllipticCurvePrivateKey,
    recipient: ec.EllipticCurvePrivateKey,
    *,
    curve: str = "p256",
    context: Mapping[str, str] = CONTEXT,
    provider_id: str = "raw-ecdh",
    data_key: bytes = DATA_KEY,
    iv: bytes = bytes(12),
    secret: bytes | None = None,
) -> EncryptedDataKey:
    """Make an encrypted data key; `secret` in place of the one that both share."""
    shared = sender.exchange(ec.ECDH(), recipient.public_key()) if secret is None else secret
    return EncryptedDataKey(
        provider_id,
        provider_info(point(sender), point(recipient)),
        ciphertext(shared, point(sender), point(recipient), curve, context, data_key, iv),
    )


def fixed_info(sender: bytes, recipient: bytes, curve: str, context: Mapping[str, str]) -> bytes:
    return (
        b"ecdh-key-derivation\0"
        + curve.encode()
        + b"\0HMAC_SHA384\0"
        + sender
        + recipient
        + b"\0\x01\0"
        + sorted_context(context)
    )


def ciphertext(
    secret: bytes,
    sender: bytes,
    recipient: bytes,
    curve: str,
    context: Mapping[str, str],
    data_key: bytes = DATA_KEY,
    iv: bytes = bytes(12),
) -> bytes:
    """Return salt, commitment key, encrypted data key and tag."""
    info = fixed_info(sender, recipient, curve, context)
    derived = kdf(secret, info, SALT)
    return SALT + derived[:32] + AESGCM(derived[32:]).encrypt(iv, data_key, info)


def opened_by_hand(
    encrypted: EncryptedDataKey,
    recipient: ec.EllipticCurvePrivateKey,
    *,
    curve: str,
    context: Mapping[str, str],
) -> bytes:
    """Decrypt with the recipient's private key, as the specification describes it."""
    length = POINT_LENGTHS[curve]
    info = encrypted.provider_info
    assert info == provider_info(info[-length:], point(recipient))
    sender = ec.EllipticCurvePublicKey.from_encoded_point(CURVES[curve], info[-length:])
    bound = fixed_info(info[-length:], point(recipient), curve, context)
    derived = kdf(recipient.exchange(ec.ECDH(), sender), bound, encrypted.ciphertext[:32])
    assert encrypted.ciphertext[32:64] == derived[:32]
    return AESGCM(derived[32:]).decrypt(bytes(12), encrypted.ciphertext[64:], bound)


# Raw keys


def raw_static(own: str = "alice", other: str = "bob", curve: str = "p256") -> RawECDHMasterKey:
    return RawECDHMasterKey.static(
        private_key=private_pem(ec_key(own, curve)), recipient_public_key=public_der(ec_key(other, curve))
    )


def raw_ephemeral(to: str = "bob", curve: str = "p256") -> RawECDHMasterKey:
    return RawECDHMasterKey.ephemeral(recipient_public_key=public_der(ec_key(to, curve)))


def raw_discovery(own: str = "bob", curve: str = "p256") -> RawECDHMasterKey:
    return RawECDHMasterKey.discovery(private_key=private_pem(ec_key(own, curve)))


# Keys of KMS

KMS_SPECS = {"p256": "ECC_NIST_P256", "p384": "ECC_NIST_P384", "p521": "ECC_NIST_P521"}


def kms_key(kms: InMemoryKMS, name: str = "alice", curve: str = "p256", region: str = "us-east-1") -> str:
    """Put a key of `ec_key` into a KMS, and return its ARN."""
    return kms.create_key(region=region, key_spec=KMS_SPECS[curve], private_key=ec_key(name, curve))


def kms_static(
    kms: InMemoryKMS, key_id: str, other: str = "bob", curve: str = "p256", **options: Any
) -> KMSECDHMasterKey:
    """Return a key between one of KMS and another."""
    options = {"clients": kms.clients("us-east-1", "eu-west-1"), **options}
    return KMSECDHMasterKey.static(key_id, public_der(ec_key(other, curve)), **connected(options))


def kms_discovery(kms: InMemoryKMS, key_id: str, **options: Any) -> KMSECDHMasterKey:
    """Return a key of KMS that decrypts what anybody sent to it."""
    options = {"clients": kms.clients("us-east-1", "eu-west-1"), **options}
    return KMSECDHMasterKey.discovery(key_id, **connected(options))


class AroundClient:
    """A client of which `around(operation, parameters, call)` decides what becomes of each call."""

    def __init__(self, client: InMemoryKMSClient, around: Around) -> None:
        self._client = client
        self._around = around

    async def get_public_key(self, **parameters: Any) -> Any:
        return await self._around(
            "GetPublicKey", parameters, lambda: self._client.get_public_key(**parameters)
        )

    async def derive_shared_secret(self, **parameters: Any) -> Any:
        return await self._around(
            "DeriveSharedSecret", parameters, lambda: self._client.derive_shared_secret(**parameters)
        )


def around_clients(kms: InMemoryKMS, around: Around) -> Any:
    """Return such a client, for one region."""
    return {"us-east-1": AroundClient(kms.client("us-east-1"), around)}
