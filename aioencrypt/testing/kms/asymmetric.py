"""Key pairs of the in-memory KMS: the specs that are served, RSA-OAEP and ECDH."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import attrs
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

from aioencrypt.testing.kms.errors import Refusal
from aioencrypt.testing.kms.requests import invalid

SYMMETRIC_DEFAULT = "SYMMETRIC_DEFAULT"
ENCRYPT_DECRYPT = "ENCRYPT_DECRYPT"
KEY_AGREEMENT = "KEY_AGREEMENT"
ECDH = "ECDH"

KeyPair = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

_OAEP: dict[str, type[hashes.HashAlgorithm]] = {
    "RSAES_OAEP_SHA_1": hashes.SHA1,
    "RSAES_OAEP_SHA_256": hashes.SHA256,
}
ENCRYPTION_ALGORITHMS = (SYMMETRIC_DEFAULT, *_OAEP)


@attrs.frozen
class KeySpec:
    """What keys of one spec are for, and how their secret is made. `fits` tells key pairs of this spec."""

    name: str
    usage: str
    algorithms: tuple[str, ...]
    generate: Callable[[], bytes | KeyPair]
    fits: Callable[[object], bool]


def _rsa(bits: int) -> KeySpec:
    return KeySpec(
        f"RSA_{bits}",
        ENCRYPT_DECRYPT,
        tuple(_OAEP),
        partial(rsa.generate_private_key, public_exponent=65537, key_size=bits),
        lambda key: isinstance(key, rsa.RSAPrivateKey) and key.key_size == bits,
    )


def _curve(name: str, curve: ec.EllipticCurve) -> KeySpec:
    return KeySpec(
        name,
        KEY_AGREEMENT,
        (ECDH,),
        partial(ec.generate_private_key, curve),
        lambda key: isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == curve.name,
    )


KEY_SPECS: Mapping[str, KeySpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            KeySpec(
                SYMMETRIC_DEFAULT,
                ENCRYPT_DECRYPT,
                (SYMMETRIC_DEFAULT,),
                partial(os.urandom, 32),
                lambda key: False,
            ),
            *map(_rsa, (2048, 3072, 4096)),
            _curve("ECC_NIST_P256", ec.SECP256R1()),
            _curve("ECC_NIST_P384", ec.SECP384R1()),
            _curve("ECC_NIST_P521", ec.SECP521R1()),
        )
    }
)


def load_key_pair(private_key: KeyPair | bytes, spec: KeySpec) -> KeyPair:
    """Return a key pair of the caller, from PEM if need be; raises `ValueError` if it is of another spec."""
    key = load_pem_private_key(private_key, None) if isinstance(private_key, bytes) else private_key
    if not spec.fits(key) or not isinstance(key, KeyPair):
        raise ValueError(f"private_key is not a key of the key_spec {spec.name}")
    return key


def encrypt(key: rsa.RSAPrivateKey, algorithm: str, plaintext: bytes) -> bytes:
    """Encrypt with the public key; a refusal (ValidationException) for a plaintext that is too long."""
    longest = key.key_size // 8 - 2 * _OAEP[algorithm]().digest_size - 2
    if len(plaintext) > longest:
        raise Refusal(
            "ValidationException",
            f"Algorithm {algorithm} and key spec RSA_{key.key_size} cannot encrypt data larger than "
            f"{longest} bytes.",
        )
    return key.public_key().encrypt(plaintext, _oaep(algorithm))


def decrypt(key: rsa.RSAPrivateKey, algorithm: str, ciphertext: bytes) -> bytes:
    """Decrypt; a refusal (InvalidCiphertextException) for what does not open."""
    try:
        return key.decrypt(ciphertext, _oaep(algorithm))
    except ValueError:
        raise Refusal("InvalidCiphertextException", "") from None


def _oaep(algorithm: str) -> padding.OAEP:
    digest = _OAEP[algorithm]()
    return padding.OAEP(mgf=padding.MGF1(algorithm=digest), algorithm=digest, label=None)


def public_key(key: KeyPair) -> bytes:
    """Return the public half, a DER SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def shared_secret(key: ec.EllipticCurvePrivateKey, peer: bytes) -> bytes:
    """Return the x coordinate of the shared point; a refusal for a peer that is no key on the same curve."""
    try:
        other = load_der_public_key(peer)
    except (ValueError, UnsupportedAlgorithm):
        raise invalid("PublicKey", "Member must be a DER-encoded X.509 public key") from None
    if not isinstance(other, ec.EllipticCurvePublicKey) or other.curve.name != key.curve.name:
        raise invalid("PublicKey", "Member must be a key on the curve of the KMS key")
    return key.exchange(ec.ECDH(), other)
